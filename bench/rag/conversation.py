"""Three turns on the real engine: how much of each prompt it had computed before.

Beside it the same three turns with the passages in the last message only, dropped from the history:
what most playgrounds send. Same questions, same passages, same engine, which starts with an empty
cache for each layout because the two have different instructions.
"""

from pathlib import Path
from typing import Any

from bench.main.figures import Result
from bench.rag.quality import ENGINE_SECONDS, documents
from tests.running import Hearth, hearth, wait_until

BASE = "knowledge-bases/abstracts/"
DOCUMENTS = 150
TURNS = (
    "what is known of the flow in a boundary layer on a flat plate?",
    "how does the boundary layer on a flat plate change with suction?",
    "what did experiments with the boundary layer on a flat plate show?",
)
ANSWER_TOKENS = 48


def measure(folder: Path, cranfield: Path) -> list[Result]:
    """Start Hearth with SmolLM2, ask three turns in both layouts, and compare."""
    with hearth(folder / "data", HEARTH_RUNTIME="process") as instance:
        instance.deploy("smollm2-135m-instruct", name="smol")
        _fill(instance, cranfield)
        instance.wait_for("smol", "ready", ENGINE_SECONDS)
        key = instance.key()
        ours, passages = _ours(instance)
        theirs = _context_in_last_message(instance, key, passages)
    result = Result(part="conversation", question="three turns on the real engine")
    prompt, cached = sum(p for p, _ in ours), sum(c for _, c in ours)
    result.add("share of prompt tokens cached", cached / prompt, "", at_least=0.60)
    other = sum(p - c for p, c in theirs)
    fewer = 1 - (prompt - cached) / other
    result.add("fewer tokens to compute than context in last message", fewer, "", at_least=0.35)
    result.table = [("turn", "prompt", "cached", "other layout: prompt", "cached")]
    result.table += [
        (str(turn), str(p), str(c), str(q), str(d))
        for turn, ((p, c), (q, d)) in enumerate(zip(ours, theirs, strict=True), 1)
    ]
    return [result]


def _fill(instance: Hearth, cranfield: Path) -> None:
    order = {"name": "abstracts", "embedding_deployment": ""}
    assert instance.api("POST", "knowledge-bases/", json=order).status_code == 201
    rows = list(documents(cranfield).values())[:DOCUMENTS]
    body = "id,text\n" + "\n".join(
        f'{number},"{text.replace(chr(34), " ")}"' for number, text in enumerate(rows, 1)
    )
    files = {"file": ("abstracts.csv", body.encode())}
    assert instance.api("POST", f"{BASE}documents/", files=files).status_code == 201

    def ready() -> bool:
        return bool(instance.api("GET", BASE).json()["documents_ready"] == 1)

    wait_until(ready, ENGINE_SECONDS, "the abstracts")


def _ours(instance: Hearth) -> tuple[list[tuple[int, int]], list[list[str]]]:
    """Return (prompt, cached) tokens of each turn, and the passages that each was given."""
    body = {"deployment": "smol", "top_k": 3, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    conversation, counts, passages = None, [], []
    for question in TURNS:
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
    instance: Hearth, key: str, passages: list[list[str]]
) -> list[tuple[int, int]]:
    history: list[dict[str, str]] = [
        {"role": "system", "content": "Answer from the given context only, and cite it. " * 8}
    ]
    counts = []
    with instance.client(key) as client:
        for question, texts in zip(TURNS, passages, strict=True):
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
