"""The controller's loop: load, plan, apply; woken by a doorbell or once a second.

Level-triggered: a pass reads everything anew, so a lost doorbell costs a second and a crash
nothing. Any number of controllers may run: a deployment with something to do is leased to one, and
planned again under the lease before anything is written.
"""

import logging
import os
import socket
import threading
from datetime import datetime, timedelta

import redis
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Q

from apps.deployments import observed
from apps.deployments.models import Deployment, ReadRequest
from apps.deployments.reconcile import prefetch
from apps.deployments.reconcile.apply import Applier, write_summary
from apps.deployments.reconcile.load import Fleet, load
from apps.deployments.reconcile.plan import plan
from apps.deployments.reconcile.scaler import Scaler
from apps.deployments.reconcile.snapshot import Snapshot
from apps.deployments.reconcile.summary import summarize
from apps.fleet import actions as fleet_actions
from apps.lib import clock, doorbell, live
from apps.lib.redis import client

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
LEASE_SECONDS = 15.0
SWEEP_SECONDS = 5.0
"""How often silent hosts and forgotten reads are looked for."""

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
        busy = 0
        fleet = Fleet()
        for snapshot in load(hosts=fleet.hosts, now=now):
            if plan(snapshot, now):
                busy += self._reconcile(snapshot, now, fleet)
            else:
                self._settle(snapshot, now)
        return busy

    def _reconcile(self, snapshot: Snapshot, now: datetime, fleet: Fleet) -> bool:
        """Plan again under the lease and apply; False if another controller has it."""
        if not self._claim(snapshot, now):
            return False
        for fresh in load(only=snapshot.deployment_id, hosts=fleet.hosts, now=now):
            Applier(fresh, now).apply(plan(fresh, now))
        # What a deployment is, in a word, follows from its replicas alone.
        for after in load(only=snapshot.deployment_id, hosts=lambda: snapshot.hosts, now=now):
            write_summary(after, now)
        return True

    def _settle(self, snapshot: Snapshot, now: datetime) -> None:
        row = (snapshot.phase, snapshot.reason)
        if row != summarize(snapshot) or snapshot.observed_generation < snapshot.generation:
            write_summary(snapshot, now)

    def _claim(self, snapshot: Snapshot, now: datetime) -> bool:
        """Take or renew the deployment's lease by one guarded update."""
        free = Q(lease_until__isnull=True) | Q(lease_until__lt=now) | Q(lease_owner=self.owner)
        return bool(
            Deployment.objects.filter(free, pk=snapshot.deployment_id).update(
                lease_owner=self.owner, lease_until=now + timedelta(seconds=LEASE_SECONDS)
            )
        )

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


def release_leases(owner: str) -> None:
    """Give back every lease of `owner`, so that another controller need not wait."""
    Deployment.objects.filter(lease_owner=owner).update(lease_owner="", lease_until=None)
