"""Opens the files that a user names to be read, and those in folders that a user names, for all programs: at
once, or with words that say why not.

Only regular files are opened. Reading a pipe waits for who writes to it, a device may have no end, and to
open one may change it. What the caller has opened itself may be a pipe where that is asked for.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from contextlib import contextmanager
from io import BufferedReader, FileIO
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, overload

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

SHOWN_CHARACTERS: Final = 200
"""How much of a name is told: a text that was meant to be the content may stand in its place."""

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, ""),
    (stat.S_ISDIR, "is a folder, not a file"),
    (stat.S_ISFIFO, "is a pipe, not a regular file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)

_DESCRIPTOR: Final = re.compile(r"/dev/stdin|(?:/dev/fd|/proc/self/fd)/([0-9]{1,6})")


class UnusableFile(NetstoreError):  # noqa: N818 - named for what was found
    """A file that cannot be used. The text is one line: name, problem and fix."""

    def __init__(self, path: Path | str, problem: str, fix: str) -> None:
        super().__init__(f"{shortened(str(path))}: {problem}; {fix}")
        self.problem = problem


class NotRegular(OSError):  # noqa: N818 - named for what was found
    """What has the name of a file is none, as a pipe; `strerror` says what it is."""


@overload
def open_regular(path: Path | str) -> BufferedReader: ...


@overload
def open_regular(path: Path | str, buffering: Literal[0]) -> FileIO: ...


def open_regular(path: Path | str, buffering: int = -1) -> BinaryIO:
    """A file of a folder that is not only ours, opened at its beginning. It never waits, whatever has the
    name. OSError if it cannot be opened: NotRegular if it is no regular file.
    """
    # Before it is opened, which some devices notice; and after, as another may have its name by then.
    check_regular(path, os.stat(path))  # noqa: PTH116 - of either type
    file = open(path, "rb", buffering, opener=_without_waiting)  # noqa: SIM115 - for the caller to close
    try:
        check_regular(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: Path | str, most: int) -> bytes:
    """All of a file of at most `most` bytes; see `open_regular`. OSError if it is longer."""
    with open_regular(path) as file:
        return _read(file, path, most)


def check_regular(path: Path | str, status: os.stat_result) -> None:
    """NotRegular if what has this status is no regular file."""
    kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "is not a file")
    if kind:
        raise NotRegular(errno.EINVAL, kind, str(path))


def open_input(path: Path | str, fix: str, *, most: int | None = None, stream: bool = False) -> BinaryIO:
    """The file, opened at its beginning. It never waits, whatever the name stands for.

    `fix` says what to name instead. `most` is the greatest size in bytes of a regular file. With `stream` a
    pipe or device is taken that the caller has opened, as /dev/stdin, or /dev/fd/N for `<(command)`: its
    reader must bound what it reads, and waits for who writes. UnusableFile if the file cannot be used.
    """
    with _explained(path, fix):
        given = _DESCRIPTOR.fullmatch(str(path)) if stream else None
        if given is not None:
            mode = os.stat(path).st_mode  # noqa: PTH116 - of either type
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return _opened_again(int(given[1] or 0))
        file = open_regular(path)
        if most is not None and os.fstat(file.fileno()).st_size > most:
            file.close()
            raise _too_long(path, most)
        return file


def read_input(path: Path | str, most: int, fix: str, *, stream: bool = False) -> bytes:
    """All of a file of at most `most` bytes; see `open_input`."""
    with _explained(path, fix), open_input(path, fix, most=most, stream=stream) as file:
        return _read(file, path, most)


def shortened(text: str) -> str:
    """The text, or its beginning and its length if it is long."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


@contextmanager
def _explained(path: Path | str, fix: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnusableFile(path, error.strerror or str(error), fix) from None
    except ValueError:  # a zero byte
        raise UnusableFile(path, "is not the name of a file", fix) from None


def _read(file: BinaryIO, path: Path | str, most: int) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise _too_long(path, most)
    return data


def _too_long(path: Path | str, most: int) -> OSError:
    return OSError(errno.EFBIG, f"is longer than {most} bytes", str(path))


def _opened_again(descriptor: int) -> BinaryIO:
    copy = os.dup(descriptor)
    try:
        return BufferedReader(_Waiting(copy))
    except BaseException:
        os.close(copy)
        raise


class _Waiting(FileIO):
    """Reads to the end, though the descriptor may be one that does not wait: whoever else has it open, as the
    parent, may have asked for that, and may rely on it.
    """

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while True:
            count: int | None = super().readinto(buffer)
            if count is not None:
                return count
            ready = select.poll()
            ready.register(self, select.POLLIN)
            ready.poll()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
