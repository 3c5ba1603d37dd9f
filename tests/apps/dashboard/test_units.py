"""Numbers as people read them."""

import pytest

from apps.dashboard import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1450, "1,450"),
        (12_345, "12.3k"),
        (1_234_567, "1.23M"),
        (2.5e9, "2.50B"),
    ],
)
def test_counts_shorten_above_ten_thousand(value, text):
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0042, "4.2 ms"),
        (0.21, "210 ms"),
        (0.9996, "1.00 s"),
        (1.934, "1.93 s"),
        (31.24, "31.2 s"),
        (125, "2 min 5 s"),
    ],
)
def test_latency_goes_from_milliseconds_to_minutes(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (59.6, "1 min"), (3700, "1 h 1 min"), (6 * 86400 + 4 * 3600, "6 d 4 h")],
)
def test_durations_have_at_most_two_units(value, text):
    assert units.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "$0.00"),
        (0.5, "$0.50"),
        (0.008, "$0.008"),
        (0.00000004, "$0.0001"),
        (128.4, "$128.40"),
        (2_000_000, "$2.00M"),
    ],
)
def test_money_never_has_an_exponent(value, text):
    assert units.usd(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (512, "512 B"), (269e6, "269 MB"), (66e9, "66 GB"), (1.01e12, "1.01 TB")],
)
def test_sizes_are_decimal(value, text):
    assert units.bytes_(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512"), (8192, "8k"), (131_072, "128k"), (1_048_576, "1M")]
)
def test_context_lengths_count_powers_of_two(value, text):
    assert units.tokens(value) == text
