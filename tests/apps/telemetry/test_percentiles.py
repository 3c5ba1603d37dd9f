"""Percentiles of fixed-bound histograms."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.telemetry.percentiles import add, percentile, subtract

BOUNDS = (1.0, 2.0, 4.0, 8.0)


def test_is_unknown_without_counts():
    assert percentile((0, 0, 0, 0, 0), BOUNDS, 0.5) is None
    assert percentile((), BOUNDS, 0.5) is None


@pytest.mark.parametrize(
    ("buckets", "ratio", "expected"),
    [
        ((10, 0, 0, 0, 0), 0.5, 0.5),
        ((0, 10, 0, 0, 0), 0.5, 1.5),
        ((5, 5, 0, 0, 0), 0.5, 1.0),
        ((5, 5, 0, 0, 0), 0.95, 1.9),
        ((0, 0, 0, 0, 3), 0.5, 8.0),
        ((1, 0, 0, 1, 0), 1.0, 8.0),
    ],
    ids=["first", "inside", "edge", "high", "open", "all"],
)
def test_is_linear_within_a_bucket(buckets, ratio, expected):
    assert percentile(buckets, BOUNDS, ratio) == pytest.approx(expected)


def test_is_within_one_bucket_of_the_true_one():
    rng = random.Random(1)
    values = [rng.expovariate(0.5) for _ in range(5000)]
    bounds = tuple(i / 10 for i in range(1, 200))
    buckets = [0] * (len(bounds) + 1)
    for value in values:
        buckets[min(int(value * 10), len(bounds))] += 1

    assert percentile(buckets, bounds, 0.5) == pytest.approx(statistics.median(values), abs=0.1)


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_rises_with_the_ratio(buckets, a, b):
    low, high = sorted((a, b))
    if any(buckets):
        assert percentile(buckets, BOUNDS, low) <= percentile(buckets, BOUNDS, high)


def test_adding_and_subtracting_are_inverse_and_empty_is_zero():
    assert subtract(add((1, 2), (3, 4)), (3, 4)) == (1, 2)
    assert add((), (3, 4)) == (3, 4)
    assert subtract((3, 4), ()) == (3, 4)
