"""Make an agent's real parts: the runtime for this host, the engines by name, the weights cache.

Docker's SDK, an engine's reader and NVML's binding are loaded when they are first needed, by name:
an idle agent stays small.
"""

import importlib
import sys
from functools import cache
from typing import Any

from agents.agent import Parts
from agents.choosing import choose, is_docker_in_sight
from agents.engines import environment
from agents.engines.base import Engine
from agents.inventory import AGENT_VERSION, Gpus, Host
from agents.journal import Journal
from agents.link import Link
from agents.relay.keeper import RelayKeeper, RelayPlan
from agents.runtimes.base import OnProgress, Runtime
from agents.runtimes.process import ProcessRuntime
from agents.settings import Settings
from agents.sight import Sight
from agents.store import Identity, Store, make_run_root
from agents.weights.download import THROTTLE
from agents.weights.store import Weights
from agents.wire import EngineKind, EngineSpec, RuntimeKind

_ENGINES = {
    EngineKind.VLLM: ("agents.engines.vllm", "VllmEngine"),
    EngineKind.SIMULATOR: ("agents.engines.simulator", "SimulatorEngine"),
}


def engine(spec: EngineSpec) -> Engine:
    """Return the engine that `spec` names, loaded at its first use."""
    if spec.custom is None:
        return known_engine(spec.engine)
    made: Engine = importlib.import_module("agents.engines.custom").Custom(spec.custom)
    return made


@cache
def known_engine(kind: EngineKind) -> Engine:
    """Return the engine `kind`, which needs no declaration."""
    module, name = _ENGINES[kind]
    made: Engine = getattr(importlib.import_module(module), name)()
    return made


def engine_command(kind: EngineKind, device: str) -> tuple[str, ...]:
    """Return how the process runtime starts an engine that `prepare` has brought."""
    if kind is EngineKind.SIMULATOR:
        return (sys.executable, "-m", "agents.simulator")
    found = environment.present_environment(environment.default_root(), device)
    return found.command if found else ()


def engine_versions() -> dict[str, str]:
    """Return the engines of the process runtime that stand ready on this host."""
    versions = {EngineKind.SIMULATOR.value: AGENT_VERSION}
    for device in ("cuda", "cpu"):
        found = environment.present_environment(environment.default_root(), device)
        if found is not None:
            versions.setdefault(EngineKind.VLLM.value, found.version)
    return versions


async def bring(kind: EngineKind, device: str, tell: OnProgress) -> str:
    """Bring an engine for the process runtime; return its version. Raises RuntimeFault."""
    if kind is EngineKind.SIMULATOR:
        return AGENT_VERSION
    root = environment.default_root()
    return (await environment.ensure_environment(root, device, tell)).version


async def choose_runtime(given: Settings, store: Store) -> Host:
    """Return this host with the runtime that is to start its replicas, and the reason."""
    gpus = Gpus()
    device = "cuda" if gpus.read() else "cpu"
    choice = await choose(
        given=given.runtime,
        used=store.used_runtimes(),
        desired=store.desired(),
        image=lambda: (
            given.policy.engine_images.get(device)
            or known_engine(EngineKind.VLLM).default_image(device)
        ),
        docker=(lambda: _docker("")) if is_docker_in_sight() else None,
    )
    # Simulators are processes on any host, so that runtime is looked at everywhere.
    store.remember_runtime(RuntimeKind.PROCESS)
    store.remember_runtime(choice.kind)
    return Host(
        given.data_dir, gpus, choice.kind, choice.reason,
        group_address=given.group_address, group_ports=given.group_ports,
    )  # fmt: skip


def used_runtimes(given: Settings, store: Store) -> list[Runtime]:
    """Return the runtimes in which this folder may have instances, the chosen one first."""
    host_id = store.identity().host_id
    return [_runtime(kind, given, host_id) for kind in reversed(store.used_runtimes())]


def parts(given: Settings, store: Store, link: Link, identity: Identity, host: Host) -> Parts:
    """Return what the agent is made of."""
    THROTTLE.bytes_per_second = given.fetch_bytes_per_second
    return Parts(
        host_id=identity.host_id,
        run_root=make_run_root(given),
        policy=given.policy,
        store=store,
        journal=Journal(store.journal_path),
        link=link,
        sight=Sight(identity.host_id, used_runtimes(given, store)),
        host=host,
        relay=RelayKeeper(
            RelayPlan(
                data_dir=given.data_dir,
                listen=given.relay_listen,
                public_url=given.relay_public_url,
                certificate=given.relay_certificate,
                weights_root=environment.cache_root() / "weights" / "ready",
            )
        ),
        compile_root=given.compiled_dir or environment.cache_root() / "compiled",
        weights=Weights(environment.cache_root() / "weights"),
        engine=engine,
        engine_command=engine_command,
        engine_versions=engine_versions,
    )


def _runtime(kind: RuntimeKind, given: Settings, host_id: str) -> Runtime:
    if kind is RuntimeKind.PROCESS:
        return ProcessRuntime(given.data_dir / "process", bring)
    made: Runtime = _docker(host_id)
    return made


def _docker(host_id: str) -> Any:  # noqa: ANN401 - a DockerRuntime, of a module loaded by name
    module = importlib.import_module("agents.runtimes.docker")
    return module.DockerRuntime(host_id, environment.default_root())
