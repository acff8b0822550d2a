"""Opens the files that a user names to be read, for all programs: at once, or with words that say why not.

Only regular files are opened. Reading a pipe waits for who writes to it, a device may have no end, and to
open one may change it. What the caller has opened itself may be a pipe where that is asked for.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def open_input(path: Path | str, fix: str, *, most: int | None = None, stream: bool = False) -> BinaryIO:
    """The file, opened at its beginning. It never waits, whatever the name stands for.

    `fix` says what to name instead. `most` is the greatest size in bytes of a regular file. With `stream` a
    pipe or device is taken that the caller has opened, as /dev/stdin, or /dev/fd/N for `<(command)`: its
    reader must bound what it reads, and waits for who writes. UnusableFile if the file cannot be used.
    """
    try:
        given = _DESCRIPTOR.fullmatch(str(path)) if stream else None
        if given is not None and not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - of either type
            return os.fdopen(os.dup(int(given[1] or 0)), "rb")
        # Before it is opened, which some devices notice; and after, as another may have its name by then.
        problem = _problem(os.stat(path), most)  # noqa: PTH116 - same
        if not problem:
            file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - for the caller to close
            problem = _problem(os.fstat(file.fileno()), most)
            if not problem:
                return file
            file.close()
    except OSError as error:
        problem = error.strerror or str(error)
    except ValueError:  # a zero byte
        problem = "is not the name of a file"
    raise UnusableFile(path, problem, fix)


def read_input(path: Path | str, most: int, fix: str, *, stream: bool = False) -> bytes:
    """All of a file of at most `most` bytes; see `open_input`."""
    try:
        with open_input(path, fix, most=most, stream=stream) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UnusableFile(path, error.strerror or str(error), fix) from None
    if len(data) > most:
        raise UnusableFile(path, _too_long(most), fix)
    return data


def shortened(text: str) -> str:
    """The text, or its beginning and its length if it is long."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def _problem(status: os.stat_result, most: int | None) -> str:
    """Why a file of this status is not read; empty if it may be."""
    kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "is not a file")
    if kind or most is None or status.st_size <= most:
        return kind
    return _too_long(most)


def _too_long(most: int) -> str:
    return f"is longer than {most} bytes"


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
