"""The simulator's settings, read from its command line.

Flags that vLLM has are named as vLLM names them; the others describe what is simulated: speed,
memory, start-up and faults. A bad value ends the program with code 2 and says which flag.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from agents.simulator.core import Limits, Timing
from agents.simulator.faults import Fault, parse_fault
from agents.simulator.kv_events import KvEventsConfig
from agents.simulator.party import Place

TASKS = ("chat", "embed", "rerank")
"""What it acts out."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything one simulated engine is told."""

    uds: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "hearth-simulator"
    served_names: tuple[str, ...] = ("hearth-simulator",)
    task: str = "chat"
    max_model_len: int = 32_768
    limits: Limits = field(default_factory=Limits)
    timing: Timing = field(default_factory=Timing)
    prefix_caching: bool = True
    load_seconds: float = 1.0
    wake_seconds: float = 0.05
    memory_bytes: int = 0
    seed: int = 0
    fault: Fault = field(default_factory=Fault)
    api_key: str = ""
    shutdown_timeout_seconds: float = 0.0
    max_num_queued_reqs: int | None = None
    prompt_tokens_details: bool = False
    request_id_headers: bool = False
    dev_mode: bool = False
    kv_events: KvEventsConfig | None = None
    place: Place = field(default_factory=Place)
    """Among engines on several hosts; those above rank 0 serve nothing."""

    @property
    def generates(self) -> bool:
        return self.task == "chat"


def parse_options(argv: Sequence[str]) -> Options:
    """Return the options in `argv`; exits with code 2 and a sentence if one is bad."""
    parser = _parser()
    given = parser.parse_args(argv)
    limits = Limits(
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        kv_cache_tokens=given.kv_cache_tokens,
        block_tokens=given.block_size,
        host_cache_tokens=given.host_cache_tokens,
    )
    max_model_len = given.max_model_len or min(32_768, limits.device_blocks * limits.block_tokens)
    if max_model_len > limits.device_blocks * limits.block_tokens:
        parser.error(
            f"--max-model-len {max_model_len} does not fit into --kv-cache-tokens "
            f"{given.kv_cache_tokens}: lower the one or raise the other"
        )
    if given.max_num_batched_tokens <= given.max_num_seqs:
        parser.error("--max-num-batched-tokens must exceed --max-num-seqs")
    return Options(
        uds=given.uds,
        host=given.host,
        port=given.port,
        model=given.model or given.served_model_name[0],
        served_names=tuple(given.served_model_name),
        task=given.task,
        max_model_len=max_model_len,
        limits=limits,
        timing=_timing(given),
        prefix_caching=given.enable_prefix_caching,
        load_seconds=given.load_seconds,
        wake_seconds=given.wake_seconds,
        memory_bytes=given.memory_bytes,
        seed=given.seed,
        fault=given.fail,
        api_key=given.api_key,
        shutdown_timeout_seconds=given.shutdown_timeout,
        max_num_queued_reqs=given.max_num_queued_reqs,
        prompt_tokens_details=given.enable_prompt_tokens_details,
        request_id_headers=given.enable_request_id_headers,
        dev_mode=given.dev_mode,
        kv_events=given.kv_events_config,
        place=Place(
            nodes=given.nnodes,
            rank=given.node_rank,
            address=given.master_addr,
            port=given.master_port,
        ),
    )


def _timing(given: argparse.Namespace) -> Timing:
    return Timing(
        prefill_tokens_per_second=given.prefill_tokens_per_second,
        decode_seconds_per_token=given.decode_seconds_per_token,
        decode_slowdown_per_stream=given.decode_slowdown_per_stream,
        attention_tokens=given.attention_tokens,
        host_tokens_per_second=given.host_tokens_per_second,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agents.simulator",
        description="A simulated inference engine with vLLM's HTTP API. It computes no model.",
    )
    _add_serving(parser)
    _add_hosts(parser)
    _add_capacity(parser)
    _add_behaviour(parser)
    return parser


def _add_serving(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("serving, as vLLM").add_argument
    add("--uds", help="listen on this Unix socket instead of a port")
    add("--host", default=Options.host)
    add("--port", type=_whole(0), default=Options.port, help="0 takes a free one")
    add("--model", default="", help="shown as the root of the model")
    add("--served-model-name", nargs="+", required=True)
    add("--task", choices=TASKS, default=Options.task)
    add(
        "--api-key",
        default=os.environ.get("VLLM_API_KEY", ""),
        help="required on /v1, /v2 and /inference; default: the variable VLLM_API_KEY",
    )
    add("--shutdown-timeout", type=_number(0), default=0.0, help="seconds to drain at SIGTERM")
    add("--max-num-queued-reqs", type=_whole(1), help="503 beyond this many in flight")
    add("--enable-prompt-tokens-details", action="store_true")
    add("--enable-request-id-headers", action="store_true")
    add("--kv-events-config", type=_kv_events, help="JSON; publishes what the cache holds")
    add("--dev-mode", action="store_true", help="serve /sleep, /wake_up, /pause, /resume …")


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("one of several hosts, as vLLM").add_argument
    alone = Place()
    add("--nnodes", type=_whole(1), default=alone.nodes)
    add("--node-rank", type=_whole(0), default=alone.rank)
    add("--master-addr", default=alone.address)
    add("--master-port", type=_whole(1), default=alone.port)
    add("--headless", action="store_true", help="as vLLM's; the rank decides")
    add("--distributed-executor-backend", choices=("mp",), default="mp")


def _add_capacity(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("capacity").add_argument
    limits = Limits()
    add("--max-model-len", type=_whole(1), help="default: 32768, or the KV cache if smaller")
    add("--max-num-seqs", type=_whole(1), default=limits.max_num_seqs)
    add("--max-num-batched-tokens", type=_whole(2), default=limits.max_num_batched_tokens)
    add("--block-size", type=_whole(1), default=limits.block_tokens, help="tokens")
    add("--kv-cache-tokens", type=_whole(64), default=limits.kv_cache_tokens)
    add("--host-cache-tokens", type=_whole(0), default=0, help="second tier in host memory")
    add(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=Options.prefix_caching,
    )
    add("--memory-bytes", type=_whole(0), default=0, help="memory held while awake")


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is simulated").add_argument
    timing = Timing()
    add("--load-seconds", type=_number(0), default=Options.load_seconds)
    add("--wake-seconds", type=_number(0), default=Options.wake_seconds)
    add("--prefill-tokens-per-second", type=_rate, default=timing.prefill_tokens_per_second)
    add("--decode-seconds-per-token", type=_rate, default=timing.decode_seconds_per_token)
    add("--decode-slowdown-per-stream", type=_number(0), default=timing.decode_slowdown_per_stream)
    add("--attention-tokens", type=_number(0), default=0.0, help="context that doubles prefill")
    add("--host-tokens-per-second", type=_rate, default=timing.host_tokens_per_second)
    add("--seed", type=_whole(0), default=0)
    add("--fail", type=_fault, default=Fault(), help="act out a fault, e.g. crash_after_requests:3")


def _whole(least: int) -> "argparse._ActionType":
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    return parse


def _number(least: float) -> "argparse._ActionType":
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a number from {least}, not {text}")
        return value

    return parse


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _kv_events(text: str) -> KvEventsConfig | None:
    try:
        config = msgspec.json.decode(text, type=KvEventsConfig)
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not config.enable_kv_cache_events:
        return None
    if not (config.endpoint and config.replay_endpoint):
        raise argparse.ArgumentTypeError("endpoint and replay_endpoint are both needed")
    return config


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault
