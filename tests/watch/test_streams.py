"""Streams over the real history: each watch is sent what a replay of the history says it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from netstore.proto.kv_pb2 import KeyValue
from netstore.state.commands import encode
from netstore.state.v3.commands import Put, V3Command
from netstore.types import Index
from netstore.watch import slices, streams
from netstore.watch.streams import MAX_BACKLOG, NO_WATCH, Selection, Stream
from tests.state.v3.strategies import ENDS, KEYS, RARELY, v3_commands
from tests.state.v3.twin import Told, Twin
from tests.support.v3watching import (
    ALL,
    Response,
    Sink,
    Store,
    counted,
    told,
)


@dataclass
class Followed:
    """A watch as its client sees it, and where it has got to in the twin's history."""

    selection: Selection
    start: int
    stream: int
    revision: int = 0
    got: list[Told] = field(default_factory=list)
    fragments: list[Told] = field(default_factory=list)
    ended: bool = False


class Watching(RuleBasedStateMachine):
    """Random commands, watches, stuck and freed sinks; every watch against the twin's history."""

    @initialize()
    def begin(self) -> None:
        self.store = Store()
        self.twin = Twin()
        self.streams = [self.store.open() for _ in range(2)]
        self.followed: dict[tuple[int, int], Followed] = {}

    @rule(commands=st.lists(v3_commands(alarms=False), min_size=1, max_size=4))
    def apply(self, commands: list[V3Command]) -> None:
        self.store.apply(*commands)
        for command in commands:
            self.twin.apply(command)
        self.read()

    @rule(
        stream=st.integers(0, 1),
        selection=st.builds(Selection, KEYS, ENDS, st.booleans(), RARELY, RARELY),
        start=st.integers(-1, 12),
        back=st.booleans(),
    )
    def create(self, stream: int, selection: Selection, start: int, back: bool) -> None:
        opened, sink = self.streams[stream]
        if back:
            start = max(0, self.twin.revision + 3 - start)
        self.read()
        opened.create(selection, start)
        response = sink.sent.pop(0)
        assert response.created
        now = self.twin.revision
        is_empty = selection.range_end not in {b"", b"\0"} and selection.range_end <= selection.key
        if is_empty or start < 0:
            assert (response.watch_id, response.canceled) == (NO_WATCH, True)
            return
        assert (response.canceled, response.revision) == (False, now)
        assert (stream, response.watch_id) not in self.followed
        followed = Followed(selection, start or now + 1, stream)
        self.followed[stream, response.watch_id] = followed
        if followed.start < self.twin.compacted:
            canceled = sink.sent.pop(0)
            assert (canceled.canceled, canceled.revision) == (True, 0)
            assert canceled.compact_revision == self.twin.compacted
            followed.ended = True

    @rule(stream=st.integers(0, 1), watch_id=st.integers(0, 3))
    def cancel(self, stream: int, watch_id: int) -> None:
        self.read()
        opened, sink = self.streams[stream]
        opened.cancel(watch_id)
        followed = self.followed.get((stream, watch_id))
        if followed is None or followed.ended:
            assert sink.sent == []
        else:
            assert sink.take() == [Response(watch_id, self.twin.revision, b"", False, True, 0, "", False)]
            followed.ended = True

    @rule(at_once=st.sampled_from((1, 2, 250)))
    def slice(self, at_once: int) -> None:
        """How much is done in one slice."""
        for name in SLICES:
            setattr(slices, name, at_once)

    @rule(stream=st.integers(0, 1))
    def stick(self, stream: int) -> None:
        sink = self.streams[stream][1]
        sink.stuck = True
        sink.backlog = MAX_BACKLOG + 1

    @rule(stream=st.integers(0, 1))
    def free(self, stream: int) -> None:
        opened, sink = self.streams[stream]
        sink.stuck = False
        sink.backlog = 0
        opened.drained()

    @rule()
    def step(self) -> None:
        self.store.watches.step()
        self.read()

    @rule()
    def sweep(self) -> None:
        self.store.machine.sweep()

    @rule(stream=st.integers(0, 1))
    def progress(self, stream: int) -> None:
        """A progress answer promises that nothing up to its revision is missing."""
        self.read()
        opened, sink = self.streams[stream]
        opened.progress()
        if self.store.watches.in_round:
            return  # it is answered at the end of the round
        if sink.sent:
            (response,) = sink.take()
            assert response.is_progress
            assert (response.watch_id, response.revision) == (NO_WATCH, self.twin.revision)
            for (of, _), followed in self.followed.items():
                if of == stream and not followed.ended:
                    self.complete(followed)

    @rule()
    def settle(self) -> None:
        """Everything is let go on: now every watch has everything."""
        for stream in range(2):
            self.free(stream)
        self.store.settle()
        self.read()
        for followed in self.followed.values():
            if not followed.ended:
                self.complete(followed)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.settle()
            for name, as_it_was in SLICES.items():
                setattr(slices, name, as_it_was)
            for opened, _ in self.streams:
                opened.close()
            assert self.store.watches.count == 0
            assert not self.store.watches._ranges

    def read(self) -> None:
        """What the clients make of what has come."""
        for stream, (_, sink) in enumerate(self.streams):
            for response in sink.take():
                if response.watch_id == NO_WATCH:
                    self.promised(stream, response.revision)
                    continue
                followed = self.followed[stream, response.watch_id]
                assert not followed.ended
                if response.canceled:
                    assert response.compact_revision == self.twin.compacted > followed.revision
                    followed.ended = True
                    continue
                events = list(told(response))
                assert events
                assert events[0][0] > (followed.got[-1][0] if followed.got else 0), "a revision was cut"
                assert followed.revision <= response.revision
                assert events[-1][0] <= response.revision <= self.twin.revision
                followed.revision = response.revision
                followed.got += events

    def promised(self, stream: int, revision: int) -> None:
        """An answer to a request for progress that came during a round."""
        for (of, _), followed in self.followed.items():
            if of == stream and not followed.ended:
                assert followed.revision <= revision
                self.complete(followed, revision)

    def complete(self, followed: Followed, revision: int | None = None) -> None:
        """It has been told everything up to a revision, or the present."""
        selection = followed.selection
        expected = [
            change
            for change in self.history_with_prev(followed)
            if not (selection.no_put if KeyValue.FromString(change[2]).version else selection.no_delete)
            and (revision is None or change[0] <= revision)
        ]
        assert [event[:3] for event in followed.got] == [event[:3] for event in expected]
        for got, wanted in zip(followed.got, expected, strict=True):
            # What was read before a compaction had its pair; what is read after may have lost it.
            assert got[3] == (wanted[3] if selection.prev_kv else None) or (
                got[3] is None and got[0] <= self.twin.compacted
            )

    def history_with_prev(self, followed: Followed) -> list[Told]:
        compacted, self.twin.compacted = self.twin.compacted, -1
        try:
            return self.twin.history(followed.start, followed.selection.key, followed.selection.range_end)
        finally:
            self.twin.compacted = compacted


SLICES = {
    name: getattr(slices, name)
    for name in (
        "SLICE_WATCHES",
        "SLICE_MOVES",
        "SLICE_LOOKS",
        "SLICE_EVENTS",
        "SLICE_HISTORY_LOOKS",
        "SLICE_HISTORY_CHANGES",
    )
}


SLICE_WATCHES = slices.SLICE_WATCHES


TestWatching = Watching.TestCase


TestWatching.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_ids_are_chosen_by_server_or_client_and_are_unique() -> None:
    store = Store()
    stream, sink = store.open()
    for watch_id in (0, 1, 2, 0, 2):
        stream.create(ALL, watch_id=watch_id)
    sent = sink.take()
    assert [response.watch_id for response in sent] == [0, 1, 2, 3, -1]
    assert sent[-1].canceled
    assert sent[-1].reason == "mvcc: duplicate watch ID provided on the WatchStream"
    stream.cancel(7)
    assert sink.take() == []


def test_a_refused_watch_does_not_end_the_stream() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(Selection(b"b", b"a"))
    stream.create(Selection(b"a", b"a"))
    stream.create(ALL, -1)
    stream.create(Selection(b"", b"\0"))
    reasons = [response.reason for response in sink.take()]
    assert reasons == [
        "mvcc: watcher range is empty",
        "mvcc: watcher range is empty",
        "etcdserver: mvcc: required revision has been compacted",
        "",
    ]
    store.apply(Put(b"x"))
    assert len(sink.take()) == 1


def test_a_full_sink_gets_no_more_and_misses_nothing() -> None:
    """What waits is bounded by the bound and one response, however much happens."""
    store = Store()
    stream, sink = store.open()
    stream.create(ALL)
    sink.take()
    sink.stuck = True
    value = b"v" * 100_000
    for _ in range(100):
        store.apply(Put(b"a", value))
        store.watches.step()
    assert MAX_BACKLOG < sink.backlog <= MAX_BACKLOG + 2 * len(value)
    before = [event for response in sink.take() for event in told(response)]
    stream.drained()
    assert not store.watches.has_work, "the sink has not drained"
    sink.backlog, sink.stuck = 0, False
    stream.drained()
    store.settle()
    after = [event for response in sink.take() for event in told(response)]
    assert [event[0] for event in before + after] == list(range(2, 102))


def test_progress_waits_for_every_watch_of_the_stream() -> None:
    store = Store()
    stream, sink = store.open()
    stream.progress()
    assert sink.take() == [], "there is no watch"
    store.apply(Put(b"a"))
    stream.create(ALL)
    stream.create(ALL, 1)
    sink.take()
    stream.progress()
    assert sink.take() == [], "the second has not been told its history"
    store.settle()
    sink.take()
    stream.progress()
    assert [(response.watch_id, response.revision) for response in sink.take()] == [(-1, 2)]
    stream.create(ALL, 9)
    sink.take()
    stream.progress()
    assert sink.take() == [], "the third begins beyond the present"


def test_progress_is_not_sent_between_a_change_and_its_event() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, progress_notify=True)
    sink.take()
    store.machine.apply(Index(1), encode(Put(b"a")))
    stream.progress()
    stream.tick()
    assert sink.take() == []
    store.watches.publish(store.machine.take_changes())
    stream.progress()
    assert [response.is_progress for response in sink.take()] == [False, True]


def test_a_tick_sends_progress_to_idle_watches_that_asked_for_it() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, progress_notify=True)
    stream.create(ALL)
    sink.take()
    store.apply(Put(b"a"))
    sink.take()
    stream.tick()
    assert sink.take() == [], "an event has told it"
    stream.tick()
    assert [(response.watch_id, response.revision) for response in sink.take()] == [(0, 2)]


def test_a_watch_made_between_a_change_and_its_event_does_not_get_it() -> None:
    """As the recipes do that run in the answer to a write."""
    store = Store()
    stream, sink = store.open()
    store.machine.apply(Index(1), encode(Put(b"a")))
    stream.create(ALL)
    store.machine.apply(Index(2), encode(Put(b"b")))
    store.watches.publish(store.machine.take_changes())
    store.settle()
    created, *events = sink.take()
    assert created.revision == 2
    assert [event[1] for response in events for event in told(response)] == [b"b"]


@pytest.mark.parametrize("behind", [False, True])
def test_a_stream_whose_sink_raises_ends_alone(behind: bool) -> None:
    """Live, or while it reads history: it has a gap, so all its watches end, and no other stream's."""
    store = Store()
    faults: list[Exception] = []
    store.watches.failed = faults.append
    store.apply(Put(b"k", b"1"))
    streams = [store.open() for _ in range(3)]
    for stream, _ in streams:
        stream.create(ALL, 1 if behind else 0)
        stream.create(ALL)
    bad = streams[1][1]
    bad.faulty = True
    store.apply(Put(b"k", b"2"))
    store.settle()
    store.apply(Put(b"k", b"3"))
    assert (len(faults), bad.ended, store.watches.count) == (1, 1, 4)
    for _, sink in (streams[0], streams[2]):
        values = [one[2] for response in sink.sent for one in told(response)]
        assert len(values) == (5 if behind else 4)


def test_the_cost_of_a_progress_request_does_not_depend_on_the_number_of_watches(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream, sink = crowd
    stream.progress()
    sink.take()
    looked: list[object] = []
    monkeypatch.setattr(streams.Watch, "is_current", lambda watch, _: looked.append(watch))
    watches, stream._watches = stream._watches, Unwalkable(stream._watches)
    for _ in range(600):
        stream.progress()
    stream._watches = watches
    assert (len(sink.take()), looked, len(stream.future)) == (600, [], 0)


class Unwalkable(dict[int, streams.Watch]):
    """A dictionary that is not walked through."""

    def values(self) -> NoReturn:
        raise AssertionError("all watches are looked at")

    __iter__ = items = values


def test_many_watches_are_removed_in_slices(crowd: tuple[Store, Stream, Sink]) -> None:
    store, stream, sink = crowd
    stream.close()
    assert store.watches.count == 4 * SLICE_WATCHES - slices.SLICE_MOVES
    store.apply(Put(b"a"))
    store.settle()
    assert (store.watches.count, sink.take()) == (0, [])
    assert not store.watches._ranges


def test_ticks_of_many_watches_are_done_in_slices() -> None:
    store = Store()
    stream, sink = store.open()
    for _ in range(3 * SLICE_WATCHES):
        stream.create(ALL, progress_notify=True)
    sink.take()
    stream.tick()
    assert len(sink.take()) == SLICE_WATCHES
    store.settle()
    assert len(sink.take()) == 2 * SLICE_WATCHES


def test_many_parked_watches_go_on_in_slices(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream, sink = crowd
    sink.backlog = MAX_BACKLOG + 1
    store.apply(Put(b"a"))
    store.settle()
    assert len(stream.parked) == 4 * SLICE_WATCHES
    sink.backlog = 0
    resumed = counted(monkeypatch, store.watches, "read_history")
    stream.drained()
    assert resumed[0] == SLICE_WATCHES
    store.settle()
    assert len(sink.take()) == 4 * SLICE_WATCHES
