"""`/metrics` of the web process."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.wire import GpuInfo, HostSample, ReplicaSample, Report
from agents.wire import encode as encode_report
from apps.telemetry import live
from gateway.wire import Counts, Live, encode

pytestmark = pytest.mark.django_db(transaction=True)


async def put() -> None:
    counts = Counts(in_flight=3, queued=1)
    await live.put_gateway(
        "g", encode(Live(gateway_id="g", started_at=1.0, seq=1, deployments={"smol": counts}))
    )
    gpu = GpuInfo(
        uuid="GPU-1", index=0, name="x", memory_total_bytes=9, memory_used_bytes=4, power_watts=70.0
    )
    report = Report(
        agent_epoch=1,
        report_seq=1,
        sent_at=1.0,
        samples=(ReplicaSample(replica_id="r1", at=1.0, running=2),),
        host_sample=HostSample(
            at=1.0, cpu_ratio=0.5, memory_used_bytes=1, disk_free_bytes=2, gpus=(gpu,)
        ),
    )
    await live.put_host("alpha", encode_report(report))


def samples(text: str) -> dict:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_shows_deployments_replicas_hosts_and_gpus(redis, async_client):
    await put()

    response = await async_client.get("/metrics")

    found = samples(response.content.decode())
    assert response["content-type"].startswith("text/plain")
    assert found["hearth_gateways",] == 1
    assert found["hearth_deployment_in_flight_requests", "smol"] == 3
    assert found["hearth_deployment_queued_requests", "smol"] == 1
    assert found["hearth_replica_running", "r1"] == 2
    assert found["hearth_host_cpu_ratio", "alpha"] == 0.5
    assert found["hearth_gpu_power_watts", "0", "alpha"] == 70.0


async def test_leaves_out_what_nobody_knows(redis, async_client):
    await put()

    text = (await async_client.get("/metrics")).content.decode()

    assert "hearth_deployment_ttft_seconds{" not in text
    assert "None" not in text


def test_answers_without_redis_and_says_so(no_redis, client):
    found = samples(client.get("/metrics").content.decode())

    assert found["hearth_numbers_stale",] == 1


def test_asks_a_scraper_from_elsewhere_for_a_token(no_redis, client):
    response = client.get("/metrics", REMOTE_ADDR="10.0.0.9")

    assert response.status_code == 401
    assert "smol" not in response.content.decode()
