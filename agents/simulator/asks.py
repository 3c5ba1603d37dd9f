"""What a client asks for: request bodies of four APIs, read into one `Ask`.

It decides which fields count and refuses those the simulator cannot act out, with the field's
name. Prompts become bytes through a ChatML template, so the next turn of a chat begins with the
whole previous one and finds it in the prefix cache. Called by `api`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.simulator import tokens
from agents.simulator.answers import Length
from agents.simulator.errors import ApiError

MAX_CHOICES = 128

type Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One generation request."""

    model: str
    prompts: tuple[bytes, ...]
    choices_per_prompt: int
    length: Length
    is_stream: bool
    include_usage: bool
    continuous_usage: bool
    cache_salt: str


def parse_body(data: bytes) -> Body:
    """Return the JSON object in `data`."""
    try:
        body = json.loads(data)
    except ValueError as fault:
        raise ApiError(400, f"the body is not JSON: {fault}") from fault
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def chat(body: Body, max_model_len: int) -> Ask:
    """Read a body of `/v1/chat/completions`."""
    _refuse_constraints(body)
    prompt = chat_prompt(body)
    wanted = body.get("max_completion_tokens", body.get("max_tokens"))
    return _ask(body, (prompt,), wanted, max_model_len)


def completion(body: Body, max_model_len: int) -> Ask:
    """Read a body of `/v1/completions`."""
    _refuse_constraints(body)
    return _ask(body, completion_prompts(body), body.get("max_tokens", 16), max_model_len)


def response(body: Body, max_model_len: int) -> Ask:
    """Read a body of `/v1/responses`."""
    given = body.get("input")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if body.get("instructions"):
        messages = [{"role": "system", "content": body["instructions"]}, *(messages or ())]
    prompt = _chatml(messages, body.get("tools"), param="input")
    return _ask(body, (prompt,), body.get("max_output_tokens"), max_model_len)


def message(body: Body, max_model_len: int) -> Ask:
    """Read a body of `/v1/messages`."""
    if "max_tokens" not in body:
        raise ApiError(400, "max_tokens is required", param="max_tokens")
    stops = {"stop": body.get("stop_sequences")}
    return _ask({**body, **stops}, (message_prompt(body),), body["max_tokens"], max_model_len)


def message_prompt(body: Body) -> bytes:
    """Return the prompt of an Anthropic body: `system`, then `messages`."""
    messages = body.get("messages")
    if body.get("system"):
        messages = [{"role": "system", "content": body["system"]}, *(messages or ())]
    return _chatml(messages, body.get("tools"), param="messages")


def chat_prompt(body: Body) -> bytes:
    """Return the prompt of a chat body."""
    return _chatml(body.get("messages"), body.get("tools"), param="messages")


def completion_prompts(body: Body) -> tuple[bytes, ...]:
    """Return the prompts of a completion or tokenize body: text, token ids, or a list of them."""
    prompt = body.get("prompt")
    if isinstance(prompt, str) or _is_ids(prompt):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ApiError(400, "prompt must be text, token ids or a list of them", param="prompt")
    return tuple(_one_prompt(item) for item in prompt)


def _one_prompt(item: object) -> bytes:
    if isinstance(item, str) and item:
        return item.encode()
    if isinstance(item, list) and _is_ids(item):
        try:
            return tokens.data_of(item)
        except ValueError as fault:
            raise ApiError(400, str(fault), param="prompt") from fault
    raise ApiError(400, "a prompt must be text or token ids, not empty", param="prompt")


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _chatml(messages: object, tools: object, *, param: str) -> bytes:
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, f"{param} must be a list that is not empty", param=param)
    parts = [f"<|tools|>{json.dumps(tools)}\n"] if tools else []
    for item in messages:
        if not isinstance(item, dict) or not isinstance(item.get("role", "user"), str):
            raise ApiError(400, f"{param}: each item needs a role and a content", param=param)
        content = _content_text(item, param)
        parts.append(f"<|im_start|>{item.get('role', 'user')}\n{content}<|im_end|>\n")
    parts.append("<|im_start|>assistant\n")
    return "".join(parts).encode("utf-8", "surrogatepass")


def _content_text(item: Mapping[str, Any], param: str) -> str:
    content = item.get("content")
    if content is None:
        return json.dumps(item["tool_calls"]) if item.get("tool_calls") else ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{param}: content must be text or a list of parts", param=param)
    return "".join(_part_text(part, param) for part in content)


def _part_text(part: object, param: str) -> str:
    if isinstance(part, dict):
        if isinstance(part.get("text"), str):
            return str(part["text"])
        if part.get("type") in ("tool_use", "tool_result"):
            return json.dumps(part)
    raise ApiError(400, f"{param}: the simulator reads text parts only", param=param)


def _refuse_constraints(body: Body) -> None:
    """Refuse what would need a model: output of a given form, forced tools, probabilities."""
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type", "text") != "text":
        raise ApiError(400, "the simulator has no structured output", param="response_format")
    if body.get("structured_outputs"):
        raise ApiError(400, "the simulator has no structured output", param="structured_outputs")
    if body.get("tool_choice") not in (None, "auto", "none"):
        raise ApiError(400, "the simulator calls no tools", param="tool_choice")
    if body.get("logprobs") not in (None, False):
        raise ApiError(400, "the simulator has no log-probabilities", param="logprobs")


def _ask(body: Body, prompts: tuple[bytes, ...], wanted: object, max_model_len: int) -> Ask:
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    is_stream = bool(body.get("stream"))
    if options and not is_stream:
        raise ApiError(400, "stream_options need stream: true", param="stream_options")
    return Ask(
        model=model_of(body),
        prompts=prompts,
        choices_per_prompt=_whole(body.get("n"), "n", default=1, most=MAX_CHOICES),
        length=_length(body, prompts, wanted, max_model_len),
        is_stream=is_stream,
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        cache_salt=_text(body.get("cache_salt"), "cache_salt"),
    )


def model_of(body: Body) -> str:
    """Return the model that `body` names; "" if it names none, which means the only one."""
    return _text(body.get("model"), "model")


def _length(body: Body, prompts: tuple[bytes, ...], wanted: object, max_model_len: int) -> Length:
    longest = max(map(tokens.count, prompts))
    room = max_model_len - longest
    max_tokens = _whole(wanted, "max_tokens", default=max(room, 1))
    if max_tokens > room:
        raise ApiError(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, you "
            f"requested {max_tokens} output tokens and your prompt contains {longest} input "
            f"tokens. Please reduce the length of the prompt or the requested output.",
            param="max_tokens" if room > 0 else "input_tokens",
        )
    return Length(
        max_tokens=max_tokens,
        min_tokens=_whole(body.get("min_tokens"), "min_tokens", least=0, default=0),
        ignore_eos=bool(body.get("ignore_eos")),
        stop=_stops(body.get("stop")),
    )


def _stops(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise ApiError(400, "stop must be text or a list of texts", param="stop")
    return tuple(items)


def _whole(value: object, name: str, *, default: int, least: int = 1, most: int = 2**31) -> int:
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise ApiError(400, f"{name} must be a whole number from {least} to {most}", param=name)
    return value


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ApiError(400, f"{name} must be text", param=name)
    return value
