"""Rows to test with: a host, a deployment, its revision and replicas, a user."""

from datetime import UTC, datetime
from uuid import uuid4

import msgspec

from agents.wire import Endpoint, EngineKind, EngineSettings, EngineSpec, WeightsRef
from apps.accounts.models import User
from apps.accounts.states import Role
from apps.deployments.models import Deployment, Replica, Revision, ScalingPolicy
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import Host

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
GIB = 1024**3


def host(name="alpha", **columns) -> Host:
    inventory = {"hostname": name, "memory_total_bytes": 64 * GIB, "gpus": []}
    values = {
        "inventory": inventory,
        "install_id": name,
        "credential_sha256": name,
        "relay_key": f"relay-of-{name}",
        "state_at": NOW,
        "last_seen_at": NOW,
        "created_at": NOW,
    }
    return Host.objects.create(name=name, **(values | columns))


def spec(name, **fields) -> EngineSpec:
    values = {
        "engine": EngineKind.VLLM,
        "weights": WeightsRef(key="w", source="path:/w"),
        "served_names": (name,),
        "settings": EngineSettings(max_model_len=4096),
    }
    return EngineSpec(**(values | fields))


def deployment(name="smol", *, max_replicas=1, engine_spec=None, **columns) -> Deployment:
    row = Deployment.objects.create(
        name=name,
        catalog_slug=name,
        created_by="ada",
        created_at=NOW,
        changed_at=NOW,
        **columns,
    )
    ScalingPolicy.objects.create(deployment=row, min_replicas=0, max_replicas=max_replicas)
    Revision.objects.create(
        deployment=row,
        number=1,
        variant="bf16",
        engine="vllm",
        device="cpu",
        task="chat",
        spec=msgspec.to_builtins(engine_spec or spec(name)),
        created_by="ada",
        created_at=NOW,
    )
    return row


def replica(of: Deployment, on: Host, phase=ReplicaPhase.READY, **columns) -> Replica:
    key = uuid4()
    endpoint = Endpoint(
        address=f"unix:/run/{key}.sock",
        api_key="engine-key",
        relay_url=f"http://{on.name}:7000/r/{key}",
    )
    values = {
        "revision": of.revisions.latest("number"),
        "created_at": NOW,
        "phase_at": NOW,
        "ready_at": NOW,
        "memory_bytes": 16 * GIB,
        "endpoint": msgspec.to_builtins(endpoint),
    }
    return Replica.objects.create(id=key, deployment=of, host=on, phase=phase, **(values | columns))


def user(name="ada", role=Role.OPERATOR) -> User:
    return User.objects.create(username=name, role=role)
