"""The uploaded files and their clean texts, in the store `documents` under names made here."""

import json
from dataclasses import asdict
from functools import lru_cache
from typing import IO
from uuid import UUID

from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage, storages

from apps.rag.cleaning import Clean, Page
from apps.rag.models import Chunk, Document


def _store() -> Storage:
    return storages["documents"]


def _name(document: Document, what: str) -> str:
    return f"{document.knowledge_base.uid}/{document.uid}/{what}"


def keep_original(document: Document, file: "File[bytes]") -> None:
    """Store the uploaded file."""
    name = _name(document, "original")
    _store().delete(name)
    _store().save(name, file)


def original(document: Document) -> IO[bytes]:
    """Return the uploaded file, open. Raises FileNotFoundError."""
    opened: IO[bytes] = _store().open(_name(document, "original"))
    return opened


def keep_text(document: Document, text: Clean) -> None:
    """Store the clean text of the document with its pages."""
    name = _name(document, "text.json")
    pages = [asdict(page) for page in text.pages]
    body = json.dumps({"text": text.text, "pages": pages}, ensure_ascii=False)
    _store().delete(name)
    _store().save(name, ContentFile(body.encode()))


def text(document: Document) -> tuple[str, tuple[Page, ...]]:
    """Return the clean text and its pages. Raises FileNotFoundError."""
    return _text(document.knowledge_base.uid, document.uid, _name(document, "text.json"))


@lru_cache(maxsize=4)
def _text(_base: UUID, _document: UUID, name: str) -> tuple[str, tuple[Page, ...]]:
    """A clean text never changes: a replacement is another document."""
    with _store().open(name) as file:
        kept = json.loads(file.read())
    return kept["text"], tuple(Page(**page) for page in kept["pages"])


def on_page(chunk: Chunk) -> str:
    """Return what of the chunk stands on the page where it begins; a chunk may cross pages."""
    whole, pages = text(chunk.document)
    page = next((page for page in pages if page.number == chunk.page), None)
    return chunk.text if page is None else whole[chunk.start : min(chunk.end, page.end)]


def remove(document: Document) -> None:
    """Remove all files of the document. Fine if there are none."""
    _text.cache_clear()
    for what in ("original", "text.json"):
        _store().delete(_name(document, what))
    _store().delete(f"{document.knowledge_base.uid}/{document.uid}")
