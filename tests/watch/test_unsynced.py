"""Unsynced watches read history: in slices, in turns, and once for all that select the same."""

from __future__ import annotations

import pytest

from netstore.state.v3.commands import Compact, DeleteRange, Put
from netstore.state.v3.records import Records
from netstore.watch import slices
from netstore.watch.responses import RESPONSE_BYTES
from netstore.watch.streams import Selection, Watch
from tests.support.v3watching import (
    ALL,
    Sink,
    Store,
    counted,
    large_revision,
    most_at_once,
    told,
)

SLICE_WATCHES = slices.SLICE_WATCHES


def test_history_is_sent_in_responses_of_bounded_size() -> None:
    store = Store()
    value = b"v" * 50_000
    for _ in range(100):
        store.apply(Put(b"a", value))
    stream, sink = store.open()
    stream.create(ALL, 1)
    steps = 0
    while store.watches.has_work:
        store.watches.step()
        steps += 1
    sent = sink.take()[1:]
    assert max(len(response.events) for response in sent) <= RESPONSE_BYTES + 2 * len(value)
    assert [event[0] for response in sent for event in told(response)] == list(range(2, 102))
    assert steps >= 4


@pytest.mark.parametrize("range_end", [b"", b"\0"])
@pytest.mark.parametrize("more", [-1, 0, 1, 2])
def test_a_read_that_ends_just_before_the_present_is_not_the_last(range_end: bytes, more: int) -> None:
    store = Store()
    last = 1 + slices.SLICE_HISTORY_CHANGES + more
    for _ in range(last - 1):
        store.apply(Put(b"a"))
    stream, sink = store.open()
    stream.create(Selection(b"a", range_end), 1)
    store.watches.step()
    store.apply(Put(b"a"))
    store.settle()
    events = [event[0] for response in sink.take() for event in told(response)]
    assert events == list(range(2, last + 2))


def test_a_watch_whose_start_is_compacted_is_canceled() -> None:
    store = Store()
    stream, sink = store.open()
    for _ in range(3):
        store.apply(Put(b"a"))
    stream.create(ALL, 2)
    store.apply(Compact(4))
    store.settle()
    created, canceled = sink.take()
    assert created.created
    assert (canceled.canceled, canceled.compact_revision, canceled.revision) == (True, 4, 0)
    assert store.watches.count == 0


def test_a_large_revision_is_read_in_slices_and_sent_in_one_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, stream, sink = large_revision(3_000)
    store.apply(DeleteRange(b"\0", b"\0"))
    revision = store.machine.mvcc.revision
    calls = counted(monkeypatch, Records, "get")
    stream.create(ALL, revision)
    assert most_at_once(store, calls) <= slices.SLICE_HISTORY_CHANGES + 1
    _, response = sink.take()
    assert [event[0] for event in told(response)] == [revision] * 3_000
    store.apply(Put(b"a"))
    assert [event[1] for response in sink.take() for event in told(response)] == [b"a"]


def test_watches_of_one_selection_and_start_share_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = large_revision(1_000)
    opened = [store.open() for _ in range(5)]
    for stream, _ in opened:
        for _ in range(100):
            stream.create(ALL, 1)
    calls = counted(monkeypatch, Records, "get")
    sent = counted(monkeypatch, Watch, "send")
    assert most_at_once(store, sent) <= SLICE_WATCHES
    assert calls[0] == 1_000
    for _, sink in opened:
        counts = dict.fromkeys(range(100), 0)
        for response in sink.take():
            counts[response.watch_id] += len(list(told(response)))
        assert set(counts.values()) == {1_000}


def test_a_household_with_many_reads_does_not_delay_another() -> None:
    store = Store()
    for _ in range(2_000):
        store.apply(Put(b"a"))
    greedy, modest = Sink(), Sink()
    many = store.watches.open(greedy, "greedy")
    for number in range(500):
        many.create(Selection(b"\0", b"b%d" % number), 1)
    store.watches.open(modest, "modest").create(ALL, 1_990)
    store.watches.step()
    store.watches.step()
    assert len([event for response in modest.take() for event in told(response)]) == 12
    store.settle()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_shared_read_has_a_turn_with_each_of_its_households(is_shared: bool) -> None:
    """It goes on whenever one of the households that it is for has its turn."""
    store = Store()
    for _ in range(600):
        store.apply(Put(b"a"))
    many = [store.watches.open(Sink(), f"2001:db8::{number:x}") for number in range(10)]
    for number in range(500):
        many[number % 10].create(ALL, 1 + number)
    sink = Sink()
    modest = store.watches.open(sink, "modest")
    modest.create(ALL if is_shared else Selection(b"a", b""), 500)
    slices = 0
    while not modest.synced:
        store.watches.step()
        slices += 1
    assert slices <= 4, "two households: every second slice is for either"
    store.settle()
    assert [event[0] for response in sink.take() for event in told(response)] == list(range(500, 602))


def test_a_read_that_fails_ends_the_streams_of_all_its_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it leaves the queue of each of them: others go on."""
    store = Store()
    faults: list[Exception] = []
    store.watches.failed = faults.append
    store.apply(Put(b"a"))
    sinks: list[Sink] = []
    for name in ("ann", "bob"):
        sinks.append(Sink())
        stream = store.watches.open(sinks[-1], name)
        for _ in range(SLICE_WATCHES):
            stream.create(ALL, 1)
    other = store.watches.open(Sink(), "bob")
    other.create(Selection(b"a", b""), 1)
    with monkeypatch.context() as patch:
        patch.setattr(store.machine.mvcc, "history", None)
        while not faults:
            store.watches.step()
    store.settle()
    assert (len(faults), [sink.ended for sink in sinks], other.synced) == (1, [1, 1], 1)
    assert store.watches.count == 1


def test_a_watch_ends_when_what_it_reads_is_compacted_between_two_slices() -> None:
    store, stream, sink = large_revision(1_000)
    store.apply(DeleteRange(b"\0", b"\0"))
    stream.create(ALL, store.machine.mvcc.revision)
    store.watches.step()
    store.apply(Put(b"a"), Put(b"b"))
    store.apply(Compact(store.machine.mvcc.revision))
    while store.machine.sweeping:
        store.machine.sweep()
    store.settle()
    assert [response.canceled for response in sink.take()] == [False, True]


def test_a_read_begins_anew_when_a_snapshot_replaces_the_state() -> None:
    store, stream, sink = large_revision(1_000)
    store.apply(DeleteRange(b"\0", b"\0"))
    revision = store.machine.mvcc.revision
    stream.create(ALL, revision)
    store.watches.step()
    store.machine._engine.commit()  # type: ignore[attr-defined]  # the engine in memory
    store.machine.load()
    store.watches.replaced()
    store.settle()
    events = [event[0] for response in sink.take() for event in told(response)]
    assert events == [revision] * 1_000
