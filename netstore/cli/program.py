"""What the command lines of both daemons do alike: settings, exit codes, one line for the operator.

Exit codes: 0 after a stop that was asked for, and when help, version or a valid configuration was printed;
1 when the program could not start or had to stop; 2 when it would end the same way if it were started again,
as with a configuration that cannot be used, so that a service manager need not try.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from netstore import __version__
from netstore.errors import NetstoreError, NoRestart
from netstore.ops.layered import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from _typeshed import DataclassInstance

    from netstore.ops.layered import Layered

C = TypeVar("C", bound="DataclassInstance")

STOPPED: Final = 0
FAILED: Final = 1
NO_RESTART: Final = 2


def main(layered: Layered[C], argv: Sequence[str] | None, start: Callable[[C, Sequence[str]], None]) -> int:
    """Do what the words after the program's name ask for, those of the process by default.

    `start` runs the program with its settings, and with notices to log, until it is stopped; only it may load
    what help and `--check-config` should not wait for. Returns the exit code. A fault that is not for the
    operator is raised.
    """
    name = layered.program
    try:
        loaded = layered.load(sys.argv[1:] if argv is None else argv, os.environ)
    except NetstoreError as error:
        tell(name, error)
        return NO_RESTART
    match loaded.task:
        case Task.HELP:
            return _show(layered.usage())
        case Task.VERSION:
            return _show(f"{name} {__version__}")
        case Task.CHECK:
            return _show(layered.report(loaded), *(f"# {notice}" for notice in loaded.notices))
        case Task.RUN:
            return _run(name, lambda: start(loaded.config, loaded.notices))


def _show(*lines: str) -> int:
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # the reader, a pager say, has seen enough; nor must the flush at exit complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return STOPPED


def _run(name: str, start: Callable[[], None]) -> int:
    try:
        start()
    except BaseExceptionGroup as group:
        told, others = group.split(NetstoreError)
        if told is None or others is not None:
            raise
        errors = list(_leaves(told))
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
    """Say on stderr, in one line, what a program of this name could not do."""
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
