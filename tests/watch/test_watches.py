"""Rounds: what synced watches are sent, and in which slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.state.commands import encode
from netstore.state.v3.commands import Compact, DeleteRange, Put
from netstore.types import Index
from netstore.watch import slices
from netstore.watch import watches as watches_module
from netstore.watch.streams import NO_WATCH, Selection, Stream
from tests.support.v3watching import (
    ALL,
    Sink,
    Store,
    counted,
    large_revision,
    most_at_once,
    parsed,
    told,
)

if TYPE_CHECKING:
    from netstore.types import KeyChange
    from netstore.watch.watches import Watches


SLICE_WATCHES = slices.SLICE_WATCHES


def test_watches_of_one_group_get_the_same_bytes() -> None:
    store = Store()
    opened = [store.open() for _ in range(10)]
    for stream, _ in opened:
        for _ in range(100):
            stream.create(Selection(b"a", b"b", prev_kv=True))
    for _, sink in opened:
        sink.take()
    store.apply(Put(b"a1", b"1"), Put(b"a2", b"2"))
    store.settle()
    sent = [response for _, sink in opened for response in sink.take()]
    assert len(sent) == 1_000
    assert len({id(response.events) for response in sent}) == 1
    assert [event.kv.key for event in parsed(sent[0].events).events] == [b"a1", b"a2"]


def test_the_number_of_watches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches_module, "MAX_WATCHES", 1)
    stream, sink = Store().open()
    stream.create(ALL)
    stream.create(ALL)
    assert [response.reason for response in sink.take()] == ["", "etcdserver: too many requests"]


def test_one_principal_cannot_take_all_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches_module, "MAX_WATCHES", 16)
    watches = Store().watches
    greedy, other = Sink(), Sink()
    for sink, principal in ((greedy, "a"), (other, "b")):
        stream = watches.open(sink, principal)
        for _ in range(16):
            stream.create(ALL)
    assert [sum(not each.canceled for each in sink.take()) for sink in (greedy, other)] == [8, 2]


def test_the_addresses_of_one_ipv6_network_have_one_share_of_the_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches_module, "MAX_WATCHES", 16)
    watches, sink = Store().watches, Sink()
    for number in range(16):
        watches.open(sink, f"2001:db8::{number:x}").create(ALL)
    assert sum(not each.canceled for each in sink.take()) == 8


def test_after_a_snapshot_watches_go_on_from_its_history() -> None:
    """Another member's state is put in place: what was missed comes from its history, once."""
    store = Store()
    stream, sink = store.open()
    store.apply(Put(b"a"))
    stream.create(ALL)
    stream.create(Selection(b"z", b""))
    sink.take()
    ahead = Store()
    ahead.apply(Put(b"a"))
    for _ in range(3):
        ahead.apply(Put(b"b"))
    ahead.apply(Compact(3))
    ahead.apply(DeleteRange(b"a"))
    ahead.machine._engine.commit()  # type: ignore[attr-defined]  # the engine in memory
    store.machine._engine.install(ahead.machine._engine, lambda failure: None)
    store.machine.load()
    store.watches.replaced()
    store.settle()
    events = [(response.watch_id, event[0]) for response in sink.take() for event in told(response)]
    assert events == [(0, 3), (0, 4), (0, 5), (0, 6)]
    store.apply(Put(b"z"))
    assert sorted(response.watch_id for response in sink.take()) == [0, 1]


def test_a_snapshot_that_is_compacted_does_not_end_a_watch_without_events() -> None:
    """It has been told everything up to the jump, however old its last event is."""
    store = Store()
    stream, sink = store.open()
    stream.create(Selection(b"z", b""))
    for _ in range(4):
        store.apply(Put(b"a"))
    store.apply(Compact(5))
    store.machine._engine.commit()  # type: ignore[attr-defined]  # the engine in memory
    store.machine.load()
    store.watches.replaced()
    store.settle()
    assert [response.canceled for response in sink.take()] == [False]
    store.apply(Put(b"z"))
    assert [event[1] for response in sink.take() for event in told(response)] == [b"z"]


def test_many_watches_are_sent_an_event_in_slices(crowd: tuple[Store, Stream, Sink]) -> None:
    """And in order: what comes meanwhile waits for the next round."""
    store, _, sink = crowd
    store.apply(Put(b"a", b"1"))
    sent = [len(sink.sent)]
    store.apply(Put(b"a", b"2"))
    store.apply(Put(b"a", b"3"))
    while store.watches.has_work:
        store.watches.step()
        sent.append(len(sink.sent))
    assert max(after - before for before, after in zip([0, *sent], sent, strict=False)) <= SLICE_WATCHES
    values: dict[int, list[bytes]] = {}
    for response in sink.take():
        values.setdefault(response.watch_id, []).extend(event[2][-1:] for event in told(response))
    assert len(values) == 4 * SLICE_WATCHES
    assert set(map(tuple, values.values())) == {(b"1", b"2", b"3")}
    assert store.woken


class Counted(Selection):
    """A selection that counts how often it is asked."""

    asked = 0

    def includes(self, change: KeyChange) -> bool:
        Counted.asked += 1
        return super().includes(change)


def test_many_ranges_of_one_key_are_looked_at_in_slices() -> None:
    store = Store()
    stream, sink = store.open()
    for number in range(2 * slices.SLICE_LOOKS):
        stream.create(Counted(b"a", b"b%d" % number, no_put=True))
    Counted.asked = 0
    store.apply(Put(b"a"))
    assert Counted.asked <= slices.SLICE_LOOKS
    store.settle()
    assert Counted.asked == 2 * slices.SLICE_LOOKS
    assert not any(response.events for response in sink.take())


def test_progress_asked_during_a_round_is_answered_once_at_its_end(
    crowd: tuple[Store, Stream, Sink],
) -> None:
    store, stream, sink = crowd
    other, other_sink = store.open()
    other.create(Selection(b"z", b""))
    store.apply(Put(b"a"))
    for _ in range(5):
        stream.progress()
        other.progress()
    stream.create(Selection(b"b", b""))
    store.settle()
    assert [response.watch_id for response in sink.take()][-1] == NO_WATCH
    assert [response.revision for response in other_sink.take() if response.is_progress] == [2]


def test_changes_beyond_the_bound_are_read_from_history(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, sink = crowd
    monkeypatch.setattr(watches_module, "WAITING_BYTES", 10_000)
    store.apply(Put(b"a", b"1"))
    for _ in range(30):
        store.apply(Put(b"a", b"v" * 400 + b"2"))
        assert store.watches._waiting_bytes <= 10_000
    store.settle()
    count: dict[int, list[int]] = {}
    for response in sink.take():
        count.setdefault(response.watch_id, []).extend(event[0] for event in told(response))
    assert len(count) == 4 * SLICE_WATCHES
    assert set(map(tuple, count.values())) == {tuple(range(2, 33))}


def test_a_round_that_fails_half_way_leaves_no_gap(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, sink = crowd
    faults: list[Exception] = []
    store.watches.failed = faults.append
    store.apply(Put(b"a"))

    def fail(watches: Watches) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "holds", fail)
        store.watches._run_round()
    store.settle()
    assert len(faults) == 1
    assert len({response.watch_id for response in sink.take()}) == 4 * SLICE_WATCHES


@pytest.mark.parametrize("prev_kv", [False, True])
def test_a_large_revision_is_encoded_in_slices_and_sent_in_one_response(
    monkeypatch: pytest.MonkeyPatch, prev_kv: bool
) -> None:
    store, stream, sink = large_revision(5_000)
    stream.create(Selection(b"\0", b"\0", prev_kv))
    sink.take()
    calls = counted(monkeypatch, store.watches, "_event")
    store.apply(DeleteRange(b"\0", b"\0"))
    assert calls[0] <= slices.SLICE_EVENTS
    most = most_at_once(store, calls)
    assert most <= slices.SLICE_EVENTS // (5 if prev_kv else 1)
    (response,) = sink.take()
    assert len(list(told(response))) == calls[0] == 5_000


def test_many_watches_become_unsynced_in_slices_when_the_state_is_replaced(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream, sink = crowd
    moved = counted(monkeypatch, store.watches, "_leave_group")
    store.machine.apply(Index(1), encode(Put(b"a")))
    store.machine.take_changes()
    store.watches.replaced()
    assert moved[0] == slices.SLICE_MOVES
    store.apply(Put(b"a"))
    stream.progress()
    assert not any(response.is_progress for response in sink.sent)
    assert most_at_once(store, moved) <= slices.SLICE_MOVES
    got: dict[int, list[int]] = {}
    for response in sink.take():
        got.setdefault(response.watch_id, []).extend(event[0] for event in told(response))
    assert len(got) == 4 * SLICE_WATCHES
    assert set(map(tuple, got.values())) == {(2, 3)}


def test_changes_that_nobody_watches_are_freed_in_slices() -> None:
    store = Store()
    for number in range(3 * slices.SLICE_LOOKS):
        store.machine.apply(Index(number + 1), encode(Put(b"%05d" % number)))
    changes = store.machine.take_changes()
    store.watches.publish(changes)
    assert len(changes) == 2 * slices.SLICE_LOOKS
    store.settle()
    assert not changes


def test_the_keys_of_watches_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches_module, "MAX_WATCH_BYTES", 16 * 1024)
    watches, sink, key = Store().watches, Sink(), b"k" * 1023
    stream = watches.open(sink, "a")
    for _ in range(8):
        stream.create(Selection(key, b""))
    stream.create(Selection(key, b""))
    assert [response.reason for response in sink.take()] == [*[""] * 8, "etcdserver: too many requests"]
    stream.cancel(1)
    stream.create(Selection(b"j", key[:1000]))
    assert sink.take()[-1].reason == ""
    stream.close()
    assert watches.count == 0
