"""One request's wait for a slot: its place in the queue, and what a streaming client hears of it.

Called by `gateway.exchange`, which makes one when there is no free replica; `gateway.core` and
`gateway.watch` call it back.
"""

import time
from collections.abc import Callable

from gateway import errors
from gateway.admission import Ticket
from gateway.errors import Problem
from gateway.fleet import Deployment, Waiter
from gateway.order import Order
from gateway.server import ClientConnection

FIRST_COMFORT_SECONDS = 10.0
"""When a stream that only waits for its turn hears so. Before that, a refusal has a status of its
own; clients and proxies wait longer than this."""

WAKING_COMFORT_SECONDS = 1.0
"""The same while the deployment starts: the wait will be long, and the reason is news."""

COMFORT_PERIOD_SECONDS = 5.0
EVENT_STREAM = b"text/event-stream"


class Wait:
    """A place in a deployment's queue (gateway.fleet.Waiter)."""

    def __init__(
        self,
        client: ClientConnection,
        deployment: Deployment,
        order: Order,
        *,
        proceed: Callable[[], None],
        refuse: Callable[[Problem], None],
    ) -> None:
        self._client = client
        self._deployment = deployment
        self._order = order
        self._proceed = proceed
        self._refuse = refuse
        self._ticket: Ticket[Waiter] | None = None
        self._comforted_at = 0.0
        self.is_headed = False
        """The head went out with a comment: from now on errors are events."""

    def enter(self) -> None:
        """Queue up; refuse the request if the queue is full."""
        ticket: Ticket[Waiter] = Ticket(self._order.key.id, self, self._order.received_at)
        if self._deployment.queue.enter(ticket):
            self._ticket = ticket
        else:
            self._refuse(
                self._busy(
                    f"The deployment {self._deployment.name!r} is full, and so is its queue.",
                    "deployment_full",
                )
            )

    def leave(self) -> None:
        """Give the place up, if it is held."""
        if self._ticket is not None:
            self._deployment.queue.leave(self._ticket)
            self._ticket = None

    def proceed(self) -> None:
        """A slot is free."""
        self._ticket = None
        self._proceed()

    def give_up(self, reason: str) -> None:
        """The time to wait ran out, or the gateway stops."""
        self._ticket = None
        self._refuse(self._busy(reason, "queue_timeout"))

    def comfort(self, now: float) -> None:
        """Tell a client that streams what it waits for, if it is time to."""
        is_waking = self._deployment.is_waking
        first = WAKING_COMFORT_SECONDS if is_waking else FIRST_COMFORT_SECONDS
        waited = now - self._order.received_at
        recently = now - self._comforted_at < COMFORT_PERIOD_SECONDS
        if not self._order.call.stream or waited < first or recently or self._client.is_paused:
            return
        self._comforted_at = now
        comment = b": " + self._news().encode() + b"\n\n"
        if self.is_headed:
            self._client.send(comment)
            return
        self.is_headed = True
        fields = self._order.answer_fields.encode()
        self._client.begin(200, kind=EVENT_STREAM, extra=fields, first=comment)

    def _news(self) -> str:
        if not self._deployment.is_waking:
            return "waiting for a free slot"
        wake = self._deployment.route.wake
        if wake is None:
            return "starting"
        phase = "" if wake.phase == "starting" else f", {wake.phase}"
        eta = f", about {wake.eta_seconds:.0f} s" if wake.eta_seconds is not None else ""
        return " ".join(f"starting{phase}{eta}".split())

    def _busy(self, message: str, code: str) -> Problem:
        seconds = self._deployment.queue.retry_after_seconds(time.monotonic())
        return errors.busy(message, code=code, retry_after_seconds=seconds)
