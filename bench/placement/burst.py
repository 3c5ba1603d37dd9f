"""50 deployments ordered at once, placed by controllers that race for the same GPUs."""

import multiprocessing
import resource
import threading
import time
from collections import Counter
from datetime import datetime
from multiprocessing.synchronize import Barrier
from uuid import uuid4

import django
import msgspec
from django.core.management import call_command
from django.db import connections

from agents.wire import EngineKind, EngineSpec, GpuInfo, Inventory, RuntimeKind, WeightsRef

django.setup()

from apps.deployments.models import (  # noqa: E402
    Booking,
    Deployment,
    Replica,
    Revision,
    ScalingPolicy,
)
from apps.deployments.reconcile.loop import Controller  # noqa: E402
from apps.fleet.models import Host  # noqa: E402
from apps.lib import clock  # noqa: E402
from apps.lib.redis import client  # noqa: E402
from bench.main.figures import Result  # noqa: E402
from bench.placement.planning import GIB, GPUS, HOSTS  # noqa: E402

DEPLOYMENTS = 50
GPUS_EACH = 2
TARGET_SECONDS = 5.0
GIVE_UP_SECONDS = 60.0
LOOK_SECONDS = 0.05


def measure(controllers: int) -> Result:
    """Order, let the controllers run until all is placed, count."""
    result = Result(
        part="burst",
        question=f"{DEPLOYMENTS} deployments at once, {controllers} controllers, "
        f"{HOSTS} hosts x {GPUS} GPUs",
    )
    call_command("migrate", verbosity=0)
    now = clock.now()
    for number in range(HOSTS):
        _host(number, now)
    for number in range(DEPLOYMENTS):
        _order(number, now)
    seconds, worked = _race(controllers)
    twice = _booked_twice()
    placed = Replica.objects.exclude(host=None).count()
    result.add("until all were placed", seconds, "s", TARGET_SECONDS)
    result.add("time of cores, all controllers", worked, "s")
    result.add("replicas placed", placed, "")
    result.add("deployments not placed", DEPLOYMENTS - placed, "", 0)
    result.add("GPUs booked twice", twice, "", 0)
    return result


def _race(controllers: int) -> tuple[float, float]:
    """Return the seconds from the start of all controllers to the last placement, and their CPU."""
    connections.close_all()
    client.cache_clear()  # a connection must not be shared with a fork
    before = _children_seconds()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(controllers + 1)
    crowd = [context.Process(target=_control, args=(barrier,)) for _ in range(controllers)]
    for process in crowd:
        process.start()
    barrier.wait(30)
    started = time.perf_counter()
    for process in crowd:
        process.join(GIVE_UP_SECONDS)
        if process.is_alive():
            process.kill()
    return time.perf_counter() - started, _children_seconds() - before


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _control(barrier: Barrier) -> None:
    """Run a controller as `manage.py reconcile` does, until all is placed."""
    controller = Controller()
    running = threading.Thread(target=controller.run)
    deadline = time.monotonic() + GIVE_UP_SECONDS
    barrier.wait(30)
    running.start()
    while time.monotonic() < deadline:
        if Replica.objects.exclude(host=None).count() >= DEPLOYMENTS:
            break
        time.sleep(LOOK_SECONDS)
    controller.stop()
    running.join()


def _booked_twice() -> int:
    """Return how many GPUs more than one replica has, by both records of it."""
    bookings = Counter(Booking.objects.values_list("capacity__gpu_uuid", flat=True))
    replicas = Counter(
        uuid for uuids in Replica.objects.values_list("gpu_uuids", flat=True) for uuid in uuids
    )
    return sum(count > 1 for counts in (bookings, replicas) for count in counts.values())


def _host(number: int, now: datetime) -> None:
    gpus = tuple(
        GpuInfo(
            uuid=f"GPU-{number}-{index}",
            index=index,
            name="NVIDIA H100 80GB HBM3",
            memory_total_bytes=80 * GIB,
            memory_used_bytes=GIB,
            compute_capability="9.0",
            nvlink_group=index // 4,
        )
        for index in range(GPUS)
    )
    inventory = Inventory(
        hostname=f"host-{number:03}",
        cpu_count=64,
        memory_total_bytes=1024 * GIB,
        memory_available_bytes=900 * GIB,
        disk_total_bytes=1024 * GIB,
        disk_free_bytes=900 * GIB,
        gpus=gpus,
        runtime=RuntimeKind.DOCKER,
    )
    Host.objects.create(
        name=f"host-{number:03}",
        install_id=uuid4().hex,
        credential_sha256=uuid4().hex,
        relay_key="k",
        state_at=now,
        last_seen_at=now,
        created_at=now,
        inventory=msgspec.to_builtins(inventory),
    )


def _order(number: int, now: datetime) -> None:
    name = f"burst-{number:02}"
    row = Deployment.objects.create(
        name=name, catalog_slug="qwen3-8b", created_by="bench", created_at=now, changed_at=now
    )
    ScalingPolicy.objects.create(deployment=row, min_replicas=1, max_replicas=1)
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        device="cuda",
        weights=WeightsRef(key="w", source="path:/w"),
        served_names=(name,),
    )
    Revision.objects.create(
        deployment=row,
        number=1,
        variant="bf16",
        engine=EngineKind.VLLM,
        device="cuda",
        task="chat",
        spec=msgspec.to_builtins(spec),
        need={"total_bytes": 70 * GIB, "gpus": GPUS_EACH},
        fit={"gpu_memory_ratio": 0.9},
        created_by="bench",
        created_at=now,
    )
