"""A file that a user names is complete or not there, and replaces nothing but a file."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from netstore import outputfile
from netstore.inputfile import NotRegular
from netstore.outputfile import NO_LOCKS, check_target, open_output, put_new

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    with open_output(target) as (file, part):
        file.write(b"new")
        file.flush()
        assert (target.read_bytes(), part.read_bytes()) == (b"old", b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_one_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def fail() -> None:
        with open_output(tmp_path / "f") as (file, _):
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_what_a_killed_process_left_is_replaced_and_its_mode_narrowed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_output(tmp_path / "f") as (_, part):
        raise ZeroDivisionError
    part.write_bytes(b"a longer one")
    part.chmod(0o644)
    with open_output(tmp_path / "f") as (file, again):
        assert (again, part.stat().st_mode & 0o777) == (part, 0o600)
        file.write(b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_file_that_is_not_private_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with open_output(tmp_path / "f", private=False):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("none")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        before = {path: path.lstat() for path in tmp_path.iterdir()}
        for name, problem in (
            ("folder", "is a folder"),
            ("fifo", "is a pipe"),
            ("socket", "is a socket"),
            ("link", "is a symbolic link"),
            ("dangling", "is a symbolic link"),
            (".", "is a folder"),
            ("..", "is a folder"),
            ("/dev/null", "is a device"),
        ):
            target = tmp_path / name
            with pytest.raises(NotRegular) as told, open_output(target):
                pass
            assert (told.value.filename, str(told.value.strerror).startswith(problem)) == (str(target), True)
        assert {path: path.lstat() for path in tmp_path.iterdir()} == before


def test_what_takes_the_name_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(NotRegular, match="is a pipe"), open_output(tmp_path / "f"):
        os.mkfifo(tmp_path / "f")
    assert (tmp_path / "f").is_fifo()
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_what_has_the_name_of_the_unfinished_file_stays_there_if_it_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".f.part")
    with pytest.raises(NotRegular, match="is a pipe"), open_output(tmp_path / "f"):
        pass
    assert (tmp_path / ".f.part").is_fifo()


def test_where_a_file_cannot_be_locked_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), open_output(tmp_path / "made"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("refusal", NO_LOCKS)
def test_a_file_system_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open_output(tmp_path / "f") as (file, _):
        file.write(b"first")
        with open_output(tmp_path / "g") as (other, _):
            other.write(b"other")
    both = open_output(tmp_path / "f"), open_output(tmp_path / "f")
    with pytest.raises(OSError, match="was replaced meanwhile"), both[0], both[1] as (file, _):
        file.write(b"second")
    assert (tmp_path / "f").read_bytes() == b"second"


def test_a_file_is_written_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_output(tmp_path / "f") as (file, _):
        file.write(b"first")
        with pytest.raises(BlockingIOError) as told, open_output(tmp_path / "f"):
            pass
        assert (told.value.filename, told.value.strerror) == (
            str(tmp_path / "f"),
            "is being written by another command",
        )
    assert (tmp_path / "f").read_bytes() == b"first"

    # Opened before the first one renamed it, and locked after.
    locking = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        (tmp_path / ".f.part").rename(tmp_path / "f")
        locking(descriptor, operation)

    (tmp_path / ".f.part").write_bytes(b"complete")
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BlockingIOError), open_output(tmp_path / "f"):
        pass
    assert (tmp_path / "f").read_bytes() == b"complete"


def test_a_file_is_not_written_to_one_that_somebody_has_open(tmp_path: Path) -> None:
    part = tmp_path / ".f.part"
    part.write_bytes(b"left")
    part.chmod(0o666)
    with part.open("rb+") as kept:
        with open_output(tmp_path / "f") as (file, _):
            file.write(b"secret")
        kept.write(b"forged")
        kept.flush()
        kept.seek(0)
        assert kept.read() == b"forged"
    assert (tmp_path / "f").read_bytes() == b"secret"


@pytest.mark.root
def test_the_unfinished_file_of_another_user_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / ".f.part"
    part.write_bytes(b"theirs")
    os.chown(part, 65534, 65534)
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(
                OSError, match=r"\.f\.part beside it, .*, is of another user \(uid 65534\): remove that"
            ) as told,
            open_output(tmp_path / "f"),
        ):
            pass
    assert told.value.filename == str(tmp_path / "f")
    assert part.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [part]


def test_what_has_the_name_of_the_unfinished_file_meanwhile_is_neither_used_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / ".f.part"

    def forge(_: object = None) -> None:
        part.unlink(missing_ok=True)
        part.write_bytes(b"of another")

    with pytest.raises(OSError, match="replaced meanwhile"), open_output(tmp_path / "f"):
        forge()
    assert (part.read_bytes(), list(tmp_path.iterdir())) == (b"of another", [part])

    def failing(_: Path) -> None:
        forge()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    part.unlink()
    monkeypatch.setattr(outputfile, "sync_folder", failing)
    with pytest.raises(OSError, match="Input/output error"), open_output(tmp_path / "f") as (file, _):
        file.write(b"complete")
    assert (part.read_bytes(), (tmp_path / "f").read_bytes()) == (b"of another", b"complete")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_takes_no_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    def without(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", without)
    (tmp_path / "part").write_bytes(b"complete")
    put_new(tmp_path / "part", tmp_path / "f")
    assert ((tmp_path / "f").read_bytes(), list(tmp_path.iterdir())) == (b"complete", [tmp_path / "f"])
    (tmp_path / "part").write_bytes(b"another")
    (tmp_path / "dangling").symlink_to("none")
    for name in ("f", "dangling"):
        with pytest.raises(FileExistsError) as told:
            put_new(tmp_path / "part", tmp_path / name)
        assert told.value.filename == str(tmp_path / name)
    assert ((tmp_path / "f").read_bytes(), (tmp_path / "part").read_bytes()) == (b"complete", b"another")
    assert (tmp_path / "dangling").is_symlink()


def test_errors_name_the_file_that_is_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as told, open_output(tmp_path / "none" / "f"):
        pass
    assert told.value.filename == str(tmp_path / "none" / "f")
    (tmp_path / "part").touch()
    with pytest.raises(FileNotFoundError) as told:
        put_new(tmp_path / "part", tmp_path / "none" / "f")
    assert told.value.filename == str(tmp_path / "none" / "f")
    with pytest.raises(NotADirectoryError) as refused:
        put_new(tmp_path / "part", tmp_path / "part" / "f")
    assert refused.value.filename == str(tmp_path / "part" / "f")
    with open_output(tmp_path / ("\u00e9" * 120)):  # 240 bytes
        pass


def test_a_new_name_can_be_written(tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
