"""Causes of failures, in words: which ones are the same, so that each is logged once while it lasts."""

from __future__ import annotations

import re
from typing import Final

_FIGURES: Final = re.compile(r"(?<![0-9a-f])[a-f]*+[0-9][0-9a-f]*+")
"""Numbers, and the hexadecimal ones in names of files. O(length): nothing is tried twice."""


def without_figures(cause: str) -> str:
    """The words of a cause that stay the same while it lasts."""
    return _FIGURES.sub("", cause)
