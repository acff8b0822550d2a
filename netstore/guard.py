"""Calls made on behalf of somebody else: a client, a peer, a watcher. What they raise is theirs.

The loop of a member runs code for many parties. A fault in what is done for one of them (its bytes, its
answer, its memory running out) ends that request or connection and nothing else. Whoever makes such a call
makes it here and says what becomes of the party when it fails. The one exception is `errors.MustStop`: the
member's own state is not to be trusted any more, so it ends, whoever asked.

What the member does for itself (results of its disk, its turns, its ticks) is not called through here: any
exception there ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import MustStop

if TYPE_CHECKING:
    from collections.abc import Callable


def guarded(failed: Callable[[Exception], object], call: Callable[..., object], *arguments: object) -> bool:
    """Make a call for somebody else. False when it raised, and `failed` was given what.

    MemoryError and RecursionError count as theirs too, and so does what `failed` raises in its turn: it is
    lost, because what fails there, for want of memory most often, is saying what happened. Raises `MustStop`
    from either, and everything where `failed` is `unguarded`. Costs about 0.1 us.
    """
    try:
        call(*arguments)
    except MustStop:
        raise
    except Exception as fault:  # noqa: BLE001 - told
        tell(failed, fault)
        return False
    return True


def tell(failed: Callable[[Exception], object], fault: Exception) -> None:
    """What `guarded` does with what a call raised, where it is not `MustStop`: for who makes its calls itself
    because there are so many. Called where it was caught.
    """
    if failed is unguarded:
        raise fault
    try:
        failed(fault)
    except MustStop:
        raise
    except Exception:  # noqa: BLE001 - the guarded call's caller must go on to let go of the party
        return


def unguarded(fault: Exception) -> None:
    """The `failed` of who has none: raise it."""
    raise fault
