"""Cut a clean text into passages with exact places; pure.

A passage ends where the text does: at a heading, a blank line, a sentence, in that order, as far as
the size allows (Unicode rules, by `semantic-text-splitter`). `text[chunk.start:chunk.end]` is the
passage itself. Sizes are characters; the embedder's own count of tokens is asked for later.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from apps.rag.cleaning import Page, instruction_in, page_of

CHARACTERS_PER_TOKEN = 4.0
"""A cautious average for prose; what it gets wrong is counted exactly afterwards."""
LEAST_CHARACTERS = 2
TITLE_CHARACTERS = 200
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+)$", re.MULTILINE)
_FIRST_SENTENCE = re.compile(r"\s*(.+?)(?:[.!?:]?\s*\n\s*\n|\s?[.!?](?=\s|$)|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One passage."""

    text: str
    start: int
    end: int
    page: int | None
    heading: str
    """The nearest one above, or the document's title where it has none; empty in the title's own
    passage. Read with the passage by the embedder and by BM25 (`in_context`)."""
    sha256: str
    flags: tuple[str, ...]


def characters_for(input_tokens: int | None) -> tuple[int, int]:
    """Return (characters, overlap) of a passage for an embedder that reads `input_tokens`.

    Passages of 100 to 250 tokens retrieve best on Cranfield with MiniLM (docs/rag.md); longer
    inputs of larger embedders are not filled, because an answer's budget holds fewer of them.
    """
    tokens = min(input_tokens or 256, 256)
    characters = int(tokens * CHARACTERS_PER_TOKEN * 0.9)
    return characters, characters // 8


def cut(
    text: str, *, kind: str, pages: Sequence[Page], characters: int, overlap: int
) -> list[Piece]:
    """Return the passages of `text` in order; a passage that repeats another one is left out."""
    splitter = MarkdownSplitter if kind == "markdown" else TextSplitter
    cutter = splitter(characters, overlap=min(overlap, characters - 1), trim=True)
    headings = (
        [(m.start(), m[1].strip()) for m in _HEADING.finditer(text)] if kind == "markdown" else []
    )
    title = title_of(text, kind)
    pieces, seen = [], set()
    for start, passage in cutter.chunk_indices(text):
        if len(passage) < LEAST_CHARACTERS:
            continue
        digest = hashlib.sha256(passage.encode()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        pieces.append(
            Piece(
                text=passage,
                start=start,
                end=start + len(passage),
                page=page_of(pages, start) if len(pages) > 1 or kind == "pdf" else None,
                heading=_heading(headings, start)[:TITLE_CHARACTERS] or (title if start else ""),
                sha256=digest,
                flags=("instruction-like",) if instruction_in(passage) else (),
            )
        )
    return pieces


def title_of(text: str, kind: str) -> str:
    """Return what `text` begins with if it can be its title: a short sentence, a table's header.

    Passages that name what their document is about are found better, by vectors and by words
    (docs/rag.md).
    """
    if kind == "csv":
        return text.lstrip().partition("\n")[0].strip()[:TITLE_CHARACTERS]
    first = _FIRST_SENTENCE.match(text[: 2 * TITLE_CHARACTERS])
    title = " ".join(first[1].split()) if first else ""
    return title if len(title) <= TITLE_CHARACTERS else ""


def in_context(heading: str, text: str) -> str:
    """Return a passage as the embedder and BM25 read it."""
    return f"{heading}\n{text}" if heading else text


def halves(piece: Piece) -> list[Piece]:
    """Return `piece` cut in two near its middle: it had more tokens than the embedder reads."""
    middle = len(piece.text) // 2
    space = piece.text.rfind(" ", 0, middle + 1)
    at = space if space > middle // 2 else middle
    parts = []
    for start, end in ((0, at), (at, len(piece.text))):
        raw = piece.text[start:end]
        text = raw.strip()
        if text:
            begin = piece.start + start + (len(raw) - len(raw.lstrip()))
            parts.append(
                Piece(
                    text=text,
                    start=begin,
                    end=begin + len(text),
                    page=piece.page,
                    heading=piece.heading,
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    flags=piece.flags,
                )
            )
    return parts


def estimated_tokens(text: str) -> int:
    """Return about how many tokens `text` has."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def _heading(headings: Sequence[tuple[int, str]], at: int) -> str:
    above = [title for start, title in headings if start <= at]
    return above[-1] if above else ""
