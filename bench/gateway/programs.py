"""Starts what is measured, engines, the gateway and its peers, and reads what they cost.

The gateway gets 1,000 keys with limits, prefix-aware routing and a usage log that is synced.
Peers run from environments of their own below `~/.cache/hearth/peers/NAME`, made with
`python -m venv` and `pip install NAME` (of litellm, `'litellm[proxy]'`); one that is not there is
reported as not measured.
"""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = Path.home() / ".cache" / "hearth" / "peers"
KEYS = 1000
REPLICAS = 2
_START_SECONDS = 60.0
_COMMANDS = {"vllm-router": ("vllm-router",), "sglang-router": ("sglang-router", "launch")}

_LITELLM_START_SECONDS = 240.0
"""It imports for 30 s of CPU before it listens."""

_LITELLM_LEAN = {
    # Without it, and without a database to hold keys, its proxy ends at once.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    # No table of prices from the network.
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    # As its notes for production say.
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
}


class StartFailedError(Exception):
    """A program did not come up."""


@dataclass(slots=True)
class Program:
    """One running process."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    usage_log: Path | None = None

    def cpu_seconds(self) -> float:
        """CPU of all its threads so far."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9

    def memory_bytes(self) -> int:
        """Its resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(row for row in status.splitlines() if row.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def records(self) -> int:
        """Usage records it has written."""
        if self.usage_log is None:
            return 0
        return self.usage_log.read_bytes().count(b"\n") if self.usage_log.exists() else 0


@contextlib.contextmanager
def engines(chunks: int, step_ms: float, pieces: int = 1) -> Iterator[list[int]]:
    """Run the replicas; yield their ports."""
    arguments = [sys.executable, "-m", "bench.gateway.engine", str(chunks), str(step_ms)]
    started = [
        subprocess.Popen([*arguments, str(pieces)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(REPLICAS)
    ]
    try:
        yield [int(process.stdout.readline()) for process in started if process.stdout]
    finally:
        for process in started:
            _end(process)


@contextlib.contextmanager
def gateway(folder: Path, ports: list[int], *, form: str = "") -> Iterator[Program]:
    """Run the gateway, all features on, in the form that it takes by itself or in `form`."""
    table = folder / "table.json"
    table.write_text(json.dumps(_table(ports)))
    usage_log = folder / f"usage-{time.monotonic_ns()}.jsonl"
    port = _free_port()
    arguments = ["--table", str(table), "--usage-log", str(usage_log)]
    arguments += ["--listen", f"127.0.0.1:{port}", "--peers-dir", str(folder / "peers")]
    command = [sys.executable, "-m", "gateway", *arguments]
    name = f"hearth, {form}" if form else "hearth"
    program = _start(name, command, port, "/readyz", HEARTH_GATEWAY_FORM=form)
    program.usage_log = usage_log
    try:
        yield program
    finally:
        _end(program.process)


@contextlib.contextmanager
def peer(name: str, policy: str, ports: list[int]) -> Iterator[Program | None]:
    """Run a peer in front of the same engines; yield None if it cannot be measured."""
    port = _free_port()
    urls = [f"http://127.0.0.1:{upstream}" for upstream in ports]
    command = _command(name, policy, port, urls)
    if not Path(command[0]).exists():
        yield None
        return
    try:
        with tempfile.TemporaryDirectory(prefix="hearth-peer-") as folder:
            program = _start_peer(f"{name} {policy}".strip(), command, port, Path(folder), urls)
    except StartFailedError as error:
        print(f"  {error}: peer not measured")
        yield None
        return
    try:
        yield program
    finally:
        _end(program.process)


def _start_peer(name: str, command: list[str], port: int, folder: Path, urls: list[str]) -> Program:
    if name != "litellm":
        return _start(name, command, port, "/health")
    # All that could be left out is: no database, no keys, no callbacks, no telemetry, one worker.
    config = folder / "litellm.json"
    parameters = [{"model": "openai/m", "api_base": f"{url}/v1", "api_key": "x"} for url in urls]
    models = [{"model_name": "m", "litellm_params": each} for each in parameters]
    config.write_text(json.dumps({"model_list": models}))
    command = [*command, "--config", str(config)]
    # Its /health asks every engine for an answer each time.
    return _start(
        name, command, port, "/health/liveliness", seconds=_LITELLM_START_SECONDS, **_LITELLM_LEAN
    )


def _command(name: str, policy: str, port: int, urls: list[str]) -> list[str]:
    folder = PEERS / name / "bin"
    if name == "aiohttp":
        script = Path(__file__).with_name("aiohttp_proxy.py")
        return [str(folder / "python"), str(script), str(port), *urls]
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    if name == "litellm":
        rest = ["--num_workers", "1", "--telemetry", "False", "--keepalive_timeout", "60"]
        return [str(folder / name), *listen, *rest]
    script, *words = _COMMANDS[name]
    command = [str(folder / script), *words, *listen]
    command += ["--policy", policy, "--prometheus-port", str(_free_port())]
    return [*command, "--worker-urls", *urls]


def secret(number: int) -> str:
    """Return the secret of key `number`."""
    return f"sk-bench-{number:06d}-0123456789abcdef"


def _table(ports: list[int]) -> dict[str, object]:
    replicas = [
        {"id": f"r{n}", "url": f"http://127.0.0.1:{port}", "kv_cache_tokens": 200_000}
        for n, port in enumerate(ports)
    ]
    keys = [
        {
            "id": f"key-{n}",
            "sha256": hashlib.sha256(secret(n).encode()).hexdigest(),
            "models": ["m"],
            "rpm": 1_000_000,
            "tpm": 1_000_000_000,
            "max_in_flight": 1000,
            "tenant": f"tenant-{n % 10}",
        }
        for n in range(KEYS)
    ]
    model = {"deployment": "m", "max_in_flight_per_replica": 4096, "replicas": replicas}
    return {"revision": 1, "models": {"m": model}, "keys": keys}


def _start(
    name: str,
    command: list[str],
    port: int,
    ready: str,
    *,
    seconds: float = _START_SECONDS,
    **environment: str,
) -> Program:
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}{ready}", name, seconds)
    except StartFailedError:
        _end(process)
        raise
    return Program(name, port, process)


def _wait_ready(process: subprocess.Popen[bytes], url: str, name: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartFailedError(f"{name} ended at its start with code {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise StartFailedError(f"{name} was not ready in {seconds:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def draw(results: str, folder: Path) -> bool:
    """Draw the charts of `results` into `folder`; False if there is no environment for it."""
    python = PEERS / "charts" / "bin" / "python"
    if not python.exists():
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(results)
        file.flush()
        script = Path(__file__).with_name("draw.py")
        subprocess.run([str(python), str(script), file.name, str(folder)], check=True)
    return True


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the system allows."""
    import resource  # noqa: PLC0415  of this function alone

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def version(name: str) -> str:
    """Return the installed version of a peer, or an empty string."""
    found = list(
        (PEERS / name).glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info")
    )
    return found[0].name.removesuffix(".dist-info").split("-")[-1] if found else ""
