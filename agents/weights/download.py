"""Fetch one file over HTTP so that an interruption costs nothing and a wrong byte is never kept.

The partial file stays when the network breaks or the disk fills, and the next call asks the
server for the rest of it (RFC 9110, section 14). A file whose checksum is wrong is removed.
Called by the source adapters; one caller a partial file, which the store's lock ensures.
"""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from agents.weights.fault import WeightsFault

TRIES = 5
"""Attempts in a row that brought no new byte."""
BACKOFF_SECONDS = 0.5
"""Before the second attempt; doubles with each further one."""
CHUNK_BYTES = 1 << 20

type OnBytes = Callable[[int, int], None]
"""Called with the bytes that are on disk, and the bytes of the whole, 0 if unknown."""


class Throttle:
    """A cap on what all downloads of this agent bring together; 0 is none."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.bytes_per_second = 0
        self._now = now
        self._rest = rest
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until `count` bytes more are within the cap."""
        if self.bytes_per_second <= 0:
            return
        now = self._now()
        self._free_at = max(self._free_at, now) + count / self.bytes_per_second
        await self._rest(self._free_at - now)


THROTTLE = Throttle()
"""Set once, from the agent's settings."""


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    url: str
    size_bytes: int = 0
    """0 if unknown."""
    sha256: str = ""
    git_oid: str = ""
    """SHA-1 of the git blob: what hubs give for small files."""
    md5: str = ""
    """What object stores give as the tag of a file that was uploaded whole."""
    headers: Mapping[str, str] = field(default_factory=dict)
    sign: Callable[[str], Mapping[str, str]] | None = None
    """Makes the headers of each attempt anew: signatures run out."""

    @property
    def shown(self) -> str:
        """The address without query, user and password, for people."""
        url = httpx.URL(self.url)
        return f"{url.scheme}://{url.host}{url.path}"


class _Interrupted(Exception):
    """This attempt broke; what came stays on disk and another attempt may follow."""


async def download(
    client: httpx.AsyncClient, file: RemoteFile, partial: Path, on_bytes: OnBytes
) -> None:
    """Bring `file` to `partial`, going on where an earlier attempt stopped, and check it.

    Raises WeightsFault: `weights_missing` (not reachable, refused), `weights_checksum` (the
    partial file is removed), `disk_full` (the partial file is kept).
    """
    failures = 0
    while True:
        before = _size(partial)
        try:
            await _attempt(client, file, partial, on_bytes)
            break
        except (_Interrupted, httpx.TransportError) as fault:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= TRIES:
                raise WeightsFault(
                    "weights_missing", f"cannot fetch {file.shown}: {_words(fault)}"
                ) from fault
            await asyncio.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
        except OSError as fault:
            raise storage_fault(fault, partial) from fault
    await asyncio.to_thread(_check, file, partial)


def after(before: int, total: int, on_bytes: OnBytes) -> OnBytes:
    """Return what one of several files tells when `before` bytes of `total` came before it."""
    return lambda done, _: on_bytes(before + done, total)


def storage_fault(fault: OSError, path: Path) -> WeightsFault:
    """Return `fault` in the agent's words: a full disk, or a folder that cannot be written."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsFault(
            "disk_full",
            f"the disk of {path.parent} is full: make room and the fetch goes on where it stopped",
        )
    return WeightsFault("weights_missing", f"cannot write {path}: {fault}")


async def _attempt(
    client: httpx.AsyncClient, file: RemoteFile, partial: Path, on_bytes: OnBytes
) -> None:
    have = _size(partial)
    if file.size_bytes and have == file.size_bytes:
        return
    if file.size_bytes and have > file.size_bytes:
        have = 0  # not a part of this file: written anew
    own = file.sign(file.url) if file.sign is not None else {}
    headers = dict(file.headers) | dict(own) | ({"Range": f"bytes={have}-"} if have else {})
    # Compressed transfer would make byte offsets of the partial file meaningless.
    headers["Accept-Encoding"] = "identity"
    async with client.stream("GET", file.url, headers=headers) as reply:
        if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _range_total(reply) == have:
                return
            os.truncate(partial, 0)
            raise _Interrupted("the file changed its size")
        _refuse(reply, file)
        resumed = reply.status_code == httpx.codes.PARTIAL_CONTENT
        have = have if resumed else 0
        total = have + int(reply.headers.get("Content-Length", -have))
        await _write(reply, partial, have, lambda done: on_bytes(done, total))


def _refuse(reply: httpx.Response, file: RemoteFile) -> None:
    if reply.is_success:
        return
    if reply.is_server_error or reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise _Interrupted(f"the server answered {reply.status_code}")
    raise WeightsFault("weights_missing", f"{file.shown} answered {reply.status_code}")


async def _write(
    reply: httpx.Response, partial: Path, offset: int, on_offset: Callable[[int], None]
) -> None:
    with partial.open("r+b" if offset else "wb") as out:
        out.seek(offset)
        # No chunk size: httpx would hold back less than one, and lose it with the connection.
        async for chunk in reply.aiter_raw():
            out.write(chunk)
            offset += len(chunk)
            on_offset(offset)
            await THROTTLE.take(len(chunk))


def _check(file: RemoteFile, partial: Path) -> None:
    """Compare checksums; a file without one is compared by size alone."""
    size = _size(partial)
    wrong = ""
    if file.size_bytes and size != file.size_bytes:
        wrong = f"has {size} bytes, not {file.size_bytes}"
    elif file.sha256:
        wrong = _mismatch(_digest(partial, hashlib.sha256()), file.sha256, "SHA-256")
    elif file.md5:
        digest = hashlib.md5(usedforsecurity=False)
        wrong = _mismatch(_digest(partial, digest), file.md5, "MD5")
    elif file.git_oid:
        blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        wrong = _mismatch(_digest(partial, blob), file.git_oid, "git object id")
    if wrong:
        partial.unlink(missing_ok=True)
        raise WeightsFault("weights_checksum", f"{file.shown} {wrong}; it was not kept")


def _mismatch(found: str, wanted: str, what: str) -> str:
    return "" if found == wanted.lower() else f"has {what} {found}, not {wanted}"


def _digest(path: Path, digest: Digest) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _range_total(reply: httpx.Response) -> int:
    total = reply.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else -1


def _words(fault: Exception) -> str:
    return str(fault) or type(fault).__name__
