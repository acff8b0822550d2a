"""The interval index against a list of all ranges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore.watch import ranges as ranges_module
from netstore.watch.ranges import FOUND_AT_ONCE, TO_THE_END, Ranges, _Node

KEYS = st.binary(min_size=1, max_size=2).map(lambda key: bytes(byte % 8 for byte in key))
ENDS = st.one_of(st.just(b""), st.just(TO_THE_END), KEYS, KEYS, KEYS)


class Twins(RuleBasedStateMachine):
    """`Ranges`, and the plain list of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: Ranges[int] = Ranges()
        self.listed: list[tuple[bytes, bytes, int]] = []
        self.serial = 0

    @rule(key=KEYS, range_end=ENDS)
    def add(self, key: bytes, range_end: bytes) -> None:
        self.serial += 1
        if range_end and range_end != TO_THE_END and range_end <= key:
            with pytest.raises(ValueError, match="no key is in the range"):
                self.ranges.add(key, range_end, self.serial)
            return
        self.ranges.add(key, range_end, self.serial)
        self.listed.append((key, range_end, self.serial))

    @rule(place=st.integers(0, 1 << 16))
    def remove(self, place: int) -> None:
        if self.listed:
            self.ranges.remove(*self.listed.pop(place % len(self.listed)))

    @rule(key=KEYS, range_end=ENDS)
    def remove_a_stranger(self, key: bytes, range_end: bytes) -> None:
        if not range_end or range_end == TO_THE_END or range_end > key:
            with pytest.raises(KeyError):
                self.ranges.remove(key, range_end, -1)

    @rule(key=KEYS)
    def look(self, key: bytes) -> None:
        self.find(key)

    def find(self, key: bytes) -> None:
        expected = {
            serial
            for start, end, serial in self.listed
            if (key == start if not end else start <= key and (end == TO_THE_END or key < end))
        }
        found = self.ranges.find(key)
        assert set(found) == expected
        assert len(found) == len(expected)

    @invariant()
    def right(self) -> None:
        """What is remembered, too: each of these keys is asked for after every change."""
        for key in (b"\0", b"\1", b"\3\3", b"\7"):
            self.find(key)
        assert bool(self.ranges) == bool(self.listed)
        check(self.ranges._root)


def check(node: _Node[int] | None) -> tuple[int, bytes]:
    """Height and reach as they are, and that the node says so."""
    if node is None:
        return 0, b""
    left, right = check(node.left), check(node.right)
    assert abs(left[0] - right[0]) <= 1
    assert node.height == 1 + max(left[0], right[0])
    assert node.reach == max(node.end, left[1], right[1])
    assert node.members
    for side, is_left in ((node.left, True), (node.right, False)):
        if side is not None:
            assert ((side.start, side.end) < (node.start, node.end)) is is_left
    return node.height, node.reach


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_the_tree_stays_low() -> None:
    """Ranges that come in order, as those of resources do, make no chain."""
    ranges: Ranges[int] = Ranges()
    for number in range(1_000):
        ranges.add(b"%04d/" % number, b"%04d0" % number, number)
    assert ranges._root is not None
    assert ranges._root.height <= 14
    assert ranges.find(b"0500/x") == (500,)
    for number in range(1_000):
        ranges.remove(b"%04d/" % number, b"%04d0" % number, number)
    assert not ranges


def test_what_is_remembered_is_bounded() -> None:
    ranges: Ranges[int] = Ranges()
    ranges.add(b"a", TO_THE_END, 1)
    for number in range(10_000):
        assert ranges.find(b"k%d" % number) == (1,)
    assert len(ranges._remembered) <= 4_096


def test_what_is_remembered_is_bounded_by_what_it_holds() -> None:
    """It is let go of in one piece."""
    ranges: Ranges[int] = Ranges()
    for number in range(400):
        ranges.add(b"a", b"z%d" % number, number)
    for number in range(1_000):
        assert len(ranges.find(b"k%d" % number)) == 400
        assert sum(map(len, ranges._remembered.values())) <= 100_400
    ranges.add(b"b", b"", 400)
    for number in range(200):
        ranges.find(b"k%d" % number)
    assert len(ranges._remembered) == 200


def test_many_ranges_of_a_key_are_found_in_pieces_and_not_kept() -> None:
    ranges: Ranges[int] = Ranges()
    for number in range(1_000):
        ranges.add(b"%04d" % number, b"x", number)
        ranges.add(b"%04d" % number, TO_THE_END, 1_000 + number)
    pieces = list(ranges.pieces(b"a"))
    assert max(map(len, pieces)) <= FOUND_AT_ONCE
    assert sorted(member for piece in pieces for member in piece) == list(range(2_000))
    assert not ranges._remembered


RANGES = st.lists(st.tuples(KEYS, ENDS).filter(lambda pair: not b"\0" < pair[1] <= pair[0]), max_size=30)


@settings(deadline=None)
@given(RANGES, st.lists(st.tuples(st.integers(0, 99), KEYS, ENDS), max_size=20), KEYS, st.integers(1, 3))
def test_what_stays_is_found_once_whatever_comes_and_goes_meanwhile(
    there: list[tuple[bytes, bytes]], changes: list[tuple[int, bytes, bytes]], key: bytes, most: int
) -> None:
    ranges: Ranges[int] = Ranges()
    for number, (start, end) in enumerate(there):
        ranges.add(start, end, number)
    staying = dict(enumerate(there))
    found: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges_module, "FOUND_AT_ONCE", most)
        for number, piece in enumerate(ranges.pieces(key)):
            found += piece
            if number < len(changes):
                place, start, end = changes[number]
                if not b"\0" < end <= start:
                    ranges.add(start, end, 100 + number)
                if staying and place % 2:
                    gone = list(staying)[place % len(staying)]
                    ranges.remove(*staying.pop(gone), gone)
    expected = {
        number
        for number, (start, end) in staying.items()
        if (key == start if not end else start <= key and (end == TO_THE_END or key < end))
    }
    assert expected <= set(found)
    assert len(set(found)) == len(found)


def test_long_keys_are_not_remembered() -> None:
    ranges: Ranges[int] = Ranges()
    ranges.add(b"k", TO_THE_END, 1)
    for key in (b"k" * 1024, b"k" * 1025):
        assert [*ranges.find(key)] == [1]
    assert [*ranges._remembered] == [b"k" * 1024]
