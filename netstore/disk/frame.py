"""Record framing of the write-ahead log. Pure.

A record becomes one or more frames of at most FRAGMENT payload bytes; all but the last are flagged as
continued. A frame is a 20-byte head and a payload:

    head checksum   4   of the segment's identity, the frame's offset and the other head fields
    checksum        4   of the payload as stored, continued from the head checksum of the frame before
    length          4   of the payload
    synced          4   offset below which this segment was on stable storage when the frame was made
    mask            1   each payload byte is stored exclusive-or this
    kind            1   kind of the record; the top bit means that the record continues in the next frame
    magic           2   constant, and last, so that a complete head never ends in zero

Three invariants make it possible to tell a torn write from a write that was damaged later (`diagnose`):

1. A head can be verified alone, and only in the file and at the offset it was made for: a misdirected write
   or a stale frame does not verify.
2. A payload verifies only after the frame that it was written after.
3. The part of a frame in each sector ends in a byte that is not zero and has more than one bit set, so that
   one flipped bit does not make it zero: the magic for a head (which is never split between sectors), a
   suitable mask for a payload. Segments are zero before they are written. So a sector that was written partly
   or not at all is recognised by a zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Final, NamedTuple

from netstore.codec import crc32c, layout, u64

SECTOR: Final = 512
"""The unit that a disk writes completely or not at all. Larger ones are multiples of it."""

FRAGMENT: Final = 27 * SECTOR
"""Longest payload of one frame. It has parts in at most 28 sectors, each of which rules out at most 9 of the
256 masks, so there is always one left.
"""

MAGIC: Final = 0xF5B7
_MAGIC_BYTES: Final = MAGIC.to_bytes(2, "little")
_MORE: Final = 0x80
_HEAD: Final = layout("IIIIBBH")
_FIELDS: Final = layout("IIIBBH")
HEAD_BYTES: Final = _HEAD.size
_MAGIC_AT: Final = HEAD_BYTES - 2
_WEAK: Final = bytes([0] + [1 << bit for bit in range(8)])
"""Bytes that are zero, or become zero when one bit is flipped."""


class Kind(IntEnum):
    """Kind of a record."""

    OPENING = 1
    """Header of a segment: the log it belongs to, and the end of the segment before."""
    BATCH = 2
    """A hard state, entries, or both."""
    MARK = 3
    """A snapshot that replaces all entries up to its index."""
    SEAL = 4
    """Written by a clean shutdown: everything before it is on stable storage."""


class Identity(NamedTuple):
    """The member that a log belongs to."""

    cluster: int
    member: int

    def seed(self, segment: int) -> int:
        """The value that the head checksums of one segment start from."""
        return crc32c(u64(self.cluster) + u64(self.member) + u64(segment))


class Place(NamedTuple):
    """Where the next frame goes: offset, and the head checksum of the frame before (at 0: the seed)."""

    at: int
    chain: int


class Flaw(IntEnum):
    """Why there is no valid frame at a place, judged by the bytes there."""

    BLANK = 1
    """All zero: never written."""
    TORN = 2
    """Written partly: some sector ends in zero."""
    DAMAGED = 3
    """Written completely and changed since."""


@dataclass(slots=True, frozen=True)
class Frame:
    """A verified frame. `start` is where it was looked for, before the padding if there is some; `after` is
    the place of the next one.
    """

    start: int
    kind: int
    more: bool
    payload: bytes
    synced: int
    after: Place


@cache
def _mask_table(mask: int) -> bytes:
    return bytes(byte ^ mask for byte in range(256))


def _mask_for(ends: bytes) -> int:
    """The lowest mask that makes none of these bytes one of _WEAK."""
    for mask in range(256):
        masked = ends.translate(_mask_table(mask))
        if masked.translate(None, _WEAK) == masked:
            return mask
    raise AssertionError("more than 28 parts in a frame")


def _aligned(at: int) -> int:
    """Where the next head goes: at `at`, or in the next sector if it does not fit in this one."""
    room = SECTOR - at % SECTOR
    return at if room >= HEAD_BYTES else at + room


def encode_record(seed: int, place: Place, kind: Kind, payload: bytes, synced: int) -> tuple[bytes, Place]:
    """The bytes to write at `place` for one record, and the place after them. About 3 us and 1 us per KiB."""
    if len(payload) <= FRAGMENT:
        return _encode_frame(seed, place, kind, payload, synced)
    parts = []
    for start in range(0, len(payload), FRAGMENT):
        more = _MORE if start + FRAGMENT < len(payload) else 0
        data, place = _encode_frame(seed, place, kind | more, payload[start : start + FRAGMENT], synced)
        parts.append(data)
    return b"".join(parts), place


def _encode_frame(seed: int, place: Place, kind: int, payload: bytes, synced: int) -> tuple[bytes, Place]:
    at = _aligned(place.at)
    start = at + HEAD_BYTES
    mask = 0
    if payload:
        ends = payload[SECTOR - 1 - start % SECTOR :: SECTOR] + payload[-1:]
        if ends.translate(None, _WEAK) != ends:
            mask = _mask_for(ends)
            payload = payload.translate(_mask_table(mask))
    fields = _FIELDS.pack(crc32c(payload, place.chain), len(payload), synced, mask, kind, MAGIC)
    check = crc32c(u64(at) + fields, seed)
    data = check.to_bytes(4, "little") + fields + payload
    if at != place.at:
        data = bytes(at - place.at) + data
    return data, Place(start + len(payload), check)


def read_frame(data: bytes, seed: int, place: Place) -> Frame | Flaw:
    """The frame at `place` in a segment, or why there is none. Bytes beyond the end count as zero."""
    at = _aligned(place.at)
    head = data[at : at + HEAD_BYTES]
    if not head.strip(b"\0"):
        return Flaw.BLANK
    if len(head) < HEAD_BYTES or crc32c(u64(at) + head[4:], seed) != int.from_bytes(head[:4], "little"):
        return Flaw.TORN if len(head) < HEAD_BYTES or head[-1] == 0 else Flaw.DAMAGED
    check, checksum, length, synced, mask, kind, _ = _HEAD.unpack(head)
    start = at + HEAD_BYTES
    payload = data[start : start + length]
    if crc32c(payload, place.chain) != checksum or len(payload) < length:
        ends = payload[SECTOR - 1 - start % SECTOR :: SECTOR] + payload[-1:]
        return Flaw.TORN if len(payload) < length or 0 in ends else Flaw.DAMAGED
    if mask:
        payload = payload.translate(_mask_table(mask))
    return Frame(place.at, kind & ~_MORE, bool(kind & _MORE), payload, synced, Place(start + length, check))


def find_proof(data: bytes, seed: int, flaw_at: int) -> int | None:
    """The offset of a head after `flaw_at` that proves that the bytes at the flaw were synced, or None.

    Such a head verifies (checksum, identity, offset) and its `synced` is beyond the flaw. Cost: one search
    for the magic.
    """
    found = data.find(_MAGIC_BYTES, flaw_at)
    while found >= 0:
        at = found - _MAGIC_AT
        if at > flaw_at:
            head = data[at : at + HEAD_BYTES]
            if crc32c(u64(at) + head[4:], seed) == int.from_bytes(head[:4], "little"):
                synced = _HEAD.unpack(head)[3]
                if synced > flaw_at:
                    return at
        found = data.find(_MAGIC_BYTES, found + 1)
    return None
