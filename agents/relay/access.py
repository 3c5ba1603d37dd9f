"""Who may ask the relay for what: keys, routes, and the inference paths. Decides, opens nothing.

Only method and path pairs listed here pass, compared as they came, without decoding: engines have
routes that change weights, run code or stop the engine, and their own key guards half of them.
"""

import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECK_INTERVAL_SECONDS = 0.2
"""How soon a change of `relay.json` is seen by the next request."""
GET_PATHS = frozenset({b"/health", b"/v1/models"})
POST_PATHS = frozenset(
    b"/" + path
    for path in (
        b"v1/chat/completions", b"v1/completions", b"v1/responses", b"v1/messages",
        b"v1/messages/count_tokens", b"v1/embeddings", b"v1/rerank", b"v2/rerank", b"rerank",
        b"v1/score", b"score", b"pooling", b"tokenize", b"detokenize",
        b"v1/images/generations", b"v1/audio/transcriptions", b"v1/audio/translations",
    )
)  # fmt: skip
_ALLOWED = {b"GET": GET_PATHS, b"POST": POST_PATHS}


@dataclass(frozen=True)
class Refusal:
    """Why a request does not pass, as HTTP."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Passage:
    """A request may go to `socket`, asking for `target` there."""

    socket: str
    target: bytes


_UNKNOWN_KEY = Refusal(401, "invalid_api_key", "this relay does not know the bearer key")
_NO_PATH = Refusal(404, "unknown_path", "the relay passes inference requests only")
_NO_REPLICA = Refusal(404, "unknown_replica", "no such replica runs on this host")


@dataclass
class Access:
    """What stands in the file `config`, read again when it changes."""

    config: Path
    monotonic: Callable[[], float] = time.monotonic
    _routes: dict[bytes, str] = field(default_factory=dict)
    _paths: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    """Paths of its own that a replica's order declares, POST only."""
    _keys: tuple[str, ...] = ()
    _weights_keys: tuple[str, ...] = ()
    weights_root: str = ""
    """Folder of the weights that may be lent; empty lends nothing."""
    _stamp: tuple[int, int] = (0, 0)
    _checked_at: float = float("-inf")

    def decide(self, method: bytes, target: bytes, authorization: bytes) -> Passage | Refusal:
        """Return where the request goes, or why it does not."""
        self._refresh()
        if not self._is_known(authorization):
            return _UNKNOWN_KEY
        path, question, query = target.partition(b"?")
        parts = path.split(b"/", 3)  # "", "r", replica id, rest
        if len(parts) != 4 or parts[:2] != [b"", b"r"]:
            return _NO_PATH
        inner = b"/" + parts[3]
        is_own = method == b"POST" and inner in self._paths.get(parts[2], ())
        if not is_own and inner not in _ALLOWED.get(method, frozenset()):
            return _NO_PATH
        address = self._routes.get(parts[2])
        if address is None:
            return _NO_REPLICA
        return Passage(address, inner + question + query)

    def may_borrow(self, authorization: bytes) -> bool:
        """Return whether another host with these words may copy weights from this one."""
        self._refresh()
        return bool(self.weights_root) and _fits(authorization, self._weights_keys)

    def _is_known(self, authorization: bytes) -> bool:
        return _fits(authorization, self._keys)

    def _refresh(self) -> None:
        now = self.monotonic()
        if now - self._checked_at < CHECK_INTERVAL_SECONDS:
            return
        self._checked_at = now
        try:
            found = os.stat(self.config)
            stamp = (found.st_ino, found.st_mtime_ns)
            if stamp != self._stamp:
                self._take(json.loads(self.config.read_bytes()))
                self._stamp = stamp
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # the agent replaces the file as a whole; what is held goes on

    def _take(self, config: dict[str, Any]) -> None:
        routes = {
            replica.encode(): address.removeprefix("unix:")
            for replica, address in config["routes"].items()
        }
        self._paths = {
            replica.encode(): frozenset(path.encode() for path in paths)
            for replica, paths in config.get("paths", {}).items()
        }
        self._keys = tuple(config["keys"])
        self._weights_keys = tuple(config.get("weights_keys", ()))
        self.weights_root = config.get("weights_root", "")
        self._routes = routes


def _fits(authorization: bytes, keys: tuple[str, ...]) -> bool:
    """Compare against every key, in the same time whichever fits."""
    scheme, _, key = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not key:
        return False
    digest = hashlib.sha256(key.strip()).hexdigest()
    return any([hmac.compare_digest(digest, known) for known in keys])
