"""Live watchers of the v3 keys (v3 API, Watch): streams of watches, each live or catching up from history.

A watch that wants nothing older than the next change is *live*: it stands in a group with all watches of the
same range and wishes, the group's events are written once, and every watch of it is given the same bytes. A
watch that is behind, because it began in the past or because its stream has more waiting to be sent than it
may, is *lagging*: it reads history, in bounded steps between the turns of the member (`Watches.step`), and
becomes live when nothing is left. Watches that lag at the same revision and want the same read it once for
all of them (`_Reading`). A reading stands in the queue of each household (`admission.household`) that has a
watch in it: whoever's turn comes first does a slice of it.

Telling the live watches is a *round*: it takes all changes that have come, and is done in slices, the first
when the changes come and the others between the turns. Changes that come meanwhile wait for the next round.

Invariants, for each watch:
 1. Every change of a revision from its start on that it asked for is sent once, in order, in one response
    for all changes of one revision (but for fragments it asked for).
 2. A response tells a revision that is not below that of its last event and never goes back.
 3. What compaction has taken from it is told as its end, never left out.
 4. A progress response tells a revision up to which everything has been sent before it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from netstore.admission import WeighedAdmission, household
from netstore.codec import varint
from netstore.errors import COMPACTED, TOO_MANY
from netstore.guard import guarded, unguarded
from netstore.intervals import TO_THE_END, IntervalIndex
from netstore.types import Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.types import KeyChange

MAX_BACKLOG: Final = 4 << 20
"""Bytes that may wait in a stream's sink before its watches fall back to history."""

RESUME_BACKLOG: Final = 1 << 20
"""Bytes in the sink below which they go on."""

MAX_WATCHES: Final = 100_000
"""Watches of one member, about 1 KiB each. One principal has at most half of them (`admission`)."""

MAX_WATCH_BYTES: Final = 64 << 20
"""Bytes of the keys and the range ends of all watches. One principal has at most half of them."""

FRAGMENT_BYTES: Final = 2 << 20
"""Events of one response are cut to this for watches that ask for it: etcd's request limit and 512 KiB."""

STEP_LOOKED: Final = 5_000
"""Changes of the history looked at in one step: about 0.5 ms when none is wanted."""

STEP_TOLD: Final = 250
"""Changes told in one step, give or take one revision: about 1 ms."""

PART_BYTES: Final = 1 << 20
"""Bytes of pairs in one response, give or take one revision."""

TOLD_AT_ONCE: Final = 250
"""Watches that are told something, and groups of them, in one slice: about 1.5 ms, at 6 us for one over
gRPC.
"""

MOVED_AT_ONCE: Final = 100
"""Watches that stop being live in one slice: 20 us for one that has a range of its own."""

LOOKED_AT_ONCE: Final = 1_500
"""Pairs of a change and a group that are looked at in one slice: 0.5 ms, 2 where none were remembered."""

EVENTS_AT_ONCE: Final = 1_000
"""Events that are written in one slice: 1.5 ms."""

MATCHED_AT_ONCE: Final = 100_000
"""Pairs of a change and a group that wants it which are gathered before they are told, give or take a
revision: 8 bytes each.
"""

WAITING_BYTES: Final = 16 << 20
"""Bytes of changes that may wait for a round. Beyond it the live watches read them from history."""

_CHANGE_COST: Final = 200
"""Bytes that a waiting change takes beside its pair."""

_PREV_EVENTS: Final = 5
"""An event that shows the pair before takes as long as so many others: that pair is looked up."""

NO_WATCH: Final = -1
"""The watch id of a response that is about none, or about one that was not made."""

_SEARCH: Final = 3
"""To look for the groups that a change concerns takes as long as so many looks at one."""

_pair_of: Final = attrgetter("pair")

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
    ) -> Iterator[tuple[list[KeyChange], Revision]]:
        """Changes in a range from a revision on, in bounded parts; with the last, where to go on from."""

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


class _Nowhere:
    """The `Sink` of a stream that is closed: the stream and what it sent to do not keep each other."""

    backlog = 0

    def send(self, *_: object, **__: object) -> None:
        """Nobody gets it."""

    def broken(self) -> None:
        """Nobody is to be told."""


_NOWHERE: Final = _Nowhere()


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
    pieces: list[bytes]
    """What watches get that asked for fragments."""
    joined: bytes


class _Writing:
    """Events that become responses of a moderate size, which cut no revision. They are added one by one."""

    __slots__ = ("_events", "_first", "_parts", "_pieces", "_revision", "_size", "_total")

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._pieces: list[bytes] = []
        self._events: list[bytes] = []
        self._size = self._total = 0
        self._first = self._revision = Revision(0)

    def add(self, revision: Revision, event: bytes) -> None:
        """The next event."""
        size = len(event)
        if self._total >= PART_BYTES and revision != self._revision:
            self._end_part(self._revision)
        if not self._total:
            self._first = revision
        self._revision = revision
        if self._events and self._size + size >= FRAGMENT_BYTES:
            self._end_piece()
        self._events.append(event)
        self._size += size
        self._total += size

    def finish(self, last: Revision) -> list[_Part]:
        """There are no more events; what the last response may tell."""
        if self._total:
            self._end_part(max(last, self._revision))
        return self._parts

    def _end_piece(self) -> None:
        self._pieces.append(b"".join(self._events))
        self._events, self._size = [], 0

    def _end_part(self, revision: Revision) -> None:
        self._end_piece()
        pieces, self._pieces = self._pieces, []
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._parts.append(_Part(revision, self._first, pieces, joined))
        self._total = 0


class _Reading:
    """What lagging watches read that want the same from the same revision on."""

    __slots__ = ("began", "owners", "start", "steps", "watches", "wish")

    def __init__(self, wish: Wish, start: Revision) -> None:
        self.wish = wish
        self.start = start
        self.watches: deque[Watch] = deque()
        """Those that have not been told yet what is read."""
        self.owners: dict[str, int] = {}
        """How many of these each household has; in whose queues the reading stands."""
        self.steps: Iterator[None] | None = None
        """What is left to do, once it was begun."""
        self.began = 0
        """How often the state had been replaced then."""


class Stream:
    """The watches of one Watch call. Requests take effect in the order they are made."""

    def __init__(self, watches: Watches, sink: Sink, principal: str) -> None:
        self._hub = watches
        self.principal = principal
        self.owner = household(principal)
        self._watches: dict[int, Watch] = {}
        self._next_id = 0
        self.sink: Sink = sink
        self.live = 0
        """How many of its watches are live."""
        self.ahead: OrderedDict[Watch, None] = OrderedDict()
        """Live watches that began beyond what the others have been told; looked through as that moves on."""
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
        self.sink.send(watch_id, now, created=True)
        if start > now:
            hub.enliven(watch)
        elif start < hub.source.compacted:
            self.end_compacted(watch)
        else:
            hub.lag(watch)

    def _refusal(self, wish: Wish, start_revision: int, watch_id: int) -> str:
        """Why there is no such watch, or nothing, and it has its place."""
        key, range_end = wish.key or b"\0", wish.range_end
        if range_end and range_end != TO_THE_END and range_end <= key:
            return EMPTY_RANGE
        if watch_id and watch_id in self._watches:
            return DUPLICATE_ID
        if start_revision < 0:
            return COMPACTED.decode()
        return "" if self._hub.enter(self.owner, key, range_end) else TOO_MANY

    def cancel(self, watch_id: int) -> None:
        """End a watch; an unknown one is not answered (v3 API, cancel_request)."""
        watch = self._watches.get(watch_id)
        if watch is not None:
            self._drop(watch)
            self.sink.send(watch_id, self._hub.source.revision, canceled=True)

    def progress(self) -> None:
        """Answer a request for progress, if every watch has been told everything (v3 API, progress). While
        changes are being told it is answered at the end of the round, once for all requests until then.
        O(1), beside a look at each watch that began in the future, once.
        """
        hub = self._hub
        if not self._watches or hub.source.unpublished:
            return
        if hub.telling:
            hub.asking[self] = None
        else:
            self.answer_progress(hub.source.revision)

    def answer_progress(self, now: Revision) -> None:
        """Say that everything up to this revision has been sent, where that is so for every watch."""
        if not self._watches or self.live < len(self._watches):
            return
        ahead = self.ahead
        while ahead:
            watch = next(iter(ahead))
            if watch.start > now + 1:
                return
            del ahead[watch]
        self.sink.send(NO_WATCH, now)

    def tick(self) -> None:
        """Tell each watch that wants it how far it is, unless an event has told it since the last tick. To be
        called every ten minutes or so, for each stream in its own time. Done in slices, as rounds are.
        """
        self._hub.do(self._ticks(list(self._watches.values())))

    def _ticks(self, watches: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(watches, 1):
            if self.holds(watch):
                now = self._hub.reached
                if watch.progress and not watch.told and watch.is_told(now):
                    self.sink.send(watch.id, now)
                watch.told = False
            if number % TOLD_AT_ONCE == 0:
                yield

    def drained(self) -> None:
        """The sink has room again: go on with what had to wait."""
        if self.parked and self.sink.backlog < RESUME_BACKLOG:
            parked, self.parked = self.parked, []
            self._hub.do(self._unpark(parked))

    def _unpark(self, parked: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(parked, 1):
            if self.holds(watch):
                self._hub.lag(watch)
            if number % TOLD_AT_ONCE == 0:
                yield

    def close(self) -> None:
        """The call has ended. Nothing is sent any more. Many watches are forgotten in slices."""
        self.sink = _NOWHERE
        watches, self._watches = self._watches, {}
        self.ahead.clear()
        self.parked = []
        self._hub.asking.pop(self, None)
        if watches:
            self._hub.do(self._leave(list(watches.values())))

    def _leave(self, watches: Sequence[Watch]) -> Iterator[None]:
        for number, watch in enumerate(watches, 1):
            self._hub.forget(watch)
            if number % MOVED_AT_ONCE == 0:
                yield

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
        self._hub.forget(watch)


class Watches:
    """All v3 watches of a member.

    The member gives the changes of each batch to `publish`, calls `step` between turns while `behind`, and
    `replaced` when its state has jumped. `wake` is called when there is something to `step`.
    """

    def __init__(self, source: Source, wake: Callable[[], None]) -> None:
        self.source = source
        self._places = WeighedAdmission(MAX_WATCHES, MAX_WATCH_BYTES)
        self.failed: Callable[[Exception], object] = unguarded
        """Told what telling a watch raised."""
        self._wake = wake
        self._ranges: IntervalIndex[_Group] = IntervalIndex()
        self._groups: dict[Wish, _Group] = {}
        self._readings: dict[tuple[Wish, Revision], _Reading] = {}
        """What lagging watches are to read and nobody has begun to."""
        self._turns: OrderedDict[str, OrderedDict[_Reading, None]] = OrderedDict()
        """All that is to be read, by the households that want it; the next one first. What a household has
        begun stays its first.
        """
        self._replaced = 0
        """How often the state was replaced."""
        self.asking: dict[Stream, None] = {}
        """Streams that asked for progress while a round was under way."""
        self._told = Revision(0)
        """What all live watches have been told, or were made after."""
        self._published = Revision(0)
        """What they will have been told at the end of the rounds that are known of."""
        self._round: Iterator[None] | None = None
        self._delayed = False
        """The round under way was not done at once: what it tells may be compacted meanwhile."""
        self._waiting: list[KeyChange] = []
        self._waiting_bytes = 0
        self._missed = False
        """Too much waited: live watches have to read history from `_told` on."""
        self._chores: deque[Iterator[None]] = deque()
        """What is done in slices between rounds, in turn."""

    @property
    def count(self) -> int:
        """How many watches there are."""
        return self._places.taken

    def enter(self, owner: str, key: bytes, range_end: bytes) -> bool:
        """A household may have one watch more, of this range; it has its place until `forget`."""
        return self._places.enter(owner, 1 + len(key) + len(range_end))

    def open(self, sink: Sink, principal: str = "") -> Stream:
        """A stream for one Watch call of a principal."""
        return Stream(self, sink, principal)

    @property
    def behind(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._turns or self._chores) or self.telling

    @property
    def telling(self) -> bool:
        """Whether there are changes that not every live watch that wants them has been told."""
        return self._round is not None or self._missed or bool(self._waiting)

    @property
    def reached(self) -> Revision:
        """Up to where all live watches have been told everything; for use between rounds."""
        return self._told if self.telling or self.source.unpublished else self.source.revision

    def publish(self, changes: list[KeyChange]) -> None:
        """Tell the live watches of the changes of one or more whole revisions: the first `TOLD_AT_ONCE` of
        them now, the others in `step`. The list is used up.

        A look-up for each change, about 1 us for each event of a group, and about 6 us for each watch told.
        """
        self._published = self.source.revision
        if not self.telling and not self._ranges:
            self._told = self._published
            self._let_go(changes)
            return
        count = len(changes)
        if self._round is not None:
            size = count * _CHANGE_COST
            if self._waiting_bytes + size <= WAITING_BYTES:
                size += sum(map(len, map(_pair_of, changes)))
            self._waiting_bytes += size
        if self._waiting:
            self._waiting += changes
        else:
            self._waiting = changes
        if self._round is None:
            self._tell_on()
        elif self._waiting_bytes > WAITING_BYTES:
            self._missed = True
            missed, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._let_go(missed)
        if self.telling:
            self._wake()

    def _let_go(self, changes: list[KeyChange]) -> None:
        """Nobody wants these changes. To let go of many at once would take long."""
        if len(changes) > LOOKED_AT_ONCE:
            self.do(_shrink(changes))

    def do(self, chore: Iterator[None]) -> None:
        """Do something for a stream in slices, the first one at once where no round is under way."""
        self._chores.append(chore)
        if len(self._chores) == 1 and not self.telling:
            self._do_chore()
        if self._chores:
            self._wake()

    def _do_chore(self) -> None:
        chore = self._chores.popleft()
        over: list[bool] = []
        if guarded(self.failed, _slice_of, chore, over) and not over:
            self._chores.append(chore)

    def _tell_on(self) -> None:
        """A slice of the round under way, or of a new one. Where a round cannot go on, nobody knows who has
        been told what it held: the watches read it from history.
        """
        if self._round is None:
            self._delayed = False
            self._round = self._rounds()
        else:
            self._delayed = True
        over: list[bool] = []
        if not guarded(self.failed, _slice_of, self._round, over):
            self._round = None
            self._missed = True
        elif over:
            self._round = None

    def _rounds(self) -> Iterator[None]:
        """One round. Each part of it is a slice."""
        changes, last, missed = self._waiting, self._published, self._missed
        self._waiting, self._waiting_bytes, self._missed = [], 0, False
        if missed:
            yield from self._miss()
        changes.reverse()
        wanted: dict[_Group, list[KeyChange]] = {}
        looked = matched = 0
        revision = Revision(0)
        while changes:
            change = changes.pop()
            if matched >= MATCHED_AT_ONCE and change.revision != revision:
                yield from self._tell_all(wanted, revision)
                wanted, matched = {}, 0
            revision = change.revision
            looked += _SEARCH
            for groups in self._ranges.pieces(change.key):
                for group in groups:
                    if group.wish.wants(change):
                        wanted.setdefault(group, []).append(change)
                        matched += 1
                looked += len(groups)
                if looked >= LOOKED_AT_ONCE:
                    looked = 0
                    yield
        yield from self._tell_all(wanted, last)
        self._told = max(self._told, last)
        if self.asking:
            yield from self._answer_asking()

    def _answer_asking(self) -> Iterator[None]:
        asking, self.asking = self.asking, {}
        for number, stream in enumerate(asking, 1):
            if not guarded(self.failed, stream.answer_progress, self._told):
                self._end(stream)
            if number % TOLD_AT_ONCE == 0:
                yield

    def _miss(self) -> Iterator[None]:
        """Every live watch goes on from history, but those that begin in the future."""
        first = Revision(self._told + 1)
        count = 0
        for group in list(self._groups.values()):
            for watch in tuple(group.watches):
                if watch.live and watch.start <= self.source.revision:
                    self.deaden(watch)
                    watch.start = max(watch.start, first)
                    self.lag(watch)
                count += 1
                if count % MOVED_AT_ONCE == 0:
                    yield

    def step(self) -> None:
        """Do a slice of the round under way, of a chore between rounds, and of what lagging watches read."""
        if self._chores and self._round is None:
            self._do_chore()
        if self.telling:
            self._tell_on()
        if self._turns:
            self._read_on()

    def _read_on(self) -> None:
        owner, queue = next(iter(self._turns.items()))
        reading = next(iter(queue))
        if reading.steps is None or reading.began != self._replaced:
            if reading.steps is None:
                del self._readings[reading.wish, reading.start]
            reading.steps, reading.began = self._read(reading), self._replaced
        if not guarded(self.failed, _slice_of, reading.steps, []):
            reading.steps = self._break_readers(reading)
        if owner in self._turns:
            self._turns.move_to_end(owner)

    def _take(self, reading: _Reading) -> Watch:
        """The next watch of a reading, which stands in the queue of its household no longer if that was all
        it was for there.
        """
        watch = reading.watches.popleft()
        owner = watch.stream.owner
        reading.owners[owner] -= 1
        if not reading.owners[owner]:
            del reading.owners[owner]
            queue = self._turns[owner]
            del queue[reading]
            if not queue:
                del self._turns[owner]
        return watch

    def _break_readers(self, reading: _Reading) -> Iterator[None]:
        for is_slice in _slices(reading.watches):
            self._break(self._take(reading))
            if is_slice:
                yield

    def _read(self, reading: _Reading) -> Iterator[None]:
        """Read a part of the history and tell it to all who want it. Each part of this is a slice."""
        wish, start, watches, source = reading.wish, reading.start, reading.watches, self.source
        if start >= source.compacted:
            yield from self._park_full(reading)
        writing = _Writing()
        following = Revision(0)
        steps = source.history(
            start, wish.key, wish.range_end, looked=STEP_LOOKED, told=STEP_TOLD, size=PART_BYTES
        )
        while watches and not following:
            if start < source.compacted:
                yield from self._end_compacted(reading)
                return
            changes, following = next(steps)
            for change in changes:
                if wish.wants(change):
                    writing.add(change.revision, self._event(change, wish.prev_kv))
            if not following:
                yield
        # Further than this response reaches, the watches have not been told.
        parts = writing.finish(Revision(following - 1))
        for is_slice in _slices(watches):
            watch = self._take(reading)
            if watch.stream.holds(watch) and not guarded(self.failed, self._give, watch, parts, following):
                self._break(watch)
            if is_slice:
                yield

    def _park_full(self, reading: _Reading) -> Iterator[None]:
        """Those that cannot be told anything wait for room, and those that ended are forgotten."""
        watches = reading.watches
        for is_slice in _slices(watches):
            stream = watches[0].stream
            if stream.holds(watches[0]) and not stream.is_full:
                watches.rotate(-1)
            else:
                watch = self._take(reading)
                if stream.holds(watch):
                    stream.parked.append(watch)
            if is_slice:
                yield

    def _end_compacted(self, reading: _Reading) -> Iterator[None]:
        for is_slice in _slices(reading.watches):
            watch = self._take(reading)
            if watch.stream.holds(watch) and not guarded(self.failed, watch.stream.end_compacted, watch):
                self._break(watch)
            if is_slice:
                yield

    def _give(self, watch: Watch, parts: Sequence[_Part], following: Revision) -> None:
        if watch.stream.is_full:
            watch.stream.parked.append(watch)
            return
        for part in parts:
            self._send(watch, part)
        watch.start = following
        if following > self.source.revision:
            self.enliven(watch)
        else:
            self.lag(watch)

    def replaced(self) -> None:
        """The state has become another member's, which is further: every watch goes on from history. Done in
        slices, as rounds are.
        """
        self._replaced += 1
        missed, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._round = None
        self._missed = True
        self._published = max(self._published, self.source.revision)
        self._tell_on()
        self._let_go(missed)
        if self.behind:
            self._wake()

    def enliven(self, watch: Watch) -> None:
        """The watch wants nothing older than the next change."""
        wish = watch.wish
        group = self._groups.get(wish)
        if group is None:
            group = self._groups[wish] = _Group(wish)
            self._ranges.add(wish.key, wish.range_end, group)
        group.watches[watch] = None
        watch.live = True
        watch.stream.live += 1
        if watch.start > self._told + 1:
            watch.stream.ahead[watch] = None

    def deaden(self, watch: Watch) -> None:
        """The watch is not live any more."""
        wish = watch.wish
        group = self._groups[wish]
        del group.watches[watch]
        watch.live = False
        watch.stream.live -= 1
        watch.stream.ahead.pop(watch, None)
        if not group.watches:
            del self._groups[wish]
            self._ranges.remove(wish.key, wish.range_end, group)

    def forget(self, watch: Watch) -> None:
        """The watch has ended."""
        wish = watch.wish
        self._places.leave(watch.stream.owner, 1 + len(wish.key) + len(wish.range_end))
        if watch.live:
            self.deaden(watch)

    def lag(self, watch: Watch) -> None:
        """The watch has to read history."""
        place = watch.wish, watch.start
        reading = self._readings.get(place)
        if reading is None:
            reading = self._readings[place] = _Reading(*place)
        owner = watch.stream.owner
        count = reading.owners.get(owner, 0)
        if not count:
            self._turns.setdefault(owner, OrderedDict())[reading] = None
        reading.owners[owner] = count + 1
        reading.watches.append(watch)
        self._wake()

    def _break(self, watch: Watch) -> None:
        """A watch has a gap: its stream ends, with all its watches."""
        if watch.stream.holds(watch):
            self._end(watch.stream)

    def _break_all(self, watches: deque[Watch]) -> Iterator[None]:
        for is_slice in _slices(watches):
            self._break(watches.popleft())
            if is_slice:
                yield

    def _end(self, stream: Stream) -> None:
        sink = stream.sink
        stream.close()
        guarded(self.failed, sink.broken)

    def _tell_all(self, wanted: Mapping[_Group, list[KeyChange]], last: Revision) -> Iterator[None]:
        units = 0
        for group, changes in wanted.items():
            units += 1
            writing = _Writing()
            steps = self._write(writing, group.wish, changes)
            over: list[bool] = []
            while guarded(self.failed, _slice_of, steps, over) and not over:
                units = 0
                yield
            watches = deque(group.watches)
            parts: list[_Part] = []
            if not over or not guarded(self.failed, self._finish, parts, writing, last):
                yield from self._break_all(watches)
            while watches:
                watch = watches.popleft()
                units += 1
                if (
                    watch.live
                    and watch.stream.holds(watch)
                    and not guarded(self.failed, self._tell, watch, parts)
                ):
                    self._break(watch)
                if units >= TOLD_AT_ONCE:
                    units = 0
                    yield

    def _write(self, writing: _Writing, wish: Wish, changes: list[KeyChange]) -> Iterator[None]:
        """The events of a group's changes, which are used up."""
        changes.reverse()
        units = 0
        while changes:
            change = changes.pop()
            writing.add(change.revision, self._event(change, wish.prev_kv))
            units += _PREV_EVENTS if wish.prev_kv else 1
            if units >= EVENTS_AT_ONCE and changes:
                units = 0
                yield

    @staticmethod
    def _finish(parts: list[_Part], writing: _Writing, last: Revision) -> None:
        parts += writing.finish(last)

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
            for piece in part.pieces[:-1]:
                send(watch.id, part.revision, piece, fragment=True)
            send(watch.id, part.revision, part.pieces[-1])
        else:
            send(watch.id, part.revision, part.joined)

    def _event(self, change: KeyChange, prev_kv: bool) -> bytes:
        kind = _DELETE if change.deleted else b""
        event = b"%b\x12%b%b" % (kind, varint(len(change.pair)), change.pair)
        if prev_kv and change.before and not (self._delayed and change.revision <= self.source.compacted):
            prev = self.source.pair(change.before)
            event = b"%b\x1a%b%b" % (event, varint(len(prev)), prev)
        return b"\x5a%b%b" % (varint(len(event)), event)


def _slice_of(work: Iterator[None], over: list[bool]) -> None:
    """Do one slice; `over` gets an entry when it was the last."""
    if next(work, over) is over:
        over.append(True)


def _shrink(changes: list[KeyChange]) -> Iterator[None]:
    while changes:
        del changes[-LOOKED_AT_ONCE:]
        yield


def _slices(watches: deque[Watch]) -> Iterator[bool]:
    """For each watch that is there now, whether a slice ends with it and another follows."""
    count = len(watches)
    for number in range(1, count + 1):
        yield number % TOLD_AT_ONCE == 0 and number < count
