"""Weights in a bucket: `s3:<bucket>/<prefix>`, by signed GETs (AWS Signature Version 4).

Any service that speaks S3's two calls does: ListObjectsV2 and GetObject. Keys come from the
environment as AWS's own tools read them; without keys requests are not signed, for public buckets.
Source: AWS, "Authenticating Requests (AWS Signature Version 4)".
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

import httpx

from agents.weights.download import OnBytes, RemoteFile, after, download
from agents.weights.fault import WeightsFault
from agents.weights.hub import KEPT_SUFFIXES

MAX_PAGES = 100
_EMPTY = hashlib.sha256(b"").hexdigest()
_SOURCE = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>[\w./@+-]+)")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Store:
    """A service that speaks S3, and who asks."""

    endpoint: str = "https://s3.amazonaws.com"
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""


@dataclass(frozen=True)
class Place:
    bucket: str
    prefix: str


@dataclass(frozen=True)
class Entry:
    key: str
    size: int
    md5: str
    """Empty where the service's tag is none, as after an upload in parts."""


def from_environment(environ: Mapping[str, str]) -> Store:
    """Return the service that this host is configured for."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL", "")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or Store.region
    return Store(
        endpoint=(endpoint or Store.endpoint).rstrip("/"),
        region=region,
        access_key=environ.get("AWS_ACCESS_KEY_ID", ""),
        secret_key=environ.get("AWS_SECRET_ACCESS_KEY", ""),
        session_token=environ.get("AWS_SESSION_TOKEN", ""),
    )


def parse(text: str) -> Place:
    """Return what follows `s3:`. Raises WeightsFault if it is not `<bucket>/<prefix>`."""
    found = _SOURCE.fullmatch(text.removeprefix("//").rstrip("/"))
    if found is None or ".." in text:
        raise WeightsFault("weights_missing", f"the source s3:{text} is not s3:<bucket>/<prefix>")
    return Place(found["bucket"], found["prefix"])


async def fetch(
    client: httpx.AsyncClient, store: Store, place: Place, work: Path, *, on_bytes: OnBytes
) -> Path:
    """Bring what lies under the prefix to `work` and return the folder.

    Raises WeightsFault(`weights_missing` | `weights_checksum` | `disk_full`).
    """
    out = work / "s3"
    wanted = [(entry, path) for entry in await _list(client, store, place)
              if (path := _kept(entry.key, place.prefix))]  # fmt: skip
    if not any(path.endswith(".safetensors") for _, path in wanted):
        raise WeightsFault(
            "weights_missing", f"s3:{place.bucket}/{place.prefix} holds no safetensors files"
        )
    before, total = 0, sum(entry.size for entry, _ in wanted)
    for entry, path in wanted:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        url = f"{store.endpoint}/{place.bucket}/{quote(entry.key)}"
        if entry.size and not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            remote = RemoteFile(
                url=url, size_bytes=entry.size, md5=entry.md5, sign=lambda url: signed(store, url)
            )
            await download(client, remote, partial, after(before, total, on_bytes))
            partial.replace(target)
        target.touch()
        before += entry.size
    return out


def _kept(key: str, prefix: str) -> str:
    """Return the path below the prefix, empty for what no engine needs or may load."""
    path = key.removeprefix(prefix).lstrip("/")
    parts = PurePosixPath(path).parts
    safe = parts and ".." not in parts and len(parts) <= 2
    return path if safe and path.endswith(KEPT_SUFFIXES) else ""


async def _list(client: httpx.AsyncClient, store: Store, place: Place) -> list[Entry]:
    entries: list[Entry] = []
    token = ""
    for _ in range(MAX_PAGES):
        query = {"list-type": "2", "prefix": f"{place.prefix}/"}
        query |= {"continuation-token": token} if token else {}
        url = f"{store.endpoint}/{place.bucket}?{urlencode(sorted(query.items()))}"
        page = await _page(client, store, url)
        entries += [_entry(item) for item in page.iterfind("{*}Contents")]
        token = page.findtext("{*}NextContinuationToken") or ""
        if not token:
            return entries
    raise WeightsFault("weights_missing", f"{place.prefix} lists more than {MAX_PAGES} pages")


async def _page(client: httpx.AsyncClient, store: Store, url: str) -> ElementTree.Element:
    try:
        reply = await client.get(url, headers=signed(store, url))
    except httpx.TransportError as fault:
        raise WeightsFault("weights_missing", f"{store.endpoint} cannot be reached") from fault
    if not reply.is_success:
        raise WeightsFault(
            "weights_missing",
            f"{store.endpoint} answered {reply.status_code}: check the bucket, and the keys in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the agent",
        )
    return ElementTree.fromstring(reply.content)


def _entry(item: ElementTree.Element) -> Entry:
    tag = (item.findtext("{*}ETag") or "").strip('"')
    return Entry(
        key=item.findtext("{*}Key") or "",
        size=int(item.findtext("{*}Size") or 0),
        md5=tag if _MD5.fullmatch(tag) else "",
    )


def signed(store: Store, url: str, now: datetime | None = None) -> dict[str, str]:
    """Return the headers with which a GET of `url` is signed; none without keys."""
    if not store.access_key:
        return {}
    parts = urlsplit(url)
    at = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")  # noqa: TID251 - signed
    headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": at}
    if store.session_token:
        headers["x-amz-security-token"] = store.session_token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    query = "&".join(sorted(parts.query.replace("+", "%20").split("&"))) if parts.query else ""
    canonical = f"GET\n{parts.path}\n{query}\n{lines}\n{names}\n{_EMPTY}"
    scope = f"{at[:8]}/{store.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{digest}"
    signature = hmac.new(_key(store, at[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{store.access_key}/{scope}"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _key(store: Store, day: str) -> bytes:
    key = f"AWS4{store.secret_key}".encode()
    for part in (day, store.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
