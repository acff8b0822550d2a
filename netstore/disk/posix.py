"""The real Device: one folder, one writer thread, one sync for all writes that wait.

The writer takes everything that waits, joins writes that follow one another, syncs once and hands all
completions to the loop in one call; what arrives meanwhile is the next group, so the busier the device, the
larger the groups. No timer. A lone write is synced by the loop, while syncs are fast (`release`).

Files are taken from a spare that was filled with zeros and synced ahead of use, by a thread of its own:
writing into blocks that exist and were written needs no journal commit at the sync (figures: DESIGN.md), and
a new file costs a rename.

The first failed sync ends the device: the kernel may have marked the lost pages clean, so trying again would
report success without the data (ATC'20, "Can Applications Recover from fsync Failures?").
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.disk.deliver import tell
from netstore.seams import NO_ROOM, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from netstore.disk.deliver import Deliver

    Done = Callable[[OSError | None], None]

FILE_BYTES: Final = 64 * 1024 * 1024
"""How much of a new file is prepared ahead."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Writes beyond this are refused with ENOBUFS; raft keeps far less under way unless the disk stalls."""

MAX_RUN: Final = 1024
"""Most writes joined before one sync: as many parts as one system call takes (IOV_MAX)."""

ROOM_BESIDE: Final = 16 * 1024 * 1024
"""Bytes that must be free beside the next file before it is tried again: the state needs room first."""

AT_ONCE_SECONDS: Final = 0.0005
"""A write that was held is done by the loop only while writing and syncing take less than this."""

AT_ONCE_BYTES: Final = 64 * 1024
"""The most that is written there."""

REST_FACTOR: Final = 100
"""After one that took longer, the loop does none for so many times as long: slow ones stop it for no more
than a hundredth of the time.
"""

_STEP: Final = 256 * 1024
"""How much of the spare is filled and synced at a time: little, so that no sync queues behind much."""

_PAUSE: Final = 0.002
"""Seconds between two steps while nobody waits for the spare: the disk belongs to the log."""

_NEVER: Final = float("inf")

_SPARE: Final = "spare"

NOTES: Final = "synced"
"""The file of notes: two, written in turn, so that one of them is whole."""

_NOTE_BYTES: Final = 64


class _Write(NamedTuple):
    name: str
    offset: int
    data: bytes
    done: Done
    life: int
    """How many failures the caller had seen when it handed this over."""
    room: bool
    """False: there were MAX_WAITING_BYTES before it."""
    note: bytes


class _Remove(NamedTuple):
    name: str


class _Prepare:
    pass


class _Stop:
    pass


_Job = _Write | _Remove | _Prepare | _Stop


class _Inbox:
    """From the loop to the writer. Filling it while the writer works costs an append; waking it, one system
    call.

    The event descriptor wakes faster than a queue or a lock: the system call that wakes also lets go of the
    interpreter (figures: DESIGN.md).
    """

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._asleep = False

    def put(self, job: _Job, *, held: bool = False) -> None:
        """Hand over a job. With `held` a writer that is asleep is not woken for it: `wake` does that."""
        self._jobs.append(job)
        if not held:
            self.wake()

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._bell, 1)

    def take(self) -> _Job:
        while True:
            try:
                return self._jobs.popleft()
            except IndexError:  # there is none, or the loop has taken the last one back
                self._asleep = True
            if self._jobs:  # came before it could see us asleep; if it did see us, the next sleep is short
                self._asleep = False
                continue
            os.eventfd_read(self._bell)
            self._asleep = False

    def take_back(self) -> _Job | None:
        """The only job there is, for the loop to do, where the writer is asleep and so has nothing under way:
        it stays asleep until the next `wake`. None where it is awake, or there are more.
        """
        if not self._asleep or len(self._jobs) != 1:
            return None
        try:
            return self._jobs.popleft()
        except IndexError:  # the writer woke up just now, and has it
            return None

    def __len__(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        os.close(self._bell)


def read_notes(data: bytes) -> list[bytes]:
    """The notes in the bytes of the file `NOTES`."""
    slots = (data[at : at + _NOTE_BYTES] for at in range(0, len(data), _NOTE_BYTES))
    return [slot[1 : 1 + slot[0]] for slot in slots if slot]


class PosixDevice:
    """A folder on a local file system. See `seams.Device` for the contract.

    `deliver` is how the writer thread hands a call to the loop (`Reactor.call_soon`); it is called
    once per sync. The name `spare` belongs to the device. Files are made with mode 0600.
    """

    def __init__(self, folder: Path, deliver: Deliver, file_bytes: int = FILE_BYTES) -> None:
        """Opens the folder, which must exist, and starts the writer. OSError when it cannot be opened."""
        self._deliver = deliver
        self._file_bytes = file_bytes
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._closed = False
        # The loop's side: bytes and writes handed over and not yet answered; how many failures were answered.
        self._waiting_bytes = self._unanswered = 0
        self._life = 0
        # The side that writes, the writer or in `release` the loop: the file being written; why the writes of
        # one life fail; why everything fails.
        self._name = ""
        self._file = -1
        self._refused_life = -1
        self._refused = OSError()
        self._dead: SyncFailed | None = None
        self._at_once_from = _NEVER
        """From when on the loop may write, in monotonic seconds; never before the first write was timed."""
        self._spare = _Spare(self._folder, file_bytes)
        self._notes = -1
        self._noted = 0
        self._inbox = _Inbox()
        self._writer = threading.Thread(target=self._run, name="disk-writer", daemon=True)
        self._writer.start()

    def names(self) -> list[str]:
        found = os.listdir(self._folder)  # noqa: PTH208 - the folder is a descriptor
        return sorted(name for name in found if name not in (_SPARE, NOTES))

    def notes(self) -> list[bytes]:
        try:
            file = os.open(NOTES, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return []
        try:
            data = os.pread(file, 2 * _NOTE_BYTES, 0)
        finally:
            os.close(file)
        return read_notes(data)

    def read(self, name: str) -> bytes:
        # What an earlier process wrote may be in the page cache only or, after a failed sync, marked clean
        # without being on the disk. So: sync, forget the cached pages, read what is really there.
        file = os.open(name, os.O_RDWR, dir_fd=self._folder)
        try:
            os.fdatasync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            with open(file, "rb", buffering=0, closefd=False) as stream:
                return stream.read()
        finally:
            os.close(file)

    def write(
        self, name: str, offset: int, data: bytes, done: Done, note: bytes = b"", *, held: bool = False
    ) -> None:
        if self._closed:
            raise RuntimeError("write after close")
        room = self._waiting_bytes < MAX_WAITING_BYTES
        if not room:
            data = b""
        waiting = self._waiting_bytes + len(data)
        self._inbox.put(_Write(name, offset, data, done, self._life, room, note), held=held)
        self._waiting_bytes = waiting
        self._unanswered += 1

    def release(self) -> None:
        # Answers come in the order of the writes: none may be on its way.
        if self._unanswered == 1 and monotonic() >= self._at_once_from:
            job = self._inbox.take_back()
            if isinstance(job, _Write) and job.name == self._name and len(job.data) <= AT_ONCE_BYTES:
                self._answer([job], self._put([job]))
                return
            if job is not None:
                self._inbox.put(job)
                return
        self._inbox.wake()

    def truncate(self, name: str, size: int) -> None:
        file = os.open(name, os.O_RDWR, dir_fd=self._folder)
        try:
            os.ftruncate(file, size)
            os.fsync(file)
            try:
                for _ in _filling(file, size, self._file_bytes):
                    pass
                os.fdatasync(file)
            except OSError:
                # No room to prepare it: the file grows as it is written, which is only slower.
                os.ftruncate(file, size)
        finally:
            os.close(file)

    def remove(self, name: str) -> None:
        if self._closed:
            raise RuntimeError("remove after close")
        self._inbox.put(_Remove(name))

    @property
    def low(self) -> OSError | None:
        """Why there will be no file to go on in when the one being written is full, half of which is left
        when this is found out; None while there will be.
        """
        failure = self._spare.failure
        return failure if failure is not None and failure.errno in NO_ROOM else None

    def try_room(self) -> None:
        """Try again to make the next file ready, if that failed and there is room for it now. One system
        call.
        """
        if self._spare.failure is None or self._closed:
            return
        room = os.fstatvfs(self._folder)
        if room.f_bavail * room.f_frsize >= self._file_bytes + ROOM_BESIDE:
            self._inbox.put(_Prepare())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.put(_Stop())
        self._writer.join()
        self._spare.discard()
        self._inbox.close()
        if self._file >= 0:
            os.close(self._file)
        if self._notes >= 0:
            os.close(self._notes)
        os.close(self._folder)

    # From here to `_answer`: the writer thread; `_put` and what it calls also the loop, while that is asleep.

    def _run(self) -> None:
        inbox = self._inbox
        held: _Job | None = None
        while True:
            job = held or inbox.take()
            held = None
            if isinstance(job, _Stop):
                return
            if isinstance(job, _Remove):
                self._unlink(job.name)
                continue
            if isinstance(job, _Prepare):
                self._spare.prepare_again()
                continue
            run = [job]
            while held is None and len(run) < MAX_RUN and inbox:
                held = inbox.take()
                if isinstance(held, _Write) and _follows(run[-1], held):
                    run.append(held)
                    held = None
            tell(self._deliver, self._answer, run, self._put(run))

    def _put(self, run: list[_Write]) -> OSError | None:
        """Write and sync one run; None, or why it failed."""
        first = run[0]
        if self._dead is not None:
            return self._dead
        if first.life <= self._refused_life:
            return self._refused
        if not first.room:
            return self._refuse(first, OSError(errno.ENOBUFS, f"{MAX_WAITING_BYTES} bytes wait for the disk"))
        try:
            if first.name != self._name:
                self._switch(first.name)
        except SyncFailed as error:
            return self._die(error)
        except OSError as error:
            return self._refuse(first, error)
        except MemoryError:
            return self._refuse(first, _no_memory())
        began = monotonic()
        try:
            end = _write_all(self._file, [write.data for write in run], first.offset)
        except (OSError, MemoryError) as error:
            return self._take_back(first, error if isinstance(error, OSError) else _no_memory())
        try:
            os.fdatasync(self._file)
        except OSError as error:
            return self._die(error)
        note = run[-1].note
        if note:
            self._keep(note)
        now = monotonic()
        if now - began >= AT_ONCE_SECONDS:
            self._at_once_from = now + REST_FACTOR * (now - began)
        elif self._at_once_from == _NEVER:
            self._at_once_from = now
        if end > self._file_bytes // 2:
            self._spare.prepare()
        return None

    def _take_back(self, first: _Write, error: OSError) -> OSError:
        """Cut off what a failed write left, and sync the cut: another write may be safe elsewhere before this
        file is synced again, and a power failure then must not bring back what never was.
        """
        try:
            os.ftruncate(self._file, first.offset)
            os.fsync(self._file)
        except OSError as worse:
            return self._die(worse)
        return self._refuse(first, error)

    def _keep(self, note: bytes) -> None:
        """Write a note over the older of the two. What hinders it hinders nothing else: a log without a newer
        note is judged by the older one. 2 us.
        """
        try:
            if self._notes < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._notes = os.open(NOTES, flags, 0o600, dir_fd=self._folder)
            slot = bytes((len(note),)) + note
            os.pwrite(self._notes, slot.ljust(_NOTE_BYTES, b"\0"), self._noted % 2 * _NOTE_BYTES)
        except (OSError, MemoryError):
            return
        self._noted += 1

    def _switch(self, name: str) -> None:
        """Make `name` the file being written. All earlier writes are synced."""
        if self._file >= 0:
            os.close(self._file)
            self._name, self._file = "", -1
        try:
            file = os.open(name, os.O_WRONLY, dir_fd=self._folder)
        except FileNotFoundError:
            file = self._spare.take(name)
        self._name, self._file = name, file

    def _refuse(self, write: _Write, error: OSError) -> OSError:
        """Fail this write and all that were handed over before the caller knew."""
        self._refused, self._refused_life = error, write.life
        return error

    def _die(self, error: OSError) -> SyncFailed:
        self._dead = SyncFailed(
            error.errno, f"{self._name}: sync failed ({error.strerror}); restart the member"
        )
        return self._dead

    def _unlink(self, name: str) -> None:
        if self._dead is not None:
            return
        try:
            os.unlink(name, dir_fd=self._folder)
            os.fsync(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._die(error)

    def _answer(self, run: list[_Write], error: OSError | None) -> None:
        """On the loop: complete one run."""
        if error is not None:
            self._life = max(self._life, run[0].life + 1)
        for write in run:
            self._unanswered -= 1
            self._waiting_bytes -= len(write.data)
            write.done(error)


class _Spare:
    """The next file, filled ahead of use so that the writer only renames it."""

    def __init__(self, folder: int, size: int) -> None:
        self._folder = folder
        self._size = size
        self._filler: threading.Thread | None = None
        self._stop = False
        self._wanted = threading.Event()
        self.failure: OSError | None = None
        """Why it could not be filled; None until that is known, and once it was."""

    def prepare(self) -> threading.Thread | None:
        """Begin to fill it in the background, unless that was begun before; None where no thread can be had
        now.
        """
        if self._filler is None:
            self._wanted.clear()
            filler = threading.Thread(target=self._fill, name="disk-filler", daemon=True)
            try:
                filler.start()
            except (RuntimeError, MemoryError):
                return None
            self._filler = filler
        return self._filler

    def prepare_again(self) -> None:
        """Begin anew if it failed, whoever was told; nothing while another attempt is under way. Never waits:
        the log's writes are behind it.
        """
        if self.failure is not None and (self._filler is None or not self._filler.is_alive()):
            self._filler = None
            self.prepare()

    def take(self, name: str) -> int:
        """Make it the file `name` and return its descriptor; waits while it is filled.

        OSError when there is no room for it, and another attempt may succeed; SyncFailed when its name may be
        lost.
        """
        self.prepare_again()
        filler = self.prepare()
        self._wanted.set()
        if filler is None:
            self._fill()
        else:
            filler.join()
        self._filler = None
        if self.failure is not None:
            raise self.failure
        os.rename(_SPARE, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        try:
            os.fsync(self._folder)
        except OSError as error:
            raise SyncFailed(error.errno, error.strerror) from error
        return os.open(name, os.O_WRONLY, dir_fd=self._folder)

    def discard(self) -> None:
        """Stop filling."""
        self._stop = True
        self._wanted.set()
        if self._filler is not None:
            self._filler.join()

    def _fill(self) -> None:
        try:
            file = os.open(_SPARE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._folder)
            try:
                for _ in _filling(file, 0, self._size):
                    if self._stop:
                        return
                    if not self._wanted.is_set():
                        os.fdatasync(file)
                        self._wanted.wait(_PAUSE)
                os.fdatasync(file)
                self.failure = None
            finally:
                os.close(file)
        except (OSError, MemoryError) as error:
            self.failure = error if isinstance(error, OSError) else _no_memory()
            self._give_back()

    def _give_back(self) -> None:
        """Free the room that half a file took: the state needs it more."""
        try:
            os.unlink(_SPARE, dir_fd=self._folder)
        except OSError:
            return  # it was never made, or the disk is past helping; `failure` is what counts


def _no_memory() -> OSError:
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _follows(before: _Write, after: _Write) -> bool:
    return (
        after.name == before.name
        and after.offset == before.offset + len(before.data)
        and after.life == before.life
        and after.room
    )


def _write_all(file: int, parts: list[bytes], offset: int) -> int:
    """Write the parts one after another at `offset`; the offset after them."""
    end = offset + sum(map(len, parts))
    if len(parts) == 1:
        offset += os.pwrite(file, parts[0], offset)
    else:
        offset += os.pwritev(file, parts, offset)
    if offset < end:
        rest = memoryview(b"".join(parts))
        while offset < end:
            offset += os.pwrite(file, rest[offset - end :], offset)
    return end


def _filling(file: int, start: int, end: int) -> Iterator[None]:
    """Write zeros from `start` to `end`, one step at a time."""
    zeros = bytes(_STEP)
    while start < end:
        start += os.pwrite(file, zeros[: end - start], start)
        yield
