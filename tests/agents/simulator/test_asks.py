"""Request bodies, read into asks."""

import pytest

from agents.simulator import asks, tokens
from agents.simulator.answers import Author
from agents.simulator.errors import ApiError

CONTEXT = 4096


def chat(*contents, **fields):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": messages, **fields}


def test_the_next_turn_of_a_chat_begins_with_the_whole_turn_before_and_its_answer():
    first = asks.chat(chat("What is a hearth?"), CONTEXT)
    answer = Author(0).write(first.prompts[0], first.length)

    second = asks.chat(chat("What is a hearth?", answer.data.decode(), "And a stove?"), CONTEXT)

    assert second.prompts[0].startswith(first.prompts[0] + answer.data)


def test_all_dialects_render_the_same_conversation_alike():
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Hello."}

    by_chat = asks.chat({"messages": [system, user]}, CONTEXT).prompts
    by_message = asks.message(
        {"system": "Be brief.", "messages": [user], "max_tokens": 5}, CONTEXT
    ).prompts
    by_response = asks.response({"instructions": "Be brief.", "input": "Hello."}, CONTEXT).prompts

    assert by_chat == by_message == by_response


def test_parts_of_a_content_are_joined():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]

    assert b"user\none two<" in asks.chat_prompt(chat(parts))


def test_without_max_tokens_an_answer_may_fill_the_context():
    ask = asks.chat(chat("Hello."), CONTEXT)

    assert ask.length.max_tokens == CONTEXT - tokens.count(ask.prompts[0])


def test_prompts_may_be_texts_or_token_ids_alone_or_in_lists():
    ids = tokens.ids(b"Hello there.")

    assert asks.completion_prompts({"prompt": "Hello there."}) == (b"Hello there.",)
    assert asks.completion_prompts({"prompt": ids}) == (b"Hello there.",)
    assert asks.completion_prompts({"prompt": [ids, ids]}) == (b"Hello there.",) * 2
    assert asks.completion_prompts({"prompt": ["a", "b"]}) == (b"a", b"b")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(), "messages"),
        ({"messages": ["text"]}, "messages"),
        (chat([{"type": "image_url", "image_url": {"url": "x"}}]), "messages"),
        (chat("a", max_tokens=0), "max_tokens"),
        (chat("a", max_tokens="many"), "max_tokens"),
        (chat("a", max_tokens=CONTEXT), "max_tokens"),
        (chat("a", n=129), "n"),
        (chat("a", stop=[1]), "stop"),
        (chat("a", model=7), "model"),
        (chat("a", stream_options={"include_usage": True}), "stream_options"),
        (chat("a", response_format={"type": "json_object"}), "response_format"),
        (chat("a", tool_choice="required"), "tool_choice"),
        (chat("a", logprobs=True), "logprobs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_or_cannot_be_simulated_is_refused_with_its_field(body, param):
    with pytest.raises(ApiError) as refused:
        asks.chat(body, CONTEXT)

    assert (refused.value.status, refused.value.param) == (400, param)


def test_an_anthropic_body_needs_max_tokens():
    with pytest.raises(ApiError, match="max_tokens is required"):
        asks.message({"messages": [{"role": "user", "content": "a"}]}, CONTEXT)
