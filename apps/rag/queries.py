"""Reads of knowledge bases. Every one begins at a person's team: nothing else is ever found."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum

from apps.accounts.models import User
from apps.lib.problems import Problem
from apps.rag.models import (
    Alias,
    Build,
    Chunk,
    Document,
    Evaluation,
    Indexing,
    KnowledgeBase,
    Profile,
)
from apps.rag.states import FILLING, UNFINISHED, DocumentState
from apps.traffic import routing
from gateway.wire import Detour


class ChunkSize(NamedTuple):
    """One chunk, as far as a choice depends on it."""

    sha256: str
    tokens: int


def knowledge_bases(user: User) -> QuerySet[KnowledgeBase]:
    """Return the knowledge bases of the person's team, by name."""
    return (
        KnowledgeBase.objects.filter(team=user.team, deleted_at__isnull=True)
        .select_related("live_build", "profile", "owner")
        .order_by("slug", "id")
    )


def knowledge_base(user: User, name: str) -> KnowledgeBase:
    """Return the knowledge base of that slug or id in the person's team. Raises Problem 404.

    One of another team is not there: the answer is the same as for one that never was.
    """
    rows = knowledge_bases(user)
    found = rows.filter(slug=name).first()
    if found is None and (uid := _uuid(name)) is not None:
        found = rows.filter(uid=uid).first()
    if found is None:
        raise Problem(404, "not_found", f"There is no knowledge base {name[:80]}.")
    return found


def aliases(team: str) -> QuerySet[Alias]:
    """Return the model names under which the knowledge bases of a team answer."""
    return Alias.objects.filter(
        knowledge_base__team=team, knowledge_base__deleted_at__isnull=True
    ).order_by("name")


def detours() -> dict[str, Detour]:
    """Return every alias as gateways know it: they pass its chats on to `/rag/v1/` here."""
    rows = Alias.objects.filter(knowledge_base__deleted_at__isnull=True).order_by("name")
    found = rows.values_list("name", "deployment", "knowledge_base__team", "created_at")
    return {
        name: Detour(
            deployment=deployment,
            url="/rag",
            tenant=routing.tenant(team),
            created_at=created_at.timestamp(),
        )
        for name, deployment, team, created_at in found
    }


def documents(base: KnowledgeBase) -> QuerySet[Document]:
    """Return its documents, newest first."""
    return Document.objects.filter(knowledge_base=base, deleted_at__isnull=True).order_by("-id")


def document(base: KnowledgeBase, uid: UUID) -> Document:
    """Return one of its documents. Raises Problem 404."""
    found = documents(base).filter(uid=uid).first()
    if found is None:
        raise Problem(404, "not_found", f"{base.slug} has no document {uid}.")
    found.knowledge_base = base
    return found


def chunk(base: KnowledgeBase, chunk_id: int) -> Chunk:
    """Return a chunk of one of its documents, of any build. Raises Problem 404."""
    found = (
        Chunk.objects.filter(
            pk=chunk_id,
            document__knowledge_base=base,
            build__knowledge_base=base,
            document__deleted_at__isnull=True,
        )
        .select_related("document", "document__knowledge_base", "build")
        .first()
        if chunk_id < 2**63
        else None
    )
    if found is None:
        raise Problem(404, "not_found", f"{base.slug} has no chunk {chunk_id}.")
    return found


def chunks(base: KnowledgeBase, build: Build, ids: Iterable[int]) -> dict[int, Chunk]:
    """Return the chunks that may be shown: of this build and of documents that are there.

    The second wall behind the collection: whatever Milvus answers, only these rows are read.
    """
    rows = _shown(base, build, ids).select_related("document")
    return {row.pk: row for row in rows}


def chunk_sizes(base: KnowledgeBase, build: Build, ids: Iterable[int]) -> dict[int, ChunkSize]:
    """Return what a choice among chunks depends on, of those that may be shown.

    The same wall as `chunks`, without the texts: of two hundred candidates ten are sent.
    """
    rows = _shown(base, build, ids).values_list("pk", "sha256", "tokens")
    return {pk: ChunkSize(sha256, tokens) for pk, sha256, tokens in rows}


def _shown(base: KnowledgeBase, build: Build, ids: Iterable[int]) -> QuerySet[Chunk]:
    return Chunk.objects.filter(
        pk__in=list(ids),
        build=build,
        document__knowledge_base=base,
        document__deleted_at__isnull=True,
    )


def build(base: KnowledgeBase, number: int) -> Build:
    """Return one of its builds. Raises Problem 404."""
    found = base.builds.filter(number=number).first()
    if found is None:
        raise Problem(404, "not_found", f"{base.slug} has no build {number}.")
    found.knowledge_base = base
    return found


def profile(base: KnowledgeBase, name: str) -> Profile:
    """Return the profile `name@version`, or the newest version of `name`. Raises Problem 404."""
    stem, _, version = name.partition("@")
    rows = base.profiles.filter(name=stem).order_by("-version")
    if version:
        rows = rows.filter(version=int(version)) if version.isdecimal() else rows.none()
    found = rows.first()
    if found is None:
        known = ", ".join(sorted(set(base.profiles.values_list("name", flat=True)))) or "none"
        raise Problem(
            404, "profile_unknown", f"{base.slug} has no profile {name}; there are: {known}."
        )
    return found


def counts(bases: Sequence[KnowledgeBase]) -> dict[int, dict[str, int]]:
    """Return by key how many documents there are in each state, and what the live build holds.

    Two queries, however many knowledge bases there are.
    """
    zero = dict.fromkeys(
        ("documents", *(f"documents_{state}" for state in DocumentState), "chunks", "tokens"), 0
    )
    found = {base.pk: dict(zero) for base in bases}
    documents = Document.objects.filter(knowledge_base__in=bases, deleted_at__isnull=True)
    states = documents.values_list("knowledge_base", "state").annotate(Count("id")).order_by()
    for key, state, number in states:
        found[key][f"documents_{state}"] = number
        found[key]["documents"] += number
    live = [base.live_build_id for base in bases if base.live_build_id is not None]
    held = Indexing.objects.filter(build__in=live, document__deleted_at__isnull=True).values_list(
        "build__knowledge_base"
    )
    for key, chunks, tokens in held.annotate(Sum("chunks_done"), Sum("tokens")).order_by():
        found[key] |= {"chunks": chunks or 0, "tokens": tokens or 0}
    return found


def in_use() -> bool:
    """Return whether there is any knowledge base at all, or one that is being removed."""
    return KnowledgeBase.objects.exists()


def unmeasured() -> QuerySet[Evaluation]:
    """Return the evaluations that are not finished."""
    return Evaluation.objects.filter(state__in=("queued", "running"))


def waiting(now: datetime) -> QuerySet[Document]:
    """Return the documents that a worker may take: not in every index, and nobody holds them."""
    missing = Indexing.objects.filter(document=OuterRef("pk"), done=False, build__state__in=FILLING)
    return (
        Document.objects.filter(
            Q(state__in=UNFINISHED) | (Q(state=DocumentState.READY) & Exists(missing)),
            Q(lease_until__isnull=True) | Q(lease_until__lt=now),
            deleted_at__isnull=True,
            knowledge_base__deleted_at__isnull=True,
        )
        .select_related("knowledge_base", "knowledge_base__owner")
        .order_by("id")
    )


def filling(base_id: int) -> QuerySet[Build]:
    """Return the builds that this knowledge base's documents go into, the live one first."""
    return (
        Build.objects.filter(
            knowledge_base_id=base_id,
            state__in=FILLING,
        )
        .select_related("knowledge_base", "knowledge_base__owner")
        .order_by("id")
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
