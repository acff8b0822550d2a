"""Merge sort of the rows of a list in bounded steps: sorted runs, then one merge of all runs.

A row stands for one pair. It is one integer: the number that it is sorted by, its ordinal in key order (so
that the sort is stable, as etcd's), the size of its record and its place. A row that is sorted by value has
the first bytes of the value beside that integer; only if these are equal and values are longer, the values
themselves are compared.
"""

from __future__ import annotations

from hashlib import blake2b
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from netstore.state.v3 import keyvalue
from netstore.state.v3.index import PLACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.limits import Account
    from netstore.state.v3.records import Records

RUN_ROWS: Final = 256
"""Rows in one run: sorted in half a millisecond, by value in one millisecond."""

RUN_BYTES: Final = 1 << 20
"""Bytes of values in one run: they are in memory until it is sorted."""

FEW_NUMBERS: Final = 512
FEW_VALUES: Final = 64
"""If no more rows than this are wanted, the others are dropped when a run is sorted."""

SHORT_VALUE: Final = 1_024
"""Only if all values of a run are at most this long: comparing longer ones may require reading kept records.
"""

NUMBER_ROW_BYTES: Final = 130
VALUE_ROW_BYTES: Final = 310
"""Memory of a row until all are sorted, about."""

_HEAD_BYTES: Final = 32
_COUNT_BITS: Final = 32
_PLACE_BITS: Final = 8 * PLACE_BYTES
_SIZE_AT: Final = _PLACE_BITS
_ORDINAL_AT: Final = _SIZE_AT + _COUNT_BITS
_REST_BITS: Final = _ORDINAL_AT + _COUNT_BITS
_REST: Final = (1 << _REST_BITS) - 1
_PLACE: Final = (1 << _PLACE_BITS) - 1
_COUNT: Final = (1 << _COUNT_BITS) - 1


class _ByValue(msgspec.Struct, gc=False, eq=False):
    """A row that is sorted by value. If the value is longer than `head`, `digest` detects equal values
    without reading them, and `value` is in memory until its run is sorted.
    """

    head: bytes
    digest: bytes
    rest: int
    records: Any
    """`records.Records`."""
    value: bytes | None

    def __lt__(self, other: _ByValue) -> bool:
        if self.head != other.head:
            return self.head < other.head
        if self.digest == other.digest:
            return self.rest < other.rest
        if not self.digest or not other.digest:
            return not self.digest
        return self._whole() < other._whole()

    def _whole(self) -> bytes:
        if self.value is not None:
            return self.value
        (record,) = self.records.peek_many((self.rest & _PLACE,))
        return keyvalue.decode(record).value


_Row: TypeAlias = int | _ByValue


class Sorter:
    """Takes rows in key order and returns them in the requested order.

    `most` is how many are wanted, 0 for all. Memory is charged to `account`, which the caller closes.
    """

    def __init__(self, account: Account, records: Records, most: int, *, descend: bool) -> None:
        self._account = account
        self._records = records
        self._most = most
        self._descend = descend
        self._ordinal = 0
        self._run: list[_Row] = []
        self._run_bytes = 0
        self._whole_bytes = 0
        """Of long values that are in memory until the run is sorted."""
        self._longest = 0
        self._few = FEW_NUMBERS
        self._kept: list[_Row] = []
        """The first of all rows so far, if few are wanted."""
        self._runs: list[list[_Row]] = []

    def add(self, by: int | bytes, place: int, size: int) -> None:
        """Add a row: a number or a value, and the place and size of its record. Sorts a full run."""
        ordinal = _COUNT - self._ordinal if self._descend else self._ordinal
        self._ordinal += 1
        rest = ordinal << _ORDINAL_AT | size << _SIZE_AT | place
        if isinstance(by, int):
            self._run.append(by << _REST_BITS | rest)
            self._account.charge(NUMBER_ROW_BYTES)
        else:
            self._few = FEW_VALUES
            is_long = len(by) > _HEAD_BYTES
            digest = blake2b(by, digest_size=16).digest() if is_long else b""
            row = _ByValue(by[:_HEAD_BYTES], digest, rest, self._records, by if is_long else None)
            self._run.append(row)
            self._run_bytes += len(by)
            self._longest = max(self._longest, len(by))
            self._account.charge(VALUE_ROW_BYTES)
            if is_long:
                self._whole_bytes += len(by)
                self._account.charge(len(by))
        if len(self._run) >= RUN_ROWS or self._run_bytes >= RUN_BYTES:
            self._end_run()

    def _end_run(self) -> None:
        run, descend = self._run, self._descend
        drops = 0 < self._most <= self._few and self._longest <= SHORT_VALUE
        if drops:
            run += self._kept
        run.sort(reverse=descend)
        for row in run:
            if isinstance(row, _ByValue):
                row.value = None
        if drops:
            dropped = len(run) - self._most
            if dropped > 0:
                self._account.release(
                    dropped * (NUMBER_ROW_BYTES if isinstance(run[0], int) else VALUE_ROW_BYTES)
                )
                del run[self._most :]
            self._kept = run
        else:
            self._runs.append(run)
        self._account.release(self._whole_bytes)
        self._run = []
        self._run_bytes = self._whole_bytes = self._longest = 0

    def order(self, step: int) -> Iterator[list[int]]:
        """The rows in order, `step` of them at a time, for `place_and_size`."""
        if self._run:
            self._end_run()
        runs = [*self._runs, self._kept]
        self._runs, self._kept = [], []
        merged = merge(*map(_drain, runs), reverse=self._descend)
        rows = islice(merged, self._most) if self._most else merged
        while chunk := list(islice(rows, step)):
            yield [row & _REST if isinstance(row, int) else row.rest for row in chunk]


def _drain(run: list[_Row]) -> Iterator[_Row]:
    """The rows of a run; each is freed when it is taken, because freeing all at once would take long."""
    run.reverse()
    while run:
        yield run.pop()


def place_and_size(row: int) -> tuple[int, int]:
    """The place and size of the record of a row."""
    return row & _PLACE, row >> _SIZE_AT & _COUNT
