"""One checksum over all files of a folder of weights: what two hosts compare."""

import hashlib
from pathlib import Path

from agents.relay.lending import STAMP, TREE

_CHUNK_BYTES = 1 << 20


def checksum(folder: Path) -> str:
    """Return the SHA-256 over the sorted paths and SHA-256s of the files, as hex.

    It is kept in the folder, which never changes once it is whole. Reads every byte the first
    time, and so brings them into the page cache.
    """
    kept = folder / TREE
    if kept.is_file():
        return kept.read_text().strip()
    return keep(folder, computed(folder))


def keep(folder: Path, found: str) -> str:
    """Keep a checksum that was computed of `folder` there, and return it."""
    kept = folder / TREE
    kept.write_text(found)
    kept.chmod(0o644)
    return found


def computed(folder: Path) -> str:
    """Return the checksum by reading every file."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name in (STAMP, TREE):
            continue
        whole.update(f"{path.relative_to(folder)}\0{_file(path)}\n".encode())
    return whole.hexdigest()


def _file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
