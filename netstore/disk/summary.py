"""The summary record of the state file, which each commit writes in the same transaction. Pure.

It has the applied index, how far the log was on stable storage, and for each LMDB database the number of its
records and the sum of their checksums. A database whose records all verify and add up to that has exactly the
records that were written last: none is missing, and none is from an earlier commit.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from netstore.codec import Malformed, prefixed, read_prefixed, read_u64, read_varint, u64, varint
from netstore.errors import NetstoreError
from netstore.types import Index

FORMAT: Final = 1
"""Version of the records and of the summary. A later one is refused."""

SUM_MODULUS: Final = 2**64


class Sum(NamedTuple):
    """How many records a database has, and the sum of their checksums modulo SUM_MODULUS."""

    records: int
    total: int


EMPTY_SUM: Final = Sum(0, 0)


class Summary(NamedTuple):
    """What the last commit recorded about the file."""

    applied: Index
    log: bytes
    """How far the log was on stable storage (`disk.diagnose.Position`); empty if that was not known."""
    sums: dict[str, Sum]
    """By the names of LMDB's databases."""
    format: int = FORMAT
    """0: nothing was ever written."""

    def encode(self) -> bytes:
        """The record, without its checksum."""
        sums = (
            prefixed(name.encode()) + u64(each.records) + u64(each.total) for name, each in self.sums.items()
        )
        head = varint(FORMAT) + u64(self.applied) + prefixed(self.log) + varint(len(self.sums))
        return head + b"".join(sums)

    @classmethod
    def decode(cls, data: bytes) -> Summary:
        """The inverse. Malformed for anything else; NetstoreError for what a later version wrote."""
        version, at = read_varint(data, 0)
        if version > FORMAT:
            raise NetstoreError(f"written in format {version}, this version reads up to {FORMAT}: upgrade")
        applied, at = read_u64(data, at)
        log, at = read_prefixed(data, at)
        count, at = read_varint(data, at)
        sums = {}
        for _ in range(count):
            name, at = read_prefixed(data, at)
            records, at = read_u64(data, at)
            total, at = read_u64(data, at)
            sums[name.decode()] = Sum(records, total)
        if at != len(data):
            raise Malformed(f"{len(data) - at} bytes too many")
        return cls(Index(applied), log, sums, version)


EMPTY_SUMMARY: Final = Summary(Index(0), b"", {}, 0)
"""Of a file that does not exist yet."""
