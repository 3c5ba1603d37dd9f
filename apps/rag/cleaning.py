"""From what a parser read to text that people and models read alike; pure.

Positions are kept: the text is made page by page, and every later offset counts in the clean text.
What is taken out because nobody sees it (zero-width, bidirectional controls) is told as a flag:
it is how instructions are hidden from a reader and shown to a model.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_SOFT_HYPHEN_BREAK = re.compile("(?<=\\w)[\x02\xad]\\s*\n?\\s*(?=\\w)")
_UNSEEN = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufffe\uffff\ud800-\udfff]")
_SPACES = re.compile("[ \t\u00a0\u2000-\u200a\u3000]+")
_EDGES = re.compile(" ?\n ?")
_BLANK_LINES = re.compile("\n{3,}")

_INSTRUCTIONS = re.compile(
    r"(?:ignore|disregard|forget)\s+(?:\w+\s+){0,3}(?:previous|prior|above|earlier|all)\s+"
    r"(?:\w+\s+){0,2}(?:instructions?|prompts?|rules|directions)"
    r"|(?:you are now|from now on,? you|act as)\s+(?:an?\s+)?\w+"
    r"|(?:reveal|print|repeat)\s+(?:\w+\s+){0,2}(?:system prompt|instructions)"
    r"|<\|(?:im_start|im_end|system|endoftext)\|>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
_TELLTALES = (
    *("ignore", "disregard", "forget", "you are now", "from now on", "act as", "reveal"),
    *("print", "repeat", "<|", "inst]", "<<"),
)
"""Each match of `_INSTRUCTIONS` has one of these, and they are looked for in no time."""
HIDDEN = "hidden-text"
INSTRUCTION = "instruction-like"
GARBLED = "garbled"
_FEW_HIDDEN = 3
"""A stray byte-order mark or joiner is no attempt to hide anything."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Where a page of the source lies in the clean text."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Clean:
    """One document's text, ready to be cut."""

    text: str
    pages: tuple[Page, ...]
    flags: tuple[dict[str, str], ...]


def clean(pages: Sequence[str], flags: Sequence[dict[str, str]] = ()) -> Clean:
    """Return the pages as one clean text: NFC, no control characters, hyphens joined."""
    parts: list[str] = []
    places: list[Page] = []
    unseen = at = 0
    for number, page in enumerate(pages, 1):
        text, gone = clean_text(page)
        unseen += gone
        if parts and text:
            parts.append("\n\n")
            at += 2
        places.append(Page(number=number, start=at, end=at + len(text)))
        parts.append(text)
        at += len(text)
    whole = "".join(parts)
    found = [*flags, *_told(whole, unseen)]
    return Clean(text=whole, pages=tuple(places), flags=tuple(found))


def clean_text(text: str) -> tuple[str, int]:
    """Return the clean text and how many unseen characters were taken out of it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _SOFT_HYPHEN_BREAK.sub("", text)
    text, unseen = _UNSEEN.subn("", text)
    text = _CONTROL.sub("", text)
    text = unicodedata.normalize("NFC", text)
    text = _EDGES.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip(), unseen


def instruction_in(text: str) -> str:
    """Return the words in `text` that speak to a model instead of a reader; empty if none do."""
    plain = text.casefold().replace("\u0131", "i").replace("i\u0307", "i")
    if not any(word in plain for word in _TELLTALES):
        return ""
    found = _INSTRUCTIONS.search(text)
    return found[0][:80] if found else ""


def page_of(pages: Sequence[Page], offset: int) -> int | None:
    """Return the number of the page that holds `offset`."""
    for page in pages:
        if offset < page.end or page is pages[-1]:
            return page.number
    return None


def _told(text: str, unseen: int) -> list[dict[str, str]]:
    flags = []
    if unseen >= _FEW_HIDDEN:
        flags.append({"kind": HIDDEN, "detail": f"{unseen} invisible characters were taken out"})
    if words := instruction_in(text):
        flags.append({"kind": INSTRUCTION, "detail": f"it says: {words}"})
    letters = sum(char.isalnum() for char in text[:20_000])
    strange = text[:20_000].count("\ufffd")
    if strange > max(20, letters // 20):
        flags.append({"kind": GARBLED, "detail": f"{strange} characters could not be read"})
    return flags
