"""From a question to the passages that answer it, and why these: both legs, fusion, selection.

Load (both legs at once, then the rows from SQL) -> decide (`fusion`, `selection`) -> a `Trace` that
holds every rank, score and reason. Milvus only ranks: what is shown is read from SQL, where team,
build and deletion are checked again.
"""

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from apps.lib.problems import Problem
from apps.rag import (
    chunking,
    embedding,
    feedback,
    filters,
    fusion,
    queries,
    selection,
    served,
    vectors,
    words,
)
from apps.rag.embedding import WrongDimension
from apps.rag.fusion import Fused, Place
from apps.rag.models import Build, Chunk, KnowledgeBase
from apps.rag.queries import ChunkSize
from apps.rag.selection import Candidate
from apps.rag.served import ServedAway, ServedRefused
from apps.rag.settings import Retrieval
from apps.rag.states import EmbedderKind
from apps.rag.vectors import Found, NoSuchCollection, VectorsAway, VectorsRefused

MMR_AMONG = 50
FEEDBACK_AMONG = 30
LONGEST_QUERY_CHARACTERS = 8_000
"""Of a question; a longer one is no question, and no embedder reads it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One retrieval."""

    base: KnowledgeBase
    query: str
    settings: Retrieval
    profile: str
    key: str
    """Secret of the internal key on which deployments are called."""
    run: str
    """Id of the run: parent of every call that it makes."""
    conditions: Sequence[Mapping[str, Any]] = ()
    pinned: Sequence[int] = ()
    build: Build | None = None
    """None: the one that answers now."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One passage, best first, with everything that put it there."""

    rank: int
    chunk: Chunk
    fused: Fused
    fused_rank: int
    matched: list[str]
    rerank: Place | None


@dataclass(kw_only=True)
class Trace:
    """What was found, how long each stage took, and what is worth knowing."""

    asked: Asked
    build: Build
    hits: list[Hit] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    pinned: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    added_words: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage in seconds."""
        begun = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - begun


@dataclass(kw_only=True)
class _Legs:
    dense: dict[int, Place] = field(default_factory=dict)
    lexical: dict[int, Place] = field(default_factory=dict)


def search(asked: Asked) -> Trace:
    """Return the hits of `asked`. Raises Problem 400, 409 or 503 with what to do."""
    begun = time.perf_counter()
    build = asked.build or asked.base.live_build
    if build is None:
        raise Problem(409, "no_index", f"{asked.base.slug} has no index yet.")
    trace = Trace(asked=asked, build=build)
    where = _where(asked.conditions)
    if build.collection_made:
        try:
            legs = _search_legs(trace, where)
        except VectorsAway as error:
            raise vectors.away(error) from error
        except VectorsRefused as error:
            raise Problem(502, "vectors_refused", f"Milvus refused the search: {error}") from error
        _rank(trace, legs, where)
    else:
        trace.notices.append("No document is ready yet.")
    trace.timings["total"] = time.perf_counter() - begun
    return trace


def _where(conditions: Sequence[Mapping[str, Any]]) -> str:
    try:
        return filters.expression(conditions)
    except filters.WrongFilter as error:
        raise Problem(400, "invalid", str(error), extra={"field": "filters"}) from error


def _search_legs(trace: Trace, where: str) -> _Legs:
    """Ask both legs at once; a leg that cannot be asked is told, not guessed."""
    settings, build = trace.asked.settings, trace.build
    wants_dense = settings.mode != "lexical" and _has_vectors(trace)
    wants_lexical = settings.mode != "dense" and _has_words(trace)
    store = vectors.store()
    waiting: Future[list[Found]] | None = None
    if wants_lexical:
        stems = _question_words(trace.asked.query)
        waiting = _threads().submit(_lexical, trace, store, stems, where)
    legs = _Legs()
    vector = _question_vector(trace) if wants_dense else None
    if vector is not None:
        with trace.stage("dense"):
            found = _or_nothing(
                lambda: store.dense(build.collection, vector, settings.candidates, where)
            )
        legs.dense = fusion.places([(hit.id, hit.score) for hit in found])
    if waiting is not None:
        legs.lexical = fusion.places([(hit.id, hit.score) for hit in waiting.result()])
    if settings.feedback_words or settings.feedback_vectors:
        with trace.stage("feedback"):
            _feed_back(trace, legs, vector, where)
    return legs


def _feed_back(trace: Trace, legs: _Legs, vector: array[float] | None, where: str) -> None:
    """Ask each leg again, with what the best passages of both have."""
    settings = trace.asked.settings
    order = [one.id for one in _fused(settings, legs)[:FEEDBACK_AMONG]]
    if settings.feedback_vectors and vector is not None and order:
        legs.dense = _fed_vectors(trace, order[: settings.feedback_vectors], vector, where)
    if settings.feedback_words and legs.lexical:
        legs.lexical = _fed_words(trace, order, where)


def _fed_vectors(
    trace: Trace, first: list[int], vector: array[float], where: str
) -> dict[int, Place]:
    """Return the vectors' leg again, for the question moved towards its best passages."""
    store, collection = vectors.store(), trace.build.collection
    known = store.vectors(collection, first)
    nearer = feedback.moved(vector, [known[chunk] for chunk in first if chunk in known])
    found = store.dense(collection, nearer, trace.asked.settings.candidates, where)
    return fusion.places([(hit.id, hit.score) for hit in found])


def _fed_words(trace: Trace, order: list[int], where: str) -> dict[int, Place]:
    """Return the words' leg again, for the question with words of its best passages."""
    settings, build = trace.asked.settings, trace.build
    rows = queries.chunks(trace.asked.base, build, order)
    passages = [words.stems(rows[chunk].text) for chunk in order if chunk in rows]
    question = words.stems(trace.asked.query)[:100]
    stems = feedback.expanded(question, passages, settings.feedback_words)
    trace.added_words = [stem for stem in stems if stem not in question]
    found = vectors.store().lexical(build.collection, " ".join(stems), settings.candidates, where)
    return fusion.places([(hit.id, hit.score) for hit in found])


def _lexical(trace: Trace, store: vectors.Store, stems: str, where: str) -> list[Found]:
    if not stems:
        return []
    limit, collection = trace.asked.settings.candidates, trace.build.collection
    with trace.stage("lexical"):
        return _or_nothing(lambda: store.lexical(collection, stems, limit, where))


def _or_nothing(call: Any) -> list[Found]:  # noqa: ANN401 - a closure over one leg
    try:
        found: list[Found] = call()
    except NoSuchCollection:
        raise VectorsRefused("its collection is gone; a rebuild is needed.") from None
    return found


def _has_vectors(trace: Trace) -> bool:
    if trace.build.embedder != EmbedderKind.NONE:
        return True
    told = "This knowledge base has no embedder: words only (BM25)."
    if trace.asked.settings.mode == "dense":
        raise Problem(409, "keyword_only", f"{told} Build an index with an embedding deployment.")
    trace.notices.append(told)
    return False


def _has_words(trace: Trace) -> bool:
    if trace.build.lexical:
        return True
    told = "This Milvus has no BM25: vectors only."
    if trace.asked.settings.mode == "lexical":
        raise Problem(409, "dense_only", told)
    trace.notices.append(told)
    return False


def _question_vector(trace: Trace) -> array[float] | None:
    """Return the question's vector; without it a hybrid search goes on by words, and says so."""
    asked = trace.asked
    try:
        with trace.stage("embed"):
            return embedding.question(trace.build, asked.query, key=asked.key, parent=asked.run)
    except WrongDimension as error:
        raise Problem(409, "dimension_mismatch", str(error)) from error
    except (ServedAway, ServedRefused) as error:
        if asked.settings.mode == "dense" or not trace.build.lexical:
            raise (
                served.away(error) if isinstance(error, ServedAway) else served.refused(error)
            ) from error
        trace.notices.append(f"Words only, because the embedder did not answer: {error}")
        return None


def _question_words(query: str) -> str:
    return " ".join(words.stems(query)[:400])


def _rank(trace: Trace, legs: _Legs, where: str) -> None:
    settings = trace.asked.settings
    with trace.stage("fuse"):
        fused = _fused(settings, legs)
    with trace.stage("sql"):
        sizes = queries.chunk_sizes(trace.asked.base, trace.build, [one.id for one in fused])
    places = {one.id: (rank, one) for rank, one in enumerate(fused, 1)}
    order = [_candidate(one, sizes[one.id]) for one in fused if one.id in sizes]
    if settings.mmr is not None and legs.dense:
        with trace.stage("mmr"):
            order = _diversified(trace, order, settings.mmr)
    reranked: dict[int, Place] = {}
    if settings.rerank_deployment:
        with trace.stage("rerank"):
            order, reranked = _reranked(trace, order)
    with trace.stage("select"):
        chosen = selection.choose(order, top_k=settings.top_k, token_budget=settings.token_budget)
        rows = queries.chunks(trace.asked.base, trace.build, chosen.ids)
        trace.hits = [
            Hit(
                rank=rank,
                chunk=rows[chunk],
                fused=places[chunk][1],
                fused_rank=places[chunk][0],
                matched=words.matched(
                    # BM25 found it by these: its heading's words are among them.
                    chunking.in_context(rows[chunk].heading, rows[chunk].text),
                    trace.asked.query,
                ),
                rerank=reranked.get(chunk),
            )
            for rank, chunk in enumerate((one for one in chosen.ids if one in rows), 1)
        ]
        trace.left_out = dict(chosen.left_out)
    _explain_pinned(trace, where)


def _fused(settings: Retrieval, legs: _Legs) -> list[Fused]:
    weight = {"dense": 1.0, "lexical": 0.0}.get(settings.mode, settings.dense_weight)
    if settings.fusion == "min-max":
        return fusion.min_max(legs.dense, legs.lexical, dense_weight=weight)
    return fusion.reciprocal(legs.dense, legs.lexical, k=settings.rrf_k, dense_weight=weight)


def _candidate(fused: Fused, size: ChunkSize) -> Candidate:
    return Candidate(id=fused.id, score=fused.score, sha256=size.sha256, tokens=size.tokens)


def _diversified(trace: Trace, order: list[Candidate], balance: float) -> list[Candidate]:
    ids = [one.id for one in order[:MMR_AMONG]]
    found = vectors.store().vectors(trace.build.collection, ids)
    return selection.diversify(order, found, balance=balance, among=MMR_AMONG)


def _reranked(trace: Trace, order: list[Candidate]) -> tuple[list[Candidate], dict[int, Place]]:
    """Return the order after the reranker, and where it put each chunk that it read."""
    settings = trace.asked.settings
    head, rest = order[: settings.rerank_candidates], order[settings.rerank_candidates :]
    if not head:
        return order, {}
    rows = queries.chunks(trace.asked.base, trace.build, [one.id for one in head])
    head = [one for one in head if one.id in rows]
    try:
        scores = served.rerank(
            settings.rerank_deployment,
            trace.asked.query,
            [rows[one.id].text for one in head],
            key=trace.asked.key,
            parent=trace.asked.run,
        )
    except (ServedAway, ServedRefused) as error:
        trace.notices.append(f"Not reranked: {error}")
        return order, {}
    by_score = sorted(zip(head, scores, strict=True), key=lambda pair: -pair[1])
    places = {one.id: Place(rank, score) for rank, (one, score) in enumerate(by_score, 1)}
    return [*(one for one, _ in by_score), *rest], places


def _explain_pinned(trace: Trace, where: str) -> None:
    shown = {hit.chunk.pk: hit.rank for hit in trace.hits}
    for chunk in trace.asked.pinned:
        if chunk in shown:
            trace.pinned.append({"chunk": chunk, "rank": shown[chunk], "why_not": ""})
            continue
        known = queries.chunks(trace.asked.base, trace.build, [chunk]).get(chunk)
        reason = selection.why_not(
            chunk,
            left_out=trace.left_out,
            is_live=known is not None,
            passes=lambda row=known: _passes(trace, row, where),  # type: ignore[misc]
            depth=trace.asked.settings.candidates,
        )
        trace.pinned.append({"chunk": chunk, "rank": None, "why_not": reason})


def _passes(trace: Trace, chunk: Chunk | None, where: str) -> bool:
    if chunk is None or not where:
        return True
    return vectors.store().passes(trace.build.collection, chunk.pk, where)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="lexical")
