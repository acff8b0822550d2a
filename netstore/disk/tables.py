"""The file of the state: ordered tables in LMDB, in which every record carries a checksum and every table the
sum of them. Blocks; used by one thread at a time, but for reads.

A record is stored as its bytes and four more, the CRC-32C of table, key and bytes: a value that rotted, or
that stands under another key or in another table, does not verify. One record more, in a table of its own,
is written by each commit (`Summary`): the applied index, how much of the log was on stable storage, and how
many records each table has and what their checksums add up to. So a whole table that verifies is all of what
was written, and the newest of it: what LMDB's own pages lose or bring back shows in the sum, what they
put into another order shows in the order of the keys.

A file from before there were checksums is refused: no release wrote one.
"""

from __future__ import annotations

import os
from hashlib import sha256
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, cast

import lmdb
from google_crc32c import extend

from netstore.codec import (
    Malformed,
    crc32c,
    layout,
    prefixed,
    read_prefixed,
    read_u64,
    read_varint,
    u64,
    varint,
)
from netstore.errors import NetstoreError, StateDamaged
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    Pair = tuple[bytes, bytes]


class Changes(Protocol):
    """What is to be written by table and key, None for what is to be erased: the last of each holds."""

    def items(self) -> Iterable[tuple[tuple[str, bytes], bytes | None]]:
        """All of them, in order."""


FORMAT: Final = 1
"""Version of the records and of the summary. A later one is refused."""

_CHECK: Final = layout("I")
_pack_check: Final = _CHECK.pack
CHECK_BYTES: Final = 4
"""What each record is longer than what was written."""

STEP_RECORDS: Final = 64
"""Records that are looked up at once when a table is verified."""

LOOKED_UP: Final = 16
"""Records that are looked up at once for a reader."""

JOINED_BYTES: Final = 4096
"""Up to this size copying a record behind its key is cheaper than a second call for its checksum."""

RESIDUE: Final = 0x48674BC7
"""The CRC-32C of any bytes with their own CRC-32C behind them (a property of all CRCs whose result is
inverted: what is left after the check does not depend on the bytes).
"""

_OWN: Final = "netstore"
_OWN_KEY: Final = b"summary"
_FIRST_OWN: Final = "engine"
"""The table that files from before there were checksums have."""

_LONG: Final = "long:"
"""Prefix of the table beside each table for keys that LMDB does not take: over 511 bytes, or empty."""

_MOST_TABLES: Final = 64
HEADROOM_BYTES: Final = 384 << 20
"""Address space that the map leaves to everything else: a segment of the log that is read, the buffers of a
small budget, and the stacks and arenas of a few threads.
"""

_LEAST_MAP: Final = 16 << 20

_META: Final = layout("16xIIQQ48xIHHQQQQQQQ")
"""LMDB's meta page (0.9, 64 bits): page head, magic, version, address, map size; the tree of free pages; of
the tree of tables: page size, flags, depth, pages, entries and root; last page, transaction.
"""
_PAGE_BYTES_AT: Final = 40
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
_META_MAGIC: Final = 0xBEEFC0DE
_META_VERSION: Final = 1


class Sum(NamedTuple):
    """What a table holds: how many records, and the sum of their checksums (modulo 2**64)."""

    records: int
    total: int


NOTHING: Final = Sum(0, 0)
_MODULUS: Final = 2**64


class Summary(NamedTuple):
    """What the last commit said of the file."""

    applied: Index
    log: bytes
    """How far the log was on stable storage (`disk.diagnose.Position`), empty when that was not told."""
    sums: dict[str, Sum]
    """By the names of LMDB's tables."""
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


NEW: Final = Summary(Index(0), b"", {}, 0)
"""Of a file that is not there yet."""


def seed(table: str) -> int:
    """What the checksums of one of LMDB's tables go on from."""
    return crc32c(table.encode())


def sealed(start: int, key: bytes, value: bytes) -> tuple[bytes, int]:
    """A record as it is stored, and its checksum. `start` is the table's `seed`."""
    if len(value) > JOINED_BYTES:
        check = extend(extend(start ^ len(key), key), value)
    else:
        check = extend(start ^ len(key), key + value)
    return value + _pack_check(check), check


def fits(start: int, key: bytes, stored: bytes) -> bool:
    """Whether a record is what was written under this key of this table. 0.2 us, and 40 us a MiB."""
    check: int
    if len(stored) > JOINED_BYTES:
        check = extend(extend(start ^ len(key), key), stored)
    else:
        check = extend(start ^ len(key), key + stored)
    return check == RESIDUE


def damaged(path: Path, what: str) -> StateDamaged:
    """The file is not what was written."""
    return StateDamaged(
        f"{path}: {what}; nothing was changed: restore this member from its peers or from a backup"
    )


class Tables:
    """One open file. A read that meets what was not written so raises StateDamaged, naming file, table and
    key; nothing is changed by it.
    """

    def __init__(self, path: Path, env: lmdb.Environment, summary: Summary) -> None:
        """For `open` and `read`."""
        self.path = path
        self.env = env
        self.summary = summary
        self.longest = env.max_key_size()
        self._seeds = {name: seed(name) for name in (_OWN, *summary.sums)}
        self._dbs: dict[str, lmdb._Database] = {}

    @classmethod
    def open(cls, path: Path, names: Sequence[str], map_bytes: int) -> Self:
        """Open to read and write, made with these tables, and mode 0600, if it is not there.

        NetstoreError when it is of another format. StateDamaged when it is no state, or not a whole one;
        OSError or lmdb.Error when it cannot be opened.
        """
        check_length(path)
        env = _mapped(path, map_bytes)
        try:
            found = _summary(path, env)
            wanted = [each for name in names for each in (name, _LONG + name)]
            sums = {} if found is None else found.sums
            fresh = [name for name in wanted if name not in sums]
            summary = Summary(
                found.applied if found else Index(0),
                found.log if found else b"",
                sums | dict.fromkeys(fresh, NOTHING),
            )
            tables = cls(path, env, summary)
            if fresh:
                with env.begin(write=True) as txn:
                    for name in (_OWN, *fresh):
                        env.open_db(name.encode(), txn)
                    tables._put_summary(txn, summary)
            tables._open_tables()
        except BaseException:
            env.close()
            raise
        return tables

    @classmethod
    def read(cls, path: Path, *, short: bool = False) -> Self:
        """Open only to read, a file that nobody writes. StateDamaged when it is no state, or is cut short.

        `short`: it may be, and reading what is not there ends the process.
        """
        try:
            if not short:
                check_length(path)
            env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=_MOST_TABLES)
        except (lmdb.Error, OSError) as error:
            raise damaged(path, f"not a state that can be read ({error})") from error
        try:
            tables = cls(path, env, _summary(path, env) or NEW)
            tables._open_tables()
        except lmdb.Error as error:
            env.close()
            raise damaged(path, f"not a state that can be read ({error})") from error
        except BaseException:
            env.close()
            raise
        return tables

    def _open_tables(self) -> None:
        own = [_OWN] if self.summary.format else []
        for name in (*own, *self.summary.sums):
            try:
                self._dbs[name] = self.env.open_db(name.encode(), create=False)
            except lmdb.NotFoundError:
                raise damaged(self.path, f"table {name} is missing") from None

    @property
    def names(self) -> list[str]:
        """LMDB's tables, without the summary's."""
        return list(self.summary.sums)

    def count(self, table: str) -> int:
        """How many records the last commit says a table has, long keys included."""
        sums = self.summary.sums
        return sums[table].records + sums[_LONG + table].records

    def close(self) -> None:
        """Close the file."""
        self.env.close()

    # --- reading

    @staticmethod
    def beside(table: str) -> str:
        """LMDB's table for those keys of a table that LMDB does not take."""
        return _LONG + table

    def place(self, table: str, key: bytes) -> tuple[str, bytes]:
        """Where the value under a key lies: in which of LMDB's tables, and under which key of that. What lies
        in the table itself lies under the key itself.
        """
        if 0 < len(key) <= self.longest:
            return table, key
        return _LONG + table, sha256(key).digest()

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key. About 1.5 us."""
        name, place = self.place(table, key)
        try:
            with self.env.begin() as txn:
                stored = txn.get(place, db=self._dbs[name])
        except lmdb.Error as error:
            raise self._unreadable(name, error) from error
        if stored is None:
            return None
        if len(stored) <= JOINED_BYTES and extend(self._seeds[name] ^ len(place), place + stored) == RESIDUE:
            value = stored[:-CHECK_BYTES]
        else:
            value = self._opened(name, place, stored)
        return value if name is table else _split(value)[1]

    def get_many(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values under keys that LMDB takes, where there are any. About 1 us each."""
        start = self._seeds[table]
        found = {}
        try:
            with self.env.begin() as txn:
                cursor = txn.cursor(self._dbs[table])
                # A few at a time: what was stored is let go of before the next is read, into the same memory.
                for at in range(0, len(keys), LOOKED_UP):
                    for key, stored in cursor.getmulti(keys[at : at + LOOKED_UP]):
                        if len(stored) > JOINED_BYTES:
                            found[key] = self._opened(table, key, stored)
                        elif extend(start ^ len(key), key + stored) == RESIDUE:
                            found[key] = stored[:-CHECK_BYTES]
                        else:
                            raise self._rotten(table, key)
        except lmdb.Error as error:
            raise self._unreadable(table, error) from error
        return found

    def range(
        self, txn: lmdb.Transaction, table: str, start: bytes, end: bytes | None
    ) -> tuple[Iterator[Pair], list[Pair]]:
        """Pairs with start <= key < end, in key order, as of a transaction: those under keys that LMDB takes,
        one by one, and the others. A table that is read to its end from its beginning is compared with its
        sum.
        """
        long = (pair for _, pair in self.long(txn, table, b"", None))
        above = sorted(pair for pair in long if start <= pair[0] and (end is None or pair[0] < end))
        return self.walk(txn, table, start, end), above

    def long(
        self, txn: lmdb.Transaction, table: str, start: bytes, end: bytes | None
    ) -> Iterator[tuple[bytes, Pair]]:
        """The pairs under keys that LMDB does not take, each with its place, in the order of these."""
        return ((place, _split(value)) for place, value in self.walk(txn, _LONG + table, start, end))

    def walk(self, txn: lmdb.Transaction, name: str, start: bytes, end: bytes | None) -> Iterator[Pair]:
        """The pairs of one of LMDB's tables."""
        if name not in self._dbs:
            return
        first = self._seeds[name]
        check_at = _CHECK.unpack_from
        records = total = 0
        last = b""
        try:
            cursor = txn.cursor(self._dbs[name])
            if cursor.set_range(start) if start else cursor.first():
                for key, stored in cast("Iterator[Pair]", cursor):
                    if end is not None and key >= end:
                        return
                    if key <= last:
                        raise self._rotten(name, key)
                    last = key
                    if len(stored) > JOINED_BYTES:
                        whole = fits(first, key, stored)
                    else:
                        whole = extend(first ^ len(key), key + stored) == RESIDUE
                    if not whole:
                        raise self._rotten(name, key)
                    records += 1
                    value = stored[:-CHECK_BYTES]
                    total += check_at(stored, len(value))[0]
                    yield key, value
            if not start and end is None:
                self._compare(name, Sum(records, total % _MODULUS), self._read_summary(txn).sums[name])
        except lmdb.Error as error:
            raise self._unreadable(name, error) from error

    def step(self, txn: lmdb.Transaction, tracker: Tracker, most_records: int, most_bytes: int) -> int:
        """Verify the next records of a tracker's table, and that each is found by its key; how many bytes
        they have, 0 when nothing is left.
        """
        name, after = tracker.table, tracker.after
        first, db = self._seeds[name], self._dbs[name]
        keys: list[bytes] = []
        total = size = 0
        try:
            cursor = txn.cursor(db)
            there = cursor.set_range(after + b"\0") if after else cursor.first()
            while there and len(keys) < most_records and size < most_bytes:
                key, stored = cast("Pair", cursor.item())
                if key <= after or not fits(first, key, stored):
                    raise self._rotten(name, key)
                total += int.from_bytes(stored[-CHECK_BYTES:], "little")
                size += len(key) + len(stored)
                keys.append(key)
                after = key
                there = cursor.next()
            found = {key for key, _ in txn.cursor(db).getmulti(keys)}
        except lmdb.Error as error:
            raise self._unreadable(name, error) from error
        for key in keys:
            if key not in found:
                raise damaged(self.path, f"table {name}, key {key!r}: it is there, and is not found")
        tracker.after = after
        tracker.records += len(keys)
        tracker.total += total
        return size

    def verify(self) -> None:
        """Verify everything. 2 us for each record. Only where nobody writes."""
        with self.env.begin() as txn:
            for name in self.names:
                tracker = Tracker(name)
                while self.step(txn, tracker, STEP_RECORDS, 2**20):
                    pass
                self.compare(name, tracker.seen)

    def pages(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that hold something, as of the last commit."""
        with self.env.begin() as txn:
            stats = [txn.stat(db) for db in self._dbs.values()]
        used = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        page = self.env.stat()["psize"]
        return (self.env.info()["last_pgno"] + 1) * page, used * page

    def compare(self, name: str, seen: Sum) -> None:
        """StateDamaged when this is not what the last commit says of a table."""
        self._compare(name, seen, self.summary.sums[name])

    def _compare(self, name: str, seen: Sum, expected: Sum) -> None:
        if seen != expected:
            what = f"{seen.records} records, {expected.records} were written"
            if seen.records == expected.records:
                what = "not the records that were written last"
            raise damaged(self.path, f"table {name}: {what}")

    def _read_summary(self, txn: lmdb.Transaction) -> Summary:
        return _decode(self.path, cast("bytes | None", txn.get(_OWN_KEY, db=self._dbs[_OWN])))

    def _opened(self, name: str, key: bytes, stored: bytes) -> bytes:
        if not fits(self._seeds[name], key, stored):
            raise self._rotten(name, key)
        return stored[:-CHECK_BYTES]

    def _rotten(self, name: str, key: bytes) -> StateDamaged:
        shown = repr(key) if len(key) <= 64 else f"{key[:64]!r}..."
        return damaged(self.path, f"table {name}, key {shown}: not what was written")

    def _unreadable(self, name: str, error: lmdb.Error) -> StateDamaged:
        """What an error of LMDB says of the state. MemoryError where it is none of the state's."""
        if isinstance(error, lmdb.MemoryError):
            raise MemoryError  # noqa: TRY004 - it is what LMDB said, in the name the rest of the program knows
        return damaged(self.path, f"table {name} cannot be read ({error})")

    # --- writing

    def write(self, applied: Index, log: bytes, changes: Changes, tracker: Tracker | None = None) -> None:
        """Commit changes, on stable storage when it returns. lmdb.Error when that fails: nothing changed."""
        seeds, dbs, longest = self._seeds, self._dbs, self.longest
        moved = {name: [each.records, each.total] for name, each in self.summary.sums.items()}
        seen_records = seen_total = 0
        name = ""
        # One call per change: LMDB's binding lets the loop run during each, also in `putmulti`.
        with self.env.begin(write=True) as txn:
            for (table, key), value in changes.items():
                if name != table:  # nearly all are of one
                    name = table
                    start, db, count = seeds[name], dbs[name], moved[name]
                if not 0 < len(key) <= longest:  # `place`, without a call for each
                    name, value = _LONG + table, None if value is None else prefixed(key) + value  # noqa: PLW2901
                    key = sha256(key).digest()  # noqa: PLW2901
                    start, db, count = seeds[name], dbs[name], moved[name]
                added = check = 0
                if value is None:
                    old = txn.pop(key, db=db)
                else:
                    stored, check = sealed(start, key, value)
                    old = txn.replace(key, stored, db=db)
                    added = 1
                if old is not None:
                    added -= 1
                    check -= int.from_bytes(old[-CHECK_BYTES:], "little")
                count[0] += added
                count[1] += check
                if tracker is not None and name == tracker.table and key <= tracker.after:
                    seen_records += added
                    seen_total += check
            sums = {name: Sum(records, total % _MODULUS) for name, (records, total) in moved.items()}
            summary = Summary(applied, log, sums)
            self._put_summary(txn, summary)
        self.summary = summary
        if tracker is not None:  # not before: what was not committed is tried again
            tracker.records += seen_records
            tracker.total += seen_total
        # Pages that a transaction took and gave back are not written, and may have been the last.
        missing = shortage(self.path)
        if missing:
            os.truncate(self.path, self.path.stat().st_size + missing)

    def _put_summary(self, txn: lmdb.Transaction, summary: Summary) -> None:
        stored, _ = sealed(self._seeds[_OWN], _OWN_KEY, summary.encode())
        db = self._dbs[_OWN] if _OWN in self._dbs else self.env.open_db(_OWN.encode(), txn)
        txn.put(_OWN_KEY, stored, db=db)


class Tracker:
    """Who goes through a table in steps, with commits between them: what it has seen is kept true by them."""

    __slots__ = ("after", "life", "records", "table", "total")

    def __init__(self, table: str) -> None:
        self.table = table
        self.life = -1
        """Of which state: it may be replaced meanwhile."""
        self.after = b""
        """Everything up to this key was seen."""
        self.records = 0
        self.total = 0

    @property
    def seen(self) -> Sum:
        """What was seen, as it is now."""
        return Sum(self.records, self.total % _MODULUS)


def is_room_for(size: int) -> bool:
    """Whether there is so much address space: a map that cannot be made again after it was given up would be
    none at all.
    """
    try:
        mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS, prot=0).close()
    except OSError:
        return False
    return True


def _mapped(path: Path, map_bytes: int) -> lmdb.Environment:
    """Open with a map of this size, or of less where there is not so much address space, down to the file."""
    least = max(_LEAST_MAP, path.stat().st_size if path.exists() else 0)
    while map_bytes // 2 >= least and not is_room_for(map_bytes + HEADROOM_BYTES):
        map_bytes //= 2
    while True:
        try:
            return lmdb.open(
                str(path), subdir=False, map_size=map_bytes, max_dbs=_MOST_TABLES, mode=0o600, readahead=False
            )
        except lmdb.MemoryError:
            if map_bytes // 2 < least:
                raise
            map_bytes //= 2


def shortage(path: Path) -> int:
    """How many bytes the file is shorter than it says it is. Reading what is not there would end the process
    (SIGBUS), not the read. A file that is not there, or empty, is a new one, and short of nothing.

    StateDamaged when it is no state.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_META.size)
            page = int.from_bytes(head[_PAGE_BYTES_AT : _PAGE_BYTES_AT + 4], "little")
            file.seek(page)
            other = file.read(_META.size)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return 0
    if not size:
        return 0
    newest, pages = -1, 0
    for data in (head, other):
        if len(data) == _META.size:
            magic, version, *_, last, transaction = _META.unpack(data)
            if magic == _META_MAGIC and version == _META_VERSION and transaction > newest:
                newest, pages = transaction, last + 1
    if newest < 0 or page not in _PAGE_SIZES:
        raise damaged(path, "not a state that can be read (its first pages are not those of one)")
    return max(0, pages * page - size)


def check_length(path: Path) -> None:
    """StateDamaged when the file is cut short."""
    missing = shortage(path)
    if missing:
        raise damaged(path, f"cut short: the last {missing} bytes are gone")


def summary_in(path: Path) -> Summary:
    """What the last commit said of a file that is not open in this process. Blocks.

    StateDamaged when it is no state.
    """
    tables = Tables.read(path)
    tables.close()
    return tables.summary


def _summary(path: Path, env: lmdb.Environment) -> Summary | None:
    """The summary; None when the file is new."""
    try:
        own = env.open_db(_OWN.encode(), create=False)
    except lmdb.NotFoundError:
        _refuse_written(path, env)
        return None
    with env.begin() as txn:
        return _decode(path, txn.get(_OWN_KEY, db=own))


def _decode(path: Path, stored: bytes | None) -> Summary:
    if stored is None or not fits(seed(_OWN), _OWN_KEY, stored):
        raise damaged(path, f"table {_OWN}, key {_OWN_KEY!r}: not what was written")
    try:
        return Summary.decode(stored[:-CHECK_BYTES])
    except Malformed as error:
        raise damaged(path, f"table {_OWN}: {error}") from None
    except NetstoreError as error:
        raise NetstoreError(f"{path}: {error}") from None


def _refuse_written(path: Path, env: lmdb.Environment) -> None:
    """A file without a summary must be new."""
    try:
        env.open_db(_FIRST_OWN.encode(), create=False)
    except lmdb.NotFoundError:
        if env.info()["last_txnid"]:
            raise damaged(path, f"table {_OWN} is missing") from None
        return
    raise NetstoreError(
        f"{path}: written without checksums, by a build before the first release; this version does not read"
        " it, and nothing was changed: start the build that wrote it and copy the keys from it, or move the"
        " data folder away and start this member anew"
    )


def _split(stored: bytes) -> Pair:
    """The key and value of a pair in a table for long keys."""
    key, at = read_prefixed(stored, 0)
    return key, stored[at:]
