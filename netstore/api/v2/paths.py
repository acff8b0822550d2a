"""Request paths: percent decoding, clean form and depth, before any routing (v2 API, path handling)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_from_bytes

from netstore.api.v2.percent import decode
from netstore.errors import Fault

MAX_NAMES: Final = 256
"""Names a key may have, one below the other. Each directory on the way is stored with its whole path, so what
a key costs grows with its length times its depth: 30,000 names in a head of 60 KiB made 450 MiB. The deepest
use known is SkyDNS, which makes a name of each of the at most 127 labels of a domain. etcd has no such limit.
"""

_UNCLEAN: Final = re.compile(rb"//|/\.\.?(?:/|\Z)")
_KEPT: Final = "/$&+,:;=@~"
"""What stays as it is in an encoded path, beside letters, digits and `_.-`."""


def check_depth(key: bytes) -> None:
    """Raise Fault 209 for a key that lies deeper than `MAX_NAMES`."""
    if key.count(b"/") > MAX_NAMES:
        raise Fault(209, b"the key has more than %d names, one below the other" % MAX_NAMES)


def clean_path(path: bytes) -> bytes | None:
    """Where a request for this raw path is sent instead (a `Location` without query); None when it may stay.

    A path is sent elsewhere when, once decoded, it has an empty segment, `.` or `..`. A slash at the end is
    kept. ValueError for a malformed escape.
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
    return quote_from_bytes(b"/" + b"/".join(names) + end, safe=_KEPT).encode()
