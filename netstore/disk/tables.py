"""The tables of the state: ordered records in LMDB, verified when they are read. Blocks; used by one thread
at a time, except for reads.

A table is two LMDB databases: one for keys that LMDB takes (1 to 511 bytes), and one for the others, whose
records stand under the SHA-256 of their key and begin with the key itself. Every record has a checksum
(`checksums`), and every commit records what the checksums of each database add up to (`summary`): pages that
LMDB lost, or that are those of an earlier commit, show in the sum; pages in the wrong order show in the order
of the keys.

A file without checksums is refused: no release wrote one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, Self, cast

import lmdb
from google_crc32c import extend

from netstore.codec import Malformed, prefixed, read_prefixed
from netstore.disk.checksums import (
    CHECK,
    CHECK_BYTES,
    JOINED_BYTES,
    RESIDUE,
    add_checksum,
    database_seed,
    is_intact,
)
from netstore.disk.lmdbfile import MAX_DATABASES, check_length, damaged, extend_to_length, open_mapped
from netstore.disk.summary import EMPTY_SUM, EMPTY_SUMMARY, SUM_MODULUS, Sum, Summary
from netstore.errors import NetstoreError, StateDamaged
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    Pair = tuple[bytes, bytes]


class Changes(Protocol):
    """Changes to commit: table and key -> value, None to delete. The last one of each key counts."""

    def items(self) -> Iterable[tuple[tuple[str, bytes], bytes | None]]:
        """All of them, in order."""


VERIFY_RECORDS: Final = 64
"""Records that are looked up in one call when a whole file is verified."""

LOOKUP_RECORDS: Final = 16
"""Records that `get_many` looks up in one call."""

_SUMMARY_DATABASE: Final = "netstore"
_SUMMARY_KEY: Final = b"summary"
_UNCHECKED_DATABASE: Final = "engine"
"""A database that only files without checksums have."""

_LONG: Final = "long:"
"""Prefix of the database for the keys of a table that LMDB does not take: over 511 bytes, or empty."""


class Tables:
    """One open file. A read of something that is not what was written raises StateDamaged, which names file,
    database and key; nothing is changed.
    """

    def __init__(self, path: Path, env: lmdb.Environment, summary: Summary) -> None:
        """For `open` and `read`."""
        self.path = path
        self.env = env
        self.summary = summary
        self.longest = env.max_key_size()
        """Bytes of the longest key that LMDB takes."""
        self._seeds = {name: database_seed(name) for name in (_SUMMARY_DATABASE, *summary.sums)}
        self._dbs: dict[str, lmdb._Database] = {}

    @classmethod
    def open(cls, path: Path, names: Sequence[str], map_bytes: int) -> Self:
        """Open to read and write. A file that does not exist is made, with mode 0600 and these tables.

        NetstoreError for a file of another format. StateDamaged for one that is no state, or is incomplete;
        OSError or lmdb.Error when it cannot be opened.
        """
        check_length(path)
        env = open_mapped(path, map_bytes)
        try:
            found = _find_summary(path, env)
            wanted = [each for name in names for each in (name, _LONG + name)]
            sums = {} if found is None else found.sums
            fresh = [name for name in wanted if name not in sums]
            summary = Summary(
                found.applied if found else Index(0),
                found.log if found else b"",
                sums | dict.fromkeys(fresh, EMPTY_SUM),
            )
            tables = cls(path, env, summary)
            if fresh:
                with env.begin(write=True) as txn:
                    for name in (_SUMMARY_DATABASE, *fresh):
                        env.open_db(name.encode(), txn)
                    tables._put_summary(txn, summary)
            tables._open_databases()
        except BaseException:
            env.close()
            raise
        return tables

    @classmethod
    def read(cls, path: Path, *, allow_short: bool = False) -> Self:
        """Open to read a file that nobody writes. StateDamaged when it is no state, or is cut short.

        `allow_short`: open it also if it is cut short; reading a page that is not there ends the process.
        """
        try:
            if not allow_short:
                check_length(path)
            env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=MAX_DATABASES)
        except (lmdb.Error, OSError) as error:
            raise damaged(path, f"not a state that can be read ({error})") from error
        try:
            tables = cls(path, env, _find_summary(path, env) or EMPTY_SUMMARY)
            tables._open_databases()
        except lmdb.Error as error:
            env.close()
            raise damaged(path, f"not a state that can be read ({error})") from error
        except BaseException:
            env.close()
            raise
        return tables

    def _open_databases(self) -> None:
        own = [_SUMMARY_DATABASE] if self.summary.format else []
        for name in (*own, *self.summary.sums):
            try:
                self._dbs[name] = self.env.open_db(name.encode(), create=False)
            except lmdb.NotFoundError:
                raise damaged(self.path, f"table {name} is missing") from None

    @property
    def databases(self) -> list[str]:
        """The LMDB databases of all tables; not the summary's."""
        return list(self.summary.sums)

    def count(self, table: str) -> int:
        """How many records the last commit recorded for a table, long keys included."""
        sums = self.summary.sums
        return sums[table].records + sums[_LONG + table].records

    def close(self) -> None:
        """Close the file."""
        self.env.close()

    # --- reading

    @staticmethod
    def long_database(table: str) -> str:
        """The database for those keys of a table that LMDB does not take."""
        return _LONG + table

    def locate(self, table: str, key: bytes) -> tuple[str, bytes]:
        """The database that has the record of a key, and the key in that database. For keys that LMDB takes
        these are the table's name and the key itself.
        """
        if 0 < len(key) <= self.longest:
            return table, key
        return _LONG + table, sha256(key).digest()

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under a key. About 1.5 us."""
        database, place = self.locate(table, key)
        try:
            with self.env.begin() as txn:
                stored = txn.get(place, db=self._dbs[database])
        except lmdb.Error as error:
            raise self._read_error(database, error) from error
        if stored is None:
            return None
        if (
            len(stored) <= JOINED_BYTES
            and extend(self._seeds[database] ^ len(place), place + stored) == RESIDUE
        ):
            value = stored[:-CHECK_BYTES]
        else:
            value = self._verified_value(database, place, stored)
        return value if database is table else _split(value)[1]

    def get_many(self, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values under those of these keys that have one. LMDB must take all of the keys. About 1 us
        each.
        """
        start = self._seeds[table]
        found = {}
        try:
            with self.env.begin() as txn:
                cursor = txn.cursor(self._dbs[table])
                # A few at a time: the memory of one record is freed before the next is read, and used again.
                for at in range(0, len(keys), LOOKUP_RECORDS):
                    for key, stored in cursor.getmulti(keys[at : at + LOOKUP_RECORDS]):
                        if len(stored) > JOINED_BYTES:
                            found[key] = self._verified_value(table, key, stored)
                        elif extend(start ^ len(key), key + stored) == RESIDUE:
                            found[key] = stored[:-CHECK_BYTES]
                        else:
                            raise self._damaged_record(table, key)
        except lmdb.Error as error:
            raise self._read_error(table, error) from error
        return found

    def range(
        self, txn: lmdb.Transaction, table: str, start: bytes, end: bytes | None
    ) -> tuple[Iterator[Pair], list[Pair]]:
        """Pairs with start <= key < end (None: to the end), in key order, as of a transaction: those under
        keys that LMDB takes, read one by one, and a list of the others. See `walk`.
        """
        long = (pair for _, pair in self.walk_long(txn, table, b"", None))
        others = sorted(pair for pair in long if start <= pair[0] and (end is None or pair[0] < end))
        return self.walk(txn, table, start, end), others

    def walk_long(
        self, txn: lmdb.Transaction, table: str, start: bytes, end: bytes | None
    ) -> Iterator[tuple[bytes, Pair]]:
        """The pairs under keys that LMDB does not take, each with the hash of its key, in the order of the
        hashes. `start` and `end` are hashes.
        """
        return ((place, _split(value)) for place, value in self.walk(txn, _LONG + table, start, end))

    def walk(self, txn: lmdb.Transaction, database: str, start: bytes, end: bytes | None) -> Iterator[Pair]:
        """The pairs of one database, in key order. Nothing if there is no such database. When all of it is
        read, the number of records and the sum of their checksums are compared with the summary.
        """
        if database not in self._dbs:
            return
        seed = self._seeds[database]
        check_at = CHECK.unpack_from
        records = total = 0
        last = b""
        try:
            cursor = txn.cursor(self._dbs[database])
            if cursor.set_range(start) if start else cursor.first():
                for key, stored in cast("Iterator[Pair]", cursor):
                    if end is not None and key >= end:
                        return
                    if key <= last:
                        raise self._damaged_record(database, key)
                    last = key
                    if len(stored) > JOINED_BYTES:
                        intact = is_intact(seed, key, stored)
                    else:
                        intact = extend(seed ^ len(key), key + stored) == RESIDUE
                    if not intact:
                        raise self._damaged_record(database, key)
                    records += 1
                    value = stored[:-CHECK_BYTES]
                    total += check_at(stored, len(value))[0]
                    yield key, value
            if not start and end is None:
                self._compare(
                    database, Sum(records, total % SUM_MODULUS), self._read_summary(txn).sums[database]
                )
        except lmdb.Error as error:
            raise self._read_error(database, error) from error

    def verify_step(self, txn: lmdb.Transaction, tracker: Tracker, max_records: int, max_bytes: int) -> int:
        """Verify the next records of a tracker's database, and that each is found by its key; how many bytes
        they have, 0 when there are no more.
        """
        name, after = tracker.database, tracker.after
        seed, db = self._seeds[name], self._dbs[name]
        keys: list[bytes] = []
        total = size = 0
        try:
            cursor = txn.cursor(db)
            there = cursor.set_range(after + b"\0") if after else cursor.first()
            while there and len(keys) < max_records and size < max_bytes:
                key, stored = cast("Pair", cursor.item())
                if key <= after or not is_intact(seed, key, stored):
                    raise self._damaged_record(name, key)
                total += int.from_bytes(stored[-CHECK_BYTES:], "little")
                size += len(key) + len(stored)
                keys.append(key)
                after = key
                there = cursor.next()
            found = {key for key, _ in txn.cursor(db).getmulti(keys)}
        except lmdb.Error as error:
            raise self._read_error(name, error) from error
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
            for name in self.databases:
                tracker = Tracker(name)
                while self.verify_step(txn, tracker, VERIFY_RECORDS, 2**20):
                    pass
                self.compare(tracker)

    def pages(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that are in use, as of the last commit."""
        with self.env.begin() as txn:
            stats = [txn.stat(db) for db in self._dbs.values()]
        used = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        page = self.env.stat()["psize"]
        return (self.env.info()["last_pgno"] + 1) * page, used * page

    def compare(self, tracker: Tracker) -> None:
        """StateDamaged when a tracker that has verified all of its database found other records than the last
        commit recorded.
        """
        self._compare(tracker.database, tracker.sum, self.summary.sums[tracker.database])

    def _compare(self, database: str, found: Sum, expected: Sum) -> None:
        if found != expected:
            what = f"{found.records} records, {expected.records} were written"
            if found.records == expected.records:
                what = "not the records that were written last"
            raise damaged(self.path, f"table {database}: {what}")

    def _read_summary(self, txn: lmdb.Transaction) -> Summary:
        return _decode(
            self.path, cast("bytes | None", txn.get(_SUMMARY_KEY, db=self._dbs[_SUMMARY_DATABASE]))
        )

    def _verified_value(self, database: str, key: bytes, stored: bytes) -> bytes:
        if not is_intact(self._seeds[database], key, stored):
            raise self._damaged_record(database, key)
        return stored[:-CHECK_BYTES]

    def _damaged_record(self, database: str, key: bytes) -> StateDamaged:
        shown = repr(key) if len(key) <= 64 else f"{key[:64]!r}..."
        return damaged(self.path, f"table {database}, key {shown}: not what was written")

    def _read_error(self, database: str, error: lmdb.Error) -> StateDamaged:
        """The exception for an error that LMDB raised while reading. Raises MemoryError if it was that."""
        if isinstance(error, lmdb.MemoryError):
            raise MemoryError  # noqa: TRY004 - what LMDB says, in the name that callers know
        return damaged(self.path, f"table {database} cannot be read ({error})")

    # --- writing

    def write(self, applied: Index, log: bytes, changes: Changes, tracker: Tracker | None = None) -> None:
        """Commit changes, on stable storage when it returns. lmdb.Error when that fails: nothing changed.

        `tracker` is that of a verification that is under way: what changes among the records it has passed is
        added to its totals.
        """
        seeds, dbs, longest = self._seeds, self._dbs, self.longest
        sums = {name: [each.records, each.total] for name, each in self.summary.sums.items()}
        tracked_records = tracked_total = 0
        name = ""
        # One call per change: LMDB's binding releases the GIL in each, also in `putmulti`.
        with self.env.begin(write=True) as txn:
            for (table, key), value in changes.items():
                if name != table:  # nearly all are of one table
                    name = table
                    seed, db, count = seeds[name], dbs[name], sums[name]
                if not 0 < len(key) <= longest:  # as `locate` does, without a call for each key
                    name, value = _LONG + table, None if value is None else prefixed(key) + value  # noqa: PLW2901
                    key = sha256(key).digest()  # noqa: PLW2901
                    seed, db, count = seeds[name], dbs[name], sums[name]
                added = check = 0
                if value is None:
                    old = txn.pop(key, db=db)
                else:
                    stored, check = add_checksum(seed, key, value)
                    old = txn.replace(key, stored, db=db)
                    added = 1
                if old is not None:
                    added -= 1
                    check -= int.from_bytes(old[-CHECK_BYTES:], "little")
                count[0] += added
                count[1] += check
                if tracker is not None and name == tracker.database and key <= tracker.after:
                    tracked_records += added
                    tracked_total += check
            summary = Summary(
                applied,
                log,
                {name: Sum(records, total % SUM_MODULUS) for name, (records, total) in sums.items()},
            )
            self._put_summary(txn, summary)
        self.summary = summary
        if tracker is not None:  # only after the commit: one that failed is tried again
            tracker.records += tracked_records
            tracker.total += tracked_total
        extend_to_length(self.path)

    def _put_summary(self, txn: lmdb.Transaction, summary: Summary) -> None:
        stored, _ = add_checksum(self._seeds[_SUMMARY_DATABASE], _SUMMARY_KEY, summary.encode())
        name = _SUMMARY_DATABASE
        db = self._dbs[name] if name in self._dbs else self.env.open_db(name.encode(), txn)
        txn.put(_SUMMARY_KEY, stored, db=db)


class Tracker:
    """How far a verification in steps has come in one database, and the totals of the records it has passed.
    Commits between the steps keep the totals correct (`Tables.write`).
    """

    __slots__ = ("after", "database", "generation", "records", "total")

    def __init__(self, database: str) -> None:
        self.database = database
        self.generation = -1
        """Of the file that is verified, which may be replaced between steps (`shared.SharedTables`); -1
        before the first step.
        """
        self.after = b""
        """All records up to this key were verified."""
        self.records = 0
        self.total = 0

    @property
    def sum(self) -> Sum:
        """What the verified records add up to."""
        return Sum(self.records, self.total % SUM_MODULUS)


def read_summary(path: Path) -> Summary:
    """The summary of a file that is not open in this process. Blocks.

    StateDamaged when it is no state.
    """
    tables = Tables.read(path)
    tables.close()
    return tables.summary


def _find_summary(path: Path, env: lmdb.Environment) -> Summary | None:
    """The summary; None when the file is new."""
    try:
        own = env.open_db(_SUMMARY_DATABASE.encode(), create=False)
    except lmdb.NotFoundError:
        _check_is_new(path, env)
        return None
    with env.begin() as txn:
        return _decode(path, txn.get(_SUMMARY_KEY, db=own))


def _decode(path: Path, stored: bytes | None) -> Summary:
    if stored is None or not is_intact(database_seed(_SUMMARY_DATABASE), _SUMMARY_KEY, stored):
        raise damaged(path, f"table {_SUMMARY_DATABASE}, key {_SUMMARY_KEY!r}: not what was written")
    try:
        return Summary.decode(stored[:-CHECK_BYTES])
    except Malformed as error:
        raise damaged(path, f"table {_SUMMARY_DATABASE}: {error}") from None
    except NetstoreError as error:
        raise NetstoreError(f"{path}: {error}") from None


def _check_is_new(path: Path, env: lmdb.Environment) -> None:
    """Raise the reason why a file has no summary, unless nothing was ever written to it."""
    try:
        env.open_db(_UNCHECKED_DATABASE.encode(), create=False)
    except lmdb.NotFoundError:
        if env.info()["last_txnid"]:
            raise damaged(path, f"table {_SUMMARY_DATABASE} is missing") from None
        return
    raise NetstoreError(
        f"{path}: written without checksums, by a build before the first release; this version does not read"
        " it, and nothing was changed: start the build that wrote it and copy the keys from it, or move the"
        " data folder away and start this member anew"
    )


def _split(value: bytes) -> Pair:
    """The key and value of a record in a database for long keys."""
    key, at = read_prefixed(value, 0)
    return key, value[at:]
