"""Deterministic answers of an exact length."""

import pytest

from agents.simulator.answers import Author, Length
from agents.simulator.runs import Outcome


@pytest.mark.parametrize("max_tokens", [1, 2, 7, 100, 5000])
def test_with_ignore_eos_an_answer_has_exactly_max_tokens(max_tokens):
    answer = Author(0).write(b"why", Length(max_tokens=max_tokens, ignore_eos=True))

    assert answer.token_count == max_tokens
    assert answer.ending is Outcome.LENGTH
    assert answer.text(0, max_tokens) == answer.data.decode()


def test_an_answer_with_room_ends_by_itself_at_the_end_of_a_sentence():
    answer = Author(0).write(b"why", Length(max_tokens=10_000))

    assert answer.ending is Outcome.STOP
    assert answer.data.endswith(b".")


def test_the_same_prompt_gives_the_same_answer_and_another_one_another():
    length = Length(max_tokens=50)

    assert Author(3).write(b"why", length) == Author(3).write(b"why", length)
    assert Author(3).write(b"why", length) != Author(3).write(b"how", length)
    assert Author(3).write(b"why", length) != Author(4).write(b"why", length)
    assert Author(3).write(b"why", length, 0) != Author(3).write(b"why", length, 1)


def test_a_stop_string_ends_the_answer_before_it():
    answer = Author(0).write(b"why", Length(max_tokens=500, ignore_eos=True, stop=(". ",)))

    assert b"." not in answer.data
    assert (answer.ending, answer.stop) == (Outcome.STOP, ". ")


def test_min_tokens_keeps_the_answer_going():
    answer = Author(0).write(b"why", Length(max_tokens=4000, min_tokens=3000))

    assert answer.token_count >= 3000
    assert answer.ending is Outcome.STOP
