"""One plan for 1,000 replicas on 200 hosts of 8 GPUs."""

import statistics
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile.plan import plan
from apps.deployments.reconcile.snapshot import (
    Constraints,
    SeenGpu,
    SeenHost,
    SeenReplica,
    Snapshot,
    WantedRevision,
)
from apps.deployments.reconcile.steps import PlaceReplica
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState
from bench.main.figures import Result

HOSTS, GPUS, REPLICAS = 200, 8, 1000
TARGET_MILLISECONDS = 150.0
RUNS = 15
GIB = 1024**3
NOW = datetime(2026, 11, 1, tzinfo=UTC)
REVISION = UUID(int=1)


def measure() -> Result:
    """Plan the same snapshot again and again; the median counts."""
    result = Result(
        part="plan", question=f"{REPLICAS} replicas on {HOSTS} hosts x {GPUS} GPUs, one plan"
    )
    snapshot = _snapshot()
    spent, worked = [], []
    for _ in range(RUNS):
        started, cpu = time.perf_counter(), time.process_time()
        steps = plan(snapshot, NOW)
        spent.append((time.perf_counter() - started) * 1000)
        worked.append((time.process_time() - cpu) * 1000)
    placed = [step.placed for step in steps if isinstance(step, PlaceReplica)]
    gpus = Counter(uuid for place in placed for uuid in place.gpu_uuids)
    result.add("median of one plan", statistics.median(spent), "ms", TARGET_MILLISECONDS)
    result.add("median of a core's own time", statistics.median(worked), "ms")
    result.add("slowest of one plan", max(spent), "ms")
    result.add("replicas placed", len(placed), "")
    result.add("replicas not placed", REPLICAS - len(placed), "", 0)
    result.add("GPUs booked twice", sum(count > 1 for count in gpus.values()), "", 0)
    return result


def _snapshot() -> Snapshot:
    return Snapshot(
        deployment_id=UUID(int=2),
        name="large",
        desired=DesiredDeployment.RUNNING,
        wanted_replicas=REPLICAS,
        revision=WantedRevision(
            id=REVISION,
            number=1,
            device="cuda",
            gpus=1,
            bytes_per_gpu=70 * GIB,
            memory_bytes=0,
            gpu_memory_ratio=0.9,
            min_compute_capability="8.0",
            cache_keys=frozenset({"weights"}),
        ),
        constraints=Constraints(labels={"zone": "a"}),
        replicas=tuple(_replica(number) for number in range(REPLICAS)),
        hosts=tuple(_host(number) for number in range(HOSTS)),
    )


def _replica(number: int) -> SeenReplica:
    return SeenReplica(
        id=UUID(int=1000 + number),
        revision_id=REVISION,
        revision_number=1,
        desired=DesiredReplica.RUNNING,
        phase=ReplicaPhase.PENDING,
        phase_at=NOW,
        created_at=NOW - timedelta(seconds=number),
    )


def _host(number: int) -> SeenHost:
    gpus = tuple(
        SeenGpu(
            uuid=f"GPU-{number}-{index}",
            free_bytes=78 * GIB,
            taken=False,
            total_bytes=80 * GIB,
            kind="h100",
            compute_capability="9.0",
            nvlink_group=index // 4,
        )
        for index in range(GPUS)
    )
    return SeenHost(
        id=UUID(int=10_000 + number),
        name=f"host-{number:03}",
        state=HostState.READY,
        cordoned=False,
        labels={"zone": "a"},
        free_memory_bytes=512 * GIB,
        memory_bytes=1024 * GIB,
        gpus=gpus,
        cached=frozenset({"weights"}) if number % 3 == 0 else frozenset(),
        price_per_hour_usd=20.0 + number % 5,
    )
