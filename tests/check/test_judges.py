"""The judges judged: histories of a store that is right are accepted, each spoiled one is rejected.

A spoiling is chosen such that no order of the calls can explain what it leaves.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import Fault
from netstore.state.v2.commands import QuorumGet, Set
from netstore.types import EtcdIndex, Event, NodeView
from tests.check import linear, revisions, watches
from tests.check.history import NEVER, Door, Fate, Operation, Wrong
from tests.check.linear import Call
from tests.check.registers import register_histories
from tests.check.store import BELOW, Clients
from tests.check.watches import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    Spoil = Callable[[Random, Clients], bool]

HISTORIES: Final = 500


def clients(seed: int, **how: float) -> Clients:
    return Clients(Random(seed), **{"calls": 40, **how})  # type: ignore[arg-type]  # noqa: S311 - repeatable


def search_all(history: Clients) -> None:
    for key, calls in register_histories(history.operations, BELOW):
        linear.judge(key, calls)


# --- what is right


def test_right_histories_are_accepted() -> None:
    told = 0
    for seed in range(HISTORIES):
        history = clients(seed)
        revisions.judge(history.operations, history.store.events)
        search_all(history)
        told += len(history.answered())
    assert told > 25 * HISTORIES


def test_two_thousand_calls_of_which_two_in_a_hundred_have_no_answer() -> None:
    history = clients(1, calls=2_000, unknown=0.02)
    assert sum(each.fate is Fate.UNKNOWN for each in history.operations) > 20
    revisions.judge(history.operations, history.store.events)
    search_all(history)


# --- spoilings: each says whether it found a place


def _pick(random: Random, found: list[Operation]) -> Operation | None:
    return random.choice(found) if found else None


def _told(operation: Operation) -> Event:
    assert isinstance(operation.outcome, Event)
    return operation.outcome


def _reads(history: Clients) -> list[Operation]:
    return [
        each
        for each in history.answered()
        if isinstance(each.command, QuorumGet)
        and each.door is not Door.LOCAL
        and isinstance(each.outcome, Event)
    ]


def _writes(history: Clients) -> list[Operation]:
    """Answered changes that left a value."""
    return [
        each
        for each in history.answered()
        if not isinstance(each.command, QuorumGet)
        and isinstance(each.outcome, Event)
        and each.outcome.node.value is not None
    ]


def invented(random: Random, history: Clients) -> bool:
    """A read of what nobody wrote."""
    read = _pick(random, _reads(history))
    if read is not None:
        event = _told(read)
        read.outcome = msgspec.structs.replace(event, node=msgspec.structs.replace(event.node, value=b"?"))
    return read is not None


def stale(random: Random, history: Clients) -> bool:
    """A read, not a local one, of a value that was overwritten by a change told to its client before the read
    began.
    """
    events = history.store.events
    overwritten = {
        event.index: (event, author)
        for author in _writes(history)
        for event in [_told(author)]
        if event.prev is not None
    }
    found: list[tuple[Operation, Event]] = []
    for read in _reads(history):
        for event, author in overwritten.values():
            if author.returned < read.called and _told(read).node.key == event.node.key:
                found.append((read, event))
    if not found:
        return False
    read, event = random.choice(found)
    prev = event.prev
    assert prev is not None
    read.outcome = Event("get", EtcdIndex(event.index - 1), prev)
    assert events[event.index - 1] is event
    return True


def exchanged(random: Random, history: Clients) -> bool:
    """Two changes told to each other's clients."""
    found = _writes(history)
    if len(found) < 2:
        return False
    one, two = random.sample(found, 2)
    one.outcome, two.outcome = two.outcome, one.outcome
    return True


def refused(random: Random, history: Clients) -> bool:
    """A change that happened, told as refused."""
    write = _pick(random, _writes(history))
    if write is not None:
        write.fate, write.outcome = Fate.REFUSED, Fault(300, b"refused")
    return write is not None


def backwards(random: Random, history: Clients) -> bool:
    """Of two changes the later one was over before the earlier one began."""
    writes = sorted(_writes(history), key=lambda each: _told(each).index)
    found = [(one, two) for one, two in pairwise(writes) if one.returned < two.called]
    if not found:
        return False
    one, two = random.choice(found)
    one.called, one.returned, two.called, two.returned = two.called, two.returned, one.called, one.returned
    return True


def unasked(random: Random, history: Clients) -> bool:
    """A change that nobody asked for: its call is not in the history."""
    write = _pick(random, _writes(history))
    if write is not None:
        history.operations.remove(write)
    return write is not None


def foreseen(random: Random, history: Clients) -> bool:
    """A change by somebody who called only after others had been told of it."""
    answered = history.answered()
    last = max((each.returned for each in answered), default=0)

    def is_known(write: Operation) -> bool:
        index = _told(write).index
        return any(
            each is not write and isinstance(each.outcome, Event | Fault) and each.outcome.index >= index
            for each in answered
        )

    write = _pick(random, [each for each in _writes(history) if is_known(each)])
    if write is not None:
        write.called, write.returned, write.fate, write.outcome = last + 1, NEVER, Fate.UNKNOWN, None
    return write is not None


def other_prev(random: Random, history: Clients) -> bool:
    """A change told with a value before it that was never there."""
    write = _pick(random, _writes(history))
    if write is not None:
        event = _told(write)
        before = NodeView(event.node.key, EtcdIndex(1), EtcdIndex(1), b"?")
        write.outcome = msgspec.structs.replace(event, prev=before)
    return write is not None


def gap(random: Random, history: Clients) -> bool:
    """A change that is missing from the store's order."""
    if len(history.store.events) < 2:
        return False
    del history.store.events[random.randrange(len(history.store.events) - 1)]
    return True


def rejected_by_order(spoil: Spoil, history: Clients, random: Random) -> bool | None:
    """None when there was nothing to spoil."""
    if not spoil(random, history):
        return None
    try:
        revisions.judge(history.operations, history.store.events)
    except Wrong:
        return True
    return False


@pytest.mark.parametrize(
    "spoil", [invented, stale, exchanged, refused, backwards, unasked, foreseen, other_prev, gap]
)
def test_the_judge_of_the_order_rejects_what_is_spoiled(spoil: Spoil) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        verdict = rejected_by_order(spoil, clients(seed), Random(seed))  # noqa: S311 - repeatable
        assert verdict is not False, f"history {seed} was accepted"
        rejected += verdict is True
    assert rejected > HISTORIES // 2


@pytest.mark.parametrize("spoil", [invented, stale, other_prev])
def test_the_search_rejects_what_is_spoiled(spoil: Spoil) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        history = clients(seed)
        if spoil(Random(seed), history):  # noqa: S311 - repeatable
            with pytest.raises(Wrong):
                search_all(history)
            rejected += 1
    assert rejected > HISTORIES // 2


# --- the search against its twin


def swap(
    value: int, wanted: int | None, swapped: bool
) -> Callable[[bytes | None], tuple[bool, bytes | None]]:
    """A compare-and-swap (of anything, if `wanted` is None) and how it ended."""

    def step(state: bytes | None) -> tuple[bool, bytes | None]:
        fits = wanted is None or state == b"%d" % wanted
        return fits == swapped, b"%d" % value if fits and swapped else state

    return step


def attempt(value: int, wanted: int) -> Callable[[bytes | None], tuple[bool, bytes | None]]:
    """A compare-and-swap without an answer."""

    def step(state: bytes | None) -> tuple[bool, bytes | None]:
        return True, b"%d" % value if state == b"%d" % wanted else state

    return step


def see(value: int) -> Callable[[bytes | None], tuple[bool, bytes | None]]:
    """A read and what it saw; 0 for nothing."""
    return lambda state: (state == (b"%d" % value if value else None), state)


STEPS = st.one_of(
    st.builds(lambda value: (swap(value, None, True), False), st.integers(1, 3)),
    st.builds(lambda value: (swap(value, None, True), True), st.integers(1, 3)),
    st.builds(
        lambda value, wanted, swapped: (swap(value, wanted, swapped), False),
        st.integers(1, 3),
        st.integers(1, 3),
        st.booleans(),
    ),
    st.builds(lambda value, wanted: (attempt(value, wanted), True), st.integers(1, 3), st.integers(1, 3)),
    st.builds(lambda value: (see(value), False), st.integers(0, 3)),
)
"""What a call does, and whether it has no answer."""


def by_trying_all(calls: list[Call]) -> bool:
    """Whether some order of all answered and any of the other calls explains the answers."""
    for chosen in range(1 << len(calls)):
        some = [call for place, call in enumerate(calls) if chosen >> place & 1 or call.returned != NEVER]
        if len(some) != sum(chosen >> place & 1 for place in range(len(calls))):
            continue
        for order in permutations(some):
            if any(two.returned < one.called for at, one in enumerate(order) for two in order[at:]):
                continue
            state, fits = None, True
            for call in order:
                fits, state = call.step(state)
                if not fits:
                    break
            if fits:
                return True
    return False


@given(st.lists(st.tuples(STEPS, st.integers(0, 12), st.integers(1, 8)), max_size=5))
def test_the_search_finds_an_order_exactly_if_there_is_one(
    drawn: list[tuple[tuple[Callable[[bytes | None], tuple[bool, bytes | None]], bool], int, int]],
) -> None:
    calls = [
        Call(2 * called, NEVER if unanswered else 2 * (called + length) + 1, step)
        for (step, unanswered), called, length in drawn
    ]
    assert (linear.search(calls) is None) == by_trying_all(calls)


def test_a_search_that_takes_too_long_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "STEPS", 10)
    with pytest.raises(Wrong, match="no verdict"):
        search_all(clients(2, calls=200))


# --- watches


def watch_of(random: Random, history: Clients) -> Watch:
    """A watch that was told everything, as a recorder would have it."""
    events = history.store.events
    path, recursive = random.choice(((BELOW, True), (b"/", True), (BELOW + b"/0", False)))
    watch = Watch(path, recursive, True, 1, life=1, since=random.randrange(1, len(events) + 1), opened_at=0)
    watch.given = [event for event in events[watch.since - 1 :] if watches.must_see(watch, event)]
    return watch


def members(history: Clients) -> dict[int, tuple[int, int]]:
    return {1: (1, history.store.index)}


def test_watches_that_were_told_everything_are_accepted() -> None:
    told = 0
    for seed in range(HISTORIES):
        history = clients(seed)
        watch = watch_of(Random(seed), history)  # noqa: S311 - repeatable
        watches.judge([watch], history.store.events, members(history))
        told += len(watch.given)
    assert told > 3 * HISTORIES


def _drop(random: Random, watch: Watch) -> None:
    del watch.given[random.randrange(len(watch.given))]


def _repeat(random: Random, watch: Watch) -> None:
    watch.recursive = True
    place = random.randrange(len(watch.given))
    watch.given.insert(place, watch.given[place])


def _turn(random: Random, watch: Watch) -> None:
    place = random.randrange(len(watch.given) - 1)
    watch.given[place : place + 2] = reversed(watch.given[place : place + 2])


def _alter(random: Random, watch: Watch) -> None:
    place = random.randrange(len(watch.given))
    event = watch.given[place]
    watch.given[place] = msgspec.structs.replace(event, node=msgspec.structs.replace(event.node, value=b"?"))


def _early(random: Random, watch: Watch) -> None:
    watch.since = watch.given[0].index + 1


def _stray(random: Random, watch: Watch) -> None:
    watch.path, watch.recursive = b"/elsewhere", False


def _more(random: Random, watch: Watch) -> None:
    watch.stream = False


def _cleared(random: Random, watch: Watch) -> None:
    watch.cleared = Fault(401, b"", watch.given[-1].index)


@pytest.mark.parametrize("spoil", [_drop, _repeat, _turn, _alter, _early, _stray, _more, _cleared])
def test_watches_that_were_told_something_else_are_rejected(spoil: Callable[[Random, Watch], None]) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        history = clients(seed)
        random = Random(seed)  # noqa: S311 - repeatable
        watch = watch_of(random, history)
        if len(watch.given) < 2:
            continue
        spoil(random, watch)
        with pytest.raises(Wrong):
            watches.judge([watch], history.store.events, members(history))
        rejected += 1
    assert rejected > HISTORIES // 2


def test_a_watch_whose_member_went_down_may_end_early() -> None:
    history = clients(3)
    watch = watch_of(Random(4), history)  # noqa: S311 - repeatable
    watch.path, watch.recursive, watch.since = b"/", True, 1
    watch.given = list(history.store.events[:-1])
    with pytest.raises(Wrong, match="never told"):
        watches.judge([watch], history.store.events, members(history))
    watches.judge([replace(watch, life=0)], history.store.events, members(history))


# --- by hand


def operation(serial: int, called: int, returned: int, door: Door, outcome: Event) -> Operation:
    command = QuorumGet(b"/r/0") if door is not Door.LOG else Set(b"/r/0", outcome.node.value or b"")
    made = Operation(serial, serial, 1, door, command, called)
    made.end(returned, outcome)
    return made


def test_a_value_read_once_is_not_unread() -> None:
    """A read that overlaps a write may see it or not; the next read must not take that back (Herlihy, Wing,
    1990).
    """
    one = NodeView(b"/r/0", EtcdIndex(1), EtcdIndex(1), b"1")
    two = NodeView(b"/r/0", EtcdIndex(2), EtcdIndex(2), b"2")
    first = Event("set", EtcdIndex(1), one)
    second = Event("set", EtcdIndex(2), two, one)
    history = [
        operation(0, 1, 2, Door.LOG, first),
        operation(1, 3, 20, Door.LOG, second),
        operation(2, 4, 5, Door.LINEAR, Event("get", EtcdIndex(2), two)),
        operation(3, 6, 7, Door.LINEAR, Event("get", EtcdIndex(1), one)),
    ]
    revisions.judge(history[:3], [first, second])
    with pytest.raises(Wrong, match="had been told before"):
        revisions.judge(history, [first, second])
    for key, calls in register_histories(history[:3], BELOW):
        linear.judge(key, calls)
    for key, calls in register_histories(history, BELOW):
        with pytest.raises(Wrong, match="no order"):
            linear.judge(key, calls)
