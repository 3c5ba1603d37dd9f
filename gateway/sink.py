"""Who receives an engine's answer, and what went wrong with it. Called by `gateway.upstream`."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.upstream import UpstreamConnection


class UpstreamError(Exception):
    """The replica could not be reached, or its answer broke off."""

    def __init__(self, message: str, *, was_sent: bool, was_reused: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        """False if no byte of the request can have been acted upon."""
        self.was_reused = was_reused
        """True if an idle connection turned out to be dead before any byte of an answer came."""


class Sink(Protocol):
    """Who receives an answer."""

    def connected(self, connection: "UpstreamConnection") -> None:
        """A connection is there: send on it."""

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The head is there."""

    def answer_data(self, data: bytes) -> None:
        """A piece of the body is there."""

    def answer_ended(self) -> None:
        """The answer is complete."""

    def answer_lost(self, error: UpstreamError) -> None:
        """No (more) answer will come."""


class Passage:
    """Who passes on the ordinary chunks of a stream, past its sink.

    A class and no protocol: this is called for every chunk, and a protocol's methods are looked up
    by their names even where all is compiled.
    """

    def pass_on(self, chunk: bytes, start: int) -> bool:
        """Pass on one whole chunk as it is; its content begins at `start`.

        Returns False if nothing was done: the sink gets the content.
        """
        raise NotImplementedError
