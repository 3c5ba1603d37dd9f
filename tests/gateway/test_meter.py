"""Counting times in buckets."""

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.meter import Histogram

BOUNDS = (0.01, 0.1, 1.0)


@given(st.lists(st.sampled_from([0.0, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 60.0]), max_size=30))
def test_every_value_is_in_its_bucket_whenever_it_is_read(values):
    histogram, expected = Histogram(BOUNDS), [0] * 4
    for value in values:
        histogram.observe(value)
        expected[bisect_left(BOUNDS, value)] += 1
        if value == 0.5:
            assert histogram.buckets == expected

    assert histogram.buckets == expected
    assert histogram.total == pytest.approx(sum(values))
