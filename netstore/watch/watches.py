"""All v3 watches of a member (v3 API, Watch), and the rounds in which changes are sent to the synced ones.

Synced watches that select the same events form a group: the group's events are encoded once, and every watch
of it gets the same bytes. Changes are sent to them in *rounds*: a round takes all changes that have come, and
is done in slices, the first when the changes come and the others between the turns of the member. Changes
that come meanwhile wait for the next round.

Requests and responses of one Watch call are in `streams`, which also has the invariants; watches that are
behind are in `unsynced`.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from netstore.admission import WeighedAdmission
from netstore.codec import varint
from netstore.guard import guarded, unguarded
from netstore.intervals import IntervalIndex
from netstore.types import Revision
from netstore.watch import slices
from netstore.watch.responses import ResponseWriter
from netstore.watch.slices import run_slice
from netstore.watch.streams import Stream
from netstore.watch.unsynced import Unsynced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.types import KeyChange
    from netstore.watch.responses import Response
    from netstore.watch.streams import Selection, Sink, Source, Watch

MAX_WATCHES: Final = 100_000
"""Watches of one member, about 1 KiB each. One principal has at most half of them (`admission`)."""

MAX_WATCH_BYTES: Final = 64 << 20
"""Bytes of the keys and the range ends of all watches. One principal has at most half of them."""

MAX_MATCHED: Final = 100_000
"""Pairs of a change and a group that selects it which are gathered before they are sent, give or take a
revision: 8 bytes each.
"""

WAITING_BYTES: Final = 16 << 20
"""Bytes of changes that may wait for a round. Beyond it all synced watches become unsynced."""

_CHANGE_COST: Final = 200
"""Bytes that a waiting change takes beside its pair."""

_PREV_EVENTS: Final = 5
"""An event with the pair before costs as much as this many others, because that pair is looked up."""

_SEARCH: Final = 3
"""Looking up the groups of a change costs as much as this many looks at a group."""

_pair_of: Final = attrgetter("pair")


class _Group:
    """Synced watches that get the same bytes."""

    __slots__ = ("selection", "watches")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.watches: dict[Watch, None] = {}


class Watches:
    """All v3 watches of a member.

    The member gives the changes of each batch to `publish`, calls `step` between turns while it `has_work`,
    and `replaced` when its state was replaced by a snapshot. `wake` is called when there is something to
    `step`.
    """

    def __init__(self, source: Source, wake: Callable[[], None]) -> None:
        self.source = source
        self._places = WeighedAdmission(MAX_WATCHES, MAX_WATCH_BYTES)
        self.failed: Callable[[Exception], object] = unguarded
        """Called with an exception that was raised while something was sent to a watch."""
        self._wake = wake
        self._ranges: IntervalIndex[_Group] = IntervalIndex()
        self._groups: dict[Selection, _Group] = {}
        self._unsynced = Unsynced(self, self._event, wake)
        self.read_history = self._unsynced.add
        self.progress_requests: dict[Stream, None] = {}
        """Streams that asked for progress during the round."""
        self._delivered = Revision(0)
        """Up to which all synced watches have been sent everything, or after which they were made."""
        self._published = Revision(0)
        """What `_delivered` will be at the end of the rounds for the changes known so far."""
        self._round: Iterator[None] | None = None
        self._delayed = False
        """The round was not finished in one slice: the pair before a change may have been compacted since."""
        self._waiting: list[KeyChange] = []
        self._waiting_bytes = 0
        self._missed = False
        """Changes were dropped: synced watches have to read history from `_delivered` on."""
        self.synced = 0
        """How many watches are synced."""
        self.events = 0
        """Events sent to watches so far."""
        self._tasks: deque[Iterator[None]] = deque()
        """Done in slices between rounds, in turn."""

    @property
    def count(self) -> int:
        """How many watches there are."""
        return self._places.taken

    @property
    def pending(self) -> int:
        """Changes that wait for the next round."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        if self._unsynced.queues or self._tasks or self._round is not None:
            return True
        return self._missed or bool(self._waiting)  # as `in_round`, without a call: asked in each turn

    @property
    def in_round(self) -> bool:
        """Whether there are changes that have not been sent to every synced watch that selects them."""
        return self._round is not None or self._missed or bool(self._waiting)

    @property
    def progress_revision(self) -> Revision:
        """Up to where all synced watches have been sent everything; for use between rounds."""
        return self._delivered if self.in_round or self.source.unpublished else self.source.revision

    # --- watches come and go

    def open(self, sink: Sink, principal: str = "") -> Stream:
        """A stream for one Watch call of a principal."""
        return Stream(self, sink, principal)

    def enter(self, owner: str, key: bytes, range_end: bytes) -> bool:
        """Take a place for a watch of this range until `leave`; False if its owner may not have another."""
        return self._places.enter(owner, 1 + len(key) + len(range_end))

    def leave(self, watch: Watch) -> None:
        """A watch has ended."""
        selection = watch.selection
        self._places.leave(watch.stream.owner, 1 + len(selection.key) + len(selection.range_end))
        if watch.synced:
            self._leave_group(watch)

    def join_group(self, watch: Watch) -> None:
        """A watch wants nothing older than the next change: it is synced."""
        selection = watch.selection
        group = self._groups.get(selection)
        if group is None:
            group = self._groups[selection] = _Group(selection)
            self._ranges.add(selection.key, selection.range_end, group)
        group.watches[watch] = None
        watch.synced = True
        watch.stream.synced += 1
        self.synced += 1
        if watch.start > self._delivered + 1:
            watch.stream.future[watch] = None

    def _leave_group(self, watch: Watch) -> None:
        """A watch is not synced any more."""
        selection = watch.selection
        group = self._groups[selection]
        del group.watches[watch]
        watch.synced = False
        watch.stream.synced -= 1
        self.synced -= 1
        watch.stream.future.pop(watch, None)
        if not group.watches:
            del self._groups[selection]
            self._ranges.remove(selection.key, selection.range_end, group)

    # --- the member's turns

    def publish(self, changes: list[KeyChange]) -> None:
        """Send the changes of one or more whole revisions to the synced watches: the first slice now, the
        others in `step`. The list is used up.

        A look-up for each change, about 1 us for each event of a group, and about 6 us for each watch that is
        sent something.
        """
        self._published = self.source.revision
        if not self.in_round and not self._ranges:
            self._delivered = self._published
            self._free(changes)
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
            self._run_round()
        elif self._waiting_bytes > WAITING_BYTES:
            self._missed = True
            missed, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._free(missed)
        if self.in_round:
            self._wake()

    def replaced(self) -> None:
        """The state was replaced by a snapshot of another member, which is further: every watch goes on from
        history. Done in slices, as rounds are.
        """
        self._unsynced.generation += 1
        missed, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._round = None
        self._missed = True
        self._published = max(self._published, self.source.revision)
        self._run_round()
        self._free(missed)
        if self.has_work:
            self._wake()

    def step(self) -> None:
        """Do a slice of the round, of a task between rounds, and of a read of history."""
        if self._tasks and self._round is None:
            self._run_task()
        if self.in_round:
            self._run_round()
        if self._unsynced.queues:
            self._unsynced.step()

    def run(self, task: Iterator[None]) -> None:
        """Do a task in slices between rounds, the first one now if there is no round."""
        self._tasks.append(task)
        if len(self._tasks) == 1 and not self.in_round:
            self._run_task()
        if self._tasks:
            self._wake()

    def _run_task(self) -> None:
        task = self._tasks.popleft()
        done: list[bool] = []
        if guarded(self.failed, run_slice, task, done) and not done:
            self._tasks.append(task)

    def _free(self, changes: list[KeyChange]) -> None:
        """Drop changes that are not sent; in slices if they are many, because freeing memory takes time."""
        if len(changes) > slices.SLICE_LOOKS:
            self.run(_freed(changes))

    # --- rounds

    def _run_round(self) -> None:
        """A slice of the round, or of a new one. If it raises, nobody knows which watches were sent what the
        round held: they read it from history.
        """
        if self._round is None:
            self._delayed = False
            self._round = self._new_round()
        else:
            self._delayed = True
        done: list[bool] = []
        if not guarded(self.failed, run_slice, self._round, done):
            self._round = None
            self._missed = True
        elif done:
            self._round = None

    def _new_round(self) -> Iterator[None]:
        changes, last, missed = self._waiting, self._published, self._missed
        self._waiting, self._waiting_bytes, self._missed = [], 0, False
        if missed:
            yield from self._unsync_all()
        changes.reverse()
        selected: dict[_Group, list[KeyChange]] = {}
        looked = matched = 0
        revision = Revision(0)
        while changes:
            change = changes.pop()
            if matched >= MAX_MATCHED and change.revision != revision:
                yield from self._send_all(selected, revision)
                selected, matched = {}, 0
            revision = change.revision
            looked += _SEARCH
            for groups in self._ranges.pieces(change.key):
                for group in groups:
                    if group.selection.includes(change):
                        selected.setdefault(group, []).append(change)
                        matched += 1
                looked += len(groups)
                if looked >= slices.SLICE_LOOKS:
                    looked = 0
                    yield
        yield from self._send_all(selected, last)
        self._delivered = max(self._delivered, last)
        if self.progress_requests:
            yield from self._answer_progress()

    def _answer_progress(self) -> Iterator[None]:
        requests, self.progress_requests = self.progress_requests, {}
        for number, stream in enumerate(requests, 1):
            if not guarded(self.failed, stream.answer_progress, self._delivered):
                stream.fail()
            if number % slices.SLICE_WATCHES == 0:
                yield

    def _unsync_all(self) -> Iterator[None]:
        """Every synced watch goes on from history, except those that begin in the future."""
        first = Revision(self._delivered + 1)
        count = 0
        for group in list(self._groups.values()):
            for watch in tuple(group.watches):
                if watch.synced and watch.start <= self.source.revision:
                    self._leave_group(watch)
                    watch.start = max(watch.start, first)
                    self.read_history(watch)
                count += 1
                if count % slices.SLICE_MOVES == 0:
                    yield

    def _send_all(self, selected: Mapping[_Group, list[KeyChange]], last: Revision) -> Iterator[None]:
        units = 0
        for group, changes in selected.items():
            units += 1
            self.events += len(changes) * len(group.watches)
            writer = ResponseWriter()
            task = self._encode(writer, group.selection, changes)
            done: list[bool] = []
            while guarded(self.failed, run_slice, task, done) and not done:
                units = 0
                yield
            watches = deque(group.watches)
            responses: list[Response] = []
            if not done or not guarded(self.failed, _finish, responses, writer, last):
                yield from _fail_all(watches)
            while watches:
                watch = watches.popleft()
                units += 1
                if (
                    watch.synced
                    and watch.stream.holds(watch)
                    and not guarded(self.failed, self._send, watch, responses)
                ):
                    watch.fail()
                if units >= slices.SLICE_WATCHES:
                    units = 0
                    yield

    def _encode(
        self, writer: ResponseWriter, selection: Selection, changes: list[KeyChange]
    ) -> Iterator[None]:
        """Encode the events of a group's changes; the list is used up."""
        changes.reverse()
        units = 0
        while changes:
            change = changes.pop()
            writer.add(change.revision, self._event(change, selection.prev_kv))
            units += _PREV_EVENTS if selection.prev_kv else 1
            if units >= slices.SLICE_EVENTS and changes:
                units = 0
                yield

    def _send(self, watch: Watch, responses: Sequence[Response]) -> None:
        for response in responses:
            if watch.start > response.first:
                # It began in the future, and what comes before its start is not for it.
                if watch.start > response.revision:
                    continue
                self._leave_group(watch)
                self.read_history(watch)
                return
            if watch.stream.is_full:
                self._leave_group(watch)
                watch.start = response.first
                watch.stream.parked.append(watch)
                return
            watch.send(response)

    def _event(self, change: KeyChange, prev_kv: bool) -> bytes:
        """An entry of WatchResponse.events, with tag and length (v3 API, mvccpb.Event: type 1, kv 2, prev_kv
        3)."""
        kind = b"\x08\x01" if change.deleted else b""
        event = b"%b\x12%b%b" % (kind, varint(len(change.pair)), change.pair)
        if prev_kv and change.before and not (self._delayed and change.revision <= self.source.compacted):
            prev = self.source.pair(change.before)
            event = b"%b\x1a%b%b" % (event, varint(len(prev)), prev)
        return b"\x5a%b%b" % (varint(len(event)), event)


def _finish(responses: list[Response], writer: ResponseWriter, last: Revision) -> None:
    responses += writer.finish(last)


def _fail_all(watches: deque[Watch]) -> Iterator[None]:
    for ends in slices.slice_ends(watches):
        watches.popleft().fail()
        if ends:
            yield


def _freed(changes: list[KeyChange]) -> Iterator[None]:
    while changes:
        del changes[-slices.SLICE_LOOKS :]
        yield
