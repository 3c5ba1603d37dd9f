"""What the files of a model say: its config.json and its safetensors' index or header.

From a folder of this machine or from the model hub, at most a few megabytes and never code. Called
by `apps.catalog.actions`.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from apps.catalog.cards import NOT_STATED, Weights, Wish
from apps.catalog.config_shapes import BadConfig
from apps.catalog.entry import Licence
from apps.lib.problems import Problem

CONFIG_LIMIT_BYTES = 2 * 1024**2
INDEX_LIMIT_BYTES = 32 * 1024**2
HEADER_LIMIT_BYTES = 64 * 1024**2
HUB_SECONDS = 15.0

HUB = re.compile(r"hf:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
FOLDER = re.compile(r"path:(?P<folder>/\S+)")

type Read = Callable[[str, int, int], bytes | None]
"""(file, first byte, most bytes) -> those bytes, None if there is no such file."""


# --- What the files say ------------------------------------------------------------------------


def config_of(read: Read) -> Mapping[str, Any]:
    raw = read("config.json", 0, CONFIG_LIMIT_BYTES + 1)
    if raw is None:
        raise BadConfig("", "it has no config.json: this is no model that transformers knows")
    return _json(raw, "config.json", CONFIG_LIMIT_BYTES)


def weights_of(read: Read) -> Weights:
    """Return size and parameters from the index of the shards, else from the one file's header."""
    raw = read("model.safetensors.index.json", 0, INDEX_LIMIT_BYTES + 1)
    if raw is not None:
        index = _json(raw, "model.safetensors.index.json", INDEX_LIMIT_BYTES)
        size = (index.get("metadata") or {}).get("total_size")
        if not isinstance(size, int | float) or size <= 0:
            raise BadConfig("", "its safetensors index has no `metadata.total_size`")
        names = index.get("weight_map") or {}
        return Weights(bytes=int(size), has_head=_has_head(names))
    return _weights_of_header(_header(read))


def _header(read: Read) -> Mapping[str, Any]:
    start = read("model.safetensors", 0, 8)
    if start is None or len(start) < 8:
        raise BadConfig(
            "",
            "it has no model.safetensors and no index of shards: other forms of "
            "weights can hold code and are not read",
        )
    (length,) = struct.unpack("<Q", start)
    if length > HEADER_LIMIT_BYTES:
        raise BadConfig("", f"the header of model.safetensors says it is {length} bytes long")
    raw = read("model.safetensors", 8, length)
    return _json(raw or b"", "the header of model.safetensors", HEADER_LIMIT_BYTES)


def _weights_of_header(header: Mapping[str, Any]) -> Weights:
    """Return what a safetensors header tells: `{name: {dtype, shape, data_offsets}}`."""
    tensors = {name: t for name, t in header.items() if name != "__metadata__"}
    parameters, end = 0, 0
    for tensor in tensors.values():
        count = 1
        for dimension in tensor["shape"]:
            count *= int(dimension)
        parameters += count
        end = max(end, int(tensor["data_offsets"][1]))
    if not end:
        raise BadConfig("", "its model.safetensors holds no weights")
    return Weights(bytes=end, parameters=parameters, has_head=_has_head(tensors))


def _has_head(names: Mapping[str, Any]) -> bool:
    return any(name.endswith("lm_head.weight") for name in names)


def _json(raw: bytes, what: str, limit_bytes: int) -> Mapping[str, Any]:
    if len(raw) > limit_bytes:
        raise BadConfig("", f"{what} is larger than {limit_bytes // 1024**2} MiB")
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise BadConfig("", f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadConfig("", f"{what} is no JSON object")
    return value


# --- Where they are ----------------------------------------------------------------------------


def in_folder(folder: Path) -> Read:
    if not folder.is_dir():
        raise Problem(
            404,
            "unknown_model",
            f"source: there is no folder {folder} on the machine of the control plane. A folder "
            "that only a GPU host has needs a card written by hand: see docs/catalog.md.",
            extra={"field": "source"},
        )

    def read(name: str, first: int, most: int) -> bytes | None:
        try:
            with (folder / name).open("rb") as file:
                file.seek(first)
                return file.read(most)
        except OSError:
            return None

    return read


def on_hub(wish: Wish) -> tuple[Wish, Read]:
    """Return the wish with the commit and licence that the hub tells, and a reader of its files."""
    found = HUB.fullmatch(wish.source)
    assert found is not None
    repo, revision = found["repo"], found["revision"] or "main"
    client = _hub_client()
    told = _info(client, repo, revision)
    commit = str(told.get("sha") or revision)
    about = told.get("cardData") or {}
    stated = str(about.get("license") or "") if isinstance(about, dict) else ""
    licence = Licence(name=stated, url=f"https://huggingface.co/{repo}") if stated else NOT_STATED
    pinned = replace(
        wish, source=f"hf:{repo}@{commit}", licence=licence, gated=bool(told.get("gated"))
    )
    return pinned, _reader(client, repo, commit)


def _hub_client() -> httpx.Client:
    token = os.environ.get("HF_TOKEN", "")
    return httpx.Client(
        base_url=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=HUB_SECONDS,
        follow_redirects=True,
        max_redirects=3,
    )


def _info(client: httpx.Client, repo: str, revision: str) -> Mapping[str, Any]:
    answer = _get(client, f"/api/models/{repo}/revision/{revision}", 0, CONFIG_LIMIT_BYTES)
    if answer is None:
        raise Problem(
            404,
            "unknown_model",
            f"source: the hub has no model {repo} at {revision}, or it needs HF_TOKEN.",
            extra={"field": "source"},
        )
    try:
        return _json(answer, "the hub's answer", CONFIG_LIMIT_BYTES)
    except BadConfig as error:
        raise _hub_down(str(error)) from error


def _reader(client: httpx.Client, repo: str, commit: str) -> Read:
    def read(name: str, first: int, most: int) -> bytes | None:
        return _get(client, f"/{repo}/resolve/{commit}/{name}", first, most)

    return read


def _get(client: httpx.Client, path: str, first: int, most: int) -> bytes | None:
    """Return at most `most` bytes from `first` on, None for what is not there or not ours."""
    headers = {"Range": f"bytes={first}-{first + most - 1}"} if first or most < 1024 else {}
    try:
        with client.stream("GET", path, headers=headers) as answer:
            if answer.status_code in (401, 403, 404):
                return None
            answer.raise_for_status()
            skip = 0 if answer.status_code == httpx.codes.PARTIAL_CONTENT else first
            taken = b""
            for chunk in answer.iter_bytes():
                taken += chunk
                if len(taken) >= skip + most:
                    break
            return taken[skip : skip + most]
    except httpx.HTTPError as error:
        raise _hub_down(str(error)) from error


def _hub_down(why: str) -> Problem:
    return Problem(502, "hub_unreachable", f"The model hub does not answer: {why}")
