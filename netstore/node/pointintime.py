"""The state at any point of an archive (`disk.archivefile`), as a full backup: an archived state, or another
full backup, and the entries after it, applied by the state machine. And all states of one key. Blocks; memory
as of a member.
"""

from __future__ import annotations

import queue
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.disk.archivefile import (
    Base,
    FileGone,
    Listing,
    NoSuchPoint,
    listing,
    payload_of,
    read_entries,
    read_head,
    wall_of,
)
from netstore.disk.backupfile import BackupReader, Header, LogPart
from netstore.disk.engine import COMMIT_BYTES, COMMIT_CHANGES, LmdbEngine
from netstore.disk.logpart import MOST_ENTRIES, joined, last_of, piece_of
from netstore.disk.skipped import SKIPPED, read_archived_skips
from netstore.disk.statefile import StateFile
from netstore.disk.verification import verify
from netstore.errors import CannotApply, CorruptData, NetstoreError, StateDamaged
from netstore.inputfile import open_input
from netstore.node import fullbackup
from netstore.node.replay import replay
from netstore.state.display import format_time
from netstore.state.envelope import read
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Found, Range
from netstore.types import Index, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from netstore.disk.archivefile import Part
    from netstore.disk.logpart import Piece
    from netstore.node.replay import Replayed
    from netstore.raft.entry import Entry
    from netstore.state.v3.store import V3Scalars

WAIT_SECONDS: Final = 600.0
"""How long a commit may take before the disk is given up."""

CLOCKS_NANOSECONDS: Final = 1_000_000_000
"""By so much the times of entries may go back in the log without a warning: an entry has the time of the
member that proposed it, and entries of several members are put in order by their leader.
"""

_STATE: Final = "state.lmdb"


class Goal(NamedTuple):
    """A point: one of these is given."""

    applied: int | None = None
    """Index of an entry."""
    revision: int | None = None
    instant: int | None = None
    """Nanoseconds since 1970."""


class Reached(NamedTuple):
    """Where a replay ended."""

    applied: int
    revision: int
    wall: int
    """Time of the last entry that has one; 0 if it is not known, because none was replayed."""
    base: int
    """The state that it began with had applied this entry; 0 if it began with an empty store and entry 1."""
    digest: str
    """Of the file that was written, as it is at its end."""
    is_end: bool
    """Whether an instant was asked for, and the archive has nothing that is known to be later."""
    first_later: int = 0
    """The first of the replayed entries whose time is after the instant by more than CLOCKS_NANOSECONDS,
    because the clocks of members differ or one was set back; 0 if none is.
    """


class Place(NamedTuple):
    """An entry of an archive that has a time."""

    applied: int
    wall: int
    is_end: bool
    """Whether none of the later entries has a time."""


def _ignore(_: object) -> None:
    """Nobody follows the replay, or is told."""


def place_of(found: Listing, instant: int) -> Place:
    """The last entry, in the order of the log, whose time is not after this instant. Reads the heads of the
    files back to it, and one file. NetstoreError if there is none, or if a gap may have a later one.
    """
    following: int | None = None
    """The first entry of the files that were passed over and have times."""
    for part in reversed(found.parts):
        head = read_head(part.path)
        if not head.earliest or head.earliest > instant:
            following = part.first if head.earliest else following
            continue
        entries = [(each.entry.index, each.wall) for each in read_entries(part.path)]
        index, wall = max(each for each in entries if 0 < each[1] <= instant)
        if any(each[0] > index and each[1] for each in entries):
            return Place(index, wall, is_end=False)
        gap = next((gap for gap in found.gaps if gap[0] > index), None)
        if gap is not None and (following is None or gap[0] < following):
            raise NoSuchPoint(_in_gap(found, gap, instant, head.latest))
        return Place(index, wall, is_end=following is None)
    first = next(
        (head.earliest for head in (read_head(part.path) for part in found.parts) if head.earliest), 0
    )
    if not first:
        raise NetstoreError(
            "the archive has no entry with a time: choose a point by --to-index, or --to-revision"
        )
    raise NoSuchPoint(
        f"the archive has nothing as old as this time: it begins with {format_time(first, up=True)}; choose"
        " a later time"
    )


def _in_gap(found: Listing, gap: tuple[int, int], instant: int, before: int) -> str:
    """Why the state at an instant is not known. `before` is the last time before the gap."""
    later = (read_head(part.path).earliest for part in found.parts if part.first > gap[1])
    after = next((earliest for earliest in later if earliest), 0)
    end = f", or one from {format_time(after)} on" if after else ""
    return (
        f"the archive has a gap: entries {gap[0]} to {gap[1]} are missing, and what was written by"
        f" {format_time(instant)} is not known; choose a time before {format_time(before)}{end}"
    )


def extract(
    folder: Path,
    goal: Goal,
    target: Path,
    work: Path,
    *,
    base_file: Path | None = None,
    version: str = "",
    progress: Callable[[Replayed], object] = _ignore,
    warn: Callable[[str], object] = _ignore,
) -> Reached:
    """Write a full backup of the state at a point to `target`, a new file. `work` is a new folder for what is
    needed meanwhile: once more the size of the state. The state to begin with is `base_file`, a full backup,
    or the newest one of the archive that is not after the point; before all of these an empty store, if the
    archive has the log from entry 1 on. A state that is damaged is told to `warn`, and passed over.

    NetstoreError, with nothing written, if the archive does not lead to the point, or entries of it do not
    show that `base_file` is of the same log; CorruptData if a file is damaged.
    """
    found = listing(folder)
    wall, is_end, first_later, latest = 0, False, 0, None
    if goal.instant is not None:
        latest = goal.instant + CLOCKS_NANOSECONDS
        found, place = _found_place(found, goal.instant)
        goal, wall, is_end = Goal(applied=place.applied), place.wall, place.is_end
    with ExitStack() as parts:
        work.mkdir(mode=0o700)
        parts.callback(shutil.rmtree, work, ignore_errors=True)
        replayer = _Replayer(work / _STATE, warn)
        parts.callback(replayer.close)
        replayer.begin(found, goal, base_file)
        start = replayer.machine.applied
        for each in replayer.run(found, goal):
            wall = wall_of(each.entry) or wall
            if latest is not None and wall > latest and not first_later:
                first_later = each.entry.index
            progress(each)
        machine = replayer.machine
        _check_reached(goal, machine, found)
        reached = Reached(machine.applied, machine.mvcc.revision, wall, start, "", is_end, first_later)
        replayer.finish()
        cluster = replayer.cluster or 0
        header = Header(
            id=blake2b(b"%x %d" % (cluster, reached.applied), digest_size=16).hexdigest(),
            cluster=f"{cluster:x}",
            member="0",
            name="archive",
            version=version,
            made=format_time(wall),
            index=0,
            revision=0,
            compacted=-1,
            v2_index=0,
            level=0,
            log=_log_part(found, reached.applied),
        )
        written = fullbackup.write(work / _STATE, target, header)
        return reached._replace(digest=written.digest)


def _found_place(found: Listing, instant: int) -> tuple[Listing, Place]:
    """The place of an instant, in an archive that may be written meanwhile; with the files as of then."""
    while True:
        try:
            return found, place_of(found, instant)
        except FileGone as gone:
            found = _relisted(found, gone)


def _relisted(found: Listing, gone: FileGone) -> Listing:
    """The files again, when one of them is gone: the member that writes here has merged it into another.
    Raises what it is given if the files are the same as before.
    """
    again = listing(found.folder)
    if again == found:
        raise gone
    return again


class KeyState(NamedTuple):
    """A state of a v3 key: its pair (`state.v3.keyvalue`), whether it is a deletion, and its origin."""

    revision: int
    pair: bytes
    deleted: bool
    wall: int
    author: bytes


@dataclass(slots=True)
class Reach:
    """What `key_states` has told, complete when it has told all."""

    since: int = 0
    """All changes after this revision are among the states, up to `last`. Those of it and before may be
    compacted in the state that the archive, or what follows a gap, begins with. 0: all there were.
    """
    last: int = 0
    """The revision that the archive leads to."""


def key_states(
    folder: Path, key: bytes, work: Path, reach: Reach, warn: Callable[[str], object] = _ignore
) -> Iterator[KeyState]:
    """All states of a v3 key in an archive, oldest first; `work` as for `extract`. Each stretch without a gap
    is replayed from its oldest state, which may be all that there is of it; one that is damaged is told to
    `warn`, and the next one is taken. Entries that no state leads to are told to it, too. NetstoreError if
    there is no state.
    """
    found = listing(folder)
    work.mkdir(mode=0o700)
    try:
        last = 0
        is_usable = False
        damage: _BadState | None = None
        for first, end in _stretches(found):
            bases: list[Base | None] = [base for base in found.bases if first - 1 <= base.applied <= end]
            if found.is_from_start and first == 1:
                bases = [None]
            elif not bases:
                warn(f"no state of the archive leads to its entries {first} to {end}: they are not looked at")
            for base in bases:
                try:
                    for state in _states_from(base, found, key, work / _STATE, reach):
                        if state.revision > last:
                            last = state.revision
                            yield state
                except _BadState as bad:
                    damage = bad
                    warn(f"{bad}; what was before a later state may be missing")
                else:
                    is_usable = True
                    break
        if not is_usable:
            raise damage or NetstoreError("the archive has no state to begin with")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _stretches(found: Listing) -> list[tuple[int, int]]:
    """First and last entry of each stretch without a gap, in order. That of a state which no entry of the
    archive comes before or after has none: it ends before it begins.
    """
    stretches = found.stretches
    alone = (
        (base.applied + 1, base.applied)
        for base in found.bases
        if not any(first - 1 <= base.applied <= last for first, last in stretches)
    )
    return sorted([*stretches, *alone])


def _states_from(
    base: Base | None, found: Listing, key: bytes, path: Path, reach: Reach
) -> Iterator[KeyState]:
    with ExitStack() as parts:
        replayer = _Replayer(path, _ignore)
        parts.callback(replayer.close)
        replayer.begin_at(found, base)
        mvcc = replayer.machine.mvcc
        if mvcc.compacted > reach.last:
            reach.since = mvcc.compacted
        yield from _held(replayer.machine, key)
        for entry, changes in replayer.run(found, Goal()):
            for change in changes:
                if change.key == key:
                    head = read(payload_of(entry))
                    yield KeyState(change.revision, change.pair, change.deleted, head.wall, head.principal)
        reach.last = max(reach.last, mvcc.revision)


def _held(machine: Machine, key: bytes) -> Iterator[KeyState]:
    """The states of a key that a loaded state has."""
    mvcc = machine.mvcc
    start = Revision(max(1, mvcc.compacted))
    oldest = mvcc.range(Range(key, revision=start))
    if isinstance(oldest, Found):
        for pair in oldest.kvs:
            yield _with_origin(machine, pair, deleted=False)
    following = Revision(start + 1)
    while following <= mvcc.revision:
        for changes, after in mvcc.history(following, key, b"", looked=100_000, told=1_000, size=1 << 20):
            for change in changes:
                yield _with_origin(machine, change.pair, deleted=change.deleted)
            following = after or following


def _with_origin(machine: Machine, pair: bytes, *, deleted: bool) -> KeyState:
    revision = keyvalue.decode(pair).modified
    found, _ = machine.mvcc.origins.since(revision)
    for origin in found[:1]:
        if origin.first <= revision:
            return KeyState(revision, pair, deleted, origin.wall, origin.principal)
    return KeyState(revision, pair, deleted, 0, b"")


def _check_reached(goal: Goal, machine: Machine, found: Listing) -> None:
    if goal.applied is not None and machine.applied < goal.applied:
        raise NoSuchPoint(
            f"the archive ends with entry {max(machine.applied, found.last)}, before {goal.applied}"
        )
    if goal.revision is not None and machine.mvcc.revision < goal.revision:
        gap = next((gap for gap in found.gaps if gap[0] == machine.applied + 1), None)
        if gap is not None:
            raise NoSuchPoint(
                f"the archive has a gap: entries {gap[0]} to {gap[1]} are missing, and from revision"
                f" {machine.mvcc.revision} on it is not known which entry reached {goal.revision}; choose a"
                " point before it, or an entry by --to-index after a later state"
            )
        raise NoSuchPoint(f"the archive ends with revision {machine.mvcc.revision}, before {goal.revision}")


class _Replayer:
    """A state on the disk, and the entries that are applied to it."""

    machine: Machine

    def __init__(self, path: Path, warn: Callable[[str], object]) -> None:
        self._path = path
        self._warn = warn
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._engine: LmdbEngine | None = None
        self._failure: OSError | None = None
        self.cluster: int | None = None
        """That of the archive; None if it has no entries."""

    def begin(self, found: Listing, goal: Goal, base_file: Path | None) -> None:
        """Put the state there that the replay begins with."""
        if base_file is None:
            self._begin_before(found, goal)
        else:
            self.cluster = _cluster_of(found)
            self._open()
            header = self._load_backup(base_file)
            self._load(found)
            _check_same_log(found, base_file, header, self.machine)
        machine = self.machine
        if goal.applied is not None and machine.applied > goal.applied:
            raise NetstoreError(
                f"the state to begin with has applied entry {machine.applied}, after {goal.applied}"
            )
        if goal.revision is not None and machine.mvcc.revision > goal.revision:
            raise NetstoreError(
                f"the state to begin with is at revision {machine.mvcc.revision}, after {goal.revision}"
            )

    def _begin_before(self, found: Listing, goal: Goal) -> None:
        """Begin at the newest undamaged state of the archive that is not after the goal."""
        damage: _BadState | None = None
        while True:
            try:
                self.begin_at(found, _base_for(found, goal))
            except _BadState as bad:
                damage = bad
                found = found.without({bad.base.path})
                self._warn(f"{bad}; an older state is taken, if there is one")
            except _NoBase:
                if damage is None:
                    raise
                raise CorruptData(
                    f"{damage}, and no older one leads to this point; give an older full backup with FILE"
                ) from None
            else:
                return

    def begin_at(self, found: Listing, base: Base | None) -> None:
        """Put a state of the archive there, None for that of a new store. `_BadState` if it is damaged;
        NetstoreError if it was removed since the archive was listed.
        """
        self.close()
        self._path.unlink(missing_ok=True)
        self.cluster = _cluster_of(found)
        if base is None:
            self._open()
            self._load(found)
            return
        with _readable(base, self._path):
            shutil.copyfile(base.path, self._path)
            verify(self._path)
            self._open()
            self._load(found)

    def _load(self, found: Listing) -> None:
        self.machine = Machine(self._opened)
        self.machine.load()
        self.machine.skipped = read_archived_skips(found.folder)

    def run(self, found: Listing, goal: Goal) -> Iterator[Replayed]:
        """Apply the entries up to the goal. NetstoreError for one that this release cannot apply."""
        try:
            yield from replay(
                self.machine,
                self._entries(found, goal),
                to_index=goal.applied,
                to_revision=goal.revision,
                pause=self._pause,
            )
        except CannotApply as error:
            raise NetstoreError(
                f"{str(error).partition(';')[0]}; if the members passed over it (netstored --skip-entry"
                f" {self.machine.applied + 1}), copy the file {SKIPPED} of one's data folder to"
                f" {found.folder / SKIPPED}; else upgrade netstore, or choose a point before it"
            ) from None

    def _entries(self, found: Listing, goal: Goal) -> Iterator[Entry]:
        """Those from the next one to apply to the goal, or to the next gap. Where the member that writes the
        archive has merged a file meanwhile, it goes on in the larger one. NetstoreError if the next entry was
        removed instead, because it became too old to be kept.
        """
        while True:
            first = self.machine.applied + 1
            if goal.applied is not None:
                parts = found.between(first, goal.applied) if goal.applied >= first else []
            else:
                parts = _reaching(found, first)
            try:
                for part in parts:
                    for each in read_entries(part.path, self.cluster):
                        yield each.entry
            except FileGone as gone:
                found = _relisted(found, gone)
                wanted = self.machine.applied + 1
                if not any(part.first <= wanted <= part.last for part in found.parts):
                    raise _removed(f"entry {wanted}") from None
            else:
                return

    def finish(self) -> None:
        """Make all of it durable, and close the file."""
        self.machine.save()
        self.close()
        if self._failure is not None:
            raise NetstoreError(f"{self._path}: cannot be written: {self._failure}; free disk space")

    def close(self) -> None:
        """Close the file; may be called again."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
            self._drain()

    @property
    def _opened(self) -> LmdbEngine:
        assert self._engine is not None  # noqa: S101 - opened by `begin`; for the type checker
        return self._engine

    def _open(self) -> None:
        self._engine = LmdbEngine(self._path, self._calls.put, TABLES, self._failed)

    def _failed(self, failure: OSError) -> None:
        self._failure = failure

    def _load_backup(self, path: Path) -> Header:
        with open_input(path, "name a full backup") as file:
            reader = BackupReader(file, str(path))
            fullbackup.check_level(reader.header, str(path))
            if self.cluster is not None and reader.header.cluster != f"{self.cluster:x}":
                raise NetstoreError(
                    f"{path}: is a backup of cluster {reader.header.cluster}, and the archive is of"
                    f" {self.cluster:x}: name a backup of the same cluster"
                )
            changes: dict[tuple[str, bytes], bytes | None] = {}
            size = 0
            for table, key, value in reader.records():
                if table not in TABLES:
                    raise CorruptData(f"{path}: has a table {table[:64]!r}, not known here: upgrade netstore")
                changes[table, key] = value
                size += len(key) + len(value)
                if len(changes) >= COMMIT_CHANGES or size >= COMMIT_BYTES:
                    self._opened.write(Index(reader.header.index), changes)
                    self._pause()
                    changes, size = {}, 0
            self._opened.write(Index(reader.header.index), changes)
            return reader.header

    def _pause(self) -> None:
        """Let the engine report, and wait while it has more than it should."""
        self._drain()
        while self._opened.excess_bytes() and self._failure is None:
            try:
                self._calls.get(timeout=WAIT_SECONDS)()
            except queue.Empty:
                raise NetstoreError(f"{self._path}: the disk does not answer; use another") from None
        if self._failure is not None:
            raise NetstoreError(f"{self._path}: cannot be written: {self._failure}; free disk space")

    def _drain(self) -> None:
        while not self._calls.empty():
            self._calls.get()()


def _removed(what: str) -> NetstoreError:
    return NetstoreError(
        f"{what} of the archive was removed meanwhile, because it is no longer to be kept: run it again"
    )


class _NoBase(NetstoreError):  # noqa: N818 - named for what is so
    """No state of an archive leads to a point."""


class _BadState(CorruptData):
    """A state of an archive is damaged."""

    def __init__(self, base: Base, what: str) -> None:
        super().__init__(f"{base.path}: the state is damaged: {what}")
        self.base = base


@contextmanager
def _readable(base: Base, copy: Path) -> Iterator[None]:
    """A failure to read a state that is gone says so; `_BadState` if it, or its copy, is not what was
    written.
    """
    try:
        yield
    except (OSError, StateDamaged) as error:
        if not base.path.exists():
            raise _removed(f"the state {base.path.name}") from None
        if isinstance(error, OSError):
            raise
        what = str(error).partition("; ")[0]
        for path in (base.path, copy):
            what = what.removeprefix(f"{path}: ")
        raise _BadState(base, what) from None


def _base_for(found: Listing, goal: Goal) -> Base | None:
    """The newest state that is not after the goal; None for the empty one of a new store, if the archive has
    its log from the start. NetstoreError if there is none; `_BadState` if one that has to be looked at is
    damaged. One that has the wanted revision may be after the entry with which it was reached, so it is taken
    only where nothing before it is there.
    """
    reached: Base | None = None
    for base in sorted(found.bases, reverse=True):
        if goal.applied is not None and base.applied > goal.applied:
            continue
        if goal.revision is not None:
            scalars = _v3_scalars(base)
            if scalars.revision == goal.revision:
                reached = base
            if scalars.revision >= goal.revision:
                continue
        if reached is not None and not _leads(found, base.applied, reached):
            return reached
        return base
    if found.is_from_start and (reached is None or _leads(found, 0, reached)):
        return None
    if reached is not None:
        return reached
    oldest = min(found.bases, default=None)
    if oldest is None:
        raise _NoBase("the archive has no state to begin with; give a full backup with FILE")
    raise _NoBase(
        f"the oldest state of the archive has applied entry {oldest.applied}, which is after this point; give"
        " an older full backup with FILE"
    )


def _v3_scalars(base: Base) -> V3Scalars:
    """Those of a state of an archive, which is verified first: reading damaged pages may end the process."""
    with _readable(base, base.path):
        base.path.stat()  # one that is gone is not damaged
        verify(base.path)
        with StateFile(base.path) as state:
            return fullbackup.scalars_of(state.scan)[1]


def _check_same_log(found: Listing, path: Path, header: Header, machine: Machine) -> None:
    """NetstoreError unless entries of an archive show that a full backup is of its log: those that the header
    tells of (`disk.logpart`), or, in backups of earlier releases, the last one, by what it wrote.
    """
    log = header.log
    if isinstance(log, LogPart):
        wanted = log.last - log.first + 1
        if not 0 < wanted <= MOST_ENTRIES:
            raise CorruptData(
                f"{path}: its header has the field log with entries {log.first} to {log.last}, not 1 to"
                f" {MOST_ENTRIES} of them: name another backup"
            )
        pieces = list(islice(_pieces(found, log.last), wanted))
        if len(pieces) == wanted:
            if joined(pieces[::-1]) == log:
                return
            raise NetstoreError(
                f"{path}: is of another log than the archive: their entries up to {log.last} are not the"
                " same, because the store was begun anew or forced to go on without its peers; name a"
                " backup of this log"
            )
    elif _ends_with_last_write(found, header, machine):
        return
    else:
        raise NetstoreError(
            f"{path}: does not say of which log it is, as backups of earlier releases do not, and the archive"
            f" has no entry {header.index} that wrote the last v3 key of it, which would show that: make a"
            " new backup, or begin with a state of the archive: leave the backup out"
        )
    raise NetstoreError(
        f"{path}: the archive has no entry that shows that this backup of entries up to {header.index} is of"
        " its log: name a backup that was made by this release while the archive was written, or begin with"
        " a state of the archive: leave the backup out"
    )


def _ends_with_last_write(found: Listing, header: Header, machine: Machine) -> bool:
    """Whether the entry up to which a backup goes is in the archive the one that wrote the last revision of
    the backup, by its time and author. An earlier one would not do: of what follows it in the backup, v2
    writes or leases, nothing tells the entry.
    """
    origins, _ = machine.mvcc.origins.since(machine.mvcc.revision)
    wall, principal = (origins[-1].wall, origins[-1].principal) if origins else (0, b"")
    while wall:
        part = found.having(header.index)
        if part is None:
            break
        try:
            for entry, time in read_entries(part.path):
                if entry.index == header.index:
                    return time == wall and read(payload_of(entry)).principal == principal
        except FileGone as gone:
            found = _relisted(found, gone)
    return False


def _log_part(found: Listing, applied: int) -> LogPart | msgspec.UnsetType:
    """What tells of which log a state is that has applied this entry, as far as an archive has it."""
    return last_of(islice(_pieces(found, applied), MOST_ENTRIES)) or msgspec.UNSET


def _pieces(found: Listing, last: int) -> Iterator[Piece]:
    """What a log part has of the entries of an archive from this one back, to a gap. One file is in memory,
    and MOST_ENTRIES pieces.
    """
    while part := found.having(last):
        first = max(part.first, last - MOST_ENTRIES + 1)
        try:
            entries = (each.entry for each in read_entries(part.path))
            pieces = [piece_of(entry) for entry in entries if first <= entry.index <= last]
        except FileGone as gone:
            found = _relisted(found, gone)
            continue
        yield from reversed(pieces)
        last = first - 1


def _leads(found: Listing, applied: int, to: Base) -> bool:
    """Whether the entries from a state on to another are there."""
    first, last = applied + 1, to.applied
    return any(begin <= first and last <= end for begin, end in found.stretches)


def _cluster_of(found: Listing) -> int | None:
    """The cluster of an archive; None if it has no entries."""
    while found.parts:
        try:
            return read_head(found.parts[-1].path).cluster
        except FileGone as gone:
            found = _relisted(found, gone)
    return None


def _reaching(found: Listing, first: int) -> list[Part]:
    """The files with the entries from `first` on, to the next gap."""
    last = max((last for begin, last in found.stretches if begin <= first <= last), default=first - 1)
    return found.between(first, last) if last >= first else []
