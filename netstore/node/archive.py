"""The archive of a member's log (`disk.archivefile`), written in threads while the member runs: the entries
that it has applied, a few seconds behind, and at times a copy of its state, from which they are replayed.

Nothing waits for the archive. While it keeps up, the log in memory keeps what was not archived yet, within
its bound; one that fails or is too slow gets a gap, and then a new state, after which it is of use again.
What is older than asked for is removed (`disk.archiveretention`).
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from netstore.disk.archivefile import ANOTHER_STORE, IN_ITS_PLACE, ArchiveWriter, Listing
from netstore.disk.archiveretention import Outcome, Pace, Retention
from netstore.disk.threads import report, start_thread
from netstore.errors import NetstoreError
from netstore.node.causes import without_figures
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from netstore.disk.archivefile import Base
    from netstore.disk.threads import CallSoon
    from netstore.raft.entry import Entry
    from netstore.raft.log import Log as RaftLog
    from netstore.seams import Log
    from netstore.types import ClusterId

    T = TypeVar("T")

MOST_ENTRIES: Final = 5_000
"""Entries that are given to the disk at once: slicing them out of the log takes 0.1 ms."""

MOST_BYTES: Final = 4 << 20
"""Bytes of entries that are given to the disk at once, unless one is larger."""

PLACE_SECONDS: Final = 30.0
"""Between two looks whether the folder is still the one that was opened, while nothing is written."""

DUE_ENTRIES: Final = 1_000
"""So many are archived without waiting for the interval."""

RETRY_SECONDS: Final = 10.0
"""Between two attempts after a failure."""

LONGEST_RETRY_SECONDS: Final = 3600.0
"""Between two attempts to archive a state, after failures: the pause doubles up to this, since each attempt
copies the state.
"""

SLOW_SECONDS: Final = 60.0
"""A write that takes longer is told as a problem, and so is an archive that is behind its lag by more."""

LONG_SECONDS: Final = 600.0
"""A state whose copy, or old files whose removal takes longer is told as a problem."""

BASE_ENTRIES: Final = 1_000_000
"""Entries after which the state is archived again, so that half a minute of replay leads to every point."""

SPARE_BYTES: Final = 64 << 20
"""Free disk space that a state must leave: entries go to the same folder."""

RETENTION_SECONDS: Final = 60.0
"""Old files are looked for no more often, and else each thousandth of the time that they are kept."""

DAMAGED_TOLD: Final = 10
"""So many damaged files, those that were found first, are told each; of the others how many there are."""


class Source(Protocol):
    """The part of `disk.engine.LmdbEngine` that is used here."""

    def applied(self) -> Index:
        """The index of the last write."""

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        """Call `done` on the loop once everything written so far is durable, or with the error."""

    def copy_to(self, file: int) -> Index:
        """Write a consistent copy to a file descriptor; its applied index. Blocks."""

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, which a copy has too, and of its pages that are in use."""


class Home(Protocol):
    """The part of `disk.datadir.DataDir` that is used here. Its methods block and raise NetstoreError."""

    def instance(self) -> str:
        """What tells this store from another one with the same cluster id."""

    def archive_folder(self) -> str:
        """The folder in which its archive was written last; empty if there was none."""

    def note_archive_folder(self, folder: Path) -> None:
        """Keep where it is written."""


class Problem(NamedTuple):
    """What keeps the archive from being what it should be."""

    event: str
    """Name in the log."""
    cause: str
    """What the log says of it, once."""
    text: str
    """What the status says of it."""
    fix: str = "mend what the error names"
    subject: str = ""
    """What it is about, if that takes more than the cause to tell."""

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same while it lasts, whatever figures the cause has."""
        return self.event, self.subject or without_figures(self.cause)


class Archiver:
    """Archives the log of one member in `folder`. Called on the loop."""

    def __init__(
        self,
        folder: Path,
        cluster: ClusterId,
        home: Home,
        raft: RaftLog,
        source: Source,
        *,
        lag_seconds: float,
        keep_seconds: float = 0.0,
        call_soon: CallSoon,
        monotonic: Callable[[], float],
        wall: Callable[[], int],
        log: Log,
        skipped: Mapping[Index, str] = {},
    ) -> None:
        """Entries that wait when no others are being written are begun to be written within `lag_seconds`
        after they were applied, a bounded number at once; one that is applied during a write waits for its
        end first. What leads to no point of the last `keep_seconds` is removed; 0: nothing is. `home` is
        called in threads; the folder that it has is not begun anew where its archive is gone. `skipped` are
        the entries that this member does not apply (`Machine.skipped`).
        """
        self.folder = folder
        self._cluster = cluster
        self._home = home
        self._raft = raft
        self._source = source
        self._lag = lag_seconds
        self.keep_seconds = keep_seconds
        self._call_soon = call_soon
        self._monotonic = monotonic
        self._wall = wall
        self._log = log
        self._skipped = skipped
        self._writer: ArchiveWriter | None = None
        self._retention: Retention | None = None
        self._waits: tuple[Index, float] | None = None
        """An entry that is not archived and was the last one that was applied, and when that was; None
        before there is one.
        """
        self._told: dict[tuple[str, str], str] = {}
        """The causes, by `Problem.key`, of the problems that the log tells of and that are not over."""
        self._busy_since: float | None = None
        """When the write that is under way began."""
        self._retry_at = 0.0
        self._place_at = 0.0
        """When it is looked again whether the folder is still there."""
        self._makes_base = False
        self._beside_since = 0.0
        """When the state that is made, or the removal that is under way began."""
        self._base_retry_at = 0.0
        self._base_pause = RETRY_SECONDS
        """How long after the next failure a state is tried again."""
        self._no_base = ""
        """Why the last attempt to archive a state failed; empty if it did not."""
        self._base_at = 0
        """Index of the newest archived state."""
        self._removes = False
        self._remove_at = 0.0
        self._pace: Pace | None = None
        """None until a time is known to begin with."""
        self._is_ahead = False
        """It was told that the clock went ahead."""
        self._not_removed = ""
        """Why removing old files, or finding the oldest time, failed the last time; empty if it did not."""
        self._is_state_old = False
        """All that is archived since the newest state is older than what is kept."""
        self.removed = 0
        """Files that were removed since the start because they were too old."""
        self.archived = Index(0)
        """Entries up to this one are archived; 0 before the folder was opened."""
        self.wall = 0
        """Time of the last archived entry that has one; 0 if none was archived since the start."""
        self.problem = ""
        """Why the last attempt failed; empty if it did not."""
        self._newest: Entry | None = None
        """The last entry of the archive, until it was found in the log."""
        self._differs = ""
        """Why the archive is not one of this log; empty if it is, or that is not known yet."""
        self._is_foreign = False
        """It was seen to be one of another log: nothing is archived before a restart."""
        self._looked_at = monotonic()
        self._stopped_seconds = 0.0
        """For how long of the present lag nothing could be archived, because of an error."""
        self._is_behind = False
        """It is behind although it takes entries: more than `SLOW_SECONDS` above its lag."""

    # --- what is told

    @property
    def listing(self) -> Listing:
        """The files, as of the last write."""
        return Listing(self.folder) if self._writer is None else self._writer.listing

    @property
    def oldest(self) -> int:
        """The oldest instant that the archive leads to, in nanoseconds since 1970; 0 if that is not known."""
        return 0 if self._retention is None else self._retention.oldest

    @property
    def waiting(self) -> int:
        """How many applied entries are not archived."""
        return max(0, self._raft.applied - max(self.archived, self._raft.compacted))

    @property
    def stopped(self) -> bool:
        """Whether nothing is archived."""
        return bool(self._not_archived())

    def lag_seconds(self) -> float:
        """For how long, at least, an applied entry has waited to be archived; 0 if none waits."""
        return (
            0.0
            if self._waits is None or self._is_reached(self._waits[0])
            else self._monotonic() - self._waits[1]
        )

    def problems(self) -> list[str]:
        """What an operator has to know; empty if all is well."""
        return list(self.fixes())

    def fixes(self) -> dict[str, str]:
        """The same, each with what to do about it."""
        return {each.text: each.fix for each in self._not_archived() or self._impaired()}

    def _not_archived(self) -> list[Problem]:
        if self._differs:
            text = f"the log is not archived: {self._differs}"
            fix = "name an empty folder (archive_folder), or do what else the error says"
            return [Problem("archive_refused", self._differs, text, fix)]
        if self.problem:
            fix = "mend what the error names, such as the mount; what the log forgets meanwhile is missing"
            return [
                Problem("archive_not_written", self.problem, f"the log is not archived: {self.problem}", fix)
            ]
        if self._busy_since is not None:
            seconds = self._monotonic() - self._busy_since
            if seconds > SLOW_SECONDS:
                cause = f"a write to {self.folder} has taken"
                text = f"the log is not archived: {cause} {seconds:.0f} s so far"
                fix = "look whether its disk answers; what the log forgets meanwhile is missing"
                return [Problem("archive_stuck", f"{cause} more than {SLOW_SECONDS:.0f} s", text, fix)]
        return []

    def _impaired(self) -> list[Problem]:
        """What is wrong while it is archived."""
        writer = self._writer
        if writer is None:
            return []
        found = []
        damaged = list(writer.damaged.items())
        for path, damage in damaged[:DAMAGED_TOLD]:
            text = f"the archive is damaged, and nothing is restored across that: {damage}"
            fix = "put the file of another member's archive there; else move it away, and it becomes a gap"
            # Its name without the ending that it gets when it is set aside.
            subject = path.name.partition(".")[0]
            found.append(Problem("archive_damaged", damage, text, fix, subject))
        if len(damaged) > DAMAGED_TOLD:
            cause = f"{self.folder}: {len(damaged) - DAMAGED_TOLD} more files are damaged"
            fix = "put another member's archive there, or name an empty folder"
            found.append(Problem("archive_damaged", cause, f"the archive is damaged: {cause}", fix))
        lag = self.lag_seconds()
        if self._is_behind and lag:
            cause = f"{self.folder} does not take the log as fast as it grows"
            text = f"the archive is {lag:.0f} s behind: {self.waiting} entries wait, and {cause}"
            found.append(Problem("archive_behind", cause, text, "give it a faster disk; gaps are to come"))
        seconds = self._monotonic() - self._beside_since
        if (self._makes_base or self._removes) and seconds > LONG_SECONDS:
            what = "a state is being archived" if self._makes_base else "old files are being removed"
            text = f"{what} for {seconds:.0f} s so far: {self.folder} does not answer, or is slow"
            cause = f"{what} for more than {LONG_SECONDS:.0f} s"
            found.append(Problem("archive_slow", cause, text, "look whether the disk of the folder answers"))
        if self._no_base:
            text = f"the state is not archived: {self._no_base}"
            fix = "mend what the error names, such as a full disk; entries are archived meanwhile"
            found.append(Problem("archive_state_not_written", self._no_base, text, fix))
        if self._not_removed and self.keep_seconds:
            text = f"old files of the archive are not removed: {self._not_removed}"
            fix = "mend what the error names; the archive grows meanwhile"
            found.append(Problem("archive_not_removed", self._not_removed, text, fix))
        elif self._not_removed:
            text = f"how far back the archive leads is not known: {self._not_removed}"
            found.append(Problem("archive_oldest_unknown", self._not_removed, text))
        if writer.not_merged:
            text = f"the files of the archive are not merged: {writer.not_merged}"
            found.append(Problem("archive_not_merged", writer.not_merged, text))
        return found

    def _tell(self) -> None:
        """Log each problem once when it begins, and once when it is over."""
        found = {each.key: each for each in (*self._not_archived(), *self._impaired())}
        for key in self._told.keys() - found.keys():
            error = self._told[key]
            self._log.info("archive_problem_over", problem=key[0], error=error, folder=str(self.folder))
            del self._told[key]
        for key, problem in found.items():
            if key not in self._told:
                self._log.warning(problem.event, error=problem.cause, fix=problem.fix)
                self._told[key] = problem.cause

    def needed(self) -> Index | None:
        """Entries after this one should stay in the log, if they fit: they are about to be archived. None:
        none need to, because the archive does not take them.
        """
        if self._newest is not None and not self._is_foreign and not self.problem:
            return Index(self._newest.index - 1)  # it is compared with that of the log
        return None if self._writer is None or self._not_archived() else self.archived

    # --- work

    def look(self) -> None:
        """Begin what is due; to be called each round. O(entries archived)."""
        try:
            self._look()
        except MemoryError as error:  # it ends this round, not the member
            self._retry_at = self._monotonic() + RETRY_SECONDS
            self.problem = self._in_words(error)
        with suppress(MemoryError):  # the next round tells it
            self._note_behind(self._monotonic())
            self._tell()

    def _look(self) -> None:
        now = self._monotonic()
        self._note_waiting(now)
        if self._busy_since is not None or now < self._retry_at:
            return
        if self._is_foreign:
            if self._writer is not None:
                self._give_back(self._writer)
            return
        if self._writer is None:
            self._begin(self._open, self._opened)
            return
        if not self._is_continued(self._writer):
            return
        self._archive(self._writer, now)
        if self._makes_base or self._removes:
            return
        if now >= self._base_retry_at and self._needs_base(self._writer):
            self._make_base(self._writer)
        elif now >= self._remove_at and self.archived and self._retention is not None:
            self._remove(self._retention)
        elif self._busy_since is None and (self.problem or now >= self._place_at):
            self._begin(self._writer.check_place, self._place_checked)

    def _note_waiting(self, now: float) -> None:
        if self._waits is None or self._is_reached(self._waits[0]):
            self._waits = (self._raft.applied, now) if self.waiting else None

    def _note_behind(self, now: float) -> None:
        """What waits because of an error, has another cause than a slow folder."""
        lag = self.lag_seconds()
        if self._differs or self.problem:
            self._stopped_seconds += now - self._looked_at
        self._looked_at = now
        self._stopped_seconds = min(self._stopped_seconds, lag)  # a lag that begins anew has no stop in it
        self._is_behind = lag - self._stopped_seconds > self._lag + SLOW_SECONDS

    def _is_reached(self, index: Index) -> bool:
        """Whether an entry is archived, or the log has forgotten it."""
        return index <= max(self.archived, self._raft.compacted)

    def _is_continued(self, writer: ArchiveWriter) -> bool:
        """Whether this member's log goes on where the archive ends. The store may be another one that has the
        same id, because it was begun anew with the same flags.
        """
        newest, raft = self._newest, self._raft
        if newest is None:
            return not writer.is_others or self._refuse(writer)
        at = newest.index
        if raft.last < at:
            self._differs = (
                f"{self.folder} ends with entry {at}, and the log of this member with {raft.last}: if the"
                " store was begun anew, name an empty folder; else this member has to catch up"
            )
            return False
        if raft.applied < at:
            return False
        # A term alone does not tell two stores apart.
        is_same = at > raft.compacted or not writer.is_others
        if is_same and at >= raft.compacted:
            is_same = raft.term(at) == newest.term
        if is_same and at > raft.compacted:
            is_same = raft.between(at, at) == [newest]
        if not is_same:
            return self._refuse(writer)
        self._newest, self._differs, writer.is_others = None, "", False
        return True

    def _refuse(self, writer: ArchiveWriter) -> bool:
        self._is_foreign = True
        self._differs = f"{self.folder} {ANOTHER_STORE}{IN_ITS_PLACE if writer.is_others else ''}"
        self._retention, self.archived = None, Index(0)
        self._give_back(writer)
        return False

    def _give_back(self, writer: ArchiveWriter) -> None:
        """Whose archive it is can go on with it. Begun again if it fails."""
        self._begin(writer.close, self._given_back)

    def _given_back(self, _: None) -> None:
        self._writer = None

    def _archive(self, writer: ArchiveWriter, now: float) -> None:
        raft = self._raft
        if self.archived < raft.compacted:
            if self.archived:
                self._log.warning(
                    "archive_gap",
                    first=self.archived + 1,
                    last=raft.compacted,
                    fix="none needed: the state is archived anew; nothing is restored to the gap",
                )
            self.archived = raft.compacted
        if self._waits is None:
            return
        if raft.applied - self.archived < DUE_ENTRIES and now - self._waits[1] < self._lag:
            return
        entries: list[Entry] = []
        size = 0
        for entry in raft.between(self.archived + 1, min(raft.applied, self.archived + MOST_ENTRIES)):
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if entries and size > MOST_BYTES:
                break
            entries.append(entry)
        self._begin(partial(writer.add, entries), partial(self._added, entries[-1]))

    def _begin(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        self._busy_since = self._monotonic()
        try:
            failure = start_thread(partial(self._run, work, partial(self._done, done)), "archive")
        except MemoryError:
            self._busy_since = None
            raise
        if failure is not None:
            self._done(done, failure)

    def _run(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        outcome: T | Exception
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - whatever the folder does must not end the member
            outcome = error
        report(self._call_soon, done, outcome)

    def _done(self, done: Callable[[T], None], outcome: T | Exception) -> None:
        self._busy_since = None
        if isinstance(outcome, Exception):
            self._retry_at = self._monotonic() + RETRY_SECONDS
            self.problem = self._in_words(outcome)
            return
        self.problem = ""
        done(outcome)

    def _place_checked(self, _: None) -> None:
        self._place_at = self._monotonic() + PLACE_SECONDS

    def _open(self) -> ArchiveWriter:
        home, folder = self._home, self.folder.absolute()
        is_begun = home.archive_folder() == str(folder)

        def claimed() -> None:
            if not is_begun:
                home.note_archive_folder(folder)

        return ArchiveWriter.open(
            self.folder,
            self._cluster,
            home.instance(),
            is_begun=is_begun,
            claimed=claimed,
            skipped=self._skipped,
        )

    def _opened(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._place_at = self._monotonic() + PLACE_SECONDS
        self._retention = Retention(writer)
        found = writer.listing
        self.archived = Index(found.last)
        self._newest = writer.newest
        if writer.newest_wall:
            self._pace = Pace(min(writer.newest_wall, self._wall()), self._monotonic())
        self._base_at = max((base.applied for base in found.bases), default=0)
        self._log.info("archive_opened", folder=str(self.folder), last=self.archived, gaps=len(found.gaps))

    def _added(self, last: Entry, wall: int) -> None:
        self.archived = last.index
        self.wall = wall or self.wall

    # --- states

    def _needs_base(self, writer: ArchiveWriter) -> bool:
        if not self._source.applied():
            return False
        if self.archived - self._base_at >= BASE_ENTRIES or self._is_state_old:
            return True
        return not writer.listing.has_usable_base

    def _make_base(self, writer: ArchiveWriter) -> None:
        self._makes_base = True
        self._beside_since = self._monotonic()
        try:
            self._source.sync(partial(self._durable, writer))
        except MemoryError as error:  # it has not taken the callback
            self._base_made(error)

    def _durable(self, writer: ArchiveWriter, failure: OSError | None) -> None:
        if failure is not None:
            self._base_made(failure)
            return
        work = partial(_add_base, writer, self._source.copy_to, self._source.sizes()[0])
        failure = start_thread(partial(self._run, work, self._base_made), "archive-state")
        if failure is not None:
            self._base_made(failure)

    def _base_made(self, outcome: object) -> None:
        self._makes_base = False
        if isinstance(outcome, Exception):
            self._base_retry_at = self._monotonic() + self._base_pause
            self._base_pause = min(2 * self._base_pause, LONGEST_RETRY_SECONDS)
            self._no_base = self._in_words(outcome)
            return
        self._no_base = ""
        self._base_pause = RETRY_SECONDS
        self._is_state_old = False
        self._base_at = outcome.applied  # type: ignore[attr-defined]  # a `Base`
        self._log.info("state_archived", index=self._base_at)

    # --- old files

    def _remove(self, retention: Retention) -> None:
        self._removes = True
        self._beside_since = self._monotonic()
        until = self._until() if self.keep_seconds and self.wall else 0
        since = max(0, until - round(self.keep_seconds * 1e9))
        work = partial(retention.run, since, until)
        failure = start_thread(partial(self._run, work, self._removed), "archive-retention")
        if failure is not None:
            self._removed(failure)

    def _until(self) -> int:
        """The time that ages are told by."""
        # An idle member keeps what leads to its last entries; so does one whose clock is ahead.
        wall, now = min(self._wall(), self.wall), self._monotonic()
        if self._pace is None:
            self._pace = Pace(wall, now)
        until = self._pace.read(wall, now, self.keep_seconds)
        seconds = self._pace.ahead_seconds(wall, now)
        is_ahead = seconds > max(RETENTION_SECONDS, self.keep_seconds / 100)
        if is_ahead and not self._is_ahead:
            self._log.warning(
                "archive_clock_went_ahead",
                seconds=round(seconds),
                fix="none needed if the clock is right, or the member did not run: old files stay for up to"
                " as long as they are kept; else set the clock",
            )
        self._is_ahead = is_ahead
        return until

    def _removed(self, outcome: Outcome | Exception) -> None:
        self._removes = False
        pause = max(RETENTION_SECONDS, self.keep_seconds / 1000) if self.oldest else self._lag
        if isinstance(outcome, Exception):
            self._remove_at = self._monotonic() + pause
            self._not_removed = self._in_words(outcome)
            return
        self._not_removed = ""
        self._is_state_old = outcome.is_state_old
        self._remove_at = self._monotonic() + (0.0 if outcome.has_more else pause)
        if outcome.removed:
            self.removed += outcome.removed
            self._log.info("archive_files_removed", files=outcome.removed, oldest=self.oldest)

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return f"{error.filename or self.folder}: {error.strerror or error}"
        if isinstance(error, MemoryError):
            return "there is not enough memory"
        return str(error) if isinstance(error, NetstoreError) else repr(error)


def _add_base(writer: ArchiveWriter, copy: Callable[[int], Index], size: int) -> Base:
    """Archive a state of so many bytes. NetstoreError, with nothing written, if that would leave no room for
    entries. Blocks.
    """
    writer.check_place()  # the room of another file system says nothing
    free, needed = shutil.disk_usage(writer.listing.folder).free, size + SPARE_BYTES
    if free < needed:
        raise NetstoreError(
            f"{writer.listing.folder}: no room for a state, for which {(needed >> 20) + 1} MiB have to be"
            " free: free space, or name a folder on a larger disk"
        )
    return writer.add_base(copy)
