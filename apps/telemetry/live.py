"""Live numbers: what gateways and agents post goes to Redis, what pages show comes from there.

Redis keeps the newest reading of each source and one reading of each per slot of two seconds;
slots expire by themselves, so memory is bounded without anybody cleaning up. Everything here is
lossy and never raises for an absent Redis: numbers are then empty and marked stale, wakes wait for
the gateway to ring again. Called by the endpoints of gateways and agents (writes), by pages, the
API, Prometheus and the autoscaler (reads).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from agents.wire import ReplicaSample
from apps.lib import clock, doorbell
from apps.lib.redis import async_client, client
from apps.telemetry import writer
from apps.telemetry.counters import HostReading, Seen, Slot
from apps.telemetry.numbers import FRESH_SECONDS, FleetNumbers, Readings, compute
from apps.telemetry.writer import TIMEOUT_SECONDS, UNREACHABLE
from gateway.wire import Live

logger = logging.getLogger(__name__)

SLOT_SECONDS = 2
SLOT_KEPT_SECONDS = 240
"""A worker that is away for so long loses no bucket of the time series."""
SILENT_SECONDS = 60
"""The newest readings go when every source has been silent for so long."""
WAKE_SECONDS = 30.0
"""A wish to wake a deployment counts for so long; gateways repeat it while requests wait."""
MEMBERS_SECONDS = 120
SAME_SECONDS = 0.25
"""Numbers of the same readings are computed again after so long: their age counts too."""

GATEWAYS = "gateways"
HOSTS = "hosts"

_SHORT_SLOTS, _LONG_SLOTS = (5, 4), (30, 29)
"""How many slots back older readings are looked for; the later slot counts where both have one."""
_MEMBERS_KEY = "hearth:members"
_WAKES_KEY = "hearth:wakes"

_LIVE = msgspec.json.Decoder(Live)
_HOST_READING = msgspec.json.Decoder(HostReading)


# --- Writes ------------------------------------------------------------------------------------


async def put_gateway(gateway_id: str, body: bytes) -> bool:
    """Keep a gateway's `Live` message as its newest reading; return whether it was kept."""
    return await _put(GATEWAYS, gateway_id, body)


async def put_host(host_name: str, samples_json: bytes) -> bool:
    """Keep what the agent of `host_name` sampled; return whether it was kept.

    `samples_json` is any JSON object with `samples` and `host_sample` as in `agents.wire.Report`;
    the report's own body will do. A report without samples is not for here.
    """
    return await _put(HOSTS, host_name, samples_json)


async def _put(kind: str, source: str, body: bytes) -> bool:
    now = clock.now().timestamp()
    return await writer.put(
        (_now_key(kind), _slot_key(kind, slot_of(now)), source),
        b"%.3f\n%b" % (now, body),
        newest_seconds=SILENT_SECONDS,
        slot_seconds=SLOT_KEPT_SECONDS,
    )


async def put_wakes(deployments: Iterable[str]) -> None:
    """Note that requests wait for these deployments at zero replicas, and ring the controller."""
    now = clock.now().timestamp()
    pipe = async_client().pipeline(transaction=False)
    pipe.zadd(_WAKES_KEY, dict.fromkeys(deployments, now))
    pipe.publish(doorbell.CHANNEL, doorbell.CONTROLLER)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await pipe.execute()
    except UNREACHABLE as error:
        logger.warning("wish to wake not kept: %s", error)


def put_members(members: Mapping[str, str]) -> None:
    """Tell which deployment each replica (UUID as text) belongs to; repeat it within a minute."""
    try:
        client().set(_MEMBERS_KEY, msgspec.json.encode(members), ex=MEMBERS_SECONDS)
    except UNREACHABLE as error:
        logger.warning("members of deployments not kept: %s", error)


def forget_silent(now: datetime) -> int:
    """Drop the newest readings of sources that have gone; return how many.

    Each start of a gateway is a new source. Raises redis.RedisError.
    """
    dropped = 0
    for kind in (GATEWAYS, HOSTS):
        stored: Any = client().hgetall(_now_key(kind))
        gone = [
            source
            for source, value in stored.items()
            if now.timestamp() - float(value.partition(b"\n")[0]) > SILENT_SECONDS
        ]
        if gone:
            dropped += int(client().hdel(_now_key(kind), *gone))
    return dropped


# --- Reads -------------------------------------------------------------------------------------


def numbers() -> FleetNumbers:
    """Return the fleet's live numbers: one round trip. Never raises; see `FleetNumbers.stale`."""
    now = clock.now()
    pipe = client().pipeline(transaction=False)
    _ask(pipe, now)
    try:
        answers = pipe.execute()
    except UNREACHABLE as error:
        return _stale(now, error)
    return _computed(answers, now.timestamp())


_last: tuple[float, list[Any], FleetNumbers] | None = None
"""What this process computed last, and from which answers."""


def _computed(answers: list[Any], now: float) -> FleetNumbers:
    """Compute the numbers, or return the last ones if they were just made of the same readings.

    Readings change once a second; a list that is asked for a hundred times in it need not compute
    the whole fleet a hundred times.
    """
    global _last
    known = _last
    if known is not None and 0 <= now - known[0] < SAME_SECONDS and known[1] == answers:
        return known[2]
    made = compute(_readings(answers), now)
    _last = now, answers, made
    return made


async def anumbers() -> FleetNumbers:
    """Return `numbers()` without blocking the event loop on Redis."""
    now = clock.now()
    pipe = async_client().pipeline(transaction=False)
    _ask(pipe, now)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answers = await pipe.execute()
    except UNREACHABLE as error:
        return _stale(now, error)
    return _computed(answers, now.timestamp())


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest readings as they came, for who counts for itself."""

    gateways: Mapping[str, Seen[Live]]
    """By gateway; each start of one is another."""
    samples: Mapping[str, ReplicaSample]
    """What each engine said of itself, by replica."""


def newest(now: datetime) -> Newest | None:
    """Return the newest readings of what was heard in the last ten seconds; None without Redis."""
    pipe = client().pipeline(transaction=False)
    pipe.hgetall(_now_key(GATEWAYS))
    pipe.hgetall(_now_key(HOSTS))
    try:
        gateways, hosts = pipe.execute()
    except UNREACHABLE as error:
        logger.warning("newest readings not read: %s", error)
        return None
    since = now.timestamp() - FRESH_SECONDS
    fresh = (seen for seen in _host_readings(hosts).values() if seen.at >= since)
    return Newest(
        gateways={name: seen for name, seen in _lives(gateways).items() if seen.at >= since},
        samples={s.replica_id: s for seen in fresh for s in seen.reading.samples},
    )


def wakes(now: datetime) -> frozenset[str]:
    """Return the names of deployments at zero for which requests wait; empty without Redis."""
    since = now.timestamp() - WAKE_SECONDS
    try:
        pipe = client().pipeline(transaction=False)
        pipe.zremrangebyscore(_WAKES_KEY, "-inf", since)
        pipe.zrange(_WAKES_KEY, 0, -1)
        names = pipe.execute()[1]
    except UNREACHABLE as error:
        logger.warning("wishes to wake not read: %s", error)
        return frozenset()
    return frozenset(name.decode() for name in names)


def table_revisions(now: datetime, silent_seconds: float) -> list[int]:
    """Return which routing table each gateway has that was heard in the last `silent_seconds`.

    Empty without Redis.
    """
    try:
        stored: Any = client().hgetall(_now_key(GATEWAYS))
    except UNREACHABLE as error:
        logger.warning("tables of gateways not read: %s", error)
        return []
    since = now.timestamp() - silent_seconds
    return [seen.reading.table_revision for seen in _lives(stored).values() if seen.at >= since]


def slots(first: int, last: int) -> list[Slot]:
    """Return the readings of slots `first` to `last`, both included.

    Raises redis.RedisError: the caller is a task that comes again.
    """
    pipe = client().pipeline(transaction=False)
    for slot in range(first, last + 1):
        pipe.hgetall(_slot_key(GATEWAYS, slot))
        pipe.hgetall(_slot_key(HOSTS, slot))
    answers = pipe.execute()
    return [
        Slot(_lives(gateways), _host_readings(hosts))
        for gateways, hosts in zip(answers[::2], answers[1::2], strict=True)
    ]


def slot_of(at: float) -> int:
    """Return the number of the slot that `at` (seconds since the epoch) lies in."""
    return int(at // SLOT_SECONDS)


def _ask(pipe: Any, now: datetime) -> None:  # noqa: ANN401 - sync and async pipelines alike
    slot = slot_of(now.timestamp())
    pipe.get(_MEMBERS_KEY)
    for kind in (GATEWAYS, HOSTS):
        pipe.hgetall(_now_key(kind))
        for back in (*_SHORT_SLOTS, *_LONG_SLOTS):
            pipe.hgetall(_slot_key(kind, slot - back))


def _readings(answers: list[Any]) -> Readings:
    members = msgspec.json.decode(answers[0], type=dict[str, str]) if answers[0] else {}
    return Readings(
        gateways=tuple(_lives(stored) for stored in _three(answers[1:6])),
        hosts=tuple(_host_readings(stored) for stored in _three(answers[6:11])),
        members=members,
    )


def _three(stored: list[Any]) -> list[dict[bytes, bytes]]:
    """Return the newest readings, those some seconds old, and those a minute old, undecoded."""
    newest, short, short_later, long, long_later = stored
    return [newest, {**short, **short_later}, {**long, **long_later}]


def _lives(stored: Mapping[bytes, bytes]) -> dict[str, Seen[Live]]:
    return _decoded(stored, _LIVE.decode)


def _host_readings(stored: Mapping[bytes, bytes]) -> dict[str, Seen[HostReading]]:
    return _decoded(stored, _HOST_READING.decode)


def _decoded[R](stored: Mapping[bytes, bytes], decode: Callable[[bytes], R]) -> dict[str, Seen[R]]:
    """Return the readings by source, without those that a later release wrote in its own way."""
    seen = {}
    for source, value in stored.items():
        at, _, body = value.partition(b"\n")
        try:
            seen[source.decode()] = Seen(float(at), decode(body))
        except (msgspec.DecodeError, ValueError) as error:
            logger.warning("reading of %s left out: %s", source, error)
    return seen


def _stale(now: datetime, error: Exception) -> FleetNumbers:
    logger.warning("live numbers not read: %s", error)
    return FleetNumbers(at=now.timestamp(), stale=True)


def _now_key(kind: str) -> str:
    return f"hearth:now:{kind}"


def _slot_key(kind: str, slot: int) -> str:
    return f"hearth:slot:{kind}:{slot}"
