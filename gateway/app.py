"""Which path does what: inference to `gateway.intake`, the few local answers here.

The one place that turns a refusal into an HTTP answer. Called by `gateway.server` for every whole
request.
"""

import logging
import time

import msgspec

from gateway import errors
from gateway.auth import allowed_models
from gateway.call import ENDPOINTS
from gateway.core import Core
from gateway.errors import Refused, Shape
from gateway.intake import PLAIN_PREFIX, take_in, take_in_plain
from gateway.metrics import exposition
from gateway.request import Request
from gateway.server import ClientConnection
from gateway.settings import Limits
from gateway.wire import KeyRoute

_JSON = b"application/json"
_PLAIN = b"text/plain; charset=utf-8"
_ALLOWED_HEADERS = "authorization, content-type, x-api-key, x-session-id, x-request-id"
log = logging.getLogger("gateway.app")


class Gateway:
    """The application behind every client connection."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.limits: Limits = core.settings.limits
        self.clients: set[ClientConnection] = set()
        self._origins = {origin.encode() for origin in core.settings.cors_origins}
        self._local = {
            b"/healthz": self._health,
            b"/readyz": self._ready,
            b"/metrics": self._metrics,
            b"/v1/models": self._models,
        }

    @property
    def is_draining(self) -> bool:
        """True once the gateway is asked to stop."""
        return self.core.is_draining

    def connected(self, client: ClientConnection) -> bool:
        """Count a connection. Returns False if there are too many."""
        self.clients.add(client)
        return len(self.clients) <= self.limits.connections

    def disconnected(self, client: ClientConnection) -> None:
        """Uncount it."""
        self.clients.discard(client)

    def handle(self, client: ClientConnection, request: Request) -> None:
        """Answer `request`, or let an exchange do it."""
        path = request.path.partition(b"?")[0]
        endpoint = ENDPOINTS.get(path)
        shape = endpoint.shape if endpoint is not None else Shape.OPENAI
        fields = self._cors(request) if self._origins else ""
        try:
            if self._origins and request.method == b"OPTIONS" and fields:
                client.answer(204, b"", kind=_PLAIN, extra=(fields + _preflight()).encode())
            elif endpoint is not None:
                _need(request, b"POST")
                take_in(self.core, client, request, endpoint, fields)
            elif path.startswith(PLAIN_PREFIX):
                _need(request, b"POST")
                take_in_plain(self.core, client, request, path, fields)
            else:
                self._answer_locally(client, request, path, fields)
        except Refused as refusal:
            extra = f"x-request-id: {self.core.new_id()}\r\n{fields}"
            client.refuse(refusal.problem, shape, extra=extra.encode())
        except Exception:
            # The outermost loop: one request must not end the rest.
            log.exception("a request to %r failed", path)
            client.refuse(errors.engine_failed("The gateway failed.", status=500), shape)

    def _answer_locally(
        self, client: ClientConnection, request: Request, path: bytes, fields: str
    ) -> None:
        local = self._local.get(path)
        if local is None and path.startswith(b"/v1/models/"):
            local = self._model
        if local is None:
            name = path.decode("latin-1")
            raise Refused(errors.invalid(f"There is no path {name!r} here.", status=404))
        _need(request, b"GET")
        status, content, kind = local(request)
        client.answer(status, content, kind=kind, extra=fields.encode())

    # --- Local answers: (status, body, content type) -----------------------------------------

    def _health(self, _request: Request) -> tuple[int, bytes, bytes]:
        return 200, b'{"status":"ok"}', _JSON

    def _ready(self, _request: Request) -> tuple[int, bytes, bytes]:
        reason = self.core.why_not_ready()
        if reason:
            return 503, msgspec.json.encode({"status": "not ready", "reason": reason}), _JSON
        answer = {"status": "ready", "table_revision": self.core.table_revision}
        return 200, msgspec.json.encode(answer), _JSON

    def _metrics(self, _request: Request) -> tuple[int, bytes, bytes]:
        content, kind = exposition(self.core, len(self.clients))
        return 200, content, kind.encode()

    def _models(self, request: Request) -> tuple[int, bytes, bytes]:
        key = self.core.keys.find(request.headers, time.time())
        names = self._names(key)
        answer = {"object": "list", "data": [self._describe(name) for name in names]}
        return 200, msgspec.json.encode(answer), _JSON

    def _model(self, request: Request) -> tuple[int, bytes, bytes]:
        key = self.core.keys.find(request.headers, time.time())
        name = request.path.partition(b"?")[0].removeprefix(b"/v1/models/").decode("latin-1")
        names = self._names(key)
        if name not in names:
            raise Refused(errors.unknown_model(name, names))
        return 200, msgspec.json.encode(self._describe(name)), _JSON

    def _names(self, key: KeyRoute) -> list[str]:
        core = self.core
        return sorted(allowed_models(key, core.fleet.names) + core.detours.allowed(key))

    def _describe(self, name: str) -> dict[str, object]:
        detour = self.core.detours.routes.get(name)
        behind = name if detour is None else detour.deployment
        route = self.core.fleet.routes.get(behind)
        created_at = detour.created_at if detour is not None else route.created_at if route else 0
        return {
            "id": name,
            "object": "model",
            "created": int(created_at),
            "owned_by": "hearth",
            "max_model_len": route.context_tokens if route is not None else None,
        }

    def _cors(self, request: Request) -> str:
        origin = request.headers.get(b"origin")
        if origin is None or not (origin in self._origins or b"*" in self._origins):
            return ""
        return (
            f"access-control-allow-origin: {origin.decode('latin-1')}\r\nvary: origin\r\n"
            "access-control-expose-headers: x-request-id, x-hearth-replica, x-hearth-route,"
            " x-hearth-budget\r\n"
        )


def _preflight() -> str:
    return (
        f"access-control-allow-methods: GET, POST\r\n"
        f"access-control-allow-headers: {_ALLOWED_HEADERS}\r\naccess-control-max-age: 600\r\n"
    )


def _need(request: Request, method: bytes) -> None:
    if request.method == method:
        return
    name, used = method.decode(), request.method.decode("latin-1")
    raise Refused(errors.invalid(f"This path takes {name}, not {used}.", status=405))
