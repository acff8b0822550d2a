"""Parts of long lists that are kept as they are sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import Fault
from netstore.limits import Budget
from netstore.state.v3 import index, parts, scan
from netstore.state.v3.commands import (
    BY_MOD,
    Compact,
    DeleteRange,
    Found,
    LeaseGrant,
    Put,
    Range,
    V3Command,
)
from netstore.state.v3.index import KeyIndex
from netstore.state.v3.parts import Part, Parts
from netstore.state.v3.reads import RangeRead
from tests.state.v3.reading import Store, steps
from tests.state.v3.strategies import ranges, v3_commands

LEASES = tuple(LeaseGrant(id_, 5) for id_ in (1, 2, -3))
LISTED = Range(b"k", b"l")


def encode(pairs: list[bytes]) -> list[bytes]:
    """Two bytes before each, in one piece."""
    return [b"".join(b"\x12%c%b" % (len(each) & 0xFF, each) for each in pairs)]


def read_all(store: Store, query: Range = LISTED) -> list[bytes]:
    """All that a read gives."""
    read = store.machine.mvcc.read(query, encode=encode)
    assert isinstance(read, RangeRead)
    return [piece for some in steps(read) for piece in some]


@pytest.fixture
def store() -> Store:
    """A thousand keys: four runs."""
    return Store([Put(b"k%04d" % number, b"v" * 50) for number in range(1_000)])


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each look into the index found."""
    found: list[int] = []
    some_keys = index.KeyIndex.some_keys

    def counted(*arguments: Any, **options: Any) -> list[bytes]:
        keys = some_keys(*arguments, **options)
        found.append(len(keys))
        return keys

    monkeypatch.setattr(index.KeyIndex, "some_keys", counted)
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(v3_commands(alarms=False), min_size=1, max_size=40),
    st.lists(ranges, min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 60),
    st.data(),
)
def test_answers_do_not_depend_on_what_is_kept(
    commands: list[V3Command], queries: list[Range], run: int, size: int, data: st.DataObject
) -> None:
    """Whatever is read before, and written before, after and between the steps."""
    store = Store(LEASES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "RUN", run)
        patch.setattr(scan, "PART_BYTES", size)
        left = iter(commands)
        for command in left:
            store.apply(command)
            for query in data.draw(st.lists(st.sampled_from(queries), max_size=3)):
                expected = store.twin.check_revision(query.revision) or store.twin.range(query)
                read = store.machine.mvcc.read(query, encode=encode)
                if isinstance(read, Fault) or isinstance(expected, Fault):
                    assert read == expected
                    continue
                found = []
                for given_now in steps(read, data.draw(st.integers(1, 500))):
                    found += given_now
                    if data.draw(st.booleans()) and (later := next(left, None)) is not None:
                        store.apply(later)
                assert b"".join(found) == b"".join(encode(expected.kvs))
                assert (read.count, read.more) == (expected.count, expected.more)
            while store.machine.sweeping:
                store.machine.sweep()


def test_a_second_list_takes_the_parts_of_the_first(store: Store, looked: list[int]) -> None:
    first = read_all(store)
    assert sum(looked) == 1_000
    del looked[:]
    second = read_all(store)
    assert not looked
    assert len(first) == len(second) == 4
    assert all(one is other for one, other in zip(first, second, strict=True)), "they are copied"


@pytest.mark.parametrize(
    "change",
    [Put(b"k0300", b"new"), DeleteRange(b"k0300"), Put(b"k0300x", b"new"), Put(b"k0255x", b"new")],
    ids=["changed", "deleted", "between", "behind the last key of a part"],
)
def test_a_change_ends_one_part(store: Store, looked: list[int], change: V3Command) -> None:
    first = read_all(store)
    store.apply(change)
    expected = store.twin.range(LISTED)
    assert isinstance(expected, Found)
    del looked[:]
    second = read_all(store)
    assert b"".join(second) == b"".join(encode(expected.kvs))
    assert len([each for each in second if any(each is other for other in first)]) == 3
    assert 255 <= sum(looked) <= 257
    del looked[:]
    assert b"".join(read_all(store)) == b"".join(second)
    assert not looked


def test_changes_elsewhere_end_no_part(store: Store, looked: list[int]) -> None:
    read_all(store)
    store.apply(Put(b"j", b"before"))
    store.apply(Put(b"l", b"behind"))
    del looked[:]
    read_all(store)
    assert not looked


def test_a_part_is_not_that_of_an_earlier_revision(store: Store) -> None:
    before = b"".join(read_all(store))
    store.apply(Put(b"k0001", b"new"))
    read_all(store)
    assert b"".join(read_all(store, Range(b"k", b"l", revision=store.twin.revision - 1))) == before


def test_a_change_while_a_list_is_read_keeps_its_part_from_being_kept(
    store: Store, looked: list[int]
) -> None:
    read = store.machine.mvcc.read(LISTED, encode=encode)
    assert isinstance(read, RangeRead)
    while not read.measure():
        pass
    store.apply(Put(b"k0001", b"new"))
    is_all = False
    while not is_all:
        _, is_all = read.give()
    del looked[:]
    read_all(store)
    assert looked == [256]


def test_many_changes_end_all_parts(store: Store, looked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are looked at in one call, or more than are still in the log."""

    def look_ups(changes: int) -> int:
        for _ in range(changes):
            store.apply(Put(b"j", b"elsewhere"))
        del looked[:]
        read_all(store)
        return sum(looked)

    monkeypatch.setattr(parts, "MOST_CHANGES", 10)
    assert [look_ups(0) for _ in range(3)] == [1_000, 1_000, 0], "kept by the second"
    assert [look_ups(number) for number in range(11)] == [0] * 11
    assert [look_ups(11) for _ in range(3)] == [1_000] * 3
    assert store.machine.mvcc.read_budget.used == 0, "not worth keeping"
    assert [look_ups(0) for _ in range(2)] == [1_000, 0]
    for _ in range(2):
        store.apply(Put(b"j", b"elsewhere"))
    store.apply(Compact(store.twin.revision))
    while store.machine.sweeping:
        store.machine.sweep()
    assert look_ups(0) == 1_000


def test_parts_end_with_the_state(store: Store, looked: list[int]) -> None:
    read_all(store)
    store.machine.save()
    store.machine.load()
    assert store.machine.mvcc.read_budget.used == 0
    del looked[:]
    read_all(store)
    assert sum(looked) == 1_000


def test_parts_are_charged_and_given_up_for_what_needs_the_memory(store: Store) -> None:
    """Opening a read, and a sort."""
    mvcc = store.machine.mvcc
    read_all(store)
    held = mvcc.read_budget.used
    assert 50_000 < held < 100_000
    mvcc.read_budget.limit = held - 1
    assert isinstance(mvcc.read(LISTED), RangeRead)
    assert mvcc.read_budget.used < held
    mvcc.read_budget.limit = 10 * held
    read_all(store)
    mvcc.read_budget.limit = held + 100_000
    sort = store.read(Range(b"k", b"l", sort_target=BY_MOD))
    assert sum(len(some) for some in steps(sort)) == 1_000
    assert mvcc.read_budget.used < held


def part(start: bytes, end: bytes, size: int = 100) -> Part:
    """One part of any pairs."""
    return Part(start, end, 1, 1, bytes(size))


def kept(limit: int = 1 << 30) -> tuple[Parts, Budget]:
    """An empty store of parts, and its budget."""
    budget = Budget(limit)
    found = Parts(budget)
    found.follow(KeyIndex())
    return found, budget


def test_no_two_parts_have_a_key_in_common() -> None:
    for start, end in ((b"a", b"c"), (b"b", b"d"), (b"c", b"f"), (b"e", b"g"), (b"a", b"z")):
        found, _ = kept()
        for each in (part(b"b", b"d"), part(b"d", b"e"), part(b"e", b"g")):
            found.add(each, 0)
        found.add(part(start, end), 0)
        there = [each for each in b"abcdefg" if found.find(bytes((each,)), b"z", 9)]
        expected = [
            each[0]
            for each, until in ((b"b", b"d"), (b"d", b"e"), (b"e", b"g"))
            if until <= start or each >= end
        ]
        assert there == sorted([*expected, start[0]])


def test_the_oldest_go_when_there_is_no_room() -> None:
    found, budget = kept(8_000)
    for number in range(5):
        found.add(part(b"%d" % number, b"%d" % (number + 1), 500), 0)
    assert budget.used <= 2_000
    assert [bool(found.find(b"%d" % number, b"9", 9)) for number in range(5)] == [0, 0, 0, 1, 1]
    budget.add(8_000)
    found.add(part(b"6", b"7", 500), 0)
    assert budget.used == 8_000


def test_a_part_is_found_where_all_of_it_belongs_to_the_range() -> None:
    found, _ = kept()
    found.add(part(b"b", b"d"), 0)
    assert found.find(b"b", b"d", 1)
    assert found.find(b"b", b"\0", 1), "to the end"
    assert not found.find(b"b", b"c", 1)
    assert not found.find(b"b", b"d", 0)
    assert not found.find(b"c", b"d", 1)
    assert found.next_start(b"a", b"c") == b"b"
    assert found.next_start(b"a", b"b") == b"b"
    assert found.next_start(b"b", b"\0") == b"\0"
