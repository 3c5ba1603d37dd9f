"""One document on its way into every index that takes it. Safe to stop and to repeat at any point.

A worker holds a document by a lease. What is done is written down per chunk (`Chunk.stored`, set
after Milvus has acknowledged), so the next worker goes on where the last one was. Writing a chunk
again replaces it: its id is its primary key in Milvus. At the end the rows in Milvus are counted
against SQL. What somebody must mend fails the document; what passes by itself (Milvus or the
embedder away) only puts it off. Called by `tasks`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from apps.lib import clock
from apps.rag import actions, chunking, cleaning, embedding, files, queries, vectors, words
from apps.rag.chunking import Piece
from apps.rag.embedding import WrongDimension
from apps.rag.models import Build, Chunk, Document, Indexing, KnowledgeBase
from apps.rag.parsing.reader import Unreadable, reader
from apps.rag.served import ANSWER_SECONDS, ServedAway, ServedRefused
from apps.rag.states import BuildState, DocumentState
from apps.rag.vectors import NoSuchCollection, Row, VectorsAway, VectorsRefused

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=180)
"""Longer than one step: reading a file, or one batch on a deployment that has to wake."""
PUT_OFF = timedelta(seconds=10)
COUNT_BATCH = 64
"""Passages whose tokens are counted in one call."""
MOST_ATTEMPTS = 5
"""Of a document whose worker died each time."""
MOST_CHUNKS = 100_000


TELL_SECONDS = 0.5
"""Open pages hear of a knowledge base no more often: telling costs more than a small document."""
_told_at: dict[int, float] = {}
_untold: dict[int, KnowledgeBase] = {}


class Failed(Exception):
    """A person must mend this document; `code` is a stable word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Work:
    """One document in this worker's hands."""

    document: Document
    is_over: Callable[[], bool]
    """True when the worker should turn to something else."""


def take_next(now: datetime) -> Document | None:
    """Return a document that nobody holds, now held by this worker; None if there is none."""
    for document in queries.waiting(now)[:8]:
        mine = Document.objects.filter(
            Q(lease_until__isnull=True) | Q(lease_until__lt=now),
            pk=document.pk,
        ).update(lease_until=now + LEASE, attempts=F("attempts") + 1)
        if mine:
            document.attempts += 1
            return document
    return None


def work_on(document: Document, *, seconds: float) -> None:
    """Bring `document` forward for about `seconds` and write how it went."""
    end = time.monotonic() + seconds
    work = Work(document=document, is_over=lambda: time.monotonic() > end)
    try:
        if document.attempts > MOST_ATTEMPTS:
            raise Failed("worker_lost", "its worker died each time; retry it, or split it.")
        _go_on(work)
    except (VectorsAway, ServedAway) as error:
        _put_off(document, str(error))
    except (Failed, Unreadable) as error:
        _fail(document, error.code, str(error))
    except WrongDimension as error:
        _fail(document, "dimension_mismatch", str(error))
    except ServedRefused as error:
        _fail(document, "embedder_refused", str(error))
    except VectorsRefused as error:
        _fail(document, "vectors_refused", str(error))
    except FileNotFoundError:
        _fail(document, "file_lost", "its file is gone from the store; upload it again.")


def tell_rest() -> None:
    """Tell the open pages what they have not heard yet; call it after the last document."""
    while _untold:
        _, base = _untold.popitem()
        actions.changed(base)


def _tell(base: KnowledgeBase) -> None:
    """Tell the open pages of `base` that something is another now, or have `tell_rest` do it."""
    now = time.monotonic()
    if now - _told_at.get(base.pk, float("-inf")) < TELL_SECONDS:
        _untold[base.pk] = base
        return
    _told_at[base.pk] = now
    _untold.pop(base.pk, None)
    actions.changed(base)


def _go_on(work: Work) -> None:
    document = work.document
    if not document.parsed:
        _parse(document)
    if document.state != DocumentState.READY:
        _move(document, DocumentState.EMBEDDING)
    for indexing in _open_indexings(document):
        if not _index(work, indexing):
            _release(document)
            return
    _finish(document)


def _parse(document: Document) -> None:
    _move(document, DocumentState.PARSING)
    with files.original(document) as file:
        pages, flags = reader.read(file, document.kind)
    text = cleaning.clean(pages, flags)
    if not text.text:
        raise Failed("no_text", "there is no text in it.")
    files.keep_text(document, text)
    document.parsed, document.characters = True, len(text.text)
    document.pages = len(pages) if document.kind == "pdf" else None
    document.flags = [*document.flags, *text.flags]
    document.save(update_fields=["parsed", "characters", "pages", "flags"])


def _open_indexings(document: Document) -> list[Indexing]:
    rows = Indexing.objects.filter(
        document=document,
        done=False,
        build__state__in=(BuildState.LIVE, BuildState.BUILDING, BuildState.READY),
    ).select_related("build", "build__knowledge_base", "build__knowledge_base__owner")
    return sorted(rows, key=lambda row: (row.build.state != BuildState.LIVE, row.build_id))


def _index(work: Work, indexing: Indexing) -> bool:
    """Bring the document into one build; return whether it is all there."""
    build, document = indexing.build, work.document
    if indexing.chunks_total is None:
        _cut(document, indexing)
    while batch := _unstored(document, build):
        if work.is_over():
            return False
        _store(document, indexing, batch)
    if not _is_complete(document, build):
        # Milvus lost rows that it had acknowledged, or holds more than these: once more, all.
        vectors.store().delete_document(build.collection, document.pk)
        Chunk.objects.filter(document=document, build=build).update(stored=False)
        Indexing.objects.filter(pk=indexing.pk).update(chunks_done=0, tokens=0)
        return False
    Indexing.objects.filter(pk=indexing.pk).update(done=True)
    return True


def _cut(document: Document, indexing: Indexing) -> None:
    build = indexing.build
    text, pages = files.text(document)
    pieces = chunking.cut(
        text,
        kind="markdown" if document.kind in ("docx", "html") else document.kind,
        pages=pages,
        characters=build.chunk_characters,
        overlap=build.overlap_characters,
    )
    counted = _counted(build, pieces)
    if not counted:
        raise Failed("no_text", "there is no text in it that could be searched.")
    if len(counted) > MOST_CHUNKS:
        raise Failed("too_long", f"it has {len(counted):,} chunks; at most {MOST_CHUNKS:,}.")
    with transaction.atomic():
        Chunk.objects.filter(document=document, build=build).delete()
        Chunk.objects.bulk_create(
            (_chunk(document, build, at, *row) for at, row in enumerate(counted)), batch_size=500
        )
        indexing.chunks_total = len(counted)
        Indexing.objects.filter(pk=indexing.pk).update(
            chunks_total=len(counted), chunks_done=0, tokens=0
        )
    _tell(document.knowledge_base)


def _counted(build: Build, pieces: Sequence[Piece]) -> list[tuple[Piece, int, bool]]:
    """Return the pieces with (tokens, exact); a piece that the embedder would cut is halved."""
    done: list[tuple[Piece, int, bool]] = []
    waiting = list(pieces)
    while waiting:
        batch, waiting = waiting[:COUNT_BATCH], waiting[COUNT_BATCH:]
        texts = [chunking.in_context(piece.heading, piece.text) for piece in batch]
        counts = embedding.token_counts(build, texts)
        again: list[Piece] = []
        for at, piece in enumerate(batch):
            tokens = counts[at] if counts else chunking.estimated_tokens(texts[at])
            limit = build.input_tokens
            if counts and limit is not None and tokens > limit and len(piece.text) > 40:
                again += chunking.halves(piece)
            else:
                done.append((piece, tokens, counts is not None))
        waiting = [*again, *waiting]
    return sorted(done, key=lambda row: (row[0].start, row[0].end))


def _chunk(
    document: Document, build: Build, at: int, piece: Piece, tokens: int, exact: bool
) -> Chunk:
    return Chunk(
        build=build,
        document=document,
        ordinal=at,
        text=piece.text,
        start=piece.start,
        end=piece.end,
        heading=piece.heading,
        page=piece.page,
        tokens=tokens,
        tokens_exact=exact,
        sha256=piece.sha256,
        flags=list(piece.flags),
    )


def _unstored(document: Document, build: Build) -> list[Chunk]:
    rows = Chunk.objects.filter(document=document, build=build, stored=False)
    return list(rows.order_by("ordinal")[: embedding.BATCH_TEXTS])


def _store(document: Document, indexing: Indexing, batch: Sequence[Chunk]) -> None:
    build = indexing.build
    texts = [chunking.in_context(chunk.heading, chunk.text) for chunk in batch]
    embedded = embedding.passages(build, texts, seconds=ANSWER_SECONDS)
    if embedded and build.dimension is None:
        build.dimension = len(embedded.vectors[0])
        Build.objects.filter(pk=build.pk).update(dimension=build.dimension)
    _ensure_collection(build)
    meta = _meta(document)
    rows = [
        Row(
            id=chunk.pk,
            document=document.pk,
            words=" ".join(words.stems(texts[at])),
            meta={**meta, "page": chunk.page} if chunk.page is not None else meta,
            vector=embedded.vectors[at] if embedded else None,
        )
        for at, chunk in enumerate(batch)
    ]
    try:
        vectors.store().upsert(build.collection, rows)
    except NoSuchCollection:
        _forget_collection(build)
        raise VectorsAway("its collection was gone; it is filled again.") from None
    with transaction.atomic():
        Chunk.objects.filter(pk__in=[chunk.pk for chunk in batch]).update(stored=True)
        Indexing.objects.filter(pk=indexing.pk).update(
            chunks_done=F("chunks_done") + len(batch),
            tokens=F("tokens") + (embedded.tokens if embedded else 0),
        )
        Document.objects.filter(pk=document.pk).update(
            lease_until=clock.now() + LEASE, attempts=1, reason=""
        )
        _tell(document.knowledge_base)


def _meta(document: Document) -> dict[str, str | int | float | bool]:
    return {
        "document": document.name,
        "kind": document.kind,
        "uploaded_at": document.created_at.isoformat(),
        **{f"m_{key}": value for key, value in document.metadata.items()},
    }


def _ensure_collection(build: Build) -> None:
    if build.collection_made:
        return
    store = vectors.store()
    able = store.capabilities()
    if not able.lexical and build.dimension is None:
        raise Failed(
            "no_index",
            "this Milvus has no BM25 and no embedder is given: nothing could find its words. "
            "Serve an embedding model, or use Milvus 2.5 or later.",
        )
    store.create(build.collection, build.dimension)
    build.collection_made, build.lexical = True, able.lexical
    Build.objects.filter(pk=build.pk).update(collection_made=True, lexical=able.lexical)
    if build.state == BuildState.LIVE:
        store.point(alias_of(build), build.collection)


def alias_of(build: Build) -> str:
    """Return the name under which other programs find the live build in Milvus."""
    base = build.knowledge_base
    return f"kb_{base.slug.replace('-', '_')}_{base.uid.hex[:8]}"


def _forget_collection(build: Build) -> None:
    """The collection is gone from Milvus: every document of this build goes in again."""
    with transaction.atomic():
        Build.objects.filter(pk=build.pk).update(collection_made=False)
        Chunk.objects.filter(build=build).update(stored=False)
        Indexing.objects.filter(build=build).update(done=False, chunks_done=0, tokens=0)
        Document.objects.filter(
            indexings__build=build, state=DocumentState.READY, deleted_at__isnull=True
        ).update(state=DocumentState.EMBEDDING)


def _is_complete(document: Document, build: Build) -> bool:
    expected = Chunk.objects.filter(document=document, build=build).count()
    return vectors.store().count(build.collection, document.pk) == expected


@transaction.atomic
def _finish(document: Document) -> None:
    """Every build has it: it answers, and the one that it replaces goes."""
    now = clock.now()
    Document.objects.filter(pk=document.pk, deleted_at__isnull=True).update(
        state=DocumentState.READY, reason="", code="", lease_until=None, changed_at=now
    )
    if document.replaces_id:
        Document.objects.filter(pk=document.replaces_id, deleted_at__isnull=True).update(
            deleted_at=now
        )
    _tell(document.knowledge_base)


@transaction.atomic
def _move(document: Document, to: DocumentState) -> None:
    if document.state == to:
        return
    document.state = to
    Document.objects.filter(pk=document.pk).update(state=to, changed_at=clock.now())
    _tell(document.knowledge_base)


def _release(document: Document) -> None:
    Document.objects.filter(pk=document.pk).update(lease_until=None, attempts=0)


@transaction.atomic
def _put_off(document: Document, reason: str) -> None:
    Document.objects.filter(pk=document.pk).update(
        lease_until=clock.now() + PUT_OFF, attempts=0, reason=f"Waiting: {reason}"[:500]
    )
    _tell(document.knowledge_base)


@transaction.atomic
def _fail(document: Document, code: str, reason: str) -> None:
    """Fail the document; one that answers already stays, and the new index is given up instead."""
    logger.warning("document %s failed: %s", document.uid, code)
    if document.state == DocumentState.READY:
        Build.objects.filter(indexings__document=document, state=BuildState.BUILDING).update(
            state=BuildState.RETIRED,
            reason=f"{document.name}: {reason}"[:500],
            retired_at=clock.now(),
        )
        _release(document)
        _tell(document.knowledge_base)
        return
    Document.objects.filter(pk=document.pk).update(
        state=DocumentState.FAILED,
        code=code,
        reason=reason[:500],
        lease_until=None,
        changed_at=clock.now(),
    )
    _tell(document.knowledge_base)
