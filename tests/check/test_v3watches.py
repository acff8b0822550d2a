"""The judge of v3 watches judged: right histories are accepted, each spoiled one is rejected. The right ones
come from the real store and the real watches.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from netstore.proto.rpc_pb2 import WatchResponse
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3.commands import Compact, DeleteRange, Put, Txn
from netstore.types import Index
from netstore.watch.streams import Selection
from netstore.watch.watches import Watches
from tests.check import v3watches
from tests.check.history import Wrong
from tests.check.v3watches import PairWatch, Told
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.types import KeyChange

HISTORIES: Final = 60
MEMBER: Final = 1
WISHES: Final = (
    Selection(b"\0", b"\0", prev_kv=True),
    Selection(b"k0", b"k2"),
    Selection(b"k1", b"", prev_kv=True),
    Selection(b"\0", b"\0", no_delete=True),
)


class History(NamedTuple):
    """What happened, and what watches of all of it were told."""

    watches: list[PairWatch]
    changes: list[KeyChange]
    compactions: set[int]
    revision: int

    def judge(self) -> int:
        """The verdict, with every watch open to the end."""
        return v3watches.judge(self.watches, self.changes, self.compactions, {MEMBER: (0, self.revision)})


class Sink:
    """Writes down what one watch is told."""

    backlog = 0

    def __init__(self, watch: PairWatch) -> None:
        self.watch = watch

    def send(
        self, watch_id: int, revision: int, events: bytes = b"", *, compact_revision: int = 0, **more: Any
    ) -> None:
        if more.get("created"):
            self.watch.opened_at = revision
        elif more.get("canceled"):
            self.watch.compacted = compact_revision
        else:
            self.watch.told.append(Told(revision, events))

    def broken(self) -> None:
        raise AssertionError("a response could not be made")


def history(random: Random) -> History:
    """Forty commands, and watches that begin somewhere among them, in the past or in the future."""
    machine = Machine(memory_engine())
    store = Watches(machine.mvcc, lambda: None)
    watches: list[PairWatch] = []
    streams = []
    changes: list[KeyChange] = []
    compactions: set[int] = set()
    for number in range(40):
        key, value = b"k%d" % random.randrange(3), b"p%d" % number
        both = Txn(success=(Put(key, value), Put(b"k3", value)))
        command = random.choice((Put(key, value), Put(key, value), both, DeleteRange(key)))
        if number == 20:
            compactions.add(machine.mvcc.revision)
            machine.apply(Index(machine.applied + 1), encode(Compact(machine.mvcc.revision)))
        machine.apply(Index(machine.applied + 1), encode(command))
        told = machine.take_changes()
        changes += told
        store.publish(told)
        if number % 5 == 0:
            start = random.choice((0, 1, max(1, machine.mvcc.revision - 3), machine.mvcc.revision + 2))
            watch = PairWatch(random.choice(WISHES), start, MEMBER)
            watches.append(watch)
            streams.append(store.open(Sink(watch)))
            streams[-1].create(watch.selection, start)
        while store.has_work and random.random() < 0.9:
            store.step()
        random.choice(streams).progress()
    while store.has_work:
        store.step()
    return History(watches, changes, compactions, machine.mvcc.revision)


def test_right_histories_are_accepted() -> None:
    assert all(history(Random(seed)).judge() > 0 for seed in range(HISTORIES))  # noqa: S311 - repeatable


def _told(random: Random, found: History) -> tuple[list[Told], int] | None:
    """A watch and the place of a response with events."""
    places = [
        (watch.told, place) for watch in found.watches for place, told in enumerate(watch.told) if told.events
    ]
    return random.choice(places) if places else None


def dropped(random: Random, found: History) -> bool:
    at = _told(random, found)
    if at is not None:
        del at[0][at[1]]
    return at is not None


def repeated(random: Random, found: History) -> bool:
    at = _told(random, found)
    if at is not None:
        at[0].insert(at[1], at[0][at[1]])
    return at is not None


def repeated_within(random: Random, found: History) -> bool:
    at = _told(random, found)
    if at is not None:
        told, place = at
        told[place] = told[place]._replace(events=2 * told[place].events)
    return at is not None


def out_of_order(random: Random, found: History) -> bool:
    for watch in found.watches:
        places = [place for place, told in enumerate(watch.told) if told.events]
        if len(places) > 1:
            first, second = places[:2]
            watch.told[first], watch.told[second] = watch.told[second], watch.told[first]
            return True
    return False


def split(random: Random, found: History) -> bool:
    """The two changes of one revision in two responses."""
    for watch in found.watches:
        for place, told in enumerate(watch.told):
            events = WatchResponse.FromString(told.events).events
            if len(events) == 2 and events[0].kv.mod_revision == events[1].kv.mod_revision:
                halves = [WatchResponse(events=[event]).SerializeToString() for event in events]
                watch.told[place : place + 1] = [Told(told.revision, half) for half in halves]
                return True
    return False


def progress_first(random: Random, found: History) -> bool:
    at = _told(random, found)
    if at is not None:
        told, place = at
        told.insert(place, Told(told[place].revision, b""))
    return at is not None


def goes_back(random: Random, found: History) -> bool:
    watch = random.choice(found.watches)
    watch.told += [Told(found.revision, b""), Told(found.revision - 1, b"")]
    return not watch.compacted


def not_asked_for(random: Random, found: History) -> bool:
    at = _told(random, found)
    if at is None:
        return False
    told, _ = at
    for watch in found.watches:
        if watch.told is told:
            watch.selection = watch.selection._replace(key=b"k9", range_end=b"")
    return True


def other_prev(random: Random, found: History) -> bool:
    """A pair before that was another."""
    for watch in found.watches:
        for place, told in enumerate(watch.told):
            response = WatchResponse.FromString(told.events)
            if any(event.HasField("prev_kv") for event in response.events):
                next(e for e in response.events if e.HasField("prev_kv")).prev_kv.version += 1
                watch.told[place] = Told(told.revision, response.SerializeToString())
                return True
    return False


def not_compacted(random: Random, found: History) -> bool:
    """A watch that was told everything is told that it is compacted."""
    watch = random.choice(found.watches)
    if watch.compacted:
        return False
    watch.told.append(Told(found.revision, b""))
    watch.compacted = max(found.compactions)
    return True


def never_compacted(random: Random, found: History) -> bool:
    """One is told of a compaction that nobody asked for."""
    for watch in found.watches:
        if watch.compacted:
            watch.compacted += 1
            return True
    return False


@pytest.mark.parametrize(
    "spoil",
    [
        dropped,
        repeated,
        repeated_within,
        out_of_order,
        split,
        progress_first,
        goes_back,
        not_asked_for,
        other_prev,
        not_compacted,
        never_compacted,
    ],
)
def test_what_is_spoiled_is_rejected(spoil: Callable[[Random, History], bool]) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        random = Random(seed)  # noqa: S311 - repeatable
        found = history(random)
        if spoil(random, found):
            with pytest.raises(Wrong):
                found.judge()
            rejected += 1
    assert rejected > HISTORIES // 4
