"""A whole Hearth on PostgreSQL: an order is served and counted, and traffic outlives all stores."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests import postgres
from tests.postgres import Cluster
from tests.running import Hearth, hearth, wait_until

pytestmark = pytest.mark.timeout(400)

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgres.running() as one:
        yield one


@pytest.fixture(scope="module")
def served(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hearth]:
    """A deployment on the simulator, under the alias `gpt-4o`."""
    data = tmp_path_factory.mktemp("postgres") / "data"
    environment = {
        "HEARTH_ENGINE": "simulator",
        "HEARTH_RUNTIME": "process",
        "DATABASE_URL": cluster.url,
    }
    with hearth(data, start_seconds=150, **environment) as one:
        made = one.api("POST", "deployments/", json={"catalog": "smollm2-135m-instruct"})
        assert made.status_code == 201, made.text
        name = made.json()["name"]
        wait_until(lambda: one.deployment(name)["phase"] == "ready", 90, "the deployment")
        alias = {"name": "gpt-4o", "deployment": name}
        assert one.api("POST", "model-aliases/", json=alias).status_code == 201
        yield one


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Stop `process` in its tracks: worse than dead, as nothing is refused."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def redis_of(served: Hearth) -> psutil.Process:
    """Return the private Redis: it names itself, so no argument of it tells."""
    children = psutil.Process(served.process.pid).children()
    [found] = [child for child in children if "redis" in child.name()]
    return found


def requests_of(served: Hearth, key_id: str) -> int:
    rows = served.api("GET", "usage/", params={"group_by": "model", "key": key_id}).json()
    return sum(row["requests"] for row in rows["results"])


def made_key(served: Hearth) -> tuple[str, str]:
    order = {"name": "app", "budget_usd_per_month": 100}
    made = served.api("POST", "api-keys/", json=order).json()
    return made["id"], made["key"]


def test_an_order_is_served_and_counted(served: Hearth):
    key_id, secret = made_key(served)
    with served.client(secret) as client:
        answers = [client.post("/v1/chat/completions", json=CHAT) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    wait_until(lambda: requests_of(served, key_id) == 3, 20, "three usage records")
    key = served.api("GET", f"api-keys/{key_id}/").json()
    assert (key["budget_state"], key["spent_today_usd"] > 0) == ("ok", True)


def test_traffic_goes_on_without_database_redis_and_control_plane(served: Hearth, cluster: Cluster):
    key_id, secret = made_key(served)
    with served.client(secret) as client, ExitStack() as away:
        for program in (served.child("controlplane.asgi"), redis_of(served)):
            away.enter_context(frozen(program))
        cluster.stop()
        away.callback(cluster.start)
        answers = [client.post("/v1/chat/completions", json=CHAT) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    wait_until(lambda: requests_of(served, key_id) == 5, 60, "the usage records, all of them")
