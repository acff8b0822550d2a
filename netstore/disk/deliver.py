"""How a thread of the disk tells the loop what came of its work."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVarTuple

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
