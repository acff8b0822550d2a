"""What a v2 mirror has still to do, within bounds: events to carry out, and nodes with a TTL to look at."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import trio

if TYPE_CHECKING:
    from netstore.client.faults import ClientError
    from netstore.client.v2 import Answer

MOST_KEPT: Final = 20_000
"""Events that are kept while all is compared."""

MOST_KEPT_CHARACTERS: Final = 16 * 1024 * 1024
"""Of the keys and values of those events, and those of one event more."""

MOST_TIMED: Final = 100_000
"""Nodes with a TTL whose refreshes are followed: some 20 MB."""


class Kept:
    """Events in their order, at most `MOST_KEPT` and about `MOST_KEPT_CHARACTERS`."""

    def __init__(self, after: int) -> None:
        self.after = after
        """The index up to which the events were put."""
        self.has_lost = False
        """The events after `after` are not put any more: the source has forgotten some, or they were too
        many.
        """
        self.heard = trio.current_time()
        """When the source was heard last: infinite while it is asked, and minus infinity once the
        asking has ended.
        """
        self.fault: ClientError | None = None
        """Why the source could not be asked."""
        self._events: deque[Answer] = deque()
        self._size = 0
        self._taken = trio.Event()

    def put(self, event: Answer) -> None:
        """Keep the next one, without what it has of the node before."""
        node = msgspec.structs.replace(event.node, nodes=())
        self._events.append(msgspec.structs.replace(event, node=node, prev_node=None))
        self._size += _size(event)
        self.after = node.modified_index

    def take(self) -> Answer | None:
        """The first one; None if there is none."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._size -= _size(event)
        self._taken.set()
        return event

    async def room(self, limit: float) -> bool:
        """Wait `limit` seconds at most until another one may be kept. False if it may not."""
        with trio.move_on_after(limit):
            while self._is_full():
                self._taken = trio.Event()
                await self._taken.wait()
        return not self._is_full()

    def _is_full(self) -> bool:
        return len(self._events) >= MOST_KEPT or self._size >= MOST_KEPT_CHARACTERS


class Timed:
    """Paths with a TTL, and when each is to be looked at again; at most `MOST_TIMED`."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        """Has outdated entries too, at most as many as there are paths, and a few."""
        self._is_full = False

    def __len__(self) -> int:
        return len(self._when)

    def clear(self) -> None:
        """Forget all."""
        self._when.clear()
        self._heap.clear()

    def put(self, path: str, when: float) -> bool:
        """Look at a path then. False if it is one too many, the first time."""
        if path not in self._when and len(self._when) >= MOST_TIMED:
            is_first, self._is_full = not self._is_full, True
            return not is_first
        self._when[path] = when
        if len(self._heap) > 2 * len(self._when) + 100:
            self._heap = [(each, path) for path, each in self._when.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (when, path))
        return True

    def discard(self, path: str) -> None:
        """Do not look at a path any more."""
        self._when.pop(path, None)

    def next(self) -> float:
        """When to look at the first one."""
        while self._heap and self._when.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def first(self) -> str:
        """Which is to be looked at `next`; it is to be `put` or to be `discard`ed then."""
        return self._heap[0][1]


def _size(event: Answer) -> int:
    """Characters of the key and the value of an event."""
    return len(event.node.key) + len(event.node.value or "")
