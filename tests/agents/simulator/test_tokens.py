"""The approximate tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.simulator import tokens


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_a_longer_text_begins_with_the_tokens_of_the_shorter(start, rest):
    whole_tokens = len(start) // tokens.BYTES_PER_TOKEN

    assert tokens.ids(start + rest)[:whole_tokens] == tokens.ids(start)[:whole_tokens]


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(1, 40))
def test_a_longer_text_begins_with_the_blocks_of_the_shorter(start, rest, block_tokens):
    hashes = tokens.block_hashes(start, block_tokens=block_tokens)

    longer = tokens.block_hashes(start + rest, block_tokens=block_tokens)

    assert longer[: len(hashes)] == hashes
    assert len(hashes) == len(start) // (block_tokens * tokens.BYTES_PER_TOKEN)


@given(st.text(alphabet=st.characters(blacklist_characters="\0", codec="utf-8")))
def test_text_survives_tokens_and_back(text):
    assert tokens.text_of(tokens.ids(text.encode())) == text


def test_a_block_depends_on_all_before_it():
    one = tokens.block_hashes(b"a" * 64 + b"same" * 16, block_tokens=16)
    other = tokens.block_hashes(b"b" * 64 + b"same" * 16, block_tokens=16)

    assert one[1] != other[1]


def test_a_salt_keeps_equal_texts_apart():
    text = b"x" * 128

    assert set(tokens.block_hashes(text, block_tokens=16, salt="a")).isdisjoint(
        tokens.block_hashes(text, block_tokens=16, salt="b")
    )


def test_hashes_are_the_same_in_every_process():
    assert tokens.block_hashes(b"0123456789abcdef" * 4, block_tokens=16) == (9330905418534522908,)


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_an_id_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="between 0 and 4294967295"):
        tokens.data_of([bad])
