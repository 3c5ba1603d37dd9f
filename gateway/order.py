"""What an exchange is to do, fixed from its arrival on. Made by `gateway.intake`."""

from gateway.call import Call
from gateway.limits import Reservation
from gateway.wire import KeyRoute


class Order:
    """One accepted request."""

    def __init__(self, call: Call, key: KeyRoute, reservation: Reservation) -> None:
        self.call = call
        self.key = key
        self.key_id = key.id
        self.reservation = reservation
        self.request_id = ""
        self.client_request_id = ""
        self.session = ""
        """Empty if the client names none."""
        self.blocks: list[int] = []
        """Prefix hashes of the prompt; see `gateway.prefix`."""
        self.prompt_tokens = 0
        """An estimate, from the deployment's learned bytes per token."""
        self.body = call.body
        """What the engine gets."""
        self.head_fields = ""
        """Header lines for the engine."""
        self.answer_fields = ""
        """Header lines for the client."""
        self.drop_usage = False
        """The gateway asked for the usage chunk, the client did not."""
        self.drop_running = False
        """The gateway asked for running usage, the client did not."""
        self.received_at = 0.0
        """Monotonic."""

    @property
    def text_bytes(self) -> int:
        """Length of the prompt; 0 if media are in it, whose tokens have nothing to do with it."""
        return self.call.prompt_bytes if self.call.prompt_bytes == len(self.call.prompt) else 0
