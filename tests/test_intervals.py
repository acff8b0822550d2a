"""The interval index against a plain list of ranges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore import intervals
from netstore.intervals import PIECE_RANGES, TO_THE_END, IntervalIndex, _Node

KEYS = st.binary(min_size=1, max_size=2).map(lambda key: bytes(byte % 8 for byte in key))
ENDS = st.one_of(st.just(b""), st.just(TO_THE_END), KEYS, KEYS, KEYS)


class Model(RuleBasedStateMachine):
    """An `IntervalIndex`, and a plain list of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.index: IntervalIndex[int] = IntervalIndex()
        self.listed: list[tuple[bytes, bytes, int]] = []
        self.serial = 0

    @rule(key=KEYS, range_end=ENDS)
    def add(self, key: bytes, range_end: bytes) -> None:
        self.serial += 1
        if range_end and range_end != TO_THE_END and range_end <= key:
            with pytest.raises(ValueError, match="no key is in the range"):
                self.index.add(key, range_end, self.serial)
            return
        self.index.add(key, range_end, self.serial)
        self.listed.append((key, range_end, self.serial))

    @rule(place=st.integers(0, 1 << 16))
    def remove(self, place: int) -> None:
        if self.listed:
            self.index.remove(*self.listed.pop(place % len(self.listed)))

    @rule(key=KEYS, range_end=ENDS)
    def remove_an_unknown_member(self, key: bytes, range_end: bytes) -> None:
        if not range_end or range_end == TO_THE_END or range_end > key:
            with pytest.raises(KeyError):
                self.index.remove(key, range_end, -1)

    @rule(key=KEYS)
    def find_any(self, key: bytes) -> None:
        self.find(key)

    def find(self, key: bytes) -> None:
        expected = {
            serial
            for start, end, serial in self.listed
            if (key == start if not end else start <= key and (end == TO_THE_END or key < end))
        }
        found = self.index.find(key)
        assert set(found) == expected
        assert len(found) == len(expected)

    @invariant()
    def agrees(self) -> None:
        """Cached results too: each of these keys is looked up after every change."""
        for key in (b"\0", b"\1", b"\3\3", b"\7"):
            self.find(key)
        assert bool(self.index) == bool(self.listed)
        check(self.index._root)


def check(node: _Node[int] | None) -> tuple[int, bytes]:
    """Height and largest end of a subtree, computed anew; asserts that the nodes have the same."""
    if node is None:
        return 0, b""
    left, right = check(node.left), check(node.right)
    assert abs(left[0] - right[0]) <= 1
    assert node.height == 1 + max(left[0], right[0])
    assert node.max_end == max(node.end, left[1], right[1])
    assert node.members
    for side, is_left in ((node.left, True), (node.right, False)):
        if side is not None:
            assert ((side.start, side.end) < (node.start, node.end)) is is_left
    return node.height, node.max_end


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_the_tree_is_balanced() -> None:
    """Ranges that are added in order do not make a chain."""
    index: IntervalIndex[int] = IntervalIndex()
    for number in range(1_000):
        index.add(b"%04d/" % number, b"%04d0" % number, number)
    assert index._root is not None
    assert index._root.height <= 14
    assert index.find(b"0500/x") == (500,)
    for number in range(1_000):
        index.remove(b"%04d/" % number, b"%04d0" % number, number)
    assert not index


def test_the_cache_is_bounded_in_keys() -> None:
    index: IntervalIndex[int] = IntervalIndex()
    index.add(b"a", TO_THE_END, 1)
    for number in range(10_000):
        assert index.find(b"k%d" % number) == (1,)
    assert len(index._cache) <= 4_096


def test_the_cache_is_bounded_in_members() -> None:
    """Because it is cleared in one piece."""
    index: IntervalIndex[int] = IntervalIndex()
    for number in range(400):
        index.add(b"a", b"z%d" % number, number)
    for number in range(1_000):
        assert len(index.find(b"k%d" % number)) == 400
        assert sum(map(len, index._cache.values())) <= 100_400
    index.add(b"b", b"", 400)
    for number in range(200):
        index.find(b"k%d" % number)
    assert len(index._cache) == 200


def test_many_ranges_of_a_key_are_found_in_pieces_and_not_cached() -> None:
    index: IntervalIndex[int] = IntervalIndex()
    for number in range(1_000):
        index.add(b"%04d" % number, b"x", number)
        index.add(b"%04d" % number, TO_THE_END, 1_000 + number)
    pieces = list(index.pieces(b"a"))
    assert max(map(len, pieces)) <= PIECE_RANGES
    assert sorted(member for piece in pieces for member in piece) == list(range(2_000))
    assert not index._cache


RANGES = st.lists(st.tuples(KEYS, ENDS).filter(lambda pair: not b"\0" < pair[1] <= pair[0]), max_size=30)


@settings(deadline=None)
@given(RANGES, st.lists(st.tuples(st.integers(0, 99), KEYS, ENDS), max_size=20), KEYS, st.integers(1, 3))
def test_members_that_stay_are_found_once_during_changes(
    there: list[tuple[bytes, bytes]], changes: list[tuple[int, bytes, bytes]], key: bytes, most: int
) -> None:
    index: IntervalIndex[int] = IntervalIndex()
    for number, (start, end) in enumerate(there):
        index.add(start, end, number)
    staying = dict(enumerate(there))
    found: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "PIECE_RANGES", most)
        for number, piece in enumerate(index.pieces(key)):
            found += piece
            if number < len(changes):
                place, start, end = changes[number]
                if not b"\0" < end <= start:
                    index.add(start, end, 100 + number)
                if staying and place % 2:
                    gone = list(staying)[place % len(staying)]
                    index.remove(*staying.pop(gone), gone)
    expected = {
        number
        for number, (start, end) in staying.items()
        if (key == start if not end else start <= key and (end == TO_THE_END or key < end))
    }
    assert expected <= set(found)
    assert len(set(found)) == len(found)


def test_long_keys_are_not_cached() -> None:
    index: IntervalIndex[int] = IntervalIndex()
    index.add(b"k", TO_THE_END, 1)
    for key in (b"k" * 1024, b"k" * 1025):
        assert [*index.find(key)] == [1]
    assert [*index._cache] == [b"k" * 1024]
