"""The JSON of clients and engines, as far as the gateway reads it: what msgspec decodes it into.

A module of its own because it is never compiled (`gateway.forms`): msgspec looks at annotations at
run time, and mypyc does not keep them.
"""

import msgspec

# --- What clients send -------------------------------------------------------------------------

_NOTHING = msgspec.Raw(b"")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | msgspec.UnsetType | None = msgspec.UNSET
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    documents: msgspec.Raw = _NOTHING
    queries: msgspec.Raw = _NOTHING
    text_1: msgspec.Raw = _NOTHING
    text_2: msgspec.Raw = _NOTHING
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    prompt_cache_key: str | None = None
    cache_salt: str | msgspec.UnsetType | None = msgspec.UNSET


decode_body = msgspec.json.Decoder(Body).decode


# --- What engines count ----------------------------------------------------------------------


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts of one answer, under OpenAI's, its Responses' and Anthropic's names.

    `gateway.meter` reads them.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    input_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    cache_read_input_tokens: int | None = None


# --- What engines answer ---------------------------------------------------------------------


class Choice(msgspec.Struct):
    finish_reason: str | None = None


class Inner(msgspec.Struct):
    usage: Usage | None = None


class Delta(msgspec.Struct):
    stop_reason: str | None = None


class EngineError(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class Event(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: EngineError | str | None = None
    type: str = ""
    response: Inner | None = None
    message: Inner | str | None = None
    delta: msgspec.Raw = msgspec.Raw(b"")


decode_event = msgspec.json.Decoder(Event).decode
decode_delta = msgspec.json.Decoder(Delta).decode


class Answer(msgspec.Struct):
    usage: Usage | None = None
    choices: list[Choice] = []


decode_answer = msgspec.json.Decoder(Answer).decode
decode_usage = msgspec.json.Decoder(Usage).decode


# --- What the gateway wrote itself -------------------------------------------------------------


class RecordId(msgspec.Struct):
    """The one field of a usage record that tells it from others."""

    id: str = ""


decode_id = msgspec.json.Decoder(RecordId).decode
