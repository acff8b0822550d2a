"""How a thread tells the loop what came of its work, and that it ended by a fault."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVarTuple

from netstore.errors import MustStop

if TYPE_CHECKING:
    from collections.abc import Callable

    Deliver = Callable[[Callable[[], object]], object]
    """Has the loop make a call; RuntimeError once the loop has ended."""

_Arguments = TypeVarTuple("_Arguments")

_STARVED_SECONDS: Final = 0.002
"""Until a result is told again that no memory was left to tell."""


def tell(deliver: Deliver, call: Callable[[*_Arguments], object], *arguments: *_Arguments) -> None:
    """Have the loop make a call, however long there is no memory to say so: who is never answered waits for
    ever. Blocks meanwhile. Nothing is told once the loop has ended.
    """
    while True:
        try:
            deliver(partial(call, *arguments))
        except MemoryError:
            time.sleep(_STARVED_SECONDS)
        except RuntimeError:
            return  # nobody waits any more; what was accepted is still written, `close` does the rest
        else:
            return


class ThreadFell(MustStop):
    """A thread ended by a fault of its own: nobody does its work any more."""


def watch_threads(deliver: Deliver) -> Callable[[], None]:
    """From now on a thread of this process that ends by an exception has it raised on the loop, as
    `ThreadFell`, which ends the member: without its writer it would go on and keep nothing. Gives what undoes
    this.
    """
    before = threading.excepthook

    def fell(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # which ends a thread in order
            tell(deliver, _raise, "" if args.thread is None else args.thread.name, args.exc_value)
        before(args)  # afterwards: it may fail, for want of room for what it prints

    def undo() -> None:
        threading.excepthook = before

    threading.excepthook = fell
    return undo


def _raise(name: str, fault: BaseException | None) -> None:
    raise ThreadFell(f"thread {name} ended by {fault!r}") from fault
