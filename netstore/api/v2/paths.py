"""Request paths: percent decoding and the clean form, before any routing (v2 API, path handling)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNCLEAN: Final = re.compile(rb"//|/\.\.?(?:/|\Z)")
_KEPT: Final = "/$&+,:;=@~"
"""What stays as it is in an encoded path, beside letters, digits and `_.-`."""


def unquote(path: bytes) -> bytes:
    """The path with its percent escapes undone, once.

    A plus sign stays one. ValueError for a malformed escape.
    """
    if b"%" not in path:
        return path
    if _BAD_ESCAPE.search(path):
        raise ValueError("a percent sign is not followed by two hexadecimal digits")
    return unquote_to_bytes(path)


def clean_path(path: bytes) -> bytes | None:
    """Where a request for this raw path is sent instead (a `Location` without query); None when it may stay.

    A path is sent elsewhere when, once decoded, it has an empty segment, `.` or `..`. A slash at the end is
    kept. ValueError for a malformed escape.
    """
    decoded = unquote(path)
    if not _UNCLEAN.search(decoded):
        return None
    names: list[bytes] = []
    for name in decoded.split(b"/"):
        if name == b"..":
            names = names[:-1]
        elif name not in (b"", b"."):
            names.append(name)
    end = b"/" if names and decoded.endswith(b"/") else b""
    return quote_from_bytes(b"/" + b"/".join(names) + end, safe=_KEPT).encode()
