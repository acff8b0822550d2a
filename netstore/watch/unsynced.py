"""Unsynced watches: what they read from history until they have caught up with the present.

A watch is unsynced because it began in the past, because its stream was full, or because the member's state
was replaced by a snapshot. Watches that select the same from the same revision on share one `HistoryRead`,
which is done in slices between the turns of the member. It stands in the queue of each household
(`admission.household`) that has a watch in it. The queues take turns: whichever comes first does a slice of
the read.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from netstore.guard import guarded
from netstore.types import Revision
from netstore.watch import slices
from netstore.watch.responses import RESPONSE_BYTES, ResponseWriter
from netstore.watch.slices import run_slice, slice_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.types import KeyChange
    from netstore.watch.responses import Response
    from netstore.watch.streams import Registry, Selection, Watch


class HistoryRead:
    """One read of history for all watches that select the same from the same revision on."""

    __slots__ = ("generation", "owners", "selection", "start", "task", "watches")

    def __init__(self, selection: Selection, start: Revision) -> None:
        self.selection = selection
        self.start = start
        self.watches: deque[Watch] = deque()
        """Those that have not been sent yet what is read."""
        self.owners: dict[str, int] = {}
        """How many of these each household has; the read stands in the queues of these households."""
        self.task: Iterator[None] | None = None
        """The rest of the read, once begun."""
        self.generation = 0
        """`Unsynced.generation` when it was begun."""


class Unsynced:
    """The unsynced watches that are not parked."""

    def __init__(
        self, registry: Registry, encode: Callable[[KeyChange, bool], bytes], wake: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._source = registry.source
        self._encode = encode
        self._wake = wake
        self._new: dict[tuple[Selection, Revision], HistoryRead] = {}
        """Reads that have not begun: other watches may still join them."""
        self.queues: OrderedDict[str, OrderedDict[HistoryRead, None]] = OrderedDict()
        """All reads, by household; the next one first. A read that was begun stays first in its queue."""
        self.generation = 0
        """How often the state of the member was replaced: reads of an earlier one begin anew."""

    def add(self, watch: Watch) -> None:
        """Let a watch read history from its start on."""
        place = watch.selection, watch.start
        read = self._new.get(place)
        if read is None:
            read = self._new[place] = HistoryRead(*place)
        owner = watch.stream.owner
        count = read.owners.get(owner, 0)
        if not count:
            self.queues.setdefault(owner, OrderedDict())[read] = None
        read.owners[owner] = count + 1
        read.watches.append(watch)
        self._wake()

    def step(self) -> None:
        """Do one slice for the household whose turn it is. There must be one."""
        owner, queue = next(iter(self.queues.items()))
        read = next(iter(queue))
        if read.task is None or read.generation != self.generation:
            if read.task is None:
                del self._new[read.selection, read.start]
            read.task, read.generation = self._run(read), self.generation
        if not guarded(self._registry.failed, run_slice, read.task, []):
            read.task = self._fail_all(read)
        if owner in self.queues:
            self.queues.move_to_end(owner)

    def _pop(self, read: HistoryRead) -> Watch:
        """The next watch of a read, which leaves the queue of a household with the last watch of that."""
        watch = read.watches.popleft()
        owner = watch.stream.owner
        read.owners[owner] -= 1
        if not read.owners[owner]:
            del read.owners[owner]
            queue = self.queues[owner]
            del queue[read]
            if not queue:
                del self.queues[owner]
        return watch

    def _fail_all(self, read: HistoryRead) -> Iterator[None]:
        for ends in slice_ends(read.watches):
            self._pop(read).fail()
            if ends:
                yield

    def _run(self, read: HistoryRead) -> Iterator[None]:
        """Read a part of the history and send it to all watches of the read."""
        selection, start, watches, source = read.selection, read.start, read.watches, self._source
        if start >= source.compacted:
            yield from self._park_full(read)
        writer = ResponseWriter()
        events = 0
        following = Revision(0)
        parts = source.history(
            start,
            selection.key,
            selection.range_end,
            looked=slices.SLICE_HISTORY_LOOKS,
            told=slices.SLICE_HISTORY_CHANGES,
            size=RESPONSE_BYTES,
        )
        while watches and not following:
            if start < source.compacted:
                yield from self._end_compacted(read)
                return
            changes, following = next(parts)
            for change in changes:
                if selection.includes(change):
                    events += 1
                    writer.add(change.revision, self._encode(change, selection.prev_kv))
            if not following:
                yield
        # The watches have been sent everything up to the revision before `following`, not up to the present.
        responses = writer.finish(Revision(following - 1))
        self._registry.events += events * len(watches)
        for ends in slice_ends(watches):
            watch = self._pop(read)
            if watch.stream.holds(watch) and not guarded(
                self._registry.failed, self._send, watch, responses, following
            ):
                watch.fail()
            if ends:
                yield

    def _park_full(self, read: HistoryRead) -> Iterator[None]:
        """Park the watches whose streams are full, and drop those that have ended."""
        watches = read.watches
        for ends in slice_ends(watches):
            stream = watches[0].stream
            if stream.holds(watches[0]) and not stream.is_full:
                watches.rotate(-1)
            else:
                watch = self._pop(read)
                if stream.holds(watch):
                    stream.parked.append(watch)
            if ends:
                yield

    def _end_compacted(self, read: HistoryRead) -> Iterator[None]:
        for ends in slice_ends(read.watches):
            watch = self._pop(read)
            stream = watch.stream
            if stream.holds(watch) and not guarded(self._registry.failed, stream.end_compacted, watch):
                watch.fail()
            if ends:
                yield

    def _send(self, watch: Watch, responses: Sequence[Response], following: Revision) -> None:
        if watch.stream.is_full:
            watch.stream.parked.append(watch)
            return
        for response in responses:
            watch.send(response)
        watch.start = following
        if following > self._source.revision:
            self._registry.join_group(watch)
        else:
            self.add(watch)
