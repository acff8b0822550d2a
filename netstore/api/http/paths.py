"""The clean form of a request path (v2 API, path handling)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_from_bytes

from netstore.api.http.percent import decode

_UNCLEAN: Final = re.compile(rb"//|/\.\.?(?:/|\Z)")
_UNESCAPED: Final = "/$&+,:;=@~"
"""Not escaped in an encoded path, as are letters, digits and `_.-`."""


def clean_path(path: bytes) -> bytes | None:
    """Where a request for this raw path is redirected to (a `Location` without the query); None if the path
    is clean.

    A path is not clean if, once decoded, it has an empty segment, `.` or `..`. A slash at the end is kept.
    ValueError for a malformed escape.
    """
    decoded = decode(path)
    if not _UNCLEAN.search(decoded):
        return None
    names: list[bytes] = []
    for name in decoded.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    end = b"/" if names and decoded.endswith(b"/") else b""
    return quote_from_bytes(b"/" + b"/".join(names) + end, safe=_UNESCAPED).encode()
