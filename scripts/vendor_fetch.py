"""Bring the vendored browser files from the npm registry, as `static/vendor/vendor.lock.json` says.

Decides nothing: the lock names every package, its version, the integrity of its tarball and the
SHA-256 of each file that is kept. Without arguments it fetches and checks; with `--lock` it
rewrites the files' checksums after a version was changed by hand. Needs the standard library only.
Run by maintainers; nothing runs it at build time, because the files are committed.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"
LOCK = VENDOR / "vendor.lock.json"
TIMEOUT_SECONDS = 60


class WrongChecksum(Exception):
    """What was fetched is not what the lock names."""


def main() -> int:
    """Fetch all files of the lock and write them, or say which one differs and write nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lock", action="store_true", help="write new checksums into the lock")
    relock = parser.parse_args().lock
    lock = json.loads(LOCK.read_text())
    files = {name: data for p in lock["packages"] for name, data in _package(p).items()}
    found = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    if relock:
        LOCK.write_text(json.dumps({**lock, "sha256": found}, indent=2) + "\n")
    elif found != lock["sha256"]:
        wrong = sorted(name for name in found if found[name] != lock["sha256"].get(name))
        sys.stderr.write(f"vendor: checksum differs: {', '.join(wrong)}\n")
        return 1
    for name, data in files.items():
        (VENDOR / name).write_bytes(data)
    sys.stderr.write(f"vendor: {len(files)} files, {sum(map(len, files.values()))} bytes\n")
    return 0


def _package(package: dict[str, Any]) -> dict[str, bytes]:
    """Return the kept files of one package by the name they get here."""
    with urllib.request.urlopen(package["tarball"], timeout=TIMEOUT_SECONDS) as reply:
        tarball = reply.read()
    algorithm, _, wanted = package["integrity"].partition("-")
    if base64.b64encode(hashlib.new(algorithm, tarball).digest()).decode() != wanted:
        raise WrongChecksum(f"{package['tarball']} does not match its integrity in {LOCK.name}")
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        files = {name: _read(archive, path) for name, path in package["files"].items()}
        if sprite := package.get("sprite"):
            files[sprite["file"]] = _sprite(archive, sprite["folder"], sprite["icons"])
    return files


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile(path)
    if member is None:
        raise FileNotFoundError(path)
    return member.read()


def _sprite(archive: tarfile.TarFile, folder: str, icons: list[str]) -> bytes:
    """Return one SVG with a `<symbol>` an icon; stroke and size come from the page's CSS."""
    symbols = []
    for icon in icons:
        text = _read(archive, f"{folder}/{icon}.svg").decode()
        body = re.sub(r"(?s)^.*?<svg[^>]*>|</svg>\s*$|\s*\n\s*", " ", text).strip()
        symbols.append(f'<symbol id="{icon}" viewBox="0 0 24 24">{body}</symbol>')
    inner = "\n".join(symbols)
    return f'<svg xmlns="http://www.w3.org/2000/svg">\n{inner}\n</svg>\n'.encode()


if __name__ == "__main__":
    sys.exit(main())
