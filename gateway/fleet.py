"""What this process knows now of each deployment and replica: load, circuit, queue, prefixes.

A new routing table is folded in by `Fleet.apply`; replicas keep their numbers across tables by id.
All changes are synchronous, so no reader sees half a change. Called by everything that routes,
admits or reports.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

from msgspec.structs import replace

from gateway.admission import FairQueue
from gateway.breaker import SLOW_START_SECONDS
from gateway.meter import Tally
from gateway.prefix import BLOCK_BYTES, DEFAULT_KV_TOKENS, PrefixIndex
from gateway.residency import Residency
from gateway.router import ALPHAS, Candidate
from gateway.split import with_share
from gateway.upstream import Pool
from gateway.wire import ModelRoute, ReplicaRoute, RouteState, RoutingTable

FIRST_BYTES_PER_TOKEN = 4.0
"""English text in JSON; each deployment's own ratio is learned from measured usage."""

_LEARNING_RATE = 0.05


class Waiter(Protocol):
    """A request in a deployment's queue."""

    def proceed(self) -> None:
        """A slot may be free: try to take it."""

    def give_up(self, reason: str) -> None:
        """The time to wait ran out, or the gateway stops."""

    def comfort(self, now: float) -> None:
        """Tell a client that streams what it waits for, if it is time to."""


class Replica(Candidate):
    """One replica as this process sees it."""

    def __init__(self, route: ReplicaRoute, pool: Pool, *, now: float) -> None:
        super().__init__(route.id, seed=_seed(route.id))
        self.route = route
        self.pool = pool
        self.tally = Tally()
        self.heard_at = now
        """When it last sent a byte or was given a request after a pause (monotonic)."""
        self.is_gone = False
        self.is_probing = False


class Deployment:
    """One deployment as this process sees it."""

    def __init__(self, name: str, route: ModelRoute) -> None:
        self.name = name
        self.queue: FairQueue[Waiter] = FairQueue(route.queue.size)
        self.replicas: dict[str, Replica] = {}
        self.usable: list[Replica] = []
        """Ready by the table, not ejected, and of a revision that has a share of the requests."""
        self.prefixes = PrefixIndex()
        self.residency: Residency | None = None
        """What its engines say they hold; None if none of them does."""
        self.tally = Tally()
        self.bytes_per_token = FIRST_BYTES_PER_TOKEN
        self.typical_tokens = 0.0
        """What its requests had to prefill lately."""
        self.turn = 0
        self.is_pumping = False
        """The queue is being served: whoever leaves meanwhile need not begin that anew."""
        self.follow(route)

    def follow(self, route: ModelRoute) -> None:
        """Take over a new route; what every request looks at is copied out of it."""
        self.route = route
        self.queue.size = route.queue.size
        self.limit = route.max_in_flight_per_replica
        """Requests that one replica may hold."""
        self.context_tokens = route.context_tokens
        self.policy = route.policy
        self.alpha = ALPHAS.get(route.profile, ALPHAS["balanced"])
        self.shares = route.shares
        self.has_shadow = route.shadow is not None

    @property
    def block_tokens(self) -> float:
        """Tokens in one block of the prefix index."""
        return BLOCK_BYTES / self.bytes_per_token

    @property
    def is_waking(self) -> bool:
        """No replica can take anything, and more waiting may bring one."""
        return not any(r.route.state is RouteState.READY for r in self.replicas.values())

    def free(self) -> list[Replica]:
        """Replicas that may take one more request."""
        limit, found = self.limit, []
        for replica in self.usable:
            if replica.in_flight < limit:
                found.append(replica)
        return found

    def refresh(self) -> None:
        """Recompute which replicas are usable; call after any change of state or circuit."""
        self.usable = [
            replica
            for replica in self.replicas.values()
            if replica.route.state is RouteState.READY and not replica.breaker.is_open
        ]
        if self.route.shares:
            self.usable = list(with_share(self.route.shares, self.usable))

    def learn_bytes_per_token(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Take in one measured prompt; short ones are mostly template and teach nothing."""
        if prompt_bytes >= BLOCK_BYTES and prompt_tokens > 0:
            measured = min(max(prompt_bytes / prompt_tokens, 1.0), 16.0)
            self.bytes_per_token += _LEARNING_RATE * (measured - self.bytes_per_token)


class Fleet:
    """All deployments, and the public names that lead to them."""

    def __init__(self, open_pool: Callable[[ReplicaRoute], Pool]) -> None:
        self._open_pool = open_pool
        self.deployments: dict[str, Deployment] = {}
        self.names: dict[str, Deployment] = {}
        self.routes: dict[str, ModelRoute] = {}

    def apply(self, table: RoutingTable, *, now: float, wall: float) -> None:
        """Make the fleet as `table` says. `now` is monotonic, `wall` seconds since the epoch."""
        wanted: dict[str, ModelRoute] = {}
        for route in table.models.values():
            wanted.setdefault(route.deployment, route)
        for name, route in wanted.items():
            deployment = self.deployments.get(name)
            is_new = deployment is None
            if deployment is None:
                deployment = self.deployments[name] = Deployment(name, route)
            deployment.follow(route)
            self._apply_replicas(deployment, now=now, wall=wall, all_slow=not is_new)
        for name in self.deployments.keys() - wanted.keys():
            self._retire(name)
        self.routes = dict(table.models)
        self.names = {name: self.deployments[r.deployment] for name, r in table.models.items()}

    def _retire(self, name: str) -> None:
        deployment = self.deployments.pop(name)
        deployment.follow(_without_replicas(deployment.route))
        for replica in deployment.replicas.values():
            self._remove(deployment, replica)
        deployment.replicas.clear()
        deployment.refresh()

    def _apply_replicas(
        self, deployment: Deployment, *, now: float, wall: float, all_slow: bool
    ) -> None:
        known = deployment.replicas
        kept: dict[str, Replica] = {}
        for route in deployment.route.replicas:
            replica = known.get(route.id)
            if replica is None or replica.route.url != route.url:
                replica = self._new(route, now=now, wall=wall, slow=all_slow)
            elif replica.route.api_key != route.api_key:
                replica.pool.api_key = route.api_key
            replica.route = route
            kept[route.id] = replica
            deployment.prefixes.resize(route.id, _capacity_blocks(deployment, route))
        for name, replica in known.items():
            if kept.get(name) is not replica:
                self._remove(deployment, replica)
        if deployment.residency is None and any(r.route.kv_events for r in kept.values()):
            deployment.residency = deployment.prefixes.exact = Residency()
        deployment.replicas = kept
        deployment.refresh()

    def cold(self, deployment: Deployment, replica: Replica) -> None:
        """`replica` came back: nothing is known of its cache any more."""
        deployment.prefixes.forget(replica.id)
        deployment.prefixes.resize(replica.id, _capacity_blocks(deployment, replica.route))

    def _new(self, route: ReplicaRoute, *, now: float, wall: float, slow: bool) -> Replica:
        replica = Replica(route, self._open_pool(route), now=now)
        age = wall - route.ready_at if route.ready_at is not None else None
        if slow and (age is None or age < SLOW_START_SECONDS):
            replica.breaker.start_slowly(now)
        return replica

    def _remove(self, deployment: Deployment, replica: Replica) -> None:
        replica.is_gone = True
        deployment.prefixes.forget(replica.id)
        replica.pool.retire()


def _capacity_blocks(deployment: Deployment, route: ReplicaRoute) -> int:
    tokens = route.kv_cache_tokens or DEFAULT_KV_TOKENS
    return int(tokens * deployment.bytes_per_token / BLOCK_BYTES)


def _seed(replica_id: str) -> int:
    return int.from_bytes(blake2b(replica_id.encode(), digest_size=8).digest())


def _without_replicas(route: ModelRoute) -> ModelRoute:
    return replace(route, replicas=())
