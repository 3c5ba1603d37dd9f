"""Which agent process acts for a host, and how new the host's desired state is.

An epoch is granted to each new agent session; an agent with an older one is fenced off. Reports
are ordered by (epoch, sequence). Both fences are single guarded updates, so they hold with any
number of web processes.
"""

import asyncio
import time
from uuid import UUID

from channels.db import database_sync_to_async
from django.db import transaction
from django.db.models import F, Q

from agents.wire import SyncRequest
from apps.fleet.models import Host
from apps.lib.problems import Problem


def admit(host_id: UUID, wish: SyncRequest) -> int:
    """Return the epoch under which this session acts. Raises Problem 409 `fenced` if it is old."""
    host = Host.objects.only("agent_epoch", "agent_session", "name").get(pk=host_id)
    if wish.agent_epoch == 0 or wish.agent_epoch > host.agent_epoch:
        # A higher epoch than ever granted: this database was restored from an older backup.
        return _grant(host_id, wish.session_id)
    if wish.agent_epoch != host.agent_epoch or wish.session_id != host.agent_session:
        raise Problem(409, "fenced", f"A newer agent acts for {host.name}: stop acting.")
    return host.agent_epoch


@transaction.atomic
def _grant(host_id: UUID, session_id: str) -> int:
    """Grant a new epoch; the same session asking again (its answer was lost) gets a new one too."""
    Host.objects.filter(pk=host_id).update(
        agent_epoch=F("agent_epoch") + 1, agent_session=session_id[:64], report_seq=0
    )
    return Host.objects.values_list("agent_epoch", flat=True).get(pk=host_id)


def advance(host_id: UUID, epoch: int, seq: int) -> bool:
    """Take note of report (epoch, seq); False if a newer one was taken already."""
    newer = Q(agent_epoch=epoch, report_seq__lt=seq)
    return bool(Host.objects.filter(newer, pk=host_id).update(report_seq=seq))


class Revisions:
    """The revisions of all hosts, read at most once a second by one process for all its waiters."""

    _FRESH_SECONDS = 0.9

    def __init__(self) -> None:
        self._known: dict[UUID, int] = {}
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def of(self, host_id: UUID, *, now: bool) -> int:
        """Return the revision of `host_id`: read now, or at most a second old."""
        async with self._lock:
            stale = time.monotonic() - self._read_at > self._FRESH_SECONDS
            if now or stale or host_id not in self._known:
                self._known = await database_sync_to_async(_revisions)()
                self._read_at = time.monotonic()
        return self._known.get(host_id, 0)


def _revisions() -> dict[UUID, int]:
    return dict(Host.objects.values_list("id", "revision"))
