"""The simulator engine: its command line from typed settings, and how to read what it prints.

The program is `agents.simulator`; it runs under the agent's own interpreter, needs no weights and
no GPU, and speaks vLLM's API, so readiness and metrics are read as vLLM's. It runs as a process
only: no image holds it.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

import agents
from agents.answers import Answers
from agents.engines import kv_events, vllm_api, vllm_flags
from agents.engines.base import Place, StageMark, StageRule
from agents.runtimes.base import Launch
from agents.simulator.faults import parse_fault
from agents.simulator.loading import STAGES
from agents.simulator.options import TASKS
from agents.standing import instance_name, labels
from agents.wire import (
    EngineKind,
    ReplicaOrder,
    ReplicaSample,
    RuntimeKind,
    SimulatorSettings,
    Task,
)

COMMAND = (sys.executable, "-m", "agents.simulator")
"""How the process runtime starts it, unless the place says otherwise."""
SHUTDOWN_MARGIN_SECONDS = 1.0
"""From the end of the simulator's own drain to SIGKILL."""
DEFAULT_BLOCK_TOKENS = 16
DEFAULT_BATCHED_TOKENS = 8192
SLEEPER_BYTES = 64 << 20
"""Held while awake by a simulator that may sleep and has no size of its own."""
_LEAST_CACHE_TOKENS = 64
_SOURCE_ROOT = str(Path(agents.__file__).parent.parent)


@dataclass(frozen=True)
class SimulatorEngine:
    """Describes how the simulator is run and reads what it says."""

    kind: EngineKind = EngineKind.SIMULATOR
    metrics_path: str = vllm_api.METRICS_PATH

    def default_image(self, device: str) -> str:
        """Return "": no image holds the simulator."""
        return ""

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        """Return the one way to run `order` at `place`. Raises ValueError naming a wrong field."""
        if place.runtime is not RuntimeKind.PROCESS:
            raise ValueError("engine is simulator: it runs in the process runtime only")
        settings = order.spec.simulator or SimulatorSettings()
        _check_names(order.spec.served_names)
        _check_task(order.spec.task)
        _check(settings)
        vllm_flags.check_seat(order)
        flags = (
            *_listen(place),
            *_serving_flags(order),
            *_model_flags(order, settings),
            *vllm_flags.seat_flags(order),
            *kv_events.flags(order.spec, str(place.run_dir)),
        )
        return Launch(
            name=instance_name(order),
            labels=labels(order, place.host_id),
            engine=self.kind,
            device=order.spec.device,
            argv=(*(place.engine_command or COMMAND), *flags),
            env=_environment(place),
            run_dir=place.run_dir,
            memory_bytes=order.spec.memory_bytes,
            stop_grace_seconds=order.stop_grace_seconds,
        )

    def read_line(self, line: str) -> StageMark | None:
        """Return what this log line tells of the start, None if nothing."""
        return next((mark for rule in _RULES if (mark := rule.read(line)) is not None), None)

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        """Return whether it is healthy and answers one token, vector or score."""
        return await vllm_api.probe(client, order)

    async def first_answers(self, client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
        """Return nothing: no model answers here."""
        return Answers()

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Return whether `/health` answers 200."""
        return await vllm_api.healthy(client)

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        """Return one sample from the text of `/metrics`."""
        return vllm_api.sample(replica_id, at, metrics)

    def kv_cache_tokens(self, metrics: str) -> int | None:
        """Return the capacity of the simulated KV cache in tokens."""
        return vllm_api.kv_cache_tokens(metrics)


def _check_names(served_names: tuple[str, ...]) -> None:
    if not served_names:
        raise ValueError("served_names is empty: give at least one name")
    for number, name in enumerate(served_names):
        # It would be read as a flag.
        if not name or name.startswith("-"):
            raise ValueError(f"served_names[{number}] is {name!r}: begin with a letter or digit")


def _check_task(task: Task) -> None:
    if task not in TASKS:
        raise ValueError(f"task is {task}: the simulator does {', '.join(TASKS)}")


def _check(settings: SimulatorSettings) -> None:
    """Raise ValueError naming the field that the program would refuse."""
    for field in ("prefill_tokens_per_second", "decode_seconds_per_token"):
        if getattr(settings, field) <= 0:
            raise ValueError(f"simulator.{field} is {getattr(settings, field)}: use more than 0")
    for field in (
        "load_seconds",
        "wake_seconds",
        "decode_slowdown_per_stream",
        "host_cache_tokens",
        "memory_bytes",
        "seed",
    ):
        if getattr(settings, field) < 0:
            raise ValueError(f"simulator.{field} is {getattr(settings, field)}: use 0 or more")
    if settings.max_num_seqs < 1:
        raise ValueError(f"simulator.max_num_seqs is {settings.max_num_seqs}: use 1 or more")
    if settings.kv_cache_tokens < _LEAST_CACHE_TOKENS:
        least = f"use {_LEAST_CACHE_TOKENS} or more"
        raise ValueError(f"simulator.kv_cache_tokens is {settings.kv_cache_tokens}: {least}")
    try:
        parse_fault(settings.fail)
    except ValueError as fault:
        raise ValueError(f"simulator.fail: {fault}") from fault


def _listen(place: Place) -> Iterator[str]:
    if place.port is None:
        # Only the agent and the relay reach the socket, so they may put the engine to sleep.
        yield from ("--uds", str(place.socket), "--dev-mode")
    else:
        yield from ("--host", "127.0.0.1", "--port", str(place.port))


def _serving_flags(order: ReplicaOrder) -> Iterator[str]:
    spec = order.spec
    yield from ("--served-model-name", *spec.served_names)
    yield f"--model={spec.weights.key or spec.served_names[0]}"
    yield from ("--task", spec.task.value)
    yield "--enable-prompt-tokens-details"
    yield "--enable-request-id-headers"
    shutdown = max(1.0, order.stop_grace_seconds - SHUTDOWN_MARGIN_SECONDS)
    yield from ("--shutdown-timeout", str(shutdown))


def _model_flags(order: ReplicaOrder, simulator: SimulatorSettings) -> Iterator[str]:
    settings = order.spec.settings
    block_tokens = min(settings.block_size or DEFAULT_BLOCK_TOKENS, simulator.kv_cache_tokens)
    cache_tokens = simulator.kv_cache_tokens // block_tokens * block_tokens
    batched_tokens = settings.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS
    values: dict[str, object] = {
        "--block-size": block_tokens,
        "--kv-cache-tokens": cache_tokens,
        "--host-cache-tokens": simulator.host_cache_tokens,
        "--max-num-seqs": simulator.max_num_seqs,
        "--max-num-batched-tokens": max(batched_tokens, simulator.max_num_seqs + 1),
        "--load-seconds": simulator.load_seconds,
        "--wake-seconds": simulator.wake_seconds,
        "--prefill-tokens-per-second": simulator.prefill_tokens_per_second,
        "--decode-seconds-per-token": simulator.decode_seconds_per_token,
        "--decode-slowdown-per-stream": simulator.decode_slowdown_per_stream,
        "--memory-bytes": _memory_bytes(order, simulator),
        "--seed": simulator.seed,
    }
    if settings.max_model_len is not None:
        # The catalog's length is the model's; a small simulated cache holds less.
        values["--max-model-len"] = min(settings.max_model_len, cache_tokens)
    if simulator.fail:
        values["--fail"] = simulator.fail
    for flag, value in values.items():
        yield from (flag, str(value))
    if not settings.enable_prefix_caching:
        yield "--no-enable-prefix-caching"


def _memory_bytes(order: ReplicaOrder, simulator: SimulatorSettings) -> int:
    """Return the memory it holds while awake: one that is to sleep has something to give back."""
    return simulator.memory_bytes or (SLEEPER_BYTES if order.spec.can_sleep else 0)


def _environment(place: Place) -> dict[str, str]:
    environment = {"PYTHONPATH": _SOURCE_ROOT, "PYTHONUNBUFFERED": "1", "HOME": str(place.run_dir)}
    # Not an argument: other users of the host can read those.
    key = {"VLLM_API_KEY": place.api_key} if place.port is not None and place.api_key else {}
    return environment | key


def _pattern(template: str) -> re.Pattern[str]:
    """Return the pattern of a line of `loading.STAGES`; its fields become groups."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\S+)", re.escape(template)))


_RULES = tuple(
    StageRule(stage.name, _pattern(template))
    for stage in STAGES
    for template in (stage.begins, stage.ends)
    if template
)
