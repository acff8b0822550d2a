"""v3 watches over the real history: every watch is told what a replay of the history says it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from netstore.proto import rpc_pb2
from netstore.proto.kv_pb2 import KeyValue
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3commands import Compact, DeleteRange, Put, Txn, V3Command
from netstore.types import Index
from netstore.watch import streams
from netstore.watch.streams import NO_WATCH, Stream, Watches, Wish
from tests.state.v3_strategies import ENDS, KEYS, RARELY, v3_commands
from tests.state.v3_twin import Told, Twin
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.proto.rpc_pb2 import WatchResponse
    from netstore.types import KeyChange


class Response(NamedTuple):
    watch_id: int
    revision: int
    events: bytes
    created: bool
    canceled: bool
    compact_revision: int
    reason: str
    fragment: bool

    @property
    def is_progress(self) -> bool:
        return not (self.events or self.created or self.canceled)


@dataclass
class Sink:
    """Keeps what it is given; a test says how much of that has left."""

    sent: list[Response] = field(default_factory=list)
    backlog: int = 0
    stuck: bool = False
    faulty: bool = False
    ended: int = 0

    def send(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> None:
        if self.faulty:
            raise MemoryError
        self.sent.append(
            Response(watch_id, revision, events, created, canceled, compact_revision, reason, fragment)
        )
        if self.stuck:
            self.backlog += len(events)

    def broken(self) -> None:
        self.ended += 1

    def take(self) -> list[Response]:
        sent, self.sent = self.sent, []
        return sent


def parsed(events: bytes) -> WatchResponse:
    return rpc_pb2.WatchResponse.FromString(events)


def told(response: Response) -> Iterator[Told]:
    for event in parsed(response.events).events:
        prev = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else None
        yield event.kv.mod_revision, event.kv.key, event.kv.SerializeToString(), prev


class Store:
    """A machine and its watches, as a member runs them."""

    def __init__(self) -> None:
        self.machine = Machine(memory_engine())
        self.machine.load()
        self.woken = 0
        self.watches = Watches(self.machine.mvcc, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def apply(self, *commands: V3Command) -> None:
        """One batch."""
        machine = self.machine
        for command in commands:
            machine.apply(Index(machine.applied + 1), encode(command))
        self.watches.publish(machine.take_changes())
        machine.save()

    def settle(self) -> None:
        for _ in range(10_000):
            if not self.watches.behind:
                return
            self.watches.step()
        raise AssertionError("watches never catch up")

    def open(self) -> tuple[Stream, Sink]:
        sink = Sink()
        return self.watches.open(sink), sink


ALL = Wish(b"\0", b"\0")


@dataclass
class Followed:
    """A watch as its client sees it, and where it has got to in the twin's history."""

    wish: Wish
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
        wish=st.builds(Wish, KEYS, ENDS, st.booleans(), RARELY, RARELY),
        start=st.integers(-1, 12),
        back=st.booleans(),
    )
    def create(self, stream: int, wish: Wish, start: int, back: bool) -> None:
        opened, sink = self.streams[stream]
        if back:
            start = max(0, self.twin.revision + 3 - start)
        self.read()
        opened.create(wish, start)
        response = sink.sent.pop(0)
        assert response.created
        now = self.twin.revision
        is_empty = wish.range_end not in {b"", b"\0"} and wish.range_end <= wish.key
        if is_empty or start < 0:
            assert (response.watch_id, response.canceled) == (NO_WATCH, True)
            return
        assert (response.canceled, response.revision) == (False, now)
        assert (stream, response.watch_id) not in self.followed
        followed = Followed(wish, start or now + 1, stream)
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
            setattr(streams, name, at_once)

    @rule(stream=st.integers(0, 1))
    def stick(self, stream: int) -> None:
        sink = self.streams[stream][1]
        sink.stuck = True
        sink.backlog = streams.MAX_BACKLOG + 1

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
        if self.store.watches.telling:
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
                setattr(streams, name, as_it_was)
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
        wish = followed.wish
        expected = [
            change
            for change in self.history_with_prev(followed)
            if not (wish.no_put if KeyValue.FromString(change[2]).version else wish.no_delete)
            and (revision is None or change[0] <= revision)
        ]
        assert [event[:3] for event in followed.got] == [event[:3] for event in expected]
        for got, wanted in zip(followed.got, expected, strict=True):
            # What was read before a compaction had its pair; what is read after may have lost it.
            assert got[3] == (wanted[3] if wish.prev_kv else None) or (
                got[3] is None and got[0] <= self.twin.compacted
            )

    def history_with_prev(self, followed: Followed) -> list[Told]:
        compacted, self.twin.compacted = self.twin.compacted, -1
        try:
            return self.twin.history(followed.start, followed.wish.key, followed.wish.range_end)
        finally:
            self.twin.compacted = compacted


SLICES = {
    name: getattr(streams, name)
    for name in (
        "TOLD_AT_ONCE",
        "MOVED_AT_ONCE",
        "LOOKED_AT_ONCE",
        "EVENTS_AT_ONCE",
        "STEP_LOOKED",
        "STEP_TOLD",
    )
}
TOLD_AT_ONCE = streams.TOLD_AT_ONCE
TestWatching = Watching.TestCase
TestWatching.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_thousand_watches_are_given_the_same_bytes() -> None:
    store = Store()
    opened = [store.open() for _ in range(10)]
    for stream, _ in opened:
        for _ in range(100):
            stream.create(Wish(b"a", b"b", prev_kv=True))
    for _, sink in opened:
        sink.take()
    store.apply(Put(b"a1", b"1"), Put(b"a2", b"2"))
    store.settle()
    sent = [response for _, sink in opened for response in sink.take()]
    assert len(sent) == 1_000
    assert len({id(response.events) for response in sent}) == 1
    assert [event.kv.key for event in parsed(sent[0].events).events] == [b"a1", b"a2"]


def test_ids_are_the_servers_or_the_clients_and_never_double() -> None:
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


def test_refused_watches_leave_the_stream_alive() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(Wish(b"b", b"a"))
    stream.create(Wish(b"a", b"a"))
    stream.create(ALL, -1)
    stream.create(Wish(b"", b"\0"))
    reasons = [response.reason for response in sink.take()]
    assert reasons == [
        "mvcc: watcher range is empty",
        "mvcc: watcher range is empty",
        "etcdserver: mvcc: required revision has been compacted",
        "",
    ]
    store.apply(Put(b"x"))
    assert len(sink.take()) == 1


def test_the_number_of_watches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_WATCHES", 1)
    stream, sink = Store().open()
    stream.create(ALL)
    stream.create(ALL)
    assert [response.reason for response in sink.take()] == ["", "etcdserver: too many requests"]


def test_one_principal_does_not_have_all_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_WATCHES", 16)
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
    monkeypatch.setattr(streams, "MAX_WATCHES", 16)
    watches, sink = Store().watches, Sink()
    for number in range(16):
        watches.open(sink, f"2001:db8::{number:x}").create(ALL)
    assert sum(not each.canceled for each in sink.take()) == 8


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
    assert streams.MAX_BACKLOG < sink.backlog <= streams.MAX_BACKLOG + 2 * len(value)
    before = [event for response in sink.take() for event in told(response)]
    stream.drained()
    assert not store.watches.behind, "the sink has not drained"
    sink.backlog, sink.stuck = 0, False
    stream.drained()
    store.settle()
    after = [event for response in sink.take() for event in told(response)]
    assert [event[0] for event in before + after] == list(range(2, 102))


def test_history_comes_in_moderate_responses() -> None:
    store = Store()
    value = b"v" * 50_000
    for _ in range(100):
        store.apply(Put(b"a", value))
    stream, sink = store.open()
    stream.create(ALL, 1)
    steps = 0
    while store.watches.behind:
        store.watches.step()
        steps += 1
    sent = sink.take()[1:]
    assert max(len(response.events) for response in sent) <= streams.PART_BYTES + 2 * len(value)
    assert [event[0] for response in sent for event in told(response)] == list(range(2, 102))
    assert steps >= 4


def test_large_batches_are_cut_between_revisions() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL)
    sink.take()
    value = b"v" * 400_000
    store.apply(*[Txn((), (Put(b"a", value), Put(b"b", value))) for _ in range(4)])
    sent = sink.take()
    assert [[event[0] for event in told(response)] for response in sent] == [[2, 2, 3, 3], [4, 4, 5, 5]]
    assert [response.revision for response in sent] == [3, 5]


def test_a_large_revision_is_cut_for_watches_that_ask_for_it() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, fragment=True)
    stream.create(ALL)
    sink.take()
    value = b"v" * 700_000
    store.apply(Txn((), tuple(Put(b"%d" % number, value) for number in range(5))))
    sent = sink.take()
    assert [(response.watch_id, response.fragment) for response in sent] == [
        (0, True),
        (0, True),
        (0, False),
        (1, False),
    ]
    assert [len(list(told(response))) for response in sent] == [2, 2, 1, 5]
    assert {response.revision for response in sent} == {2}


def test_one_event_is_never_cut() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, fragment=True)
    sink.take()
    store.apply(Put(b"a", b"v" * 3_000_000))
    assert [response.fragment for response in sink.take()] == [False]


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


def test_progress_is_not_told_between_a_change_and_its_event() -> None:
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


def test_ticks_tell_idle_watches_that_asked() -> None:
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


def test_a_watch_made_between_a_change_and_its_event_is_not_told_of_it() -> None:
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


def test_a_state_that_jumps_takes_the_watches_along() -> None:
    """Another member's state is put in place: what was missed comes from its history, once."""
    store = Store()
    stream, sink = store.open()
    store.apply(Put(b"a"))
    stream.create(ALL)
    stream.create(Wish(b"z", b""))
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


def test_a_state_that_jumps_does_not_end_a_watch_that_had_nothing_to_hear() -> None:
    """It has been told everything up to the jump, however old its last event is."""
    store = Store()
    stream, sink = store.open()
    stream.create(Wish(b"z", b""))
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


@pytest.mark.parametrize("range_end", [b"", b"\0"])
@pytest.mark.parametrize("more", [-1, 0, 1, 2])
def test_a_step_that_ends_just_before_the_present_is_not_the_last(range_end: bytes, more: int) -> None:
    store = Store()
    last = 1 + streams.STEP_TOLD + more
    for _ in range(last - 1):
        store.apply(Put(b"a"))
    stream, sink = store.open()
    stream.create(Wish(b"a", range_end), 1)
    store.watches.step()
    store.apply(Put(b"a"))
    store.settle()
    events = [event[0] for response in sink.take() for event in told(response)]
    assert events == list(range(2, last + 2))


def test_a_watch_that_history_has_left_behind_is_told() -> None:
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


@pytest.mark.parametrize("behind", [False, True])
def test_a_stream_that_cannot_be_told_ends_alone(behind: bool) -> None:
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


class Counted(Wish):
    """A wish that counts how often it is asked."""

    asked = 0

    def wants(self, change: KeyChange) -> bool:
        Counted.asked += 1
        return super().wants(change)


@pytest.fixture
def crowd() -> tuple[Store, Stream, Sink]:
    """One stream with four slices of watches of one key."""
    store = Store()
    stream, sink = store.open()
    for _ in range(4 * TOLD_AT_ONCE):
        stream.create(Wish(b"a", b""))
    sink.take()
    return store, stream, sink


def test_many_watches_are_told_in_slices(crowd: tuple[Store, Stream, Sink]) -> None:
    """And in order: what comes meanwhile waits for the next round."""
    store, _, sink = crowd
    store.apply(Put(b"a", b"1"))
    sent = [len(sink.sent)]
    store.apply(Put(b"a", b"2"))
    store.apply(Put(b"a", b"3"))
    while store.watches.behind:
        store.watches.step()
        sent.append(len(sink.sent))
    assert max(after - before for before, after in zip([0, *sent], sent, strict=False)) <= TOLD_AT_ONCE
    values: dict[int, list[bytes]] = {}
    for response in sink.take():
        values.setdefault(response.watch_id, []).extend(event[2][-1:] for event in told(response))
    assert len(values) == 4 * TOLD_AT_ONCE
    assert set(map(tuple, values.values())) == {(b"1", b"2", b"3")}
    assert store.woken


def test_many_ranges_of_one_key_are_looked_at_in_slices() -> None:
    store = Store()
    stream, sink = store.open()
    for number in range(2 * streams.LOOKED_AT_ONCE):
        stream.create(Counted(b"a", b"b%d" % number, no_put=True))
    Counted.asked = 0
    store.apply(Put(b"a"))
    assert Counted.asked <= streams.LOOKED_AT_ONCE
    store.settle()
    assert Counted.asked == 2 * streams.LOOKED_AT_ONCE
    assert not any(response.events for response in sink.take())


def test_a_request_for_progress_costs_the_same_however_many_watches_there_are(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream, sink = crowd
    stream.progress()
    sink.take()
    looked: list[object] = []
    monkeypatch.setattr(streams.Watch, "is_told", lambda watch, _: looked.append(watch))
    watches, stream._watches = stream._watches, Unwalkable(stream._watches)
    for _ in range(600):
        stream.progress()
    stream._watches = watches
    assert (len(sink.take()), looked, len(stream.ahead)) == (600, [], 0)


class Unwalkable(dict[int, streams.Watch]):
    """A dictionary that is not walked through."""

    def values(self) -> NoReturn:
        raise AssertionError("all watches are looked at")

    __iter__ = items = values


def test_progress_asked_during_a_round_is_answered_once_at_its_end(
    crowd: tuple[Store, Stream, Sink],
) -> None:
    store, stream, sink = crowd
    other, other_sink = store.open()
    other.create(Wish(b"z", b""))
    store.apply(Put(b"a"))
    for _ in range(5):
        stream.progress()
        other.progress()
    stream.create(Wish(b"b", b""))
    store.settle()
    assert [response.watch_id for response in sink.take()][-1] == NO_WATCH
    assert [response.revision for response in other_sink.take() if response.is_progress] == [2]


def test_too_much_that_waits_is_read_from_history(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, sink = crowd
    monkeypatch.setattr(streams, "WAITING_BYTES", 10_000)
    store.apply(Put(b"a", b"1"))
    for _ in range(30):
        store.apply(Put(b"a", b"v" * 400 + b"2"))
        assert store.watches._waiting_bytes <= 10_000
    store.settle()
    count: dict[int, list[int]] = {}
    for response in sink.take():
        count.setdefault(response.watch_id, []).extend(event[0] for event in told(response))
    assert len(count) == 4 * TOLD_AT_ONCE
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
        store.watches._tell_on()
    store.settle()
    assert len(faults) == 1
    assert len({response.watch_id for response in sink.take()}) == 4 * TOLD_AT_ONCE


def test_many_watches_are_forgotten_in_slices(crowd: tuple[Store, Stream, Sink]) -> None:
    store, stream, sink = crowd
    stream.close()
    assert store.watches.count == 4 * TOLD_AT_ONCE - streams.MOVED_AT_ONCE
    store.apply(Put(b"a"))
    store.settle()
    assert (store.watches.count, sink.take()) == (0, [])
    assert not store.watches._ranges


def test_ticks_of_many_watches_come_in_slices() -> None:
    store = Store()
    stream, sink = store.open()
    for _ in range(3 * TOLD_AT_ONCE):
        stream.create(ALL, progress_notify=True)
    sink.take()
    stream.tick()
    assert len(sink.take()) == TOLD_AT_ONCE
    store.settle()
    assert len(sink.take()) == 2 * TOLD_AT_ONCE


def large_revision(keys: int) -> tuple[Store, Stream, Sink]:
    """A live watch of many keys, that are about to be deleted together."""
    store = Store()
    for number in range(keys):
        store.apply(Put(b"%05d" % number, b"v"))
    stream, sink = store.open()
    return store, stream, sink


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[int]:
    """How often a method is called, in the only element."""
    calls, method = [0], getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        calls[0] += 1
        return method(*arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def most_at_once(store: Store, calls: list[int]) -> int:
    """Settle; the most calls of one step."""
    most = before = calls[0]
    while store.watches.behind:
        store.watches.step()
        most, before = max(most, calls[0] - before), calls[0]
    return most


@pytest.mark.parametrize("prev_kv", [False, True])
def test_a_large_revision_is_written_in_slices_and_told_in_one_response(
    monkeypatch: pytest.MonkeyPatch, prev_kv: bool
) -> None:
    store, stream, sink = large_revision(5_000)
    stream.create(Wish(b"\0", b"\0", prev_kv))
    sink.take()
    calls = counted(monkeypatch, store.watches, "_event")
    store.apply(DeleteRange(b"\0", b"\0"))
    assert calls[0] <= streams.EVENTS_AT_ONCE
    most = most_at_once(store, calls)
    assert most <= streams.EVENTS_AT_ONCE // (5 if prev_kv else 1)
    (response,) = sink.take()
    assert len(list(told(response))) == calls[0] == 5_000


def test_a_large_revision_is_read_from_history_in_slices_and_told_in_one_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, stream, sink = large_revision(3_000)
    store.apply(DeleteRange(b"\0", b"\0"))
    revision = store.machine.mvcc.revision
    calls = counted(monkeypatch, store.machine.mvcc, "pair")
    stream.create(ALL, revision)
    assert most_at_once(store, calls) <= streams.STEP_TOLD + 1
    _, response = sink.take()
    assert [event[0] for event in told(response)] == [revision] * 3_000
    store.apply(Put(b"a"))
    assert [event[1] for response in sink.take() for event in told(response)] == [b"a"]


def test_watches_that_lag_together_read_history_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = large_revision(1_000)
    opened = [store.open() for _ in range(5)]
    for stream, _ in opened:
        for _ in range(100):
            stream.create(ALL, 1)
    calls = counted(monkeypatch, store.machine.mvcc, "pair")
    sent = counted(monkeypatch, store.watches, "_send")
    assert most_at_once(store, sent) <= TOLD_AT_ONCE
    assert calls[0] == 1_000
    for _, sink in opened:
        counts = dict.fromkeys(range(100), 0)
        for response in sink.take():
            counts[response.watch_id] += len(list(told(response)))
        assert set(counts.values()) == {1_000}


def test_who_reads_much_does_not_keep_others_from_reading() -> None:
    store = Store()
    for _ in range(2_000):
        store.apply(Put(b"a"))
    greedy, modest = Sink(), Sink()
    many = store.watches.open(greedy, "greedy")
    for number in range(500):
        many.create(Wish(b"\0", b"b%d" % number), 1)
    store.watches.open(modest, "modest").create(ALL, 1_990)
    store.watches.step()
    store.watches.step()
    assert len([event for response in modest.take() for event in told(response)]) == 12
    store.settle()


@pytest.mark.parametrize("is_shared", [False, True])
def test_who_shares_a_reading_does_not_wait_for_all_that_others_read(is_shared: bool) -> None:
    """A reading has a turn whenever one of those has it whom it is for."""
    store = Store()
    for _ in range(600):
        store.apply(Put(b"a"))
    many = [store.watches.open(Sink(), f"2001:db8::{number:x}") for number in range(10)]
    for number in range(500):
        many[number % 10].create(ALL, 1 + number)
    sink = Sink()
    modest = store.watches.open(sink, "modest")
    modest.create(ALL if is_shared else Wish(b"a", b""), 500)
    slices = 0
    while not modest.live:
        store.watches.step()
        slices += 1
    assert slices <= 4, "two households: every second slice is for either"
    store.settle()
    assert [event[0] for response in sink.take() for event in told(response)] == list(range(500, 602))


def test_a_reading_that_fails_ends_the_streams_of_all_whom_it_was_for(
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
        for _ in range(TOLD_AT_ONCE):
            stream.create(ALL, 1)
    other = store.watches.open(Sink(), "bob")
    other.create(Wish(b"a", b""), 1)
    with monkeypatch.context() as patch:
        patch.setattr(store.machine.mvcc, "history", None)
        while not faults:
            store.watches.step()
    store.settle()
    assert (len(faults), [sink.ended for sink in sinks], other.live) == (1, [1, 1], 1)
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


def test_a_state_that_jumps_while_history_is_read_is_read_anew() -> None:
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


def test_many_watches_go_on_from_history_in_slices_when_the_state_jumps(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream, sink = crowd
    moved = counted(monkeypatch, store.watches, "deaden")
    store.machine.apply(Index(1), encode(Put(b"a")))
    store.machine.take_changes()
    store.watches.replaced()
    assert moved[0] == streams.MOVED_AT_ONCE
    store.apply(Put(b"a"))
    stream.progress()
    assert not any(response.is_progress for response in sink.sent)
    assert most_at_once(store, moved) <= streams.MOVED_AT_ONCE
    got: dict[int, list[int]] = {}
    for response in sink.take():
        got.setdefault(response.watch_id, []).extend(event[0] for event in told(response))
    assert len(got) == 4 * TOLD_AT_ONCE
    assert set(map(tuple, got.values())) == {(2, 3)}


def test_many_that_waited_for_room_go_on_in_slices(
    crowd: tuple[Store, Stream, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream, sink = crowd
    sink.backlog = streams.MAX_BACKLOG + 1
    store.apply(Put(b"a"))
    store.settle()
    assert len(stream.parked) == 4 * TOLD_AT_ONCE
    sink.backlog = 0
    lagging = counted(monkeypatch, store.watches, "lag")
    stream.drained()
    assert lagging[0] == TOLD_AT_ONCE
    store.settle()
    assert len(sink.take()) == 4 * TOLD_AT_ONCE


def test_what_nobody_watches_is_let_go_of_in_slices() -> None:
    store = Store()
    for number in range(3 * streams.LOOKED_AT_ONCE):
        store.machine.apply(Index(number + 1), encode(Put(b"%05d" % number)))
    changes = store.machine.take_changes()
    store.watches.publish(changes)
    assert len(changes) == 2 * streams.LOOKED_AT_ONCE
    store.settle()
    assert not changes


def test_the_keys_of_watches_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_WATCH_BYTES", 16 * 1024)
    watches, sink, key = Store().watches, Sink(), b"k" * 1023
    stream = watches.open(sink, "a")
    for _ in range(8):
        stream.create(Wish(key, b""))
    stream.create(Wish(key, b""))
    assert [response.reason for response in sink.take()] == [*[""] * 8, "etcdserver: too many requests"]
    stream.cancel(1)
    stream.create(Wish(b"j", key[:1000]))
    assert sink.take()[-1].reason == ""
    stream.close()
    assert watches.count == 0
