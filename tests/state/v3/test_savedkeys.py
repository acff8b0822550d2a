"""A start with the saved index of the keys is a start that reads all records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.tables import RECORDS
from netstore.state.v3 import savedkeys
from netstore.state.v3.commands import Compact, DeleteRange, Found, Put, Range, Txn, V3Command
from netstore.state.v3.compaction import SWEEP_STEP
from netstore.state.v3.index import bound_after
from netstore.state.v3.savedkeys import SavedKeys, Sleeping
from netstore.state.v3.scan import RUN, Scan
from netstore.types import Index
from tests.state.v3.both import LEASES, Both
from tests.state.v3.strategies import v3_commands

if TYPE_CHECKING:
    from netstore.state.v3.mvcc import Mvcc


def stop(both: Both) -> SavedKeys | None:
    """Save the state and the index, as a clean stop does."""
    both.save()
    records = both.engine.count(RECORDS)
    assert records is not None
    return both.machine.saved_keys(both.machine.applied, records)


def started(both: Both, saved: SavedKeys | None) -> Machine:
    machine = Machine(both.engine)
    machine.load(saved=saved)
    return machine


def whole_index(store: Mvcc) -> tuple[object, ...]:
    """Everything that is in memory, but for the newest deletion, which may be one that was erased since."""
    index, log = store._index, store._index.log
    changes = [(log.place(at), log.key(at)) for at in range(log.first, log.end)]
    items = {item.key: item for item in index.items.values()}
    return (
        (store.revision, store.compacted, store.swept, store.size, store.suspended),
        items,
        list(index.live),
        list(index.dead),
        changes,
    )


def lease_keys(machine: Machine) -> dict[int, list[bytes]]:
    return {lease.id: sorted(lease.keys) for lease in machine.leases}


def with_blocks(keys: int) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(savedkeys, "BLOCK", keys)
    return patch


@settings(max_examples=60, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=3, max_size=30), st.integers(1, 4))
def test_a_start_with_the_saved_index_equals_one_that_reads_all_records(
    commands: list[V3Command], block: int
) -> None:
    patch = with_blocks(block)
    both = Both(*LEASES)
    for command in commands:
        both.apply(command)
        while both.machine.sweeping:
            both.machine.sweep()
    saved = stop(both)
    assert saved is not None
    read, woken = started(both, None), started(both, saved)
    assert isinstance(woken.mvcc._index.items, Sleeping) or not read.mvcc._index.items
    dead = [item.at for item in read.mvcc._index.items.values() if not item.version]
    assert woken.mvcc._index.newest_deletion >= max(dead, default=0)
    assert whole_index(woken.mvcc) == whole_index(read.mvcc)
    assert lease_keys(woken) == lease_keys(read)
    assert not isinstance(woken.mvcc._index.items, Sleeping)  # all entries are made
    patch.undo()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(v3_commands(alarms=False), min_size=3, max_size=20),
    st.lists(v3_commands(alarms=False), min_size=3, max_size=20),
    st.integers(1, 3),
)
def test_a_member_goes_on_from_the_saved_index(
    before: list[V3Command], after: list[V3Command], block: int
) -> None:
    """Entries are made when they are needed, whatever comes first, and later starts have them, too."""
    patch = with_blocks(block)
    both = Both(*LEASES)
    for commands in (before, after):
        for command in commands:
            both.apply(command)
            while both.machine.sweeping:
                both.machine.sweep()
        both.machine = started(both, stop(both))
    both.agree()
    patch.undo()


def test_entries_are_made_only_where_they_are_needed() -> None:
    both = Both(*(Put(b"%03d" % number, b"v") for number in range(100)))
    machine = started(both, stop(both))
    index = machine.mvcc._index
    items = index.items
    assert isinstance(items, Sleeping)
    assert machine.mvcc.range(Range(b"000", b"999", count_only=True)) == both.twin.range(
        Range(b"000", b"999", count_only=True)
    )
    assert not items._awake
    assert machine.mvcc.get(b"050") is not None
    assert machine.mvcc.get(b"") is None
    assert machine.mvcc.get(b"0505") is None
    assert (index.woken, len(items._awake)) == (1, 1)
    some = [b"090", b"007", b"049", b"050", b"051", b"052", b"007", b"052", b"099"]
    assert [item.key for item in items.many(some)] == some
    assert (index.woken, len(items._awake)) == (7, 7)
    with pytest.raises(KeyError):
        items.many([b"052", b"0525"])
    with pytest.raises(KeyError):
        items[b"0505"]


def started_with(count: int) -> tuple[Machine, list[bytes]]:
    """A machine that has made no entry of this many keys, and the keys out of order."""
    keys = [b"%06d" % (number * 7919 % count) for number in range(count)]
    puts = [Txn((), tuple(Put(key, b"v") for key in keys[at : at + 100])) for at in range(0, count, 100)]
    both = Both(*puts)
    return started(both, stop(both)), keys


def test_writes_after_a_start_make_the_entries_that_they_name_and_no_other() -> None:
    """What is asked of keys is counted as if all entries were there."""
    machine, keys = started_with(2_000)
    index = machine.mvcc._index
    for number, key in enumerate(keys[:300], 1):
        machine.apply(Index(machine.applied + 1), encode(Put(key, b"w")))
        assert index.woken == number
    machine.apply(Index(machine.applied + 1), encode(Put(b"new", b"w")))
    machine.apply(Index(machine.applied + 1), encode(Txn((), tuple(Put(key, b"w") for key in keys[250:350]))))
    assert index.woken == 350
    machine.apply(Index(machine.applied + 1), encode(Compact(machine.mvcc.revision)))
    while machine.sweeping:
        before = index.woken
        machine.sweep()
        assert index.woken - before <= SWEEP_STEP
    assert index.woken == 2_000


def test_reads_after_a_start_count_the_entries_that_they_make() -> None:
    machine, _ = started_with(3_000)
    mvcc = machine.mvcc
    index = mvcc._index
    units = []
    for _ in range(2):
        before = mvcc.read_units
        found = mvcc.read_small(Range(b"000100", b"000500"))
        assert isinstance(found, Found)
        assert len(found.kvs) == 400
        units.append(mvcc.read_units - before)
    assert index.woken == 400
    assert units[0] - units[1] == 400
    scan = Scan(index, mvcc._records, Range(b"001900", b"003000"), bound_after(mvcc.revision))
    scan.units = 300
    for _ in scan.runs():
        if scan.units <= 0:
            break
    assert 400 < index.woken <= 400 + 300 + RUN


def test_nothing_is_saved_while_a_compaction_is_swept_or_a_record_is_missing() -> None:
    both = Both(Put(b"a", b"1"), Put(b"a", b"2"), DeleteRange(b"b", b""), Compact(3))
    assert stop(both) is None
    machine = both.load()
    while machine.sweeping:
        machine.sweep()
    both.save()
    assert machine.saved_keys(Index(machine.applied - 1), 1) is None  # the engine has not all of it
    assert stop(both) is not None
    assert stop(both) is None  # it was used up
    assert started(both, None).saved_keys(machine.applied, 2) is None


@pytest.mark.parametrize("part", range(12))
def test_columns_that_do_not_fit_are_ignored(part: int) -> None:
    both = Both(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"3"), *LEASES)
    saved = stop(both)
    assert saved is not None
    read = whole_index(started(both, None).mvcc)
    for cut in (saved.columns[part][:-1], saved.columns[part] + b"\0", b""):
        columns = [*saved.columns[:part], cut, *saved.columns[part + 1 :]]
        if columns == saved.columns:
            continue
        machine = started(both, SavedKeys(saved.head, columns))
        assert not isinstance(machine.mvcc._index.items, Sleeping)
        assert whole_index(machine.mvcc) == read


def test_an_index_of_another_state_or_layout_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both(Put(b"a", b"1"))
    saved = stop(both)
    assert saved is not None
    for head in (b"", saved.head[:-1], saved.head + b"\0"):
        assert not isinstance(started(both, SavedKeys(head, saved.columns)).mvcc._index.items, Sleeping)
    both = Both(Put(b"a", b"1"), Put(b"b", b"1"))
    both.save()
    assert whole_index(started(both, saved).mvcc) == whole_index(started(both, None).mvcc)
    both = Both(Put(b"a", b"1"))
    both.save()
    monkeypatch.setattr(savedkeys, "LAYOUT", "2")
    assert not isinstance(started(both, saved).mvcc._index.items, Sleeping)
