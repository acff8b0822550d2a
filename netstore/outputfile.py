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

_OPENED: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Output(NamedTuple):
    """A file that is being written, and its name until it is complete."""

    file: BinaryIO
    path: Path


@contextmanager
def open_output(target: Path, *, private: bool = True) -> Iterator[Output]:
    """A new file beside `target`, to be written and read, which takes its name, on stable storage, when the
    block ends; removed if that fails. What a process that was killed has left of it is replaced. Blocks.

    Its mode is 0600 if it is `private`, else 0666 without the umask. OSError with the name of `target` if
    that is no regular file (NotRegular), is being written by another process (BlockingIOError), or cannot be
    written.
    """
    check_target(target)
    name = os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES])
    part = target.with_name(f".{name}.part")
    with _naming(target):
        opened = _locked(part, 0o600 if private else 0o666)
    with os.fdopen(opened, "w+b") as file:
        try:
            if private:
                os.fchmod(opened, 0o600)
            file.truncate()
            yield Output(file, part)
            file.flush()
            os.fsync(opened)
            put_in_place(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def put_in_place(part: Path, target: Path) -> None:
    """Give a complete file, which is synced, its name, on stable storage. Blocks. See `check_target`."""
    check_target(target)
    with _naming(target):
        part.rename(target)
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


def _locked(part: Path, mode: int) -> int:
    """Open and lock an unfinished file."""
    opened = os.open(part, _OPENED, mode)
    try:
        check_regular(part, os.fstat(opened))
        _lock(opened, part)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _lock(opened: int, part: Path) -> None:
    """Lock an unfinished file. It may be that of another process, and may have been renamed by it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(os.fstat(opened), part.lstat())
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:
        raise BlockingIOError(errno.EAGAIN, "is being written by another command")


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Errors name the file that is to be written."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(target), None
        raise
