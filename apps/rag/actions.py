"""What people do with knowledge bases and documents: rows, an audit entry, a word to the pages."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.files.base import File
from django.db import DatabaseError, IntegrityError, transaction

from apps.accounts.actions import audit
from apps.accounts.models import User
from apps.lib import live
from apps.lib.problems import Problem
from apps.rag import files, filters, queries
from apps.rag.chunking import characters_for
from apps.rag.embedding import Embedder
from apps.rag.models import Build, Document, Indexing, KnowledgeBase
from apps.rag.parsing.sniff import Unsupported, kind_of, mislabelled
from apps.rag.states import BuildState, DocumentState

MOST_BYTES = 50 * 1024**2
MOST_DOCUMENTS = 20_000
"""Of one knowledge base on the embedded Milvus: some 100,000 chunks."""
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """How the texts of an index are cut and embedded."""

    embedder: Embedder
    chunk_characters: int | None = None
    overlap_characters: int | None = None
    flip_when_ready: bool = False


def changed(base: KnowledgeBase, kind: str = "knowledge") -> None:
    """Tell the open pages of this knowledge base, after commit, that something is another now."""
    live.publish(live.knowledge_group(base.uid), kind, base=base.slug)


@transaction.atomic
def create(
    *,
    name: str,
    description: str,
    embedder: Embedder,
    user: User,
    now: datetime,
) -> KnowledgeBase:
    """Make a knowledge base with its first, empty index. Raises Problem 409 `name_taken`."""
    slug = _NOT_SLUG.sub("-", name.lower()).strip("-")[:63].strip("-")
    if not slug:
        raise Problem(
            400, "invalid", "name: use at least one letter or digit.", extra={"field": "name"}
        )
    base = KnowledgeBase(
        team=user.team,
        name=name,
        slug=slug,
        description=description,
        embedding_deployment=embedder.deployment,
        owner=user,
        created_at=now,
    )
    try:
        with transaction.atomic():
            base.save(force_insert=True)
    except IntegrityError as error:
        raise Problem(
            409, "name_taken", f"There is a knowledge base {slug} already.", extra={"field": "name"}
        ) from error
    base.live_build = add_build(base, BuildPlan(embedder=embedder), now=now)
    base.live_build.state, base.live_build.live_at = BuildState.LIVE, now
    base.live_build.save(update_fields=["state", "live_at"])
    base.save(update_fields=["live_build"])
    _tell(base, "created", user, {"embedder": embedder.kind, "model": embedder.model})
    return base


def add_build(
    base: KnowledgeBase,
    plan: BuildPlan,
    *,
    now: datetime,
) -> Build:
    """Add an index build; sizes that are None fit what the embedder reads."""
    embedder, overlap = plan.embedder, plan.overlap_characters
    usual, usual_overlap = characters_for(embedder.input_tokens)
    last = base.builds.order_by("-number").values_list("number", flat=True).first() or 0
    return Build.objects.create(
        knowledge_base=base,
        number=last + 1,
        state=BuildState.BUILDING,
        embedder=embedder.kind,
        embedding_deployment=embedder.deployment,
        embedding_model=embedder.model,
        dimension=embedder.dimension,
        input_tokens=embedder.input_tokens,
        chunk_characters=plan.chunk_characters or usual,
        overlap_characters=usual_overlap if overlap is None else overlap,
        flip_when_ready=plan.flip_when_ready,
        collection=f"kb{base.pk}_b{last + 1}_{base.uid.hex[:8]}",
        created_at=now,
    )


@transaction.atomic
def change(base: KnowledgeBase, *, patch: Mapping[str, Any], user: User) -> None:
    """Change name, description, or take it over as its owner."""
    for field in ("name", "description"):
        if field in patch:
            setattr(base, field, patch[field])
    if patch.get("take_over"):
        base.owner = user
    base.save(update_fields=["name", "description", "owner"])
    _tell(base, "changed", user, {key: str(value) for key, value in patch.items()})


@transaction.atomic
def delete(base: KnowledgeBase, *, user: User, now: datetime) -> None:
    """Remove it for people at once; the worker cleans Milvus and the files."""
    base.deleted_at = now
    base.live_build = None
    base.save(update_fields=["deleted_at", "live_build"])
    base.documents.filter(deleted_at__isnull=True).update(deleted_at=now)
    base.builds.exclude(state=BuildState.DROPPED).update(state=BuildState.RETIRED, retired_at=now)
    base.aliases.all().delete()
    _tell(base, "deleted", user, {})


def upload(
    base: KnowledgeBase,
    *,
    name: str,
    file: "File[bytes]",
    metadata: Mapping[str, Any],
    user: User,
    now: datetime,
) -> tuple[Document, bool]:
    """Store a file and queue it; return it and whether it is new.

    The same content twice is one document. Another content under a name that is taken replaces
    that document once it is ready. Raises Problem 400, 413, 415.
    """
    label = _label(name)
    size = file.size or 0
    if size > MOST_BYTES:
        raise Problem(
            413,
            "too_large",
            f"file: {size:,} bytes; at most {MOST_BYTES:,}: split it.",
            extra={"field": "file"},
        )
    content = file.read()
    kind = _kind(content, label)
    digest = hashlib.sha256(content).hexdigest()
    known = queries.documents(base).filter(sha256=digest).first()
    if known is not None:
        known.knowledge_base = base
        return known, False
    document = Document(
        knowledge_base=base,
        name=label,
        sha256=digest,
        size_bytes=size,
        kind=kind,
        state=DocumentState.QUEUED,
        metadata=_metadata(metadata),
        flags=_flags(kind, label),
        uploaded_by=user.username,
        created_at=now,
        changed_at=now,
    )
    file.seek(0)
    files.keep_original(document, file)
    try:
        return _queue(document, user)
    except (Problem, DatabaseError):
        files.remove(document)  # no row names it, so nothing else ever would
        raise


@transaction.atomic
def _queue(document: Document, user: User) -> tuple[Document, bool]:
    base = document.knowledge_base
    if queries.documents(base).count() >= MOST_DOCUMENTS:
        raise Problem(409, "full", f"{base.slug} holds {MOST_DOCUMENTS:,} documents, its most.")
    document.replaces = queries.documents(base).filter(name=document.name).first()
    try:
        with transaction.atomic():
            document.save(force_insert=True)
    except IntegrityError:  # the same file came twice at once
        files.remove(document)
        first = queries.documents(base).get(sha256=document.sha256)
        first.knowledge_base = base
        return first, False
    Indexing.objects.bulk_create(
        [Indexing(build=build, document=document) for build in queries.filling(base.pk)]
    )
    audit(
        actor=user.username,
        action="document.uploaded",
        target=f"{base.slug}/{document.name}",
        data={"id": document.uid, "sha256": document.sha256, "size_bytes": document.size_bytes},
    )
    changed(base)
    return document, True


@transaction.atomic
def retry(document: Document, *, user: User, now: datetime) -> None:
    """Queue a failed document again. Raises Problem 409 for any other."""
    again = Document.objects.filter(pk=document.pk, state=DocumentState.FAILED).update(
        state=DocumentState.QUEUED,
        reason="",
        code="",
        attempts=0,
        lease_until=None,
        changed_at=now,
    )
    if not again:
        raise Problem(409, "not_failed", f"{document.name} is {document.state}; it has not failed.")
    audit(
        actor=user.username,
        action="document.retried",
        target=f"{document.knowledge_base.slug}/{document.name}",
    )
    changed(document.knowledge_base)


@transaction.atomic
def delete_document(document: Document, *, user: User, now: datetime) -> None:
    """Hide the document at once; the worker removes its vectors, chunks and files."""
    Document.objects.filter(pk=document.pk, deleted_at__isnull=True).update(deleted_at=now)
    audit(
        actor=user.username,
        action="document.deleted",
        target=f"{document.knowledge_base.slug}/{document.name}",
        data={"id": document.uid},
    )
    changed(document.knowledge_base)


@transaction.atomic
def rebuild(
    base: KnowledgeBase,
    *,
    plan: BuildPlan,
    user: User,
    now: datetime,
) -> Build:
    """Begin another index beside the live one. Raises Problem 409 while one is being built."""
    if base.builds.filter(state__in=(BuildState.BUILDING, BuildState.READY)).exists():
        raise Problem(
            409, "build_under_way", "Another index is there already: flip to it or give it up."
        )
    build = add_build(base, plan, now=now)
    documents = list(queries.documents(base).exclude(state=DocumentState.FAILED).order_by("id"))
    Indexing.objects.bulk_create([Indexing(build=build, document=one) for one in documents])
    _tell(base, "build_begun", user, {"build": build.number, "model": plan.embedder.model})
    return build


@transaction.atomic
def give_up(build: Build, *, user: User, now: datetime) -> None:
    """Retire a build that is not live. Raises Problem 409 for the live one."""
    gone = (
        Build.objects.filter(pk=build.pk)
        .exclude(state__in=(BuildState.LIVE, BuildState.DROPPED))
        .update(state=BuildState.RETIRED, retired_at=now)
    )
    if not gone:
        raise Problem(409, "build_live", f"Build {build.number} is live; flip away from it.")
    _tell(build.knowledge_base, "build_given_up", user, {"build": build.number})


@transaction.atomic
def flip(build: Build, *, actor: str, now: datetime) -> None:
    """Let `build` answer from now on; the old one stays a while for queries under way.

    Raises Problem 409 unless it is complete.
    """
    base = KnowledgeBase.objects.select_for_update().get(pk=build.knowledge_base_id)
    ready = Build.objects.filter(pk=build.pk, state=BuildState.READY).update(
        state=BuildState.LIVE, live_at=now
    )
    if not ready:
        raise Problem(409, "build_not_ready", f"Build {build.number} is not complete.")
    Build.objects.filter(knowledge_base=base, state=BuildState.LIVE).exclude(pk=build.pk).update(
        state=BuildState.RETIRED, retired_at=now
    )
    base.live_build = build
    if build.embedding_deployment:
        base.embedding_deployment = build.embedding_deployment
    base.save(update_fields=["live_build", "embedding_deployment"])
    audit(
        actor=actor,
        action="knowledge_base.flipped",
        target=base.slug,
        data={"build": build.number, "model": build.embedding_model},
    )
    changed(base)


def _tell(base: KnowledgeBase, verb: str, user: User, data: Mapping[str, Any]) -> None:
    audit(actor=user.username, action=f"knowledge_base.{verb}", target=base.slug, data=dict(data))
    changed(base)


def _label(name: str) -> str:
    """Return the file's name without folders or anything that is no text."""
    last = re.split(r"[\\/]", name)[-1]
    label = "".join(char for char in last if char.isprintable()).strip()[:255]
    return label or "document"


def _kind(content: bytes, name: str) -> str:
    try:
        return kind_of(content, name)
    except Unsupported as error:
        status = 415 if error.code == "unsupported_type" else 400
        raise Problem(status, error.code, f"file: {error}", extra={"field": "file"}) from error


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(filters.metadata(given))
    except filters.WrongFilter as error:
        raise Problem(400, "invalid", f"metadata: {error}", extra={"field": "metadata"}) from error


def _flags(kind: str, name: str) -> list[dict[str, str]]:
    claimed = mislabelled(kind, name)
    if not claimed:
        return []
    return [{"kind": "mislabelled", "detail": f"its name says {claimed}, its content is {kind}"}]
