"""Torn write or damage? Reads the segments of a write-ahead log and decides whether it may be used. Pure.

The question at a record that does not verify is whether it may have been acknowledged. What is known:

- The device syncs one segment before it writes the next. So all segments but the last are complete, and the
  opening of each has the end of the one before and its last checksum.
- A frame has how far its segment was synced when the frame was made. If a later frame has an offset beyond
  the record, the record was synced: it is damaged, and cutting it off would lose acknowledged writes.
- Without such a proof, the record is in the last group of writes. If a sector of it ends in zero, it was
  never written completely and never acknowledged: cut it off. If all its sectors were written (`frame`,
  invariant 3), it was complete once and may have been acknowledged: refuse.
- Two places beside the log record how far it was synced: the state, with each of its commits, and a note that
  is written after each sync and not synced itself. A log that ends before that, or has another record there,
  is incomplete (`Position`).

What cannot be detected: the last group of writes, damaged so that it looks torn, if the power failed moments
after its sync, before the kernel wrote the note and before the next commit of the state. A torn write looks
the same. And a device that reports a sync it did not do. In both cases the other members have what was
acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore import codec
from netstore.codec import Malformed
from netstore.disk.frame import Flaw, Frame, Identity, Kind, Place, find_proof, read_frame
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEAR: Final = 4096

FORMAT: Final = 2
"""Version of the log and of the entries in it, the first field of every opening. Any other is refused."""


@dataclass(slots=True, frozen=True)
class Clean:
    """The log ends where the last record ends."""


@dataclass(slots=True, frozen=True)
class CutTail:
    """Bytes from `offset` on were never acknowledged: cut `name` there. `lost` of them are not zero."""

    name: str
    offset: int
    lost: int
    why: str


@dataclass(slots=True, frozen=True)
class Refuse:
    """Something that was synced cannot be read. Change nothing; the member needs its peers or a backup."""

    name: str
    offset: int
    why: str


START: Final = Place(0, 0)
"""`Opening.previous` of the first segment."""

Verdict = Clean | CutTail | Refuse


@dataclass(slots=True, frozen=True)
class Opening:
    """The first record of a segment, its header."""

    identity: Identity
    segment: int
    previous: Place
    """Where the segment before ended; (0, 0) for the first."""
    hard_state: bytes
    """The latest when the segment was begun, encoded; empty if there was none."""
    mark: bytes
    """The latest mark, likewise."""

    def encode(self) -> bytes:
        """The payload of the record."""
        return b"".join(
            (
                codec.varint(FORMAT),
                codec.varint(self.identity.cluster),
                codec.varint(self.identity.member),
                codec.varint(self.segment),
                codec.varint(self.previous.at),
                codec.u32(self.previous.chain),
                codec.prefixed(self.hard_state),
                codec.prefixed(self.mark),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Opening:
        """Malformed when the bytes are not an opening. NetstoreError, with the fix, for one of another
        format, which is no damage.
        """
        version, at = codec.read_varint(data, 0)
        if version != FORMAT:
            raise NetstoreError(
                f"written in log format {version}, this version reads {FORMAT}; nothing was changed: start"
                " the build that wrote it"
            )
        cluster, at = codec.read_varint(data, at)
        member, at = codec.read_varint(data, at)
        segment, at = codec.read_varint(data, at)
        end, at = codec.read_varint(data, at)
        chain, at = codec.read_u32(data, at)
        hard_state, at = codec.read_prefixed(data, at)
        mark, at = codec.read_prefixed(data, at)
        if at != len(data):
            raise Malformed(f"{len(data) - at} bytes too many in an opening")
        return cls(Identity(cluster, member), segment, Place(end, chain), hard_state, mark)


@dataclass(slots=True, frozen=True)
class Segment:
    """A file of the log."""

    name: str
    number: int
    data: bytes


@dataclass(slots=True, frozen=True)
class Record:
    """A verified record and the number of its segment."""

    kind: int
    payload: bytes
    segment: int


class Position(NamedTuple):
    """The end of a record that is known to have been on stable storage."""

    segment: int
    at: int
    """The offset of the end."""
    chain: int
    """The head checksum of the record's last frame."""

    def encode(self, seed: int) -> bytes:
        """The note: these numbers (8, 4 and 4 bytes) and a checksum, which starts from `seed`, that of the
        segment, so that the note of another log does not verify.
        """
        fields = _POSITION.pack(*self)
        return fields + codec.u32(codec.crc32c(fields, seed))

    @classmethod
    def decode(cls, note: bytes, identity: Identity) -> Position | None:
        """The inverse; None for anything else, also the note of another log."""
        if len(note) != POSITION_BYTES:
            return None
        position = cls(*_POSITION.unpack_from(note))
        return position if position.encode(identity.seed(position.segment)) == note else None


_POSITION: Final = codec.layout("QII")
POSITION_BYTES: Final = _POSITION.size + 4


@dataclass(slots=True)
class Diagnosis:
    """The verified records in order, the verdict on what follows them, and where the log continues.

    `segment` is None when nothing was ever written.
    """

    records: list[Record] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Clean)
    segment: int | None = None
    end: Place = START
    missing: set[Position] = field(default_factory=set)
    """Positions that were synced, were not found, and are not covered by a snapshot."""


def diagnose(segments: Iterable[Segment], identity: Identity, synced: Iterable[Position] = ()) -> Diagnosis:
    """Judge the segments of one log, given in the order of their numbers; one at a time is in memory.

    `synced` are positions that were on stable storage. NetstoreError for a log of another format.
    """
    found = _diagnose(segments, identity, set(synced))
    if not found.missing or isinstance(found.verdict, Refuse):
        return found
    place = max(found.missing)
    name = segment_name(place.segment)
    if found.segment is None:
        return _refuse(found, name, 0, "missing: the log has no file, and was written once")
    if (found.segment, found.end.at) < (place.segment, place.at):
        why = f"ends here, and was on stable storage up to offset {place.at} of {name}"
        return _refuse(found, segment_name(found.segment), found.end.at, why)
    return _refuse(found, name, place.at, "not the records that were on stable storage here")


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"{number:016x}.wal"


def _diagnose(segments: Iterable[Segment], identity: Identity, synced: set[Position]) -> Diagnosis:
    found = Diagnosis(missing=synced)
    blank: Segment | None = None
    suspect: CutTail | Refuse | None = None  # the verdict on the tail of found.segment, if no other follows
    for segment in segments:
        if _is_blank(segment.data):
            blank = blank or segment
            continue
        if blank is not None:
            return _refuse(found, blank.name, 0, f"empty, but {segment.name} after it is not")
        if found.segment is not None and segment.number != found.segment + 1:
            return _refuse(found, segment.name, 0, f"segment {found.segment + 1} before it is missing")
        seed = identity.seed(segment.number)
        first = read_frame(segment.data, seed, Place(0, seed))
        if isinstance(first, Flaw):
            tail = _judge(segment, seed, 0, 0, first)
            if isinstance(tail, Refuse) and found.segment is None:
                whose = f"is not of member {identity.member:x} of cluster {identity.cluster:x}, or damaged"
                return _refuse(found, segment.name, 0, f"{whose} ({tail.why})")
            if suspect is not None:
                return _refuse(found, suspect.name, suspect.offset, f"{suspect.why}; {segment.name} follows")
            suspect, blank = tail, segment
            continue
        wrong = _wrong_opening(found, segment, first)
        if wrong is not None:
            return _refuse(found, *wrong)
        if found.segment is None:
            found.missing = {place for place in synced if place.segment >= segment.number}
        suspect = _take(found, segment, seed)
    if suspect is not None:
        found.verdict = suspect
    return found


def _is_blank(data: bytes, at: int = 0) -> bool:
    """Whether all bytes from `at` on are zero. 2 ns a byte, where `strip` takes 12, and less if one is near
    that is not zero.
    """
    return not data[at : at + _NEAR].strip(b"\0") and data.count(0, at) == len(data) - at


def _refuse(found: Diagnosis, name: str, offset: int, why: str) -> Diagnosis:
    found.verdict = Refuse(name, offset, why)
    return found


def _wrong_opening(found: Diagnosis, segment: Segment, first: Frame) -> tuple[str, int, str] | None:
    """Why this opening does not continue the segment before: file, offset, reason; None if it does."""
    try:
        opening = Opening.decode(first.payload)
    except Malformed as error:
        return segment.name, 0, str(error)
    except NetstoreError as error:
        raise NetstoreError(f"write-ahead log: {segment.name}: {error}") from None
    if first.kind != Kind.OPENING or opening.segment != segment.number:
        return segment.name, 0, "does not begin with its opening"
    if found.segment is not None and opening.previous != found.end:
        return segment_name(found.segment), found.end.at, _misfit(found.end, opening.previous, segment.name)
    return None


def _misfit(end: Place, previous: Place, following: str) -> str:
    """Why a segment that ends at `end` is not the one that `following` continues, from `previous` on."""
    if end.at < previous.at:
        return f"ends before offset {previous.at}, where {following} goes on"
    if end.at > previous.at:
        return f"ends behind offset {previous.at}, where {following} goes on, which was made before the rest"
    return f"ends with another record than the one after which {following} goes on"


def _take(found: Diagnosis, segment: Segment, seed: int) -> CutTail | Refuse | None:
    """Add the records of one segment; the verdict on what follows them, None if nothing does."""
    found.segment, found.end = segment.number, Place(0, seed)
    place = found.end
    parts: list[bytes] = []
    while isinstance(frame := read_frame(segment.data, seed, place), Frame):
        place = frame.after
        parts.append(frame.payload)
        if not frame.more:
            found.records.append(Record(frame.kind, b"".join(parts), segment.number))
            found.end = place
            if found.missing:
                found.missing.discard(Position(segment.number, *place))
            parts = []
    if not parts and _is_blank(segment.data, place.at):
        return None
    return _judge(segment, seed, found.end.at, place.at, frame)


def _judge(segment: Segment, seed: int, cut_at: int, flaw_at: int, flaw: Flaw) -> CutTail | Refuse:
    """The verdict if this is the last segment. Its good records end at `cut_at`; the flaw is at `flaw_at`."""
    proof = find_proof(segment.data, seed, flaw_at)
    if proof is not None:
        return Refuse(segment.name, flaw_at, f"damaged after it was synced, as the record at {proof} says")
    if flaw is Flaw.DAMAGED:
        return Refuse(segment.name, flaw_at, "damaged: written in full, but not what was written")
    lost = len(segment.data[cut_at:].strip(b"\0"))
    return CutTail(segment.name, cut_at, lost, "the last write never finished")
