"""Watchers of the v2 tree, and the delivery of events to them.

The rules are etcd's (v2 API, watches, "which events match live"). An event goes to
 1. the watchers exactly at its key;
 2. the recursive watchers above it, unless a name below the watched path begins with an underscore;
 3. when something was removed, the watchers at every path removed with it, hidden or not. The watchers of a
    removed path match rules 3 and 1, so a stream there gets the event twice, as from etcd.

Events are delivered one after another, in slices: the first slice when the events come, the others between
the turns of the member (`Hub.step`). Applying never waits for this: when delivery falls behind, watchers are
ended (`Hub.publish`), never skipped.

Invariants: a watcher is in the maps exactly while `active`; a watcher that is not a stream leaves them with
its first event; no watcher gets an event older than its `since`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.types import Event

SLICE_WATCHERS: Final = 250
"""Watchers that get an event in one slice: about 1.5 ms. Each counts once more for each `UNIT_BYTES` of the
event, so a large event goes to fewer watchers in a slice.
"""

UNIT_BYTES: Final = 16 * 1024
"""With this a slice delivers at most 4 MB and one event more."""

SLICE_LOOKUPS: Final = 5_000
"""Paths that are looked up in one slice: about 1 ms."""

MAX_WAITING: Final = 250
"""Waiting events beyond which watchers are ended that the current event has not reached after a whole slice:
a quarter of what the window may hold for them when they come back.
"""

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""The same for the size of these events (`Event.size`): a quarter of the window's bytes."""

END_ALL_WAITING: Final = 1_000
"""Waiting events at which all watchers are ended when others come: as many as the window holds at most."""

END_ALL_WAITING_BYTES: Final = 64 * 1024 * 1024
"""The same for their size. More than this and the events of one turn is never kept for watchers."""

_LOOKUPS_PER_WATCHER: Final = SLICE_LOOKUPS // SLICE_WATCHERS
"""How many look-ups take as long as delivering to one watcher."""

_REMOVALS: Final = frozenset({"delete", "compareAndDelete", "expire"})


_NOTHING: Final = iter(())


def _nothing_to_prepare(_: Event) -> Iterator[float]:
    return _NOTHING


class _Maps:
    """Watchers by path. Dicts are used as ordered sets: watchers get an event in the order they came."""

    __slots__ = ("at", "recursive")

    def __init__(self) -> None:
        self.at: dict[bytes, dict[Watcher, None]] = {}
        self.recursive: dict[bytes, dict[Watcher, None]] = {}


class Watcher:
    """One registered watch. `remove` is O(1), and may be called more than once."""

    __slots__ = ("_hub", "active", "deliver", "maps", "path", "recursive", "since", "stream")

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        hub: Hub,
        path: bytes,
        recursive: bool,
        stream: bool,
        since: int,
        deliver: Callable[[Event | None], bool],
    ) -> None:
        self._hub = hub
        self.maps = hub.maps
        self.path = path
        self.recursive = recursive
        self.stream = stream
        self.since = since
        self.deliver = deliver
        self.active = True

    def remove(self) -> None:
        """Deliver nothing more to this watcher."""
        if self.active:
            self.active = False
            self._hub._drop(self)  # noqa: SLF001 - the two classes are one structure


class Hub:
    """All v2 watchers of a member.

    An event costs a look-up for each name in its key and each path that was removed with it, and a call for
    each watcher that gets it.
    """

    __slots__ = (
        "_ending",
        "_left",
        "_preparation",
        "_slices",
        "_waiting",
        "_waiting_bytes",
        "_work",
        "count",
        "failed",
        "maps",
        "prepare",
    )

    def __init__(self) -> None:
        self.count = 0
        """How many watchers are registered."""
        self.failed: Callable[[Exception], object] = unguarded
        """Called with an exception that a watcher raised."""
        self.prepare: Callable[[Event], Iterator[float]] = _nothing_to_prepare
        """Work that is done once before an event is delivered, in pieces; each yields its cost as the number
        of watchers that could be served meanwhile. What it raises goes to `failed`, and the event is
        delivered.
        """
        self.maps = _Maps()
        """The watchers that get events."""
        self._ending: deque[_Maps] = deque()
        """Watchers that are being ended."""
        self._waiting: deque[Event] = deque()
        """Events that are not delivered to all; the first is the current event."""
        self._waiting_bytes = 0
        self._work: Iterator[None] = iter(())
        """The rest of what is under way: delivery of the current event, or ending watchers."""
        self._preparation: Iterator[float] | None = None
        """The rest of `prepare` for the current event; None when that is done."""
        self._slices = 0
        """Slices that began with the current event."""
        self._left = 0.0
        """How many watchers this slice may still serve."""

    def watch(
        self, path: bytes, recursive: bool, stream: bool, since: int, deliver: Callable[[Event | None], bool]
    ) -> Watcher:
        """Register a watch of `path` for events with an index of at least `since`, none of which has been
        published.

        `deliver` is called during `publish` or `step`. When it returns False (the client is gone or too far
        behind) the watcher is removed, stream or not; a slow client costs what its connection may buffer,
        never a wait here. It is called with None, once and last, when the watch ends from this side, as it
        does when `deliver` raises.
        """
        watcher = Watcher(self, path, recursive, stream, since, deliver)
        self.maps.at.setdefault(path, {})[watcher] = None
        if recursive:
            self.maps.recursive.setdefault(path, {})[watcher] = None
        self.count += 1
        return watcher

    def watched(self, path: bytes) -> bool:
        """Whether there is a watcher exactly at this path."""
        return path in self.maps.at

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._ending or self._waiting)

    def interrupt(self) -> None:
        """End all watchers, because a snapshot replaced the state or too much waits, and drop waiting events.

        Their clients come back with the index they have reached, and get what the window holds, or 401: a
        watch that went on would have a silent gap. The present watchers get no event any more, and are ended
        in slices.
        """
        self._waiting.clear()
        self._waiting_bytes = 0
        self._work = iter(())
        self._preparation = None
        self._ending.append(self.maps)
        self.maps = _Maps()
        self._slice()

    def publish(self, *events: Event) -> None:
        """Deliver these events to their watchers, the first slice now. Every watcher gets the same object.

        While more than `MAX_WAITING` events or `MAX_WAITING_BYTES` wait, and the current event has had a
        whole slice, watchers that it has not reached are ended instead of served, including those at its
        paths that ask for later events. So the others are served soon; the clients of those ended come back
        as after `interrupt`. If `END_ALL_WAITING` or `END_ALL_WAITING_BYTES` wait nevertheless when events
        come, all watchers are ended.
        """
        if not (self.maps.at and events):
            return
        if len(self._waiting) >= END_ALL_WAITING or self._waiting_bytes >= END_ALL_WAITING_BYTES:
            self.interrupt()
            return
        self._waiting += events
        self._waiting_bytes += sum(event.size for event in events)
        self._slice()

    def step(self) -> None:
        """Go on with delivery, for one slice."""
        self._slice()

    def _slice(self) -> None:
        self._left = SLICE_WATCHERS
        self._slices += 1
        while self._left > 0:
            if next(self._work, self) is None:
                continue
            if self._ending:
                self._work = self._end_all(self._ending[0])
            elif self._waiting:
                self._slices = 0
                self._work = self._deliver_event(self._waiting[0])
            else:
                return

    def _end_all(self, maps: _Maps) -> Iterator[None]:
        while maps.at:
            watchers = next(iter(maps.at.values()))
            self._end(next(iter(watchers)))
            self._left -= 1
            if self._left <= 0:
                yield
        self._ending.popleft()

    def _deliver_event(self, event: Event) -> Iterator[None]:
        """Deliver an event. Watchers that come meanwhile ask for later ones."""
        key, maps = event.node.key, self.maps
        self._preparation = self.prepare(event)
        if event.action in _REMOVALS:
            for path in event.removed:
                yield from self._deliver_to(maps.at.get(path), event)
            yield from self._deliver_to(maps.at.get(key), event)
        if maps.recursive:
            yield from self._deliver_above(key, event)
        yield from self._deliver_to(maps.at.get(key), event)
        self._waiting.popleft()
        self._waiting_bytes -= event.size
        self._preparation = None

    def _deliver_above(self, key: bytes, event: Event) -> Iterator[None]:
        recursive = self.maps.recursive
        # From the nearest ancestor up: the first hidden name on the way hides the key from all watchers
        # further up.
        end = len(key)
        while end > 1:
            start = key.rfind(b"/", 0, end)
            if key.startswith(b"_", start + 1):
                return
            yield from self._deliver_to(recursive.get(key[:start] or b"/"), event)
            end = start

    def _deliver_to(self, watchers: dict[Watcher, None] | None, event: Event) -> Iterator[None]:
        index, cost = event.index, 1 + event.size / UNIT_BYTES
        self._left -= 1 / _LOOKUPS_PER_WATCHER
        if self._left <= 0:
            yield
        while watchers and self._preparation is not None and not (self._slices > 1 and self._is_full):
            if not guarded(self.failed, self._prepare_on):
                self._preparation = None
            if self._left <= 0:
                yield
        for watcher in tuple(watchers or ()):
            if self._slices > 1 and watcher.active and self._is_full:
                self._end(watcher)
                self._left -= 1
            elif watcher.since <= index and watcher.active:
                if not guarded(self.failed, self._call, watcher, event):
                    self._end(watcher)
                self._left -= cost
            else:
                self._left -= 1 / _LOOKUPS_PER_WATCHER
            if self._left <= 0:
                yield

    def _prepare_on(self) -> None:
        work = next(self._preparation or _NOTHING, None)
        if work is None:
            self._preparation = None
        else:
            self._left -= work

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES

    @staticmethod
    def _call(watcher: Watcher, event: Event) -> None:
        if not watcher.deliver(event) or not watcher.stream:
            watcher.remove()

    def _end(self, watcher: Watcher) -> None:
        watcher.remove()
        guarded(self.failed, watcher.deliver, None)

    def _drop(self, watcher: Watcher) -> None:
        self.count -= 1
        maps = watcher.maps
        self._leave(maps.at, watcher)
        if watcher.recursive:
            self._leave(maps.recursive, watcher)

    @staticmethod
    def _leave(paths: dict[bytes, dict[Watcher, None]], watcher: Watcher) -> None:
        watchers = paths[watcher.path]
        del watchers[watcher]
        if not watchers:
            del paths[watcher.path]
