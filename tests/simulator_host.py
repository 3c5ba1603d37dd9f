"""Real simulator processes for tests: started on a Unix socket, ended with their context."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

MODEL = "sim"
START_SECONDS = 20.0
END_SECONDS = 10.0
_POLL_SECONDS = 0.01
FAST = (
    "--load-seconds=0",
    "--decode-seconds-per-token=0.002",
    "--prefill-tokens-per-second=100000",
    "--dev-mode",
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
)


@dataclass(frozen=True)
class Simulator:
    """One simulator process."""

    process: subprocess.Popen[bytes]
    socket: Path
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client for the test's own event loop."""
        transport = httpx.AsyncHTTPTransport(
            uds=str(self.socket), limits=httpx.Limits(max_connections=None)
        )
        return httpx.AsyncClient(
            transport=transport, base_url="http://simulator", headers=headers, timeout=20.0
        )

    async def exit_code(self) -> int:
        """Wait for the process to end."""
        return await asyncio.to_thread(self.process.wait, END_SECONDS)

    def wait_for_line(self, words: str) -> None:
        """Wait until a line with `words` was printed."""
        for _ in range(int(START_SECONDS / _POLL_SECONDS)):
            if words in self.log:
                return
            if self._ends_within(_POLL_SECONDS):
                break
        raise AssertionError(f"no line with {words!r}:\n{self.log}")

    def _ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def launched(folder: Path, *flags: str) -> Iterator[Simulator]:
    """Start a simulator in `folder` and do not wait until it is ready."""
    socket, log_path = folder / "engine.sock", folder / "engine.log"
    argv = ("-m", "agents.simulator", "--uds", str(socket), "--served-model-name", MODEL, *flags)
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, *argv], stdout=log, stderr=log)
    try:
        yield Simulator(process, socket, log_path)
    finally:
        process.kill()
        process.wait()


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Simulator]:
    """Start a fast simulator and wait until it is ready; `flags` win over the fast ones."""
    with launched(folder, *FAST, *flags) as simulator:
        simulator.wait_for_line("Application startup complete")
        yield simulator
