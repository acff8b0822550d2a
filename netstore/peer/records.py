"""Authenticated records: what follows a challenge cannot be altered, dropped, repeated or added to unnoticed.
Pure.

Each direction has a key of its own, derived from the cluster's secret and the random numbers of both sides
(`peer.handshake`), so no two streams share one. A record is its length, its tag and its bytes; the tag is
HMAC-SHA256 (RFC 2104), truncated to 16 bytes, over the number of the record in its direction, its length and
its bytes. Nothing is encrypted. Cutting the connection ends the stream, which is noticed.
"""

from __future__ import annotations

import hmac
from typing import Final

from netstore.codec import layout
from netstore.errors import NetstoreError

RECORD_BYTES: Final = 16 * 1024
"""Largest content of a record: what has arrived of an incomplete one is buffered."""

RECORDS_PER_TURN: Final = 256
"""Records decoded in one turn: 1.5 ms of the shortest. What was read beyond them waits."""

TAG_BYTES: Final = 16

TAMPERED: Final = "changed on the way"
"""Beginning of the text of a `RecordTampered`."""

_HEAD: Final = layout(f"I{TAG_BYTES}s")
_NUMBERED: Final = layout("QI")


class RecordTampered(NetstoreError):  # noqa: N818 - named for what was found
    """A record was not made by the other side, or is not the next one. The text begins with `TAMPERED`."""


class RecordLayer:
    """Both directions of a stream, at one of its ends."""

    __slots__ = ("_read", "_read_key", "_rest", "_wanted", "_write_key", "_written")

    def __init__(self, write_key: bytes, read_key: bytes) -> None:
        self._write_key = write_key
        self._read_key = read_key
        self._written = 0
        """Records encoded so far."""
        self._read = 0
        """Records decoded so far."""
        self._rest = b""
        """Bytes that were read and not decoded."""
        self._wanted = _HEAD.size
        """How many of them are needed for the next step."""

    def encode(self, data: bytes) -> bytes:
        """`data` as records. Costs 2 us for each KiB."""
        records: list[bytes] = []
        for at in range(0, len(data), RECORD_BYTES):
            piece = data[at : at + RECORD_BYTES]
            records.append(_HEAD.pack(len(piece), _tag(self._write_key, self._written, piece)))
            records.append(piece)
            self._written += 1
        return b"".join(records)

    @property
    def has_pending(self) -> bool:
        """A whole record may be buffered."""
        return len(self._rest) >= self._wanted

    def decode(self, data: bytes) -> bytes:
        """The contents of the records that `data` completes, of `RECORDS_PER_TURN` at most: nothing more is
        to be read while it `has_pending`. RecordTampered where a tag is wrong.
        """
        data = self._rest + data
        if len(data) < self._wanted:
            self._rest = data
            return b""
        pieces: list[bytes] = []
        at = 0
        self._wanted = _HEAD.size
        while len(data) - at >= _HEAD.size and len(pieces) < RECORDS_PER_TURN:
            length, tag = _HEAD.unpack_from(data, at)
            if not 0 < length <= RECORD_BYTES:
                raise RecordTampered(f"{TAMPERED}: a record of {length} bytes")
            start = at + _HEAD.size
            if len(data) - start < length:
                self._wanted = _HEAD.size + length
                break
            piece = data[start : start + length]
            if not hmac.compare_digest(tag, _tag(self._read_key, self._read, piece)):
                raise RecordTampered(f"{TAMPERED}: record {self._read} is not what the other member sent")
            self._read += 1
            pieces.append(piece)
            at = start + length
        self._rest = data[at:]
        return b"".join(pieces)


def _tag(key: bytes, number: int, piece: bytes) -> bytes:
    return hmac.digest(key, _NUMBERED.pack(number, len(piece)) + piece, "sha256")[:TAG_BYTES]
