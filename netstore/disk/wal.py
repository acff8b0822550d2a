"""The write-ahead log: replay it, append batches, mark snapshots, remove segments. All I/O is the Device's.

A batch is one write, which the device reports after its sync; nothing may be acknowledged before. Damaged
records are never cut off (`diagnose`). A segment is removed only when the next one, and a mark that covers
it, are known to be on stable storage. Each segment begins with the latest hard state and mark, so the
remaining segments are always a complete log.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.codec import Malformed, prefixed, read_prefixed
from netstore.disk.diagnose import (
    START,
    CutTail,
    Diagnosis,
    Opening,
    Position,
    Refuse,
    Segment,
    diagnose,
    segment_name,
)
from netstore.disk.frame import Identity, Kind, Place, encode_record
from netstore.errors import CorruptData
from netstore.raft.entry import Entry, HardState, SnapshotMeta, decode_entries, encode_entries
from netstore.raft.invariant import InvariantBroken
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.seams import Device

SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""Size of a segment; a batch that does not fit begins the next one. Large, so that this is rare."""

_NAME: Final = re.compile(r"([0-9a-f]{16})\.wal")


@dataclass(slots=True)
class Replay:
    """The content of a log: the latest hard state and mark, and all entries after the mark."""

    hard_state: HardState | None = None
    mark: SnapshotMeta | None = None
    entries: list[Entry] = field(default_factory=list)
    cut: CutTail | None = None
    """The torn write that was cut off the end, if there was one."""

    @property
    def last(self) -> Index:
        """Index of the last entry; that of the mark if there is none after it."""
        if self.entries:
            return self.entries[-1].index
        return Index(self.mark.index if self.mark else 0)


def _ignore(_: object) -> None:
    """Progress that nobody waits for; or a seal that was not written: the log is judged as after a crash."""


class _State(NamedTuple):
    """The end of the log; a failed write restores the state before it."""

    segment: int
    place: Place
    hard_state: bytes
    mark: bytes
    highest: int
    """The highest index in this segment."""
    start: int
    """Index of the mark."""
    last: int | None
    """Index of the last entry, or of the mark if that is higher; None in a log with neither."""


class _Closed(NamedTuple):
    segment: int
    highest: int


class Wal:
    """One member's log on one device. Called on the loop; nothing after `open` blocks, except `close`.

    Completions come in the order of the calls. When a write fails, it and all writes after it that are under
    way are reported as failed, in order, and the log ends where it did before: the same batch may be appended
    again, unless the error is `SyncFailed`, after which only a restart helps.

    Nothing may be written before the last of those failures is reported, because it would be kept while they
    are not. That raises InvariantBroken, and so do entries that do not follow the last one: no start could
    read such a log.
    """

    def __init__(self, device: Device, identity: Identity, segment_bytes: int, found: Diagnosis) -> None:
        """For `open`."""
        self._device = device
        self._identity = identity
        self._segment_bytes = segment_bytes
        number = -1 if found.segment is None else found.segment
        self._state = _State(number, found.end, b"", b"", 0, 0, None)
        self._closed: deque[_Closed] = deque()
        self._seed = identity.seed(max(number, 0))
        self._synced = Position(number, *found.end)
        self._marked = 0
        self._epoch = 0
        self._under_way = 0
        self._failing = 0
        """How many of them will be reported as failed."""

    @classmethod
    def open(
        cls,
        device: Device,
        identity: Identity,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        position: bytes = b"",
        progress: Callable[[int], object] = _ignore,
    ) -> tuple[Wal, Replay]:
        """Read the whole log, cut a torn write off its end, and be ready to append. Blocks.

        `position` is an earlier result of the method `position`, as the state recorded it. `progress` is
        called after each segment with how many bytes were read so far.

        CorruptData when something that was synced cannot be read; its text names file and offset, and nothing
        is changed. NetstoreError, with the fix, for a log of another format. The payloads of all segments are
        in memory meanwhile.
        """
        notes = (Position.decode(note, identity) for note in (position, *device.notes()))
        found = diagnose(_segments(device, progress), identity, filter(None, notes))
        verdict = found.verdict
        if isinstance(verdict, Refuse):
            raise CorruptData(
                f"write-ahead log: {verdict.name} at offset {verdict.offset}: {verdict.why}; nothing was"
                " changed: restore this member from its peers or from a backup"
            )
        wal = cls(device, identity, segment_bytes, found)
        replay = wal._replay(found)
        if isinstance(verdict, CutTail):
            device.truncate(verdict.name, verdict.offset)
            replay.cut = verdict
        return wal, replay

    def position(self) -> bytes:
        """How far the log is on stable storage, for the state to record and for `open`. 1 us."""
        number = self._synced.segment
        return self._synced.encode(self._identity.seed(number)) if number >= 0 else b""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        done: Callable[[OSError | None], None],
        *,
        held: bool = False,
    ) -> None:
        """Write one batch: a hard state, consecutive entries, or both. `done` is called with None once it is
        on stable storage. A batch that is `held` may wait for `release`.

        The entries replace all entries from the index of the first one on. About 10 us, 30 us for 64 small
        entries. MemoryError, also of `mark`: nothing was done, and it may be tried again.
        """
        state = self._state
        kept = b"" if hard_state is None else hard_state.encode()
        payload = prefixed(kept) + (encode_entries(entries) if entries else b"")
        highest, last = state.highest, state.last
        if entries:
            first = entries[0].index
            if first <= state.start or (last is not None and first > last + 1):
                raise InvariantBroken(f"entry {first} given to a log of entries {state.start + 1} to {last}")
            last = entries[-1].index
            highest = max(highest, last)
        after = _State(  # `_replace` takes four times as long, and a batch may be a single small write
            state.segment,
            state.place,
            kept or state.hard_state,
            state.mark,
            highest,
            state.start,
            last,
        )
        self._write(Kind.BATCH, payload, after, done, held=held)

    def release(self) -> None:
        """Write the batch that is held now. See `seams.Device.release`."""
        self._device.release()

    @property
    def quick_syncs(self) -> int:
        """See `seams.Device`."""
        return self._device.quick_syncs

    def mark(
        self, meta: SnapshotMeta, done: Callable[[OSError | None], None], *, replaces: bool = False
    ) -> None:
        """Record that a snapshot at `meta`, which is on stable storage, replaces all entries up to its index.

        If the log has no entry with that index and term, the snapshot `replaces` the whole log (Raft, section
        5.1): what is appended next follows it.
        """
        encoded = meta.encode()
        last = meta.index if replaces else max(self._state.last or 0, meta.index)
        after = self._state._replace(mark=encoded, start=meta.index, last=last)
        self._write(Kind.MARK, encoded, after, partial(self._set_mark, meta.index, done))

    def drop_before(self, index: Index) -> None:
        """Remove the oldest segments that have only entries below `index` and up to the durable mark."""
        bound = min(index, self._marked + 1)
        while (
            self._closed
            and self._closed[0].highest < bound
            and self._closed[0].segment < self._synced.segment
        ):
            self._device.remove(segment_name(self._closed.popleft().segment))

    def close(self) -> None:
        """Finish what is under way and close the device; seals the log if nothing is under way. Blocks."""
        if self._under_way == 0 and self._state.segment >= 0:
            data, _ = encode_record(self._seed, self._state.place, Kind.SEAL, b"", self._synced.at)
            self._device.write(segment_name(self._state.segment), self._state.place.at, data, _ignore)
        self._device.close()

    def _set_mark(self, index: Index, done: Callable[[OSError | None], None], error: OSError | None) -> None:
        if error is None:
            self._marked = index
        done(error)

    def _write(
        self,
        kind: Kind,
        payload: bytes,
        after: _State,
        done: Callable[[OSError | None], None],
        *,
        held: bool = False,
    ) -> None:
        """Encode one record, in the next segment if this one is full, and give it to the device.

        `after` is the state once it is written, except for segment and place. MemoryError: nothing was done.
        """
        if self._failing:
            raise InvariantBroken("a record was written to a log that has not reported all failures")
        before = self._state
        number, start, synced, seed = before.segment, before.place.at, self._synced, self._seed
        data, place = encode_record(
            seed, before.place, kind, payload, synced.at if synced.segment == number else 0
        )
        full = place.at > self._segment_bytes
        if full or number < 0:
            number, start = number + 1, 0
            seed = self._identity.seed(number)
            previous = before.place if number else START
            opening = Opening(self._identity, number, previous, before.hard_state, before.mark)
            head, place = encode_record(seed, Place(0, seed), Kind.OPENING, opening.encode(), 0)
            data, place = encode_record(seed, place, kind, payload, 0)
            data = head + data
        state = _State(number, place, after.hard_state, after.mark, after.highest, after.start, after.last)
        end = Position(number, *place)
        settle = partial(self._settle, self._epoch, before, end, done)
        closes = full and before.segment >= 0
        if closes:
            self._closed.append(_Closed(before.segment, before.highest))
        # Nothing else is changed before the device has it, because any line may raise MemoryError.
        try:
            self._device.write(segment_name(number), start, data, settle, end.encode(seed), held=held)
        except MemoryError:
            if closes:
                self._closed.pop()
            raise
        self._state, self._seed = state, seed
        self._under_way += 1

    def _settle(
        self,
        epoch: int,
        before: _State,
        end: Position,
        done: Callable[[OSError | None], None],
        error: OSError | None,
    ) -> None:
        self._under_way -= 1
        if error is None:
            self._synced = end
        elif epoch == self._epoch:  # the first of those that fail together
            self._epoch += 1
            self._failing = self._under_way
            self._state = before
            self._seed = self._identity.seed(max(before.segment, 0))
            while self._closed and self._closed[-1].segment >= before.segment:
                self._closed.pop()
        else:
            self._failing -= 1
        done(error)

    def _replay(self, found: Diagnosis) -> Replay:
        log = _Log()
        highest = 0
        number: int | None = None
        for record in found.records:
            if record.segment != number:
                if number is not None:
                    self._closed.append(_Closed(number, highest))
                number, highest = record.segment, 0
            try:
                highest = max(highest, log.take(record.kind, record.payload))
            except (Malformed, CorruptData) as error:
                raise CorruptData(f"write-ahead log: {segment_name(record.segment)}: {error}") from None
        replay = log.finish()
        self._marked = replay.mark.index if replay.mark else 0
        self._state = self._state._replace(
            hard_state=log.hard_state,
            mark=log.mark,
            highest=highest,
            start=self._marked,
            last=replay.last if replay.mark or replay.entries else None,
        )
        return replay


class _Log:
    """Replays records one by one."""

    def __init__(self) -> None:
        self.hard_state = b""
        self.mark = b""
        self._meta: SnapshotMeta | None = None
        self._entries: list[Entry] = []

    def take(self, kind: int, payload: bytes) -> int:
        """Replay one record; the highest index in it, 0 for none."""
        if kind == Kind.OPENING:
            opening = Opening.decode(payload)
            self.hard_state = opening.hard_state
            if opening.mark != self.mark:
                self._set_mark(opening.mark)
        elif kind == Kind.BATCH:
            hard_state, at = read_prefixed(payload, 0)
            self.hard_state = hard_state or self.hard_state
            if at < len(payload):
                return self._add(decode_entries(payload[at:]))
        elif kind == Kind.MARK:
            self._set_mark(payload)
        elif kind != Kind.SEAL:
            raise CorruptData(f"record of unknown kind {kind}")
        return 0

    def finish(self) -> Replay:
        after = self._meta.index + 1 if self._meta else 1
        skip = after - self._entries[0].index if self._entries else 0
        if skip < 0:
            raise CorruptData(
                f"write-ahead log: entries {after} to {self._entries[0].index - 1} are missing;"
                " a segment was removed: restore this member from its peers or from a backup"
            )
        hard_state = HardState.decode(self.hard_state) if self.hard_state else None
        return Replay(hard_state, self._meta, self._entries[skip:])

    def _add(self, batch: list[Entry]) -> int:
        if not batch:
            return 0
        held = self._entries
        if held:
            place = batch[0].index - held[0].index
            if place > len(held):
                raise CorruptData(f"entry {batch[0].index} follows entry {held[-1].index}")
            del held[max(place, 0) :]
        held.extend(batch)
        return batch[-1].index

    def _set_mark(self, encoded: bytes) -> None:
        meta = SnapshotMeta.decode(encoded)
        self.mark, self._meta = encoded, meta
        held = self._entries
        if held:
            place = meta.index - held[0].index
            # If it is before the first: the segments that had it were removed, and all entries stay.
            if place >= 0 and (place >= len(held) or held[place].term != meta.term):
                held.clear()


def _segments(device: Device, progress: Callable[[int], object]) -> Iterator[Segment]:
    """The log's files in order, read one at a time. Files with other names are ignored."""
    size = 0
    for name in device.names():
        match = _NAME.fullmatch(name)
        if match:
            try:
                data = device.read(name)
            except OSError as error:
                raise CorruptData(
                    f"write-ahead log: {name} cannot be read: {error.strerror or error}"
                ) from error
            size += len(data)
            progress(size)
            yield Segment(name, int(match[1], 16), data)
