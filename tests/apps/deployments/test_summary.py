"""What a deployment is, in one word and one sentence."""

import pytest

from apps.deployments.reconcile.summary import summarize
from apps.deployments.states import DeploymentPhase as D
from apps.deployments.states import DesiredDeployment, DesiredReplica
from apps.deployments.states import ReplicaPhase as P
from tests.apps.deployments.snapshots import OLD_REVISION, replica, snapshot

STOPPED = {"desired": DesiredDeployment.STOPPED}


class TestSummarize:
    @pytest.mark.parametrize(
        ("seen", "phase"),
        [
            (snapshot(), D.STARTING),
            (snapshot(replica(P.STARTING)), D.STARTING),
            (snapshot(replica()), D.READY),
            (snapshot(replica(), replica(P.STARTING), wanted=2), D.SCALING),
            (snapshot(replica(), replica(P.FAILED, reason="x"), wanted=2), D.DEGRADED),
            (snapshot(replica(P.FAILED, failures=1)), D.STARTING),
            (snapshot(replica(P.FAILED, failures=3, reason="exit 1")), D.FAILED),
            (snapshot(wanted=0), D.STOPPED),
            (snapshot(replica(), **STOPPED), D.SCALING),
            (snapshot(**STOPPED), D.STOPPED),
            (snapshot(replica(), replica(revision_id=OLD_REVISION)), D.SCALING),
            (snapshot(replica(), replica(P.DRAINING, desired=DesiredReplica.DRAINED)), D.SCALING),
        ],
        ids=[
            "nothing yet",
            "starting",
            "ready",
            "growing",
            "one broken",
            "first failure",
            "crash loop",
            "zero by hand",
            "stopping",
            "stopped",
            "rolling",
            "one leaving",
        ],
    )
    def test_names_the_phase(self, seen, phase):
        assert summarize(seen)[0] is phase

    def test_a_crash_loop_gives_the_engines_own_reason(self):
        broken = replica(P.FAILED, failures=3, reason="the engine exited with code 1")

        assert summarize(snapshot(broken))[1] == "the engine exited with code 1"

    def test_a_degraded_deployment_says_how_many_serve(self):
        seen = snapshot(replica(), replica(P.FAILED, reason="out of memory"), wanted=2)

        assert summarize(seen)[1] == "1 of 2 serve: out of memory"
