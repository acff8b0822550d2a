"""The file of a full backup (contrib/doc/format-backup.md): every record of the state, in blocks that are
checked one by one, and a digest of all of it at the end.

    magic     16   "netstore backup\\n"
    blocks         length (u32), checksum (u32), body; the first byte of a body is the kind of the block

The checksum is the CRC-32C of length and body, continued from that of the block before, so a block verifies
only in its place. The first block is the header, the last one has the number of records of each table and the
SHA-256 of everything before it. Nothing follows it: a file that is cut short, at whatever place, has no end.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from netstore.codec import Malformed, crc32c, prefixed, read_prefixed, read_varint, u32, varint
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.entry import MAX_DATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"netstore backup\n"

FORMAT: Final = 1
"""Version of the file. A later one is refused."""

BLOCK_BYTES: Final = 64 * 1024
"""A block is written when its records have so many bytes: damage is told with the offset of its block."""

MOST_BLOCK_BYTES: Final = 2 * MAX_DATA_BYTES + 16 * 1024 * 1024
"""Longest block that is read: the largest record, an event of the v2 window with a value and the one before,
each of the largest entry; and some. It only bounds damaged lengths.
"""

_START: Final = crc32c(MAGIC)
_HEAD_BYTES: Final = 8


class Kind(IntEnum):
    """Kind of a block."""

    HEADER = 1
    RECORDS = 2
    END = 3


class LogPart(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the log that a backup has, by which it is known of which log it is (`disk.logpart`)."""

    first: int
    last: int
    """The last one that the backup has, or one shortly before that."""
    digest: str
    """BLAKE2b of them, 16 bytes, hexadecimal."""


class Header(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the backup is of. Ids are hexadecimal."""

    id: str
    """Random, so that two backups of one state differ."""
    format: int = FORMAT
    cluster: str
    member: str
    """The member that made it."""
    name: str
    version: str
    """Of netstored."""
    made: str
    """UTC, by the clock of that member, as 2026-01-31T04:05:06Z."""
    index: int
    """The last log entry that is part of it."""
    revision: int
    compacted: int
    """Revision up to which the history of the v3 keys was compacted; -1 for none."""
    v2_index: int
    level: int
    """Feature level of the cluster: a release that does not know it refuses the backup."""
    log: LogPart | msgspec.UnsetType = msgspec.UNSET
    """Not in backups of earlier releases, nor where the log had none of its entries any more."""


class BackupWriter:
    """Writes a backup to an empty file. Memory: one block."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._digest = sha256()
        self._check = _START
        self._table = ""
        self._parts: list[bytes] = []
        self._held = 0
        self._counts: dict[str, int] = {}
        self.size = 0
        """Bytes written so far."""
        self._write(MAGIC)
        self._block(Kind.HEADER, msgspec.json.encode(header))

    def add(self, table: str, key: bytes, value: bytes) -> None:
        """Write a record. Those of one table must come one after the other."""
        if table != self._table:
            self._flush()
            self._table = table
        self._counts[table] = self._counts.get(table, 0) + 1
        self._parts += (prefixed(key), prefixed(value))
        self._held += len(key) + len(value)
        if self._held >= BLOCK_BYTES:
            self._flush()

    def finish(self) -> bytes:
        """Write the end; the SHA-256 that is in it. The caller syncs the file."""
        self._flush()
        digest = self._digest.digest()
        counts = b"".join(prefixed(name.encode()) + varint(count) for name, count in self._counts.items())
        self._block(Kind.END, varint(len(self._counts)) + counts + digest)
        return digest

    def _flush(self) -> None:
        if self._parts:
            self._block(Kind.RECORDS, b"".join((prefixed(self._table.encode()), *self._parts)))
            self._parts, self._held = [], 0

    def _block(self, kind: Kind, content: bytes) -> None:
        body = bytes((kind,)) + content
        length = u32(len(body))
        self._check = crc32c(body, crc32c(length, self._check))
        self._write(length + u32(self._check))
        self._write(body)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


class BackupReader:
    """Reads a backup from front to back, and verifies it meanwhile. Memory: one block."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the header. `name` is what messages call the file.

        CorruptData, with the offset, for bytes that are not what was written; NetstoreError for a file of
        another format.
        """
        self._file = file
        self._name = name
        self._digest = sha256()
        self._check = _START
        self._at = 0
        """Offset of the next block."""
        self.counts: dict[str, int] = {}
        """Records read so far, by table."""
        self.digest = b""
        """The SHA-256 of the file, once all of it was read."""
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise NetstoreError(f"{name}: is no backup of netstore: it begins with other bytes; name another")
        self._digest.update(magic)
        self._at = len(magic)
        kind, content = self._block()
        if kind != Kind.HEADER:
            raise self._damaged(len(magic), "the first block is no header")
        self.header = self._decode_header(content)

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._at

    def _decode_header(self, content: bytes) -> Header:
        try:
            version = msgspec.json.decode(content, type=_Version).format
            if version > FORMAT:
                raise NetstoreError(
                    f"{self._name}: a backup in format {version}, and this version reads up to {FORMAT}:"
                    " upgrade netstore"
                )
            return msgspec.json.decode(content, type=Header)
        except msgspec.MsgspecError as error:
            raise self._damaged(len(MAGIC), f"the header cannot be read: {error}") from None

    def records(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Table, key and value of each record. To be read to its end: only then it is known that the backup
        is complete.
        """
        while True:
            start = self._at
            before = self._digest.copy()
            kind, content = self._block()
            if kind == Kind.END:
                self._end(start, content, before.digest())
                return
            if kind != Kind.RECORDS:
                raise self._damaged(start, f"a block of unknown kind {kind}")
            try:
                name, at = read_prefixed(content, 0)
                table = name.decode()
                while at < len(content):
                    key, at = read_prefixed(content, at)
                    value, at = read_prefixed(content, at)
                    self.counts[table] = self.counts.get(table, 0) + 1
                    yield table, key, value
            except (Malformed, UnicodeDecodeError) as error:
                raise self._damaged(start, str(error)) from None

    def _end(self, start: int, content: bytes, digest: bytes) -> None:
        counts: dict[str, int] = {}
        try:
            number, at = read_varint(content, 0)
            for _ in range(number):
                name, at = read_prefixed(content, at)
                counts[name.decode()], at = read_varint(content, at)
        except (Malformed, UnicodeDecodeError) as error:
            raise self._damaged(start, str(error)) from None
        if counts != self.counts:
            raise self._damaged(start, f"it has {self.counts} records, and {counts} were written")
        if content[at:] != digest:
            raise self._damaged(start, "the digest is another one")
        if self._file.read(1):
            raise self._damaged(self._at, "something follows the end")
        self.digest = digest

    def _block(self) -> tuple[int, bytes]:
        start = self._at
        head = self._file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            raise self._damaged(start, "the file is cut short: a block with the end should begin there")
        length, check = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
        if not 0 < length <= MOST_BLOCK_BYTES:
            raise self._damaged(start, f"a block of {length} bytes")
        body = self._file.read(length)
        if len(body) < length:
            raise self._damaged(
                start, f"the file is cut short: {len(body)} bytes of the block that begins there, of {length}"
            )
        self._check = crc32c(body, crc32c(head[:4], self._check))
        if self._check != check:
            raise self._damaged(start, "the checksum of the block that begins there does not fit")
        self._digest.update(head)
        self._digest.update(body)
        self._at += len(head) + len(body)
        return body[0], body[1:]

    def _damaged(self, offset: int, what: str) -> CorruptData:
        return CorruptData(
            f"{self._name}: damaged at offset {offset}: {what}; nothing was changed: take another backup"
        )


class _Version(msgspec.Struct, frozen=True):
    format: int


def is_backup(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a full backup."""
    return start.startswith(MAGIC)
