"""The same story with the real vLLM in a container, which outlives its agent."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.chats import LONG_PROMPT, QUESTION, Traffic, stream
from tests.e2e.engine_host import PrivateDocker
from tests.running import Hearth, hearth, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.docker, pytest.mark.timeout(900)]

READY_SECONDS = 420.0
LABEL = "ai.hearth.replica"


@pytest.fixture(scope="module")
def contained(
    tmp_path_factory: pytest.TempPathFactory,
    docker_engine: PrivateDocker,
    engine_image: str,
    engine_environment: object,
) -> Iterator[Hearth]:
    """A Hearth that finds a Docker Engine with the engine's image."""
    data = tmp_path_factory.mktemp("contained") / "data"
    with hearth(data, DOCKER_HOST=docker_engine.address) as instance:
        yield instance


@pytest.fixture(scope="module")
def deployment(contained: Hearth) -> dict:
    order = contained.deploy("smollm2-135m-instruct", name="smol")
    return contained.wait_for(order["name"], "ready", READY_SECONDS)


@pytest.fixture(scope="module")
def client(contained: Hearth) -> httpx.Client:
    return contained.client(contained.key())


def containers(docker: PrivateDocker) -> list[str]:
    return [c.id for c in docker.client().containers.list(filters={"label": LABEL})]


class TestStory:
    def test_the_host_takes_docker_by_itself_and_says_why(self, contained):
        (host,) = contained.api("GET", "hosts/").json()["results"]

        assert host["runtime"] == "docker"
        assert host["runtime_reason"]

    def test_the_real_engine_serves_from_a_container(self, deployment, docker_engine):
        assert deployment["simulated"] is False
        assert len(containers(docker_engine)) == 1

    def test_cached_tokens_rise_on_the_second_identical_prompt(self, client, deployment):
        stream(client, "smol", LONG_PROMPT)
        second = stream(client, "smol", LONG_PROMPT)

        assert second.usage["prompt_tokens_details"]["cached_tokens"] >= 500

    def test_a_killed_agent_comes_back_to_the_same_container_and_no_request_fails(
        self, contained, client, deployment, docker_engine
    ):
        before = containers(docker_engine)
        old = contained.child("agents")
        epoch_events = f"deployments/{deployment['name']}/events/"
        known = contained.api("GET", epoch_events).json()["count"]

        with Traffic(client, "smol") as traffic:
            wait_until(lambda: traffic.completed >= 1, 60, "a first answer")
            old.kill()
            contained.new_child("agents", old.pid, timeout_seconds=30)
            done = traffic.completed
            wait_until(lambda: traffic.completed >= done + 3, 60, "answers after the restart")

        assert traffic.faults == []
        assert containers(docker_engine) == before
        assert contained.deployment("smol")["phase"] == "ready"
        assert contained.api("GET", epoch_events).json()["count"] == known

    def test_ctrl_c_leaves_the_container_serving_and_the_next_start_adopts_it(
        self, contained, client, deployment, docker_engine
    ):
        before = containers(docker_engine)

        assert contained.stop() < 10
        assert any("container" in line for line in contained.words), contained.words
        assert containers(docker_engine) == before
        contained.start()

        contained.wait_for("smol", "ready", 30)
        wait_until(lambda: _answers(client), 30, "the gateway to route again")
        assert containers(docker_engine) == before

    def test_deleting_it_drains_and_leaves_nothing(self, contained, docker_engine, deployment):
        assert contained.api("DELETE", "deployments/smol/").status_code in (202, 204)

        wait_until(
            lambda: contained.api("GET", "deployments/smol/").status_code == 404, 90, "removal"
        )
        assert containers(docker_engine) == []


def _answers(client: httpx.Client) -> bool:
    try:
        return stream(client, "smol", QUESTION, max_tokens=4).is_complete
    except (httpx.HTTPError, AssertionError):
        return False
