"""What a request's body asks for, read without decoding the prompt; and the body sent upstream.

The prompt stays raw JSON bytes: its prefix is stable from one turn of a conversation to the next,
so the bytes themselves feed the prefix hashes. Called once per request by `gateway.exchange`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path that is passed through to an engine."""

    path: str
    api: Api
    shape: Shape = Shape.OPENAI
    salted: bool = False
    """True if the engine takes `cache_salt` there."""
    renames: bool = True
    """True if the body names the model."""


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
_INLINE_MARK = b";base64,"


class Call(msgspec.Struct, gc=False):
    """One parsed request body."""

    endpoint: Endpoint
    body: bytes
    model: str
    stream: bool
    wants_usage: bool
    """The client asked for the usage chunk itself."""
    wants_running_usage: bool
    has_stream_options: bool
    has_cache_salt: bool
    prompt: bytes
    """What the engine will prefill, as raw JSON, in the order in which templates place it."""
    prompt_bytes: int
    """Length of the text in it; inline media do not count."""
    session: str
    cache_salt: str
    output_limit: int | None


def parse(endpoint: Endpoint, body: bytes, *, most_choices: int) -> Call:
    """Return the call in `body`. Raises Refused (400) naming the field."""
    try:
        fields = decode_body(body)
    except msgspec.ValidationError as error:
        raise Refused(invalid(f"The request body is wrong: {error}")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(invalid(f"The request body is not valid JSON: {error}")) from error
    if fields.n is not None and not 1 <= fields.n <= most_choices:
        raise Refused(invalid(f"`n` must be between 1 and {most_choices}", param="n"))
    prompt = _prompt(fields)
    options = fields.stream_options or None
    return Call(
        endpoint=endpoint,
        body=body,
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bool(options and options.include_usage),
        wants_running_usage=bool(options and options.continuous_usage_stats),
        has_stream_options=fields.stream_options is not msgspec.UNSET,
        has_cache_salt=fields.cache_salt is not msgspec.UNSET,
        prompt=prompt,
        prompt_bytes=_text_bytes(prompt),
        session=fields.prompt_cache_key or "",
        cache_salt=fields.cache_salt or "",
        output_limit=fields.max_completion_tokens or fields.max_tokens or fields.max_output_tokens,
    )


def plain(model: str, path: str, body: bytes) -> Call:
    """Return a call of an engine's own API: the body goes through as it is."""
    return Call(
        endpoint=Endpoint(path, Api.PLAIN, renames=False),
        body=body,
        model=model,
        stream=False,
        wants_usage=False,
        wants_running_usage=False,
        has_stream_options=False,
        has_cache_salt=False,
        prompt=b"",
        prompt_bytes=len(body),
        session="",
        cache_salt="",
        output_limit=None,
    )


def _prompt(fields: Body) -> bytes:
    if fields.messages and not (fields.tools or fields.system):
        return bytes(fields.messages)
    parts = (
        fields.tools,
        fields.system,
        fields.instructions,
        fields.messages,
        fields.prompt,
        fields.input,
        fields.queries,
        fields.text_1,
        fields.documents,
        fields.text_2,
    )
    return b"".join(bytes(part) for part in parts if part)


def _text_bytes(prompt: bytes) -> int:
    # One byte is found many times faster than several.
    if b";" not in prompt or _INLINE_MARK not in prompt:
        return len(prompt)
    return len(_INLINE_MEDIA.sub(b"", prompt))


class Rewrite(msgspec.Struct, kw_only=True, gc=False):
    """What the gateway changes in a body before an engine sees it."""

    model: str = ""
    """The engine's own name for the model; empty = as the client wrote it."""
    add_usage: bool = False
    running_usage: bool = False
    cache_salt: str = ""


def rewritten(call: Call, change: Rewrite) -> bytes:
    """Return the body to send upstream: the client's own bytes where nothing changes.

    Fields that the client did not send are put in front, without decoding the rest.
    """
    rename = change.model and change.model != call.model
    salt_clash = change.cache_salt and call.has_cache_salt
    usage = change.add_usage or change.running_usage
    if rename or salt_clash or (usage and call.has_stream_options):
        return _reencoded(call, change)
    added = b""
    if change.running_usage:
        added += b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
    elif change.add_usage:
        added += b'"stream_options":{"include_usage":true},'
    if change.cache_salt:
        added += b'"cache_salt":' + msgspec.json.encode(change.cache_salt) + b","
    if not added:
        return call.body
    start = call.body.index(b"{") + 1
    return b"{" + added + call.body[start:]


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
