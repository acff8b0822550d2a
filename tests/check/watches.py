"""The judge of watches: every event from the given index on, in order, or 401; never a silent gap (P5; v2
API, watches).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.check.history import Wrong
from tests.check.model import REMOVALS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netstore.errors import Fault
    from netstore.types import Event

WINDOW = 1000
"""How many changes a store keeps."""


@dataclass(slots=True, eq=False)
class Watch:
    """One watch and what came of it."""

    path: bytes
    recursive: bool
    stream: bool
    member: int
    life: int = 0
    since: int = 0
    """The first index asked for; 0 until it was opened."""
    opened_at: int = 0
    """The store's index when it was opened."""
    given: list[Event] = field(default_factory=list)
    cleared: Fault | None = None
    """It was told that the window does not reach back that far."""
    ended: bool = False


def judge(watches: Sequence[Watch], events: Sequence[Event], members: Mapping[int, tuple[int, int]]) -> None:
    """Wrong when a watch was told too little, too much or in another order.

    `events` are all changes from index 1 on. `members` gives, for those that run at the end, the number of
    their life and their index: their open watches must have been told everything up to there.
    """
    for watch in watches:
        if watch.since == 0:
            continue
        if watch.cleared is not None:
            last = watch.cleared.index
            if watch.since >= max(1, last - WINDOW + 1):
                raise Wrong(
                    f"told that {watch.since} is cleared, though the window of {last} holds it: {watch}"
                )
            continue
        _follow(watch, events, members.get(watch.member))


def _follow(watch: Watch, events: Sequence[Event], member: tuple[int, int] | None) -> None:
    given = watch.given
    for before, event in pairwise(given):
        twice = before.index == event.index and not watch.recursive and event.action in REMOVALS
        if event.index <= before.index and not twice:
            raise Wrong(f"told out of order, {event.index} after {before.index}: {watch}")
    if not watch.stream and len(given) > 1:
        raise Wrong(f"a watch for one event got {len(given)}: {watch}")
    told = {event.index: event for event in given}
    for index, event in told.items():
        if index < watch.since:
            raise Wrong(f"told of {index}, before what it asked for: {watch}")
        truth = events[index - 1]
        if (event.action, event.node, event.prev) != (truth.action, truth.node, truth.prev):
            raise Wrong(f"told of {event}, but {truth} happened: {watch}")
        if not may_see(watch, event):
            raise Wrong(f"told of {event}, which it did not ask for: {watch}")
    live = not watch.ended and member is not None and member[0] == watch.life
    until = member[1] if live and member is not None else max(told, default=0)
    for event in events[watch.since - 1 : until]:
        if event.index not in told and must_see(watch, event):
            raise Wrong(f"never told of {event}: {watch}")
        if told and not watch.stream and event.index in told:
            return


def must_see(watch: Watch, event: Event) -> bool:
    """Whether a watcher has to be told, in all of etcd's ways of matching."""
    if event.refresh or event.internal:
        return False
    key = event.node.key
    below = watch.path if watch.path == b"/" else watch.path + b"/"
    return key == watch.path or (
        watch.recursive and key.startswith(below) and b"/_" not in key[len(below) - 1 :]
    )


def may_see(watch: Watch, event: Event) -> bool:
    """Whether some way of matching tells it: what was removed with a directory also counts, and hidden names
    do in the window.
    """
    if event.refresh or event.internal:
        return False
    key = event.node.key
    below = watch.path if watch.path == b"/" else watch.path + b"/"
    if key == watch.path or (watch.recursive and key.startswith(below)):
        return True
    return event.action in REMOVALS and event.node.dir and watch.path.startswith(key)
