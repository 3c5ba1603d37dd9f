"""Any engine that serves HTTP, as its catalog entry declares it (`agents.custom`).

The agent knows nothing of it: command line, health, probe and metric names come from the order,
within what this host allows (`agents.standing`). What an engine does not tell stays None.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from agents.answers import Answers
from agents.custom import CustomEngine, faults, filled
from agents.engines import bridge, vllm_answers, vllm_api
from agents.engines.base import Place, StageMark
from agents.runtimes.base import CONTAINER_RUN_DIR, CONTAINER_WEIGHTS_DIR, Launch, Mount
from agents.standing import instance_name, labels
from agents.wire import EngineKind, ReplicaOrder, ReplicaSample, RuntimeKind, Task

BRIDGE = Path(bridge.__file__)
CONTAINER_BRIDGE = "/hearth/bridge.py"
_INTEGERS = ("running", "waiting")
_LINE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass(frozen=True)
class Custom:
    """Describes how the engine of one declaration is run and reads what it says."""

    declared: CustomEngine
    kind: EngineKind = EngineKind.CUSTOM

    @property
    def metrics_path(self) -> str:
        """Return where its numbers are."""
        return self.declared.metrics_path

    def default_image(self, device: str) -> str:
        """Return "": the order names the image."""
        return ""

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        """Return the one way to run `order` at `place`. Raises ValueError naming a wrong field."""
        engine = self.declared
        if found := faults(engine):
            field, sentence = found[0]
            raise ValueError(f"custom.{field}: {sentence}")
        in_container = place.runtime is RuntimeKind.DOCKER
        folder = CONTAINER_RUN_DIR if in_container else str(place.run_dir)
        argv, entrypoint = _command(engine, order, place, folder)
        mounts = [Mount(source=place.weights_dir, target=CONTAINER_WEIGHTS_DIR)]
        if engine.listens_on_port:
            mounts.append(Mount(source=BRIDGE, target=CONTAINER_BRIDGE))
        return Launch(
            name=instance_name(order),
            labels=labels(order, place.host_id),
            engine=self.kind,
            device=order.spec.device,
            argv=argv,
            entrypoint=entrypoint,
            env=_environment(engine, folder),
            run_dir=place.run_dir,
            image=place.image,
            mounts=tuple(mounts),
            gpu_uuids=order.spec.gpu_uuids,
            memory_bytes=order.spec.memory_bytes,
            shm_bytes=order.spec.shm_bytes,
            stop_grace_seconds=order.stop_grace_seconds,
        )

    def read_line(self, line: str) -> StageMark | None:
        """Return None: its log is its own."""
        return None

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        """Return whether it is healthy and answers the declared request."""
        engine = self.declared
        if not await _is_well(client, engine.health_path):
            return False
        if engine.probe is None:
            return "openai" not in engine.apis or await vllm_api.answers(client, order)
        seconds = vllm_api.PROBE_SECONDS
        return (
            await client.post(engine.probe.path, json=engine.probe.body, timeout=seconds)
        ).is_success

    async def first_answers(self, client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
        """Return what the first answers show if it speaks OpenAI's API, else nothing."""
        if "openai" not in self.declared.apis or order.spec.task not in _JUDGED:
            return Answers()
        return await vllm_answers.first_answers(client, order)

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Return whether its health path answers 200."""
        return await _is_well(client, self.declared.health_path)

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        """Return the numbers that the entry maps; the others stay None."""
        found = {
            name: value
            for name, series in self.declared.metrics.items()
            if (value := _sum(series, metrics)) is not None
        }
        return msgspec.convert(
            {"replica_id": replica_id, "at": at}
            | {name: int(v) if name in _INTEGERS else v for name, v in found.items()},
            ReplicaSample,
        )

    def kv_cache_tokens(self, metrics: str) -> int | None:
        """Return None: nothing is declared of it."""
        return None


_JUDGED = (Task.CHAT, Task.EMBED, Task.RERANK)


def _command(
    engine: CustomEngine, order: ReplicaOrder, place: Place, folder: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arguments and, for a container whose own is not wanted, the entrypoint."""
    in_container = place.runtime is RuntimeKind.DOCKER
    socket = f"{folder}/{place.socket.name}"
    program, *arguments = filled(
        engine.command,
        {
            "weights": CONTAINER_WEIGHTS_DIR if in_container else str(place.weights_dir),
            "socket": socket,
            "run": folder,
            "name": order.spec.served_names[0],
        },
    )
    if not in_container:
        (bin_dir,) = place.engine_command
        command = (f"{bin_dir}/{program}", *arguments)
        if not engine.listens_on_port:
            return command, ()
        return (sys.executable, "-I", "-S", str(BRIDGE), socket, *command), ()
    command = (program, *arguments) if program else tuple(arguments)
    if not engine.listens_on_port:
        return tuple(arguments) if program == "" else command[1:], command[:1] if program else ()
    if not program:
        raise ValueError("custom.command[0]: with {port} name the program, not the entrypoint")
    return (CONTAINER_BRIDGE, socket, *command), ("python3",)


def _environment(engine: CustomEngine, folder: str) -> dict[str, str]:
    own = {
        "HOME": folder,
        "USER": "hearth",
        "XDG_CACHE_HOME": f"{folder}/cache",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    return {name: filled((value,), {"run": folder})[0] for name, value in engine.env.items()} | own


async def _is_well(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path, timeout=vllm_api.HEALTH_SECONDS)).status_code == 200
    except httpx.TransportError:
        return False


def _sum(series: str, metrics: str) -> float | None:
    """Return the sum of a series over its labels, None if it is not there."""
    name, _, label = series.partition("{")
    wanted = label.rstrip("}")
    values = [
        float(found["value"])
        for line in metrics.splitlines()
        if line.startswith(name)
        and (found := _LINE.match(line))
        and found["name"] == name
        and wanted in (found["labels"] or "")
    ]
    return sum(values) if values else None
