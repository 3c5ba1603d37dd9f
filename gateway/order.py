"""What an exchange is to do, fixed from its arrival on. Made by `gateway.intake`."""

import msgspec

from gateway.call import Call
from gateway.limits import Reservation
from gateway.wire import KeyRoute


class Order(msgspec.Struct, gc=False):
    """One accepted request."""

    call: Call
    key: KeyRoute
    reservation: Reservation
    request_id: str
    client_request_id: str
    session: str
    """Empty if the client names none."""
    blocks: list[int]
    """Prefix hashes of the prompt; see `gateway.prefix`."""
    prompt_tokens: int
    """An estimate, from the deployment's learned bytes per token."""
    body: bytes
    """What the engine gets."""
    head_fields: str
    """Header lines for the engine."""
    answer_fields: str
    """Header lines for the client."""
    drop_usage: bool
    """The gateway asked for the usage chunk, the client did not."""
    drop_running: bool
    """The gateway asked for running usage, the client did not."""
    received_at: float
    """Monotonic."""

    @property
    def text_bytes(self) -> int:
        """Length of the prompt; 0 if media are in it, whose tokens have nothing to do with it."""
        return self.call.prompt_bytes if self.call.prompt_bytes == len(self.call.prompt) else 0
