"""Weights from another host of the same network, through its relay.

What comes must have the checksum that the control plane names, so a peer can slow a copy down but
not change it. Files that are whole are kept over an interruption, partial ones resumed.
"""

import asyncio
import shutil
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from agents.stock import Lenders, Peer
from agents.weights import tree
from agents.weights.download import OnBytes, RemoteFile, after, download
from agents.weights.fault import WeightsFault

ASK_SECONDS = 15.0


async def fetch(
    client: httpx.AsyncClient, peer: Peer, lent: Lenders, work: Path, *, on_bytes: OnBytes
) -> Path:
    """Copy the weights of `lent` from `peer`, one of those, and return their folder below `work`.

    Raises WeightsFault(`weights_missing` | `weights_checksum` | `disk_full`).
    """
    base = f"{peer.url}/w/{quote(lent.weights_key)}/"
    headers = {"Authorization": f"Bearer {peer.key}"}
    manifest = await _manifest(client, base, headers, peer)
    if not lent.tree_sha256 or manifest.get("sha256") != lent.tree_sha256:
        raise WeightsFault(
            "weights_missing", f"{peer.host} has other weights under {lent.weights_key}"
        )
    out = work / "from-peer"
    files = [(_checked(entry["path"]), int(entry["bytes"])) for entry in manifest["files"]]
    before, total = 0, sum(size for _, size in files)
    for path, size in files:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        remote = RemoteFile(url=base + quote(path), size_bytes=size, headers=headers)
        if size and not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            await download(client, remote, partial, after(before, total, on_bytes))
            partial.replace(target)
        target.touch()
        before += size
    if await asyncio.to_thread(tree.computed, out) != lent.tree_sha256:
        await asyncio.to_thread(shutil.rmtree, out, ignore_errors=True)
        raise WeightsFault(
            "weights_checksum", f"what {peer.host} sent is not what it should be; it was not kept"
        )
    tree.keep(out, lent.tree_sha256)
    return out


async def _manifest(
    client: httpx.AsyncClient, base: str, headers: dict[str, str], peer: Peer
) -> dict[str, Any]:
    try:
        reply = await client.get(base, headers=headers, timeout=ASK_SECONDS)
    except httpx.TransportError as fault:
        why = str(fault) or type(fault).__name__
        raise WeightsFault("weights_missing", f"{peer.host} cannot be reached: {why}") from fault
    if not reply.is_success:
        raise WeightsFault("weights_missing", f"{peer.host} answered {reply.status_code}")
    found: dict[str, Any] = reply.json()
    return found


def _checked(path: str) -> str:
    """Return a relative path that stays below its folder. Raises WeightsFault otherwise."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise WeightsFault("weights_checksum", f"a peer named a file {path!r}")
    return path
