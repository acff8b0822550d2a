"""Live watchers of the v2 tree: who is told of an event, and who is no longer there to be told.

The rules are etcd's (v2 API, watches, "which events match live"). An event goes to
 1. the watchers exactly at its key;
 2. the recursive watchers above it, unless a name below the watched path begins with an underscore;
 3. when something was removed, the watchers at every path that went with it, hidden or not. A removed path's
    own watchers are named by rules 3 and 1, so a stream there gets the event twice, as from etcd.

Telling is done in slices, one event after another: the first slice when the events come, the others between
the turns of the member (`Hub.step`). Nothing that happens waits for it: where telling falls behind, watchers
are ended (`Hub.publish`), never passed over.

Invariants: a watcher is in the maps exactly while `active`; a watcher that is not a stream leaves them with
its first event; no watcher sees an event older than its `since`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.types import Event

TOLD_AT_ONCE: Final = 250
"""Watchers that are told something in one slice: about 1.5 ms. Each counts once more for each `UNIT_BYTES` of
the event: of a large one, fewer are told.
"""

UNIT_BYTES: Final = 16 * 1024
"""A slice hands over 4 MB and one event more."""

LOOKED_AT_ONCE: Final = 5_000
"""Paths that are looked up in one slice: about 1 ms."""

MOST_WAITING: Final = 250
"""Events waiting to be told, beyond which those are ended whom an event that takes long has not reached: a
quarter of what the window may hold for them when they come back.
"""

MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
"""The same for what these events hold (`Event.size`): a quarter of the window's bytes."""

TOO_MANY_WAITING: Final = 1_000
"""Events waiting when others come, at which all watches are ended: as many as the window holds at most."""

TOO_MANY_WAITING_BYTES: Final = 64 * 1024 * 1024
"""The same for what they hold. More than this and the events of one turn is never kept for watchers."""

_LOOKS: Final = LOOKED_AT_ONCE // TOLD_AT_ONCE
"""So many look-ups take as long as to tell one watcher."""

_REMOVALS: Final = frozenset({"delete", "compareAndDelete", "expire"})


_NOTHING: Final = iter(())


def _nothing_to_prepare(_: Event) -> Iterator[float]:
    return _NOTHING


class _Maps:
    """Watchers by path. Dicts serve as ordered sets: watchers are told in the order they came."""

    __slots__ = ("above", "at")

    def __init__(self) -> None:
        self.at: dict[bytes, dict[Watcher, None]] = {}
        self.above: dict[bytes, dict[Watcher, None]] = {}


class Watcher:
    """One registered watch. `remove` takes it out, at O(1), as often as it is called."""

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
        """Tell this watcher of nothing more."""
        if self.active:
            self.active = False
            self._hub._drop(self)  # noqa: SLF001 - the two classes are one structure


class Hub:
    """The watchers by path.

    An event costs a look-up for each name in its key and each path that was removed with it, and a call for
    each watcher that is told.
    """

    __slots__ = (
        "_ending",
        "_left",
        "_preparation",
        "_round",
        "_slices",
        "_waiting",
        "_waiting_bytes",
        "count",
        "failed",
        "maps",
        "prepare",
    )

    def __init__(self) -> None:
        self.count = 0
        """How many watchers are registered."""
        self.failed: Callable[[Exception], object] = unguarded
        """Told what a watcher raised when it was told something."""
        self.prepare: Callable[[Event], Iterator[float]] = _nothing_to_prepare
        """What is done once before an event is told, in pieces of work; each is told as how many watchers
        could be told something meanwhile. What it raises is handed to `failed`, and the event is told.
        """
        self.maps = _Maps()
        """Those that are told of events."""
        self._ending: deque[_Maps] = deque()
        """Those whose watches are being ended."""
        self._waiting: deque[Event] = deque()
        """What is not told to its end; the first is the event under way."""
        self._waiting_bytes = 0
        self._round: Iterator[None] = iter(())
        """Tells the event under way."""
        self._preparation: Iterator[float] | None = None
        """Prepares the event under way; None when that is done."""
        self._slices = 0
        """Slices that began with the event under way."""
        self._left = 0.0
        """How many watchers this slice may still tell."""

    def watch(
        self, path: bytes, recursive: bool, stream: bool, since: int, deliver: Callable[[Event | None], bool]
    ) -> Watcher:
        """Register a watch of `path` for events with an index of at least `since`, none of which has been
        published.

        `deliver` is called during `publish` or `step`. When it returns False (the reader is gone or too far
        behind) the watcher is removed, whatever it is; a slow reader costs what its connection may buffer,
        never a wait here. It gets None, once and as the last, when the watch ends from this side, as it does
        when `deliver` raises.
        """
        watcher = Watcher(self, path, recursive, stream, since, deliver)
        self.maps.at.setdefault(path, {})[watcher] = None
        if recursive:
            self.maps.above.setdefault(path, {})[watcher] = None
        self.count += 1
        return watcher

    def watched(self, path: bytes) -> bool:
        """Whether there is a watcher exactly at this path."""
        return path in self.maps.at

    @property
    def behind(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._ending or self._waiting)

    def interrupt(self) -> None:
        """End every watch: the state has jumped, or too much waits, and what happened is told to nobody.

        Whoever watches comes back with the index it has reached, and gets what the window holds or 401: a
        watch that went on would have a silent gap. Nothing more is told to those that are here now; they are
        ended in slices.
        """
        self._waiting.clear()
        self._waiting_bytes = 0
        self._round = iter(())
        self._preparation = None
        self._ending.append(self.maps)
        self.maps = _Maps()
        self._slice()

    def publish(self, *events: Event) -> None:
        """Tell everybody who asked for these events, the first slice of what there is to tell now. Every
        watcher gets the same object.

        While more than `MOST_WAITING` events or `MOST_WAITING_BYTES` wait, and the event under way has had
        a whole slice, watchers that it has not reached are ended instead of told, those at its paths who ask
        for later ones included: others are told soon, and whoever is ended comes back as after `interrupt`.
        Where `TOO_MANY_WAITING` or `TOO_MANY_WAITING_BYTES` wait all the same when events come,
        every watch is ended.
        """
        if not (self.maps.at and events):
            return
        if len(self._waiting) >= TOO_MANY_WAITING or self._waiting_bytes >= TOO_MANY_WAITING_BYTES:
            self.interrupt()
            return
        self._waiting += events
        self._waiting_bytes += sum(event.size for event in events)
        self._slice()

    def step(self) -> None:
        """Go on telling, for one slice."""
        self._slice()

    def _slice(self) -> None:
        self._left = TOLD_AT_ONCE
        self._slices += 1
        while self._left > 0:
            if next(self._round, self) is None:
                continue
            if self._ending:
                self._round = self._end_all(self._ending[0])
            elif self._waiting:
                self._slices = 0
                self._round = self._tell_all(self._waiting[0])
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

    def _tell_all(self, event: Event) -> Iterator[None]:
        """Tell an event. Who comes meanwhile asks for later ones."""
        key, maps = event.node.key, self.maps
        self._preparation = self.prepare(event)
        if event.action in _REMOVALS:
            for path in event.removed:
                yield from self._tell(maps.at.get(path), event)
            yield from self._tell(maps.at.get(key), event)
        if maps.above:
            yield from self._tell_above(key, event)
        yield from self._tell(maps.at.get(key), event)
        self._waiting.popleft()
        self._waiting_bytes -= event.size
        self._preparation = None

    def _tell_above(self, key: bytes, event: Event) -> Iterator[None]:
        above = self.maps.above
        # From the nearest ancestor up: the first hidden name on the way hides the key from all who are
        # further up.
        end = len(key)
        while end > 1:
            start = key.rfind(b"/", 0, end)
            if key.startswith(b"_", start + 1):
                return
            yield from self._tell(above.get(key[:start] or b"/"), event)
            end = start

    def _tell(self, watchers: dict[Watcher, None] | None, event: Event) -> Iterator[None]:
        index, cost = event.index, 1 + event.size / UNIT_BYTES
        self._left -= 1 / _LOOKS
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
                if not guarded(self.failed, self._deliver, watcher, event):
                    self._end(watcher)
                self._left -= cost
            else:
                self._left -= 1 / _LOOKS
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
        return len(self._waiting) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES

    @staticmethod
    def _deliver(watcher: Watcher, event: Event) -> None:
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
            self._leave(maps.above, watcher)

    @staticmethod
    def _leave(paths: dict[bytes, dict[Watcher, None]], watcher: Watcher) -> None:
        watchers = paths[watcher.path]
        del watchers[watcher]
        if not watchers:
            del paths[watcher.path]
