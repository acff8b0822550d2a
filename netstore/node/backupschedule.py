"""Scheduled backups: this member writes a full backup of its state to a folder every so often, verifies it,
removes old ones, and runs a command that takes it off the machine.

    FOLDER/netstore-CLUSTER-MEMBER-20260131T040506Z-INDEX.backup    verified, complete
    FOLDER/backup-CLUSTER-MEMBER-*.part                             being written (`backup`)

A file gets its name only when it was verified (`fullbackup`), by a rename, and is on stable storage then. Of
this member's files the newest by the time in their names are kept, and the last one that was made; a time in
the future, of a clock that was ahead, counts as the oldest. Those of other members and clusters are never
touched, so that they can share a folder. The folder is not made: one
that is missing is told, because it may be a disk that is not mounted.

Work on files is done in threads and processes; requests never wait for it. Why a backup fails is logged once
when it begins and once when it is over, and is in `BackupState.problem` until one succeeds. It is tried
again.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from netstore.errors import CorruptData, Fault, MustStop, NetstoreError
from netstore.node import fullbackup
from netstore.node.causes import without_figures
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.disk.closer import Closer
    from netstore.node.backup import Backups, FullCopy
    from netstore.node.fullbackup import Found
    from netstore.seams import Clock, Log
    from netstore.types import ClusterId, NodeId

FIRST_SECONDS: Final = 5.0
"""The first backup is not made earlier after the start, when members have other things to do."""

RETRY_SECONDS: Final = 60.0
"""After a failure the next attempt is made when this, or the period if that is shorter, is over."""

HOOK_OUTPUT_BYTES: Final = 4096
"""The last bytes of a command's output that are kept for the log."""

HOOK_READ_BYTES: Final = 65_536
HOOK_PAUSE_SECONDS: Final = 0.002
"""So much is read of its output at once, as much as a pipe holds, and between two reads the loop serves
others.
"""

LOOK_SECONDS: Final = 10.0
"""How often it should be looked whether a backup is late."""

_SECOND: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """What the configuration says of scheduled backups."""

    folder: Path
    every: float
    """Seconds from one to the next."""
    keep: int
    """How many files of this member are left in the folder."""
    hook: str | None
    """A command line that is run, without a shell, after each backup."""
    hook_seconds: float
    memory_bytes: int
    """What a backup may take in memory when it is verified; a larger one is read through."""


@dataclass(slots=True)
class BackupState:
    """What is known of scheduled backups: for status and metrics. Times are wall time in seconds; 0: none."""

    every: float
    succeeded: int = 0
    """Backups made since the start."""
    failed: int = 0
    """Attempts that failed since the start."""
    last_success: float = 0.0
    """When the last good one in the folder was made, also before this start."""
    last_file: str = ""
    last_bytes: int = 0
    last_revision: int = 0
    last_index: int = 0
    last_seconds: float = 0.0
    """How long making and verifying the last one took."""
    verified: str = ""
    """How the last one was verified (`fullbackup.RESTORED`)."""
    began: float = 0.0
    """When the one that is made now was begun; 0 while none is."""
    problem: str = ""
    """Why the last attempt failed; empty after a success."""
    hook_failed: int = 0
    """Runs of the command that failed since the start."""
    hook_problem: str = ""
    """Why its last run failed; empty if it did not."""

    @property
    def running(self) -> bool:
        """Whether one is made now."""
        return self.began > 0

    def late(self, now: float) -> str:
        """Which backup should be there by now and is not; empty if none, or if its failure was told."""
        if self.running and now - self.began > self.every + 60:
            return (
                f"the one that was begun {now - self.began:.0f} s ago is not done: look whether the disk of"
                " backup_folder answers"
            )
        if not self.problem and self.last_success and now - self.last_success > 2 * self.every + 60:
            return f"the last one is {now - self.last_success:.0f} s old"
        return ""

    def warnings(self, now: float) -> list[str]:
        """What somebody should look at, in words; empty if all is well."""
        return list(self.fixes(now))

    def fixes(self, now: float) -> dict[str, str]:
        """The same, each with what to do about it."""
        found = {}
        if late := self.late(now):
            found[f"backup: {late}"] = "look whether the disk of backup_folder answers"
        if self.problem:
            found[f"backup: {self.problem}"] = (
                f"mend what it names: the next one is made within {min(RETRY_SECONDS, self.every):.0f} s"
            )
        if self.hook_problem:
            found[f"backup_hook: {self.hook_problem}"] = (
                "mend the command: the log of the member has what it wrote; the next backup runs it again"
            )
        return found


class BackupSchedule:
    """Makes the backups of one member."""

    def __init__(
        self,
        plan: BackupPlan,
        backups: Backups,
        identity: tuple[ClusterId, NodeId],
        clock: Clock,
        log: Log,
        *,
        closer: Closer,
    ) -> None:
        self._plan = plan
        self._backups = backups
        self._closer = closer
        self._clock = clock
        self._log = log
        self._stem = f"netstore-{identity[0]:x}-{identity[1]:x}"
        self._name = re.compile(re.escape(self._stem) + r"-([0-9]{8}T[0-9]{6}Z)-([0-9]{1,20})\.backup")
        self.state = BackupState(plan.every)
        self._is_late = False
        """The log tells that a backup is late."""
        self._told = ""
        """Why backups fail, as the log tells it; empty if they do not."""
        self._hook_told = ""
        """Why the command fails, as the log tells it; empty if it does not."""

    def look(self) -> None:
        """Log that a backup is late, once, and once that it is not any more; to be called at times."""
        late = self.state.late(self._now())
        if late and not self._is_late:
            self._log.warning("backup_late", reason=late, folder=str(self._plan.folder))
        elif self._is_late and not late:
            self._log.info("backup_not_late", folder=str(self._plan.folder))
        self._is_late = bool(late)

    def _tell_failure(self) -> None:
        """Log why backups fail, once when it begins, and once when it is over."""
        problem, folder = self.state.problem, str(self._plan.folder)
        if without_figures(problem) == without_figures(self._told):
            return
        if self._told:
            self._log.info("backup_problem_over", problem="backup_failed", reason=self._told, folder=folder)
        if problem:
            self._log.error("backup_failed", reason=problem, folder=folder)
        self._told = problem

    async def run(self) -> None:
        """Make backups until cancelled."""
        wait = max(FIRST_SECONDS, await self._first_wait())
        while True:
            await trio.sleep(wait)
            wait = self._plan.every if await self.make() else min(RETRY_SECONDS, self._plan.every)

    async def make(self) -> bool:
        """Make one backup now; whether that succeeded."""
        state = self.state
        state.began = self._now()
        begun = self._clock.monotonic()
        try:
            path, found = await self._make()
        except MustStop:
            raise
        except (NetstoreError, OSError, MemoryError) as error:
            state.failed += 1
            state.problem = _in_words(error)
            self._tell_failure()
            return False
        finally:
            state.began = 0.0
        state.succeeded += 1
        state.problem = ""
        self._tell_failure()
        state.last_success = self._now()
        state.last_seconds = self._clock.monotonic() - begun
        self._remember(path.name, found.size, found.header.index)
        state.last_revision, state.verified = found.header.revision, found.how
        self._log.info(
            "backup_done",
            file=str(path),
            bytes=found.size,
            revision=found.header.revision,
            verified=found.how,
            seconds=round(state.last_seconds, 1),
        )
        if self._plan.hook is not None:
            await self._run_hook(self._plan.hook, path, found)
        return True

    async def _make(self) -> tuple[Path, Found]:
        folder = self._plan.folder
        await trio.to_thread.run_sync(check_folder, folder)
        made = await self._full(folder)
        try:
            found = await self._verified(made)
            stamp = re.sub("[-:]", "", found.header.made)  # the same instant in both
            path = folder / f"{self._stem}-{stamp}-{found.header.index}.backup"
            await trio.to_thread.run_sync(_publish, made.path, path)
        except BaseException:
            self._closer.remove(made.path)
            raise
        try:
            await trio.to_thread.run_sync(self._remove_old, path)
        except OSError as error:  # the new one is good; the next time they are removed again
            self._log.warning("backups_not_removed", reason=_in_words(error))
        return path, found

    async def _full(self, folder: Path) -> FullCopy:
        outcome: list[FullCopy | Fault] = []
        over = trio.Event()

        def done(made: FullCopy | Fault) -> None:
            outcome.append(made)
            over.set()

        self._backups.make_full(done, folder)
        await over.wait()
        made = outcome[0]
        if isinstance(made, Fault):
            raise NetstoreError(made.cause.decode("utf-8", "replace"))
        return made

    async def _verified(self, made: FullCopy) -> Found:
        line, environment = fullbackup.command("verify", made.path, str(self._plan.memory_bytes))
        done = await trio.run_process(
            line, env=environment, stdin=b"", capture_stdout=True, capture_stderr=True, check=False
        )
        found = fullbackup.outcome(done.returncode, done.stdout, done.stderr)
        if found.digest != made.found.digest:
            raise NetstoreError(f"{made.path}: is not the file that was written: something replaced it")
        return found

    async def _first_wait(self) -> float:
        """Seconds until the first backup is due, by the newest one in the folder."""
        try:
            files = await trio.to_thread.run_sync(self._files)
        except OSError:
            return 0.0
        if not files:
            return 0.0
        _, index, path = files[-1]
        with suppress(OSError):
            status = path.stat()
            self.state.last_success = status.st_mtime
            self._remember(path.name, status.st_size, index)
            return min(max(0.0, self._plan.every - (self._now() - status.st_mtime)), self._plan.every)
        return 0.0

    def _remember(self, name: str, size: int, index: int) -> None:
        self.state.last_file, self.state.last_bytes, self.state.last_index = name, size, index

    def _files(self) -> list[tuple[str, int, Path]]:
        """This member's backups with their times and log indexes, oldest first. The time decides: the index
        starts again when a member begins anew, or goes back when an older data folder was put in its place.
        Those with a time in the future come first: of a clock that was ahead, they would stay for ever.
        """
        found = []
        now = _stamp(self._clock.wall())
        for path in self._plan.folder.iterdir():
            match = self._name.fullmatch(path.name)
            if match:
                found.append((match[1], int(match[2]), path))
        return sorted(found, key=lambda each: (each[0] <= now, each))

    def _remove_old(self, made: Path) -> None:
        """Remove all but the newest. `made`, the last one, stays also if the clock was set back."""
        others = [path for _, _, path in self._files() if path != made]
        for path in others[: max(0, len(others) - (self._plan.keep - 1))]:
            path.unlink(missing_ok=True)

    # --- the command

    async def _run_hook(self, hook: str, path: Path, found: Found) -> None:
        """Run the command with the file in its environment; killed, with its process group, when its time is
        over.
        """
        header, state = found.header, self.state
        environment = os.environ | {
            "NETSTORE_BACKUP_FILE": str(path),
            "NETSTORE_BACKUP_SHA256": found.digest,
            "NETSTORE_BACKUP_BYTES": str(found.size),
            "NETSTORE_BACKUP_REVISION": str(header.revision),
            "NETSTORE_BACKUP_INDEX": str(header.index),
            "NETSTORE_BACKUP_CLUSTER": header.cluster,
            "NETSTORE_BACKUP_MEMBER": header.member,
        }
        output = _Tail()
        status: int | None = None
        try:
            with trio.move_on_after(self._plan.hook_seconds):
                status = await _run(shlex.split(hook), environment, output)
        except OSError as error:
            state.hook_problem = f"{shlex.split(hook)[0]}: {error.strerror or error}"
        else:
            state.hook_problem = ""
            if status is None:
                state.hook_problem = f"not done after {self._plan.hook_seconds:g} s, and ended"
            elif status:
                state.hook_problem = f"ended with status {status}"
        if state.hook_problem:
            state.hook_failed += 1
        else:
            self._log.info("backup_hook_done", file=str(path))
        self._tell_hook(output.text)

    def _tell_hook(self, output: str) -> None:
        """Log why the command fails, once when it begins, and once when it is over."""
        problem = self.state.hook_problem
        if problem == self._hook_told:  # a status says what is wrong, and nothing in it grows
            return
        if self._hook_told:
            self._log.info("backup_problem_over", problem="backup_hook_failed", reason=self._hook_told)
        if problem:
            self._log.error("backup_hook_failed", reason=problem, output=output)
        self._hook_told = problem

    def _now(self) -> float:
        return self._clock.wall() / _SECOND


class _Tail:
    """The end of a program's output."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        self._data = (self._data + data)[-HOOK_OUTPUT_BYTES:]

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace").strip()


async def _run(words: list[str], environment: dict[str, str], output: _Tail) -> int:
    """Run a program in a process group of its own; its status. If this is cancelled, all of the group is
    killed.
    """
    process = await trio.lowlevel.open_process(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for; for the type checker
    stream = process.stdout
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_all, stream, output.add)
            status = await process.wait()
            # What it left behind may hold the pipe open for ever.
            nursery.cancel_scope.deadline = trio.current_time() + 1.0
        return status
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            await stream.aclose()


async def _read_all(stream: trio.abc.ReceiveStream, take: Callable[[bytes], None]) -> None:
    while data := await stream.receive_some(HOOK_READ_BYTES):
        take(bytes(data))
        await trio.sleep(HOOK_PAUSE_SECONDS)


def check_folder(folder: Path) -> None:
    """NetstoreError if backups cannot be put there."""
    if not folder.is_dir():
        raise NetstoreError(f"backup_folder: {folder} is no folder: make it, or mount the disk that has it")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise NetstoreError(
            f"backup_folder: {folder} is read-only here: mount its disk for writing; under systemd name it in"
            " ReadWritePaths= of the unit"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise NetstoreError(f"backup_folder: {folder} cannot be written to: give it to the user of netstored")


def _publish(part: Path, path: Path) -> None:
    """Give a backup, which is synced, its name, on stable storage."""
    part.rename(path)
    sync_folder(path.parent)


def _stamp(wall: int) -> str:
    return f"{datetime.fromtimestamp(wall // _SECOND, UTC):%Y%m%dT%H%M%SZ}"


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'the folder'}: {error.strerror or error}"
    if isinstance(error, CorruptData):
        return f"what was written is damaged: {error}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return str(error)
