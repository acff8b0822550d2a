"""Checksums of the records in the state file. Pure.

A record is stored as its value and four bytes more: the CRC-32C of the name of its database, the length of
its key, the key and the value. So a value whose bytes changed does not verify, and neither does one that
stands under another key or in another database.
"""

from __future__ import annotations

from typing import Final

from google_crc32c import extend

from netstore.codec import crc32c, layout

CHECK: Final = layout("I")
_pack_check: Final = CHECK.pack
CHECK_BYTES: Final = 4
"""By how much a stored record is longer than its value."""

JOINED_BYTES: Final = 4096
"""Up to this size, joining key and record for one call is faster than two calls."""

RESIDUE: Final = 0x48674BC7
"""The CRC-32C of any bytes that are followed by their own CRC-32C. Every CRC whose result is inverted has
such a constant. Comparing with it saves splitting the record and decoding its checksum.
"""


def database_seed(database: str) -> int:
    """The value that the checksums of one LMDB database start from."""
    return crc32c(database.encode())


def add_checksum(seed: int, key: bytes, value: bytes) -> tuple[bytes, int]:
    """A record as it is stored, and its checksum. `seed` is `database_seed` of its database."""
    if len(value) > JOINED_BYTES:
        check = extend(extend(seed ^ len(key), key), value)
    else:
        check = extend(seed ^ len(key), key + value)
    return value + _pack_check(check), check


def is_intact(seed: int, key: bytes, stored: bytes) -> bool:
    """Whether a stored record is what was written under this key of this database. 0.2 us, 40 us a MiB."""
    check: int
    if len(stored) > JOINED_BYTES:
        check = extend(extend(seed ^ len(key), key), stored)
    else:
        check = extend(seed ^ len(key), key + stored)
    return check == RESIDUE
