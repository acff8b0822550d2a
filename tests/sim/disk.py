"""The disk of one machine: what was written and what was synced, kept apart, and everything that goes wrong.

`Disk` is what stays when the power goes; `SimDevice` and `StateEngine` are what one life of a member sees of
it. A crash keeps any subset of the sectors of the writes under way, as a real disk may (ATC'20, "Can
Applications Recover from fsync Failures?"; FAST'18, "Protocol-Aware Recovery for Consensus-Based Storage").
"""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.disk.frame import SECTOR
from netstore.disk.memoryengine import MemoryEngine
from netstore.node.logwriter import QUICK_SYNCS
from netstore.seams import SyncFailed
from netstore.state.tables import TABLES
from tests.sim.invariants import Violated, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from netstore.raft.entry import SnapshotMeta
    from netstore.types import Index
    from tests.sim.timeline import Timeline

    Done = Callable[[OSError | None], None]

COPY_SECONDS: Final = 2.0
"""Most it takes to keep a state copy, or to put it in place."""

QUICK: Final = 0.0002
"""Seconds of a sync up to which a lone write is synced within the turn that hands it over."""

REMEMBERED_WRITES: Final = 12
"""Finished writes a misdirected one is chosen from."""


class _Write(NamedTuple):
    name: str
    offset: int
    data: bytes
    done: Done | None
    """None: the file is removed."""
    life: int
    reported: int
    """How many runs had been reported when this was handed over."""
    note: bytes = b""


class _Finished(NamedTuple):
    """A write on stable storage: what it replaced, and the number of its report."""

    name: str
    offset: int
    before: bytes
    data: bytes
    issued: int
    report: int


class Host(NamedTuple):
    """What a disk needs of the machine around it."""

    timeline: Timeline
    random: Random
    effect: Callable[[], None]
    """Called before anything is handed over; raises when the power goes right there."""
    enter: Callable[[Callable[[], None]], None]
    """Run something on the member's loop, or later if its process stands still."""


class Disk:
    """Stable storage and its faults."""

    def __init__(self, latency: float) -> None:
        self.files: dict[str, bytearray] = {}
        self.note = b""
        """The last one of `seams.Device`."""
        self.state: MemoryEngine = MemoryEngine(_nowhere, TABLES)
        """The state as its last commit left it."""
        self.copies: dict[Index, MemoryEngine] = {}
        """Complete state copies put aside, under the index they stand for."""
        self.usual_latency = self.latency = latency
        """Seconds a sync takes; each is drawn around it."""
        self.synced_at_once = 0
        """Writes of all lives that were synced within their release."""
        self.full = False
        self.short = False
        """The next write finds no room, and the one after it does."""
        self.failing = False
        """The next sync fails."""
        self.plug: Callable[[], object] | None = None
        """Called while the next write is under way: the power goes."""
        self.kept: int | None = None
        """Which sectors of the run under way survive when the power goes, a bit each; drawn if None."""
        self.torn = 0
        """How many sectors the last run under way would have changed."""
        self.spoiled = ""
        """What was damaged behind the member's back, if anything."""
        self.finished: deque[_Finished] = deque(maxlen=REMEMBERED_WRITES)

    @property
    def quick(self) -> bool:
        """Syncs take so little that the member waits for one (`disk.posix`)."""
        return self.latency <= QUICK

    def rot(self, random: Random) -> bool:
        """Flip one bit somewhere in the log. False if there is no log yet."""
        names = sorted(name for name, data in self.files.items() if data)
        if not names:
            return False
        name = names[-1] if random.random() < 0.7 else random.choice(names)
        data = self.files[name]
        place = random.randrange(len(data))
        if random.random() < 0.1:  # in the zeros that a real file has after its end
            place = len(data) + random.randrange(2 * SECTOR)
            data.extend(bytes(place + 1 - len(data)))
        data[place] ^= 1 << random.randrange(8)
        self.spoiled = f"bit flipped in {name} at {place}"
        return True

    def misdirect(self, random: Random) -> bool:
        """A write that was reported safe turns out to have gone elsewhere. False if there is none to choose.

        Only one that was followed by another is chosen: that a device never wrote its very last group, though
        it said so, nobody can see from the disk alone (`disk.diagnose` says so).
        """
        for victim in list(self.finished)[:-1]:
            later = [
                each for each in self.finished if each.name == victim.name and each.issued >= victim.report
            ]
            if victim.name not in self.files or not later or not victim.data:
                continue
            data = self.files[victim.name]
            end = victim.offset + len(victim.data)
            if bytes(data[victim.offset : end]) != victim.data:
                continue
            data[victim.offset : end] = victim.before
            elsewhere = random.randrange(victim.offset // SECTOR + 1) * SECTOR
            elsewhere_end = min(elsewhere + len(victim.data), victim.offset)
            data[elsewhere:elsewhere_end] = victim.data[: max(0, elsewhere_end - elsewhere)]
            self.spoiled = f"write to {victim.name} at {victim.offset} went to {elsewhere}"
            return True
        return False


class SimDevice:
    """The log's folder as one life of a member sees it. Implements `seams.Device`."""

    def __init__(self, disk: Disk, host: Host) -> None:
        self._disk = disk
        self._host = host
        self._waiting: deque[_Write] = deque()
        self._run: list[_Write] = []
        self._life = 0
        self._reports = 0
        self._refused = -1
        self._cut: list[_Write] = []
        """A run that found no room, cut off its file again, until that file is synced: the power would bring
        sectors of it back.
        """
        self._dead: SyncFailed | None = None
        self._gone = False
        self._held = False
        """The run under way waits for `release`."""
        disk.finished.clear()  # its numbers are those of one life

    def names(self) -> list[str]:
        return sorted(self._disk.files)

    def read(self, name: str) -> bytes:
        return bytes(self._disk.files[name])

    def notes(self) -> list[bytes]:
        return [self._disk.note]

    def truncate(self, name: str, size: int) -> None:
        del self._disk.files[name][size:]
        self._host.effect()

    def write(
        self, name: str, offset: int, data: bytes, done: Done, note: bytes = b"", *, held: bool = False
    ) -> None:
        self._host.effect()
        self._waiting.append(_Write(name, offset, data, done, self._life, self._reports, note))
        if held and self._disk.quick and not self._run:
            self._held = True
            self._run = [self._waiting.popleft()]
        elif not self._run:
            self._start()
        self._host.effect()

    @property
    def quick_syncs(self) -> int:
        return QUICK_SYNCS if self._disk.quick else 0

    def release(self) -> None:
        if self._held:
            self._held = False
            self._disk.synced_at_once += 1
            self._report()

    def remove(self, name: str) -> None:
        self._host.effect()
        self._waiting.append(_Write(name, 0, b"", None, self._life, self._reports))
        if not self._run:
            self._start()

    def close(self) -> None:
        """Finish what was accepted. Nobody is told any more."""
        for write in (*self._run, *self._waiting):
            if self._dead is not None:
                break
            if write.done is not None and self._disk.full:
                self._refused = max(self._refused, write.life)
            if write.done is None or write.life > self._refused:
                self._put(write)
        self._gone = True

    def _start(self) -> None:
        """Take what follows on, as `disk.posix` does: writes to one file, one behind the other."""
        waiting = self._waiting
        run = self._run = [waiting.popleft()]
        while waiting and run[-1].done is not None and _follows(run[-1], waiting[0]):
            run.append(waiting.popleft())
        delay = self._disk.latency * (0.5 + self._host.random.random())
        self._host.timeline.after(delay, self._finish)
        plug, self._disk.plug = self._disk.plug, None
        if plug is not None:
            self._host.timeline.after(delay * self._host.random.random(), plug)

    def _finish(self) -> None:
        if not self._gone:
            self._host.enter(self._report)

    def _report(self) -> None:
        run = self._run
        if self._gone or not run:
            return
        disk = self._disk
        error: OSError | None = None
        if self._dead is not None:
            error = self._dead
        elif run[0].done is not None and run[0].life <= self._refused:
            error = _no_room()  # it was never written
        elif run[0].done is not None and (disk.full or disk.short):
            disk.short = False
            self._refused, self._cut = run[0].life, run
            self._sync_cut()
            error = _no_room()
        elif disk.failing:
            disk.failing = False
            self._tear(run)
            error = self._dead = SyncFailed(errno.EIO, "the simulated disk failed to sync")
        else:
            for write in run:
                self._put(write)
            disk.note = run[-1].note or disk.note
        self._run = []
        self._reports += 1
        if self._waiting:
            self._start()
        if error is not None:
            self._life = max(self._life, run[0].life + 1)
        for write in run:
            if write.done is not None:
                write.done(error)

    def _sync_cut(self) -> None:
        """As `disk.posix` does, before anyone hears of the failure."""
        self._cut = []

    def _put(self, write: _Write) -> None:
        files = self._disk.files
        if self._cut and self._cut[0].name == write.name:
            self._cut = []
        if write.done is None:
            files.pop(write.name, None)
            return
        data = files.setdefault(write.name, bytearray())
        end = write.offset + len(write.data)
        if len(data) < end:
            data.extend(bytes(end - len(data)))
        before = bytes(data[write.offset : end])
        data[write.offset : end] = write.data
        self._disk.finished.append(
            _Finished(write.name, write.offset, before, write.data, write.reported, self._reports + 1)
        )

    def power_loss(self) -> None:
        """The machine stops: of the run under way any sectors are there, of what waits behind it nothing."""
        if not self._gone:
            self._gone = True
            self._tear(self._cut)
            if self._dead is None and self._run and self._run[0].life > self._refused:
                self._tear(self._run)

    def _tear(self, run: list[_Write]) -> None:
        """Leave of a run under way what the disk's fate says, or what is drawn."""
        if not run:
            return
        disk = self._disk
        first = run[0]
        if first.done is None:
            disk.torn = 1
            if self._survives(1)[0]:
                disk.files.pop(first.name, None)
            return
        old = bytes(disk.files.get(first.name, b""))
        end = run[-1].offset + len(run[-1].data)
        data = bytearray(old.ljust(end, b"\0"))
        for write in run:
            data[write.offset : write.offset + len(write.data)] = write.data
        old = old.ljust(len(data), b"\0")
        parts = [
            slice(sector * SECTOR, (sector + 1) * SECTOR)
            for sector in range(first.offset // SECTOR, -(-end // SECTOR))
        ]
        parts = [part for part in parts if data[part] != old[part]]
        disk.torn = len(parts)
        survives = self._survives(len(parts))
        if not any(survives):
            if first.name in disk.files or self._host.random.random() < 0.5:
                disk.files.setdefault(first.name, bytearray())  # a new file may be there and empty
            return
        for part, kept in zip(parts, survives, strict=True):
            if not kept:
                data[part] = old[part]
        disk.files[first.name] = data

    def _survives(self, sectors: int) -> list[bool]:
        """For each sector of a run under way whether it is on the disk: none, all, or some."""
        kept, random = self._disk.kept, self._host.random
        if kept is not None:
            return [bool(kept >> place & 1) for place in range(sectors)]
        fate = random.random()
        if fate < 0.55:
            return [fate > 0.4] * sectors
        style = random.random()
        return [random.random() > style for _ in range(sectors)]


class StateEngine(MemoryEngine):
    """The state of one life: commits some time after it was written to, and takes a copy only when the disk
    has had time to.
    """

    def __init__(self, disk: Disk, host: Host, interval: float, failed: Callable[[OSError], None]) -> None:
        super().__init__(_nowhere, TABLES)
        self._disk = disk
        self._host = host
        self._interval = interval
        self._failed = failed
        self._due = False
        self._gone = False
        self._replacing = False
        self._failing = False
        super().install(disk.state, _ignore)

    def get(self, table: str, key: bytes) -> bytes | None:
        self._settled()
        return super().get(table, key)

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        self._settled()
        return super().scan(table, start, end)

    def some(
        self, table: str, start: bytes, most: int, size: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        self._settled()
        return super().some(table, start, most, size)

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        self._settled()
        self._host.effect()
        super().prepare(changes)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        self._settled()
        self._host.effect()
        super().write(applied, changes)
        self._start_interval()

    def changed(self) -> None:
        self._settled()
        super().changed()
        self._start_interval()

    def _start_interval(self) -> None:
        if not self._due:
            self._due = True
            self._host.timeline.after(self._interval, self._commit_due)

    def install(self, image: object, done: Done) -> None:
        self._settled()
        self._host.effect()
        self._replacing = True
        delay = min(self._disk.latency * (1 + 9 * self._host.random.random()), COPY_SECONDS)
        self._host.timeline.after(delay, partial(self._host.enter, partial(self._replace, image, done)))

    def failing(self) -> bool:
        return self._failing

    def power_loss(self) -> None:
        """The machine stops: what was not committed is gone."""
        if not self._gone:
            self._gone = True
            self._disk.state = self.crash()

    def copy(self) -> MemoryEngine:
        """What a copy of the state holds: the last commit."""
        return self.crash()

    def finish(self) -> None:
        """An orderly stop: commit, if the disk lets."""
        if not self._disk.full and not self._replacing:
            self.commit()
        self.power_loss()

    def _settled(self) -> None:
        require(not self._replacing, "the state was used while a copy takes its place")

    def _replace(self, image: object, done: Done) -> None:
        if self._gone:
            return
        self._replacing = False
        super().install(image, _ignore)
        self._disk.copies.pop(self.applied(), None)
        done(None)

    def _commit_due(self) -> None:
        if not self._gone:
            self._host.enter(self._try_commit)

    def _try_commit(self) -> None:
        self._due = False
        if self._gone or self._replacing:
            return
        self._failing = self._disk.full
        if self._disk.full:
            self._due = True
            self._host.timeline.after(self._interval, self._commit_due)
            self._failed(OSError(errno.ENOSPC, "No space left on the simulated disk"))
        else:
            self.commit()


def finish_replacement(disk: Disk, mark: SnapshotMeta | None) -> bool:
    """At a start: put the copy in place that the log is marked with and the state has not reached; forget all
    others. True if there was one to put.
    """
    copies, disk.copies = disk.copies, {}
    if mark is None or mark.index <= disk.state.applied():
        return False
    copy = copies.get(mark.index)
    if copy is None:
        raise Violated(f"the log begins after {mark.index}, the state ends at {disk.state.applied()}")
    disk.state = copy.crash()
    return True


def _follows(before: _Write, after: _Write) -> bool:
    return (
        after.done is not None
        and after.name == before.name
        and after.offset == before.offset + len(before.data)
        and after.life == before.life
    )


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on the simulated disk")


def _nowhere(call: Callable[[], object]) -> None:
    call()


def _ignore(_error: OSError | None) -> None:
    """Nobody waits."""
