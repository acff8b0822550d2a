"""etcd's checksum of the v3 history (v3 API, HashKV), computed in bounded steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore import errors
from netstore.codec import crc32c
from netstore.errors import Reason
from netstore.state.v3 import keyvalue
from netstore.state.v3.index import DELETED, NUMBER_BITS, bound_after, newest_below

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.v3.index import KeyIndex
    from netstore.state.v3.records import Records
    from netstore.types import Revision

HASH_STEP: Final = 500
"""Records hashed in one step: 2 ms."""

HASH_BYTES: Final = 1 << 20
"""Bytes of records hashed in one step; the last may exceed it."""

MAX_HASHES: Final = 16
"""Checksums that may be pending at once."""


class Hash(NamedTuple):
    """The result of `Mvcc.hash_kv`."""

    checksum: int
    compacted: Revision
    revision: Revision


class _Run:
    """A checksum that is being computed."""

    __slots__ = ("checksum", "compacted", "done", "revision", "start")

    def __init__(self, revision: Revision, compacted: Revision, done: Callable[[Hash | Fault], None]) -> None:
        self.revision = revision
        self.compacted = compacted
        self.done = done
        self.checksum = crc32c(b"key")
        self.start = b""


class Hashes:
    """The pending checksums, computed one after another. Nothing may be swept (`compaction`) meanwhile."""

    __slots__ = ("_index", "_records", "_runs")

    def __init__(self, index: KeyIndex, records: Records) -> None:
        self._index = index
        self._records = records
        self._runs: list[_Run] = []

    def __bool__(self) -> bool:
        """Whether there is something to do for `step`."""
        return bool(self._runs)

    def ask(self, revision: Revision, compacted: Revision, done: Callable[[Hash | Fault], None]) -> bool:
        """Add one. True if it is the only one; `done` gets a Fault if there are too many."""
        if len(self._runs) >= MAX_HASHES:
            done(errors.too_many())
            return False
        self._runs.append(_Run(revision, compacted, done))
        return len(self._runs) == 1

    def end(self) -> None:
        """The state was replaced: all pending checksums fail."""
        runs, self._runs = self._runs, []
        for run in runs:
            run.done(errors.timed_out(Reason.TIMED_OUT_LEADER))

    def step(self, records: int = HASH_STEP, size: int = HASH_BYTES) -> None:
        """Work on the first one: hash so many records, 3 us each, or about so many bytes."""
        if not self._runs:
            return
        run = self._runs[0]
        stored, following = self._records.some(run.start, records, size)
        for key, record in stored:
            if int.from_bytes(key[:8], "big") > run.revision:
                following = None
                break
            self._hash(run, key, record)
        if following is not None:
            run.start = following
            return
        del self._runs[0]
        run.done(Hash(run.checksum, run.compacted, run.revision))

    def _hash(self, run: _Run, stored: bytes, record: bytes) -> None:
        place = int.from_bytes(stored, "big")
        key = keyvalue.decode_fields(record)[0]
        deleted = place & DELETED
        if place >> NUMBER_BITS <= run.compacted and (
            deleted or place != newest_below(self._index.items[key], bound_after(run.revision))
        ):
            return
        number = (place & 0xFFFFFFFF) >> 1
        checksum = crc32c(b"%b_%b" % (stored[:8], number.to_bytes(8, "big")), run.checksum)
        run.checksum = crc32c(b"t" + keyvalue.encode_key(key) if deleted else record, checksum)
