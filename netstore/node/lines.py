"""What waits to be proposed, in one line for each who asked (`admission.household`). The lines take turns, so
that who asks without a pause delays nobody but itself: at the member it asked, and at its leader.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from netstore.admission import household

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """The lines of those that asked one member. All calls but `take` are O(1) for each that waits."""

    def __init__(self) -> None:
        self.again: deque[W] = deque()
        """What goes before all others: it was taken once, in vain."""
        self._first: deque[W] = deque()
        """What a member asks for itself, which goes before the lines."""
        self._lines: OrderedDict[str, deque[W]] = OrderedDict()
        """The others by who asked; the next one's line is the first."""

    def __bool__(self) -> bool:
        return bool(self._first or self._lines or self.again)

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
        more: of one line in the order they came, and where not all can be taken, lines by turns. What was put
        back comes before the members' own, and that before the lines.

        With `fitting` no more than `most_bytes`: a line waits whose next payload is larger, and the others go
        on. Only the members' own is taken then whatever it weighs, within `TURN_BYTES`.
        """
        lines = self._lines
        taken, size = _take(self.again, most, most_bytes, most_bytes if fitting else None)
        if self._first:
            room = most_bytes - size
            own, weight = _take(self._first, most - len(taken), max(room, TURN_BYTES) if fitting else room)
            taken += own
            size += weight
        if self.again:
            return [item for item in taken if item.payload]
        if lines and len(taken) + sum(map(len, lines.values())) <= most:
            weight = sum([len(item.payload) for line in lines.values() for item in line])
            if size + weight <= most_bytes:
                for line in lines.values():
                    taken += line
                lines.clear()
        passed = 0
        while passed < min(len(lines), most) and len(taken) < most and size < most_bytes:
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
        """These were taken and could not be proposed yet: they are the next again."""
        self.again.extendleft(reversed(list(items)))

    def forget(self, item: W) -> None:
        """Nobody waits for this one any more, nor for what came before it."""
        line = self._lines.get(item.owner)
        if line is not None:
            _forget_first(line)
            if not line:
                del self._lines[item.owner]
        elif not item.owner:
            _forget_first(self._first)
        _forget_first(self.again)

    def clear(self) -> None:
        """Nothing waits."""
        self._first.clear()
        self._lines.clear()
        self.again.clear()


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
