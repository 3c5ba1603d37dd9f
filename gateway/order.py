"""What an exchange is to do, fixed from its arrival on. Made by `gateway.intake`."""

from dataclasses import dataclass

from gateway.call import Call
from gateway.limits import Reservation
from gateway.wire import KeyRoute


@dataclass(slots=True)
class Order:
    """One accepted request."""

    call: Call
    key: KeyRoute
    reservation: Reservation
    request_id: str
    client_request_id: str
    session: str
    """Empty if the client names none."""
    blocks: list[bytes]
    """Prefix hashes of the prompt; see `gateway.prefix`."""
    prompt_tokens: int
    """An estimate, from the deployment's learned bytes per token."""
    body: bytes
    """What the engine gets."""
    head_fields: bytes
    """Header lines for the engine."""
    answer_fields: bytes
    """Header lines for the client."""
    drop_usage: bool
    """The gateway asked for the usage chunk, the client did not."""
    drop_running: bool
    """The gateway asked for running usage, the client did not."""
    received_at: float
    """Monotonic."""
