"""The command line of `vllm serve` for one order, written from the declaration of the settings.

Decides what the agent refuses before a long start: values that vLLM would misread or not accept,
methods that the device cannot run, arguments that nobody may give. Pure.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from agents import engine_flags, engine_support
from agents.engine_settings import SETTINGS, EngineSettings
from agents.engines.base import Place
from agents.runtimes.base import CONTAINER_CACHE_DIR, CONTAINER_WEIGHTS_DIR, Mount
from agents.setting import Form, Setting, plain
from agents.wire import EngineSpec, ReplicaOrder, RuntimeKind, Task

SHUTDOWN_MARGIN_SECONDS = 5.0
"""What vLLM needs to exit after its own shutdown timeout, before SIGKILL (measured: 5.3 s idle)."""
CPU_KV_CACHE_BYTES = 1 << 30
"""Of a CPU engine where the order names none. vLLM's own default there is a share of all memory,
and it refuses to start unless 92 % of that is free at this moment."""
POOLING_KV_CACHE_BYTES = 16 << 20
"""The same for models that do not generate: asked for, never filled."""
GIB = 1 << 30
NGRAM_MOST, NGRAM_LEAST = 4, 2
"""Tokens of the prompt that must repeat before the ones behind them are guessed."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,199}")


def check(
    spec: EngineSpec, *, support: bool = True, cpu_features: frozenset[str] | None = None
) -> None:
    """Raise ValueError naming the field that vLLM would refuse after a long start, or misread.

    `support=False` lets methods pass that the device is known to fail at; `cpu_features` are those
    of this host, None if they are not known.
    """
    if not spec.served_names:
        raise ValueError("served_names is empty: give at least one name")
    for number, name in enumerate(spec.served_names):
        _check_word(f"served_names[{number}]", name)
    for adapter in spec.adapters:
        _check_word("adapters", adapter.name)
    for name, setting in SETTINGS.items():
        _check_value(name, setting, getattr(spec.settings, name), spec.device)
    if support:
        _check_support(spec, cpu_features)
    try:
        engine_flags.checked(spec.settings.extra_args)
    except engine_flags.BadArgument as error:
        raise ValueError(f"settings.extra_args: {error}") from error


def _check_word(field: str, word: str) -> None:
    # An argument that begins with a dash would be read as another flag.
    if not _WORD.fullmatch(word):
        raise ValueError(f"{field} is {word!r}: use letters, digits and _ . : / + -")


def _check_value(name: str, setting: Setting, value: Any, device: str) -> None:  # noqa: ANN401
    if value is None or isinstance(value, bool | tuple | dict):
        return
    field = f"settings.{name}"
    if isinstance(value, str):
        _check_word(field, value)
        return
    if setting.low is not None and value < setting.low:
        raise ValueError(f"{field} is {value}: use {plain(setting.low)} or more")
    if setting.high is not None and value > setting.high:
        raise ValueError(f"{field} is {value}: use {plain(setting.high)} or less")
    step = setting.step(device)
    if step and value % step:
        raise ValueError(f"{field} is {value}: on {device} use a multiple of {step}")


def _check_support(spec: EngineSpec, cpu_features: frozenset[str] | None) -> None:
    for name in ("quantization", "kv_cache_dtype"):
        value = getattr(spec.settings, name)
        if value is None:
            continue
        why = engine_support.why_not(name, value, spec.device)
        if not why and spec.device == "cpu" and cpu_features is not None:
            why = engine_support.cpu_lacks(name, value, cpu_features)
        if why:
            raise ValueError(f"settings.{name} is {value!r}: {why}")


def server_flags(order: ReplicaOrder) -> Iterator[str]:
    """Yield what every server gets: usage with cached tokens, request ids, a bounded shutdown."""
    yield from ("--served-model-name", *order.spec.served_names)
    yield "--enable-prompt-tokens-details"
    yield "--enable-request-id-headers"
    # With 0 open streams would hang for ever; the rest of the grace is for the exit itself.
    shutdown = max(1, int(order.stop_grace_seconds - SHUTDOWN_MARGIN_SECONDS))
    yield from ("--shutdown-timeout", str(shutdown))
    yield "--disable-uvicorn-access-log"
    yield "--disable-fastapi-docs"
    # Without a list every media URL is fetched, those of the host's own network too.
    yield from ("--allowed-media-domains", "media.invalid")
    if order.spec.task is not Task.CHAT:
        yield from ("--runner", "pooling")


def seat_flags(order: ReplicaOrder) -> Iterator[str]:
    """Yield what makes the server one of several hosts: vLLM's own multi-node, without Ray.

    Ranks above 0 run workers alone, no server. Source: vLLM 0.32, `entrypoints/cli/serve.py`,
    run_headless; `config/parallel.py`, nnodes.
    """
    seat = order.seat
    if seat is None:
        return
    yield from ("--nnodes", str(seat.size), "--node-rank", str(seat.rank))
    yield from ("--master-addr", seat.master_address, "--master-port", str(seat.master_port))
    yield from ("--distributed-executor-backend", "mp")
    if seat.rank > 0:
        yield "--headless"


def check_seat(order: ReplicaOrder) -> None:
    """Raise ValueError naming what of the order's seat vLLM would refuse or misread."""
    seat, spec = order.seat, order.spec
    if seat is None:
        return
    if seat.size < 2:
        raise ValueError(f"seat.size is {seat.size}: a group has 2 hosts or more")
    if not 0 <= seat.rank < seat.size:
        raise ValueError(f"seat.rank is {seat.rank}: give 0 to {seat.size - 1}")
    if not 1024 <= seat.master_port <= 65535:
        raise ValueError(f"seat.master_port is {seat.master_port}: give 1024 to 65535")
    _check_word("seat.master_address", seat.master_address)
    if spec.device != "cuda":
        raise ValueError(f"seat: a group of hosts is for GPUs, device is {spec.device!r}")
    settings = spec.settings
    world = settings.tensor_parallel_size * settings.pipeline_parallel_size
    if world != seat.size * len(spec.gpu_uuids):
        raise ValueError(
            f"seat.size is {seat.size} with {len(spec.gpu_uuids)} GPUs each, the settings take "
            f"{world} GPUs: make tensor x pipeline parallel the product of both"
        )


def model_flags(spec: EngineSpec, place: Place) -> Iterator[str]:
    """Yield the flags of all settings that are set, in the order of the declaration."""
    for name, setting in SETTINGS.items():
        if setting.flag and setting.form is not Form.OWN:
            yield from _flag(setting, _value(name, spec))
    if spec.settings.tool_call_parser is not None:
        parser = spec.settings.tool_call_parser
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", parser)
    yield from _adapters(spec, place)
    yield from _speculation(spec.settings, place)
    yield from engine_flags.checked(spec.settings.extra_args)


def _value(name: str, spec: EngineSpec) -> Any:  # noqa: ANN401 - a setting's value
    if name == "kv_cache_bytes":
        return _kv_cache_bytes(spec)
    if name == "enable_prefix_caching" and spec.task is not Task.CHAT:
        return None  # nothing is generated, so nothing is kept
    value = getattr(spec.settings, name)
    if name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        return value if value > 1 else None
    if name == "max_loras" and value is None and spec.adapters:
        return len(spec.adapters)
    return value


def _flag(setting: Setting, value: Any) -> Iterator[str]:  # noqa: ANN401 - a setting's value
    if value is None or value == ():
        return
    match setting.form:
        case Form.SWITCH:
            if value:
                yield setting.flag
        case Form.TOGGLE:
            yield setting.flag if value else f"--no-{setting.flag.removeprefix('--')}"
        case Form.GIB:
            yield from (setting.flag, f"{value / GIB:g}")
        case Form.LIST:
            yield from (setting.flag, *map(str, value))
        case _:
            yield from (setting.flag, str(value))


def _kv_cache_bytes(spec: EngineSpec) -> int | None:
    settings = spec.settings
    if settings.kv_cache_bytes is not None or spec.device != "cpu":
        return settings.kv_cache_bytes
    if settings.gpu_memory_utilization is not None:
        return None
    return CPU_KV_CACHE_BYTES if spec.task is Task.CHAT else POOLING_KV_CACHE_BYTES


def _adapters(spec: EngineSpec, place: Place) -> Iterator[str]:
    if not spec.adapters:
        return
    folders = adapter_folders(place)
    yield "--enable-lora"
    yield "--lora-modules"
    for adapter, folder in zip(spec.adapters, folders, strict=True):
        yield f"{adapter.name}={folder}"


def _speculation(settings: EngineSettings, place: Place) -> Iterator[str]:
    if settings.speculative_method is None:
        return
    config: dict[str, Any] = {
        "method": settings.speculative_method,
        "num_speculative_tokens": settings.speculative_tokens or 3,
    }
    if settings.speculative_method == "ngram":
        config |= {"prompt_lookup_max": NGRAM_MOST, "prompt_lookup_min": NGRAM_LEAST}
    if place.draft_dir is not None:
        config["model"] = draft_folder(place)
    yield from ("--speculative-config", json.dumps(config))


def adapter_folders(place: Place) -> list[str]:
    """Return where the engine sees its adapters."""
    if place.runtime is RuntimeKind.DOCKER:
        return [f"/adapters/{number}" for number, _ in enumerate(place.adapter_dirs)]
    return [str(folder) for folder in place.adapter_dirs]


def draft_folder(place: Place) -> str:
    """Return where the engine sees its draft model."""
    return "/draft" if place.runtime is RuntimeKind.DOCKER else str(place.draft_dir)


def mounts(place: Place) -> tuple[Mount, ...]:
    """Return the folders that a container needs: weights read-only, compiled code not."""
    found = [Mount(source=place.weights_dir, target=CONTAINER_WEIGHTS_DIR)]
    for number, folder in enumerate(place.adapter_dirs):
        found.append(Mount(source=folder, target=f"/adapters/{number}"))
    if place.draft_dir is not None:
        found.append(Mount(source=place.draft_dir, target="/draft"))
    if place.cache_dir is not None:
        found.append(Mount(source=place.cache_dir, target=CONTAINER_CACHE_DIR, read_only=False))
    return tuple(found)
