"""Public model names that another program answers, as a knowledge base in front of a deployment.

Knows them from the routing table, whose keys may use which, and the way to their programs. Called
by `gateway.passing`, which carries one such request, and by `gateway.app` for the list of models.
"""

import time
from dataclasses import replace

from gateway.address import Address, parse_url
from gateway.settings import Settings
from gateway.upstream import Pool
from gateway.wire import Detour, KeyRoute, RoutingTable

AWAY_SECONDS = 10.0
"""A control plane that answered nothing for so long is away; it is asked every second."""

_ANY = "*"


class Detours:
    """All detours of the routing table in force."""

    def __init__(self, settings: Settings) -> None:
        self.routes: dict[str, Detour] = {}
        self.home_at = time.monotonic()
        """When the control plane last answered (monotonic)."""
        self.open = 0
        """Requests under way."""
        self._home = settings.control_plane
        self._connect_seconds = settings.deadlines.connect_seconds
        self._pools: dict[str, Pool] = {}

    def apply(self, table: RoutingTable) -> None:
        """Take over the detours of a new table. A deployment's name leads to the deployment."""
        self.routes = {n: route for n, route in table.detours.items() if n not in table.models}
        wanted = {route.url for route in self.routes.values()}
        for url in self._pools.keys() - wanted:
            self._pools.pop(url).retire()

    def is_there(self, name: str, key: KeyRoute) -> bool:
        """Return whether the name exists for keys of this tenant."""
        tenant = self.routes[name].tenant
        return not tenant or tenant == key.tenant

    def may_use(self, name: str, key: KeyRoute) -> bool:
        """Return whether `key` names the detour, its deployment, or everything."""
        allowed = key.models
        return _ANY in allowed or name in allowed or self.routes[name].deployment in allowed

    def allowed(self, key: KeyRoute) -> list[str]:
        """Return the names that `key` may use."""
        return [n for n in self.routes if self.is_there(n, key) and self.may_use(n, key)]

    def is_away(self, name: str, now: float) -> bool:
        """Return whether the program is known not to answer; `now` is monotonic."""
        return self.routes[name].url.startswith("/") and (
            not self._home or now - self.home_at > AWAY_SECONDS
        )

    def pool(self, name: str) -> Pool:
        """Return the connections to the program behind `name`, of which `is_away` is not true."""
        url = self.routes[name].url
        pool = self._pools.get(url)
        if pool is None:
            address = self._address(url)
            host = address.host or "localhost"
            pool = Pool(address, api_key="", connect_seconds=self._connect_seconds, host=host)
            self._pools[url] = pool
        return pool

    def sweep(self) -> None:
        """Close connections that have been idle too long."""
        for pool in self._pools.values():
            pool.sweep()

    def _address(self, url: str) -> Address:
        if not url.startswith("/"):
            return parse_url(url)
        home = parse_url(self._home)
        return replace(home, prefix=home.prefix + url.rstrip("/"))
