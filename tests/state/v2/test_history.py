"""The event window against a list that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import Fault, NetstoreError
from netstore.state.v2.history import CAPACITY, MOST_BYTES, History
from netstore.types import EtcdIndex, Event, NodeView
from tests.state.strategies import PATHS

ACTIONS = ("set", "create", "update", "delete", "compareAndDelete", "expire")


def event(
    index: int, key: bytes = b"/a", action: str = "set", directory: bool = False, refresh: bool = False
) -> Event:
    node = NodeView(key, EtcdIndex(1), EtcdIndex(index), None if directory else b"", directory)
    return Event(action, EtcdIndex(index), node, refresh=refresh)


def scan_twin(events: list[Event], path: bytes, recursive: bool, since: int) -> Event | Fault | None:
    """v2 API, history, word by word."""
    kept = events[-1000:]
    if kept and since < kept[0].index:
        cause = f"the requested history has been cleared [{kept[0].index}/{since}]"
        return Fault(401, cause.encode(), kept[-1].index)
    for candidate in kept:
        if candidate.index < since or candidate.refresh or candidate.internal:
            continue
        exact = candidate.node.key == path
        below = recursive and candidate.node.key.startswith(path.rstrip(b"/") + b"/")
        removed_above = (
            candidate.action in {"delete", "expire"}
            and candidate.node.dir
            and path.startswith(candidate.node.key)
        )
        if exact or below or removed_above:
            return candidate
    return None


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    changes = draw(
        st.lists(
            st.tuples(
                PATHS.filter(lambda p: p != b"/"), st.sampled_from(ACTIONS), st.booleans(), st.booleans()
            ),
            max_size=20,
        )
    )
    start = draw(st.sampled_from((1, 1, 5_000)))
    return [
        Event(
            e.action, e.index, e.node, refresh=e.refresh, internal=draw(st.integers(0, 9)) == 0
        )
        for e in (event(start + i, *change) for i, change in enumerate(changes))
    ]  # fmt: skip


@given(histories(), PATHS, st.booleans(), st.integers(-2, 22))
def test_scan_gives_what_the_twin_gives(
    events: list[Event], path: bytes, recursive: bool, offset: int
) -> None:
    history = History()
    history.restore(reversed(events))
    since = max((events[0].index if events else 1) + offset, 1)
    assert history.scan(path, recursive, since) == scan_twin(events, path, recursive, since)


@pytest.mark.parametrize("count", [1, 999, 1_000, 1_001, 2_500])
def test_the_window_keeps_the_last_thousand(count: int) -> None:
    history = History()
    events = [event(index, b"/%d" % index) for index in range(1, count + 1)]
    for one in events:
        history.add(one)
    assert list(history.since(0)) == events[-CAPACITY:]
    assert (history.first, history.last) == (max(count - 999, 1), count)
    assert history.scan(b"/", True, history.first) == events[-CAPACITY:][0]
    if count > CAPACITY:
        assert history.scan(b"/", True, 1) == Fault(
            401, b"the requested history has been cleared [%d/1]" % (count - 999), count
        )
    assert history.scan(b"/", True, count + 1) is None


@pytest.mark.parametrize("size", [40_000, 1_000_000, MOST_BYTES, MOST_BYTES + 1])
def test_the_window_of_large_values_begins_later(size: int) -> None:
    """In bytes it is bounded too; the same events are kept after a restart."""
    value = bytes(size)
    history, restored = History(), History()
    stored: list[Event] = []
    for index in range(1, 1500):
        small = index > 1200
        node = NodeView(b"/a", EtcdIndex(1), EtcdIndex(index), b"" if small else value)
        stored.append(Event("set", EtcdIndex(index), node, None if small else node))
        history.add(stored[-1])
        kept = list(history.since(0))
        assert kept[-1] is stored[-1]
        assert len(kept) == 1 or sum(2 * len(each.node.value or b"") for each in kept) <= MOST_BYTES
        if index == 1200:
            assert len(kept) == max(MOST_BYTES // (2 * size + 2), 1)
    restored.restore(reversed(stored[-CAPACITY:]))
    assert list(restored.since(0)) == list(history.since(0))
    assert (restored.first, restored.last) == (history.first, history.last)


def test_an_empty_window_has_cleared_nothing() -> None:
    assert History().scan(b"/", True, 1) is None


def test_a_gap_stops_the_member() -> None:
    history = History()
    history.add(event(1))
    with pytest.raises(NetstoreError, match="event 3 after 1"):
        history.add(event(3))


def test_a_watch_from_now_on_looks_at_nothing() -> None:
    history = History()
    history.restore(event(index) for index in range(1, CAPACITY + 1))
    history._ring = []  # looking would fail
    assert history.scan(b"/a", True, CAPACITY + 1) is None
