"""One simulated replica: what the request handlers share.

It holds the options, the engine and the state that lives longer than a request. Made by `server`
once the load phase is over; used by `api`, `generation` and `pooling`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agents.simulator.answers import Author
from agents.simulator.engine import SimulatedEngine
from agents.simulator.errors import ApiError, engine_died
from agents.simulator.faults import Fault
from agents.simulator.http1 import Exchange
from agents.simulator.kv_events import CacheTeller
from agents.simulator.options import Options

PROBE_ID_PREFIX = "hearth-probe"
"""Requests whose X-Request-Id starts so are readiness probes; faults do not count them."""

NO_FAULT = Fault()


@dataclass(eq=False)
class Replica:
    options: Options
    engine: SimulatedEngine
    author: Author
    on_crash: Callable[[], None]
    """Called when the engine died by a fault; ends the process soon after."""
    started_at: float
    """Unix time."""
    teller: CacheTeller | None = None
    """Tells of the KV cache; None if nobody asked for it."""
    is_draining: bool = False
    requests_seen: int = 0

    def admit(self, exchange: Exchange) -> Fault:
        """Let a request in and return the fault that it must act out.

        Raises ApiError when the replica drains, died, is full, or fails by order.
        """
        if self.engine.is_dead:
            raise engine_died()
        if self.is_draining:
            raise ApiError(500, "cannot schedule new futures after shutdown")
        limit = self.options.max_num_queued_reqs
        if limit is not None and self.engine.in_flight >= limit:
            self.engine.meters.refused += 1
            raise ApiError(
                503,
                "The engine is currently busy and cannot accept new requests. "
                "Please try again later or on a different instance.",
            )
        if exchange.headers.get("x-request-id", "").startswith(PROBE_ID_PREFIX):
            return NO_FAULT
        earlier, self.requests_seen = self.requests_seen, self.requests_seen + 1
        fault = self.options.fault
        return fault if fault.strikes(earlier) else NO_FAULT

    def check_model(self, name: str) -> str:
        """Return the served name that `name` means, "" being the first one.

        Raises ApiError if it is not served here.
        """
        if name and name not in self.options.served_names:
            raise ApiError(404, f"The model `{name}` does not exist.", param="model")
        return name or self.options.served_names[0]
