"""Who holds most, against a plain list."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from netstore.net.bucketqueue import BucketQueue


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5000)), max_size=60))
def test_the_heaviest_is_known(changes: list[tuple[int, int]]) -> None:
    ranks: BucketQueue[int] = BucketQueue()
    sizes = [0] * 5
    for holder, size in changes:
        ranks.put(holder, size)
        sizes[holder] = size
        heaviest = ranks.heaviest
        assert (heaviest is None) == (not any(sizes))
        assert max(sizes) <= (0 if heaviest is None else sizes[heaviest] * 9 / 8)
        assert len(ranks) == sum(size > 0 for size in sizes)
        assert all((holder in ranks) == (size > 0) for holder, size in enumerate(sizes))


@given(st.lists(st.integers(1, 5000), max_size=60))
def test_all_come_in_their_order(sizes: list[int]) -> None:
    ranks: BucketQueue[int] = BucketQueue()
    for holder, size in enumerate(sizes):
        ranks.put(holder, size)
    order = [sizes[holder] for holder in ranks.in_order()]
    assert sorted(order) == sorted(sizes)
    assert all(after <= before * 9 / 8 for before, after in pairwise(order))
