"""Torn tail or rot? Reads the segments of a write-ahead log and says what may be done with them. Pure.

The question at a record that does not verify is whether anyone was ever told that it is safe. What is known:

- The device syncs one segment before it writes the next. So all but the last written segment are complete,
  and the opening of each says where the one before ended and with which checksum.
- A frame carries how far its segment was synced when it was made. A later frame that says "synced beyond
  here" proves that a record was safe: it is damaged, and cutting it would take back an acknowledgement.
- Without such a proof, the record is in the last group of writes. If a sector of it still ends in zero, it
  was never written in full and nobody was told: cut. If every sector was written (`frame`, invariant 3), it
  was whole once and may have been acknowledged: refuse.

- Two places beside the log say how far it was on stable storage once: the state, as of each of its commits,
  and a note that is written after each sync and not synced itself. A log that does not reach there, or has
  other records there, is not the whole log (`Position`).

What it cannot see: the last group, damaged so that it looks torn, when the power failed within moments of its
sync (before the note was on the disk by itself, and before the next commit of the state): that is what a
write that never finished leaves. And a device that reports a sync it did not do. Raft's quorum is the answer
to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore import codec
from netstore.codec import Malformed
from netstore.disk.frame import Flaw, Frame, Identity, Kind, Place, read, witness
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEAR: Final = 4096

FORMAT: Final = 2
"""Version of the log and of the entries in it; stands first in every opening. Any other is refused."""


@dataclass(slots=True, frozen=True)
class Clean:
    """The log ends where the last record ends."""


@dataclass(slots=True, frozen=True)
class CutTail:
    """Bytes from `offset` on were never acknowledged: cut `name` there; `lost` of them are not zero."""

    name: str
    offset: int
    lost: int
    why: str


@dataclass(slots=True, frozen=True)
class Refuse:
    """What was safe once cannot be read. Change nothing; ask the peers or the operator."""

    name: str
    offset: int
    why: str


START: Final = Place(0, 0)
"""Where the first segment comes from."""

Verdict = Clean | CutTail | Refuse


@dataclass(slots=True, frozen=True)
class Opening:
    """First record of a segment."""

    identity: Identity
    segment: int
    previous: Place
    """Where the segment before ended; (0, 0) for the first."""
    hard_state: bytes
    """The latest at that time, encoded; empty when there was none."""
    mark: bytes
    """Same for the snapshot."""

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
        format: nothing is wrong with it.
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
    """One file as found."""

    name: str
    number: int
    data: bytes


@dataclass(slots=True, frozen=True)
class Record:
    """A verified record and the number of the segment it stands in."""

    kind: int
    payload: bytes
    segment: int


class Position(NamedTuple):
    """A place in a log that was on stable storage."""

    segment: int
    at: int
    """Where a record ends."""
    chain: int
    """Head checksum of its last frame."""

    def encode(self, seed: int) -> bytes:
        """The note of it: these numbers (8, 4 and 4 bytes) and a checksum. `seed` is the identity's for this
        segment: the note tells whose log it is.
        """
        fields = _POSITION.pack(*self)
        return fields + codec.u32(codec.crc32c(fields, seed))

    @classmethod
    def decode(cls, note: bytes, identity: Identity) -> Position | None:
        """The inverse; None for what is no such note, or is of another log."""
        if len(note) != POSITION_BYTES:
            return None
        position = cls(*_POSITION.unpack_from(note))
        return position if position.encode(identity.seed(position.segment)) == note else None


_POSITION: Final = codec.layout("QII")
POSITION_BYTES: Final = _POSITION.size + 4


@dataclass(slots=True)
class Diagnosis:
    """The verified records in order, the verdict on what follows them, and where writing goes on.

    `segment` is None when nothing was ever written.
    """

    records: list[Record] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Clean)
    segment: int | None = None
    end: Place = START
    unseen: set[Position] = field(default_factory=set)
    """Places that were on stable storage once and are not there, though no snapshot covers them."""


def diagnose(segments: Iterable[Segment], identity: Identity, safe: Iterable[Position] = ()) -> Diagnosis:
    """Judge the segments of one log, given in the order of their numbers, holding one at a time.

    `safe` are places that were on stable storage once. NetstoreError for a log of another format.
    """
    found = _diagnose(segments, identity, set(safe))
    if not found.unseen or isinstance(found.verdict, Refuse):
        return found
    place = max(found.unseen)
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


def _diagnose(segments: Iterable[Segment], identity: Identity, safe: set[Position]) -> Diagnosis:
    found = Diagnosis(unseen=safe)
    blank: Segment | None = None
    suspect: CutTail | Refuse | None = None  # what is wrong with the tail of found.segment, if it is the last
    for segment in segments:
        if _is_blank(segment.data):
            blank = blank or segment
            continue
        if blank is not None:
            return _refuse(found, blank.name, 0, f"empty, but {segment.name} after it is not")
        if found.segment is not None and segment.number != found.segment + 1:
            return _refuse(found, segment.name, 0, f"segment {found.segment + 1} before it is missing")
        seed = identity.seed(segment.number)
        first = read(segment.data, seed, Place(0, seed))
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
            found.unseen = {place for place in safe if place.segment >= segment.number}
        suspect = _take(found, segment, seed)
    if suspect is not None:
        found.verdict = suspect
    return found


def _is_blank(data: bytes, at: int = 0) -> bool:
    """Whether only zeros come from here on. 2 ns a byte, `strip` takes 12; none where one is near."""
    return not data[at : at + _NEAR].strip(b"\0") and data.count(0, at) == len(data) - at


def _refuse(found: Diagnosis, name: str, offset: int, why: str) -> Diagnosis:
    found.verdict = Refuse(name, offset, why)
    return found


def _wrong_opening(found: Diagnosis, segment: Segment, first: Frame) -> tuple[str, int, str] | None:
    """What does not fit between this opening and the end of the segment before: file, offset, reason."""
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
    """What is wrong with a segment that ends at `end`, where `following` goes on from `previous`."""
    if end.at < previous.at:
        return f"ends before offset {previous.at}, where {following} goes on"
    if end.at > previous.at:
        return f"ends behind offset {previous.at}, where {following} goes on, which was made before the rest"
    return f"ends with another record than the one after which {following} goes on"


def _take(found: Diagnosis, segment: Segment, seed: int) -> CutTail | Refuse | None:
    """Add the records of one segment; what is wrong with what follows them, or None for a clean end."""
    found.segment, found.end = segment.number, Place(0, seed)
    place = found.end
    parts: list[bytes] = []
    while isinstance(frame := read(segment.data, seed, place), Frame):
        place = frame.after
        parts.append(frame.payload)
        if not frame.more:
            found.records.append(Record(frame.kind, b"".join(parts), segment.number))
            found.end = place
            if found.unseen:
                found.unseen.discard(Position(segment.number, *place))
            parts = []
    if not parts and _is_blank(segment.data, place.at):
        return None
    return _judge(segment, seed, found.end.at, place.at, frame)


def _judge(segment: Segment, seed: int, cut_at: int, flaw_at: int, flaw: Flaw) -> CutTail | Refuse:
    """The verdict if this is the last segment: its good records end at `cut_at`, the flaw is at `flaw_at`."""
    proof = witness(segment.data, seed, flaw_at)
    if proof is not None:
        return Refuse(segment.name, flaw_at, f"damaged after it was synced, as the record at {proof} says")
    if flaw is Flaw.ROTTEN:
        return Refuse(segment.name, flaw_at, "damaged: written in full, but not what was written")
    lost = len(segment.data[cut_at:].strip(b"\0"))
    return CutTail(segment.name, cut_at, lost, "the last write never finished")
