"""The real device: order, groups, and what it does when system calls fail."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from netstore.disk import posix
from netstore.disk.posix import PosixDevice
from netstore.runqueue import RunQueue
from netstore.seams import SyncFailed
from tests.disk.devices import BLOCK, Disk, Gate, at_rest, failing, found_fast
from tests.disk.fakeloop import TIMEOUT, FakeLoop
from tests.support.patience import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Slept:
    """The device's clock, by which a sync takes `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.waited = 0.0
        """For a processor, of all threads together."""
        self.threads: list[str] = []
        self._real_sync = os.fdatasync
        monkeypatch.setattr(RunQueue, "waited", lambda _: self.waited)
        monkeypatch.setattr(posix, "monotonic", lambda: self.now)
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, file: int) -> None:
        self._real_sync(file)
        if (name := threading.current_thread().name) != "disk-filler":
            self.threads.append(name)
            self.now += self.seconds


def lone(disk: Disk, data: bytes = b"lone", name: str = "a") -> None:
    """Make one write, held and released, while nothing else is under way."""
    at_rest(disk)
    disk.write(name, data, held=True)
    disk.device.release()


FAST, UNUSUAL, SLOW, STALLED = 0.0001, 0.004, 0.01, 0.03


def test_a_held_write_is_synced_and_answered_within_its_release(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    lone(disk)
    assert disk.answers == [(0, None), (1, None)]
    assert slept.threads == ["disk-writer", threading.current_thread().name]
    assert disk.content("a") == b"firstlone"
    disk.write("a", b"last")
    assert disk.settle() == [None] * 3
    assert disk.content("a") == b"firstlonelast"


def test_quick_syncs_are_counted_until_one_stalls_and_again_after_a_pause(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the loop and of the writer alike."""
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    lone(disk)
    slept.seconds = SLOW
    lone(disk)
    assert disk.device.quick_syncs == 3
    slept.seconds = STALLED
    lone(disk)
    assert set(disk.settle()) == {None}
    assert disk.device.quick_syncs == 0
    slept.seconds = FAST
    stalled_at = slept.now
    for later, quick in ((99 * STALLED, 0), (101 * STALLED, 1)):
        slept.now = stalled_at + later
        lone(disk)
        assert set(disk.settle()) == {None}
        assert disk.device.quick_syncs == quick


def test_one_slower_sync_among_fast_ones_leaves_the_next_to_the_loop(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    for seconds in (*[FAST] * 12, UNUSUAL, FAST):
        slept.seconds = seconds
        lone(disk)
    assert set(disk.settle()) == {None}
    assert slept.threads == ["disk-writer"] + [threading.current_thread().name] * 14


def test_a_disk_whose_syncs_are_slow_on_average_is_left_to_the_writer(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    slept.seconds = SLOW
    for _ in range(6):
        lone(disk)
    assert set(disk.settle()) == {None}
    here = threading.current_thread().name
    assert slept.threads == ["disk-writer", here] + ["disk-writer"] * 5


def test_what_the_loop_waits_for_a_processor_is_not_the_disks(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    monkeypatch.setattr(RunQueue, "waited", lambda _: slept.now)
    slept.seconds = STALLED
    for _ in range(6):
        lone(disk)
    assert set(disk.settle()) == {None}
    assert slept.threads == ["disk-writer"] + [threading.current_thread().name] * 6
    assert disk.device.quick_syncs == 7


@pytest.mark.parametrize("why", ["slow", "large", "another file", "others wait", "nothing is known yet"])
def test_a_held_write_is_left_to_the_writer(disk: Disk, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    slept = Slept(monkeypatch, SLOW if why == "slow" else FAST)
    if why != "nothing is known yet":
        disk.write("a", b"first")
    at_rest(disk)
    if why == "others wait":
        disk.write("a", b"other", held=True)
    disk.write(
        "b" if why == "another file" else "a",
        bytes(posix.LOOP_SYNC_BYTES + 1) if why == "large" else b"lone",
        held=True,
    )
    disk.device.release()
    assert set(disk.settle()) == {None}
    assert set(slept.threads) == {"disk-writer"}


@pytest.mark.parametrize("what", ["pwrite", "fdatasync"])
def test_after_a_write_that_stalled_the_writer_makes_some(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whichever system call stalled: for twenty times as long, and the average has to come down."""
    slept = Slept(monkeypatch, FAST)
    real, slow = os.pwrite, [0.0]

    def pwrite(*arguments: Any) -> int:
        slept.now += slow[0]
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    disk.write("a", b"first")
    lone(disk)
    if what == "pwrite":
        slow[0] = STALLED
    else:
        slept.seconds = STALLED
    lone(disk)
    slow[0], slept.seconds = 0.0, FAST
    for _ in range(20):
        lone(disk)
    assert set(disk.settle()) == {None}
    here = threading.current_thread().name
    assert slept.threads == ["disk-writer", here, here, *["disk-writer"] * 20]
    slept.now += posix.PAUSE_FACTOR * STALLED
    lone(disk)
    assert set(disk.settle()) == {None}
    assert slept.threads[-1] == here


def test_a_shorter_stall_does_not_end_the_pause_after_a_longer_one(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause of the loop, and that of the count of quick syncs."""
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    slept.seconds = long = 10 * STALLED
    lone(disk)
    ended = slept.now

    def later(at: float) -> str:
        """The thread that makes a write at that time."""
        at_rest(disk)
        slept.now = at
        lone(disk)
        at_rest(disk)
        return slept.threads[-1]

    slept.seconds = STALLED
    assert later(ended) == "disk-writer"
    slept.seconds = FAST
    for _ in range(40):  # by which the usual time of the disk is short again
        assert later(slept.now) == "disk-writer"
    assert later(ended + posix.PAUSE_FACTOR * long - FAST) == "disk-writer"
    assert later(ended + posix.PAUSE_FACTOR * long) == threading.current_thread().name
    later(ended + posix.BACKOFF_FACTOR * long - 2 * FAST)
    assert disk.device.quick_syncs == 0
    later(ended + posix.BACKOFF_FACTOR * long)
    assert disk.device.quick_syncs == 1
    assert set(disk.settle()) == {None}


def test_long_writes_take_a_small_part_of_the_loops_time_however_often_they_come(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a disk that is fast on average, and where none stalls."""
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    here, held = threading.current_thread().name, 0.0
    for number in range(2_000):
        slept.seconds = SLOW if number % 12 == 11 else FAST
        lone(disk)
        at_rest(disk)
        if slept.threads[-1] == here and slept.seconds > posix.LONG_SECONDS:
            held += slept.seconds
    assert set(disk.settle()) == {None}
    assert 0 < held <= slept.now / posix.PAUSE_FACTOR + SLOW


def test_a_wait_for_a_processor_beside_a_write_is_not_left_out_of_its_time(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the kernel's count is a system call, after which the thread may wait."""
    slept = Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    total = 0.0

    def waited(_: RunQueue) -> float:
        nonlocal total
        known = total
        total += STALLED
        slept.now += STALLED
        return known

    monkeypatch.setattr(RunQueue, "waited", waited)
    lone(disk)
    assert set(disk.settle()) == {None}
    assert disk.device._usual_seconds >= FAST * posix.WEIGHT


def test_answers_come_in_the_order_of_the_writes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer may sleep before the loop has made the call with its result."""
    Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    disk.write("a", b"second")
    until(lambda: disk.device._inbox._asleep and not disk.device._inbox, "the writer sleeps", TIMEOUT)
    disk.write("a", b"held", held=True)
    disk.device.release()
    assert disk.settle() == [None] * 3


def test_a_sync_that_fails_on_the_loop_ends_the_device(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"first")
    at_rest(disk)
    found_fast(disk)
    failing(monkeypatch, "fdatasync", errno.EIO, thread=threading.current_thread().name)
    lone(disk)
    assert isinstance(disk.answers[1][1], SyncFailed)
    disk.write("a", b"later")
    assert isinstance(disk.settle()[2], SyncFailed)


def test_a_held_write_on_a_full_disk_leaves_the_file_as_it_was(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"first")
    at_rest(disk)
    found_fast(disk)
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread=threading.current_thread().name)
    lone(disk)
    failure = disk.answers[1][1]
    assert failure is not None
    assert failure.errno == errno.ENOSPC
    assert disk.content("a") == b"first"
    lone(disk, b"again")
    assert disk.answers[2][1] is None


def test_written_data_is_there_when_the_write_is_reported(disk: Disk) -> None:
    for part in (b"one", b"two", b"three"):
        disk.write("a", part)
        disk.settle()
        assert disk.content("a").endswith(part)
    assert disk.content("a") == b"onetwothree"
    assert disk.device.read("a").rstrip(b"\0") == b"onetwothree"


def test_waiting_writes_are_joined_into_one_sync_and_one_call_on_the_loop(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"first")
    disk.settle()
    delivered = disk.loop.count
    gate = Gate(monkeypatch)
    disk.write("a", b"0")
    gate.wait()
    for number in range(1, 100):
        disk.write("a", b"%d" % (number % 10))
    gate.open()
    assert set(disk.settle()) == {None}
    assert gate.calls == ["pwrite", "fdatasync", "pwritev", "fdatasync"]
    assert disk.loop.count - delivered == 2
    assert disk.content("a") == b"first" + b"0123456789" * 10


def test_a_file_is_synced_before_the_next_one_is_written(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    disk.write("a", b"x")
    gate.wait()
    disk.write("a", b"y")
    disk.write("b", b"z")
    disk.write("a", b"late")
    assert disk.device.names() == ["a"]
    gate.open()
    assert set(disk.settle()) == {None}
    assert gate.calls == ["pwrite", "fdatasync"] * 4
    assert (disk.content("a"), disk.content("b")) == (b"xylate", b"z")


def test_a_failed_sync_ends_the_device(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"kept")
    disk.settle()
    failing(monkeypatch, "fdatasync", errno.EIO)
    disk.write("a", b"lost")
    assert isinstance(disk.settle()[1], SyncFailed)
    writes = failing(monkeypatch, "pwrite", errno.EIO, times=0)
    disk.write("a", b"never", offset=4)
    disk.write("b", b"never")
    disk.device.remove("a")
    answers = disk.settle()
    assert all(isinstance(error, SyncFailed) and error.errno == errno.EIO for error in answers[1:])
    assert "restart the member" in str(answers[2])
    assert writes == []
    assert disk.device.names() == ["a"]


@pytest.mark.parametrize("call", ["fsync", "unlink"])
def test_a_folder_that_cannot_be_synced_ends_the_device(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, call, errno.EIO)
    disk.device.remove("a")
    disk.write("a", b"y")
    assert isinstance(disk.settle()[1], SyncFailed)


def test_a_new_name_that_cannot_be_synced_ends_the_device(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "fsync", errno.EIO)
    disk.write("a", b"x")
    assert isinstance(disk.settle()[0], SyncFailed)


def test_a_full_disk_fails_all_queued_writes_and_the_offset_can_be_written_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"kept.")
    disk.settle()
    gate = Gate(monkeypatch)
    disk.write("a", b"also.")
    gate.wait()
    failing(monkeypatch, "pwritev", errno.ENOSPC)
    disk.write("a", b"lost")
    disk.write("a", b"lost")
    disk.write("b", b"behind it")
    gate.open()
    answers = disk.settle()
    assert answers[:2] == [None, None]
    assert [error.errno for error in answers[2:] if error] == [errno.ENOSPC] * 3
    assert disk.device.names() == ["a"]
    disk.write("a", b"again", offset=10)
    assert disk.settle()[-1] is None
    assert disk.content("a") == b"kept.also.again"


def test_a_failed_write_leaves_nothing_at_its_offset(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    calls = []

    def short_then_full(file: int, data: bytes, offset: int) -> int:
        if threading.current_thread().name != "disk-writer":
            return real(file, data, offset)
        calls.append(offset)
        if len(calls) == 1:
            return real(file, data[:3], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.write("a", b"kept")
    disk.settle()
    monkeypatch.setattr(os, "pwrite", short_then_full)
    disk.write("a", b"abcdef")
    assert disk.settle()[-1] is not None
    assert calls == [4, 7]
    assert disk.content("a") == b"kept"
    assert (disk.folder / "a").stat().st_size == 4


@pytest.mark.parametrize("name", ["a", "b"], ids=["the file being written", "a new file"])
def test_the_truncation_of_a_failed_write_is_synced_before_it_is_reported(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`synced` is the size of each file at its last sync."""
    synced: dict[str, int] = {}
    real_write, real_sync = os.pwrite, os.fsync

    def half_then_full(file: int, data: bytes, offset: int) -> int:
        if threading.current_thread().name != "disk-writer":
            return real_write(file, data, offset)
        if len(data) > 1:
            return real_write(file, data[: len(data) - 1], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    def sync(file: int) -> None:
        real_sync(file)
        synced[Path(f"/proc/self/fd/{file}").readlink().name] = os.fstat(file).st_size

    disk.write("a", b"kept")
    disk.settle()
    monkeypatch.setattr(os, "pwrite", half_then_full)
    monkeypatch.setattr(os, "fsync", sync)
    disk.write(name, b"abcdef")
    assert disk.settle()[-1] is not None
    assert synced[name] == {"a": 4, "b": 0}[name]


@pytest.mark.parametrize("call", ["ftruncate", "fsync"])
def test_a_failed_write_that_cannot_be_undone_ends_the_device(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC)
    failing(monkeypatch, call, errno.EIO)
    disk.write("a", b"y")
    assert isinstance(disk.settle()[-1], SyncFailed)


def test_a_short_write_is_completed(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"x")
    disk.settle()
    gate = Gate(monkeypatch)
    disk.write("a", b"-")
    gate.wait()
    real_write, real_vector = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real_write(file, data[:2], offset))
    monkeypatch.setattr(os, "pwritev", lambda file, parts, offset: real_vector(file, [parts[0][:1]], offset))
    disk.write("a", b"abc")
    disk.write("a", b"def")
    gate.open()
    assert set(disk.settle()) == {None}
    assert disk.content("a") == b"x-abcdef"


def test_writes_beyond_the_bound_are_refused_in_order(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "MAX_WAITING_BYTES", 10)
    gate = Gate(monkeypatch)
    disk.write("a", b"0123456789")
    gate.wait()
    disk.write("a", b"too much")
    disk.write("a", b"x")
    gate.open()
    first, second, third = disk.settle()
    assert first is None
    assert second is third
    assert second is not None
    assert second.errno == errno.ENOBUFS
    assert disk.device._waiting_bytes == 0
    disk.write("a", b"room", offset=10)
    assert disk.settle()[-1] is None
    assert disk.content("a") == b"0123456789room"


def test_truncated_files_are_zero_after_the_new_end(disk: Disk) -> None:
    disk.write("a", b"x" * 1000)
    disk.settle()
    disk.device.truncate("a", 100)
    assert disk.device.read("a") == b"x" * 100 + bytes(BLOCK - 100)


def test_a_full_disk_does_not_prevent_truncation(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"x" * 1000)
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="MainThread")
    disk.device.truncate("a", 100)
    assert disk.device.read("a") == b"x" * 100


def test_reading_bypasses_the_page_cache(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"x")
    disk.settle()
    order: list[str] = []
    for name in ("fdatasync", "posix_fadvise"):
        real = getattr(os, name)

        def call(*arguments: int, name: str = name, real: Callable[..., None] = real) -> None:
            order.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, call)
    disk.device.read("a")
    assert order == ["fdatasync", "posix_fadvise"]


def test_removal_comes_after_earlier_writes_and_may_be_repeated(disk: Disk) -> None:
    disk.write("a", b"x")
    disk.device.remove("a")
    disk.device.remove("a")
    disk.write("b", b"y")
    assert disk.settle() == [None, None]
    assert disk.device.names() == ["b"]


def test_closing_finishes_what_was_accepted_also_when_the_loop_has_ended(tmp_path: Path) -> None:
    def gone(_call: Callable[[], object]) -> None:
        raise RuntimeError("run finished")

    device = PosixDevice(tmp_path, gone, BLOCK)
    for number in range(20):
        device.write("a", number, b"x", lambda error: None)
    device.close()
    device.close()
    assert (tmp_path / "a").read_bytes().rstrip(b"\0") == b"x" * 20
    with pytest.raises(RuntimeError, match="after close"):
        device.write("a", 20, b"x", lambda error: None)
    with pytest.raises(RuntimeError, match="after close"):
        device.remove("a")


def test_a_missing_folder_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PosixDevice(tmp_path / "none", FakeLoop())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_a_really_full_disk_refuses_and_recovers_when_there_is_room(small_disk: Path) -> None:
    disk = Disk(small_disk, file_bytes=600 * 1024)
    disk.write("a", b"kept")
    disk.write("b", b"no room for a second file")
    answers = disk.settle()
    assert answers[0] is None
    assert answers[1] is not None
    assert answers[1].errno == errno.ENOSPC
    disk.write("a", b"x" * 2_000_000, offset=4)
    assert getattr(disk.settle()[-1], "errno", 0) == errno.ENOSPC
    assert disk.content("a") == b"kept"
    disk.write("a", b".", offset=4)
    assert disk.settle()[-1] is None
    assert disk.content("a") == b"kept."
    disk.device.remove("a")
    disk.write("b", b"room", offset=0)
    assert disk.settle()[-1] is None
    assert disk.content("b") == b"room"
    disk.device.close()


def test_no_memory_fails_a_write_that_may_be_tried_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"one")
    disk.settle()
    real = os.pwrite

    def short(*arguments: Any) -> int:
        if threading.current_thread().name == "disk-writer":
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", short)
    disk.write("a", b"two", 3)
    error = disk.settle()[-1]
    assert error is not None
    assert error.errno == errno.ENOMEM
    assert not isinstance(error, SyncFailed)
    monkeypatch.undo()
    disk.write("a", b"two", 3)
    assert disk.settle()[-1] is None
    assert disk.content("a") == b"onetwo"


def test_a_report_is_retried_when_there_was_no_memory_for_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = disk.device._call_soon, 0

    def short(call: Callable[[], object]) -> object:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise MemoryError
        return real(call)

    monkeypatch.setattr(disk.device, "_call_soon", short)
    disk.write("a", b"x")
    assert disk.settle() == [None]
    assert tries == 3


def test_the_times_of_writes_and_of_their_syncs_are_counted_apart(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = Slept(monkeypatch, 0.25)
    real_write = os.pwrite

    def write(file: int, data: bytes, offset: int) -> int:
        slept.now += 0.5 * (threading.current_thread().name == "disk-writer")
        return real_write(file, data, offset)

    disk.write("a", b"first")
    disk.settle()
    monkeypatch.setattr(os, "pwrite", write)
    device = disk.device
    before = device.writes.count, device.writes.sum, device.syncs.sum
    disk.write("a", b"second")
    assert disk.settle() == [None] * 2
    assert (device.writes.count, device.writes.sum, device.syncs.sum) == (
        before[0] + 1,
        before[1] + 0.5,
        before[2] + 0.25,
    )
