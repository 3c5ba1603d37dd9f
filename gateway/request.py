"""One HTTP request, who takes it and who answers it: what ties `gateway.server` to the rest."""

from typing import TYPE_CHECKING, Protocol

from gateway.settings import Limits

if TYPE_CHECKING:
    from gateway.server import ClientConnection


class Request:
    """One whole request."""

    __slots__ = ("body", "headers", "method", "path", "received_at")

    def __init__(
        self,
        method: bytes,
        path: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        received_at: float,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        """Names in lower case; of a header that came twice the last, where that may be."""
        self.body = body
        self.received_at = received_at
        """When it was whole (monotonic)."""


class Holder(Protocol):
    """Who answers a request; told of what happens to its client meanwhile."""

    def client_gone(self) -> None:
        """The client closed, or was given up."""

    def client_paused(self) -> None:
        """The client does not keep up: stop sending."""

    def client_resumed(self) -> None:
        """The client keeps up again."""


class App(Protocol):
    """Where requests go."""

    limits: Limits

    @property
    def is_draining(self) -> bool:
        """True once the gateway is asked to stop."""

    def handle(self, client: "ClientConnection", request: Request) -> None:
        """Answer `request` now, or hold `client` and answer later."""

    def connected(self, client: "ClientConnection") -> bool:
        """Count a connection. Returns False if there are too many."""

    def disconnected(self, client: "ClientConnection") -> None:
        """Uncount it."""
