"""What waits to be proposed, in one line for each who asked (`admission.household`). The lines take turns, so
that who asks without a pause delays nobody but itself: at the member it asked, and at its leader.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from netstore.admission import household

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TURN: Final = 16
"""Payloads of one line that are taken before those of the next."""

TURN_BYTES: Final = 128 * 1024
"""What they weigh, and one payload more."""

_REMEMBERED: Final = 4_096
"""Principals whose line is remembered."""


@lru_cache(_REMEMBERED)
def owner_of(principal: bytes) -> str:
    """Whose line it is that a principal's requests wait in; empty for `member.OWN`."""
    return household(principal.decode(errors="replace"))


class Waiting(Protocol):
    """What stands in a line."""

    payload: bytes
    """Empty once nobody waits for it: it is passed over."""
    owner: str
    """Whose line it is in; empty for what a member asks for itself."""


W = TypeVar("W", bound=Waiting)


class Lines(Generic[W]):
    """The lines of those that asked one member. All calls but `take` and `put_among` are O(1) for each that
    waits.
    """

    def __init__(self) -> None:
        self._first: deque[W] = deque()
        """What a member asks for itself, which goes before the lines."""
        self._lines: OrderedDict[str, deque[W]] = OrderedDict()
        """The others by who asked; the next one's line is the first."""

    def __bool__(self) -> bool:
        return bool(self._first or self._lines)

    def add(self, item: W) -> None:
        """It is the last of its line. A member's own, ends of leases above all, goes first."""
        if not item.owner:
            self._first.append(item)
        elif (line := self._lines.get(item.owner)) is not None:
            line.append(item)
        else:
            self._lines[item.owner] = deque((item,))

    def take(self, most: int, most_bytes: int, *, fitting: bool = False) -> list[W]:
        """Up to `most` of what waits, until it weighs `most_bytes`, and fewer where for some nobody waits any
        more: of one line in the order they came, and where not all can be taken, lines by turns. The member's
        own comes before the lines.

        With `fitting` no more than `most_bytes`: a line waits whose next payload is larger, and the others go
        on. Only the member's own is taken then whatever it weighs, within `TURN_BYTES`. `most` lines have
        their turns, at most: there may be more to take.
        """
        lines = self._lines
        taken: list[W] = []
        size = 0
        if self._first:
            taken, size = _take(self._first, most, max(most_bytes, TURN_BYTES) if fitting else most_bytes)
        if lines and len(lines) <= most and len(taken) + sum(map(len, lines.values())) <= most:
            weight = sum([len(item.payload) for line in lines.values() for item in line])
            if size + weight <= most_bytes:
                for line in lines.values():
                    taken += line
                lines.clear()
        turns, passed = most, 0
        while turns and passed < len(lines) and len(taken) < most and size < most_bytes:
            turns -= 1
            owner, line = lines.popitem(last=False)
            room = most_bytes - size
            some, weight = _take(
                line, min(TURN, most - len(taken)), min(TURN_BYTES, room), room if fitting else None
            )
            passed = 0 if some else passed + 1
            taken += some
            size += weight
            if line:
                lines[owner] = line
        return [item for item in taken if item.payload]

    def put_back(self, items: Iterable[W]) -> None:
        """These were taken, in this order, and could not be proposed yet: they are the first of their lines
        again, and their lines the next.
        """
        for item in reversed(list(items)):
            if item.owner:
                self._line_next(item.owner).appendleft(item)
            else:
                self._first.appendleft(item)

    def put_among(self, items: Iterable[W], order: Callable[[W], int]) -> None:
        """These were taken in vain: each has its place by `order` in its line, whose others are in
        that order, too; and their lines are the next. O(what is in these lines).
        """
        returned: dict[str, list[W]] = {}
        for item in items:
            returned.setdefault(item.owner, []).append(item)
        for owner, those in reversed(returned.items()):
            line = self._line_next(owner) if owner else self._first
            if not line or order(line[0]) > order(those[-1]):
                line.extendleft(reversed(those))
            else:
                there = [item for item in line if item.payload]
                line.clear()
                line.extend(sorted([*those, *there], key=order))

    def _line_next(self, owner: str) -> deque[W]:
        """The line of who asked, which has the next turn."""
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = deque()
        self._lines.move_to_end(owner, last=False)
        return line

    def forget(self, item: W) -> None:
        """Nobody waits for this one any more, nor for what came before it."""
        line = self._lines.get(item.owner)
        if line is not None:
            _forget_first(line)
            if not line:
                del self._lines[item.owner]
        elif not item.owner:
            _forget_first(self._first)

    def clear(self) -> None:
        """Nothing waits."""
        self._first.clear()
        self._lines.clear()


def _take(line: deque[W], most: int, most_bytes: int, room: int | None = None) -> tuple[list[W], int]:
    """The first ones of it, until there are so many or they weigh so much, or the next would weigh more than
    `room` with them; and what they weigh.
    """
    items: list[W] = []
    size = 0
    while line and len(items) < most and size < most_bytes:
        if room is not None and size + len(line[0].payload) > room:
            break
        item = line.popleft()
        items.append(item)
        size += len(item.payload)
    return items, size


def _forget_first(items: deque[W]) -> None:
    """Let go of those at the front for which nobody waits."""
    while items and not items[0].payload:
        items.popleft()
