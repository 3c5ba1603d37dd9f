"""Conversations of three turns on the real engine: how much of each prompt it had computed before.

Beside them the same turns with the passages in the last message only, dropped from the history:
what most playgrounds send. Same questions, same passages, same engine. One conversation was written
by hand; in the others a question of the collection is asked whole, then its first two thirds, then
its last two thirds, as people ask on about a part of what they asked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.main.figures import Result
from bench.rag.quality import ENGINE_SECONDS, documents, questions
from tests.running import Hearth, hearth, wait_until

BASE = "knowledge-bases/abstracts/"
WRITTEN = (
    "what is known of the flow in a boundary layer on a flat plate?",
    "how does the boundary layer on a flat plate change with suction?",
    "what did experiments with the boundary layer on a flat plate show?",
)
OTHERS = 9
"""Conversations about the collection's first even questions: retrieval was tuned on odd ones."""

ANSWER_TOKENS = 48

type Counts = list[tuple[int, int]]
"""(prompt, cached) tokens of each turn."""


def measure(folder: Path, cranfield: Path) -> list[Result]:
    """Start Hearth with SmolLM2, hold every conversation in both layouts, and compare."""
    conversations = [WRITTEN, *_follow_ups(cranfield)]
    with hearth(folder / "data", HEARTH_RUNTIME="process") as instance:
        instance.deploy("smollm2-135m-instruct", name="smol")
        _fill(instance, cranfield)
        instance.wait_for("smol", "ready", ENGINE_SECONDS)
        key = instance.key()
        found = [_both(instance, key, turns) for turns in conversations]
    result = Result(part="conversation", question="three turns on the real engine")
    share, fewer = _compared(
        [pair for ours, theirs in found for pair in zip(ours, theirs, strict=True)]
    )
    result.add("share of prompt tokens cached", share, "", at_least=0.60)
    result.add("fewer tokens to compute than context in last message", fewer, "", at_least=0.35)
    result.table = [
        ("begins with", "prompts", "cached", "share", "other layout", "cached", "fewer")
    ]
    result.table += [
        _row(turns[0], ours, theirs)
        for turns, (ours, theirs) in zip(conversations, found, strict=True)
    ]
    return [result]


def _follow_ups(cranfield: Path) -> list[tuple[str, str, str]]:
    even = [text for topic, text in questions(cranfield).items() if int(topic) % 2 == 0][:OTHERS]
    found = []
    for text in even:
        words = text.split()
        third = len(words) // 3
        found.append((text, " ".join(words[: len(words) - third]), " ".join(words[third:])))
    return found


def _compared(turns: list[tuple[tuple[int, int], tuple[int, int]]]) -> tuple[float, float]:
    """Return the share of our prompts that was cached, and how much less is left to compute."""
    prompt = sum(ours[0] for ours, _ in turns)
    cached = sum(ours[1] for ours, _ in turns)
    other = sum(theirs[0] - theirs[1] for _, theirs in turns)
    return cached / prompt, 1 - (prompt - cached) / other


def _row(question: str, ours: Counts, theirs: Counts) -> tuple[str, ...]:
    share, fewer = _compared(list(zip(ours, theirs, strict=True)))
    sums = [[sum(column) for column in zip(*counts, strict=True)] for counts in (ours, theirs)]
    (prompt, cached), (other, other_cached) = sums
    return (
        question[:40], str(prompt), str(cached), f"{share:.3f}", str(other), str(other_cached),
        f"{fewer:.3f}",
    )  # fmt: skip


def _both(instance: Hearth, key: str, turns: Sequence[str]) -> tuple[Counts, Counts]:
    ours, passages = _ours(instance, turns)
    return ours, _context_in_last_message(instance, key, turns, passages)


def _fill(instance: Hearth, cranfield: Path) -> None:
    order = {"name": "abstracts", "embedding_deployment": ""}
    assert instance.api("POST", "knowledge-bases/", json=order).status_code == 201
    body = "id,text\n" + "\n".join(
        f'{number},"{text.replace(chr(34), " ")}"' for number, text in documents(cranfield).items()
    )
    files = {"file": ("abstracts.csv", body.encode())}
    assert instance.api("POST", f"{BASE}documents/", files=files).status_code == 201

    def ready() -> bool:
        return bool(instance.api("GET", BASE).json()["documents_ready"] == 1)

    wait_until(ready, ENGINE_SECONDS, "the abstracts")


def _ours(instance: Hearth, turns: Sequence[str]) -> tuple[Counts, list[list[str]]]:
    """Return (prompt, cached) tokens of each turn, and the passages that each was given."""
    body = {"deployment": "smol", "top_k": 3, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    conversation, counts, passages = None, [], []
    for question in turns:
        order = {**body, "question": question, "conversation": conversation}
        response = instance.api("POST", f"{BASE}ask/", json=order, timeout=120)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        conversation = answer["conversation"]
        usage = answer["usage"]
        counts.append((usage["prompt_tokens"], usage["cached_tokens"] or 0))
        passages.append([hit["text"] for hit in answer["hits"]])
    return counts, passages


def _context_in_last_message(
    instance: Hearth, key: str, turns: Sequence[str], passages: list[list[str]]
) -> Counts:
    history: list[dict[str, str]] = [
        {"role": "system", "content": "Answer from the given context only, and cite it. " * 8}
    ]
    counts = []
    with instance.client(key) as client:
        for question, texts in zip(turns, passages, strict=True):
            context = "\n\n".join(texts)
            last = {"role": "user", "content": f"Context:\n{context}\n\nQuestion: {question}"}
            body = {"model": "smol", "messages": [*history, last], "max_tokens": ANSWER_TOKENS}
            answer = client.post("/v1/chat/completions", json={**body, "temperature": 0}).json()
            usage = answer["usage"]
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            counts.append((usage["prompt_tokens"], cached))
            said = answer["choices"][0]["message"]["content"]
            history += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": said},
            ]
    return counts
