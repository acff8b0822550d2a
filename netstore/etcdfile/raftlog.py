"""Reads the write-ahead log and the v2 snapshots of an etcd member.

A log is a series of files SEQUENCE-INDEX.wal. Each has frames: a length (u64, little-endian; its low 56 bits
count the bytes of the record, the low 3 bits of its top byte those of the padding if the sign bit is set),
the record, the padding. A length of 0 ends a file, which is filled with zeros. A record has a kind, a CRC-32C
of all data so far, and data. A snapshot TERM-INDEX.snap is a message with a CRC-32C and the message it is of.

Damage raises CorruptData with file and offset. What can be the last write, which a crash left unfinished,
is left out: the record that does not fit has a sector of zeros, or the file ends within it, and nothing but
zeros follows. Where more follows, that may have been acknowledged, and it is left out only if the caller says
so.
"""

from __future__ import annotations

import re
from array import array
from io import SEEK_END
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from netstore.codec import Malformed, crc32c, read_varint
from netstore.errors import CorruptData
from netstore.etcdfile.protofields import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
SNAPSHOT_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.snap")

MAX_RECORD_BYTES: Final = 256 * 1024 * 1024
"""Largest record. An etcd takes requests of 1.5 MiB by default."""

MAX_SNAPSHOT_BYTES: Final = 2**31
"""Largest v2 snapshot, which is read as a whole."""

_LENGTH: Final = Struct("<Q")
_SECTOR: Final = 512
_READ_BYTES: Final = 1024 * 1024
_METADATA, _ENTRY, _STATE, _CRC, _SNAPSHOT = 1, 2, 3, 4, 5
_SIZE_BITS: Final = (1 << 56) - 1
_HEAD_BYTES: Final = 64
"""More than a frame has before the data of its record, and less than a sector."""

_FILE_BITS: Final = 40
"""A place in the log is a number: the file, and in the low bits the offset of its frame."""

NORMAL: Final = 0
CHANGE: Final = 1
"""Kinds of entries."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log. `place` says where it is, for messages."""

    index: int
    kind: int
    data: bytes
    place: str


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A v2 snapshot: the state of the v2 store after the entry `index`, as JSON."""

    index: int
    term: int
    data: bytes


class DamagedEnd(CorruptData):
    """The last file of a log is damaged. What comes before the place can be taken without what follows."""


class LeftOut(msgspec.Struct, frozen=True, gc=False):
    """What the end of the last file has and the log does not."""

    place: str
    """File and offset where it begins."""
    size: int
    """Bytes from there to the last one that is not zero."""


class RaftLog:
    """The log in these files, as of its end: entries that were overwritten later are left out. Memory: eight
    bytes for each entry.
    """

    def __init__(self, files: Sequence[tuple[str, BinaryIO]], *, without_damaged_end: bool = False) -> None:
        """Read all of it. Blocks. The files, by name, are in the order of the log. With `without_damaged_end`
        the last file ends before its first damage.

        CorruptData if it is damaged, or a file is missing; DamagedEnd if it is damaged in its last file.
        """
        self._files = files
        self._without_damaged_end = without_damaged_end
        self.member = 0
        self.cluster = 0
        self.commit = 0
        """The last entry that it knows to be committed."""
        self.first = 1
        """Index of the first entry that it has, or would have."""
        self._places = array("Q")
        self.snapshots: set[tuple[int, int]] = set()
        """Index and term of each snapshot that it knows of."""
        self.torn = ""
        """Where the last write was left unfinished by a crash; empty if none was."""
        self.lost: LeftOut | None = None
        """What was left out with `without_damaged_end`."""
        self._check_order()
        checksum = 0
        for number in range(len(files)):
            checksum = self._read(number, checksum)

    @property
    def last(self) -> int:
        """Index of the last entry; of the one before the first if there is none."""
        return self.first + len(self._places) - 1

    def entries(self, after: int) -> Iterator[Entry]:
        """The entries from the next index on. Blocks."""
        for index in range(max(after + 1, self.first), self.last + 1):
            packed = self._places[index - self.first]
            number, offset = packed >> _FILE_BITS, packed & (1 << _FILE_BITS) - 1
            name, file = self._files[number]
            place = f"{name}: offset {offset}"
            try:
                entry = Message(Message(self._frame(file, offset)[0]).data(3))
                yield Entry(index, entry.number(1), entry.data(4), place)
            except Malformed as error:
                raise CorruptData(f"{place}: not an entry ({error})") from None

    def _check_order(self) -> None:
        before = None
        for name, _ in self._files:
            match = LOG_NAME.fullmatch(name.rpartition("/")[2])
            sequence = int(match[1], 16) if match else -1
            if before is not None and sequence != before + 1:
                raise CorruptData(f"{name}: offset 0: the file of the log before it is missing")
            before = sequence

    def _read(self, number: int, checksum: int) -> int:
        """Read one file, given the checksum of all before it; the checksum after it."""
        name, file = self._files[number]
        size = file.seek(0, SEEK_END)
        offset = 0
        while offset < size:
            data, end = self._frame(file, offset)
            if end == offset:
                if _last_byte(file, offset, size) > offset:
                    self._end_at(number, offset, "zeros where a record begins", size)
                break
            flaw = "a record that is longer than the rest of the file" if end > size else ""
            if not flaw:
                try:
                    record = Message(data)
                    checksum, flaw = self._take(number, offset, record, checksum)
                except Malformed as error:
                    flaw = f"not a record ({error})"
            if flaw:
                if number == len(self._files) - 1 and _is_unfinished(file, offset, end, size):
                    self.torn = f"{name}: offset {offset}"
                else:
                    self._end_at(number, offset, flaw, size)
                break
            offset = end
        return checksum

    def _end_at(self, number: int, offset: int, flaw: str, size: int) -> None:
        """Note that the log ends at a damaged place, if the caller has asked for that."""
        name, file = self._files[number]
        place = f"{name}: offset {offset}"
        found = f"{place}: {flaw}"
        advice = "nothing was changed: take the folder of another member"
        if number < len(self._files) - 1:
            raise CorruptData(f"{found}; {advice}")
        self.lost = LeftOut(place, _last_byte(file, offset, size) - offset)
        if not self._without_damaged_end:
            raise DamagedEnd(
                f"{found}, and {self.lost.size} bytes of the log from there on, which may have been"
                f" acknowledged, would be lost; {advice}"
            )

    @staticmethod
    def _frame(file: BinaryIO, offset: int) -> tuple[bytes, int]:
        """The record at an offset, and where the next one begins: at the same offset if there is none."""
        file.seek(offset)
        head = file.read(_LENGTH.size)
        length: int = _LENGTH.unpack(head.ljust(_LENGTH.size, b"\0"))[0]
        if not length:
            return b"", offset
        size = length & _SIZE_BITS
        padding = length >> 56 & 7 if length >> 63 else 0
        end = offset + _LENGTH.size + size + padding
        return file.read(size) if size <= MAX_RECORD_BYTES else b"", end

    def _take(self, number: int, offset: int, record: Message, checksum: int) -> tuple[int, str]:
        """Note what a record says; the checksum after it, and what is wrong with it."""
        kind, data = record.number(1), record.data(3)
        if kind == _CRC:
            known = record.number(2)
            return known, "" if checksum in {0, known} else "the checksum of the file before it does not fit"
        after = crc32c(data, checksum)
        if after != record.number(2):
            return checksum, "the checksum does not fit"
        if kind == _METADATA:
            metadata = Message(data)
            self.member, self.cluster = metadata.number(1), metadata.number(2)
        elif kind == _ENTRY:
            entry = Message(data)
            return after, self._place(entry.number(3), number << _FILE_BITS | offset)
        elif kind == _STATE:
            self.commit = Message(data).number(3)
        elif kind == _SNAPSHOT:
            snapshot = Message(data)
            index = snapshot.number(1)
            self.snapshots.add((index, snapshot.number(2)))
            if index > self.last:  # received from the leader, in the place of the entries up to it
                self.first, self._places = index + 1, array("Q")
        else:
            return after, f"a record of kind {kind}"
        return after, ""

    def _place(self, index: int, place: int) -> str:
        """An entry replaces those from its index on."""
        if not self._places and index >= self.first:
            self.first = index
        if not self.first <= index <= self.last + 1:
            return f"entry {index} after entry {self.last}"
        del self._places[index - self.first :]
        self._places.append(place)
        return ""


def _is_unfinished(file: BinaryIO, offset: int, end: int, size: int) -> bool:
    """Whether a frame that does not fit can be of a write that was not finished: nothing follows it, its
    length is no lie, and a part of it in some sector is zero, as that was not written, or the file ends
    within it.
    """
    start = offset + _LENGTH.size
    last = _last_byte(file, start, size)
    if last <= start:
        return True
    if last > end or not _has_own_length(file, offset):
        return False
    return end > size or _has_empty_sector(file, start, end)


def _has_own_length(file: BinaryIO, offset: int) -> bool:
    """Whether the record in a frame is as long by the length of its data, its last field, as by the frame's;
    or that part of it was not written.
    """
    file.seek(offset)
    head = file.read(_HEAD_BYTES)
    own = _SECTOR - offset % _SECTOR
    if not any(head[own:]):
        head = head[:own]
    end, at = _LENGTH.size + (_LENGTH.unpack_from(head)[0] & _SIZE_BITS), _LENGTH.size
    try:
        for field in (1, 2):
            tag, at = read_varint(head, at)
            if tag != field << 3:
                return False
            _, at = read_varint(head, at)
        if at == end:
            return True
        tag, at = read_varint(head, at)
        length, at = read_varint(head, at)
    except Malformed:
        return len(head) < _HEAD_BYTES
    return tag == 3 << 3 | 2 and at + length == end


def _has_empty_sector(file: BinaryIO, start: int, end: int) -> bool:
    """Whether what these bytes have in some sector is zero."""
    file.seek(start)
    data = file.read(min(end - start, MAX_RECORD_BYTES))
    at = 0
    while at < len(data):
        size = _SECTOR - (start + at) % _SECTOR
        if not any(data[at : at + size]):
            return True
        at += size
    return False


def _last_byte(file: BinaryIO, start: int, size: int) -> int:
    """The offset after the last byte from `start` on that is not zero; `start` if there is none."""
    last, at = start, start
    file.seek(start)
    while at < size and (piece := file.read(min(_READ_BYTES, size - at))):
        kept = len(piece.rstrip(b"\0"))
        if kept:
            last = at + kept
        at += len(piece)
    return last


def read_snapshot(file: BinaryIO, name: str) -> Snapshot:
    """A v2 snapshot, verified. Blocks. CorruptData if it is damaged."""
    data = file.read(MAX_SNAPSHOT_BYTES + 1)
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise CorruptData(f"{name}: offset {MAX_SNAPSHOT_BYTES}: longer than a v2 snapshot may be")
    try:
        outer = Message(data)
        inner = outer.data(2)
        if not inner or crc32c(inner) != outer.number(1):
            raise CorruptData(
                f"{name}: offset 0: the checksum of the snapshot does not fit; take another copy"
            )
        snapshot = Message(inner)
        metadata = Message(snapshot.data(2))
        return Snapshot(metadata.number(2), metadata.number(3), snapshot.data(1))
    except Malformed as error:
        raise CorruptData(f"{name}: offset 0: not a v2 snapshot ({error}); take another copy") from None
