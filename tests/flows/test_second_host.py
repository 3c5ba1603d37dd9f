"""A second agent in a folder and under a name of its own is a second host."""

import subprocess
import sys

import pytest

from tests.e2e.chats import stream
from tests.running import ROOT, Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

SMOL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def second(simulated: Hearth, tmp_path_factory):
    token = simulated.api("POST", "join-tokens/").json()
    assert token["token"] in token["command"]
    folder = tmp_path_factory.mktemp("second")
    command = [sys.executable, "-m", "agents", "--control-plane", simulated.web]
    command += ["--data-dir", str(folder), "--name", "second", "--join-token", token["token"]]
    command += ["--runtime", "process", "--stop-replicas", "process"]
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen(command, env=simulated.env, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: simulated.api("GET", "hosts/second/").status_code == 200, 30, "the second host"
        )
        yield folder
    finally:
        agent.terminate()
        agent.wait(timeout=15)
        subprocess.run(
            [sys.executable, "-m", "agents", "--data-dir", str(folder), "drain-and-stop"],
            env=simulated.env,
            cwd=ROOT,
            check=True,
            timeout=30,
        )


class TestSecondHost:
    def test_a_join_token_works_once(self, simulated, second, tmp_path):
        used = simulated.api("GET", "join-tokens/").json()["results"][0]

        assert used["used_at"]
        assert "token" not in used

    def test_replicas_are_spread_and_reached_through_the_relay(self, simulated, client, second):
        simulated.deploy(SMOL, name="spread", scaling={"min_replicas": 2})
        simulated.wait_for("spread", "ready", 60)

        rows = simulated.api("GET", "deployments/spread/replicas/").json()["results"]
        assert {row["host"] for row in rows} == {"local", "second"}
        served = {
            stream(client, "spread", f"{n}", max_tokens=1).headers["x-hearth-replica"]
            for n in range(24)
        }
        assert served == {row["id"] for row in rows}

    def test_an_order_can_name_its_host(self, simulated, second):
        simulated.deploy(SMOL, name="there", placement={"host": "second"})
        simulated.wait_for("there", "ready", 60)

        (row,) = simulated.api("GET", "deployments/there/replicas/").json()["results"]
        assert row["host"] == "second"

    def test_draining_a_host_moves_its_replicas_away(self, simulated, second):
        simulated.api("POST", "hosts/second/drain/")

        def moved() -> bool:
            rows = simulated.api("GET", "deployments/spread/replicas/").json()["results"]
            ready = [row for row in rows if row["phase"] == "ready"]
            return len(ready) == len(rows) == 2 and {r["host"] for r in ready} == {"local"}

        wait_until(moved, 60, "both replicas on the local host")
        for name in ("spread", "there"):
            simulated.api("DELETE", f"deployments/{name}/")
        for name in ("spread", "there"):
            wait_until(
                lambda name=name: simulated.api("GET", f"deployments/{name}/").status_code == 404,
                60,
                f"{name} to be gone",
            )
