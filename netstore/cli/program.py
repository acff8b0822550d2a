"""The command line of both daemons: settings, exit codes, error messages of one line.

Exit codes: 0 after a requested stop, and if help, version or a valid configuration was printed; 1 if the
program could not start or had to stop; 2 if a restart would end the same way, as with an invalid
configuration, so that a service manager need not try.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from netstore.errors import NetstoreError, NoRestart
from netstore.ops.layers import Task
from netstore.release import version_json, version_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from _typeshed import DataclassInstance

    from netstore.ops.layers import Layered, Loaded

C = TypeVar("C", bound="DataclassInstance")

STOPPED: Final = 0
FAILED: Final = 1
NO_RESTART: Final = 2


def main(
    layered: Layered[C],
    argv: Sequence[str] | None,
    start: Callable[[C, Sequence[str]], None],
    *,
    reads_files: bool = True,
    claims: str = "",
    checked: Callable[[C], Iterable[str]] = lambda _: (),
) -> int:
    """Run a program with these arguments, by default those of the process. Returns the exit code.

    `start` runs it with its settings, and notices to log, until it is stopped; only `start` may import what
    would slow down help and `--check-config`, which also prints what `checked` finds; that raises
    NetstoreError for what would end the program. Exceptions other than NetstoreError are raised.
    """
    name = layered.program
    try:
        called = os.path.basename(sys.argv[0])  # noqa: PTH119 - without importing pathlib for a name
        loaded = layered.load(sys.argv[1:] if argv is None else argv, os.environ, called)
        if reads_files and loaded.task in (Task.CHECK, Task.RUN):
            layered.check_files(loaded)
    except NetstoreError as error:
        tell(name, error)
        return NO_RESTART
    except KeyboardInterrupt:
        return FAILED
    match loaded.task:
        case Task.HELP:
            return _run(name, lambda: write([layered.usage()]))
        case Task.VERSION:
            own = version_json(name, claims) if loaded.json else version_line(name)
            first = [f"{called} Version: {claims}"] if called == layered.original and not loaded.json else []
            return _run(name, lambda: write([*first, own]))
        case Task.CHECK:
            return _run(name, lambda: write(_report(layered, loaded, checked(loaded.config))))
        case Task.RUN:
            return _run(name, lambda: start(loaded.config, loaded.notices))


def _report(layered: Layered[C], loaded: Loaded[C], found: Iterable[str]) -> list[str]:
    """What `--check-config` prints. NetstoreError if the check finds what would end the program."""
    notices = [*loaded.notices, *found]
    return [layered.report(loaded), *(f"# {notice}" for notice in notices)]


class _ReaderGone(NetstoreError):  # noqa: N818 - named for what happened
    """The reader of standard output, as `head` or a pager, has ended; nothing is printed about it."""


def write(lines: Iterable[str], *, end: str = "\n") -> None:
    """Print lines on standard output and flush. NetstoreError if that takes no more."""
    try:
        for line in lines:
            print(line, end=end)
        print(end="", flush=True)
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # the flush at exit must not fail, too
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            raise _ReaderGone from None
        raise NetstoreError(f"standard output: {error.strerror}: write to another file or disk") from None


def _run(name: str, start: Callable[[], None]) -> int:
    try:
        start()
    except BaseExceptionGroup as group:
        told, others = group.split(NetstoreError)
        if told is None or others is not None:
            raise
        errors = list(_leaves(told))
    except _ReaderGone:
        return FAILED
    except NetstoreError as error:
        errors = [error]
    except KeyboardInterrupt:
        return FAILED
    else:
        return STOPPED
    for each in errors:
        tell(name, each)
    return NO_RESTART if any(isinstance(each, NoRestart) for each in errors) else FAILED


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def tell(name: str, error: BaseException) -> None:
    """Print an error on stderr, in one line after the name of the program."""
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
