"""One control loop over a large fleet: `make bench-fleet`. Prints seconds of a core and memory.

200 hosts of 8 GPUs, 500 deployments, 1,500 replicas as rows of a database of its own (SQLite), with
gateways' numbers for all of them; nothing real runs. What is measured is a controller's pass:
autoscaler, load, plan and settle, in this process.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock
from uuid import uuid4

HOSTS, GPUS, DEPLOYMENTS, REPLICAS = 200, 8, 500, 1500
PASSES = 6


def main() -> int:
    """Build the fleet, measure passes, print figures."""
    folder = tempfile.mkdtemp(prefix="hearth-fleet-")
    os.environ |= {"HEARTH_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    os.environ.setdefault("REDIS_URL", f"unix://{folder}/none.sock")
    import django  # noqa: PLC0415 - the settings read the environment

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    _measure(Path(folder))
    return 0


def _measure(folder: Path) -> None:
    from apps.deployments.reconcile import loop, scaler  # noqa: PLC0415
    from apps.lib import clock  # noqa: PLC0415
    from apps.telemetry.counters import Seen  # noqa: PLC0415
    from apps.telemetry.live import Newest  # noqa: PLC0415
    from gateway.wire import Counts, Live, decode, encode  # noqa: PLC0415

    names = _rows(clock.now())
    counts = {name: Counts(in_flight=5, requests_total=100) for name in names}
    body = encode(Live(gateway_id="g", started_at=0, seq=1, deployments=counts))

    def newest(now):
        return Newest({"g": Seen(now.timestamp(), decode(Live, body))}, {})

    controller = loop.Controller()
    quiet = mock.MagicMock()
    with (
        mock.patch.object(scaler.live, "newest", newest),
        mock.patch.object(scaler.live, "wakes", return_value=frozenset()),
        mock.patch.object(scaler.Scaler, "_lead", return_value=True),
        mock.patch.object(loop, "live", quiet),
    ):
        now = clock.now()
        taken, scaled = [], []
        for number in range(PASSES):
            at = now + timedelta(seconds=2 * number)
            begun = time.process_time()
            controller._scaler.tick(at)
            scaled.append(time.process_time() - begun)
            begun = time.process_time()
            busy = controller.run_once(at + timedelta(seconds=0.5))
            taken.append(time.process_time() - begun + scaled[-1])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{HOSTS} hosts x {GPUS} GPUs, {DEPLOYMENTS} deployments, {REPLICAS} replicas, SQLite")
    print(f"deployments with something to do in the last pass: {busy}")
    print(f"first pass: {taken[0]:.2f} s of a core")
    print(
        f"pass: {statistics.median(taken[1:]):.2f} s of a core (worst {max(taken[1:]):.2f}), "
        f"of which the autoscaler {statistics.median(scaled[1:]):.2f}"
    )
    print(f"memory: {memory:.0f} MB at most")


def _rows(now) -> list[str]:
    """Fill the database; return the deployments' names."""
    import msgspec  # noqa: PLC0415

    from agents.wire import GpuInfo  # noqa: PLC0415
    from apps.deployments.models import (  # noqa: PLC0415
        Deployment,
        Replica,
        Revision,
        ScalingPolicy,
    )
    from apps.deployments.states import DeploymentPhase, ReplicaPhase  # noqa: PLC0415
    from apps.fleet.models import Host  # noqa: PLC0415
    from tests.apps.deployments.factories import GIB, make_inventory, make_spec  # noqa: PLC0415

    hosts = []
    for n in range(HOSTS):
        gpus = tuple(
            GpuInfo(
                uuid=f"GPU-{n}-{g}",
                index=g,
                name="H100",
                memory_total_bytes=80 * GIB,
                memory_used_bytes=0,
            )
            for g in range(GPUS)
        )
        inventory = msgspec.to_builtins(make_inventory(memory_gib=1024, gpus=gpus))
        hosts.append(
            Host(
                name=f"host-{n}",
                install_id=uuid4().hex,
                credential_sha256=uuid4().hex,
                relay_key="k",
                state_at=now,
                last_seen_at=now + timedelta(hours=1),
                created_at=now,
                inventory=inventory,
            )
        )
    Host.objects.bulk_create(hosts)
    names = [f"model-{n}" for n in range(DEPLOYMENTS)]
    rows = [
        Deployment(
            name=name,
            catalog_slug="m",
            created_by="b",
            created_at=now,
            changed_at=now,
            phase=DeploymentPhase.READY,
            observed_generation=1,
        )
        for name in names
    ]
    Deployment.objects.bulk_create(rows)
    each = REPLICAS // DEPLOYMENTS
    ScalingPolicy.objects.bulk_create(
        ScalingPolicy(deployment=row, min_replicas=each, max_replicas=each + 5) for row in rows
    )
    spec = msgspec.to_builtins(make_spec())
    revisions = [
        Revision(
            deployment=row,
            number=1,
            variant="fp8",
            engine="vllm",
            device="cuda",
            task="chat",
            spec=spec,
            need={"total_bytes": 40 * GIB, "gpus": 1},
            created_by="b",
            created_at=now,
        )
        for row in rows
    ]
    Revision.objects.bulk_create(revisions)
    Replica.objects.bulk_create(
        Replica(
            deployment=rows[n % DEPLOYMENTS],
            revision=revisions[n % DEPLOYMENTS],
            host=hosts[n % HOSTS],
            created_at=now,
            phase=ReplicaPhase.READY,
            phase_at=now,
            ready_at=now,
            gpu_uuids=[f"GPU-{n % HOSTS}-{n // HOSTS}"],
            memory_bytes=40 * GIB,
        )
        for n in range(REPLICAS)
    )
    return names


if __name__ == "__main__":
    sys.exit(main())
