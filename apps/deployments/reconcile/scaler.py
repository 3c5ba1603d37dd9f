"""The autoscaler's rim: observe, decide, write; every two seconds, all deployments in one go.

One controller at a time does this, by a lease in Redis: without Redis there are no numbers and
nothing to decide. What it wants is a row of its own (`ScalerState`) that the planner reads. A row
of `Decision` tells each change with everything it was decided from; `ScalingRecord` keeps every
tick, so that a run can be decided again. Called by `loop` at the start of each pass.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
import redis

from apps.deployments.models import Deployment
from apps.deployments.queries import is_elastic
from apps.deployments.reconcile import autoscale, observing, scaling_rows
from apps.deployments.reconcile.measured import Measured
from apps.deployments.reconcile.observing import SeenReplicas, Traffic
from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    Decision,
    Observations,
    Policy,
    State,
)
from apps.deployments.reconcile.scaling_rows import Track
from apps.deployments.reconcile.unreadable import UNREADABLE, reason_of
from apps.deployments.states import DesiredDeployment
from apps.lib.redis import client
from apps.telemetry import live
from apps.telemetry.live import Newest

logger = logging.getLogger(__name__)

LEASE_SECONDS = 8
KEEP_SECONDS = 60.0
"""How often memories and records are written while nothing changes."""
FROZEN_TOLD_SECONDS = 15.0
"""A shorter silence of the gateways is worth no row."""

_LEASE_KEY = "hearth:autoscaler"
_EARLY_SECONDS = 0.05
"""A pass that comes so much early counts as on time: the loop's own rhythm is a second."""


class Scaler:
    """The autoscaler of one controller process."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tracks: dict[UUID, Track] = {}
        self._traffic = Traffic()
        self._measured = Measured()
        self._ticked_at: float | None = None
        self._kept_at: float | None = None
        self._fresh_at: float | None = None
        self._unreadable: set[UUID] = set()
        """Told of already."""

    def tick(self, now: datetime) -> int:
        """Decide on every deployment if it is time to; return how many answers changed.

        Requests that wait for a deployment at zero are reason enough.
        """
        at = now.timestamp()
        rung = live.wakes(now) if self._has_zero() else frozenset()
        if not (self._is_due(at) or self._is_rung(rung)):
            return 0
        self._ticked_at = at
        if not self._lead():
            self._tracks.clear()
            return 0
        self._load()
        if not self._tracks:
            return 0
        newest = live.newest(now)
        counts = self._traffic.take(newest, at)
        if counts is not None or self._fresh_at is None:
            self._fresh_at = at
        changed = self._decide_all(now, newest, counts, rung)
        self._keep(now)
        return changed

    def due_in_seconds(self, now: datetime) -> float:
        """Return how long the loop may rest until the next decision is due.

        A pass that a doorbell brought forward must not put the decision after it off by a second.
        """
        since = 0.0 if self._ticked_at is None else now.timestamp() - self._ticked_at
        return min(TICK_SECONDS, max(_EARLY_SECONDS, TICK_SECONDS - since))

    def _is_due(self, at: float) -> bool:
        """Return whether two seconds are over, or the clock went back."""
        since = TICK_SECONDS if self._ticked_at is None else at - self._ticked_at
        return since < 0 or since >= TICK_SECONDS - _EARLY_SECONDS

    def _has_zero(self) -> bool:
        return any(t.state is not None and t.state.wanted == 0 for t in self._tracks.values())

    def _is_rung(self, rung: frozenset[str]) -> bool:
        if not rung:
            return False
        zero = (t for t in self._tracks.values() if t.state is not None and t.state.wanted == 0)
        return any(t.name in rung for t in zero)

    def _lead(self) -> bool:
        """Take or renew the right to decide; False while another controller has it."""
        try:
            free = client().set(_LEASE_KEY, self._owner, nx=True, ex=LEASE_SECONDS)
            if not free and client().get(_LEASE_KEY) != self._owner.encode():
                return False
            client().expire(_LEASE_KEY, LEASE_SECONDS)
        except (redis.RedisError, OSError) as error:
            logger.warning("autoscaler: no lease: %s", error)
            # Alone or not, schedules and bounds still count; the rows' versions keep two apart.
            return True
        return True

    def _load(self) -> None:
        """Read what people want of every elastic deployment that runs. One query."""
        rows = (
            Deployment.objects.filter(desired=DesiredDeployment.RUNNING)
            .select_related("scaling", "scaler")
            .only("id", "name", "scaling", "scaler__version")
        )
        known = self._tracks
        elastic = [row for row in rows if is_elastic(row.scaling)]
        gpus = scaling_rows.gpus_per_replica(elastic)
        read = [(row, self._policy(row, gpus.get(row.pk, 0))) for row in elastic]
        readable = [(row, policy) for row, policy in read if policy is not None]
        resumed = scaling_rows.resumed([row for row, _ in readable if row.pk not in known])
        self._tracks = {}
        for row, policy in readable:
            track = known.get(row.pk) or resumed[row.pk]
            if policy != track.policy:
                scaling_rows.close_record(track)
                track.policy = policy
            self._tracks[row.pk] = track

    def _policy(self, row: Deployment, gpus_per_replica: int) -> Policy | None:
        try:
            policy = scaling_rows.policy_of(row.scaling, gpus_per_replica)
        except UNREADABLE as error:
            if row.pk not in self._unreadable:
                logger.error("autoscaler: %s stays as it is: %s", row.name, reason_of(error))
            self._unreadable.add(row.pk)
            return None
        self._unreadable.discard(row.pk)
        return policy

    def _decide_all(
        self,
        now: datetime,
        newest: Newest | None,
        counts: Mapping[str, tuple[int, int, int]] | None,
        rung: frozenset[str],
    ) -> int:
        replicas = observing.replicas_of(self._tracks, now)
        self._measured.refresh(self._tracks.values(), now)
        at = now.timestamp()
        changed = 0
        for key, track in self._tracks.items():
            seen = observing.observations(
                at,
                (counts or {}).get(track.name, (0, 0, 0)),
                replicas.get(key, SeenReplicas()),
                {} if newest is None else newest.samples,
                self._measured.aside(track, rung=track.name in rung),
            )
            if counts is None:
                silent = at - (self._fresh_at or at)
                seen = msgspec.structs.replace(seen, fresh=False, silent_seconds=round(silent, 1))
            changed += self._decide(track, seen, now)
        return changed

    def _decide(self, track: Track, seen: Observations, now: datetime) -> bool:
        before = track.state
        decision = autoscale.decide(track.policy, before, seen, seen.at)
        scaling_rows.note(track, seen, decision)
        is_news = decision.changed or _is_thaw(before, decision, seen)
        is_due = is_news or track.version < 0
        if is_due and not scaling_rows.record(track, before, seen, decision, now, is_news=is_news):
            # Another autoscaler has written since: its row is read with the next tick.
            track.is_lost = True
            return False
        track.state = decision.state
        return decision.changed

    def _keep(self, now: datetime) -> None:
        """Write memories and records each minute; forget what another has written."""
        self._tracks = {key: track for key, track in self._tracks.items() if not track.is_lost}
        at = now.timestamp()
        if self._kept_at is None or not 0 <= at - self._kept_at < KEEP_SECONDS:
            self._kept_at = at
            scaling_rows.keep(self._tracks.values(), now)


def _is_thaw(before: State | None, decision: Decision, seen: Observations) -> bool:
    """Return whether a freeze has just become worth telling, or has ended after it was told."""
    if before is None:
        return False
    if not seen.fresh:
        told = seen.silent_seconds >= FROZEN_TOLD_SECONDS
        return told and seen.silent_seconds - (seen.at - before.at) < FROZEN_TOLD_SECONDS
    return before.frozen and seen.at - before.frozen_at >= FROZEN_TOLD_SECONDS
