"""The event window: the last 1000 changes, so that a client can resume a watch (v2 API, history); fewer if
their keys and values are more than `MOST_BYTES`.

Invariant: the kept events have consecutive indexes `first` .. `last`, and event i is in slot i modulo the
capacity. `first` never decreases and depends on the events alone, so every member has the same window.
Changes of the cluster's own data and refreshes take a slot too, which makes the indexes consecutive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.errors import Fault, NetstoreError
from netstore.types import EtcdIndex, Event, NodeView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CAPACITY: Final = 1000
"""How many events are kept: etcd's number, which clients see in error 401."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes of keys and values, before and after, of all kept events; the newest is kept however large it is.
Enough for 30 events with values of the largest size, and for a thousand of 32 KiB.
"""

_EMPTY: Final = (0, Event("", EtcdIndex(0), NodeView(b"", EtcdIndex(0), EtcdIndex(0))))
"""Fills the slots outside `first` .. `last`."""
_REMOVALS_OF_TREES: Final = frozenset({"delete", "expire"})


class History:
    """The window. Events that watchers have not been sent yet are kept by `watch.hub`, not here.

    Adding is O(1); `scan` looks at the events from `since` on, at most 1000, and at none for a watch of
    future events.
    """

    __slots__ = ("_bytes", "_forgotten", "_ring", "last")

    def __init__(self) -> None:
        self._ring = [_EMPTY] * CAPACITY
        """The event in each slot, and its bytes (`Event.size`)."""
        self._bytes = 0
        self._forgotten = 0
        """Index up to which events are not kept even where there is room."""
        self.last = EtcdIndex(0)
        """Index of the newest kept event, 0 if there is none."""

    @property
    def first(self) -> EtcdIndex:
        """Index of the oldest kept event; above `last` if there is none. Computed when somebody asks, because
        an event is added for each write.
        """
        return EtcdIndex(max(self._forgotten, self.last - CAPACITY) + 1)

    def add(self, event: Event) -> int:
        """Keep an event whose index follows the last one; drop the oldest if necessary. Returns its slot.
        O(events dropped).
        """
        index = event.index
        if index != self.last + 1:
            raise NetstoreError(f"event {index} after {self.last}: the event window must not have gaps")
        place = index % CAPACITY
        ring = self._ring
        node = event.node
        size = len(node.key) + len(node.value or b"")  # `event.size`, without a call
        prev = event.prev
        if prev is not None:
            size += len(prev.value or b"")
        self._bytes += size - ring[place][0]  # the oldest event is in this slot, if all are taken
        ring[place] = size, event
        self.last = index
        while self._bytes > MOST_BYTES and self.first < index:
            self._forget_first()
        return place

    def _forget_first(self) -> None:
        place = self.first % CAPACITY
        self._bytes -= self._ring[place][0]
        self._ring[place] = _EMPTY
        self._forgotten = self.first

    def restore(self, events: Iterable[Event]) -> None:
        """Replace the window by stored events of consecutive indexes, in any order. Those that were dropped
        for their size are dropped again.
        """
        self._ring = [_EMPTY] * CAPACITY
        self._bytes = 0
        self._forgotten, self.last = 0, EtcdIndex(0)
        ordered = sorted(events, key=lambda event: event.index)
        if ordered:
            self.last = EtcdIndex(ordered[0].index - 1)
            self._forgotten = self.last
            for event in ordered:
                self.add(event)

    def since(self, index: int) -> Iterator[Event]:
        """The kept events with an index of at least `index`, oldest first."""
        for place in range(max(index, self.first), self.last + 1):
            yield self._ring[place % CAPACITY][1]

    def scan(self, path: bytes, recursive: bool, since: int) -> Event | Fault | None:
        """The first event from `since` on that matches a watch of `path`; None if there is none yet.

        Fault 401 if events from `since` on may have been dropped; its index is that of the newest event. The
        rules are etcd's and differ from those for live events: hidden keys match, refreshes do not, and a
        removed directory matches every path that *begins with its key as a string*, which includes a sibling
        with a longer name.

        Cost: nothing if `since` is beyond the last event, as for a watch without `waitIndex` and for a client
        that keeps up; else about 0.1 us for each event since, so at most 0.1 ms.
        """
        if since < self.first and self.last:
            cause = b"the requested history has been cleared [%d/%d]" % (self.first, since)
            return Fault(401, cause, self.last)
        below = path if path.endswith(b"/") else path + b"/"
        for event in self.since(since):
            key = event.node.key
            if event.refresh or event.internal:
                continue
            if key == path or (recursive and key.startswith(below)):
                return event
            if event.node.dir and event.action in _REMOVALS_OF_TREES and path.startswith(key):
                return event
        return None
