"""Counts by size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.histogram import Histogram, doubling

BOUNDS = doubling(0.001, 14)


def test_bounds_double() -> None:
    assert doubling(0.5, 4) == (0.5, 1.0, 2.0, 4.0)


@given(st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS)))
def test_each_observation_is_counted_at_the_first_bound_that_is_not_below_it(values: list[float]) -> None:
    observed = Histogram(BOUNDS)
    for value in values:
        observed.observe(value)
    for place, bound in enumerate(BOUNDS):
        assert sum(observed.counts[: place + 1]) == sum(value <= bound for value in values)
    assert observed.count == len(values)
    assert observed.sum == sum(values)
