"""How deep a JSON document is nested, found without decoding it. Pure.

What decodes or encodes a document calls itself for each level, so one that is deep enough cannot be shown.
"""

from __future__ import annotations

import re
from typing import Final

MAX_DEPTH: Final = 64
"""Objects and lists within each other. A network config needs three, the schema of a plugin a dozen."""

_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)
"""A text, or the beginning or end of an object or list."""


def is_deep(text: bytes) -> bool:
    """Whether a document is nested deeper than `MAX_DEPTH`. O(length), also if it is no JSON."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token[0][:1]
        if first in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first != b'"':
            depth -= 1
    return False
