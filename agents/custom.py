"""What a catalog entry declares of an engine that Hearth does not know: how it is started, how it
is asked, what its numbers are called. Pure.

Placeholders in `command`: `{weights}` the folder of the weights, `{port}` a free loopback port,
`{socket}` the Unix socket on which it is to listen, `{run}` its own folder, `{name}` the model.
"""

import re
from collections.abc import Sequence
from typing import Any

from agents.message import Message

NUMBERS = (
    "running",
    "waiting",
    "kv_cache_usage_ratio",
    "prompt_tokens_total",
    "output_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "requests_total",
)
"""What Hearth may be told; anything that is not mapped stays unknown."""
APIS = ("openai", "http")
_PLACES = re.compile(r"\{(\w+)\}")
_KNOWN_PLACES = frozenset({"weights", "port", "socket", "run", "name"})
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[a-z0-9,_-]+\])?==[\w.!+]+")
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{1,120}")
_SERIES = re.compile(r'[A-Za-z_:][\w:]*(\{\w+="[^"\\]*"\})?')
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
DENIED_VARIABLES = ("LD_", "PYTHON", "HEARTH_", "PIP_", "SSL_")
"""Beginnings of variables that would change what code runs, or hold somebody's credentials."""
DENIED_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_PLUGINS",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
    }
)


class Probe(Message, frozen=True, kw_only=True):
    """One real request that must be answered 200 before the replica is ready."""

    path: str
    body: dict[str, Any] = {}


class CustomEngine(Message, frozen=True, kw_only=True):
    """An engine of another maker, as its catalog entry declares it."""

    command: tuple[str, ...]
    """Program and arguments. As a process the program is one of its own environment; in a container
    an empty program takes the image's own entrypoint with these arguments."""
    requirements: tuple[str, ...] = ()
    """Pinned packages of its environment in the process runtime: `bentoml==1.4.40`."""
    image: str = ""
    """Container image, for hosts with Docker."""
    apis: tuple[str, ...] = ("openai",)
    """`openai`: the usual paths with `model` in the body; `http`: the `paths`, and no more."""
    paths: tuple[str, ...] = ()
    """Plain HTTP paths that gateways may POST, at `/apis/<model><path>`."""
    health_path: str = "/health"
    probe: Probe | None = None
    metrics_path: str = "/metrics"
    metrics: dict[str, str] = {}
    """Name of ours -> its series, with one label if need be: `requests_total{endpoint="/x"}`."""
    env: dict[str, str] = {}
    memory_bytes: int = 1 << 30
    """What one replica needs of the host's memory, or of a GPU's."""
    gpus: int = 0
    max_in_flight: int = 16
    """Requests one replica takes at the same time."""

    @property
    def listens_on_port(self) -> bool:
        """Whether it wants a port; the agent then puts a socket before it."""
        return any("{port}" in word for word in self.command)


def faults(engine: CustomEngine) -> list[tuple[str, str]]:
    """Return what is wrong with the declaration as (field, sentence with the fix)."""
    return [
        *_command_faults(engine),
        *_requirement_faults(engine),
        *_path_faults(engine),
        *_metric_faults(engine),
        *_env_faults(engine),
    ]


def _requirement_faults(engine: CustomEngine) -> list[tuple[str, str]]:
    return [
        (f"requirements[{number}]", "pin one package, as `bentoml==1.4.40`")
        for number, requirement in enumerate(engine.requirements)
        if not _REQUIREMENT.fullmatch(requirement)
    ]


def _path_faults(engine: CustomEngine) -> list[tuple[str, str]]:
    found = []
    if unknown := set(engine.apis) - set(APIS):
        found.append(("apis", f"{', '.join(sorted(unknown))} is unknown: use openai or http"))
    for number, path in enumerate(engine.paths):
        if not _PATH.fullmatch(path) or ".." in path or "//" in path:
            found.append((f"paths[{number}]", "write a path such as `/summarize`"))
    if "http" in engine.apis and not engine.paths:
        found.append(("paths", "name the paths that may be asked for"))
    for field in ("health_path", "metrics_path"):
        if not _PATH.fullmatch(getattr(engine, field)):
            found.append((field, "write a path such as `/healthz`"))
    return found


def _command_faults(engine: CustomEngine) -> list[tuple[str, str]]:
    if not engine.command:
        return [("command", "name the program and its arguments")]
    found = []
    program = engine.command[0]
    if program and not _PROGRAM.fullmatch(program):
        found.append(("command[0]", "name a program of its environment, without a folder"))
    if not engine.requirements and not engine.image:
        found.append(("requirements", "give `requirements` for a process, or an `image`"))
    places = {place for word in engine.command for place in _PLACES.findall(word)}
    if unknown := places - _KNOWN_PLACES:
        found.append(("command", f"{{{sorted(unknown)[0]}}} is no place: use {_places()}"))
    if not places & {"port", "socket"}:
        found.append(("command", "say where it listens with {port} or {socket}"))
    return found


def _places() -> str:
    return ", ".join(f"{{{place}}}" for place in sorted(_KNOWN_PLACES))


def _metric_faults(engine: CustomEngine) -> list[tuple[str, str]]:
    found = []
    for name, series in engine.metrics.items():
        if name not in NUMBERS:
            found.append((f"metrics.{name}", f"is no number of ours: use {', '.join(NUMBERS)}"))
        if not _SERIES.fullmatch(series):
            found.append((f"metrics.{name}", 'write a series, as `requests_total{path="/x"}`'))
    return found


def _env_faults(engine: CustomEngine) -> list[tuple[str, str]]:
    return [
        (f"env.{name}", "this variable is the agent's alone: leave it out")
        for name in engine.env
        if not _VARIABLE.fullmatch(name)
        or name.startswith(DENIED_VARIABLES)
        or name in DENIED_NAMES
    ]


def package_names(requirements: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the packages, as an index compares them."""
    found = (_REQUIREMENT.fullmatch(requirement) for requirement in requirements)
    return tuple(re.sub(r"[-_.]+", "-", match["name"]).lower() for match in found if match)


def filled(command: Sequence[str], places: dict[str, str]) -> tuple[str, ...]:
    """Return `command` with its places filled; those that `places` lacks stay as they are."""
    return tuple(
        _PLACES.sub(lambda match: places.get(match[1], match[0]), word) for word in command
    )
