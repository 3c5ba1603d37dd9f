"""Read the end of a replica's log: on its host now, or what was kept when it failed."""

import threading
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.deployments import actions, queries
from apps.deployments.models import Deployment, ReadRequest, Replica
from apps.deployments.states import ReplicaPhase
from apps.fleet.states import HostState
from apps.lib.problems import Problem

_LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class LogTail:
    replica: UUID
    lines: list[str]
    read_from: str
    """`host`: read now; `last_report`: the lines that came with the failure."""


def tail(deployment: Deployment, replica_id: str | None, *, lines: int, now: datetime) -> LogTail:
    """Return the last `lines` lines of a replica, the newest one if `replica_id` is None.

    Waits up to `actions.READ_SECONDS` for the host. Raises Problem 404 without any replica, 409
    `not_placed`, 502 `log_unreadable` with the host's own words, 504 `host_silent`.
    """
    replica = _replica(deployment, replica_id)
    if replica.phase == ReplicaPhase.FAILED and replica.log_tail:
        return LogTail(replica=replica.pk, lines=replica.log_tail[-lines:], read_from="last_report")
    if replica.host is not None and replica.host.state != HostState.READY:
        raise _silent(replica)
    request = actions.request_log(replica, lines=lines, now=now)
    return _answer(request, replica)


def _replica(deployment: Deployment, replica_id: str | None) -> Replica:
    if replica_id is not None:
        return queries.replica(deployment, replica_id)
    newest = queries.replicas_of(deployment, stopped=True).last()
    if newest is None:
        raise Problem(404, "not_found", f"{deployment.name} has no replica, so there is no log.")
    return newest


def _answer(request: ReadRequest, replica: Replica) -> LogTail:
    """Wait for the answer to `request`; looks by itself, since a doorbell may be lost."""
    pause = threading.Event()
    for _ in range(int(actions.READ_SECONDS / _LOOK_EVERY_SECONDS)):
        reply = queries.answer_of(request.pk)
        if reply is not None and reply.error:
            raise Problem(502, "log_unreadable", reply.error)
        if reply is not None:
            return LogTail(replica=replica.pk, lines=list(reply.lines), read_from="host")
        pause.wait(_LOOK_EVERY_SECONDS)
    raise _silent(replica)


def _silent(replica: Replica) -> Problem:
    name = replica.host.name if replica.host else "the host"
    return Problem(504, "host_silent", f"{name} did not answer; try again once it reports.")
