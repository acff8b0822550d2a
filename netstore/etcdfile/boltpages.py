"""The pages of a bbolt database as bytes, for who writes and who reads one.

v3 API, snapshot file compatibility.

Numbers are little-endian. What is too long for one page continues on the pages after it (`overflow`). A page
begins with its number (u64), kind (u16), count (u16) and overflow (u32); then come its elements of 16 bytes,
each with the distance to its key and value, then the keys and values. A bucket is an element of the root page
whose value is the number of the bucket's root page and a sequence, both u64; where the number is 0, the page
itself follows. Pages 0 and 1 are the metas.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

BRANCH: Final = 0x01
LEAF: Final = 0x02
META: Final = 0x04
FREE: Final = 0x10
"""Kinds of pages."""

IS_BUCKET: Final = 1
"""Flag of an element."""

MAGIC: Final = 0xED0CDAED
VERSION: Final = 2

HEAD: Final = Struct("<QHHI")
LEAF_ELEMENT: Final = Struct("<IIII")
"""Flags, distance, bytes of the key, bytes of the value."""

BRANCH_ELEMENT: Final = Struct("<IIQ")
"""Distance, bytes of the key, number of the page below."""

BUCKET: Final = Struct("<QQ")
META_FIELDS: Final = Struct("<IIIIQQQQQ")
"""Magic, version, bytes of a page, flags, root page, sequence, page of the free list, number of pages,
transaction.
"""

CHECKSUM: Final = Struct("<Q")
"""Of the fields of a meta, after them."""


def fnv1a(data: bytes) -> int:
    """FNV-1a of 64 bits (draft-eastlake-fnv), the checksum of a meta page."""
    checksum = 0xCBF29CE484222325
    for byte in data:
        checksum = (checksum ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return checksum
