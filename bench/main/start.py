"""Deploy to first token through Hearth, beside the bare `vllm serve` with the same arguments.

A pair is: order a deployment over REST, wait until it is ready, stream a chat through the gateway,
and stop the clock at the first token; delete it and wait until it is gone; then run the very
command line and environment that the agent had run, in a fresh folder, and ask that server for the
same chat until its first token. Hearth stays up, idle, during the bare run, so both have the same
neighbours. Engine environment and weights are brought before the first pair.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from agents.wire import ReplicaOrder, decode
from bench.main.figures import Result, median
from tests.running import Hearth, hearth, wait_until

CATALOG = "smollm2-135m-instruct"
TARGET_SECONDS = 3.0
FIRST_START_SECONDS = 900.0
"""The engine's environment and the weights may have to be brought."""
START_SECONDS = 300.0
GONE_SECONDS = 60.0
RETRY_SECONDS = 0.05
POLL_SECONDS = 0.25
"""As a script would ask for the phase: more often costs the engine processor time on two cores."""
_BODY = {
    "model": CATALOG,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "stream": True,
    "max_tokens": 8,
    "temperature": 0,
}


@dataclass(frozen=True)
class Command:
    """The engine's process as the agent's runtime had started it."""

    argv: list[str]
    environment: dict[str, str]
    run_dir: str

    def moved_to(self, folder: Path) -> "Command":
        """Return the same command with its replica's folder replaced by `folder`."""

        def move(text: str) -> str:
            return text.replace(self.run_dir, str(folder))

        return Command(
            [move(word) for word in self.argv],
            {name: move(value) for name, value in self.environment.items()},
            str(folder),
        )


@dataclass(frozen=True)
class Deployed:
    """One start through Hearth."""

    ready_seconds: float
    """From the order to `ready` over REST."""
    first_token_seconds: float
    stage_seconds: dict[str, float]
    command: Command


def measure(folder: Path, pairs: int) -> Result:
    """Start Hearth in `folder` and measure `pairs` pairs."""
    result = Result(part="start", question="what does Hearth add to a start of the engine?")
    with hearth(folder / "start", HEARTH_RUNTIME="process") as instance:
        client = instance.client(instance.key())
        _deployed(instance, client, FIRST_START_SECONDS)  # brings environment and weights
        found: list[tuple[Deployed, float]] = []
        for _ in range(pairs):
            deployed = _deployed(instance, client, START_SECONDS)
            found.append((deployed, _bare(deployed.command)))
    _tell(result, found)
    return result


def _tell(result: Result, found: list[tuple[Deployed, float]]) -> None:
    ours = [deployed.first_token_seconds for deployed, _ in found]
    bare = [seconds for _, seconds in found]
    result.add(f"Hearth, order to first token, median of {len(found)}", median(ours), "s")
    result.add(f"bare engine, start to first token, median of {len(found)}", median(bare), "s")
    extra = median(ours) - median(bare)
    result.add("Hearth adds (difference of the medians)", extra, "s", TARGET_SECONDS)
    result.table.append(("pair", "Hearth s", "of it ready s", "bare s", "adds s", "stages"))
    for number, (deployed, seconds) in enumerate(found, 1):
        stages = ", ".join(f"{name} {took:.1f}" for name, took in deployed.stage_seconds.items())
        result.table.append(
            (
                str(number),
                f"{deployed.first_token_seconds:.1f}",
                f"{deployed.ready_seconds:.1f}",
                f"{seconds:.1f}",
                f"{deployed.first_token_seconds - seconds:+.1f}",
                stages,
            )
        )


# --- Through Hearth ----------------------------------------------------------------------------


def _deployed(instance: Hearth, client: httpx.Client, timeout_seconds: float) -> Deployed:
    """Deploy, chat, delete; return what it took."""
    begun = time.perf_counter()
    instance.deploy(CATALOG, name=CATALOG)
    _wait_ready(instance, timeout_seconds)
    ready = time.perf_counter()
    _first_token(client)
    first_token = time.perf_counter()
    replica = instance.api("GET", f"deployments/{CATALOG}/replicas/").json()["results"][0]
    command = _command_of(instance)
    instance.api("DELETE", f"deployments/{CATALOG}/")
    wait_until(lambda: _is_gone(instance), GONE_SECONDS, f"{CATALOG} to be gone")
    return Deployed(ready - begun, first_token - begun, replica["stage_seconds"], command)


def _wait_ready(instance: Hearth, timeout_seconds: float) -> None:
    """Ask for the phase until it is `ready`."""
    deadline = time.perf_counter() + timeout_seconds
    while (found := instance.deployment(CATALOG))["phase"] != "ready":
        assert found["phase"] != "failed", found["reason"]
        assert time.perf_counter() < deadline, f"not ready within {timeout_seconds:g} s: {found}"
        threading.Event().wait(POLL_SECONDS)


def _is_gone(instance: Hearth) -> bool:
    return instance.api("GET", f"deployments/{CATALOG}/").status_code == 404


def _command_of(instance: Hearth) -> Command:
    """Return the command of the one engine that runs; the runtime keeps it beside its state."""
    agent = instance.data / "agent"
    (launch,) = agent.glob("process/*/launch.json")
    (order,) = agent.glob("run/*/order.json")
    record = json.loads(launch.read_bytes())
    served = decode(ReplicaOrder, order.read_bytes()).spec.served_names
    assert served == (CATALOG,), served
    return Command(record["argv"], record["env"], str(order.parent))


def _first_token(client: httpx.Client) -> None:
    """Stream a chat and return at its first token. Raises httpx.HTTPError."""
    with client.stream("POST", "/v1/chat/completions", json=_BODY) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                if choices and choices[0]["delta"].get("content"):
                    return
    raise AssertionError("the stream ended without a token")


# --- The bare engine ---------------------------------------------------------------------------


def _bare(command: Command) -> float:
    """Run the same command by itself; return the seconds to its first token."""
    folder = Path(tempfile.mkdtemp(prefix="hearth-bare-"))
    try:
        return _run_bare(command.moved_to(folder), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_bare(command: Command, folder: Path) -> float:
    log = folder / "engine.log"
    begun = time.perf_counter()
    with log.open("wb") as out:
        engine = subprocess.Popen(
            command.argv,
            env=command.environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        transport = httpx.HTTPTransport(uds=str(folder / "engine.sock"))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            while True:
                try:
                    _first_token(client)
                except httpx.TransportError:
                    assert engine.poll() is None, f"the engine ended:\n{log.read_text()[-2000:]}"
                    assert time.perf_counter() - begun < START_SECONDS, "the engine did not start"
                    threading.Event().wait(RETRY_SECONDS)
                else:
                    return time.perf_counter() - begun
    finally:
        _end(engine)


def _end(engine: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, as the agent does; SIGKILL to its whole session if it stays."""
    engine.terminate()
    try:
        engine.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait(10)
