"""Two hundred deployments in the database of a running Hearth, and the numbers of their replicas.

Run as `python -m bench.main.seed` with the environment of that Hearth. It writes the rows through
Django, counts the queries of one list of them, prints what it found as one line of JSON, and then
posts what the hosts' agents and a gateway would post each second, until its input is closed. The
hosts are simulated: no agent stands behind them, so the reader has 40 s until they are `unknown`.
"""

import asyncio
import json
import os
import sys
from collections import defaultdict
from datetime import datetime
from uuid import uuid4

import django

django.setup()

# Only after setup: these modules read models.
import msgspec  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from agents.wire import (  # noqa: E402
    EngineKind,
    EngineSpec,
    HostSample,
    Inventory,
    ReplicaSample,
    Report,
    RuntimeKind,
    WeightsRef,
    encode,
)
from apps.deployments.models import (  # noqa: E402
    Deployment,
    Replica,
    Revision,
    ScalingPolicy,
)
from apps.deployments.rollout_policy import RolloutPolicy, to_json  # noqa: E402
from apps.deployments.states import DeploymentPhase, ReplicaPhase  # noqa: E402
from apps.fleet.models import Host  # noqa: E402
from apps.lib import clock  # noqa: E402
from apps.telemetry import live  # noqa: E402
from gateway import wire  # noqa: E402
from gateway.wire import (  # noqa: E402
    GAP_BUCKETS_SECONDS,
    TTFT_BUCKETS_SECONDS,
    Counts,
    Live,
)

DEPLOYMENTS = 200
HOSTS = 20
LIST = "/api/v1/deployments/"
GIB = 1024**3


@transaction.atomic
def write_rows(now: datetime) -> list[Replica]:
    """Insert hosts, deployments, and one ready replica of each; return the replicas."""
    hosts = Host.objects.bulk_create(_host(number, now) for number in range(HOSTS))
    deployments = Deployment.objects.bulk_create(
        _deployment(number, now) for number in range(DEPLOYMENTS)
    )
    ScalingPolicy.objects.bulk_create(ScalingPolicy(deployment=row) for row in deployments)
    revisions = Revision.objects.bulk_create(_revision(row, now) for row in deployments)
    return Replica.objects.bulk_create(
        _replica(revision, hosts[number % HOSTS], now) for number, revision in enumerate(revisions)
    )


def count_queries() -> dict[str, int]:
    """Return how many SQL queries a list takes, by page size."""
    client = Client(headers={"authorization": f"Bearer {os.environ['HEARTH_API_TOKEN']}"})
    counts = {}
    for size in (50, DEPLOYMENTS):
        client.get(LIST, SERVER_NAME="127.0.0.1")  # what a process reads once is not the list's
        with CaptureQueriesContext(connection) as captured:
            answer = client.get(LIST, {"page_size": size}, SERVER_NAME="127.0.0.1")
        assert answer.status_code == 200, answer.content
        assert len(answer.json()["results"]) == size
        counts[str(size)] = len(captured)
    return counts


async def post_numbers(replicas: list[Replica]) -> None:
    """Post what agents and a gateway post, each second, until standard input is closed."""
    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    by_host: dict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        by_host[str(replica.host)].append(replica)
    second = 0
    while not closed.done():
        second += 1
        for name, own in by_host.items():
            await live.put_host(name, _report(own, second))
        await live.put_gateway("bench", _live(replicas, second))
        live.put_members({str(replica.pk): replica.deployment.name for replica in replicas})
        await asyncio.wait([closed], timeout=1.0)


def _host(number: int, now: datetime) -> Host:
    inventory = Inventory(
        hostname=f"rack-{number}",
        cpu_count=64,
        memory_total_bytes=256 * GIB,
        memory_available_bytes=256 * GIB,
        disk_total_bytes=1000 * GIB,
        disk_free_bytes=900 * GIB,
        runtime=RuntimeKind.PROCESS,
    )
    return Host(
        name=f"rack-{number}",
        install_id=uuid4().hex,
        credential_sha256=uuid4().hex,
        relay_key=uuid4().hex,
        state_at=now,
        last_seen_at=now,
        created_at=now,
        inventory=msgspec.to_builtins(inventory),
    )


def _deployment(number: int, now: datetime) -> Deployment:
    return Deployment(
        name=f"model-{number:03}",
        catalog_slug="smollm2-135m-instruct",
        created_by="bench",
        created_at=now,
        changed_at=now,
        phase=DeploymentPhase.READY,
        observed_generation=1,
        rollout=to_json(RolloutPolicy()),
    )


def _revision(deployment: Deployment, now: datetime) -> Revision:
    spec = EngineSpec(
        engine=EngineKind.SIMULATOR,
        weights=WeightsRef(key="bench", source="path:/bench"),
        served_names=(deployment.name,),
    )
    return Revision(
        deployment=deployment,
        number=1,
        variant="q4_1",
        engine=EngineKind.SIMULATOR,
        device="cpu",
        task="chat",
        spec=msgspec.to_builtins(spec),
        need={"total_bytes": 2 * GIB, "gpus": 0},
        created_by="bench",
        created_at=now,
    )


def _replica(revision: Revision, host: Host, now: datetime) -> Replica:
    return Replica(
        deployment=revision.deployment,
        revision=revision,
        host=host,
        created_at=now,
        phase=ReplicaPhase.READY,
        phase_at=now,
        ready_at=now,
        observed_generation=1,
        memory_bytes=2 * GIB,
    )


def _report(replicas: list[Replica], second: int) -> bytes:
    at = clock.now().timestamp()
    samples = tuple(
        ReplicaSample(
            replica_id=str(replica.pk),
            at=at,
            running=4,
            waiting=0,
            kv_cache_usage_ratio=0.4,
            prompt_tokens_total=2000.0 * second,
            output_tokens_total=200.0 * second,
            prefix_cache_queries_total=2000.0 * second,
            prefix_cache_hits_total=1500.0 * second,
            requests_total=2.0 * second,
            memory_bytes=2 * GIB,
        )
        for replica in replicas
    )
    host = HostSample(at=at, cpu_ratio=0.5, memory_used_bytes=20 * GIB, disk_free_bytes=900 * GIB)
    return encode(
        Report(agent_epoch=1, report_seq=second, sent_at=at, samples=samples, host_sample=host)
    )


def _live(replicas: list[Replica], second: int) -> bytes:
    counts = Counts(
        in_flight=4,
        requests_total=2 * second,
        prompt_tokens_total=2000 * second,
        cached_tokens_total=1500 * second,
        output_tokens_total=200 * second,
        ttft_buckets=(second,) * (len(TTFT_BUCKETS_SECONDS) + 1),
        ttft_sum_seconds=0.2 * second,
        gap_buckets=(second,) * (len(GAP_BUCKETS_SECONDS) + 1),
        gap_sum_seconds=0.02 * second,
    )
    message = Live(
        gateway_id="bench",
        started_at=clock.now().timestamp() - second,
        seq=second,
        deployments={replica.deployment.name: counts for replica in replicas},
        replicas={str(replica.pk): counts for replica in replicas},
    )
    return wire.encode(message)


if __name__ == "__main__":
    made = write_rows(clock.now())
    print(json.dumps({"queries": count_queries()}), flush=True)
    asyncio.run(post_numbers(made))
