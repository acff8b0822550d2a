"""How a thread is started, reports its results to the loop, and that it has died."""

from __future__ import annotations

import errno
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVarTuple

from netstore.errors import MustStop

if TYPE_CHECKING:
    from collections.abc import Callable

    CallSoon = Callable[[Callable[[], object]], object]
    """Makes a call on the loop, from any thread; RuntimeError once the loop has ended."""

_Arguments = TypeVarTuple("_Arguments")

_RETRY_SECONDS: Final = 0.002
"""Pause before a report is tried again for which there was no memory."""


def report(call_soon: CallSoon, call: Callable[[*_Arguments], object], *arguments: *_Arguments) -> None:
    """Make a call on the loop, and retry as long as there is no memory for that: a caller that is never
    answered would wait for ever. Blocks meanwhile. Nothing happens once the loop has ended.
    """
    while True:
        try:
            call_soon(partial(call, *arguments))
        except MemoryError:
            time.sleep(_RETRY_SECONDS)
        except RuntimeError:
            return  # nobody waits any more; what was accepted is written, and `close` does the rest
        else:
            return


def start_thread(work: Callable[[], object], name: str) -> OSError | None:
    """Start a daemon thread that does this; the error if there can be none now, because a limit of threads is
    reached or memory is short: the caller reports it as the outcome of the work, and goes on.
    """
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except (RuntimeError, MemoryError):  # the first is for a limit, and for want of a stack
        return OSError(errno.EAGAIN, "no thread can be started: raise the limit of tasks (TasksMax)")
    return None


class ThreadDied(MustStop):
    """A thread ended by an exception: nobody does its work any more."""


def watch_threads(call_soon: CallSoon) -> Callable[[], None]:
    """From now on, when a thread of this process ends by an exception, raise `ThreadDied` on the loop, which
    ends the member: without its writer it would go on and store nothing. Returns a call that undoes this.
    """
    before = threading.excepthook

    def died(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # the regular way to end a thread early
            report(call_soon, _raise, "" if args.thread is None else args.thread.name, args.exc_value)
        before(args)  # afterwards: it may fail, because it needs memory for what it prints

    def undo() -> None:
        threading.excepthook = before

    threading.excepthook = died
    return undo


def _raise(name: str, fault: BaseException | None) -> None:
    raise ThreadDied(f"thread {name} ended by {fault!r}") from fault
