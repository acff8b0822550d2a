"""The key that a request path below `/v2/keys` names."""

from __future__ import annotations

from typing import Final

from netstore.api.http.percent import decode
from netstore.errors import Fault

PREFIX: Final = b"/v2/keys"

MAX_NAMES: Final = 256
"""Longest chain of names in a key. Each directory on the way is stored with its whole path, so a key costs
its length times its depth: 30,000 names in a request head of 60 KiB made 450 MiB. The deepest known use is
SkyDNS, which makes a name of each of the at most 127 labels of a domain. etcd has no such limit.
"""


def key_of(path: bytes) -> bytes:
    """The key in a raw request path; raises Fault 209 for one with more than `MAX_NAMES` names."""
    key = decode(path)[len(PREFIX) :].removesuffix(b"/") or b"/"
    if key.count(b"/") > MAX_NAMES:
        raise Fault(209, b"the key has more than %d names, one below the other" % MAX_NAMES)
    return key
