"""Files that users name are opened at once, or refused in words."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netstore import inputfile
from netstore.inputfile import (
    SHOWN_CHARACTERS,
    NotRegular,
    UnusableFile,
    open_input,
    open_regular,
    read_input,
    read_regular,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def test_a_file_is_read_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with open_input(tmp_path / "f", "fix") as file:
        assert file.read() == b"12345"
    assert read_input(str(tmp_path / "f"), 5, "fix") == b"12345"
    with pytest.raises(UnusableFile, match=r"/f: is longer than 4 bytes; fix$"):
        read_input(tmp_path / "f", 4, "fix")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, problem in (
            ("fifo", "is a pipe"),
            ("link", "is a pipe"),
            ("socket", "is a socket"),
            (".", "is a folder"),
            ("/dev/zero", "is a device"),
            ("none", "No such file or directory"),
            ("a\0b", "is not the name of a file"),
        ):
            with pytest.raises(UnusableFile) as told:
                open_input(tmp_path / name, "name another")
            assert told.value.problem.startswith(problem)
            assert str(told.value).endswith("; name another")


def test_what_takes_the_name_of_a_file_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "x")
    judged = inputfile.check_regular
    seen: list[Path | str] = []

    def judge(path: Path | str, status: os.stat_result) -> None:
        if seen:
            judged(path, status)
        seen.append(path)

    monkeypatch.setattr(inputfile, "check_regular", judge)
    with pytest.raises(UnusableFile, match="is a pipe"):
        open_input(tmp_path / "x", "name another")


def test_a_file_with_holes_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnusableFile, match="is longer than 1000 bytes"):
        read_input(tmp_path / "f", 1000, "fix")


def test_a_pipe_that_the_caller_has_opened_is_a_stream() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"12345")
        with pytest.raises(UnusableFile, match="is a pipe"):
            open_input(f"/dev/fd/{reading}", "fix")
        os.close(writing)
        assert read_input(f"/dev/fd/{reading}", 5, "fix", stream=True) == b"12345"
    finally:
        os.close(reading)
    with pytest.raises(UnusableFile, match="No such file"):
        open_input(f"/dev/fd/{reading}", "fix", stream=True)


@pytest.mark.parametrize("make", [os.pipe, _sockets])
def test_a_stream_that_does_not_wait_is_read_to_its_end(make: Callable[[], tuple[int, int]]) -> None:
    reading, writing = make()
    os.set_blocking(reading, False)

    def write() -> None:
        try:
            for part in (b"12", b"34", b"5"):
                while os.read(watching, 1) != b"r":
                    pass
                os.write(writing, part)
        finally:
            os.close(writing)

    watching, asking = os.pipe()
    real = select.poll

    def poll() -> select.poll:
        """Each part is written when the reader waits for it."""
        os.write(asking, b"r")
        return real()

    writer = threading.Thread(target=write)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(select, "poll", poll)
            writer.start()
            assert read_input(f"/dev/fd/{reading}", 5, "fix", stream=True) == b"12345"
            assert not os.get_blocking(reading), "it is as whoever shares it has set it"
    finally:
        os.write(asking, b"rrr")
        writer.join()
        for each in (reading, watching, asking):
            os.close(each)


def test_a_stream_has_a_bound(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(100)
    with (tmp_path / "f").open("rb") as file, pytest.raises(UnusableFile, match="is longer than 99 bytes"):
        read_input(f"/dev/fd/{file.fileno()}", 99, "fix", stream=True)
    with Path("/dev/zero").open("rb") as file, pytest.raises(UnusableFile, match="is longer than 99 bytes"):
        read_input(f"/dev/fd/{file.fileno()}", 99, "fix", stream=True)


def test_a_folder_that_the_caller_has_opened_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(UnusableFile, match="is a folder, not a file; name another"):
            open_input(f"/dev/fd/{folder}", "name another", stream=True)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        os.close(folder)


def test_files_of_a_folder_are_opened_at_once_or_refused_as_by_the_system(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "f").write_bytes(b"12345")
    with open_regular(tmp_path / "f", buffering=0) as file:
        assert file.read() == b"12345"
    assert read_regular(tmp_path / "f", 5) == b"12345"
    with pytest.raises(OSError, match="is longer than 4 bytes") as long:
        read_regular(tmp_path / "f", 4)
    assert not isinstance(long.value, NotRegular)
    with pytest.raises(NotRegular) as told:
        open_regular(tmp_path / "fifo")
    assert (told.value.filename, told.value.strerror) == (
        str(tmp_path / "fifo"),
        "is a pipe, not a regular file",
    )
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_long_name_is_not_repeated() -> None:
    with pytest.raises(UnusableFile) as told:
        open_input("[" * 100_000, "fix")
    assert len(str(told.value)) < 2 * SHOWN_CHARACTERS
    assert "... (100000 characters): File name too long; fix" in str(told.value)
