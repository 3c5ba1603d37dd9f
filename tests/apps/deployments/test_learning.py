"""A start is kept beside its estimate; what was wrong is told once."""

import pytest

from agents.wire import EngineKind, EngineMemory, ObservedPhase
from apps.catalog.models import Measurement
from apps.deployments import learning, observed
from apps.deployments.models import Event
from apps.deployments.states import ReplicaPhase
from tests.apps.deployments.factories import NOW, make_deployment, make_host, make_replica
from tests.apps.deployments.factories import make_report as report_of

MB = 10**6
TOLD = EngineMemory(checkpoint_bytes=268 * MB, kv_cache_bytes=129 * MB)


@pytest.fixture
def replica(db):
    deployment = make_deployment()
    deployment.revisions.update(
        engine=EngineKind.VLLM,
        need={"weights_bytes": 269 * MB, "kv_bytes": 134 * MB, "total_bytes": 2200 * MB, "gpus": 0},
        fit={"kv_tokens": 5824},
    )
    return make_replica(deployment=deployment, host=make_host(), phase=ReplicaPhase.STARTING)


def report(replica, **changes) -> None:
    values = {"engine_memory": TOLD, "kv_cache_tokens": 5824, "memory_bytes": 2230 * MB}
    message = report_of(replica, ObservedPhase.READY, **{**values, **changes})
    observed.record_reports(replica.host, [message], NOW)


class TestLearning:
    def test_keeps_what_was_predicted_and_what_was_measured(self, replica):
        report(replica)

        row = Measurement.objects.get()
        assert (row.catalog_slug, row.variant, row.device_kind) == (
            "smollm2-135m-instruct", "bf16", "cpu",
        )  # fmt: skip
        assert row.predicted["weights_bytes"] == 269 * MB
        assert row.measured == {
            "weights_bytes": 268 * MB, "kv_bytes": 129 * MB, "kv_tokens": 5824,
            "total_bytes": 2230 * MB,
        }  # fmt: skip
        assert row.estimated["weights_bytes"] > 0
        assert not Event.objects.filter(kind="fit.wrong").exists()

    def test_hands_it_to_the_next_estimate(self, replica):
        report(replica)

        (start,) = learning.starts_of("smollm2-135m-instruct")
        assert start.measured["kv_tokens"] == 5824

    def test_tells_once_what_was_wrong_by_more_than_a_tenth(self, replica):
        report(replica, kv_cache_tokens=4000)
        report(replica, kv_cache_tokens=4000, memory_bytes=2300 * MB)

        (event,) = Event.objects.filter(kind="fit.wrong")
        assert "kv_tokens by 46%" in event.message
        assert event.data["kv_tokens"] == {"predicted": 5824, "measured": 4000}

    def test_counts_the_starts_of_the_same_settings(self, replica):
        report(replica)
        again = make_replica(
            deployment=replica.deployment, host=replica.host, phase=ReplicaPhase.STARTING
        )
        report(again, memory_bytes=2250 * MB)

        row = Measurement.objects.get()
        assert row.starts == 2
        assert row.measured["total_bytes"] == 2250 * MB

    def test_ignores_what_a_start_that_does_not_serve_yet_says(self, replica):
        message = report_of(replica, ObservedPhase.STARTING, engine_memory=TOLD)

        observed.record_reports(replica.host, [message], NOW)

        assert not Measurement.objects.exists()
