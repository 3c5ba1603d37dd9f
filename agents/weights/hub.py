"""Weights on a model hub: `hf:<org>/<name>@<revision>`, over plain HTTPS.

Speaks the three calls of the hub's API that are needed: revision -> commit, commit -> list of
files with sizes and checksums, file by commit. Only what an engine loads safely is fetched:
safetensors, configuration and tokenizer; never pickles, never code.
Source: huggingface_hub, `HfApi.model_info`, `HfApi.list_repo_tree`, `hf_hub_url`.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from agents.weights.download import OnBytes, RemoteFile, after, download, storage_fault
from agents.weights.fault import WeightsFault

KEPT_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken")
MAX_PAGES = 100
"""Of a file list; a page holds up to 1,000 files."""
_SOURCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


@dataclass(frozen=True)
class HubSource:
    repo: str
    revision: str


@dataclass(frozen=True)
class Hub:
    """A hub, or a mirror of it, and how to reach it."""

    client: httpx.AsyncClient
    base: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def parse(text: str) -> HubSource:
    """Return what follows `hf:`. Raises WeightsFault if it is not `org/name@revision`."""
    found = _SOURCE.fullmatch(text)
    if found is None or ".." in found["revision"]:
        raise WeightsFault(
            "weights_missing", f"the source hf:{text} is not hf:<org>/<name>@<revision>"
        )
    return HubSource(found["repo"], found["revision"])


async def fetch(hub: Hub, source: HubSource, work: Path, *, on_bytes: OnBytes) -> Path:
    """Bring the files of `source` under `work` and return their folder.

    `on_bytes` gets the bytes of all files together. Files that are already whole are kept.
    """
    commit = await _commit(hub, source)
    files = _wanted(await _tree(hub, source.repo, commit), source)
    out = work / commit
    remote = {path: _remote_file(hub, source.repo, commit, entry) for path, entry in files.items()}
    before, total = 0, sum(file.size_bytes for file in remote.values())
    for path, file in remote.items():
        target = out / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise storage_fault(fault, target) from fault
        await _bring(hub.client, file, target, after(before, total, on_bytes))
        before += file.size_bytes
    return out


async def _bring(
    client: httpx.AsyncClient, file: RemoteFile, target: Path, on_bytes: OnBytes
) -> None:
    if await asyncio.to_thread(target.exists):  # it was renamed after its checksum was right
        on_bytes(file.size_bytes, file.size_bytes)
        return
    partial = target.with_name(f"{target.name}.partial")
    if file.size_bytes == 0:
        partial.touch()
    else:
        await download(client, file, partial, on_bytes)
    partial.replace(target)


def _remote_file(hub: Hub, repo: str, commit: str, entry: dict[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    return RemoteFile(
        url=f"{hub.base}/{repo}/resolve/{commit}/{quote(entry['path'])}",
        size_bytes=large.get("size") or entry.get("size") or 0,
        sha256=large.get("oid", ""),
        git_oid="" if large else entry.get("oid", ""),
        headers=hub.headers,
    )


def _wanted(entries: list[dict[str, Any]], source: HubSource) -> dict[str, dict[str, Any]]:
    """Return the files to fetch, by path. Raises WeightsFault if no engine could load them."""
    files = {
        entry["path"]: entry
        for entry in entries
        if entry["type"] == "file" and _is_kept(PurePosixPath(entry["path"]))
    }
    if not any(path.endswith(".safetensors") for path in files):
        raise WeightsFault(
            "weights_missing",
            f"{source.repo} has no safetensors files at {source.revision}: other formats can run "
            "code when they are loaded and are not fetched",
        )
    return files


def _is_kept(path: PurePosixPath) -> bool:
    """Top-level files, and one folder deep (adapters, pooling); not `original/` and the like."""
    if (
        path.is_absolute()
        or ".." in path.parts
        or path.parts[0] in ("original", "onnx", "openvino")
    ):
        return False
    return len(path.parts) <= 2 and path.suffix in KEPT_SUFFIXES


async def _tree(hub: Hub, repo: str, commit: str) -> list[dict[str, Any]]:
    """Return every entry of the repository at `commit`, page by page."""
    url = f"{hub.base}/api/models/{repo}/tree/{commit}?recursive=true&expand=false"
    entries: list[dict[str, Any]] = []
    for _ in range(MAX_PAGES):
        reply = await _ask(hub, url)
        entries += reply.json()
        following = reply.links.get("next", {}).get("url")
        if following is None:
            return entries
        url = following
    raise WeightsFault("weights_missing", f"{repo} lists more than {MAX_PAGES} pages of files")


async def _commit(hub: Hub, source: HubSource) -> str:
    """Return the commit that a branch, tag or short id stands for, so that all files agree."""
    revision = quote(source.revision, safe="")
    reply = await _ask(hub, f"{hub.base}/api/models/{source.repo}/revision/{revision}")
    return str(reply.json()["sha"])


async def _ask(hub: Hub, url: str) -> httpx.Response:
    try:
        reply = await hub.client.get(url, headers=hub.headers)
    except httpx.TransportError as fault:
        raise WeightsFault(
            "weights_missing", f"{hub.base} cannot be reached: {fault or type(fault).__name__}"
        ) from fault
    if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise WeightsFault(
            "weights_missing",
            f"{hub.base} refuses {reply.url.path}: accept the model's licence there and put a "
            "token of that account into the file that HF_TOKEN_PATH names",
        )
    if not reply.is_success:
        raise WeightsFault(
            "weights_missing", f"{hub.base}{reply.url.path} answered {reply.status_code}"
        )
    return reply
