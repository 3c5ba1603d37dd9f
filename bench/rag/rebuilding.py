"""Another index of a knowledge base while questions run: none may fail, none may mix two builds.

`measure` does it to 10,000 chunks on a whole Hearth. What embeds is the simulator, which makes
vectors of hashed words in no time: measured is what happens around the embedder, not the embedder.
"""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.main.figures import Result, median
from bench.rag.words import Words
from tests.running import Hearth, hearth, wait_until

BASE = "knowledge-bases/large/"
CHUNKS, DOCUMENTS = 10_000, 4
CHUNK_WORDS = 120
INSTANT = {
    "kind": "simulator",
    "simulator": {"prefill_tokens_per_second": 1e7, "load_seconds": 0.1},
}
READY_SECONDS = 1800.0
ASKERS = 2
PAUSE_SECONDS = 0.3
AFTERWARDS_SECONDS = 3.0


@dataclass
class Seen:
    """What the askers saw; they append, nobody else writes."""

    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    """Answers with a chunk of another build, or of an older build than the one before."""
    builds: set[int] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)


def measure(folder: Path) -> list[Result]:
    """Fill a Hearth, build it again with other cuts while questions run, and say what they saw."""
    with hearth(folder / "data", HEARTH_ENGINE="simulator", HEARTH_RUNTIME="process") as instance:
        instance.deploy("all-minilm-l6-v2", name="minilm", engine=INSTANT)
        instance.wait_for("minilm", "ready", 120.0)
        _fill(instance)
        order = {"embedding_deployment": "minilm", "flip_when_ready": True}
        words = Words(7)
        return [rebuild(instance, BASE, order, [words.text(4) for _ in range(100)])]


def _fill(instance: Hearth) -> None:
    order = {"name": "large", "embedding_deployment": "minilm"}
    assert instance.api("POST", "knowledge-bases/", json=order).status_code == 201
    words = Words(7)
    for document in range(DOCUMENTS):
        parts = [f"{n} {words.text(CHUNK_WORDS)}" for n in range(CHUNKS // DOCUMENTS)]
        files = {"file": (f"{document}.txt", "\n\n".join(parts).encode())}
        assert instance.api("POST", f"{BASE}documents/", files=files).status_code == 201

    def ready() -> bool:
        return bool(instance.api("GET", BASE).json()["documents_ready"] == DOCUMENTS)

    wait_until(ready, READY_SECONDS, "the documents")


def rebuild(
    instance: Hearth, base: str, order: Mapping[str, Any], questions: Sequence[str]
) -> Result:
    """Order another build of `base`; ask until it has answered for a while, and count."""
    seen, over = Seen(), threading.Event()
    ask = _asker(instance, base, questions, seen, over)
    threads = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for thread in threads:
        thread.start()
    try:
        made = instance.api("POST", f"{base}builds/", json=dict(order))
        assert made.status_code == 201, made.text
        begun, number = time.monotonic(), made.json()["number"]

        def flipped() -> bool:
            return bool(instance.api("GET", base).json()["live_build"]["number"] == number)

        wait_until(flipped, READY_SECONDS, "the flip")
        took = time.monotonic() - begun
        over.wait(AFTERWARDS_SECONDS)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    chunks = instance.api("GET", base).json()["chunks"]
    result = Result(part="rebuild", question="another index while questions run")
    result.add("chunks embedded again", chunks, "")
    result.add("questions asked meanwhile", len(seen.seconds), "", at_least=20)
    result.add("questions that failed", len(seen.failed), "", at_most=0)
    result.add("answers from two builds, or back to the old one", len(seen.mixed), "", at_most=0)
    result.add("builds that answered", len(seen.builds), "", at_least=2)
    result.add("an answer, wall p50", median(seen.seconds) * 1000, "ms")
    result.add("until the flip", took, "s")
    if seen.failed or seen.mixed:
        result.table = [("what went wrong",), *((text,) for text in (seen.failed + seen.mixed)[:5])]
    return result


def _asker(
    instance: Hearth, base: str, questions: Sequence[str], seen: Seen, over: threading.Event
) -> Callable[[], None]:
    """Return what one thread does: ask in turn, and hold each answer to the one before."""
    least: dict[int, int] = {}
    most: dict[int, int] = {}
    lock = threading.Lock()

    def ask() -> None:
        last = 0
        for question in itertools.cycle(questions):
            begun = time.monotonic()
            answer = instance.api("POST", f"{base}search/", json={"query": question})
            body = answer.json() if answer.status_code == 200 else {}
            with lock:
                seen.seconds.append(time.monotonic() - begun)
                if not body.get("hits"):
                    seen.failed.append(f"{answer.status_code} {answer.text[:200]}")
                    continue
                build, ids = body["build"], [hit["chunk"] for hit in body["hits"]]
                seen.builds.add(build)
                least[build] = min(least.get(build, min(ids)), *ids)
                most[build] = max(most.get(build, max(ids)), *ids)
                # Each build has chunks of its own, made after all of the build before.
                if build < last or any(most[b] >= least[build] for b in most if b < build):
                    seen.mixed.append(f"{build} after {last}: {ids}")
            last = build
            if over.wait(PAUSE_SECONDS):
                return

    return ask
