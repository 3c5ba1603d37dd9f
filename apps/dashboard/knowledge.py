"""What the pages of a knowledge base tell: how far documents are, marked text, rank movements."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.accounts.models import User
from apps.dashboard import queries, words
from apps.dashboard.words import Status
from apps.rag import presenting
from apps.rag.models import Chunk, Document, KnowledgeBase
from apps.rag.settings import DEFAULTS_NAME
from apps.rag.states import DocumentState

MOST_ROWS = 200
"""Documents on one page; the API pages through all."""
CONTEXT_CHARACTERS = 6000
"""Text shown around a chunk on each side."""

_STATUS = {
    DocumentState.QUEUED: Status("starting", "Queued"),
    DocumentState.PARSING: Status("starting", "Reading"),
    DocumentState.EMBEDDING: Status("starting", "Embedding"),
    DocumentState.READY: Status("live", "Ready"),
    DocumentState.FAILED: words.FAILED,
}


@dataclass(frozen=True)
class Tab:
    key: str
    label: str
    address: str


TABS = (
    Tab("documents", "Documents", "knowledge-base"),
    Tab("ask", "Ask", "knowledge-ask"),
    Tab("compare", "Compare", "knowledge-compare"),
    Tab("evaluate", "Evaluate", "knowledge-evaluate"),
    Tab("index", "Index", "knowledge-index"),
)


@dataclass(frozen=True, kw_only=True)
class DocumentRow:
    """One document in the table; `row` is what the API answers."""

    row: dict[str, Any]
    status: Status

    @property
    def is_moving(self) -> bool:
        return self.status.key == "starting"


def document_rows(base: KnowledgeBase, documents: Sequence[Document]) -> list[DocumentRow]:
    """Return documents with how far they are in the live index."""
    return [
        DocumentRow(row=row, status=_STATUS[DocumentState(row["state"])])
        for row in presenting.document_rows(base, documents)
    ]


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A stretch of a document around one chunk, in three pieces; `cut_*` say that text is left
    out at that end."""

    before: str
    chunk: str
    after: str
    cut_start: bool
    cut_end: bool


def marked(text: str, chunk: Chunk | None) -> Marked:
    """Return the part of `text` to show: around `chunk`, or the beginning without one."""
    if chunk is None:
        shown = text[: 2 * CONTEXT_CHARACTERS]
        return Marked(
            before=shown, chunk="", after="", cut_start=False, cut_end=len(shown) < len(text)
        )
    start, end = max(0, chunk.start - CONTEXT_CHARACTERS), chunk.end + CONTEXT_CHARACTERS
    return Marked(
        before=text[start : chunk.start],
        chunk=text[chunk.start : chunk.end],
        after=text[chunk.end : end],
        cut_start=start > 0,
        cut_end=end < len(text),
    )


def deployments_that(task: str) -> list[str]:
    """Return the deployments whose newest revision does `task`, those that serve first."""
    found = [seen for seen in queries.deployments() if seen.status.task == task]
    ordered = sorted(found, key=lambda seen: (seen.status.ready_replicas == 0, seen.name))
    return [seen.name for seen in ordered]


def profile_names(base: KnowledgeBase) -> list[str]:
    """Return every profile version as `name@version`, the built-in defaults first."""
    kept = base.profiles.order_by("name", "-version")
    return [DEFAULTS_NAME, *(str(profile) for profile in kept)]


def promoted(base: KnowledgeBase) -> str:
    """Return the profile that answers."""
    return str(base.profile) if base.profile else DEFAULTS_NAME


def common(base: KnowledgeBase, tab: str, user: User) -> dict[str, Any]:
    """Return what every page of `base` shows."""
    row = presenting.base_row(base)
    return {"base": row, "tabs": TABS, "tab": tab, "owned": base.owner == user}
