"""What other members asked this leader to propose, and waits for that: in lines by who asked them, as the own
requests of a member do (`fairqueue`), within a bound, and no longer than is of use to who asked.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.admission import WeighedAdmission
from netstore.node.fairqueue import Lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.types import NodeId, Term

MAX_POSTPONED: Final = 20_000
"""So many payloads may be put off at once; of one household half of them."""


class Request(msgspec.Struct, eq=False):
    """A payload that another member asks this leader to propose, and what is known of it without decoding it
    again. `came` is in monotonic seconds.
    """

    sender: NodeId
    term: Term
    """In which this member was asked."""
    request: int
    payload: bytes
    owner: str
    """Set before it waits."""
    removes: bool
    """It only removes."""
    size: int
    """What the log would grow by."""
    came: float


class Postponed:
    """All of it. What a member asks for itself has no place there, only bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._lines: Lines[Request] = Lines()
        self._waiting: dict[Request, None] = {}
        """In the order in which it came."""
        self._held = WeighedAdmission(MAX_POSTPONED, most_bytes)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, asked: Request, most: float) -> bool:
        """Let it wait. False where there is too much, of all or of its household: more than `most` bytes of
        one line would not be proposed in time. A member's own is held to no such number.
        """
        owner = asked.owner
        waits = self._held.size_of(owner)
        if owner and waits and waits + asked.size > most:
            return False
        if not self._held.enter(owner, asked.size, 1 if owner else 0):
            return False
        self._waiting[asked] = None
        self._lines.add(asked)
        return True

    def take(self, most: int, most_bytes: int, *, fitting: bool) -> list[Request]:
        """See `Lines.take`. What is taken counts until it is `put_back` or `leave` is called."""
        return self._lines.take(most, most_bytes, fitting=fitting)

    def put_back(self, asked: Iterable[Request]) -> None:
        """See `Lines.put_back`."""
        self._lines.put_back(asked)

    def leave(self, asked: Iterable[Request]) -> None:
        """These wait no more."""
        for each in asked:
            del self._waiting[each]
            self._held.leave(each.owner, each.size, 1 if each.owner else 0)

    def give_up(self, most: int, before: float = float("inf")) -> list[Request]:
        """Up to `most` of those that came before that moment, the oldest first: they wait no more."""
        found = list(takewhile(lambda each: each.came < before, islice(self._waiting, most)))
        self.leave(found)
        for each in found:
            each.payload = b""
            self._lines.forget(each)
        return found
