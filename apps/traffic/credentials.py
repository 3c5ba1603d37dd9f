"""Who may post as a gateway: credentials by digest, cached in the web process."""

import time

from channels.db import database_sync_to_async

from apps.lib import secrets
from apps.lib.problems import Problem
from apps.traffic import queries

KEPT_SECONDS = 30.0
"""A withdrawn credential works for so long at most."""
UNKNOWN_SECONDS = 1.0
"""An unknown credential makes the cache look again at most this often."""


class Credentials:
    """The known credentials of gateways. Belongs to one event loop."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._read_at = float("-inf")

    async def check(self, credential: str) -> str:
        """Return the name of the gateway that holds `credential`. Raises Problem 401."""
        digest = secrets.digest(credential)
        age = time.monotonic() - self._read_at
        if age > KEPT_SECONDS or (digest not in self._names and age > UNKNOWN_SECONDS):
            self._names = await database_sync_to_async(queries.gateway_credentials)()
            self._read_at = time.monotonic()
        if digest not in self._names:
            raise Problem(401, "unknown_credential", "No gateway has this credential.")
        return self._names[digest]
