"""Live watchers of the v3 keys (v3 API, Watch): streams of watches, each live or catching up from history.

A watch that wants nothing older than the next change is *live*: it stands in a group with all watches of the
same range and wishes, the group's events are written once, and every watch of it is given the same bytes. A
watch that is behind, because it began in the past or because its stream has more waiting to be sent than it
may, is *lagging*: it reads history at its own pace, in bounded steps between the turns of the member
(`Watches.step`), and becomes live when nothing is left.

Invariants, for each watch:
 1. Every change of a revision from its start on that it asked for is sent once, in order, in one response
    for all changes of one revision (but for fragments it asked for).
 2. A response tells a revision that is not below that of its last event and never goes back.
 3. What compaction has taken from it is told as its end, never left out.
 4. A progress response tells a revision up to which everything has been sent before it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from netstore.codec import varint
from netstore.errors import COMPACTED, TOO_MANY
from netstore.guard import guarded, unguarded
from netstore.types import Revision
from netstore.watch.ranges import TO_THE_END, Ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from netstore.types import KeyChange

MAX_BACKLOG: Final = 4 << 20
"""Bytes that may wait in a stream's sink before its watches fall back to history."""

RESUME_BACKLOG: Final = 1 << 20
"""Bytes in the sink below which they go on."""

MAX_WATCHES: Final = 100_000
"""Watches of one member, about 1 KiB each."""

FRAGMENT_BYTES: Final = 2 << 20
"""Events of one response are cut to this for watches that ask for it: etcd's request limit and 512 KiB."""

STEP_LOOKED: Final = 5_000
"""Changes of the history looked at in one step: about 0.5 ms when none is wanted."""

STEP_TOLD: Final = 250
"""Changes told in one step, give or take one revision: about 1 ms."""

PART_BYTES: Final = 1 << 20
"""Bytes of pairs in one response, give or take one revision."""

NO_WATCH: Final = -1
"""The watch id of a response that is about none, or about one that was not made."""

EMPTY_RANGE: Final = "mvcc: watcher range is empty"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
"""What etcd says."""

# Tags of protobuf fields (v3 API, WatchResponse.events and mvccpb.Event).
_EVENTS, _DELETE, _KV, _PREV_KV = b"\x5a", b"\x08\x01", b"\x12", b"\x1a"


class Source(Protocol):
    """The part of `state.mvcc.Mvcc` that watches read."""

    revision: Revision
    compacted: Revision

    @property
    def unpublished(self) -> bool:
        """Whether there are changes that `Watches.publish` has not been given yet."""

    def history(
        self, start: Revision, key: bytes, range_end: bytes, *, looked: int, told: int, size: int
    ) -> tuple[list[KeyChange], Revision]:
        """Changes in a range from a revision on, and the revision to go on from."""

    def pair(self, place: int) -> bytes:
        """The pair that a change names as the one before."""


class Sink(Protocol):
    """Where the responses of one stream go, in order. Nothing may wait."""

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
        """One WatchResponse. `revision` is for its header; `events` are the ready-made entries of its events
        field, tags and lengths included, the same object for every watch that is told the same.
        """

    def broken(self) -> None:
        """A response could not be made or given: the stream is closed, because it has a gap now, and its
        client is to be told that.
        """


class Wish(NamedTuple):
    """What decides which events a watch gets and how they are written."""

    key: bytes
    range_end: bytes
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False

    def wants(self, change: KeyChange) -> bool:
        """Whether the filters let the change through."""
        return not (self.no_delete if change.deleted else self.no_put)


class _Group:
    """Live watches that get the same bytes."""

    __slots__ = ("watches", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.watches: dict[Watch, None] = {}


class Watch:
    """One watch of a stream. `start` is the first revision it has not been told of."""

    __slots__ = ("fragment", "id", "live", "progress", "start", "stream", "told", "wish")

    def __init__(  # noqa: PLR0917 - made in one place only
        self, stream: Stream, id_: int, wish: Wish, start: Revision, progress: bool, fragment: bool
    ) -> None:
        self.stream = stream
        self.id = id_
        self.wish = wish
        self.start = start
        self.progress = progress
        self.fragment = fragment
        self.live = False
        self.told = False
        """It had an event since the last tick of progress."""

    def is_told(self, now: Revision) -> bool:
        """Whether it has been sent everything up to this revision, and begins no later than after it."""
        return self.live and self.start <= now + 1


class _Part(NamedTuple):
    """Events that go into one response."""

    revision: Revision
    first: Revision
    events: list[bytes]
    joined: bytes


class Stream:
    """The watches of one Watch call. Requests take effect in the order they are made."""

    def __init__(self, watches: Watches, sink: Sink) -> None:
        self._hub = watches
        self._watches: dict[int, Watch] = {}
        self._next_id = 0
        self.sink = sink
        self.parked: list[Watch] = []
        """Lagging watches that wait for the sink."""

    def create(
        self,
        wish: Wish,
        start_revision: int = 0,
        watch_id: int = 0,
        *,
        progress_notify: bool = False,
        fragment: bool = False,
    ) -> None:
        """Begin a watch at a revision, 0 being the next change (v3 API, create_request). It is answered, as
        created or as refused, before anything else is sent.
        """
        hub = self._hub
        now = hub.source.revision
        refusal = self._refusal(wish, start_revision, watch_id)
        if refusal:
            self.sink.send(NO_WATCH, now, created=True, canceled=True, reason=refusal)
            return
        if not watch_id:
            while self._next_id in self._watches:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        key = wish.key or b"\0"
        start = Revision(start_revision or now + 1)
        watch = Watch(self, watch_id, wish._replace(key=key), start, progress_notify, fragment)
        self._watches[watch_id] = watch
        hub.count += 1
        self.sink.send(watch_id, now, created=True)
        if start > now:
            hub.enliven(watch)
        elif start < hub.source.compacted:
            self.end_compacted(watch)
        else:
            hub.lag(watch)

    def _refusal(self, wish: Wish, start_revision: int, watch_id: int) -> str:
        key, range_end = wish.key or b"\0", wish.range_end
        if range_end and range_end != TO_THE_END and range_end <= key:
            return EMPTY_RANGE
        if watch_id and watch_id in self._watches:
            return DUPLICATE_ID
        if start_revision < 0:
            return COMPACTED.decode()
        return TOO_MANY if self._hub.count >= MAX_WATCHES else ""

    def cancel(self, watch_id: int) -> None:
        """End a watch; an unknown one is not answered (v3 API, cancel_request)."""
        watch = self._watches.get(watch_id)
        if watch is not None:
            self._drop(watch)
            self.sink.send(watch_id, self._hub.source.revision, canceled=True)

    def progress(self) -> None:
        """Answer a request for progress, if every watch has been told everything (v3 API, progress)."""
        now = self._hub.source.revision
        if not self._watches or self._hub.source.unpublished:
            return
        if all(watch.is_told(now) for watch in self._watches.values()):
            self.sink.send(NO_WATCH, now)

    def tick(self) -> None:
        """Tell each watch that wants it how far it is, unless an event has told it since the last tick. To be
        called every ten minutes or so, for each stream in its own time.
        """
        now = self._hub.source.revision
        if self._hub.source.unpublished:
            return
        for watch in self._watches.values():
            if watch.progress and not watch.told and watch.is_told(now):
                self.sink.send(watch.id, now)
            watch.told = False

    def drained(self) -> None:
        """The sink has room again: go on with what had to wait."""
        if self.parked and self.sink.backlog < RESUME_BACKLOG:
            parked, self.parked = self.parked, []
            for watch in parked:
                self._hub.lag(watch)

    def close(self) -> None:
        """The call has ended. Nothing is sent any more."""
        for watch in list(self._watches.values()):
            self._drop(watch)
        self.parked = []

    @property
    def is_full(self) -> bool:
        """More waits in the sink than may."""
        return self.sink.backlog > MAX_BACKLOG

    def holds(self, watch: Watch) -> bool:
        """Whether the watch has not ended."""
        return self._watches.get(watch.id) is watch

    def end_compacted(self, watch: Watch) -> None:
        """The watch wants what is compacted (v3 API, create_request)."""
        self._drop(watch)
        self.sink.send(watch.id, 0, canceled=True, compact_revision=self._hub.source.compacted)

    def _drop(self, watch: Watch) -> None:
        del self._watches[watch.id]
        self._hub.count -= 1
        if watch.live:
            self._hub.deaden(watch)


class Watches:
    """All v3 watches of a member.

    The member gives the changes of each batch to `publish`, calls `step` between turns while `behind`, and
    `replaced` when its state has jumped. `wake` is called when there is something to `step`.
    """

    def __init__(self, source: Source, wake: Callable[[], None]) -> None:
        self.source = source
        self.count = 0
        """How many watches there are."""
        self.failed: Callable[[Exception], object] = unguarded
        """Told what telling a watch raised."""
        self._wake = wake
        self._ranges: Ranges[_Group] = Ranges()
        self._groups: dict[Wish, _Group] = {}
        self._lagging: deque[Watch] = deque()
        self._published = Revision(0)
        """What live watches have been told, or were made after."""

    def open(self, sink: Sink) -> Stream:
        """A stream for one Watch call."""
        return Stream(self, sink)

    @property
    def behind(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._lagging)

    def publish(self, changes: Sequence[KeyChange]) -> None:
        """Tell the live watches of the changes of one or more whole revisions.

        A look-up for each change, about 1 us for each event of a group, and 1 us for each watch told.
        """
        self._published = self.source.revision
        if not self._ranges:
            return
        find = self._ranges.find
        told: dict[_Group, list[KeyChange]] = {}
        for change in changes:
            for group in find(change.key):
                if group.wish.wants(change):
                    told.setdefault(group, []).append(change)
        now = self.source.revision
        for group, events in told.items():
            watches = tuple(group.watches)
            if not guarded(self.failed, self._tell_all, watches, group.wish, events, now):
                for watch in watches:
                    self._break(watch)

    def step(self) -> None:
        """Bring one lagging watch a bounded piece further."""
        if not self._lagging:
            return
        watch = self._lagging.popleft()
        if watch.stream.holds(watch) and not guarded(self.failed, self._catch_up, watch):
            self._break(watch)

    def _catch_up(self, watch: Watch) -> None:
        stream, source = watch.stream, self.source
        if watch.start < source.compacted:
            stream.end_compacted(watch)
            return
        if stream.is_full:
            stream.parked.append(watch)
            return
        wish = watch.wish
        changes, following = source.history(
            watch.start, wish.key, wish.range_end, looked=STEP_LOOKED, told=STEP_TOLD, size=PART_BYTES
        )
        wanted = [change for change in changes if wish.wants(change)]
        if wanted:
            # Further than this response reaches, the watch has not been told.
            for part in self._parts(wish, wanted, Revision(following - 1)):
                self._send(watch, part)
        watch.start = following
        if following > source.revision:
            self.enliven(watch)
        else:
            self._lagging.append(watch)

    def replaced(self) -> None:
        """The state has become another member's, which is further: every watch goes on from history."""
        for group in list(self._groups.values()):
            for watch in list(group.watches):
                self.deaden(watch)
                watch.start = max(watch.start, Revision(self._published + 1))
                self.lag(watch)

    def enliven(self, watch: Watch) -> None:
        """The watch wants nothing older than the next change."""
        wish = watch.wish
        group = self._groups.get(wish)
        if group is None:
            group = self._groups[wish] = _Group(wish)
            self._ranges.add(wish.key, wish.range_end, group)
        group.watches[watch] = None
        watch.live = True

    def deaden(self, watch: Watch) -> None:
        """The watch is not live any more."""
        wish = watch.wish
        group = self._groups[wish]
        del group.watches[watch]
        watch.live = False
        if not group.watches:
            del self._groups[wish]
            self._ranges.remove(wish.key, wish.range_end, group)

    def lag(self, watch: Watch) -> None:
        """The watch has to read history."""
        self._lagging.append(watch)
        self._wake()

    def _break(self, watch: Watch) -> None:
        """A watch has a gap: its stream ends, with all its watches."""
        if watch.stream.holds(watch):
            watch.stream.close()
            guarded(self.failed, watch.stream.sink.broken)

    def _tell_all(
        self, watches: Iterable[Watch], wish: Wish, events: Sequence[KeyChange], now: Revision
    ) -> None:
        parts = self._parts(wish, events, now)
        for watch in watches:
            if watch.live and not guarded(self.failed, self._tell, watch, parts):
                self._break(watch)

    def _tell(self, watch: Watch, parts: Sequence[_Part]) -> None:
        for part in parts:
            if watch.start > part.first:
                # It began beyond the present: what came before its start is not for it.
                if watch.start > part.revision:
                    continue
                self.deaden(watch)
                self.lag(watch)
                return
            if watch.stream.is_full:
                self.deaden(watch)
                watch.start = part.first
                watch.stream.parked.append(watch)
                return
            self._send(watch, part)

    def _send(self, watch: Watch, part: _Part) -> None:
        watch.told = True
        watch.start = Revision(part.revision + 1)
        send = watch.stream.sink.send
        if watch.fragment and len(part.joined) >= FRAGMENT_BYTES:
            pieces = list(_fragments(part.events))
            for piece in pieces[:-1]:
                send(watch.id, part.revision, piece, fragment=True)
            send(watch.id, part.revision, pieces[-1])
        else:
            send(watch.id, part.revision, part.joined)

    def _parts(self, wish: Wish, changes: Iterable[KeyChange], last: Revision) -> list[_Part]:
        """The changes as responses of a moderate size that cut no revision; `last` is what the last of them
        may tell.
        """
        parts: list[_Part] = []
        events: list[bytes] = []
        first = revision = Revision(0)
        size = 0
        for change in changes:
            if size >= PART_BYTES and change.revision != revision:
                parts.append(_Part(revision, first, events, b"".join(events)))
                events, size = [], 0
            revision = change.revision
            if not events:
                first = revision
            event = self._event(change, wish.prev_kv)
            events.append(event)
            size += len(event)
        parts.append(_Part(max(last, revision), first, events, b"".join(events)))
        return parts

    def _event(self, change: KeyChange, prev_kv: bool) -> bytes:
        kind = _DELETE if change.deleted else b""
        event = b"%b\x12%b%b" % (kind, varint(len(change.pair)), change.pair)
        if prev_kv and change.before:
            prev = self.source.pair(change.before)
            event = b"%b\x1a%b%b" % (event, varint(len(prev)), prev)
        return b"\x5a%b%b" % (varint(len(event)), event)


def _fragments(events: Iterable[bytes]) -> Iterable[bytes]:
    """The events in pieces below `FRAGMENT_BYTES`, or of a single event."""
    piece: list[bytes] = []
    size = 0
    for event in events:
        if piece and size + len(event) >= FRAGMENT_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(event)
        size += len(event)
    yield b"".join(piece)
