"""Rows for tests of the deployments app: plain functions, keyword-only."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

from agents.wire import (
    EngineKind,
    EngineSpec,
    GpuInfo,
    Inventory,
    ObservedPhase,
    ReplicaReport,
    RuntimeKind,
    WeightsRef,
)
from apps.deployments.models import Deployment, Replica, Revision, ScalingPolicy
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import Host
from apps.lib import secrets

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GIB = 1024**3


def make_inventory(*, memory_gib: int = 16, gpus: tuple[GpuInfo, ...] = ()) -> Inventory:
    return Inventory(
        hostname="machine",
        cpu_count=8,
        memory_total_bytes=memory_gib * GIB,
        memory_available_bytes=memory_gib * GIB,
        disk_total_bytes=100 * GIB,
        disk_free_bytes=90 * GIB,
        gpus=gpus,
        runtime=RuntimeKind.PROCESS,
        group_address="10.0.0.1",
    )


def make_host(
    *,
    name: str = "alpha",
    credential: str = "",
    memory_gib: int = 16,
    gpus: tuple[GpuInfo, ...] = (),
    **columns: Any,
) -> Host:
    return Host.objects.create(
        name=name,
        install_id=uuid4().hex,
        credential_sha256=secrets.digest(credential or uuid4().hex),
        relay_key="relay-key",
        state_at=NOW,
        last_seen_at=NOW,
        created_at=NOW,
        inventory=msgspec.to_builtins(make_inventory(memory_gib=memory_gib, gpus=gpus)),
        **columns,
    )


def make_spec(**changes: Any) -> EngineSpec:
    values = {
        "engine": EngineKind.SIMULATOR,
        "weights": WeightsRef(key="w", source="path:/w"),
        "served_names": ("chat",),
    }
    return EngineSpec(**{**values, **changes})


def make_deployment(*, name: str = "chat", wanted: int = 1, **columns: Any) -> Deployment:
    row = Deployment.objects.create(
        name=name,
        catalog_slug="smollm2-135m-instruct",
        created_by="ada",
        created_at=NOW,
        changed_at=NOW,
        **columns,
    )
    ScalingPolicy.objects.create(deployment=row, min_replicas=wanted, max_replicas=max(wanted, 1))
    make_revision(deployment=row)
    return row


def make_revision(*, deployment: Deployment, number: int = 1) -> Revision:
    return Revision.objects.create(
        deployment=deployment,
        number=number,
        variant="bf16",
        engine=EngineKind.SIMULATOR,
        device="cpu",
        task="chat",
        spec=msgspec.to_builtins(make_spec(served_names=(deployment.name,))),
        need={"total_bytes": 2 * GIB, "gpus": 0},
        created_by="ada",
        created_at=NOW,
    )


def make_replica(
    *,
    deployment: Deployment,
    host: Host | None = None,
    phase: ReplicaPhase = ReplicaPhase.READY,
    **columns: Any,
) -> Replica:
    return Replica.objects.create(
        deployment=deployment,
        revision=deployment.revisions.latest("number"),
        host=host,
        phase=phase,
        phase_at=NOW,
        created_at=NOW,
        memory_bytes=2 * GIB if host else 0,
        **columns,
    )


def make_report(
    replica: Replica, phase: ObservedPhase, *, generation: int | None = None, **more: Any
) -> ReplicaReport:
    return ReplicaReport(
        replica_id=str(replica.pk),
        generation=replica.generation if generation is None else generation,
        phase=phase,
        phase_at=NOW.timestamp(),
        **more,
    )
