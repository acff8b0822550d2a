"""The watches of one v3 Watch call (v3 API, Watch): its requests, and the responses to them.

A watch is *synced* when it wants nothing older than the next change: it is in a group of `watches.Watches`.
Otherwise it is *unsynced* and reads history (`unsynced.Unsynced`), or is parked here until its sink has room.

Invariants, for each watch:
 1. Every change that it selects, of a revision from its start on, is sent once, in order, all changes of one
    revision in one response (but for the fragments that a client asks for).
 2. The revision of a response is not below that of its last event and never goes back.
 3. What compaction has taken from a watch ends it and is reported, never left out.
 4. A progress response has a revision up to which everything has been sent before it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from netstore.admission import household
from netstore.errors import Reason
from netstore.guard import guarded
from netstore.intervals import TO_THE_END
from netstore.types import Revision
from netstore.watch import slices
from netstore.watch.responses import FRAGMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.types import KeyChange
    from netstore.watch.responses import Response

MAX_BACKLOG: Final = 4 << 20
"""Bytes that may wait in a stream's sink before its watches become unsynced."""

RESUME_BACKLOG: Final = 1 << 20
"""Bytes in the sink below which they go on."""

NO_WATCH: Final = -1
"""The watch id of a response that is for no watch, or for one that was refused."""

EMPTY_RANGE: Final = "mvcc: watcher range is empty"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
"""etcd's error texts."""


class Source(Protocol):
    """The part of `state.v3.mvcc.Mvcc` that watches read."""

    revision: Revision
    compacted: Revision

    @property
    def unpublished(self) -> bool:
        """Whether there are changes that `Watches.publish` has not been given yet."""

    def history(
        self, start: Revision, key: bytes, range_end: bytes, *, looked: int, told: int, size: int
    ) -> Iterator[tuple[list[KeyChange], Revision]]:
        """Changes in a range from a revision on, in bounded parts; with the last, where to go on from."""

    def pair(self, place: int) -> bytes:
        """The pair that a change names as the one before."""


class Sink(Protocol):
    """Where the responses of one stream go, in order. No call may block."""

    @property
    def backlog(self) -> int:
        """Bytes given to `send` that have not left yet. When it falls below `RESUME_BACKLOG` after having
        been above `MAX_BACKLOG`, `Stream.drained` has to be called.
        """

    def send(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> None:
        """One WatchResponse. `revision` is for its header; `events` are the encoded entries of its events
        field, tags and lengths included, the same object for all watches that get the same events.
        """

    def broken(self) -> None:
        """A response could not be made or sent, so the stream has a gap and is closed: tell the client."""


class Registry(Protocol):
    """The part of `watches.Watches` that its streams use."""

    source: Source
    failed: Callable[[Exception], object]
    progress_requests: dict[Stream, None]
    events: int

    @property
    def in_round(self) -> bool:
        """Whether some synced watch has not been sent all changes."""

    @property
    def progress_revision(self) -> Revision:
        """Up to where all synced watches have been sent everything; for use between rounds."""

    @property
    def read_history(self) -> Callable[[Watch], None]:
        """Let an unsynced watch read history from its start on."""

    def enter(self, owner: str, key: bytes, range_end: bytes) -> bool:
        """Take a place for a watch of this range; False if its owner may not have another."""

    def leave(self, watch: Watch) -> None:
        """A watch has ended."""

    def join_group(self, watch: Watch) -> None:
        """A watch is synced."""

    def run(self, task: Iterator[None]) -> None:
        """Do a task in slices."""


class _NullSink:
    """The `Sink` of a closed stream: the stream must not keep the real one in memory."""

    backlog = 0

    def send(self, *_: object, **__: object) -> None:
        """Drop it."""

    def broken(self) -> None:
        """There is no client."""


_NULL_SINK: Final = _NullSink()


class Selection(NamedTuple):
    """Which events a watch gets, and whether with the pair before."""

    key: bytes
    range_end: bytes
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False

    def includes(self, change: KeyChange) -> bool:
        """Whether the filters let the change through."""
        return not (self.no_delete if change.deleted else self.no_put)


class Watch:
    """One watch of a stream. `start` is the first revision it has not been sent yet."""

    __slots__ = ("fragment", "had_event", "id", "progress", "selection", "start", "stream", "synced")

    def __init__(  # noqa: PLR0917 - made in one place only
        self, stream: Stream, id_: int, selection: Selection, start: Revision, progress: bool, fragment: bool
    ) -> None:
        self.stream = stream
        self.id = id_
        self.selection = selection
        self.start = start
        self.progress = progress
        """The client wants progress responses while there are no events."""
        self.fragment = fragment
        self.synced = False
        self.had_event = False
        """It was sent an event since the last tick of progress."""

    def is_current(self, now: Revision) -> bool:
        """Whether it has been sent everything up to this revision, and begins no later than after it."""
        return self.synced and self.start <= now + 1

    def send(self, response: Response) -> None:
        """Send events, in fragments if they are many and the client asked for that."""
        self.had_event = True
        self.start = Revision(response.revision + 1)
        send = self.stream.sink.send
        if self.fragment and len(response.joined) >= FRAGMENT_BYTES:
            for piece in response.fragments[:-1]:
                send(self.id, response.revision, piece, fragment=True)
            send(self.id, response.revision, response.fragments[-1])
        else:
            send(self.id, response.revision, response.joined)

    def fail(self) -> None:
        """The watch has a gap: close its stream, with all its watches."""
        if self.stream.holds(self):
            self.stream.fail()


class Stream:
    """The watches of one Watch call. Requests take effect in the order they are made."""

    def __init__(self, registry: Registry, sink: Sink, principal: str) -> None:
        self._registry = registry
        self.owner = household(principal)
        self._watches: dict[int, Watch] = {}
        self._next_id = 0
        self.sink: Sink = sink
        self.synced = 0
        """How many of its watches are synced."""
        self.future: OrderedDict[Watch, None] = OrderedDict()
        """Synced watches that began beyond the next change; removed once that is found to be reached."""
        self.parked: list[Watch] = []
        """Unsynced watches that wait until the sink has room."""

    def create(
        self,
        selection: Selection,
        start_revision: int = 0,
        watch_id: int = 0,
        *,
        progress_notify: bool = False,
        fragment: bool = False,
    ) -> None:
        """Begin a watch at a revision, 0 being the next change (v3 API, create_request). It is answered, as
        created or as refused, before anything else is sent.
        """
        registry = self._registry
        refusal = self._refusal(selection, start_revision, watch_id)
        if refusal:
            self.refuse(refusal)
            return
        now = registry.source.revision
        if not watch_id:
            while self._next_id in self._watches:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        key = selection.key or b"\0"
        start = Revision(start_revision or now + 1)
        watch = Watch(self, watch_id, selection._replace(key=key), start, progress_notify, fragment)
        self._watches[watch_id] = watch
        self.sink.send(watch_id, now, created=True)
        if start > now:
            registry.join_group(watch)
        elif start < registry.source.compacted:
            self.end_compacted(watch)
        else:
            registry.read_history(watch)

    def refuse(self, reason: str) -> None:
        """Answer a request for a watch that is refused; the other watches go on."""
        self.sink.send(NO_WATCH, self._registry.source.revision, created=True, canceled=True, reason=reason)

    def _refusal(self, selection: Selection, start_revision: int, watch_id: int) -> str:
        """Why the watch is refused; empty if it is not, and then it has its place."""
        key, range_end = selection.key or b"\0", selection.range_end
        if range_end and range_end != TO_THE_END and range_end <= key:
            return EMPTY_RANGE
        if watch_id and watch_id in self._watches:
            return DUPLICATE_ID
        if start_revision < 0:
            return Reason.COMPACTED.text
        return "" if self._registry.enter(self.owner, key, range_end) else Reason.TOO_MANY.text

    def cancel(self, watch_id: int) -> None:
        """End a watch; an unknown one is not answered (v3 API, cancel_request)."""
        watch = self._watches.get(watch_id)
        if watch is not None:
            self._drop(watch)
            self.sink.send(watch_id, self._registry.source.revision, canceled=True)

    def progress(self) -> None:
        """Answer a request for progress, if every watch has been sent everything (v3 API, progress). During a
        round it is answered at the end of the round, once for all requests until then. O(1), beside a look at
        each watch that began in the future, once.
        """
        registry = self._registry
        if not self._watches or registry.source.unpublished:
            return
        if registry.in_round:
            registry.progress_requests[self] = None
        else:
            self.answer_progress(registry.source.revision)

    def answer_progress(self, now: Revision) -> None:
        """Send a progress response for this revision, if every watch has been sent everything up to it."""
        if not self._watches or self.synced < len(self._watches):
            return
        future = self.future
        while future:
            watch = next(iter(future))
            if watch.start > now + 1:
                return
            del future[watch]
        self.sink.send(NO_WATCH, now)

    def tick(self) -> None:
        """Send progress to each watch that asked for it and had no event since the last tick. To be called
        every ten minutes or so, for each stream in its own time. Done in slices, as rounds are.
        """
        self._registry.run(self._ticks(list(self._watches.values())))

    def _ticks(self, watches: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(watches, 1):
            if self.holds(watch):
                now = self._registry.progress_revision
                if watch.progress and not watch.had_event and watch.is_current(now):
                    self.sink.send(watch.id, now)
                watch.had_event = False
            if number % slices.SLICE_WATCHES == 0:
                yield

    def drained(self) -> None:
        """The sink has room again: parked watches go on."""
        if self.parked and self.sink.backlog < RESUME_BACKLOG:
            parked, self.parked = self.parked, []
            self._registry.run(self._unpark(parked))

    def _unpark(self, parked: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(parked, 1):
            if self.holds(watch):
                self._registry.read_history(watch)
            if number % slices.SLICE_WATCHES == 0:
                yield

    def close(self) -> None:
        """The call has ended. Nothing more is sent. Many watches are removed in slices."""
        self.sink = _NULL_SINK
        watches, self._watches = self._watches, {}
        self.future.clear()
        self.parked = []
        self._registry.progress_requests.pop(self, None)
        if watches:
            self._registry.run(self._leave(list(watches.values())))

    def fail(self) -> None:
        """The stream has a gap: close it from this side."""
        sink = self.sink
        self.close()
        guarded(self._registry.failed, sink.broken)

    def _leave(self, watches: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(watches, 1):
            self._registry.leave(watch)
            if number % slices.SLICE_MOVES == 0:
                yield

    @property
    def is_full(self) -> bool:
        """Whether more waits in the sink than may."""
        return self.sink.backlog > MAX_BACKLOG

    def holds(self, watch: Watch) -> bool:
        """Whether the watch has not ended."""
        return self._watches.get(watch.id) is watch

    def end_compacted(self, watch: Watch) -> None:
        """The revisions that the watch wants next are compacted (v3 API, create_request)."""
        self._drop(watch)
        self.sink.send(watch.id, 0, canceled=True, compact_revision=self._registry.source.compacted)

    def _drop(self, watch: Watch) -> None:
        del self._watches[watch.id]
        self._registry.leave(watch)
