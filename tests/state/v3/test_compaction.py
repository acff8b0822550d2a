"""Compaction: what is erased, in which steps, and who is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.errors import Fault, Reason
from netstore.state.commands import encode
from netstore.state.tables import RECORDS
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Compact, DeleteRange, Put, V3Command
from netstore.state.v3.compaction import SWEEP_STEP
from netstore.state.v3.index import PLACE_BYTES
from netstore.state.v3.store import MOST_AWAIT_SWEEP
from netstore.types import Index, Revision
from tests.state.v3.both import Both, hash_kv
from tests.state.v3.strategies import v3_commands


@settings(max_examples=30, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=5, max_size=30), st.integers(1, 3))
def test_compaction_leaves_only_what_can_be_read(commands: list[V3Command], steps: int) -> None:
    both = Both(*commands)
    both.save()
    both.machine.apply(Index(both.machine.applied + 1), encode(Compact(both.twin.revision)))
    checksum = hash_kv(both.machine.mvcc, 0)
    for _ in range(200):
        both.machine.mvcc.sweep(steps)
    assert not both.machine.sweeping
    assert hash_kv(both.machine.mvcc, 0) == checksum
    both.save()
    stored = [keyvalue.decode(record) for _, record in both.engine.scan(RECORDS, b"", None)]
    readable = {p.key: p.mod_revision for p in both.twin.now.values()}
    last = {
        change.key: change.revision
        for change in both.twin.written
        if change.pair is None and change.revision == both.twin.revision
    }
    kept = {p.key: p.modified for p in stored}
    assert kept == {**last, **readable}
    assert both.machine.mvcc.size == sum(
        len(key) + len(record) for key, record in both.engine.scan(RECORDS, b"", None)
    )


@pytest.mark.parametrize("keys", [1, 100, 5_000])
def test_a_large_compaction_goes_in_small_steps(keys: int) -> None:
    """However few keys the changes are of."""
    both = Both()
    store = both.machine.mvcc
    for number in range(12_500):
        store.put(b"%d" % (number % keys), b"", 0)
        store.finish()
    store.take_changes()
    both.save()
    store.compact(store.revision)
    steps = erased = 0
    while store.sweeping and steps < 500:
        store.sweep(100)
        gone = [record for record in store.take_records().values() if record is None]
        assert len(gone) <= 101
        erased += len(gone)
        steps += 1
    assert erased == 12_500 - keys
    assert store.size == sum(PLACE_BYTES + len(store.get(key) or b"") for key in store._index.live)
    log = store._index.log
    assert log.end - log.first == 1


def test_a_tombstone_is_removed_by_the_next_compaction_after_it() -> None:
    both = Both()
    both.apply(Put(b"a", b"1"))
    both.apply(DeleteRange(b"a"))
    both.apply(Compact(3))
    both.machine.sweep()
    assert both.history(Revision(3), b"a", b"", 10) == [(3, b"a", b"\n\x01a\x18\x03", None)]
    both.apply(Put(b"b", b""))
    both.apply(Compact(4))
    both.machine.sweep()
    assert b"a" not in both.machine.mvcc._index.items
    assert [key[:8] for key, _ in both.engine.scan(RECORDS, b"", None)] == [(4).to_bytes(8, "big")]


def test_the_callback_of_a_compaction_is_called_when_it_is_over() -> None:
    both = Both()
    for _ in range(3):
        both.apply(Put(b"a", b""))
    both.apply(Compact(3))
    told: list[int] = []
    both.machine.v3.when_swept(Revision(3), lambda _: told.append(3))
    assert told == []
    both.machine.sweep()
    assert told == [3]
    both.machine.v3.when_swept(Revision(3), lambda _: told.append(4))
    assert told == [3, 4]


def test_a_compaction_that_is_half_over_goes_on_when_the_state_is_loaded() -> None:
    """At a restart, and in a copy that takes the place of the state: who waited waits for the rest of it."""
    both = Both()
    for _ in range(2 * SWEEP_STEP):
        both.apply(Put(b"a", b""))
    both.apply(Compact(2 * SWEEP_STEP))
    told: list[Fault | None] = []
    both.machine.v3.when_swept(Revision(2 * SWEEP_STEP), told.append)
    both.machine.sweep()
    both.machine.load()
    assert told == []
    assert both.machine.sweeping
    for _ in range(3):
        both.machine.sweep()
    assert both.machine.mvcc.swept == both.machine.mvcc.compacted == 2 * SWEEP_STEP
    assert told == [None]


def test_a_copy_that_is_swept_answers_who_waited_here_and_not_too_many_wait() -> None:
    ahead, both = Both(), Both()
    for each in (ahead, both):
        for _ in range(3):
            each.apply(Put(b"a", b""))
        each.apply(Compact(3))
    told: list[Fault | None] = []
    for _ in range(MOST_AWAIT_SWEEP + 1):
        both.machine.v3.when_swept(Revision(3), told.append)
    assert [fault and fault.cause.decode() for fault in told] == [Reason.TOO_MANY.text]
    ahead.machine.sweep()
    ahead.save()
    for each in (ahead, both):
        each.engine.commit()
    both.engine.install(ahead.engine, lambda _: None)
    both.machine.load()
    assert told[1:] == [None] * MOST_AWAIT_SWEEP
    assert not both.machine.sweeping
