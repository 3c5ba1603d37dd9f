"""The development endpoints: sleep, wake, pause, resume, reset of the prefix cache.

It follows vLLM's protocol: `mode=abort` ends what is in flight with what it has, `wait` answers
once it is done, `keep` freezes it; requests that come while asleep are held and answered after
the wake-up. Levels 1 and 2 free the replica's memory; waking takes `wake_seconds`, and from level
2, where the weights must be read again, `load_seconds`. Called by `api`.
"""

import asyncio
import json
from collections.abc import Callable

from agents.simulator.engine import SleepLevel
from agents.simulator.errors import ApiError
from agents.simulator.faults import FaultKind
from agents.simulator.http1 import Exchange
from agents.simulator.replica import Replica

_MODES = ("abort", "wait", "keep")
_TAGS = {"weights", "kv_cache"}

type Routes = dict[str, dict[str, Callable[[Exchange], None]]]


def dev_routes(replica: Replica) -> Routes:
    """Return the routes that `--dev-mode` adds."""
    sleeper = _Sleeper(replica)
    return {
        "/sleep": {"POST": sleeper.sleep},
        "/wake_up": {"POST": sleeper.wake},
        "/is_sleeping": {"GET": sleeper.is_sleeping},
        "/pause": {"POST": sleeper.pause},
        "/resume": {"POST": sleeper.resume},
        "/is_paused": {"GET": sleeper.is_paused},
        "/reset_prefix_cache": {"POST": sleeper.reset_prefix_cache},
        "/collective_rpc": {"POST": sleeper.collective_rpc},
    }


class _Sleeper:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._engine = replica.engine
        self._wanted_tags = set(_TAGS)
        self._is_waking = False
        self._fault = replica.options.fault.kind

    def sleep(self, exchange: Exchange) -> None:
        level = _level(exchange.query.get("level", "1"))
        if self._fault is FaultKind.SLEEP_FAILS:
            raise ApiError(500, "sleep failed (simulated fault)")

        def done() -> None:
            keeps = self._fault is FaultKind.SLEEP_KEEPS_MEMORY
            self._engine.sleep(level, keeps_memory=keeps)
            self._wanted_tags = set(_TAGS)
            _send(exchange, {"status": "sleeping"})

        self._quieten(_mode(exchange), done)

    def pause(self, exchange: Exchange) -> None:
        def done() -> None:
            self._engine.pause()
            _send(exchange, {"status": "paused"})

        self._quieten(_mode(exchange), done)

    def wake(self, exchange: Exchange) -> None:
        tags = set(filter(None, exchange.query.get("tags", "").split(","))) or _TAGS
        if not tags <= _TAGS:
            raise ApiError(400, f"tags must be among {sorted(_TAGS)}", param="tags")
        if self._fault is FaultKind.WAKE_FAILS:
            raise ApiError(500, "wake-up failed (simulated fault)")
        if self._fault is FaultKind.WAKE_HANGS:
            return
        self._wanted_tags -= tags
        if self._engine.level is None or self._wanted_tags or self._is_waking:
            _send(exchange, {"status": self._status()})
            return
        options = self._replica.options
        is_reload = self._engine.level is SleepLevel.DISCARDED
        self._is_waking = True
        seconds = options.load_seconds if is_reload else options.wake_seconds
        asyncio.get_running_loop().call_later(seconds, self._awake, exchange)

    def resume(self, exchange: Exchange) -> None:
        if self._engine.level is None:
            self._engine.resume()
        _send(exchange, {"status": "resumed"})

    def is_sleeping(self, exchange: Exchange) -> None:
        _send(exchange, {"is_sleeping": self._engine.is_asleep})

    def is_paused(self, exchange: Exchange) -> None:
        _send(exchange, {"is_paused": self._engine.core.is_paused})

    def reset_prefix_cache(self, exchange: Exchange) -> None:
        self._engine.core.pool.forget()
        exchange.send(200, b"")

    def collective_rpc(self, exchange: Exchange) -> None:
        """Take `reload_weights`, which level 2 needs; the simulator read them when it woke."""
        _send(exchange, {"results": [None]})

    def _awake(self, exchange: Exchange) -> None:
        self._is_waking = False
        if self._fault is FaultKind.WAKE_GARBLES:
            self._replica.author.garble()
        self._engine.wake()
        _send(exchange, {"status": self._status()})

    def _status(self) -> str:
        return "sleeping" if self._engine.is_asleep else "awake"

    def _quieten(self, mode: str, done: Callable[[], None]) -> None:
        if mode == "wait":
            self._engine.when_drained(done)
            return
        if mode == "abort":
            self._engine.abort_all()
        done()


def _mode(exchange: Exchange) -> str:
    mode = exchange.query.get("mode", "abort")
    if mode not in _MODES:
        raise ApiError(400, f"mode must be one of {', '.join(_MODES)}", param="mode")
    return mode


def _level(text: str) -> SleepLevel:
    try:
        return SleepLevel(int(text))
    except ValueError as fault:
        raise ApiError(400, "level must be 0, 1 or 2", param="level") from fault


def _send(exchange: Exchange, document: object) -> None:
    exchange.send(200, json.dumps(document).encode())
