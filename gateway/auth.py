"""Who sends a request: from its key to what the key may do.

Tables know keys by the SHA-256 of their secret alone; secrets are random, so a plain hash is enough
and the lookup leaks nothing by its time. Called once per request by `gateway.intake`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from gateway.errors import Refused, forbidden, no_key, unknown_model
from gateway.limits import KeyUse
from gateway.wire import KeyRoute

_ANY: Final = "*"
_MOST_SEEN: Final = 10_000


class Keys:
    """All keys of the routing table, and what each has used."""

    def __init__(self) -> None:
        self._by_hash: dict[str, KeyRoute] = {}
        self._seen: dict[bytes, KeyRoute] = {}
        """By `authorization` headers that were good under this table: each is hashed once."""
        self._use: dict[str, KeyUse] = {}
        self._ids: set[str] = set()

    def apply(self, keys: Iterable[KeyRoute]) -> None:
        """Take over the keys of a new table; use is kept by id."""
        self._by_hash = {key.sha256.lower(): key for key in keys}
        self._seen = {}
        ids = {key.id for key in self._by_hash.values()}
        self._use = {id_: use for id_, use in self._use.items() if id_ in ids or use.in_flight}
        self._ids = ids

    def knows(self, key_id: str) -> bool:
        """True if the table names this key."""
        return key_id in self._ids

    def find(self, headers: dict[bytes, bytes], wall: float) -> KeyRoute:
        """Return the key that `headers` carry. Raises Refused (401)."""
        authorization = headers.get(b"authorization", b"")
        key = self._seen.get(authorization)
        if key is None:
            key = self._look_up(headers)
            if _is_bearer(authorization):
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen[authorization] = key
        expires_at = key.expires_at
        if expires_at is not None and expires_at <= wall:
            raise Refused(no_key("This API key has expired."))
        return key

    def _look_up(self, headers: dict[bytes, bytes]) -> KeyRoute:
        secret = secret_in(headers)
        if not secret:
            raise Refused(no_key("Send an API key as `Authorization: Bearer <key>`."))
        key = self._by_hash.get(hashlib.sha256(secret).hexdigest())
        if key is None:
            raise Refused(no_key("This API key is not known."))
        return key

    def use_of(self, key_id: str) -> KeyUse:
        """Return what the key has used."""
        use = self._use.get(key_id)
        if use is None:
            use = self._use[key_id] = KeyUse()
        return use

    def __len__(self) -> int:
        return len(self._by_hash)


class _Named(Protocol):
    @property
    def name(self) -> str:
        """Of the deployment."""


def allowed_models(key: KeyRoute, names: Mapping[str, _Named]) -> list[str]:
    """Return those of the public `names` that `key` may use, sorted."""
    return sorted(name for name in names if _may_use(key, name, names))


def check_model(key: KeyRoute, model: str, names: Mapping[str, _Named]) -> None:
    """Raise Refused unless `model` is there (404) and `key` may use it (403)."""
    if model not in names:
        raise Refused(unknown_model(model, allowed_models(key, names)))
    if not _may_use(key, model, names):
        raise Refused(forbidden(f"This key may not use the model {model!r}."))


def _may_use(key: KeyRoute, model: str, names: Mapping[str, _Named]) -> bool:
    """A key for a deployment is good for its aliases; one for an alias for that name alone."""
    allowed = key.models
    return _ANY in allowed or model in allowed or names[model].name in allowed


def secret_in(headers: dict[bytes, bytes]) -> bytes:
    """Return the key's secret that `headers` carry; empty if they carry none."""
    value = headers.get(b"authorization", b"")
    if _is_bearer(value):
        return value[7:].strip()
    return headers.get(b"x-api-key", b"").strip()


def _is_bearer(authorization: bytes) -> bool:
    return authorization[:7].lower() == b"bearer "
