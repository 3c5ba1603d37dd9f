"""What a request's body asks for, read without decoding the prompt; and the body sent upstream.

The prompt stays raw JSON bytes: its prefix is stable from one turn of a conversation to the next,
so the bytes themselves feed the prefix hashes. Called once per request by `gateway.exchange`.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from gateway.errors import Refused, Shape, invalid
from gateway.shapes import Body, decode_body


class Api(StrEnum):
    """How an answer is shaped, and so how its usage and its end are read."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    VECTORS = "vectors"  # embeddings, rerank, score
    TOKENS = "tokens"  # tokenize
    PLAIN = "plain"  # an API of the engine's own: nothing in it is read


class Endpoint:
    """A path that is passed through to an engine."""

    def __init__(
        self,
        path: str,
        api: Api,
        shape: Shape = Shape.OPENAI,
        *,
        salted: bool = False,
        renames: bool = True,
    ) -> None:
        self.path = path
        self.api = api
        self.shape = shape
        self.salted = salted
        """True if the engine takes `cache_salt` there."""
        self.renames = renames
        """True if the body names the model."""
        self.has_usage_chunk = api in (Api.CHAT, Api.COMPLETIONS)
        """True if a stream brings its usage in a chunk of its own, when asked to."""
        self.counts_tokens = api not in (Api.TOKENS, Api.PLAIN)
        """True if answers bring usage."""


ENDPOINTS: dict[bytes, Endpoint] = {
    endpoint.path.encode(): endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", Api.CHAT, salted=True),
        Endpoint("/v1/completions", Api.COMPLETIONS, salted=True),
        Endpoint("/v1/responses", Api.RESPONSES, salted=True),
        Endpoint("/v1/embeddings", Api.VECTORS),
        Endpoint("/v1/rerank", Api.VECTORS),
        Endpoint("/v1/score", Api.VECTORS),
        Endpoint("/v1/messages", Api.MESSAGES, Shape.ANTHROPIC),
        Endpoint("/v1/messages/count_tokens", Api.TOKENS, Shape.ANTHROPIC),
        Endpoint("/v1/images/generations", Api.PLAIN),
        Endpoint("/tokenize", Api.TOKENS),
    )
}

_INLINE_MEDIA = re.compile(rb";base64,[A-Za-z0-9+/=_-]{256,}")
_INLINE_MARK: Final = b";base64,"
_SEMICOLON: Final = 59


class Call:
    """One parsed request body."""

    def __init__(self, endpoint: Endpoint, body: bytes, model: str) -> None:
        self.endpoint = endpoint
        self.body = body
        self.model = model
        self.stream = False
        self.wants_usage = False
        """The client asked for the usage chunk itself."""
        self.wants_running_usage = False
        self.has_stream_options = False
        self.has_cache_salt = False
        self.prompt = b""
        """What the engine will prefill, as raw JSON, in the order in which templates place it."""
        self.prompt_bytes = len(body)
        """Length of the text in it; inline media do not count."""
        self.session = ""
        self.cache_salt = ""


def parse(endpoint: Endpoint, body: bytes, *, most_choices: int) -> Call:
    """Return the call in `body`. Raises Refused (400) naming the field."""
    try:
        fields = decode_body(body)
    except msgspec.ValidationError as error:
        raise Refused(invalid(f"The request body is wrong: {error}")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(invalid(f"The request body is not valid JSON: {error}")) from error
    n = fields.n
    if n is not None and not 1 <= n <= most_choices:
        raise Refused(invalid(f"`n` must be between 1 and {most_choices}", param="n"))
    call = Call(endpoint, body, fields.model)
    call.stream = bool(fields.stream)
    options = fields.stream_options
    if options is not msgspec.UNSET:
        call.has_stream_options = True
        if options is not None:
            call.wants_usage = bool(options.include_usage)
            call.wants_running_usage = bool(options.continuous_usage_stats)
    salt = fields.cache_salt
    if salt is not msgspec.UNSET:
        call.has_cache_salt = True
        call.cache_salt = salt or ""
    call.session = fields.prompt_cache_key or ""
    call.prompt = _prompt(fields)
    call.prompt_bytes = _text_bytes(call.prompt)
    return call


def plain(model: str, path: str, body: bytes) -> Call:
    """Return a call of an engine's own API: the body goes through as it is."""
    return Call(Endpoint(path, Api.PLAIN, renames=False), body, model)


def _prompt(fields: Body) -> bytes:
    messages = fields.messages
    if messages and not fields.tools and not fields.system:
        return bytes(messages)
    parts = (
        fields.tools,
        fields.system,
        fields.instructions,
        messages,
        fields.prompt,
        fields.input,
        fields.queries,
        fields.text_1,
        fields.documents,
        fields.text_2,
    )
    return b"".join(bytes(part) for part in parts if part)


def _text_bytes(prompt: bytes) -> int:
    # A byte as a number is found many times faster than bytes.
    if _SEMICOLON not in prompt or _INLINE_MARK not in prompt:
        return len(prompt)
    return len(_INLINE_MEDIA.sub(b"", prompt))


class Rewrite:
    """What the gateway changes in a body before an engine sees it."""

    def __init__(
        self,
        *,
        model: str = "",
        add_usage: bool = False,
        running_usage: bool = False,
        cache_salt: str = "",
    ) -> None:
        self.model = model
        """The engine's own name for the model; empty = as the client wrote it."""
        self.add_usage = add_usage
        self.running_usage = running_usage
        self.cache_salt = cache_salt
        """Hex digits."""


def rewritten(call: Call, change: Rewrite) -> bytes:
    """Return the body to send upstream: the client's own bytes where nothing changes.

    Fields that the client did not send are put in front, without decoding the rest.
    """
    rename = change.model != "" and change.model != call.model
    salt_clash = change.cache_salt != "" and call.has_cache_salt
    usage = change.add_usage or change.running_usage
    if rename or salt_clash or (usage and call.has_stream_options):
        return _reencoded(call, change)
    added = b""
    if change.running_usage:
        added += b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
    elif change.add_usage:
        added += b'"stream_options":{"include_usage":true},'
    if change.cache_salt:
        added += b'"cache_salt":"%b",' % change.cache_salt.encode()
    if not added:
        return call.body
    body = call.body
    start = 1 if body[0] == 123 else body.find(b"{") + 1
    return b"{%b%b" % (added, body[start:])


def _reencoded(call: Call, change: Rewrite) -> bytes:
    fields: dict[str, object] = msgspec.json.decode(call.body)
    if change.model:
        fields["model"] = change.model
    if change.add_usage or change.running_usage:
        given = fields.get("stream_options")
        options = dict(given) if isinstance(given, dict) else {}
        options["include_usage"] = True
        if change.running_usage:
            options["continuous_usage_stats"] = True
        fields["stream_options"] = options
    if change.cache_salt:
        fields["cache_salt"] = change.cache_salt
    return msgspec.json.encode(fields)
