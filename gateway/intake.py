"""From a whole HTTP request to an exchange, or to a refusal before any engine is touched.

The order of the checks is the order in which a caller can fix them: path, method, key, body, model,
limits. Called by `gateway.app` for every path in `ENDPOINTS`.
"""

import time
from collections.abc import Callable
from email.utils import formatdate
from hashlib import blake2b
from typing import Final

from gateway import errors
from gateway.auth import check_model
from gateway.call import Call, Endpoint, Rewrite, parse, plain, rewritten
from gateway.core import Core
from gateway.errors import Problem, Refused
from gateway.exchange import Exchange
from gateway.fleet import Deployment
from gateway.order import Order
from gateway.passing import check_detour, pass_on
from gateway.prefix import chain, seed_of
from gateway.request import Request
from gateway.server import ClientConnection
from gateway.wire import KeyRoute, ModelRoute

_wall: Final[Callable[[], float]] = time.time
_monotonic: Final[Callable[[], float]] = time.monotonic

PLAIN_PREFIX = b"/apis/"
_MOST_ID_BYTES = 64
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_MOST_TENANCIES: Final = 4096


class _Tenancy:
    """What separates the prefix caches of tenants, within one what the client separates, and
    adapters of one engine from each other."""

    def __init__(self, tenant: str, cache_salt: str, model: str) -> None:
        salt = f"{tenant}\0{cache_salt}".encode()
        self.seed = seed_of(b"%b\0%b" % (salt, model.encode()))
        """Of the hashes of prompts."""
        self.for_engines = blake2b(salt, digest_size=16).hexdigest() if tenant else ""
        """What engines are told; adapters have caches of their own there."""


_tenancies: Final[dict[tuple[str, str, str], _Tenancy]] = {}
"""The same for all requests of a tenant."""


def take_in(
    core: Core, client: ClientConnection, request: Request, endpoint: Endpoint, fields: str
) -> None:
    """Start the exchange that `request` asks for. Raises Refused.

    `fields` are header lines that every answer of this request carries.
    """
    key = _known_key(core, request)
    call = parse(endpoint, request.body, most_choices=core.settings.limits.choices)
    if call.model in core.detours.routes:
        check_detour(core, key, call)
        _check_budget(key)
        pass_on(core, client, request, key, call, fields)
        return
    check_model(key, call.model, core.fleet.names)
    _begin(core, client, request, key, call, fields)


def take_in_plain(
    core: Core, client: ClientConnection, request: Request, path: bytes, fields: str
) -> None:
    """Start an exchange with an engine's own API, at `/apis/<model>/<path>`. Raises Refused.

    Only the paths that the deployment declares are there; the model is not in the body.
    """
    key = _known_key(core, request)
    model, _, rest = path.removeprefix(PLAIN_PREFIX).decode("latin-1").partition("/")
    check_model(key, model, core.fleet.names)
    declared = core.fleet.routes[model].paths
    if f"/{rest}" not in declared:
        there = f"it has {', '.join(declared)}" if declared else "it has none"
        message = f"{model!r} has no path {f'/{rest}'!r} of its own: {there}."
        raise Refused(errors.invalid(message, status=404))
    _begin(core, client, request, key, plain(model, f"/{rest}", request.body), fields)


def _known_key(core: Core, request: Request) -> KeyRoute:
    key = core.keys.find(request.headers, _wall())
    if core.is_draining:
        raise Refused(
            errors.busy("The gateway is stopping.", code="stopping", retry_after_seconds=1.0)
        )
    return key


def _begin(
    core: Core, client: ClientConnection, request: Request, key: KeyRoute, call: Call, fields: str
) -> None:
    _check_budget(key)
    deployment = core.fleet.names[call.model]
    order = _order(core, request, call, key, deployment)
    if key.budget_low:
        fields += "x-hearth-budget: low\r\n"
    order.answer_fields = f"x-request-id: {order.request_id}\r\n{fields}"
    Exchange(core, client, deployment, order).start()


def _check_budget(key: KeyRoute) -> None:
    if key.budget_exhausted:
        raise Refused(_no_budget(key, _wall()))


def _no_budget(key: KeyRoute, wall: float) -> Problem:
    until, left = "", None
    if key.budget_resets_at is not None:
        until = f" until {formatdate(key.budget_resets_at, usegmt=True)}"
        left = max(1.0, key.budget_resets_at - wall)
    return errors.limited(
        f"The budget of this key is used up{until}.",
        code="insufficient_quota",
        retry_after_seconds=left,
    )


def _order(
    core: Core, request: Request, call: Call, key: KeyRoute, deployment: Deployment
) -> Order:
    prompt_tokens = max(1, int(call.prompt_bytes / deployment.bytes_per_token))
    context_tokens = deployment.context_tokens
    if context_tokens is not None:
        prompt_tokens = min(prompt_tokens, context_tokens)
    now = _monotonic()
    reservation = core.keys.use_of(key.id).take(key, prompt_tokens, now)
    if isinstance(reservation, Problem):
        deployment.tally.refused += 1
        raise Refused(reservation)
    if core.sharing is not None:
        core.sharing.used(key.id, 1, prompt_tokens)
    order = Order(call, key, reservation)
    order.request_id = core.new_id()
    order.received_at = request.received_at
    order.prompt_tokens = prompt_tokens
    route = core.fleet.routes[call.model]
    tenancy = _tenancy(key.tenant, call.cache_salt, route.upstream_name or call.model)
    change = _rewrite(route, call, tenancy.for_engines)
    order.body = rewritten(call, change)
    order.drop_usage, order.drop_running = change.add_usage, change.running_usage
    order.blocks = chain(call.prompt, tenancy.seed)
    headers = request.headers
    if b"x-request-id" in headers:
        order.client_request_id = _printable(headers[b"x-request-id"])
    name = call.session
    if b"x-session-id" in headers:
        name = headers[b"x-session-id"].decode("latin-1") or name
    if name:
        # Apart per tenant.
        order.session = f"{key.tenant}\0{name}"
    order.head_fields = _head_fields(order.request_id, headers, deployment)
    return order


def _rewrite(route: ModelRoute, call: Call, salt: str) -> Rewrite:
    """Return what to change; `salt` separates tenants, empty = there are none."""
    change = Rewrite()
    endpoint = call.endpoint
    if endpoint.renames:
        change.model = route.upstream_name
    if call.stream and endpoint.has_usage_chunk:
        change.add_usage = not call.wants_usage
        change.running_usage = route.exact_usage and not call.wants_running_usage
    if salt and endpoint.salted:
        change.cache_salt = salt
    return change


def _tenancy(tenant: str, cache_salt: str, model: str) -> _Tenancy:
    name = (tenant, cache_salt, model)
    found = _tenancies.get(name)
    if found is None:
        if len(_tenancies) >= _MOST_TENANCIES:
            _tenancies.clear()
        found = _tenancies[name] = _Tenancy(tenant, cache_salt, model)
    return found


def _head_fields(request_id: str, headers: dict[bytes, bytes], deployment: Deployment) -> str:
    fields = f"content-type: application/json\r\nx-request-id: {request_id}\r\n"
    if deployment.residency is not None:
        # The engine names it in the events of the blocks that this request stores.
        fields += f"x-session-id: {request_id}\r\n"
    if b"traceparent" in headers:
        for name in _TRACE_HEADERS:
            value = headers.get(name, b"")
            if 0 < len(value) <= 512 and value.isascii():
                fields += f"{name.decode()}: {value.decode()}\r\n"
    return fields


def _printable(value: bytes) -> str:
    """Return a client's own request id if it is short and plain, else nothing."""
    text = value[:_MOST_ID_BYTES].decode("latin-1")
    return text if text.isascii() and text.isprintable() else ""
