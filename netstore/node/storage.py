"""Opens what one member keeps on disk, the log and the state, and makes them consistent with each other.

Order: verify the state file if the last process did not close it; open the log, which cuts an unfinished
write from its end; finish or undo the installation of a snapshot that a crash interrupted (`disk.snapshots`);
open the engine; load the state machine from it, with the index of the v3 keys that the last clean stop saved,
if it did (`disk.keptindex`). Entries between the applied index of the state and the end of
the log are not applied here: Raft does that once it knows what is committed.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from netstore.codec import Malformed
from netstore.disk import keptindex, snapshots
from netstore.disk.compacting import compact
from netstore.disk.datadir import STATE_FILE, explain_errors
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.skipped import read_skipped
from netstore.disk.verification import readable_records, summary_of_state
from netstore.disk.wal import Wal
from netstore.errors import NetstoreError
from netstore.node import bootstrap
from netstore.raft.config import Boot
from netstore.raft.entry import HardState, SnapshotMeta
from netstore.state.machine import Machine
from netstore.state.members import MemberInfo
from netstore.state.tables import MEMBERS, RECORDS, TABLES
from netstore.state.v3.savedkeys import SavedKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from netstore.disk.datadir import DataDir
    from netstore.errors import StateDamaged
    from netstore.limits import Shares
    from netstore.seams import Log
    from netstore.types import NodeId


class Progress(Protocol):
    """Receives reports about the phases of opening that can take minutes."""

    def moved(self, doing: str, size: int) -> None:
        """So many bytes of one phase are done; `doing` describes the phase."""

    def verifying(self, size: int) -> None:
        """A state of so many bytes is about to be verified."""

    def loading(self, records: int, size: int) -> None:
        """A state of so many records and bytes is about to be loaded."""

    def loaded(self, records: int) -> None:
        """So many records are loaded so far. May repeat a number."""


class Storage:
    """The log and the state of one member, open and consistent with each other."""

    def __init__(
        self,
        folder: DataDir,
        call_soon: Callable[[Callable[[], object]], object],
        shares: Shares,
        progress: Progress,
        log: Log,
    ) -> None:
        """Open both. Blocks.

        `call_soon` runs a call on the loop; the threads of log and engine use it. `shares` bounds the
        uncommitted changes of the state and the reads that are done in steps. CorruptData when bytes that
        were synced once cannot be read, NetstoreError when a file of the log cannot be; nothing is changed
        then.
        """
        self.failed: Callable[[OSError], None] = _raise_not_written
        """Called if the state cannot be committed."""
        self.damaged: Callable[[StateDamaged], object] = _ignore_damage
        """Called if a record that was read is not what was written: the state must not be served."""
        self.stops_cleanly = False
        """No fault ends the member: `close` may save what is in memory for the next start."""
        self._folder = folder
        self._log = log
        identity = folder.identity
        with ExitStack() as parts:
            path = folder.state_dir / STATE_FILE
            unverified: list[str] = []
            summary = summary_of_state(path, unverified.append, progress.verifying)
            for why in unverified:
                self._not_verified(why)
            owner = Identity(identity.cluster_id, identity.member_id)
            with explain_errors(folder.wal_dir):
                self.device = device = PosixDevice(folder.wal_dir, call_soon)
                parts.callback(device.close)
                self.wal, self.replay = Wal.open(
                    device, owner, position=summary.log, progress=partial(progress.moved, "reading the log")
                )
            parts.callback(self.wal.close)
            if self.replay.cut is not None:
                log.warning("log_tail_cut", file=self.replay.cut.name, offset=self.replay.cut.offset)
            self.mark = self.replay.mark or SnapshotMeta()
            installed = snapshots.recover_install(
                folder.state_dir,
                path,
                summary.applied,
                self.mark.index,
                self.replay.last,
                partial(progress.moved, "checking a copy of the state"),
            )
            if installed is not None:
                log.info("state_copy_installed", index=installed)
            if not unverified or installed is not None:  # to copy what may be damaged can end the process
                smaller = compact(
                    path,
                    partial(progress.moved, "copying the state without its free pages"),
                    progress.verifying,
                    self._not_compacted,
                )
                if smaller:
                    log.info("state_compacted", bytes=smaller)
            self.engine = LmdbEngine(
                path,
                call_soon,
                TABLES,
                self._engine_failed,
                on_damage=self._found_damage,
                budget=shares.overlay,
            )
            parts.callback(self._close_engine)
            self.engine.log_position = self.wal.position
            self.machine = Machine(self.engine, shares.reads, shares.walks)
            self.machine.skipped = read_skipped(folder.path)
            if self.machine.skipped:
                log.warning("entries_skipped", entries=sorted(self.machine.skipped))
            progress.loading(self.machine.stored, self.engine.sizes()[1])
            self.machine.load(progress.loaded, self._kept_keys(folder.state_dir))
            self._is_from_kept = self.machine.mvcc.is_from_saved
            """The file of saved keys was whole at the start."""
            if self._is_from_kept:
                log.info("saved_keys_used", records=self.engine.summary.sums[RECORDS].records)
            self._parts = parts.pop_all()

    def _kept_keys(self, folder: Path) -> SavedKeys | None:
        """What the last stop has saved of the index of the v3 keys, if it is of this very state."""
        try:
            kept = keptindex.read(folder, self.engine.summary)
        except (OSError, Malformed) as error:
            self._log.warning(
                "saved_keys_ignored", reason=_in_words(error), fix="none needed: all records are read instead"
            )
            return None
        return None if kept is None else SavedKeys(*kept)

    def boot(self, initial: Mapping[NodeId, Sequence[str]]) -> Boot:
        """What Raft starts from.

        If nothing was ever written, the log gets its first entries here: those of a new cluster with the
        members `initial` (id -> peer URLs). If `initial` is empty, the log stays empty and the member waits
        for a snapshot.
        """
        replay = self.replay
        hard_state, entries = replay.hard_state or HardState(), replay.entries
        if initial and bootstrap.is_empty(replay) and not self.machine.applied:
            self.mark = bootstrap.first_mark(initial)
            hard_state, entries = bootstrap.first_batch({id_: tuple(urls) for id_, urls in initial.items()})
            self.wal.mark(self.mark, self._written)
            self.wal.append(hard_state, entries, self._written)
        return Boot(hard_state=hard_state, snapshot=self.mark, entries=entries, applied=self.machine.applied)

    async def begin_anew(self, own: NodeId) -> None:
        """Make this member the only voter and keep all its data: apply the whole log, committed or not."""
        bootstrap.catch_up(self.machine, self.replay.entries)
        await self._when_done(self.engine.sync)
        mark = bootstrap.sole_voter_mark(own, self.replay)
        await self._when_done(lambda done: self.wal.mark(mark, done))
        self.mark, self.replay.mark, self.replay.entries = mark, mark, []

    async def _when_done(self, begin: Callable[[Callable[[OSError | None], None]], None]) -> None:
        over = trio.Event()
        failures: list[OSError] = []

        def done(failure: OSError | None) -> None:
            if failure is not None:
                failures.append(failure)
            over.set()

        begin(done)
        await over.wait()
        for failure in failures:
            raise NetstoreError(
                f"data_dir: cannot be written: {failure}; free disk space or replace the disk"
            )

    def _not_verified(self, why: str) -> None:
        self._log.warning(
            "state_not_verified",
            reason=why,
            fix="let this user start one more process; until then each record is verified when it is read,"
            " and the state keeps its free pages",
        )

    def _not_compacted(self, why: str, fix: str) -> None:
        self._log.warning(
            "state_not_compacted", reason=why, fix=f"{fix}; until then its free pages are used by writes"
        )

    def _engine_failed(self, failure: OSError) -> None:
        self.failed(failure)

    def _found_damage(self, damage: StateDamaged) -> None:
        self.damaged(damage)

    def _written(self, failure: OSError | None) -> None:
        """The first entries of a new log are durable, or the member ends before it sends any message."""
        if failure is not None:
            raise NetstoreError(f"data_dir: {failure}; free disk space or replace the disk")

    def close(self) -> None:
        """Commit the state if there is room on the disk, then close the log. Blocks."""
        self._parts.close()

    def _close_engine(self) -> None:
        try:
            self.engine.close()
        except OSError as error:  # nothing is lost: the next start applies it again from the log
            self._log.warning("state_not_saved", reason=error.strerror or str(error))
            return
        if self.stops_cleanly:
            try:
                self._keep_keys()
            except (OSError, MemoryError) as error:
                self._log.warning(
                    "keys_not_saved",
                    reason=_in_words(error),
                    fix="none needed: the next start reads all records instead",
                )

    def _keep_keys(self) -> None:
        summary = self.engine.summary
        if self.engine.is_damaged:
            return
        if self._is_from_kept and keptindex.is_kept(self._folder.state_dir, summary):
            return
        saved = self.machine.saved_keys(summary.applied, summary.sums[RECORDS].records)
        if saved is not None:
            keptindex.write(self._folder.state_dir, summary, *saved)


def readable_members(folder: DataDir) -> list[MemberInfo]:
    """The members listed in a state that is damaged; empty when the list cannot be read. Blocks."""
    path = folder.state_dir / STATE_FILE
    if not path.exists():
        return []
    decode = msgspec.msgpack.Decoder(MemberInfo).decode
    try:
        return [decode(record) for record in readable_records(path, MEMBERS)]
    except (OSError, msgspec.MsgspecError):
        return []


def _in_words(error: OSError | Malformed | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "no memory"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _raise_not_written(error: OSError) -> None:
    raise NetstoreError(
        f"data_dir: the state cannot be written: {error}; free disk space or replace the disk"
    )


def _ignore_damage(_damage: StateDamaged) -> None:
    """While the storage is opened, the read that finds damage also raises it to the caller."""
