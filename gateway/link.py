"""HTTP to the control plane, over TCP, TLS or a Unix socket: one small request at a time.

Built on the same pooled connections as the way to the engines; no HTTP library is loaded for three
calls. The credential is read anew after a refusal, so it can be rotated under a running gateway.
Called by `gateway.ship` and `gateway.follow`.
"""

from pathlib import Path

from gateway.address import parse_url
from gateway.ask import Question, ask
from gateway.sink import UpstreamError
from gateway.upstream import Pool

_UNAUTHORISED = 401


class LinkError(Exception):
    """The control plane could not be reached, or refused."""


class Link:
    """The way to the control plane."""

    def __init__(self, url: str, credential_file: Path) -> None:
        """Raises ValueError if `url` cannot be used, OSError if the credential cannot be read."""
        self._credential_file = credential_file
        address = parse_url(url)
        self._pool = Pool(
            address,
            api_key=self._credential(),
            connect_seconds=5.0,
            host=address.host or "control-plane",
        )

    async def get(self, path: str, *, timeout_seconds: float) -> tuple[int, bytes]:
        """Return status and body of a GET. Raises LinkError."""
        return await self._ask("GET", path, b"", timeout_seconds)

    async def post(self, path: str, body: bytes, *, timeout_seconds: float) -> tuple[int, bytes]:
        """Return status and body of a POST of JSON. Raises LinkError."""
        return await self._ask("POST", path, body, timeout_seconds)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close_idle()

    async def _ask(
        self, method: str, path: str, body: bytes, timeout_seconds: float
    ) -> tuple[int, bytes]:
        question = Question(method, path, body)
        try:
            status, answer = await ask(self._pool, question, timeout_seconds=timeout_seconds)
        except TimeoutError as error:
            raise LinkError(f"{path}: no answer in {timeout_seconds:.0f} s") from error
        except UpstreamError as error:
            raise LinkError(f"{path}: {error}") from error
        if status == _UNAUTHORISED:
            self._pool.api_key = self._credential()
            raise LinkError(f"{path}: the control plane refuses the credential (401)")
        return status, answer

    def _credential(self) -> str:
        return self._credential_file.read_text().strip()
