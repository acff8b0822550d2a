"""Reads the write-ahead log and the v2 snapshots of an etcd member.

A log is a series of files SEQUENCE-INDEX.wal. Each has frames: a length (u64, little-endian; its low 56 bits
count the bytes of the record, the low 3 bits of its top byte those of the padding if the sign bit is set),
the record, the padding. A length of 0 ends a file, which is filled with zeros. A record has a kind, a CRC-32C
of all data so far, and data. A snapshot TERM-INDEX.snap is a message with a CRC-32C and the message it is of.

Damage raises CorruptData with file and offset; a write that was torn by a crash at the end of the last file
is ignored, as etcd does.
"""

from __future__ import annotations

import re
from array import array
from io import SEEK_END
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from netstore.codec import Malformed, crc32c
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
_METADATA, _ENTRY, _STATE, _CRC, _SNAPSHOT = 1, 2, 3, 4, 5
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


class RaftLog:
    """The log in these files, as of its end: entries that were overwritten later are left out. Memory: eight
    bytes for each entry.
    """

    def __init__(self, files: Sequence[tuple[str, BinaryIO]]) -> None:
        """Read all of it. Blocks. The files, by name, are in the order of the log.

        CorruptData if it is damaged, or a file is missing.
        """
        self._files = files
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
        """Where a write was torn by a crash; empty if none was."""
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
        offset, is_last = 0, number == len(self._files) - 1
        while offset + _LENGTH.size <= size:
            data, end = self._frame(file, offset)
            if end == offset:
                break
            flaw = "a record that is cut short" if end > size else ""
            if not flaw:
                try:
                    record = Message(data)
                    checksum, flaw = self._take(number, offset, record, checksum)
                except Malformed as error:
                    flaw = f"not a record ({error})"
            if flaw:
                if is_last and (end > size or self._is_torn(file, offset, end)):
                    self.torn = f"{name}: offset {offset}"
                    break
                raise CorruptData(
                    f"{name}: offset {offset}: {flaw}; nothing was changed: take the folder of another member"
                )
            offset = end
        return checksum

    @staticmethod
    def _frame(file: BinaryIO, offset: int) -> tuple[bytes, int]:
        """The record at an offset, and where the next one begins: at the same offset if there is none."""
        file.seek(offset)
        head = file.read(_LENGTH.size)
        length: int = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not length:
            return b"", offset
        size = length & (1 << 56) - 1
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

    @staticmethod
    def _is_torn(file: BinaryIO, offset: int, end: int) -> bool:
        """Whether a part of a frame in some sector is zero: a sector that was not written."""
        file.seek(offset + _LENGTH.size)
        data = file.read(min(end - offset - _LENGTH.size, MAX_RECORD_BYTES))
        at, start = 0, offset + _LENGTH.size
        while at < len(data):
            size = _SECTOR - (start + at) % _SECTOR
            if not any(data[at : at + size]):
                return True
            at += size
        return False


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
