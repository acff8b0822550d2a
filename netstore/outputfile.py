"""Writes the files that a user names, for all programs: complete or not at all, and nothing but a file is
replaced.

A file is written beside its place and renamed. That would put it in the place of a device, a pipe or a link
as well, of which the one who named it wants something else, and which the machine may need, as /dev/null.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from netstore.inputfile import NotRegular, check_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME_BYTES: Final = 200
"""How much of its target's name is in that of an unfinished file: the file system has a limit of 255."""

_LEFT: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""How a file system says that it has no locks (flock(2))."""

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""How a file system refuses a second name of a file, if it has none (link(2))."""


class Output(NamedTuple):
    """A file that is being written, and its name until it is complete."""

    file: BinaryIO
    path: Path


@contextmanager
def open_output(target: Path, *, private: bool = True) -> Iterator[Output]:
    """A new file beside `target`, to be written and read, which takes its name, on stable storage, when the
    block ends; removed if that fails. What a process of this user that was killed has left of it is replaced.
    Blocks.

    Its mode is 0600 if it is `private`, else 0666 without the umask. It is opened by nobody before, who could
    read and change it later. OSError with the name of `target` if that is no regular file (NotRegular), is
    being written by another process (BlockingIOError), has the unfinished file of another user beside it, or
    cannot be written.
    """
    check_target(target)
    name = os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES])
    part = target.with_name(f".{name}.part")
    with _naming(target):
        opened = _new_part(part, 0o600 if private else 0o666)
    with os.fdopen(opened, "w+b") as file:
        try:
            yield Output(file, part)
            file.flush()
            os.fsync(opened)
            check_target(target)
            with _naming(target):
                _rename(opened, part, target)
        except BaseException:
            if _has_name(opened, part):  # after the renaming another process may have made its own
                part.unlink(missing_ok=True)
            raise


def put_new(part: Path, target: Path) -> None:
    """Give a complete file, which is synced, the name `target`, on stable storage, and no longer its own.
    Blocks. FileExistsError if there is something of this name, which stays; OSError with the name of `target`
    if it cannot be done.

    A file system that has no second names of files, such as FAT, is only asked before whether the name is
    free.
    """
    with _naming(target):
        try:
            os.link(part, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            part.rename(target)
        else:
            part.unlink()
        sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Blocks. OSError when that fails."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_target(target: Path) -> None:
    """NotRegular if there is something of this name that is no regular file, and must not be replaced by one;
    OSError if that cannot be found out.
    """
    try:
        status = target.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise NotRegular(errno.EINVAL, "is a symbolic link, and would be replaced by a file", str(target))
    check_regular(target, status)


def _new_part(part: Path, mode: int) -> int:
    """Make, open and lock an unfinished file."""
    _remove_left(part)
    try:
        opened = os.open(part, _NEW, mode)
    except FileExistsError:
        raise _taken() from None
    try:
        _lock(opened, part)
    except BaseException:
        if _has_name(opened, part):
            part.unlink(missing_ok=True)
        os.close(opened)
        raise
    return opened


def _remove_left(part: Path) -> None:
    """Remove what a process of this user that ended has left. What another user has there stays, as it may be
    in use. OSError then.
    """
    try:
        status = part.lstat()
        check_regular(part, status)
        if status.st_uid != os.geteuid():
            raise OSError(
                errno.EBUSY,
                f"{part.name} beside it, where it would be written, is of another user (uid {status.st_uid}):"
                " remove that, or name a file in a folder in which others may not write",
            )
        left = os.open(part, _LEFT)
    except FileNotFoundError:
        return
    try:
        _lock(left, part)
        part.unlink(missing_ok=True)
    finally:
        os.close(left)


def _rename(opened: int, part: Path, target: Path) -> None:
    """Give an unfinished file that is open its name, on stable storage."""
    if not _has_name(opened, part):
        raise OSError(errno.EBUSY, f"{part.name} beside it was replaced meanwhile: try it again")
    part.rename(target)
    sync_folder(target.parent)


def _lock(opened: int, part: Path) -> None:
    """Lock an unfinished file. It may be that of another process, and may have been renamed by it. Where the
    file system has no locks, of two processes that write one file the first fails when it is to rename it.
    """
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken() from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    if not _has_name(opened, part):
        raise _taken()


def _taken() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "is being written by another command")


def _has_name(opened: int, path: Path) -> bool:
    """Whether an open file still is the one of this name."""
    try:
        return os.path.samestat(os.fstat(opened), path.lstat())
    except OSError:
        return False


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Errors name the file that is to be written."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(target), None
        raise
