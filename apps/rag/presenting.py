"""Rows of knowledge bases as the API shows them; plain values only."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.rag import queries
from apps.rag.fusion import Place
from apps.rag.models import Build, Chunk, Document, Indexing, KnowledgeBase, Profile
from apps.rag.retrieval import Hit, Trace
from apps.rag.settings import DEFAULTS_NAME
from apps.rag.states import EmbedderKind


def base_row(base: KnowledgeBase) -> dict[str, Any]:
    """Return a knowledge base with what its live index holds."""
    return base_rows([base])[0]


def base_rows(bases: Sequence[KnowledgeBase]) -> list[dict[str, Any]]:
    """Return knowledge bases with what their live indexes hold; two queries for all."""
    counts = queries.counts(bases)
    return [_base_row(base, counts[base.pk]) for base in bases]


def _base_row(base: KnowledgeBase, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": str(base.uid),
        "name": base.name,
        "slug": base.slug,
        "description": base.description,
        "embedding_deployment": base.embedding_deployment,
        "team": base.team,
        "owner": base.owner.username if base.owner else "",
        "profile": str(base.profile) if base.profile else DEFAULTS_NAME,
        "live_build": build_row(base.live_build) if base.live_build else None,
        "notice": notice(base.live_build),
        "created_at": base.created_at,
        **counts,
    }


def notice(build: Build | None) -> str:
    """Return what is plainly to be said of the index; empty if it has both legs."""
    if build is None:
        return "There is no index."
    if build.embedder == EmbedderKind.NONE:
        return (
            "Keyword search only: no embedding model is served. Deploy one "
            "(all-minilm-l6-v2 runs on any CPU) and build a new index."
        )
    if not build.lexical:
        return "Vector search only: this Milvus has no BM25."
    return ""


def build_row(build: Build) -> dict[str, Any]:
    """Return one index build."""
    return {
        "number": build.number,
        "state": build.state,
        "embedder": build.embedder,
        "embedding_deployment": build.embedding_deployment,
        "embedding_model": build.embedding_model,
        "dimension": build.dimension,
        "input_tokens": build.input_tokens,
        "chunk_characters": build.chunk_characters,
        "overlap_characters": build.overlap_characters,
        "collection": build.collection,
        "lexical": build.lexical,
        "reason": build.reason,
        "flip_when_ready": build.flip_when_ready,
        "created_at": build.created_at,
        "live_at": build.live_at,
    }


def document_rows(base: KnowledgeBase, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return documents with how far they are in the live index; one query for all."""
    known: dict[int, Indexing] = {}
    if base.live_build is not None:
        rows = Indexing.objects.filter(build=base.live_build, document__in=documents)
        known = {row.document_id: row for row in rows}
    return [_document_row(one, known.get(one.pk)) for one in documents]


def _document_row(document: Document, indexing: Indexing | None) -> dict[str, Any]:
    total = indexing.chunks_total if indexing else None
    done = indexing.chunks_done if indexing else 0
    return {
        "id": str(document.uid),
        "name": document.name,
        "state": document.state,
        "reason": document.reason,
        "code": document.code,
        "progress": {
            "chunks_done": done,
            "chunks_total": total,
            "ratio": round(done / total, 4) if total else None,
        },
        "kind": document.kind,
        "size_bytes": document.size_bytes,
        "pages": document.pages,
        "characters": document.characters,
        "chunks": total or 0,
        "tokens": indexing.tokens if indexing else 0,
        "metadata": document.metadata,
        "flags": document.flags,
        "sha256": document.sha256,
        "uploaded_by": document.uploaded_by,
        "created_at": document.created_at,
        "changed_at": document.changed_at,
    }


def profile_row(profile: Profile) -> dict[str, Any]:
    """Return one profile version."""
    return {
        "name": profile.name,
        "version": profile.version,
        "settings": profile.settings,
        "created_by": profile.created_by,
        "created_at": profile.created_at,
    }


def chunk_row(chunk: Chunk) -> dict[str, Any]:
    """Return a chunk with its exact place."""
    return {
        "chunk": chunk.pk,
        "document": chunk.document.name,
        "document_id": str(chunk.document.uid),
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "heading": chunk.heading,
        "tokens": chunk.tokens,
        "tokens_exact": chunk.tokens_exact,
        "flags": _flags(chunk),
    }


def _flags(chunk: Chunk) -> list[str]:
    """Return what is to be known of a chunk and of its document, each word once."""
    return list(dict.fromkeys([*chunk.flags, *(flag["kind"] for flag in chunk.document.flags)]))


def place_row(place: Place | None) -> dict[str, Any] | None:
    """Return a leg's rank and score, None where the leg did not have it."""
    return None if place is None else {"rank": place.rank, "score": place.score}


def hit_row(hit: Hit) -> dict[str, Any]:
    """Return one hit with everything that put it there."""
    moved = None
    if hit.rerank is not None:
        moved = {
            "rank": hit.rerank.rank,
            "score": hit.rerank.score,
            "moved": hit.fused_rank - hit.rerank.rank,
        }
    return {
        "rank": hit.rank,
        **chunk_row(hit.chunk),
        "dense": place_row(hit.fused.dense),
        "lexical": place_row(hit.fused.lexical),
        "fused": {
            "rank": hit.fused_rank,
            "score": hit.fused.score,
            "dense_share": hit.fused.dense_share,
        },
        "rerank": moved,
        "matched_terms": hit.matched,
    }


def trace_row(trace: Trace) -> dict[str, Any]:
    """Return a whole retrieval."""
    return {
        "run": trace.asked.run,
        "query": trace.asked.query,
        "profile": trace.asked.profile,
        "build": trace.build.number,
        "hits": [hit_row(hit) for hit in trace.hits],
        "left_out": [
            {"chunk": chunk, "why_not": reason} for chunk, reason in trace.left_out.items()
        ][:100],
        "pinned": trace.pinned,
        "added_words": trace.added_words,
        "notices": trace.notices,
        "timings": {f"{name}_seconds": value for name, value in trace.timings.items()},
    }
