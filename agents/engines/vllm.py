"""vLLM 0.32: its command line, its environment, its log, its readiness, its metrics.

Everything is built from typed settings; no argument or variable comes from the wire as it is. The
server listens on a Unix socket in the replica's folder where the place allows, because its
`--api-key` leaves half of its routes open (vLLM docs, usage/security.md, "API Key Authentication
Limitations"); on a loopback port it gets a key of its own all the same.
"""

import re
from dataclasses import dataclass, field, replace

import httpx

from agents import cpu
from agents.answers import Answers
from agents.engines import kv_events, stored_form, vllm_answers, vllm_api, vllm_flags
from agents.engines.base import Place, StageMark, StageRule
from agents.engines.vllm_memory import read_memory
from agents.runtimes.base import (
    CONTAINER_CACHE_DIR,
    CONTAINER_RUN_DIR,
    CONTAINER_WEIGHTS_DIR,
    Launch,
)
from agents.standing import instance_name, labels
from agents.wire import EngineKind, EngineSpec, ReplicaOrder, ReplicaSample, RuntimeKind

DEFAULT_IMAGES = {"cpu": "hearth/vllm-cpu:0.32.0", "cuda": "vllm/vllm-openai:v0.32.0"}
SOCKET_PATH_LIMIT_BYTES = 107
"""Longest path of a Unix socket on Linux, unix(7)."""


@dataclass(frozen=True)
class VllmEngine:
    """Describes how vLLM is run and reads what it says."""

    kind: EngineKind = EngineKind.VLLM
    metrics_path: str = vllm_api.METRICS_PATH
    checks_support: bool = True
    """False lets methods pass that the device is known to fail at, to see them be caught."""
    cpu_features: frozenset[str] | None = field(default_factory=cpu.features)

    def default_image(self, device: str) -> str:
        """Return the image for `device`. Raises ValueError if there is none."""
        if device not in DEFAULT_IMAGES:
            raise ValueError(f"device is {device!r}: vLLM runs on {' or '.join(DEFAULT_IMAGES)}")
        return DEFAULT_IMAGES[device]

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        """Return the one way to run `order` at `place`. Raises ValueError naming a wrong field."""
        spec = order.spec
        vllm_flags.check(spec, support=self.checks_support, cpu_features=self.cpu_features)
        vllm_flags.check_seat(order)
        if self.checks_support and spec.device == "cpu" and self.cpu_features is not None:
            stored_form.check(place.weights_dir, self.cpu_features)
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
            argv=(
                *command,
                weights,
                *listen,
                *vllm_flags.server_flags(order),
                *vllm_flags.seat_flags(order),
                *vllm_flags.model_flags(spec, place),
                *kv_events.flags(spec, folder),
                *_sleep(spec),
            ),
            env=_environment(spec, folder, _cache(place, folder))
            | _group_environment(order, place)
            | _key(place)
            | _dev_mode(spec, place),
            run_dir=place.run_dir,
            image=place.image,
            mounts=vllm_flags.mounts(place),
            gpu_uuids=spec.gpu_uuids,
            memory_bytes=spec.memory_bytes,
            shm_bytes=spec.shm_bytes,
            stop_grace_seconds=order.stop_grace_seconds,
            host_network=order.seat is not None,
        )

    def read_line(self, line: str) -> StageMark | None:
        """Return what this log line tells of the start, None if nothing."""
        mark = next((mark for rule in _STAGES if (mark := rule.read(line)) is not None), None)
        if memory := read_memory(line):
            return replace(mark or StageMark(stage=""), memory=memory)
        return mark

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        """Return whether the engine is healthy and answers one real token, vector or score."""
        return await vllm_api.probe(client, order)

    async def first_answers(self, client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
        """Return what its first answers show: log-probabilities of a fixed text, or likeness."""
        return await vllm_answers.first_answers(client, order)

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Return whether `/health` answers 200; it does also while the engine sleeps."""
        return await vllm_api.healthy(client)

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        """Return one sample from the text of `/metrics`; what it does not tell stays None."""
        return vllm_api.sample(replica_id, at, metrics)

    def kv_cache_tokens(self, metrics: str) -> int | None:
        """Return the capacity of the KV cache in tokens, over all engines of this server."""
        return vllm_api.kv_cache_tokens(metrics)


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


def _sleep(spec: EngineSpec) -> tuple[str, ...]:
    """Return the flag that lets it sleep; the CPU build refuses to start with it (measured)."""
    return ("--enable-sleep-mode",) if spec.can_sleep and spec.device != "cpu" else ()


def _dev_mode(spec: EngineSpec, place: Place) -> dict[str, str]:
    """Return the variable that sleeping needs: on a socket only, it opens calls that run code."""
    return {"VLLM_SERVER_DEV_MODE": "1"} if spec.can_sleep and place.port is None else {}


def _cache(place: Place, folder: str) -> str:
    """Return the engine's cache folder as it sees it. vLLM trusts what lies there: it is shared
    with replicas of the same model and settings at most, and never with another user."""
    if place.cache_dir is None:
        return f"{folder}/cache"
    return CONTAINER_CACHE_DIR if place.runtime is RuntimeKind.DOCKER else str(place.cache_dir)


def _environment(spec: EngineSpec, folder: str, cache: str) -> dict[str, str]:
    """Return the engine's variables."""
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
            # On CPU vLLM 0.32 stores an ahead-of-time artifact that it cannot load again ("no
            # attribute 'finalize_loading'") and compiles anew; Inductor's own cache does hit.
            "VLLM_USE_AOT_COMPILE": "0",
            # Each length of a batch is another kernel to oneDNN, which keeps 1,024 of them with
            # their buffers: under steady ingestion an embedder grew until its limit ended it.
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
            "LRU_CACHE_CAPACITY": "32",
        }
    elif len(spec.gpu_uuids) > 1:
        environment |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    return environment


def _group_environment(order: ReplicaOrder, place: Place) -> dict[str, str]:
    """Return the variables of an engine that talks with others: its address, its interface.

    Without an interface NCCL and Gloo look for one themselves.
    """
    if order.seat is None:
        return {}
    address = {"VLLM_HOST_IP": order.seat.own_address or order.seat.master_address}
    return address | dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), place.interface)


# Sources in vLLM 0.32: v1/worker/*_model_runner.py, model_executor/model_loader/default_loader.py,
# compilation/monitor.py, v1/core/kv_cache_utils.py, v1/engine/core.py.
_STAGES = (
    StageRule("import", re.compile(r" non-default args: ")),
    StageRule("load", re.compile(r"Starting to load model ")),
    StageRule("load", re.compile(r"Loading weights took (?P<seconds>[\d.]+) seconds")),
    StageRule("compile", re.compile(r"torch\.compile took (?P<seconds>[\d.]+) s in total")),
    StageRule("graphs", re.compile(r"Graph capturing finished in (?P<seconds>[\d.]+) secs")),
    StageRule("warm-up", re.compile(r" KV cache size: (?P<kv_cache_tokens>[\d,]+) tokens")),
    StageRule("warm-up", re.compile(r"init engine \(.*\) took (?P<seconds>[\d.]+) s")),
)
