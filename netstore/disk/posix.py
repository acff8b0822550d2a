"""The real `seams.Device`: one folder, one writer thread, one sync for all writes that wait.

The writer takes everything that waits (`inbox`), joins consecutive writes, syncs once, and reports all
results to the loop in one call. What arrives meanwhile is the next group, so the groups grow with the load;
there is no timer. A lone write is synced by the loop itself while syncs are fast (`release`). A new file is
prepared ahead of its use (`spare`).

The first failed sync ends the device: the kernel may have marked the lost pages clean, so a retry would
report success without the data (ATC'20, "Can Applications Recover from fsync Failures?").
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

from netstore.disk.inbox import Inbox, PrepareSpare, Remove, Stop, Write
from netstore.disk.notes import NOTES, Notes
from netstore.disk.spare import SPARE, Spare, no_memory, write_zeros
from netstore.disk.threads import report
from netstore.histogram import Histogram, doubling
from netstore.inputfile import check_regular
from netstore.runqueue import RunQueue
from netstore.seams import NO_ROOM, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.disk.inbox import Job
    from netstore.disk.threads import CallSoon

    Done = Callable[[OSError | None], None]

FILE_BYTES: Final = 64 * 1024 * 1024
"""How much of a new file is prepared ahead."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Writes beyond this are refused with ENOBUFS; Raft has far less under way unless the disk stalls."""

MAX_GROUP: Final = 1024
"""Most writes joined before one sync: as many buffers as one system call takes (IOV_MAX)."""

FREE_BYTES_BESIDE: Final = 16 * 1024 * 1024
"""Bytes that must be free beside the next file before it is tried again: the state needs room first."""

LOOP_SYNC_SECONDS: Final = 0.0025
"""The loop does a held write itself only while the disk takes less than this on average for writing and
syncing: half of what a piece of work may take on the loop. What a thread waits for a processor meanwhile does
not count: it waits for one more often where the writer does it.
"""

WEIGHT: Final = 1 / 8
"""Of the last write in that average, which is exponential."""

LONG_SECONDS: Final = 0.005
"""A write for which the disk takes longer was longer than a piece of work may be on the loop."""

PAUSE_FACTOR: Final = 20
"""After a long write the loop makes none for so many times its duration, so that such writes take a twentieth
of its time at most, also on a disk that is fast on average.
"""

STALL_SECONDS: Final = 0.02
"""A write for which the disk takes longer has stalled: see BACKOFF_FACTOR. Many disks need some milliseconds
now and then.
"""

LOOP_SYNC_BYTES: Final = 64 * 1024
"""The largest write that the loop does itself."""

BACKOFF_FACTOR: Final = 100
"""After a write that stalled, none counts as quick for so many times its duration. So where only such writes
are made on the loop, stalls block it for at most a hundredth of the time.
"""

SYNC_BOUNDS: Final = doubling(0.001, 14)
"""Upper bounds of the seconds that a sync takes, as etcd has them."""

RECENT_SYNCS: Final = 256
"""Writes with their syncs whose times are kept."""


class PosixDevice:
    """A folder on a local file system. See `seams.Device` for the contract.

    `call_soon` makes a call on the loop (`Reactor.call_soon`); the writer thread uses it once per sync. The
    names `SPARE` and `NOTES` belong to the device. Files are made with mode 0600.
    """

    def __init__(self, folder: Path, call_soon: CallSoon, file_bytes: int = FILE_BYTES) -> None:
        """Opens the folder, which must exist, and starts the writer. OSError when it cannot be opened."""
        self._call_soon = call_soon
        self._file_bytes = file_bytes
        self._path = folder
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._closed = False
        # Of the loop: bytes and number of writes that are not answered, and how many failures were reported.
        self._waiting_bytes = self._unanswered = 0
        self._epoch = 0
        # Of the thread that writes: the writer, or the loop in `release`.
        self._name = ""
        """The file being written."""
        self._file = -1
        self._loop_queue: RunQueue | None = None
        """Of the loop's thread; None before it has made a write."""
        self._refused_epoch = -1
        """Writes that were made before this failure was reported fail with `_refused`."""
        self._refused = OSError()
        self._dead: SyncFailed | None = None
        """Why everything fails."""
        self._usual_seconds = LOOP_SYNC_SECONDS
        """What the disk takes for a write on average; the loop makes none before the first one was timed."""
        self._loop_from = 0.0
        """From when on the loop makes writes again after a long one, in monotonic seconds."""
        self._quick_from = 0.0
        """From when on writes count as quick again after one that stalled, in monotonic seconds."""
        self.quick_syncs = 0
        self.syncs = Histogram(SYNC_BOUNDS)
        """Seconds of each fdatasync(2)."""
        self.writes = Histogram(SYNC_BOUNDS)
        """Seconds that it took to give the kernel what each of them syncs."""
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT_SYNCS)
        """When the last writes began, and when they were synced, in monotonic seconds."""
        self.written = 0
        """Bytes written so far."""
        self._spare = Spare(self._folder, file_bytes)
        self._notes = Notes(self._folder, folder)
        self._inbox = Inbox()
        self._writer = threading.Thread(target=self._run, name="disk-writer", daemon=True)
        self._writer.start()

    def names(self) -> list[str]:
        found = os.listdir(self._folder)  # noqa: PTH208 - the folder is a descriptor
        return sorted(name for name in found if name not in (SPARE, NOTES))

    def notes(self) -> list[bytes]:
        return self._notes.read()

    def read(self, name: str) -> bytes:
        # What an earlier process wrote may be in the page cache only or, after a failed sync, marked clean
        # without being on the disk. So: sync, drop the cached pages, read what the disk has.
        file = os.open(name, os.O_RDWR | os.O_NONBLOCK, dir_fd=self._folder)
        try:
            check_regular(self._path / name, os.fstat(file))
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
        accepted = self._waiting_bytes < MAX_WAITING_BYTES
        if not accepted:
            data = b""
        waiting = self._waiting_bytes + len(data)
        self._inbox.put(Write(name, offset, data, done, self._epoch, accepted, note), held=held)
        self._waiting_bytes = waiting
        self._unanswered += 1

    def release(self) -> None:
        # Answers come in the order of the writes, so none may be under way.
        if (
            self._unanswered == 1
            and self._usual_seconds < LOOP_SYNC_SECONDS
            and (not self._loop_from or monotonic() >= self._loop_from)
        ):
            job = self._inbox.take_back()
            if isinstance(job, Write) and job.name == self._name and len(job.data) <= LOOP_SYNC_BYTES:
                if self._loop_queue is None:  # here, because the device may be made in another thread
                    self._loop_queue = RunQueue()
                self._answer([job], self._put([job], self._loop_queue))
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
                for _ in write_zeros(file, size, self._file_bytes):
                    pass
                os.fdatasync(file)
            except OSError:
                # No room to prepare it again: the file grows as it is written, which is only slower.
                os.ftruncate(file, size)
        finally:
            os.close(file)

    def remove(self, name: str) -> None:
        if self._closed:
            raise RuntimeError("remove after close")
        self._inbox.put(Remove(name))

    @property
    def low(self) -> OSError | None:
        """Why there will be no next file when the one being written is full; None if there will be. Known
        when half of that file is used.
        """
        failure = self._spare.failure
        return failure if failure is not None and failure.errno in NO_ROOM else None

    def retry(self) -> None:
        """Prepare the next file again, if that failed and there is room for it now. One system call."""
        if self._spare.failure is None or self._closed:
            return
        room = os.fstatvfs(self._folder)
        if room.f_bavail * room.f_frsize >= self._file_bytes + FREE_BYTES_BESIDE:
            self._inbox.put(PrepareSpare())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.put(Stop())
        self._writer.join()
        self._spare.discard()
        self._inbox.close()
        if self._loop_queue is not None:
            self._loop_queue.close()
        if self._file >= 0:
            os.close(self._file)
        self._notes.close()
        os.close(self._folder)

    # From here to `_answer`: the writer thread; `_put` and what it calls also the loop, while the writer
    # sleeps.

    def _run(self) -> None:
        inbox, queue = self._inbox, RunQueue()
        following: Job | None = None
        while True:
            job = following or inbox.take()
            following = None
            if isinstance(job, Stop):
                queue.close()
                return
            if isinstance(job, Remove):
                self._unlink(job.name)
                continue
            if isinstance(job, PrepareSpare):
                self._spare.prepare_again()
                continue
            group = [job]
            while following is None and len(group) < MAX_GROUP and inbox:
                following = inbox.take()
                if isinstance(following, Write) and _continues(group[-1], following):
                    group.append(following)
                    following = None
            report(self._call_soon, self._answer, group, self._put(group, queue))

    def _put(self, group: list[Write], queue: RunQueue) -> OSError | None:
        """Write and sync one group; None, or why it failed. `queue` is that of the calling thread."""
        first = group[0]
        if self._dead is not None:
            return self._dead
        if first.epoch <= self._refused_epoch:
            return self._refused
        if not first.accepted:
            return self._refuse(first, OSError(errno.ENOBUFS, f"{MAX_WAITING_BYTES} bytes wait for the disk"))
        try:
            if first.name != self._name:
                self._switch(first.name)
        except SyncFailed as error:
            return self._die(error)
        except OSError as error:
            return self._refuse(first, error)
        except MemoryError:
            return self._refuse(first, no_memory())
        began, waited = monotonic(), queue.waited()
        try:
            end = _write_all(self._file, [write.data for write in group], first.offset)
        except (OSError, MemoryError) as error:
            return self._undo(first, error if isinstance(error, OSError) else no_memory())
        written = monotonic()
        try:
            os.fdatasync(self._file)
        except OSError as error:
            return self._die(error)
        synced = monotonic()
        self.writes.observe(written - began)
        self.syncs.observe(synced - written)
        self.recent.append((began, synced))
        self.written += end - first.offset
        note = group[-1].note
        if note:
            self._notes.write(note)
        # Read within the time that is taken, so that no wait is left out that is not in it.
        waited = queue.waited() - waited
        now = monotonic()
        took = now - began - max(0.0, waited)  # it ends at 0.0 if the kernel's count cannot be read any more
        self._usual_seconds += (took - self._usual_seconds) * WEIGHT
        if took > LONG_SECONDS:
            self._loop_from = max(self._loop_from, now + PAUSE_FACTOR * took)  # a shorter one ends no pause
        if took >= STALL_SECONDS:
            self._quick_from = max(self._quick_from, now + BACKOFF_FACTOR * took)
            self.quick_syncs = 0
        elif now >= self._quick_from:
            self.quick_syncs += 1
        if end > self._file_bytes // 2:
            self._spare.prepare()
        return None

    def _undo(self, first: Write, error: OSError) -> OSError:
        """Cut off what a failed write left, and sync that: writes to other files may become durable before
        this file is synced again, and after a power failure the failed write must not be there.
        """
        try:
            os.ftruncate(self._file, first.offset)
            os.fsync(self._file)
        except OSError as worse:
            return self._die(worse)
        return self._refuse(first, error)

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

    def _refuse(self, write: Write, error: OSError) -> OSError:
        """Fail this write and all others that are made before the caller is told."""
        self._refused, self._refused_epoch = error, write.epoch
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

    def _answer(self, group: list[Write], error: OSError | None) -> None:
        """On the loop: complete the writes of one group."""
        if error is not None:
            self._epoch = max(self._epoch, group[0].epoch + 1)
        for write in group:
            self._unanswered -= 1
            self._waiting_bytes -= len(write.data)
            write.done(error)


def _continues(before: Write, after: Write) -> bool:
    """Whether two writes can be one."""
    return (
        after.name == before.name
        and after.offset == before.offset + len(before.data)
        and after.epoch == before.epoch
        and after.accepted
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
