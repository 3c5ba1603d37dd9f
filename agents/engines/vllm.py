"""vLLM 0.32: its command line, its environment, its log, its readiness, its metrics.

Everything is built from typed settings; no argument or variable comes from the wire as it is. The
server listens on a Unix socket in the replica's folder where the place allows, because its
`--api-key` leaves half of its routes open (vLLM docs, usage/security.md, "API Key Authentication
Limitations"); on a loopback port it gets a key of its own all the same.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from agents.engines.base import Place, StageMark
from agents.runtimes.base import CONTAINER_RUN_DIR, CONTAINER_WEIGHTS_DIR, Launch, Mount
from agents.standing import instance_name, labels
from agents.wire import (
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    ReplicaSample,
    RuntimeKind,
    Task,
)

DEFAULT_IMAGES = {"cpu": "hearth/vllm-cpu:0.32.0", "cuda": "vllm/vllm-openai:v0.32.0"}
SOCKET_PATH_LIMIT_BYTES = 107
"""Longest path of a Unix socket on Linux, unix(7)."""
SHUTDOWN_MARGIN_SECONDS = 5.0
"""What vLLM needs to exit after its own shutdown timeout, before SIGKILL (measured: 5.3 s idle)."""
PROBE_SECONDS = 60.0
"""For the first token of a large model, which may still compile for it."""
HEALTH_SECONDS = 5.0
CPU_BLOCK_TOKENS = 32
"""KV blocks on CPU are multiples of this."""
CPU_KV_CACHE_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
"""The others are refused by the CPU engine, or accepted and answer garbage (measured)."""
CPU_KV_CACHE_BYTES = 1 << 30
"""Of a CPU engine where the order names none. vLLM's own default there is a share of all memory,
and it refuses to start unless 92 % of that is free at this moment."""
POOLING_KV_CACHE_BYTES = 16 << 20
"""The same for models that do not generate: asked for, never filled."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,199}")

_COUNTS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_bytes",
    "block_size",
    "omp_threads",
    "tensor_parallel_size",
    "pipeline_parallel_size",
)
"""Settings that are 1 or more if they are set."""
_PATHS = {
    Task.CHAT: "/v1/chat/completions",
    Task.EMBED: "/v1/embeddings",
    Task.RERANK: "/v1/rerank",
}


@dataclass(frozen=True)
class VllmEngine:
    """Describes how vLLM is run and reads what it says."""

    kind: EngineKind = EngineKind.VLLM

    def default_image(self, device: str) -> str:
        """Return the image for `device`. Raises ValueError if there is none."""
        if device not in DEFAULT_IMAGES:
            raise ValueError(f"device is {device!r}: vLLM runs on {' or '.join(DEFAULT_IMAGES)}")
        return DEFAULT_IMAGES[device]

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        """Return the one way to run `order` at `place`. Raises ValueError naming a wrong field."""
        spec = order.spec
        _check(spec)
        in_container = place.runtime is RuntimeKind.DOCKER
        folder = CONTAINER_RUN_DIR if in_container else str(place.run_dir)
        weights = CONTAINER_WEIGHTS_DIR if in_container else str(place.weights_dir)
        command = () if in_container else place.engine_command
        listen = _listen(place, folder)
        return Launch(
            name=instance_name(order),
            labels=labels(order, place.host_id),
            engine=self.kind,
            device=spec.device,
            argv=(*command, weights, *listen, *_server_flags(order), *_model_flags(spec)),
            env=_environment(spec, folder) | _key(place),
            run_dir=place.run_dir,
            image=place.image,
            mounts=(Mount(source=place.weights_dir, target=CONTAINER_WEIGHTS_DIR),),
            gpu_uuids=spec.gpu_uuids,
            memory_bytes=spec.memory_bytes,
            shm_bytes=spec.shm_bytes,
            stop_grace_seconds=order.stop_grace_seconds,
        )

    def read_line(self, line: str) -> StageMark | None:
        """Return what this log line tells of the start, None if nothing."""
        return next((mark for rule in _STAGES if (mark := rule.read(line)) is not None), None)

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        """Return whether the engine is healthy and answers one real token, vector or score."""
        if not await self.healthy(client):
            return False
        model = order.spec.served_names[0]
        reply = await _post(client, _PATHS[order.spec.task], _question(model, order.spec.task))
        if reply == httpx.codes.BAD_REQUEST and order.spec.task is Task.CHAT:
            # A model without a chat template refuses chats and completes all the same.
            body = {"model": model, "prompt": "a", "max_tokens": 1}
            reply = await _post(client, "/v1/completions", body)
        return reply == httpx.codes.OK

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Return whether `/health` answers 200; it does also while the engine sleeps."""
        try:
            return (await client.get("/health", timeout=HEALTH_SECONDS)).status_code == 200
        except httpx.TransportError:
            return False

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        """Return one sample from the text of `/metrics`; what it does not tell stays None."""
        found: dict[str, list[float]] = {}
        for name, _, value in _series(metrics):
            found.setdefault(name, []).append(value)
        running, waiting = found.get("num_requests_running"), found.get("num_requests_waiting")
        usage = found.get("kv_cache_usage_perc")
        return ReplicaSample(
            replica_id=replica_id,
            at=at,
            running=int(sum(running)) if running else None,
            waiting=int(sum(waiting)) if waiting else None,
            kv_cache_usage_ratio=max(usage) if usage else None,
            prompt_tokens_total=_total(found, "prompt_tokens_total"),
            output_tokens_total=_total(found, "generation_tokens_total"),
            prefix_cache_queries_total=_total(found, "prefix_cache_queries_total"),
            prefix_cache_hits_total=_total(found, "prefix_cache_hits_total"),
            requests_total=_total(found, "request_success_total"),
        )

    def kv_cache_tokens(self, metrics: str) -> int | None:
        """Return the capacity of the KV cache in tokens, over all engines of this server."""
        sizes = [
            int(size.group(1))
            for name, label_text, _ in _series(metrics)
            if name == "cache_config_info"
            and (size := re.search(r'kv_cache_size_tokens="(\d+)"', label_text))
        ]
        return sum(sizes) if sizes else None


def _check(spec: EngineSpec) -> None:
    """Raise ValueError naming the field that vLLM would refuse after a long start, or misread."""
    if not spec.served_names:
        raise ValueError("served_names is empty: give at least one name")
    settings = spec.settings
    words = {f"served_names[{n}]": name for n, name in enumerate(spec.served_names)}
    for field in (
        "quantization",
        "dtype",
        "kv_cache_dtype",
        "tool_call_parser",
        "reasoning_parser",
    ):
        words[f"settings.{field}"] = getattr(settings, field)
    for field, word in words.items():
        # An argument that begins with a dash would be read as another flag.
        if word is not None and not _WORD.fullmatch(word):
            raise ValueError(f"{field} is {word!r}: use letters, digits and _ . : / + -")
    _check_numbers(settings)
    if spec.device == "cpu":
        _check_cpu(settings)


def _check_numbers(settings: EngineSettings) -> None:
    for field in _COUNTS:
        value = getattr(settings, field)
        if value is not None and value < 1:
            raise ValueError(f"settings.{field} is {value}: use 1 or more")
    ratio = settings.gpu_memory_utilization
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"settings.gpu_memory_utilization is {ratio}: use a ratio up to 1")


def _check_cpu(settings: EngineSettings) -> None:
    if settings.block_size is not None and settings.block_size % CPU_BLOCK_TOKENS:
        raise ValueError(
            f"settings.block_size is {settings.block_size}: "
            f"on CPU use a multiple of {CPU_BLOCK_TOKENS}"
        )
    if settings.kv_cache_dtype not in (None, *CPU_KV_CACHE_DTYPES):
        raise ValueError(
            f"settings.kv_cache_dtype is {settings.kv_cache_dtype!r}: "
            f"on CPU use one of {', '.join(CPU_KV_CACHE_DTYPES)}"
        )


def _listen(place: Place, folder: str) -> tuple[str, ...]:
    if place.port is not None:
        return ("--host", "127.0.0.1", "--port", str(place.port))
    path = f"{folder}/{place.socket.name}"
    if len(path.encode()) > SOCKET_PATH_LIMIT_BYTES:
        raise ValueError(
            f"run_dir is too long for a Unix socket ({len(path.encode())} of "
            f"{SOCKET_PATH_LIMIT_BYTES} bytes): use a shorter folder or a port"
        )
    return ("--uds", path)


def _key(place: Place) -> dict[str, str]:
    """Return the variable with the replica's key: other users could read it in an argument."""
    return {"VLLM_API_KEY": place.api_key} if place.port is not None and place.api_key else {}


def _server_flags(order: ReplicaOrder) -> Iterator[str]:
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


def _model_flags(spec: EngineSpec) -> Iterator[str]:
    settings = spec.settings
    values = {
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--max-num-batched-tokens": settings.max_num_batched_tokens,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--kv-cache-memory-bytes": _kv_cache_bytes(spec),
        "--quantization": settings.quantization,
        "--dtype": settings.dtype,
        "--kv-cache-dtype": settings.kv_cache_dtype,
        "--block-size": settings.block_size,
        "--reasoning-parser": settings.reasoning_parser,
    }
    for flag, value in values.items():
        if value is not None:
            yield from (flag, str(value))
    for flag, size in (
        ("--tensor-parallel-size", settings.tensor_parallel_size),
        ("--pipeline-parallel-size", settings.pipeline_parallel_size),
    ):
        if size > 1:
            yield from (flag, str(size))
    if settings.tool_call_parser is not None:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", settings.tool_call_parser)
    if settings.enforce_eager:
        yield "--enforce-eager"
    if spec.task is Task.CHAT:
        yield (
            "--enable-prefix-caching"
            if settings.enable_prefix_caching
            else ("--no-enable-prefix-caching")
        )


def _kv_cache_bytes(spec: EngineSpec) -> int | None:
    settings = spec.settings
    if settings.kv_cache_bytes is not None or spec.device != "cpu":
        return settings.kv_cache_bytes
    if settings.gpu_memory_utilization is not None:
        return None
    return CPU_KV_CACHE_BYTES if spec.task is Task.CHAT else POOLING_KV_CACHE_BYTES


def _environment(spec: EngineSpec, folder: str) -> dict[str, str]:
    """Return the engine's variables. Caches are the replica's own: vLLM trusts what lies there."""
    cache = f"{folder}/cache"
    environment = {
        "HOME": folder,
        "USER": "hearth",  # a user id without a name makes getpass.getuser() fail otherwise
        "XDG_CACHE_HOME": cache,
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if spec.device == "cpu":
        # "auto" binds every replica's worker to core 0; unbound without a count it collapses.
        threads = spec.settings.omp_threads or 1
        environment |= {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    elif len(spec.gpu_uuids) > 1:
        environment |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    return environment


@dataclass(frozen=True)
class _StageRule:
    """A pattern of vLLM's log and the stage it begins or, with a group `seconds`, measures."""

    stage: str
    pattern: re.Pattern[str]

    def read(self, line: str) -> StageMark | None:
        found = self.pattern.search(line)
        if found is None:
            return None
        groups = found.groupdict()
        tokens = groups.get("tokens")
        return StageMark(
            stage=self.stage,
            seconds=float(groups["seconds"]) if groups.get("seconds") else None,
            kv_cache_tokens=int(tokens.replace(",", "")) if tokens else None,
        )


# Sources in vLLM 0.32: v1/worker/*_model_runner.py, model_executor/model_loader/default_loader.py,
# compilation/monitor.py, v1/core/kv_cache_utils.py, v1/engine/core.py.
_STAGES = (
    _StageRule("import", re.compile(r" non-default args: ")),
    _StageRule("load", re.compile(r"Starting to load model ")),
    _StageRule("load", re.compile(r"Loading weights took (?P<seconds>[\d.]+) seconds")),
    _StageRule("compile", re.compile(r"torch\.compile took (?P<seconds>[\d.]+) s in total")),
    _StageRule("graphs", re.compile(r"Graph capturing finished in (?P<seconds>[\d.]+) secs")),
    _StageRule("warm-up", re.compile(r" KV cache size: (?P<tokens>[\d,]+) tokens")),
    _StageRule("warm-up", re.compile(r"init engine \(.*\) took (?P<seconds>[\d.]+) s")),
)

_SERIES = re.compile(r"vllm:(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


def _series(metrics: str) -> Iterator[tuple[str, str, float]]:
    """Yield name without prefix, labels as text, and value of each series of vLLM's own."""
    for line in metrics.splitlines():
        if line.startswith("vllm:") and (found := _SERIES.match(line)):
            yield found["name"], found["labels"] or "", float(found["value"])


def _total(found: dict[str, list[float]], name: str) -> float | None:
    return sum(found[name]) if name in found else None


def _question(model: str, task: Task) -> dict[str, object]:
    """Return the smallest request that makes the model compute something."""
    if task is Task.EMBED:
        return {"model": model, "input": "a"}
    if task is Task.RERANK:
        return {"model": model, "query": "a", "documents": ["a"]}
    return {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, object]) -> int:
    """Return the status of the answer, 0 if none came."""
    try:
        return (await client.post(path, json=body, timeout=PROBE_SECONDS)).status_code
    except httpx.TransportError:
        return 0
