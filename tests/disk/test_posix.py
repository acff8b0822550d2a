"""The real device: order, merging, and what it does when the system says no."""

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
from netstore.seams import SyncFailed
from tests.disk.hand import PATIENCE, Hand
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 64 * 1024


class Disk:
    """A device on a real folder, and what it answered."""

    def __init__(self, folder: Path, file_bytes: int = BLOCK) -> None:
        self.folder = folder
        self.hand = Hand()
        self.device = PosixDevice(folder, self.hand, file_bytes)
        self.answers: list[tuple[int, OSError | None]] = []
        self.sent = 0
        self.end: dict[str, int] = {}

    def write(self, name: str, data: bytes, offset: int | None = None, *, held: bool = False) -> None:
        at = self.end.get(name, 0) if offset is None else offset
        self.end[name] = at + len(data)
        number = self.sent
        self.sent += 1
        self.device.write(name, at, data, lambda error: self.answers.append((number, error)), held=held)

    def write_noted(self, name: str, data: bytes, note: bytes) -> None:
        self.sent += 1
        at = self.end.get(name, 0)
        self.end[name] = at + len(data)
        self.device.write(name, at, data, lambda error: self.answers.append((len(self.answers), error)), note)

    def settle(self) -> list[OSError | None]:
        """All answers so far, once every write has one; they come in order."""
        self.hand.until(lambda: len(self.answers) == self.sent)
        assert [number for number, _ in self.answers] == list(range(self.sent))
        return [error for _, error in self.answers]

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes().rstrip(b"\0")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.device.close()


class Slept:
    """Time as the device sees it: a sync takes `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads: list[str] = []
        self._real_sync = os.fdatasync
        monkeypatch.setattr(posix, "monotonic", lambda: self.now)
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, file: int) -> None:
        self._real_sync(file)
        if (name := threading.current_thread().name) != "disk-filler":
            self.threads.append(name)
            self.now += self.seconds


def at_rest(disk: Disk) -> None:
    """Every write has its answer, and the writer sleeps."""
    disk.settle()
    until(lambda: disk.device._inbox._asleep, "the writer sleeps", PATIENCE)


def lone(disk: Disk, data: bytes = b"lone", name: str = "a") -> None:
    """A write that is released, as a lone one is."""
    at_rest(disk)
    disk.write(name, data, held=True)
    disk.device.release()


FAST, SLOW = 0.0001, 0.005


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
        bytes(posix.AT_ONCE_BYTES + 1) if why == "large" else b"lone",
        held=True,
    )
    disk.device.release()
    assert set(disk.settle()) == {None}
    assert set(slept.threads) == {"disk-writer"}


@pytest.mark.parametrize("what", ["pwrite", "fdatasync"])
def test_after_a_slow_one_the_loop_writes_none_for_a_hundred_times_as_long(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever it was that took long, and however fast what the writer does meanwhile."""
    slept = Slept(monkeypatch, FAST)
    real, slow = os.pwrite, [0.0]

    def pwrite(*arguments: Any) -> int:
        slept.now += slow[0]
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    disk.write("a", b"first")
    lone(disk)
    if what == "pwrite":
        slow[0] = SLOW
    else:
        slept.seconds = SLOW
    lone(disk)
    slow[0], slept.seconds = 0.0, FAST
    began = slept.now
    for _ in range(10):
        lone(disk)
    for later in (99 * SLOW, 101 * 2 * SLOW):  # the note is slow too where writes are
        at_rest(disk)
        slept.now = began + later
        lone(disk)
    here = threading.current_thread().name
    assert slept.threads == ["disk-writer", here, here, *["disk-writer"] * 11, here]
    assert set(disk.settle()) == {None}


def test_answers_come_in_the_order_of_the_writes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer sleeps once its answer is on the way to the loop, where it may still wait."""
    Slept(monkeypatch, FAST)
    disk.write("a", b"first")
    at_rest(disk)
    disk.write("a", b"second")
    until(lambda: disk.device._inbox._asleep and not disk.device._inbox, "the writer sleeps", PATIENCE)
    disk.write("a", b"held", held=True)
    disk.device.release()
    assert disk.settle() == [None] * 3


def test_a_sync_that_fails_on_the_loop_ends_the_device(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"first")
    at_rest(disk)
    monkeypatch.setattr(disk.device, "_at_once_from", 0.0)
    failing(monkeypatch, "fdatasync", errno.EIO, thread=threading.current_thread().name)
    lone(disk)
    assert isinstance(disk.answers[1][1], SyncFailed)
    disk.write("a", b"later")
    assert isinstance(disk.settle()[2], SyncFailed)


def test_a_held_write_that_finds_no_room_leaves_the_file_as_it_was(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"first")
    at_rest(disk)
    monkeypatch.setattr(disk.device, "_at_once_from", 0.0)
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread=threading.current_thread().name)
    lone(disk)
    failure = disk.answers[1][1]
    assert failure is not None
    assert failure.errno == errno.ENOSPC
    assert disk.content("a") == b"first"
    lone(disk, b"again")
    assert disk.answers[2][1] is None


def test_writes_that_are_released_while_the_writer_wakes_and_sleeps_keep_their_order(disk: Disk) -> None:
    """Both sides take jobs: each job is done once, and never two at the same time."""
    busy = threading.Lock()
    put = disk.device._put

    def alone(run: list[Any]) -> OSError | None:
        assert busy.acquire(blocking=False), "two threads write"
        try:
            return put(run)
        finally:
            busy.release()

    disk.device._put = alone  # type: ignore[method-assign]
    disk.device._at_once_from = 0.0
    for number in range(2_000):
        disk.write("a", b"%05d" % number, held=number % 3 > 0)
        if number % 3:
            disk.device.release()
        if number % 7 == 0:
            disk.settle()
    assert set(disk.settle()) == {None}
    assert disk.content("a") == b"".join(b"%05d" % number for number in range(2_000))


class Gate:
    """Holds the writer in its first sync until it is opened, and counts calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._reached = threading.Event()
        self._open = threading.Event()
        self._real_sync = os.fdatasync
        for name in ("pwrite", "pwritev"):
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _writer(self) -> bool:
        return threading.current_thread().name == "disk-writer"

    def _counting(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if self._writer():
                self.calls.append(name)
            return real(*arguments)

        return call

    def _sync(self, file: int) -> None:
        if self._writer():
            self.calls.append("fdatasync")
            self._reached.set()
            assert self._open.wait(seconds(PATIENCE))
        self._real_sync(file)

    def wait(self) -> None:
        assert self._reached.wait(seconds(PATIENCE))

    def open(self) -> None:
        self._open.set()


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, times: int = 1, thread: str = "disk-writer"
) -> list[str]:
    """Let the first `times` calls in one thread fail; the list tells all calls of that thread."""
    real = getattr(os, name)
    calls: list[str] = []

    def call(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == thread:
            calls.append(name)
            if len(calls) <= times:
                raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return calls


def test_what_is_written_is_there_when_it_is_answered(disk: Disk) -> None:
    for part in (b"one", b"two", b"three"):
        disk.write("a", part)
        disk.settle()
        assert disk.content("a").endswith(part)
    assert disk.content("a") == b"onetwothree"
    assert disk.device.read("a").rstrip(b"\0") == b"onetwothree"


def test_a_new_file_is_filled_with_zeros_and_private(disk: Disk) -> None:
    disk.write("a", b"x")
    disk.settle()
    status = (disk.folder / "a").stat()
    assert status.st_size == BLOCK
    assert status.st_blocks * 512 >= BLOCK
    assert status.st_mode & 0o777 == 0o600


def test_a_note_is_there_when_its_write_is_answered_and_the_one_before_with_it(disk: Disk) -> None:
    assert disk.device.notes() == []
    for number in range(5):
        disk.write_noted("a", b"x" * 10, b"note %d" % number)
        assert disk.settle()[-1] is None
        assert b"note %d" % number in disk.device.notes()
    assert sorted(disk.device.notes()) == [b"note 3", b"note 4"]
    assert disk.device.names() == ["a"]
    assert (disk.folder / "synced").stat().st_mode & 0o777 == 0o600


def test_a_note_that_cannot_be_kept_hinders_nothing(disk: Disk) -> None:
    (disk.folder / "synced").mkdir()
    disk.write_noted("a", b"x", b"note")
    assert disk.settle() == [None]


def test_writes_that_wait_are_joined_into_one_sync_and_one_delivery(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"first")
    disk.settle()
    delivered = disk.hand.count
    gate = Gate(monkeypatch)
    disk.write("a", b"0")
    gate.wait()
    for number in range(1, 100):
        disk.write("a", b"%d" % (number % 10))
    gate.open()
    assert set(disk.settle()) == {None}
    assert gate.calls == ["pwrite", "fdatasync", "pwritev", "fdatasync"]
    assert disk.hand.count - delivered == 2
    assert disk.content("a") == b"first" + b"0123456789" * 10


def test_a_file_is_synced_before_the_next_one_is_touched(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_next_file_is_prepared_when_half_of_this_one_is_used(disk: Disk) -> None:
    disk.write("a", b"x" * (BLOCK // 2))
    disk.settle()
    assert not (disk.folder / "spare").exists()
    disk.write("a", b"x")
    disk.settle()
    disk.write("b", b"y")
    disk.settle()
    assert disk.device.names() == ["a", "b"]
    assert not (disk.folder / "spare").exists()
    assert (disk.folder / "b").stat().st_size == BLOCK


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


def test_a_full_disk_fails_all_that_was_handed_over_and_the_place_can_be_written_again(
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


def test_a_failed_write_leaves_nothing_behind_its_place(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_the_cut_of_a_failed_write_is_synced_before_anyone_hears_of_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`synced` is what the platter has of each file: its size at the last sync."""
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
def test_a_failed_write_that_cannot_be_taken_back_ends_the_device(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC)
    failing(monkeypatch, call, errno.EIO)
    disk.write("a", b"y")
    assert isinstance(disk.settle()[-1], SyncFailed)


def test_a_short_write_is_finished(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    ("call", "code", "thread"),
    [
        ("pwrite", errno.ENOSPC, "disk-filler"),
        ("open", errno.EMFILE, "disk-filler"),
        ("rename", errno.ENOSPC, "disk-writer"),
    ],
)
def test_a_new_file_that_cannot_be_made_is_a_failed_write(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str, code: int, thread: str
) -> None:
    failing(monkeypatch, call, code, thread=thread)
    disk.write("a", b"x")
    disk.write("a", b"y")
    assert [error.errno for error in disk.settle() if error] == [code, code]
    assert (disk.folder / "spare").exists() == (call == "rename"), "half a file gives its room back"
    disk.write("a", b"z", offset=0)
    assert disk.settle()[-1] is None
    assert disk.content("a") == b"z"


def low_on(disk: Disk) -> int | None:
    """Why the device will have no next file."""
    low = disk.device.low
    return None if low is None else low.errno


def test_want_of_room_for_the_next_file_is_told_while_half_of_this_one_is_left(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"x")
    disk.settle()
    assert low_on(disk) is None
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="disk-filler")
    disk.write("a", b"x" * (BLOCK // 2))
    assert disk.settle()[-1] is None
    filler = disk.device._spare._filler
    assert filler is not None
    filler.join()
    assert low_on(disk) == errno.ENOSPC
    disk.write("a", b"y")
    assert disk.settle()[-1] is None, "there is room in the file"
    full = os.statvfs_result((1, 1, 10, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    disk.device.try_room()
    assert disk.device._spare._filler is filler, "nothing is tried where there is no room"
    monkeypatch.undo()
    disk.device.try_room()
    disk.write("a", b"z")
    disk.settle()
    again = disk.device._spare._filler
    assert again is not None
    again.join()
    assert low_on(disk) is None
    assert (disk.folder / "spare").exists()


def test_room_is_found_again_though_the_write_that_found_none_is_not_repeated(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="disk-filler")
    disk.write("b", b"the next file")
    assert disk.settle()[-1] is not None
    assert low_on(disk) == errno.ENOSPC
    disk.device.try_room()
    disk.write("a", b"y")
    assert disk.settle()[-1] is None
    filler = disk.device._spare._filler
    assert filler is not None, "the attempt comes before the write behind it"
    filler.join()
    assert low_on(disk) is None


def test_asking_for_room_twice_keeps_no_write_waiting(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="disk-filler")
    disk.write("a", b"x" * (BLOCK // 2))
    disk.settle()
    filler = disk.device._spare._filler
    assert filler is not None
    filler.join()
    answered = threading.Event()
    real = os.open

    def slow(*arguments: Any, **options: Any) -> int:
        if threading.current_thread().name == "disk-filler":
            assert answered.wait(seconds(PATIENCE)), (
                "the write waits for the second attempt, and that for the first"
            )
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", slow)
    disk.device.try_room()
    disk.device.try_room()
    disk.write("a", b"y")
    assert disk.settle()[-1] is None
    answered.set()


def test_more_than_the_bound_is_refused_in_its_turn(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_cut_files_are_zero_behind_the_cut(disk: Disk) -> None:
    disk.write("a", b"x" * 1000)
    disk.settle()
    disk.device.truncate("a", 100)
    assert disk.device.read("a") == b"x" * 100 + bytes(BLOCK - 100)


def test_a_full_disk_does_not_prevent_a_cut(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("a", b"x" * 1000)
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="MainThread")
    disk.device.truncate("a", 100)
    assert disk.device.read("a") == b"x" * 100


def test_reading_asks_the_disk_and_not_the_cache(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_removal_comes_after_earlier_writes_and_twice_is_no_fault(disk: Disk) -> None:
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


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PosixDevice(tmp_path / "none", Hand())


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


def test_an_answer_is_told_again_when_there_was_no_memory_to_tell_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = disk.device._deliver, 0

    def short(call: Callable[[], object]) -> object:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise MemoryError
        return real(call)

    monkeypatch.setattr(disk.device, "_deliver", short)
    disk.write("a", b"x")
    assert disk.settle() == [None]
    assert tries == 3


def test_a_file_is_made_also_when_no_thread_can_be_started(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    disk.write("a", b"x" * BLOCK)
    disk.write("b", b"y")
    assert disk.settle() == [None, None]
    assert disk.content("b") == b"y"
