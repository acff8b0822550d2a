"""Counts calls: what a piece of code costs, whatever the speed of the machine."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def profiled() -> Iterator[Counter[str]]:
    """Calls of functions within the block, of Python and of C, by their name."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            counted[frame.f_code.co_name] += 1
        elif event == "c_call":
            counted[getattr(arg, "__name__", "")] += 1

    before, collects = sys.getprofile(), gc.isenabled()
    gc.collect()
    gc.disable()  # what a collection calls is not counted
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
