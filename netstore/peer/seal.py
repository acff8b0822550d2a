"""What is said after a challenge, in records that nobody on the way can change, leave out, repeat or add to.
Pure.

Each side has a key of its own, made from the cluster's secret and the random numbers of both (`peerproof`),
so no two streams share one. A record is its length, its tag and its bytes; the tag is HMAC-SHA256 (RFC 2104),
cut to 16 bytes, over the number of the record in its direction, its length and its bytes. Nothing is
encrypted. Who cuts the connection ends the stream: that is seen, and says nothing false.
"""

from __future__ import annotations

import hmac
from typing import Final

from netstore.codec import layout
from netstore.errors import NetstoreError

RECORD_BYTES: Final = 16 * 1024
"""Of what is said in one record, at most: what has come of one is held until the rest is there."""

OPENED_RECORDS: Final = 256
"""Records that are taken in one turn: 1.5 ms of the shortest. What was read beside them waits."""

TAG_BYTES: Final = 16

ALTERED: Final = "changed on the way"
"""Begins what is told of a record that the other side did not send."""

_HEAD: Final = layout(f"I{TAG_BYTES}s")
_NUMBERED: Final = layout("QI")


class Altered(NetstoreError):  # noqa: N818 - named for what was found
    """A record is not one of the other side's, or not the next one. The text begins with `ALTERED`."""


class Seal:
    """Both directions of one stream, at one of its ends."""

    __slots__ = ("_read", "_read_key", "_rest", "_wanted", "_write_key", "_written")

    def __init__(self, write_key: bytes, read_key: bytes) -> None:
        self._write_key = write_key
        self._read_key = read_key
        self._written = 0
        """Records that were made."""
        self._read = 0
        """Records that were taken."""
        self._rest = b""
        self._wanted = _HEAD.size

    def close(self, data: bytes) -> bytes:
        """`data` as records. Costs 2 us for each KiB."""
        records: list[bytes] = []
        for at in range(0, len(data), RECORD_BYTES):
            piece = data[at : at + RECORD_BYTES]
            records.append(_HEAD.pack(len(piece), _tag(self._write_key, self._written, piece)))
            records.append(piece)
            self._written += 1
        return b"".join(records)

    @property
    def more(self) -> bool:
        """Perhaps a record is here that was not taken yet."""
        return len(self._rest) >= self._wanted

    def open(self, data: bytes) -> bytes:
        """What the records say that `data` completes, or the first `OPENED_RECORDS` of them: no more is to be
        read while there are `more`. Altered where one is not of the other side.
        """
        data = self._rest + data
        if len(data) < self._wanted:
            self._rest = data
            return b""
        pieces: list[bytes] = []
        at = 0
        self._wanted = _HEAD.size
        while len(data) - at >= _HEAD.size and len(pieces) < OPENED_RECORDS:
            length, tag = _HEAD.unpack_from(data, at)
            if not 0 < length <= RECORD_BYTES:
                raise Altered(f"{ALTERED}: a record of {length} bytes")
            start = at + _HEAD.size
            if len(data) - start < length:
                self._wanted = _HEAD.size + length
                break
            piece = data[start : start + length]
            if not hmac.compare_digest(tag, _tag(self._read_key, self._read, piece)):
                raise Altered(f"{ALTERED}: record {self._read} is not what the other member sent")
            self._read += 1
            pieces.append(piece)
            at = start + length
        self._rest = data[at:]
        return b"".join(pieces)


def _tag(key: bytes, number: int, piece: bytes) -> bytes:
    return hmac.digest(key, _NUMBERED.pack(number, len(piece)) + piece, "sha256")[:TAG_BYTES]
