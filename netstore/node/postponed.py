"""Forwarded requests that a leader cannot propose yet: queued by household like the requests of its own
clients (`fairqueue`), within a bound, and only for as long as the client may still wait.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.admission import WeighedAdmission
from netstore.node.fairqueue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.types import NodeId, Term

MAX_POSTPONED: Final = 20_000
"""Requests that may be postponed at once; of one household half of them."""


class Request(msgspec.Struct, eq=False):
    """A request that another member forwarded to this leader, with what is known of it from decoding it once.
    `came` is in monotonic seconds.
    """

    sender: NodeId
    term: Term
    """The term in which this leader was asked."""
    request: int
    payload: bytes
    owner: str
    """Its household; set before it waits."""
    removes: bool
    """Whether it only removes."""
    size: int
    """By how much the log would grow."""
    came: float


class Postponed:
    """The postponed requests of one leader. Those that a member asks for itself count in bytes only."""

    def __init__(self, most_bytes: int) -> None:
        self._queue: FairQueue[Request] = FairQueue()
        self.waiting: dict[Request, None] = {}
        """In the order in which they came."""
        self._held = WeighedAdmission(MAX_POSTPONED, most_bytes)

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, asked: Request, most: float) -> bool:
        """Let a request wait. False if there are too many, of all or of its household. More than `most` bytes
        of one household would not be proposed in time; requests of members themselves are not held to that.
        """
        owner = asked.owner
        waits = self._held.size_of(owner)
        if owner and waits and waits + asked.size > most:
            return False
        if not self._held.enter(owner, asked.size, 1 if owner else 0):
            return False
        self.waiting[asked] = None
        self._queue.add(asked)
        return True

    def take(self, most: int, most_bytes: int, *, fitting: bool) -> list[Request]:
        """See `FairQueue.take`. Taken requests count until `put_back` or `leave` is called."""
        return self._queue.take(most, most_bytes, fitting=fitting)

    def put_back(self, asked: Iterable[Request]) -> None:
        """See `FairQueue.put_back`."""
        self._queue.put_back(asked)

    def leave(self, asked: Iterable[Request]) -> None:
        """These wait no more."""
        for each in asked:
            del self.waiting[each]
            self._held.leave(each.owner, each.size, 1 if each.owner else 0)

    def give_up(self, most: int, before: float = float("inf")) -> list[Request]:
        """Remove up to `most` of those that came before that moment, the oldest first, and return them."""
        found = list(takewhile(lambda each: each.came < before, islice(self.waiting, most)))
        self.leave(found)
        for each in found:
            each.payload = b""
            self._queue.forget(each)
        return found
