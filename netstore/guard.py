"""Fault isolation: an exception raised in work for one client, peer or watcher ends that party only.

The event loop runs code for many parties. An exception in work for one of them (a bad message, an answer that
cannot be made, MemoryError) must end that request or connection and nothing else. Such calls are made through
`guarded`, with a function that ends the party. The one exception is `errors.MustStop`: the member's own state
cannot be trusted any more, so the member ends, whichever request it was raised in.

The member's own work (results of its disk, its turns, its ticks) is not called through here: any exception
there ends the member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import MustStop

if TYPE_CHECKING:
    from collections.abc import Callable


def guarded(failed: Callable[[Exception], object], call: Callable[..., object], *arguments: object) -> bool:
    """Make a call for another party. When it raises, `failed` gets the exception and the result is False.

    MemoryError and RecursionError are handled like any other. What `failed` itself raises is dropped: it
    mostly fails to write a log line, for want of memory. `MustStop` is raised from either; where `failed` is
    `unguarded`, everything is. Costs about 0.1 us.
    """
    try:
        call(*arguments)
    except MustStop:
        raise
    except Exception as fault:  # noqa: BLE001 - given to `failed`
        tell(failed, fault)
        return False
    return True


def tell(failed: Callable[[Exception], object], fault: Exception) -> None:
    """What `guarded` does with an exception other than `MustStop`, for hot paths that make their calls
    themselves. To be called in the `except` clause.
    """
    if failed is unguarded:
        raise fault
    try:
        failed(fault)
    except MustStop:
        raise
    except Exception:  # noqa: BLE001 - the caller must go on and release what the party holds
        return


def unguarded(fault: Exception) -> None:
    """Pass it as `failed` to let every exception through."""
    raise fault
