"""v2 watchers: which get an event, in which order, and which are ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.types import EtcdIndex, Event, NodeView
from netstore.watch.hub import (
    END_ALL_WAITING,
    END_ALL_WAITING_BYTES,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    SLICE_WATCHERS,
    UNIT_BYTES,
    Hub,
    Watcher,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = st.sampled_from((b"a", b"b", b"_h"))
PATHS = st.lists(NAMES, max_size=4).map(lambda names: b"/" + b"/".join(names))


@dataclass
class Client:
    """What a watcher asked for and what it got; `room` is how many events it accepts."""

    path: bytes
    recursive: bool
    stream: bool
    since: int
    room: int = 1_000
    got: list[Event] = field(default_factory=list)
    watcher: Watcher | None = None
    ends: int = 0

    def deliver(self, event: Event | None) -> bool:
        if event is None:
            self.ends += 1
            return False
        if len(self.got) >= self.room:
            return False
        self.got.append(event)
        return True

    def join(self, hub: Hub) -> Client:
        self.watcher = hub.watch(self.path, self.recursive, self.stream, self.since, self.deliver)
        return self


def event(index: int, key: bytes, action: str = "set", removed: tuple[bytes, ...] = ()) -> Event:
    return Event(action, EtcdIndex(index), NodeView(key, EtcdIndex(1), EtcdIndex(index)), removed=removed)


def deliveries(client: Client, change: Event) -> int:
    """How often a watcher that is not removed gets an event (v2 API, which events match live)."""
    key, path = change.node.key, client.path
    if change.index < client.since:
        return 0
    told = 0
    removal = change.action in {"delete", "compareAndDelete", "expire"}
    if key == path:
        told += 2 if removal else 1
    elif client.recursive and key.startswith(path.rstrip(b"/") + b"/"):
        below = key[len(path.rstrip(b"/")) :]
        told += b"/_" not in below
    if removal and path in change.removed:
        told += 1
    return told


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    made = []
    for index in range(1, draw(st.integers(0, 12)) + 1):
        key = draw(PATHS.filter(lambda path: path != b"/"))
        action = draw(st.sampled_from(("set", "create", "delete", "expire", "compareAndDelete")))
        removed: tuple[bytes, ...] = ()
        if action in {"delete", "expire"}:
            below = draw(st.lists(PATHS.filter(lambda path: path != b"/"), max_size=3, unique=True))
            removed = tuple(sorted(key + path for path in below))
        made.append(event(index, key, action, removed))
    return made


CLIENTS = st.lists(
    st.builds(
        Client, PATHS, st.booleans(), st.booleans(), st.integers(1, 14), st.sampled_from((0, 1, 2, 1_000))
    ),
    max_size=8,
)


@given(CLIENTS, events())
def test_watchers_get_the_events_that_the_model_says(clients: list[Client], changes: list[Event]) -> None:
    hub = Hub()
    for client in clients:
        client.join(hub)
    for change in changes:
        hub.publish(change)
    for client in clients:
        wanted = [change for change in changes for _ in range(deliveries(client, change))]
        told = wanted if client.stream else wanted[:1]
        assert client.got == told[: client.room]
        assert client.watcher is not None
        gone = bool(told and not client.stream) or len(told) > client.room
        assert client.watcher.active is not gone
    assert hub.count == sum(client.watcher is not None and client.watcher.active for client in clients)


@given(CLIENTS, st.data())
def test_removed_watchers_leave_nothing_behind(clients: list[Client], data: st.DataObject) -> None:
    hub = Hub()
    for client in clients:
        client.join(hub)
    for client in data.draw(st.permutations(clients)):
        assert client.watcher is not None
        client.watcher.remove()
        client.watcher.remove()
    assert hub.count == 0
    assert hub.maps.at == hub.maps.recursive == {}
    hub.publish(event(100, b"/a/b"))
    assert [client.got for client in clients] == [[] for _ in clients]


def test_all_get_the_same_object() -> None:
    hub = Hub()
    clients = [Client(b"/a", True, stream, 1).join(hub) for stream in (True, False) * 3]
    change = event(1, b"/a/b")
    hub.publish(change)
    assert all(client.got[0] is change for client in clients)
    assert hub.count == 3


def test_a_watcher_may_remove_others_while_it_gets_an_event() -> None:
    hub = Hub()
    victim = Client(b"/a", False, True, 1)

    def deliver(_: Event | None) -> bool:
        assert victim.watcher is not None
        victim.watcher.remove()
        return True

    hub.watch(b"/a", False, True, 1, deliver)
    victim.join(hub)
    hub.publish(event(1, b"/a"))
    assert victim.got == []
    assert hub.count == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_watcher_may_watch_again_while_it_gets_an_event(stream: bool) -> None:
    """The new watch begins with the next event, not with the current one."""
    hub = Hub()
    again = Client(b"/a", False, stream, 2)

    def deliver(_: Event | None) -> bool:
        again.join(hub)
        return True

    hub.watch(b"/a", False, False, 1, deliver)
    hub.publish(event(1, b"/a"))
    assert again.got == []
    hub.publish(event(2, b"/a"))
    assert len(again.got) == 1


def test_a_slow_client_is_removed_and_the_others_stay() -> None:
    hub = Hub()
    slow, fast = Client(b"/", True, True, 1, room=2).join(hub), Client(b"/", True, True, 1).join(hub)
    for index in range(1, 6):
        hub.publish(event(index, b"/a"))
    assert len(slow.got) == 2
    assert len(fast.got) == 5
    assert hub.count == 1


def test_an_interrupt_ends_every_watch_once() -> None:
    """Also if the client watches again at once: the new watch stays."""
    hub = Hub()
    clients = [
        Client(path, recursive, stream, 1).join(hub)
        for path in (b"/", b"/a")
        for recursive in (True, False)
        for stream in (True, False)
    ]
    again = Client(b"/a", True, True, 1)

    def deliver(what: Event | None) -> bool:
        again.join(hub)
        return False

    hub.watch(b"/a", False, False, 1, deliver)
    hub.interrupt()
    assert [client.ends for client in clients] == [1] * len(clients)
    assert hub.count == 1
    hub.publish(event(1, b"/a"))
    assert len(again.got) == 1
    assert all(client.got == [] for client in clients)


@pytest.mark.parametrize("stream", [False, True])
def test_a_watcher_that_raises_is_ended_and_no_other(stream: bool) -> None:
    hub = Hub()
    faults: list[Exception] = []
    told: list[Event | None] = []
    hub.failed = faults.append

    def deliver(what: Event | None) -> bool:
        told.append(what)
        raise MemoryError

    hub.watch(b"/a", False, stream, 1, deliver)
    other = Client(b"/a", False, True, 1).join(hub)
    hub.publish(event(1, b"/a"))
    hub.publish(event(2, b"/a"))
    assert [what is None for what in told] == [False, True]
    assert len(faults) == 2
    assert len(other.got) == 2
    assert hub.count == 1


def test_an_interrupt_is_not_stopped_by_a_watcher_that_raises() -> None:
    hub = Hub()
    faults: list[Exception] = []
    hub.failed = faults.append

    def deliver(_: Event | None) -> bool:
        raise MemoryError

    hub.watch(b"/a", False, True, 1, deliver)
    other = Client(b"/a", False, True, 1).join(hub)
    hub.interrupt()
    assert (len(faults), other.ends, hub.count) == (1, 1, 0)


def crowd(hub: Hub, count: int, path: bytes = b"/a") -> list[Client]:
    return [Client(path, False, True, 1, room=1 << 60).join(hub) for _ in range(count)]


def told(clients: list[Client]) -> int:
    return sum(len(client.got) + client.ends for client in clients)


def test_events_are_delivered_in_slices_and_in_order_to_each_watcher() -> None:
    hub = Hub()
    clients = crowd(hub, 1_000)
    events = [event(1, b"/a"), event(2, b"/a/b", "delete"), event(3, b"/a")]
    hub.publish(*events[:2])
    late = Client(b"/a", False, True, 3).join(hub)
    hub.publish(events[2])
    slices, before = 2, told(clients)
    assert before == 2 * SLICE_WATCHERS
    while hub.has_work:
        assert told(clients) - before <= SLICE_WATCHERS
        before = told(clients)
        hub.step()
        slices += 1
    assert slices >= 2 * 1_000 // SLICE_WATCHERS
    assert all(client.got == [events[0], events[2]] for client in clients)
    assert late.got == [events[2]]


def test_look_ups_of_removed_paths_count_as_work() -> None:
    hub = Hub()
    (client,) = crowd(hub, 1, b"/d/99999")
    hub.publish(event(1, b"/d", "delete", tuple(b"/d/%d" % number for number in range(100_000))))
    steps = 0
    while hub.has_work:
        hub.step()
        steps += 1
    assert 15 <= steps <= 25
    assert len(client.got) == 1


def test_a_watcher_removed_between_slices_gets_nothing() -> None:
    hub = Hub()
    clients = crowd(hub, SLICE_WATCHERS + 1)
    hub.publish(event(1, b"/a"))
    last = clients[-1].watcher
    assert last is not None
    last.remove()
    hub.step()
    assert told(clients) == SLICE_WATCHERS
    assert not hub.has_work


def test_an_interrupt_ends_many_watchers_in_slices_and_delivers_nothing_more() -> None:
    hub = Hub()
    clients = crowd(hub, 1_000)
    hub.publish(event(1, b"/a"))
    hub.interrupt()
    late = Client(b"/a", False, True, 7).join(hub)
    hub.publish(event(7, b"/a"))
    before = 3 * SLICE_WATCHERS
    assert told(clients) == before
    while hub.has_work:
        assert told(clients) - before <= SLICE_WATCHERS
        before = told(clients)
        hub.step()
    assert [client.ends for client in clients] == [1] * 1_000
    assert sum(len(client.got) for client in clients) == SLICE_WATCHERS, "of the event before"
    assert (len(late.got), hub.count) == (1, 1)


def large(index: int, size: int) -> Event:
    return Event("set", EtcdIndex(index), NodeView(b"/a", EtcdIndex(1), EtcdIndex(index), bytes(size)))


def settle(hub: Hub) -> int:
    steps = 0
    while hub.has_work:
        hub.step()
        steps += 1
    return steps


def test_a_slice_delivers_a_large_event_to_fewer_watchers() -> None:
    hub = Hub()
    clients = crowd(hub, 100)
    hub.publish(large(1, 49 * UNIT_BYTES))
    assert told(clients) == SLICE_WATCHERS // 50
    settle(hub)
    assert [len(client.got) for client in clients] == [1] * 100


def test_each_turn_with_events_does_a_slice() -> None:
    hub = Hub()
    clients = crowd(hub, SLICE_WATCHERS * 2)
    for number in (1, 2):
        hub.publish(event(number, b"/a"))
    assert told(clients) == SLICE_WATCHERS * 2


def assert_no_gaps(clients: list[Client], last: int) -> None:
    """Each got all events, or all up to one of them and then the end of its watch."""
    for client in clients:
        got = [each.index for each in client.got]
        assert got == list(range(1, len(got) + 1))
        assert client.ends == (len(got) < last), "ended, not passed over"


@pytest.mark.parametrize(
    ("most", "size"), [(MAX_WAITING, 1), (MAX_WAITING_BYTES // (1024 * 1024), 1024 * 1024)]
)
def test_if_much_waits_watchers_that_a_long_event_has_not_reached_are_ended(most: int, size: int) -> None:
    hub = Hub()
    clients = crowd(hub, 1_000)
    number = 0
    while hub.count == 1_000:
        assert len(hub._waiting) <= most + 1
        number += 1
        hub.publish(large(number, size))
    assert number >= most
    settle(hub)
    last = number + 3
    for each in range(number + 1, last + 1):
        hub.publish(large(each, 1))
        settle(hub)
    assert_no_gaps(clients, last)
    assert 0 < hub.count < 1_000, "some keep up now"
    assert sum(client.ends for client in clients) == 1_000 - hub.count


def test_events_that_fit_a_slice_end_no_watcher_however_many_come_together() -> None:
    hub = Hub()
    clients = crowd(hub, 7)
    hub.publish(*[event(number, b"/a") for number in range(1, END_ALL_WAITING * 2)])
    settle(hub)
    assert_no_gaps(clients, END_ALL_WAITING * 2 - 1)
    assert hub.count == 7


@pytest.mark.parametrize(
    ("most", "size"), [(END_ALL_WAITING, 0), (END_ALL_WAITING_BYTES // (1024 * 1024), 1024 * 1024)]
)
def test_if_too_much_waits_all_watchers_are_ended(most: int, size: int) -> None:
    """Each event takes less than a slice, but they come faster than slices."""
    hub = Hub()
    clients = crowd(hub, 3)
    last = 0
    while hub.count:
        assert len(hub._waiting) < most + 500
        hub.publish(*[large(last + number, size) for number in range(1, 501)])
        last += 500
    assert not hub.has_work
    assert_no_gaps(clients, last)
    assert last > most


def test_watchers_of_later_events_are_ended_if_they_delay_a_long_one() -> None:
    hub = Hub()
    clients = [Client(b"/a", False, True, 1 << 60).join(hub) for _ in range(20_000)]
    for number in range(1, MAX_WAITING * 2):
        hub.publish(event(number, b"/a"))
    settle(hub)
    assert hub.count < 20_000 // 2
    assert all(client.got == [] for client in clients)
    assert sum(client.ends for client in clients) == 20_000 - hub.count


def test_the_waiting_events_are_bounded_however_slow_delivery_is() -> None:
    hub = Hub()
    most = 0
    for number in range(1, 2_000):
        crowd(hub, 200)
        hub.publish(event(number, b"/a"))
        most = max(most, len(hub._waiting))
    assert most <= END_ALL_WAITING


def test_an_event_is_prepared_once_in_slices_before_it_is_delivered() -> None:
    hub, done = Hub(), []

    def prepare(change: Event) -> Iterator[float]:
        for part in range(5):
            done.append((change.index, part))
            yield SLICE_WATCHERS

    hub.prepare = prepare
    clients = [Client(path, True, True, 1).join(hub) for path in (b"/a", b"/", b"/a")]
    changes = [event(index, b"/a") for index in (1, 2)]
    hub.publish(*changes)
    slices = 1
    while hub.has_work:
        assert len(done) == slices
        hub.step()
        slices += 1
    assert done == [(index, part) for index in (1, 2) for part in range(5)]
    assert all(client.got == changes for client in clients)


def test_a_failed_preparation_is_reported_and_the_event_is_delivered() -> None:
    hub, failures = Hub(), list[Exception]()
    hub.failed = failures.append

    def prepare(_: Event) -> Iterator[float]:
        yield 1
        raise MemoryError

    hub.prepare = prepare
    client = Client(b"/a", False, True, 1).join(hub)
    hub.publish(event(1, b"/a"))
    assert [type(each) for each in failures] == [MemoryError]
    assert len(client.got) == 1


def test_nothing_is_prepared_for_watchers_that_are_ended_or_removed() -> None:
    hub, done = Hub(), []

    def prepare(change: Event) -> Iterator[float]:
        while True:
            done.append(change.index)
            yield SLICE_WATCHERS

    hub.prepare = prepare
    gone, ended = (Client(path, False, True, 1).join(hub) for path in (b"/gone", b"/ended"))
    hub.publish(event(1, b"/nobody"), event(2, b"/gone"))
    assert gone.watcher is not None
    gone.watcher.remove()
    hub.step()
    assert (done, hub.has_work) == ([2], False)
    hub.publish(*(event(index, b"/ended") for index in range(3, MAX_WAITING + 4)))
    hub.step()
    assert (done, ended.ends) == ([2, 3, 3], 0)
    hub.step()
    assert done == [2, 3, 3]
    assert (ended.got, ended.ends, hub.has_work) == ([], 1, False)


def test_an_interrupted_event_is_not_delivered() -> None:
    hub, done = Hub(), []

    def prepare(change: Event) -> Iterator[float]:
        done.append(change.index)
        yield SLICE_WATCHERS
        done.append(change.index)

    hub.prepare = prepare
    client = Client(b"/a", False, True, 1).join(hub)
    hub.publish(event(1, b"/a"))
    hub.interrupt()
    later = Client(b"/a", False, True, 2).join(hub)
    hub.publish(event(2, b"/a"))
    hub.step()
    assert done == [1, 2, 2]
    assert (client.got, client.ends, [each.index for each in later.got]) == ([], 1, [2])
