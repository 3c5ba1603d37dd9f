"""The controller's loop: load, plan, apply; woken by a doorbell or once a second.

Level-triggered: a pass reads everything anew, so a lost doorbell costs a second and a crash
nothing. Any number of controllers may run: a deployment with something to do is leased to one, and
planned again under the lease before anything is written.
"""

import logging
import os
import socket
import threading
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import batched
from uuid import UUID

import redis
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Q

from apps.deployments import observed
from apps.deployments.models import Deployment, ReadRequest
from apps.deployments.reconcile import placing, prefetch
from apps.deployments.reconcile.apply import Applier, write_summary, write_unreadable
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.reconcile.load import load
from apps.deployments.reconcile.placing import Placement
from apps.deployments.reconcile.plan import may_have_work, plan
from apps.deployments.reconcile.scaler import Scaler
from apps.deployments.reconcile.snapshot import Snapshot
from apps.deployments.reconcile.steps import CreateReplica, PlaceReplica
from apps.deployments.reconcile.summary import summarize
from apps.fleet import actions as fleet_actions
from apps.lib import clock, doorbell, live
from apps.lib.redis import client

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
LEASE_SECONDS = 15.0
SWEEP_SECONDS = 5.0
"""How often silent hosts and forgotten reads are looked for."""

AT_ONCE = 50
"""Deployments that are reconciled with the same few queries; a lease lasts well beyond them."""

_FAULT_PAUSE_SECONDS = 2.0


class Controller:
    """One controller process."""

    def __init__(self) -> None:
        self.owner = f"{socket.gethostname()}-{os.getpid()}"
        self._stopping = threading.Event()
        self._rung = threading.Event()
        self._next_sweep: datetime | None = None
        self._scaler = Scaler(self.owner)

    def stop(self) -> None:
        """Finish the pass under way and return from `run`."""
        self._stopping.set()
        self._rung.set()

    def run(self) -> None:
        """Reconcile until `stop`. A fault of the database or Redis is logged and tried again."""
        ears = threading.Thread(target=self._listen, name="doorbell", daemon=True)
        ears.start()
        while not self._stopping.is_set():
            self._rung.clear()
            pause = _FAULT_PAUSE_SECONDS
            try:
                self.run_once(clock.now())
                pause = min(INTERVAL_SECONDS, self._scaler.due_in_seconds(clock.now()))
            except DatabaseError:
                logger.exception("reconcile pass failed; trying again")
                # Only now: a new connection each second would be a third of an idle pass.
                close_old_connections()
            self._rung.wait(pause)

    def run_once(self, now: datetime) -> int:
        """Make one pass over all deployments; return how many had something to do."""
        self._sweep(now)
        self._scaler.tick(now)
        fleet = Fleet()
        busy, unreadable = [], dict[UUID, str]()
        for snapshot in load(hosts=fleet.hosts, now=now, unreadable=unreadable):
            if may_have_work(snapshot) or plan(snapshot, now):
                busy.append(snapshot.deployment_id)
            else:
                self._settle(snapshot, now)
        for deployment_id, reason in unreadable.items():
            write_unreadable(deployment_id, reason, now)
        return sum(self._reconcile(some, now, fleet) for some in batched(busy, AT_ONCE))

    def _reconcile(self, ids: Collection[UUID], now: datetime, fleet: Fleet) -> int:
        """Plan again under the leases and apply; return how many no other controller has."""
        claimed = self._claim(ids, now)
        if claimed:
            bring_about(claimed, now, fleet)
        return len(claimed)

    def _settle(self, snapshot: Snapshot, now: datetime) -> None:
        row = (snapshot.phase, snapshot.reason)
        if row != summarize(snapshot) or snapshot.observed_generation < snapshot.generation:
            write_summary(snapshot, now)

    def _claim(self, ids: Collection[UUID], now: datetime) -> list[UUID]:
        """Take or renew the leases of deployments by one guarded update; return the ones got."""
        until = now + timedelta(seconds=LEASE_SECONDS)
        free = Q(lease_until__isnull=True) | Q(lease_until__lt=now) | Q(lease_owner=self.owner)
        rows = Deployment.objects.filter(pk__in=ids)
        rows.filter(free).update(lease_owner=self.owner, lease_until=until)
        return list(rows.filter(lease_owner=self.owner).values_list("pk", flat=True))

    def _sweep(self, now: datetime) -> None:
        if self._next_sweep is not None and now < self._next_sweep:
            return
        self._next_sweep = now + timedelta(seconds=SWEEP_SECONDS)
        with transaction.atomic():
            self._sweep_hosts(now)
        prefetch.run(now)
        ReadRequest.objects.filter(deadline_at__lt=now - timedelta(minutes=5)).delete()

    def _sweep_hosts(self, now: datetime) -> None:
        for move in fleet_actions.sweep_silent(now):
            observed.record_event(
                at=now,
                kind=f"host.{move.new}",
                message=move.reason,
                actor="reconciler",
                severity="warning",
                host=move.host,
            )
            live.publish(live.FLEET, "host", host=move.host)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with client().pubsub() as subscription:  # type: ignore[no-untyped-call]
                    self._hear(subscription)
            except (redis.RedisError, OSError):
                self._stopping.wait(_FAULT_PAUSE_SECONDS)

    def _hear(self, subscription: redis.client.PubSub) -> None:
        subscription.subscribe(doorbell.CHANNEL)
        while not self._stopping.is_set():
            message = subscription.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message and message["data"] == doorbell.CONTROLLER.encode():
                self._rung.set()


def bring_about(deployments: Collection[UUID], now: datetime, fleet: Fleet) -> None:
    """Plan `deployments` one after the other and write what follows. The caller holds the leases.

    A replica that is made is placed at once: an order need not wait for the pass after this one.
    """
    with live.together():
        if made := _bring(deployments, now, fleet):
            _bring(made, now, fleet)
        # What a deployment is, in a word, follows from its replicas alone.
        for after in load(deployments, hosts=fleet.hosts, now=now):
            write_summary(after, now)


def _bring(deployments: Collection[UUID], now: datetime, fleet: Fleet) -> list[UUID]:
    """Plan and write once; return the deployments that got new replicas.

    Each is planned on the room that the ones before it leave; all placements are one transaction.
    """
    fleet.refresh()
    made: list[UUID] = []
    placements: list[Placement] = []
    for read in load(deployments, hosts=fleet.hosts, now=now):
        snapshot = replace(read, hosts=fleet.hosts())
        steps = plan(snapshot, now)
        Applier(snapshot, now).apply([s for s in steps if not isinstance(s, PlaceReplica)])
        if any(isinstance(step, CreateReplica) for step in steps):
            made.append(snapshot.deployment_id)
        places = [step for step in steps if isinstance(step, PlaceReplica)]
        fleet.take(place for step in places for place in step.placed.places)
        placements += [Placement(snapshot, step.replica_id, step.placed) for step in places]
    placing.place(placements, now)
    return made


def release_leases(owner: str) -> None:
    """Give back every lease of `owner`, so that another controller need not wait."""
    Deployment.objects.filter(lease_owner=owner).update(lease_owner="", lease_until=None)
