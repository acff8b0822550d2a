"""Long reads in steps: each is of the moment it was begun, and each step does a bounded piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore import errors
from netstore.errors import Fault
from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import index, mvcc, reads, scan, sorting
from netstore.state.v3.commands import (
    ASCEND,
    BY_KEY,
    BY_MOD,
    BY_VALUE,
    BY_VERSION,
    DESCEND,
    Compact,
    DeleteRange,
    Found,
    LeaseGrant,
    Put,
    Range,
    V3Command,
)
from netstore.state.v3.reads import CHUNK, PIECE_BYTES, STEP_UNITS, Lost
from tests.state.v3.reading import ALL, Store, steps
from tests.state.v3.strategies import ranges, v3_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.state.machine import Machine

LEASES = tuple(LeaseGrant(id_, 5) for id_ in (1, 2, -3))


def framed(pairs: list[bytes]) -> int:
    """Bytes of a repeated field."""
    return sum(1 + (1 if len(each) < 128 else 2 if len(each) < 16_384 else 3) + len(each) for each in pairs)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(v3_commands(alarms=False), min_size=2, max_size=40),
    ranges,
    st.integers(1, 5),
    st.integers(1, 3),
    st.data(),
)
def test_an_answer_is_of_the_moment_it_was_asked_for(
    commands: list[V3Command], query: Range, units: int, chunk: int, data: st.DataObject
) -> None:
    """Whatever is written, compacted, swept and saved between its steps, and however small they are."""
    asked = data.draw(st.integers(1, len(commands)))
    store = Store((*LEASES, *commands[:asked]))
    expected = store.twin.check_revision(query.revision) or store.twin.range(query)
    read = store.machine.mvcc.read(query)
    later = iter(commands[asked:])
    found: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reads, "CHUNK", chunk)
        patch.setattr(scan, "RUN", chunk)
        patch.setattr(sorting, "RUN_ROWS", chunk)
        patch.setattr(reads, "PIECE_BYTES", 1)
        if isinstance(read, Fault):
            assert read == expected
            return
        for given_now in steps(read, units):
            found += given_now
            command = next(later, None)
            if command is not None:
                store.apply(command)
                store.apply(Compact(store.twin.revision))
                store.machine.sweep()
    assert isinstance(expected, Found)
    assert (found, read.count, read.more) == (expected.kvs, expected.count, expected.more)
    assert (read.pairs, read.size) == (len(found), framed(found))
    while store.machine.sweeping:
        store.machine.sweep()
    assert store.machine.mvcc.swept == store.machine.mvcc.compacted


class Metered:
    """Counts what is read from an engine."""

    def __init__(self, machine: Machine) -> None:
        self.records = self.size = 0
        store = machine.mvcc
        whole = store._records.peek_many

        def peek_many(places: Sequence[int]) -> list[bytes]:
            found = whole(places)
            self.records += len(found)
            self.size += sum(map(len, found))
            return found

        self.machine = machine
        store._records = _Counted(store._records, peek_many)  # type: ignore[assignment]

    def reset(self) -> None:
        self.records = self.size = 0


class _Counted:
    """Records whose reads are counted."""

    def __init__(self, records: object, peek_many: object) -> None:
        self._records = records
        self.peek_many = peek_many

    def __getattr__(self, name: str) -> object:
        return getattr(self._records, name)


@pytest.mark.parametrize("limit", [0, 40, 3_000])
@pytest.mark.parametrize("target", [BY_KEY, BY_MOD, BY_VERSION, BY_VALUE])
@pytest.mark.parametrize("size", [10, 5_000])
def test_a_step_does_no_more_than_it_may(size: int, target: int, limit: int) -> None:
    """Records and bytes that one step reads, of small pairs and large ones, half of them changed since."""
    store = Store()
    keys = 4_000 if size < 100 else 800
    for number in range(keys):
        store.machine.mvcc.put(b"%06d" % (number * 7919 % keys), b"%06d" % number * (size // 6), 0)
        store.machine.mvcc.finish()
    store.machine.save()
    meter = Metered(store.machine)
    read = store.read(Range(*ALL, limit=limit, sort_order=DESCEND, sort_target=target))
    for number in range(0, keys, 2):
        store.machine.mvcc.put(b"%06d" % number, b"later", 0)
        store.machine.mvcc.finish()
    store.machine.save()
    pairs = longest = 0
    for given_now in steps(read):
        assert meter.records <= STEP_UNITS // 5 + CHUNK
        assert meter.size <= STEP_UNITS * UNIT_BYTES + PIECE_BYTES + 2 * size
        assert sum(map(len, given_now)) <= 2 * PIECE_BYTES + 2 * size
        pairs += len(given_now)
        longest = max(longest, meter.records)
        meter.reset()
    assert pairs == min(limit or keys, keys)
    assert read.count == keys
    assert longest > 0


def test_records_of_a_large_answer_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "KEEP_BYTES", 1_000_000)
    store = Store([Put(b"%04d" % number, bytes(1_000)) for number in range(1_000)])
    store.machine.save()
    recent = store.machine.mvcc._records._recent
    recent.young.clear()
    recent.old.clear()
    assert sum(len(some) for some in steps(store.read(Range(*ALL)))) == 1_000
    assert not recent.young
    assert not recent.old
    assert sum(len(some) for some in steps(store.read(Range(b"0", b"09")))) == 900
    assert len(recent.young) == 900


@pytest.mark.parametrize("rows", [10_000, 700])
@pytest.mark.parametrize("keys_only", [False, True])
def test_a_list_looks_for_its_keys_once_while_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, rows: int, keys_only: bool
) -> None:
    """What was remembered is given back, and the answer does not depend on it, whatever changes meanwhile."""
    monkeypatch.setattr(mvcc, "MEASURED_BYTES", rows * reads.ROW_BYTES)
    store = Store([Put(b"%04d" % number, b"v") for number in range(1_000)])
    looked: list[int] = []
    some_keys = index.KeyIndex.some_keys

    def counted(*arguments: Any, **options: Any) -> list[bytes]:
        found = some_keys(*arguments, **options)
        looked.append(len(found))
        return found

    monkeypatch.setattr(index.KeyIndex, "some_keys", counted)
    wanted = store.twin.range(Range(*ALL, keys_only=keys_only))
    assert isinstance(wanted, Found)
    read = store.read(Range(*ALL, keys_only=keys_only))
    while not read.measure():
        pass
    store.apply(DeleteRange(b"0500", b"0600"))
    store.apply(Put(b"0001", b"later"))
    given: list[bytes] = []
    is_all = False
    while not is_all:
        some, is_all = read.give()
        given += some
    assert given == wanted.kvs
    assert sum(looked) == (1_000 if rows > 1_000 else 2_000)
    assert store.machine.mvcc._measured.used == 0


def test_reads_that_are_open_hold_memory_and_are_refused_where_there_is_none() -> None:
    store = Store([Put(b"%04d" % number, bytes(5_000)) for number in range(300)])
    budget = store.machine.mvcc.read_budget
    one = store.read(Range(*ALL))
    assert budget.used == reads.OPEN_BYTES
    budget.limit = 2 * reads.OPEN_BYTES
    more = [store.read(Range(*ALL)) for _ in range(2)]
    assert store.machine.mvcc.read(Range(*ALL)) == errors.too_many()
    more[0].close()
    assert not isinstance(store.machine.mvcc.read(Range(*ALL)), Fault)
    list(steps(one))
    more[1].close()
    assert budget.used <= reads.OPEN_BYTES


def test_nothing_is_erased_that_an_open_read_needs() -> None:
    store = Store([Put(b"a", b"1"), Put(b"b", b"1")])
    read = store.read(Range(*ALL))
    for command in (Put(b"a", b"2"), DeleteRange(b"b"), Compact(4)):
        store.apply(command)
    store.machine.sweep()
    assert store.machine.mvcc.swept == 3, "what had gone before the read"
    assert not store.machine.sweeping
    store.machine.sweep()
    assert sum(len(some) for some in steps(read)) == 2
    assert store.machine.sweeping


def test_a_read_ends_with_the_state() -> None:
    store = Store([Put(b"a", b"1")])
    store.machine.save()
    read = store.read(Range(*ALL))
    store.machine.load()
    with pytest.raises(Lost):
        read.measure()
    read.close()


def test_a_revision_that_is_gone_is_refused_before_the_first_step() -> None:
    store = Store([Put(b"a", b"1"), Compact(2)])
    assert isinstance(store.machine.mvcc.read(Range(*ALL, revision=1)), Fault)


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("order", [ASCEND, DESCEND])
def test_a_deleted_key_is_found_at_revisions_before_its_deletion_only(limit: int, order: int) -> None:
    store = Store([Put(b"gone", b"1"), DeleteRange(b"gone")])
    for after in (None, Put(b"c", b"3"), DeleteRange(b"c")):
        if after is not None:
            store.apply(after)
        for revision, count in ((0, 0), (3, 0), (2, 1)):
            read = store.read(Range(b"gone", limit=limit, sort_order=order, revision=revision))
            found = [pair for given_now in steps(read) for pair in given_now]
            assert (len(found), read.count, read.more) == (count, count, False), (after, revision)
            read.close()
