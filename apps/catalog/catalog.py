"""The entries that can be deployed: the built-in ones and those that operators add by file.

Built-in files lie in `entries/` beside this module; a mistake in one is a broken installation and
raises. Operators' files lie in `<data folder>/catalog/*.yaml`; a mistake in one leaves that file
out and stands in `problems()`, the rest is served. An operator's entry replaces a built-in one of
the same slug. Operators' files are looked at on every call (a few `stat`s) and read again when one
was added, removed or changed. Called by the API, the pages and the deployments app.
"""

import difflib
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from django.conf import settings

from agents.wire import Task
from apps.catalog.entry import Entry
from apps.catalog.reading import BadFile, Problem, read_entry

BUILT_IN = Path(__file__).parent / "entries"

logger = logging.getLogger(__name__)

type Signature = tuple[tuple[str, int, int], ...]


class UnknownEntry(LookupError):
    """The catalog has no entry of that slug; `near` are slugs that look like it."""

    def __init__(self, slug: str, near: list[str]) -> None:
        self.slug = slug
        self.near = tuple(near)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "see the catalog for what there is."
        )
        super().__init__(f"The catalog has no entry {slug!r}: {hint}")


@dataclass(frozen=True)
class _Own:
    """The operators' files as last read."""

    signature: Signature = ()
    entries: Mapping[str, Entry] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class Catalog:
    """All entries, by slug. Safe to share between threads.

    Raises BadFile when built if a file in `built_in` is wrong. `own` need not exist.
    """

    def __init__(self, built_in: Path, own: Path) -> None:
        self._built_in = {entry.slug: entry for entry in map(read_entry, _files(built_in))}
        self._folder = own
        self._own = _Own()
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """Return every entry, by name."""
        return sorted(self._all().values(), key=lambda entry: (entry.name.casefold(), entry.slug))

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong with operators' files, as of now."""
        return self._fresh().problems

    def get(self, slug: str) -> Entry:
        """Return the entry of `slug`. Raises UnknownEntry with the slugs that are near."""
        entries = self._all()
        if slug in entries:
            return entries[slug]
        raise UnknownEntry(slug, difflib.get_close_matches(slug.lower(), entries, n=3))

    def search(self, q: str = "", task: Task | None = None) -> list[Entry]:
        """Return the entries for `task` that have every word of `q` in one of their texts."""
        words = q.casefold().split()
        return [
            entry
            for entry in self.entries()
            if task in (None, entry.task) and all(word in _text(entry) for word in words)
        ]

    def _all(self) -> dict[str, Entry]:
        return {**self._built_in, **self._fresh().entries}

    def _fresh(self) -> _Own:
        files = _files(self._folder)
        signature = _signature(files)
        with self._lock:
            if signature != self._own.signature:
                self._own = _read_own(files, signature)
            return self._own


@cache
def installed() -> Catalog:
    """Return the catalog of this installation."""
    return Catalog(BUILT_IN, settings.DATA_DIR / "catalog")


def get(slug: str) -> Entry:
    """Return the entry of `slug`. Raises UnknownEntry with the slugs that are near."""
    return installed().get(slug)


def entries() -> list[Entry]:
    """Return every entry, by name."""
    return installed().entries()


def search(q: str = "", task: Task | None = None) -> list[Entry]:
    """Return the entries for `task` that have every word of `q` in one of their texts."""
    return installed().search(q, task)


def problems() -> tuple[Problem, ...]:
    """Return what is wrong with operators' files, as of now."""
    return installed().problems()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.yaml") if path.is_file())


def _signature(files: Iterable[Path]) -> Signature:
    """Return what changes when a file does; one that vanishes meanwhile is left out."""
    found = []
    for path in files:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _read_own(files: Iterable[Path], signature: Signature) -> _Own:
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for path in files:
        try:
            entry = read_entry(path)
        except BadFile as error:
            problems.extend(error.problems)
        else:
            entries[entry.slug] = entry
    for problem in problems:
        logger.warning("catalog file left out: %s", problem)
    return _Own(signature, entries, tuple(problems))


def _text(entry: Entry) -> str:
    """Return what a search looks through, in lower case."""
    words = [entry.slug, entry.name, entry.maker, entry.family, entry.summary, entry.licence.name]
    return " ".join([*words, *entry.capabilities, *(v.name for v in entry.variants)]).casefold()
