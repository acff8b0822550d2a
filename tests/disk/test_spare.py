"""The next file is prepared ahead, and what happens when there is no room for it."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import pytest

from tests.disk.devices import BLOCK, Disk, failing
from tests.disk.fakeloop import TIMEOUT
from tests.support.patience import seconds


def test_a_new_file_is_filled_with_zeros_and_private(disk: Disk) -> None:
    disk.write("a", b"x")
    disk.settle()
    status = (disk.folder / "a").stat()
    assert status.st_size == BLOCK
    assert status.st_blocks * 512 >= BLOCK
    assert status.st_mode & 0o777 == 0o600


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


def test_what_was_left_of_the_next_file_is_replaced_and_not_waited_for(disk: Disk) -> None:
    os.mkfifo(disk.folder / "spare")
    disk.write("a", b"x")
    assert disk.settle() == [None]
    assert (disk.folder / "a").stat().st_size == BLOCK


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
    """The errno with which the device has no next file, if it has none."""
    low = disk.device.low
    return None if low is None else low.errno


def test_no_room_for_the_next_file_is_reported_while_half_of_this_one_is_left(
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
    disk.device.retry()
    assert disk.device._spare._filler is filler, "nothing is tried where there is no room"
    monkeypatch.undo()
    disk.device.retry()
    disk.write("a", b"z")
    disk.settle()
    again = disk.device._spare._filler
    assert again is not None
    again.join()
    assert low_on(disk) is None
    assert (disk.folder / "spare").exists()


def test_the_next_file_is_tried_again_without_another_write_to_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"x")
    disk.settle()
    failing(monkeypatch, "pwrite", errno.ENOSPC, thread="disk-filler")
    disk.write("b", b"the next file")
    assert disk.settle()[-1] is not None
    assert low_on(disk) == errno.ENOSPC
    disk.device.retry()
    disk.write("a", b"y")
    assert disk.settle()[-1] is None
    filler = disk.device._spare._filler
    assert filler is not None, "the attempt comes before the write behind it"
    filler.join()
    assert low_on(disk) is None


def test_trying_for_room_twice_delays_no_write(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
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
            assert answered.wait(seconds(TIMEOUT)), (
                "the write waits for the second attempt, and that for the first"
            )
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", slow)
    disk.device.retry()
    disk.device.retry()
    disk.write("a", b"y")
    assert disk.settle()[-1] is None
    answered.set()


def test_a_file_is_prepared_also_when_no_thread_can_be_started(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    disk.write("a", b"x" * BLOCK)
    disk.write("b", b"y")
    assert disk.settle() == [None, None]
    assert disk.content("b") == b"y"
