"""What must happen in time: queues, comments to those who wait, deadlines, probes of replicas.

Two tickers, a quick one for queues and a slow one for the rest; both cost next to nothing while
nothing is open. Called by `gateway.program`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from gateway.ask import Question, ask
from gateway.core import Core
from gateway.fleet import Deployment, Replica
from gateway.server import ClientConnection
from gateway.sink import UpstreamError

QUEUE_PERIOD_SECONDS = 0.1
SWEEP_PERIOD_SECONDS = 1.0

log = logging.getLogger("gateway.watch")


async def watch_queues(core: Core, *, period_seconds: float = QUEUE_PERIOD_SECONDS) -> None:
    """Refuse those whose time ran out and comfort the others, for ever."""
    while True:
        await core.has_waiting.wait()
        await asyncio.sleep(period_seconds)
        now = time.monotonic()
        deployments = list(core.fleet.deployments.values())
        for deployment in deployments:
            if deployment.queue.length:
                _tend_queue(deployment, now)
        if not any(deployment.queue.length for deployment in deployments):
            core.has_waiting.clear()


def _tend_queue(deployment: Deployment, now: float) -> None:
    limits = deployment.route.queue
    is_waking = deployment.is_waking
    if is_waking and deployment.route.wakeable:
        patience_seconds = max(limits.timeout_seconds, limits.wake_timeout_seconds)
    else:
        patience_seconds = limits.timeout_seconds
    words = "has no ready replica" if is_waking else "had no free slot"
    for ticket in deployment.queue.overdue(now, patience_seconds):
        ticket.waiter.give_up(
            f"The deployment {deployment.name!r} {words} within {patience_seconds:g} s."
        )
    for ticket in deployment.queue.waiting():
        ticket.waiter.comfort(now)


async def sweep(
    core: Core,
    clients: Iterable[ClientConnection],
    *,
    period_seconds: float = SWEEP_PERIOD_SECONDS,
) -> None:
    """Close what is idle, give up what is overdue, ask silent and ejected replicas, for ever."""
    async with asyncio.TaskGroup() as probes:
        while True:
            await asyncio.sleep(period_seconds)
            now = time.monotonic()
            for client in list(clients):
                client.sweep(now)
            for request in list(core.open):
                request.check_deadlines(now)
            core.detours.sweep()
            for deployment in list(core.fleet.deployments.values()):
                for replica in list(deployment.replicas.values()):
                    replica.pool.sweep()
                    if not replica.is_probing and _should_ask(core, replica, now):
                        replica.is_probing = True
                        probes.create_task(_probe(core, deployment, replica))


def _should_ask(core: Core, replica: Replica, now: float) -> bool:
    if replica.breaker.is_open:
        return replica.breaker.probe_due(now)
    silent_seconds = now - replica.heard_at
    if silent_seconds <= core.settings.deadlines.silence_seconds:
        return False
    # A replica whose streams all wait for slow clients is not read from: its silence says nothing.
    return any(r.replica is replica and not r.client.is_paused for r in core.open)


async def _probe(core: Core, deployment: Deployment, replica: Replica) -> None:
    try:
        reason = await _illness(core, replica)
    finally:
        replica.is_probing = False
    now = time.monotonic()
    if replica.is_gone:
        return
    if replica.breaker.is_open:
        if replica.breaker.probed(now, healthy=not reason):
            log.info("replica %s answers again", replica.id)
            core.fleet.cold(deployment, replica)
            core.restore(deployment)
    elif reason:
        log.warning("replica %s is ejected: %s", replica.id, reason)
        replica.breaker.failed(now, certain=True)
        core.eject(deployment, replica, reason)
    else:
        replica.heard_at = now


async def _illness(core: Core, replica: Replica) -> str:
    """Return why `replica` is not well, or an empty string.

    Any answer below 500 is good: what serves an engine's API need not have `/health`.
    """
    seconds = core.settings.deadlines.probe_seconds
    question = Question("GET", "/health")
    try:
        status, _ = await ask(replica.pool, question, timeout_seconds=seconds, fresh=True)
    except TimeoutError:
        return f"no answer to /health in {seconds:g} s"
    except UpstreamError as error:
        return str(error)
    return f"/health answers {status}" if status >= 500 else ""
