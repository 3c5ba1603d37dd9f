"""Fill a knowledge base through the product's own ingestion, and search it. Django is set up.

The embedder is stood in for by `clustered`, which costs nearly nothing, so what is measured is what
Hearth itself adds to an embedder.
"""

import random
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy
import psutil
from django.core.files.uploadedfile import SimpleUploadedFile

from apps.accounts.models import User
from apps.rag import actions, embedding, ingest, queries
from apps.rag.embedding import Embedded, Embedder
from apps.rag.models import KnowledgeBase
from apps.rag.retrieval import Asked, search
from apps.rag.settings import Retrieval
from apps.rag.states import EmbedderKind

CLUSTERS = 200
DOCUMENT_CHUNKS = 2_500
WORDS = 120
REST_SECONDS = 60
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Search:
    cpu_ms: float
    milvus_ms: float
    wall_ms: float


@dataclass(frozen=True)
class Filled:
    """A knowledge base, and the ms that each of its chunks took."""

    base: KnowledgeBase
    worker_ms: float
    milvus_ms: float
    wall_ms: float


@dataclass(frozen=True)
class Searches:
    searches: list[Search]
    memory_mb: float


class Clustered:
    """Makes unit vectors that lie in clusters."""

    def __init__(self, dimension: int) -> None:
        self._dice = numpy.random.default_rng(3)
        self._centres = self._dice.normal(size=(CLUSTERS, dimension)).astype("float32")

    def vectors(self, count: int) -> list[array[float]]:
        picked = self._centres[self._dice.integers(0, CLUSTERS, count)]
        found = picked + 0.6 * self._dice.normal(size=picked.shape).astype("float32")
        found /= numpy.linalg.norm(found, axis=1, keepdims=True)
        return [array("f", row.astype("float32").tobytes()) for row in found]


def fill(size: int, text: Callable[[int], str], dimension: int, milvus: psutil.Process) -> Filled:
    """Return a knowledge base with `size` chunks; counts until Milvus has come to rest."""
    stand_in_for_embedder(dimension)
    user, base = _empty(size, text, dimension)
    cpu, wall, theirs = time.process_time(), time.monotonic(), cpu_seconds(milvus)
    while (document := ingest.take_next(datetime.now(UTC) + timedelta(days=1))) is not None:
        ingest.work_on(document, seconds=1e9)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    _wait_for_rest(milvus)
    theirs = cpu_seconds(milvus) - theirs
    base = queries.knowledge_base(user, "bench")
    chunks = queries.counts(base)["chunks"]
    print(f"{chunks} chunks", file=sys.stderr)
    assert chunks >= size * 0.8, queries.counts(base)
    return Filled(base, *(spent / chunks * 1000 for spent in (cpu, theirs, wall)))


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU that `process` took so far, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~process.pid << 3) | _CPUCLOCK_SCHED)


def _wait_for_rest(process: psutil.Process) -> None:
    """Wait until `process` has done nothing for two seconds: Milvus goes on when all is written."""
    pause = threading.Event()
    for _ in range(REST_SECONDS):
        before = cpu_seconds(process)
        pause.wait(2.0)
        if cpu_seconds(process) - before < 0.05:
            return
    raise TimeoutError("Milvus does not come to rest")


def stand_in_for_embedder(dimension: int) -> None:
    """Let vectors cost nearly nothing in this process."""
    made = Clustered(dimension)
    embedding.passages = lambda _build, texts, **_more: Embedded(
        vectors=made.vectors(len(texts)), tokens=len(texts)
    )
    embedding.token_counts = lambda _build, texts: [200] * len(texts)
    embedding.question = lambda _build, _text, **_more: made.vectors(1)[0]


def _empty(size: int, text: Callable[[int], str], dimension: int) -> tuple[User, KnowledgeBase]:
    """Return a knowledge base whose documents wait to be read."""
    user = User.objects.create(username="bench")
    now = datetime.now(UTC)
    base = actions.create(
        name="bench",
        description="",
        embedder=Embedder(kind=EmbedderKind.LOCAL, dimension=dimension, input_tokens=256),
        user=user,
        now=now,
    )
    for at in range(0, size, DOCUMENT_CHUNKS):
        parts = [f"{at + n} {text(WORDS)}" for n in range(min(DOCUMENT_CHUNKS, size - at))]
        body = "\n\n".join(parts).encode()
        file = SimpleUploadedFile(f"{at}.txt", body)
        actions.upload(base, name=file.name, file=file, metadata={}, user=user, now=now)
    return user, base


def searches(base: KnowledgeBase, questions: Sequence[str], milvus: psutil.Process) -> Searches:
    """Return what each search cost, the first few left out, and what a fresh process adds."""
    found = []
    for question in questions:
        asked = Asked(
            base=base,
            query=question,
            settings=Retrieval(top_k=10),
            profile="bench",
            key="",
            run=str(random.random()),
        )
        before, cpu, wall = cpu_seconds(milvus), time.process_time(), time.perf_counter()
        search(asked)
        own, took = time.process_time() - cpu, time.perf_counter() - wall
        theirs = cpu_seconds(milvus) - before
        found.append(Search((own + theirs) * 1000, theirs * 1000, took * 1000))
    return Searches(found[5:], _memory_of_a_search())


def _memory_of_a_search() -> float:
    """Return how many MB the first search adds to a process that has Django loaded."""
    code = (
        "import django, psutil; django.setup()\n"
        "from apps.rag import vectors\n"
        "from apps.rag import api\n"
        "import controlplane.urls\n"
        "me = psutil.Process(); before = me.memory_full_info().uss\n"
        "store = vectors.store(); name = store.collections()[0]\n"
        "[store.lexical(name, 'abc', 100, '') for _ in range(20)]\n"
        "print((me.memory_full_info().uss - before) / 1e6)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True
    )
    return float(answer.stdout)
