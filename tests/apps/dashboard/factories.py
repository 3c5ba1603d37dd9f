"""Rows for the pages' tests, made through the models' own columns."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

from agents.wire import (
    EngineKind,
    EngineSpec,
    GpuInfo,
    Inventory,
    RuntimeKind,
    WeightsRef,
)
from apps.accounts.models import User
from apps.accounts.states import Role
from apps.catalog.models import Measurement
from apps.deployments.models import (
    Booking,
    Decision,
    Deployment,
    Event,
    Replica,
    Revision,
    Rollout,
    ScalingPolicy,
    Start,
    WarmPool,
)
from apps.deployments.rollout_policy import parse, to_json
from apps.deployments.rollouts import verdict_json
from apps.deployments.states import RolloutStage
from apps.deployments.verdict import Tally, judge
from apps.fleet.models import CacheItem, Capacity, Host

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PASSWORD = "correct horse battery"  # a password of tests


def user(name: str = "ana", role: Role = Role.ADMIN) -> User:
    made = User(username=name, role=role)
    made.set_password(PASSWORD)
    made.save()
    return made


def inventory(*, gpus: int = 0, memory_bytes: int = 64 * 10**9) -> Inventory:
    return Inventory(
        hostname="box",
        architecture="x86_64",
        cpu_model="AMD EPYC 9354",
        cpu_count=16,
        memory_total_bytes=memory_bytes,
        memory_available_bytes=memory_bytes * 3 // 4,
        disk_total_bytes=10**12,
        disk_free_bytes=6 * 10**11,
        gpus=tuple(
            GpuInfo(
                uuid=f"GPU-{uuid4()}",
                index=index,
                name="NVIDIA H100 80GB HBM3",
                memory_total_bytes=85 * 10**9,
                memory_used_bytes=10**9,
                compute_capability="9.0",
                utilization_ratio=0.42,
            )
            for index in range(gpus)
        ),
        driver_version="570.86" if gpus else "",
        agent_version="0.1.0",
        runtime=RuntimeKind.PROCESS,
        runtime_reason="Docker does not answer on this host.",
    )


def host(name: str = "box", *, gpus: int = 0, **columns: Any) -> Host:
    return Host.objects.create(
        name=name,
        install_id=uuid4().hex,
        credential_sha256=uuid4().hex,
        relay_key="key",
        inventory=msgspec.to_builtins(inventory(gpus=gpus)),
        **{"state_at": NOW, "last_seen_at": NOW, "created_at": NOW, **columns},
    )


def deployment(
    name: str = "smol",
    *,
    slug: str = "smollm2-135m-instruct",
    engine: EngineKind = EngineKind.VLLM,
    replicas: int = 1,
    task: str = "chat",
    gpus: int = 0,
    **columns: Any,
) -> Deployment:
    made = Deployment.objects.create(
        name=name,
        catalog_slug=slug,
        created_by="ana",
        **{"created_at": NOW, "changed_at": NOW, **columns},
    )
    ScalingPolicy.objects.create(
        deployment=made, min_replicas=replicas, max_replicas=max(1, replicas)
    )
    spec = EngineSpec(
        engine=engine,
        weights=WeightsRef(key="w", source="path:/w"),
        served_names=(name,),
        max_in_flight=64,
    )
    Revision.objects.create(
        deployment=made,
        number=1,
        variant="q4_1",
        engine=engine,
        device="cuda" if gpus else "cpu",
        task=task,
        spec=msgspec.to_builtins(spec),
        need={"gpus": gpus, "total_bytes": 2 * 10**9},
        created_by="ana",
        created_at=NOW,
    )
    return made


def canary(of: Deployment, on: Host | None, *, now: datetime) -> Rollout:
    """Make revision 2 of `of` a canary that has been looked at once."""
    live = of.revisions.get(number=1)
    spec = {**live.spec, "settings": {"max_model_len": 8192, "max_num_seqs": 32}}
    candidate = Revision.objects.get(pk=live.pk)
    candidate.pk, candidate.number, candidate.spec = uuid4(), 2, spec
    candidate.save(force_insert=True)
    Deployment.objects.filter(pk=of.pk).update(live=live)
    policy = parse({"strategy": "canary", "shadow_ratio": 0.2})
    tallies = [
        {"requests": many, "failed": 1, "ttft": {str(at): many}, "itl": {str(at - 40): many}}
        for many, at in ((640, -40), (71, -38))
    ]
    verdict = judge(Tally.read(tallies[0]), Tally.read(tallies[1]), 1, policy.canary)
    replica(of, on)
    return Rollout.objects.create(
        deployment=of,
        live=live,
        candidate=candidate,
        policy=to_json(policy),
        stage=RolloutStage.CANARY,
        stage_at=now,
        progressed_at=now,
        live_served=True,
        looks=1,
        evidence={"1": tallies[0], "2": tallies[1]},
        verdict=verdict_json(verdict),
        created_by="ana",
        created_at=now,
    )


def replica(of: Deployment, on: Host | None, phase: str = "ready", **columns: Any) -> Replica:
    return Replica.objects.create(
        deployment=of,
        revision=of.revisions.latest("number"),
        host=on,
        phase=phase,
        **{
            "created_at": NOW,
            "phase_at": NOW,
            "ready_at": NOW if phase == "ready" else None,
            "memory_bytes": 2 * 10**9,
            "engine_version": "0.32.0",
            **columns,
        },
    )


def event(message: str = "smol is ready", **columns: Any) -> Event:
    return Event.objects.create(
        **{"at": NOW, "kind": "replica.ready", "message": message, "actor": "reconciler", **columns}
    )


def placement(deployment: Deployment) -> None:
    """Book what the replicas of `deployment` hold, and tell why there and how well it was known."""
    for replica in deployment.replicas.exclude(host=None):
        capacity, _ = Capacity.objects.get_or_create(
            host=replica.host, gpu_uuid="", defaults={"total_bytes": 64 * 10**9}
        )
        Booking.objects.create(replica=replica, capacity=capacity, bytes=2_140_000_000)
    terms = {"spread": 1.0, "cached": 1.0, "price": 0.8, "room": 0.41, "welcome": 1.0}
    hosts = ["box", "a-host-with-a-rather-long-name-02"]
    Decision.objects.create(
        deployment=deployment,
        created_at=NOW,
        kind="placement",
        reason="box has room for 2.0 GiB of memory; 2 hosts fitted",
        inputs={
            "host": "box",
            "candidates": [{"host": h, "score": 14.5, "terms": terms} for h in hosts],
            "fitted": 2,
            "refused": {"gpu-with-a-long-name-01": "has no label zone=eu-central"},
        },
    )
    Measurement.objects.create(
        catalog_slug=deployment.catalog_slug,
        variant="bf16",
        device_kind="cpu",
        digest="d",
        measured_at=NOW,
        replica=uuid4(),
        engine_version="0.32.0+cpu",
        predicted={"weights_bytes": 269_000_000, "kv_tokens": 5824, "total_bytes": 2_140_000_000},
        measured={"weights_bytes": 268_435_456, "kv_tokens": 4000, "total_bytes": 2_230_000_000},
    )


_STAGES = (("weights", 6.4), ("import", 9.1), ("load", 2.2), ("compile", 31.0), ("warm-up", 4.0))


def warm(of: Deployment, on: Host) -> None:
    """Give `of` a sleeper, starts from every rung, a claim, and something cached on `on`."""
    nap = {"level": 1, "held_bytes": 2 * 10**9, "residual_bytes": 2 * 10**8, "seconds": 0.4}
    sleeper = replica(of, on, "asleep", desired="asleep", nap=nap)
    for share, rung in ((1.0, "cold"), (0.4, "cached"), (0.5, "cached")):
        stages = [
            {
                "stage": name,
                "seconds": seconds * share,
                "bytes": 269_000_000 if share == 1 else None,
            }
            for name, seconds in _STAGES
        ]
        _start(of, on, rung, stages)
    _start(of, on, "asleep", [{"stage": "wake", "seconds": 0.7, "bytes": None}])
    reason = "a sleeper wakes in about 0.7 s; a new start takes 26.4 s"
    Decision.objects.create(
        deployment=of, created_at=of.created_at, kind="ladder", reason=reason,
        inputs={"replica": str(sleeper.pk), "seconds": 0.7},
    )  # fmt: skip
    WarmPool.objects.create(gpu_kind="h100", slots=4, changed_at=NOW)
    for kind, key, state in (("image", "default:cpu", "present"), ("weights", "w", "fetching")):
        CacheItem.objects.create(
            host=on, kind=kind, key=key, order={}, wanted_by=[of.name], wanted_at=NOW,
            state=state, bytes=2 * 10**9, seconds=34.0, progress={"ratio": 0.4},
        )  # fmt: skip


def _start(of: Deployment, on: Host, rung: str, stages: list[dict[str, Any]]) -> None:
    Start.objects.create(
        deployment=of, replica=uuid4(), host=on.name, model=f"{of.catalog_slug}:bf16",
        engine="vllm", engine_version="0.32.0", rung=rung, began_at=NOW, ended_at=NOW,
        seconds=sum(stage["seconds"] for stage in stages), stages=stages,
    )  # fmt: skip
