"""Weights lent to other hosts: a list of files, then each file, from an offset where asked.

`/w/<key>/` answers `{"sha256", "files": [{"path", "bytes"}]}`, `/w/<key>/<path>` the file. Only
folders that are whole are lent, read-only, to whoever shows a weights key. Called by `exchange`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from agents.relay.access import Refusal

STAMP = ".hearth-weights.json"
TREE = ".hearth-tree"
"""Checksum over all files of the folder; see `agents.weights.tree`."""
CHUNK_BYTES = 1 << 18
_KEY = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RANGE = re.compile(rb"bytes=(\d+)-")
_NOTHING = Refusal(404, "unknown_weights", "these weights do not lie whole on this host")


@dataclass(frozen=True)
class Loan:
    """What is answered: `body`, or `length` bytes of `path` from `offset`."""

    body: bytes = b""
    path: Path | None = None
    offset: int = 0
    length: int = 0
    total: int = 0

    def head(self) -> bytes:
        """Return the head of the answer."""
        if self.path is None:
            kind, length = b"application/json", len(self.body)
        else:
            kind, length = b"application/octet-stream", self.length
        first = b"HTTP/1.1 206 Partial Content" if self.offset else b"HTTP/1.1 200 OK"
        lines = [first, b"content-type: " + kind, b"content-length: %d" % length]
        if self.offset:
            span = (self.offset, self.total - 1, self.total)
            lines.append(b"content-range: bytes %d-%d/%d" % span)
        return b"\r\n".join(lines) + b"\r\n\r\n"


def find(root: Path, target: bytes, wanted_range: bytes) -> Loan | Refusal:
    """Return what `target` asks for under `root`. Blocks for a few reads of the disk."""
    key, _, inner = target.removeprefix(b"/w/").partition(b"/")
    if not _KEY.fullmatch(key):
        return _NOTHING
    folder = root / key.decode()
    if not (folder / STAMP).is_file():
        return _NOTHING
    if not inner:
        return Loan(body=_manifest(folder))
    path = (folder / unquote_to_bytes(inner).decode(errors="replace")).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return _NOTHING
    total = path.stat().st_size
    asked = _RANGE.fullmatch(wanted_range)
    offset = min(int(asked[1]), total) if asked else 0
    return Loan(path=path, offset=offset, length=total - offset, total=total)


def _manifest(folder: Path) -> bytes:
    files = [
        {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (STAMP, TREE)
    ]
    tree = folder / TREE
    checksum = tree.read_text().strip() if tree.is_file() else ""
    return json.dumps({"sha256": checksum, "files": files}).encode()
