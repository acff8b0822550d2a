"""Live watchers of the v2 tree: who is told of an event, and who is no longer there to be told.

The rules are etcd's (v2 API, watches, "which events match live"). An event goes to
 1. the watchers exactly at its key;
 2. the recursive watchers above it, unless a name below the watched path begins with an underscore;
 3. when something was removed, the watchers at every path that went with it, hidden or not. A removed path's
    own watchers are named by rules 3 and 1, so a stream there gets the event twice, as from etcd.

Invariants: a watcher is in the maps exactly while `active`; a watcher that is not a stream leaves them with
its first event; no watcher sees an event older than its `since`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.types import Event

_REMOVALS: Final = frozenset({"delete", "compareAndDelete", "expire"})


class Watcher:
    """One registered watch. `remove` takes it out, at O(1), as often as it is called."""

    __slots__ = ("_hub", "active", "deliver", "path", "recursive", "since", "stream")

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

    An event costs a look-up for each name in its key and a call for each watcher that is told.
    """

    __slots__ = ("_above", "_at", "count", "failed")

    def __init__(self) -> None:
        self.count = 0
        """How many watchers are registered."""
        self.failed: Callable[[Exception], object] = unguarded
        """Told what a watcher raised when it was told something."""
        # Dicts serve as ordered sets: watchers are told in the order they came.
        self._at: dict[bytes, dict[Watcher, None]] = {}
        self._above: dict[bytes, dict[Watcher, None]] = {}

    def watch(
        self, path: bytes, recursive: bool, stream: bool, since: int, deliver: Callable[[Event | None], bool]
    ) -> Watcher:
        """Register a watch of `path` for events with an index of at least `since`.

        `deliver` is called during `publish`. When it returns False (the reader is gone or too far behind) the
        watcher is removed, whatever it is; a slow reader costs what its connection may buffer, never a wait
        here. It gets None, once and as the last, when the watch ends from this side, as it does when
        `deliver` raises.
        """
        watcher = Watcher(self, path, recursive, stream, since, deliver)
        self._at.setdefault(path, {})[watcher] = None
        if recursive:
            self._above.setdefault(path, {})[watcher] = None
        self.count += 1
        return watcher

    def interrupt(self) -> None:
        """End every watch: the state has jumped, and what happened on the way is told to nobody.

        Whoever watches comes back with the index it has reached, and gets what the window holds or 401: a
        watch that went on would have a silent gap. O(watchers).
        """
        for watchers in list(self._at.values()):
            for watcher in tuple(watchers):
                self._end(watcher)

    def publish(self, event: Event) -> None:
        """Tell everybody who asked for this event. Every watcher gets the same object."""
        at = self._at
        if not at:
            return
        key = event.node.key
        if event.action in _REMOVALS:
            for path in event.removed:
                if path in at:
                    self._tell(at[path], event)
            if key in at:
                self._tell(at[key], event)
        if self._above:
            self._tell_above(key, event)
        if key in at:
            self._tell(at[key], event)

    def _tell_above(self, key: bytes, event: Event) -> None:
        above = self._above
        # From the nearest ancestor up: the first hidden name on the way hides the key from all who are
        # further up.
        end = len(key)
        while end > 1:
            start = key.rfind(b"/", 0, end)
            if key.startswith(b"_", start + 1):
                return
            ancestor = key[:start] or b"/"
            if ancestor in above:
                self._tell(above[ancestor], event)
            end = start

    def _tell(self, watchers: dict[Watcher, None], event: Event) -> None:
        index = event.index
        for watcher in tuple(watchers):
            if watcher.since > index or not watcher.active:
                continue
            if not guarded(self.failed, self._deliver, watcher, event):
                self._end(watcher)

    @staticmethod
    def _deliver(watcher: Watcher, event: Event) -> None:
        if not watcher.deliver(event) or not watcher.stream:
            watcher.remove()

    def _end(self, watcher: Watcher) -> None:
        watcher.remove()
        guarded(self.failed, watcher.deliver, None)

    def _drop(self, watcher: Watcher) -> None:
        self.count -= 1
        self._leave(self._at, watcher)
        if watcher.recursive:
            self._leave(self._above, watcher)

    @staticmethod
    def _leave(paths: dict[bytes, dict[Watcher, None]], watcher: Watcher) -> None:
        watchers = paths[watcher.path]
        del watchers[watcher]
        if not watchers:
            del paths[watcher.path]
