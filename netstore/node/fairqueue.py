"""Queues of requests that wait to be proposed: one for each household (`admission.household`), served in
turn. So a client that sends without pause delays only itself, at the member it uses and at the leader.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from netstore.admission import household

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TURN: Final = 16
"""Payloads taken from one queue before the next has its turn."""

TURN_BYTES: Final = 128 * 1024
"""Bytes taken from one queue before the next has its turn; one payload may exceed it."""

_REMEMBERED: Final = 4_096
"""Principals whose household is cached."""


@lru_cache(_REMEMBERED)
def owner_of(principal: bytes) -> str:
    """The household in whose queue the requests of a principal wait; empty for `member.OWN`."""
    return household(principal.decode(errors="replace"))


payload_of: Final = attrgetter("payload")
"""The payload of a request. Over many of them `map` with it takes half the time of a comprehension."""


class Queued(Protocol):
    """A request in a queue."""

    payload: bytes
    """Empty once nobody waits for it: it is skipped."""
    owner: str
    """Its household; empty for requests of the member itself."""


W = TypeVar("W", bound=Queued)


class FairQueue(Generic[W]):
    """The queues of one member. All calls but `take` and `put_among` are O(1) for each request, amortised."""

    def __init__(self) -> None:
        self.new: list[W] = []
        """Requests of others than the member itself that no call has sorted into their queues yet. Where all
        can be taken at once, as mostly, they never are.
        """
        self.first: deque[W] = deque()
        """Requests of the member itself, which go before all others."""
        self.queues: OrderedDict[str, deque[W]] = OrderedDict()
        """The others by household; the first one has the next turn."""

    def __bool__(self) -> bool:
        return bool(self.new or self.first or self.queues)

    def add(self, item: W) -> None:
        """Append a request to its queue. The member's own, ends of leases above all, go first."""
        if item.owner:
            self.new.append(item)
        else:
            self.first.append(item)

    def _sort(self) -> None:
        """Put what is new into the queues."""
        new, self.new = self.new, []
        for item in new:
            queue = self.queues.get(item.owner)
            if queue is not None:
                queue.append(item)
            else:
                self.queues[item.owner] = deque((item,))

    def take(self, most: int, most_bytes: int, *, fitting: bool = False) -> list[W]:
        """Up to `most` requests, until they weigh `most_bytes`; fewer if some are no longer waited for. Those
        of one queue come in order; if not all can be taken, queues take turns. Requests of the member itself
        come first.

        With `fitting`, no more than `most_bytes`: a queue whose next payload is larger waits, the others go
        on. Only requests of the member itself are taken then whatever they weigh, within `TURN_BYTES`. At
        most `most` queues have a turn: there may be more to take.
        """
        queues = self.queues
        taken: list[W] = []
        size = 0
        if self.first:
            taken, size = _take(self.first, most, max(most_bytes, TURN_BYTES) if fitting else most_bytes)
        new = self.new
        is_all = not queues and len(taken) + len(new) <= most
        if is_all and size + sum(map(len, map(payload_of, new))) <= most_bytes:
            self.new = []
            taken += new
            return _waiting(taken)
        if new:
            self._sort()
        turns, passed = most if queues else 0, 0
        while turns and passed < len(queues) and len(taken) < most and size < most_bytes:
            turns -= 1
            owner, queue = queues.popitem(last=False)
            room = most_bytes - size
            some, weight = _take(
                queue, min(TURN, most - len(taken)), min(TURN_BYTES, room), room if fitting else None
            )
            passed = 0 if some else passed + 1
            taken += some
            size += weight
            if queue:
                queues[owner] = queue
        return _waiting(taken)

    def put_back(self, items: Iterable[W]) -> None:
        """These were taken, in this order, and could not be proposed yet: they return to the front of their
        queues, and these queues are next.
        """
        self._sort()
        for item in reversed(list(items)):
            if item.owner:
                self._next_queue(item.owner).appendleft(item)
            else:
                self.first.appendleft(item)

    def put_among(self, items: Iterable[W], order: Callable[[W], int]) -> None:
        """These were taken and lost: each returns to its place by `order` in its queue, whose other requests
        are in that order too; and these queues are next. O(length of these queues).
        """
        self._sort()
        returned: dict[str, list[W]] = {}
        for item in items:
            returned.setdefault(item.owner, []).append(item)
        for owner, those in reversed(returned.items()):
            queue = self._next_queue(owner) if owner else self.first
            if not queue or order(queue[0]) > order(those[-1]):
                queue.extendleft(reversed(those))
            else:
                there = [item for item in queue if item.payload]
                queue.clear()
                queue.extend(sorted([*those, *there], key=order))

    def _next_queue(self, owner: str) -> deque[W]:
        """The queue of a household, which has the next turn."""
        queue = self.queues.get(owner)
        if queue is None:
            queue = self.queues[owner] = deque()
        self.queues.move_to_end(owner, last=False)
        return queue

    def forget(self, item: W) -> None:
        """Nobody waits for this request any more, nor for those before it."""
        self._sort()
        queue = self.queues.get(item.owner)
        if queue is not None:
            _forget_first(queue)
            if not queue:
                del self.queues[item.owner]
        elif not item.owner:
            _forget_first(self.first)

    def clear(self) -> None:
        """Remove all requests."""
        self.new.clear()
        self.first.clear()
        self.queues.clear()


def _take(queue: deque[W], most: int, most_bytes: int, room: int | None = None) -> tuple[list[W], int]:
    """The first requests of a queue, until there are `most` or they weigh `most_bytes`, or the next would not
    fit into `room`; and what they weigh.
    """
    items: list[W] = []
    size = 0
    while queue and len(items) < most and size < most_bytes:
        if room is not None and size + len(queue[0].payload) > room:
            break
        item = queue.popleft()
        items.append(item)
        size += len(item.payload)
    return items, size


def _waiting(items: list[W]) -> list[W]:
    """Those that somebody waits for."""
    return items if all(map(payload_of, items)) else [item for item in items if item.payload]


def _forget_first(items: deque[W]) -> None:
    """Remove those at the front that nobody waits for."""
    while items and not items[0].payload:
        items.popleft()
