"""The usage record of a request as JSON, written in two pieces: `gateway.wire.UsageRecord`.

What is known at the admission goes first and is written once; a tail that says how the request
ended closes it. Until then the tail of a lost request stands there. Pure; called by
`gateway.account`.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.order import Order

_quoted: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode

_SHORT_BYTES: Final = 64
"""What is left of a name where a record would not fit its place."""


class Ending:
    """How a request ended; what is empty or 0 is left out of the record."""

    def __init__(self, outcome: str, status: int, error: str) -> None:
        self.outcome = outcome
        self.status = status
        self.error = error
        self.replica = ""
        self.revision = 0
        self.failed_revisions: tuple[int, ...] = ()
        self.first_at = 0.0
        """When the first byte of a stream came (monotonic); 0 = it never did, or no stream."""
        self.total_seconds = 0.0
        self.prompt_tokens = 0
        self.cached_tokens = -1
        """-1 = the engine does not say."""
        self.output_tokens = 0
        self.reasoning_tokens = -1
        """-1 = the engine does not say."""
        self.is_estimated = False
        """Counted from chunks because the engine's own usage never came."""
        self.reached_engine = False
        """An engine worked on it without bringing it to its end."""
        self.bytes_out = 0
        self.retries = 0


def beginning(
    order: Order, deployment: str, admitted_at: float, queue_seconds: float, *, is_short: bool
) -> bytes:
    """Return the first piece, with names cut if `is_short`.

    Times are in seconds, `admitted_at` since the epoch.
    """
    call = order.call
    piece = (
        b'{"id":"%b","key_id":%b,"deployment":%b,"model":%b,"path":%b,'
        b'"admitted_at":%b,"queue_seconds":%b,"bytes_in":%d'
        % (
            order.request_id.encode(),
            _name(order.key_id, is_short),
            _name(deployment, is_short),
            _name(call.model, is_short),
            _name(call.endpoint.path, is_short),
            _quoted(admitted_at),
            _quoted(queue_seconds),
            len(call.body),
        )
    )
    if call.stream:
        piece += b',"stream":true'
    if order.client_request_id:
        piece += b',"parent_id":' + _name(order.client_request_id, is_short)
    return piece


def lost(replica: str, *, is_short: bool) -> bytes:
    """Return the last piece of a request that the gateway does not outlive."""
    return (
        b',"replica":%b,"outcome":"gateway_lost",'
        b'"error":"the gateway ended before the request did"}' % _name(replica, is_short)
    )


def tail(ending: Ending, ttft_seconds: float, *, is_short: bool) -> bytes:
    """Return the last piece; `ttft_seconds` is below 0 where there was no first byte."""
    return b',"replica":%b,"total_seconds":%b,"outcome":"%b","status":%d,"bytes_out":%d%b%b}' % (
        _name(ending.replica, is_short),
        _quoted(ending.total_seconds),
        ending.outcome.encode(),
        ending.status,
        ending.bytes_out,
        b',"ttft_seconds":' + _quoted(ttft_seconds) if ttft_seconds >= 0 else b"",
        _tokens(ending) + _troubles(ending, is_short),
    )


def _tokens(ending: Ending) -> bytes:
    piece = b',"prompt_tokens":%d,"output_tokens":%d' % (
        ending.prompt_tokens,
        ending.output_tokens,
    )
    if ending.cached_tokens >= 0:
        piece += b',"cached_tokens":%d' % ending.cached_tokens
    if ending.reasoning_tokens >= 0:
        piece += b',"reasoning_tokens":%d' % ending.reasoning_tokens
    return piece


def _troubles(ending: Ending, is_short: bool) -> bytes:
    piece = b""
    if ending.revision:
        piece = b',"revision":%d' % ending.revision
    if ending.is_estimated:
        piece += b',"estimated":true'
    if ending.error or ending.retries:
        piece += b',"error":%b,"retries":%d,"failed_revisions":%b' % (
            _name(ending.error, is_short),
            ending.retries,
            _quoted(ending.failed_revisions),
        )
    return piece


def _name(text: str, is_short: bool) -> bytes:
    if is_short:
        text = text.encode()[:_SHORT_BYTES].decode(errors="ignore")
    return _quoted(text)
