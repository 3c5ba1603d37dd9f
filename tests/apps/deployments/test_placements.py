"""Where replicas are and why, over REST."""

import pytest

from apps.accounts.states import Role
from apps.deployments import bookings
from apps.deployments.reconcile.loop import Controller
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import NOW, make_deployment, make_host


@pytest.fixture
def viewer_api(db):
    return make_client(Role.VIEWER)


@pytest.fixture
def placed(db, redis):
    """A deployment whose replica the controller has placed."""
    make_host()
    make_host(name="beta", cordoned=True)
    deployment = make_deployment()
    controller = Controller()
    controller.run_once(NOW)
    controller.run_once(NOW)
    return deployment


class TestPlacement:
    def test_tells_what_is_booked_where_and_why(self, placed, viewer_api):
        answer = viewer_api.get("/api/v1/deployments/chat/placement/").json()

        (holding,) = answer["replicas"]
        assert (holding["host"], holding["bytes_each"]) == ("alpha", 2 * 1024**3)
        (decision,) = answer["decisions"]
        assert decision["inputs"]["candidates"][0]["host"] == "alpha"
        assert decision["inputs"]["refused"] == {"beta": "is cordoned"}

    def test_tells_nothing_of_what_was_given_back(self, placed, viewer_api):
        bookings.release(placed.replicas.get())

        assert viewer_api.get("/api/v1/deployments/chat/placement/").json()["replicas"] == []
