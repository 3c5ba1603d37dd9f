"""From what the fleet serves to the routing table of one gateway; pure.

`Served` is everything any gateway might need, loaded once; `table` picks from it what the gateways
of one host get: the engine's own socket for a replica on the same host, else the relay of the
replica's host. Called by `queries` and `actions`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from agents.wire import EVENTS_SOCKET, REPLAY_SOCKET, Endpoint, EngineSpec
from gateway.wire import (
    Detour,
    KeyRoute,
    KvEvents,
    Message,
    ModelRoute,
    ReplicaRoute,
    RouteState,
    RoutingTable,
    Shadow,
    Share,
    Wake,
)

CPU_BLOCK_TOKENS = 128
"""Size of a prefix-cache block of vLLM's CPU engine; 16 elsewhere."""
GPU_BLOCK_TOKENS = 16
_ETA_STEP_SECONDS = 10
"""Waiting times are told in steps, so that a new one is not a new table each second."""


class ServedReplica(Message, frozen=True, kw_only=True):
    """One replica that serves or drains."""

    id: str
    host: str
    relay_key: str
    endpoint: Endpoint
    state: RouteState
    kv_cache_tokens: int | None
    ready_at: float | None
    revision: int = 0


class ServedModel(Message, frozen=True, kw_only=True):
    """One deployment that people want running, or that still drains."""

    name: str
    created_at: float
    spec: EngineSpec
    replicas: tuple[ServedReplica, ...]
    wakeable: bool
    wake: Wake | None
    shares: tuple[Share, ...] = ()
    shadow: Shadow | None = None


class ServedAlias(Message, frozen=True, kw_only=True):
    """Another public name of a deployment."""

    name: str
    deployment: str


class Served(Message, frozen=True, kw_only=True):
    """All that the routing tables of all gateways are made from."""

    models: tuple[ServedModel, ...]
    keys: tuple[KeyRoute, ...]
    aliases: tuple[ServedAlias, ...] = ()
    detours: dict[str, Detour] = {}
    """Names that another app answers in front of a deployment: see settings.DETOUR_SOURCES."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A content of the tables and its revision."""

    revision: int
    served: Served


def digest(served: Served) -> str:
    """Return the hex SHA-256 of the content: equal contents, equal tables."""
    return hashlib.sha256(msgspec.json.encode(served, order="sorted")).hexdigest()


def table(numbered: Numbered, host_name: str) -> RoutingTable:
    """Return the routing table for gateways on the host called `host_name`."""
    served = numbered.served
    by_name = {model.name: model for model in served.models}
    # A deployment's own name always leads to it: an alias of the same name rests meanwhile.
    names = {alias.name: alias.deployment for alias in served.aliases}
    names |= {a.name: model.name for model in served.models for a in model.spec.adapters}
    names |= {name: name for name in by_name}
    return RoutingTable(
        revision=numbered.revision,
        models={
            name: _route(by_name[deployment], name, host_name)
            for name, deployment in names.items()
            if deployment in by_name
        },
        detours={
            name: detour
            for name, detour in served.detours.items()
            if detour.deployment in by_name and name not in names
        },
        keys=served.keys,
    )


def tenant(team: str) -> str:
    """Return what sets the keys of a team apart at gateways."""
    return f"team-{team}"


def members(served: Served) -> Mapping[str, str]:
    """Return which deployment each serving replica belongs to."""
    return {replica.id: model.name for model in served.models for replica in model.replicas}


def eta(seconds: float | None) -> float | None:
    """Return a waiting time rounded up to a step that does not change each second."""
    if seconds is None:
        return None
    return float(-(-seconds // _ETA_STEP_SECONDS) * _ETA_STEP_SECONDS)


def _route(model: ServedModel, name: str, host_name: str) -> ModelRoute:
    spec = model.spec
    routes = [_replica(replica, host_name, spec) for replica in model.replicas]
    # Each adapter is a model of its own, which the engine knows by its public name.
    known = {*spec.served_names, *(adapter.name for adapter in spec.adapters)}
    return ModelRoute(
        deployment=model.name,
        task=spec.task,
        replicas=tuple(route for route in routes if route is not None),
        max_in_flight_per_replica=spec.max_in_flight,
        wakeable=model.wakeable,
        wake=model.wake,
        upstream_name="" if name in known else spec.served_names[0],
        block_tokens=block_tokens(spec),
        paths=spec.custom.paths if spec.custom is not None else (),
        context_tokens=spec.settings.max_model_len,
        created_at=model.created_at,
        shares=model.shares,
        shadow=model.shadow,
    )


def block_tokens(spec: EngineSpec) -> int:
    """Return the size of the prefix-cache blocks of an engine with this spec."""
    if spec.settings.block_size is not None:
        return spec.settings.block_size
    is_cpu_engine = spec.device == "cpu" and spec.engine == "vllm"
    return CPU_BLOCK_TOKENS if is_cpu_engine else GPU_BLOCK_TOKENS


def _replica(replica: ServedReplica, host_name: str, spec: EngineSpec) -> ReplicaRoute | None:
    """Return the way to `replica`; None if gateways of this host have none."""
    endpoint = replica.endpoint
    is_local = replica.host == host_name
    url = endpoint.address if is_local else endpoint.relay_url
    if not url:
        return None
    return ReplicaRoute(
        id=replica.id,
        url=url,
        state=replica.state,
        api_key=endpoint.api_key if is_local else replica.relay_key,
        kv_cache_tokens=replica.kv_cache_tokens,
        ready_at=replica.ready_at,
        revision=replica.revision,
        kv_events=_kv_events(url, spec) if is_local else None,
    )


def _kv_events(address: str, spec: EngineSpec) -> KvEvents | None:
    """Return where an engine tells of its cache: on sockets beside its own, if it has one."""
    folder, _, name = address.removeprefix("unix:").rpartition("/")
    if not (spec.settings.kv_events and name == "engine.sock"):
        return None
    return KvEvents(
        endpoint=f"ipc://{folder}/{EVENTS_SOCKET}",
        replay_endpoint=f"ipc://{folder}/{REPLAY_SOCKET}",
    )
