"""One Range of the v3 API, read in bounded steps at a fixed bound (`index`).

Two passes: `measure` determines the number of pairs of the answer and their bytes, without keeping them;
`give` then returns the pairs, as fast as they are taken. Between steps the store changes: keys are created
and deleted, and changes after the bound are not seen. A step continues after the last key of the one before,
so only that key is held between steps; of a sorted list also the places in order, and of a plain list (in key
order, unfiltered, with values) the places that the first pass found, if there is memory for them.

Work is counted in units of about a microsecond (`scan`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, Final, cast

from netstore.state.applying import UNIT_BYTES
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import BY_CREATE, BY_KEY, BY_MOD, BY_VALUE, DESCEND
from netstore.state.v3.index import NUMBER_BITS, pair_below
from netstore.state.v3.parts import KEPT_BYTES, PART_BYTES, Part
from netstore.state.v3.scan import Row, Run, Scan
from netstore.state.v3.sorting import Sorter, place_and_size

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from netstore.limits import Budget
    from netstore.state.v3.commands import Range
    from netstore.state.v3.compaction import Pins
    from netstore.state.v3.index import KeyIndex
    from netstore.state.v3.parts import Parts
    from netstore.state.v3.records import Records

    Encode = Callable[[list[bytes]], list[bytes]]
    """Encodes pairs as they are sent, in pieces to be sent one after the other."""

STEP_UNITS: Final = 1_000
"""Units of one step: about a millisecond."""

CHUNK: Final = 64
"""Rows, or changes, that are processed between two checks of how much work was done."""

SORT_UNITS: Final = 6
"""Units of a row that is sorted by value, beside reading it; its hash is 4 more for each `UNIT_BYTES`."""

PIECE_BYTES: Final = 252 * 1024
"""Bytes of pairs returned by one `give`; one pair may exceed it. With its frames it is a little less than the
kernel takes at once (`net.acceptor`).
"""

ROW_BYTES: Final = 80
"""What the place and the size of a pair take in memory; and a pair without its value beside its bytes."""

KEEP_BYTES: Final = 2 << 20
"""The records of an answer up to this size are cached (`records`); a larger one would evict what others use.
"""

OPEN_BYTES: Final = 11 * 1024
"""What an open read takes, with the keys of a run and the pairs of a chunk, about."""

READ_BYTES: Final = 64 * 1024 * 1024
"""What all stepwise reads may hold if no budget is given: half a million rows sorted by a number, 200,000 by
value. For the first few rows of a sorted list (`sorting.FEW_NUMBERS`) it suffices whatever the number of
keys.
"""

MEASURED_BYTES: Final = 16 * 1024 * 1024
"""What all plain lists together may remember of their first pass: 200,000 pairs. When it is used up, the
second pass looks up the keys again.
"""

UNBOUNDED: Final = 1 << 62
"""Units for reading all in one call."""


class TooMuch(Exception):  # noqa: N818 - named for what happened
    """The rows to be sorted do not fit into the memory budget of all stepwise reads."""


class Lost(Exception):  # noqa: N818 - named for what happened
    """The state was replaced by a snapshot: what was being read does not exist any more."""


class RangeRead:
    """A stepwise read of a query at a bound.

    Every step may raise StateDamaged if a record is missing, TooMuch, and Lost if the state was replaced.
    `close` must be called when it is not needed any more: until then its revision is not erased.
    """

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        index: KeyIndex,
        records: Records,
        query: Range,
        bound: int,
        budget: Budget,
        measured: Budget,
        pins: Pins,
        encode: Encode | None,
        parts: Parts,
    ) -> None:
        """What it holds is charged to `budget`. With `encode`, pairs are returned encoded, and kept so in
        `parts`.
        """
        self._index = index
        self._records = records
        self._query = query
        self._bound = bound
        self._encode = encode
        self._parts = parts
        self._keeps = encode is not None and parts.begin()
        self._scan = Scan(index, records, query, bound, parts if encode else None)
        self._limit = self._scan.limit
        self._filtered = self._scan.filtered
        self._pins = pins
        self._pinned: int | None = (bound >> NUMBER_BITS) - 1
        pins.add(self._pinned)
        self._account = budget.account()
        self._account.charge(OPEN_BYTES)
        self._measured = measured.account()
        self._found: deque[tuple[Run, int]] | None = deque()
        """Of a plain list: what the first pass has found, and the sums of the sizes of records; None if there
        is no memory for it.
        """
        self._bare: deque[list[bytes]] | None = deque()
        """Of a list without values: its pairs, from the first pass; None if there is no memory for them."""
        self._is_given = False
        """The second pass has begun."""
        self._order: list[int] | None = None
        """Of a sorted list: its rows in order, each as one integer (`sorting`)."""
        self._room = PIECE_BYTES
        """Bytes that may still be returned in this step."""
        self.count = 0
        """Keys in the range, whatever limit and filters say."""
        self.more = False
        """Whether the limit left out pairs."""
        self.pairs = 0
        """Pairs in the answer."""
        self.size = 0
        """Bytes of the pairs as a repeated protobuf field with a number below 16."""
        self._measuring = self._measure()
        self._giving = self._give()

    def measure(self, units: int = STEP_UNITS) -> bool:
        """Determine `count`, `more`, `pairs` and `size`, for so many units; True when they are known."""
        self._check()
        self._scan.units = units
        return all(self._scan.units > 0 for _ in self._measuring)

    @property
    def units_left(self) -> int:
        """Units that the last step did not use; negative if it used a few more."""
        return self._scan.units

    def give(self, units: int = STEP_UNITS, most: int = PIECE_BYTES) -> tuple[list[bytes], bool]:
        """The next pairs, and whether these were the last. With `encode` they are encoded, in pieces. At most
        `most` bytes (or `PIECE_BYTES`), which one pair may exceed. Only after `measure` has returned True.
        """
        self._check()
        self._scan.units = units
        self._room = most = min(most, PIECE_BYTES)
        given: list[bytes] = []
        pairs: list[bytes] = []
        size = 0
        for some, some_size, is_encoded in self._giving:
            if is_encoded:
                given += self._encoded(pairs)
                given += some
                pairs = []
            else:
                pairs += some
            size += some_size
            if self._scan.units <= 0 or size >= most:
                given += self._encoded(pairs)
                return given, False
            self._room = most - size
        given += self._encoded(pairs)
        self.close()
        return given, True

    def _encoded(self, pairs: list[bytes]) -> list[bytes]:
        return self._encode(pairs) if self._encode is not None and pairs else pairs

    @property
    def encodes(self) -> bool:
        """`give` returns pairs encoded."""
        return self._encode is not None

    def holds_back(self, compacted: int) -> bool:
        """Whether erasing after a compaction to this revision waits for the read to be closed."""
        return self._pinned is not None and self._pinned < compacted

    def close(self) -> None:
        """Release everything. May be called again."""
        if self._pinned is not None:
            self._pins.remove(self._pinned)
            self._pinned = None
        self._account.close()
        self._measured.close()
        self._order = self._found = self._bare = None
        self._measuring.close()
        self._giving.close()

    def _check(self) -> None:
        if self._pins.lost:
            raise Lost

    # --- the first pass

    def _measure(self) -> Generator[None]:
        query = self._query
        sorts = query.sort_target != BY_KEY
        first_only = sorts and self._limit > 0 and not query.sort_order and not self._filtered
        walks_all = (not self._limit or sorts or self._filtered) and not first_only
        if query.count_only or not walks_all:
            yield from self._count()
            if query.count_only:
                return
        if self._is_plain:
            yield from self._measure_plain(counts=walks_all)
            return
        if sorts:
            yield from self._sort(self._limit + 1 if first_only else 0, counts=walks_all)
        for rows in self._chosen(counts=walks_all and not sorts):
            if query.keys_only:
                yield from self._measure_bare(rows)
                continue
            for row in rows:
                size = row.size or len(self._scan.read(row.place))
                self.size += 1 + ((size.bit_length() + 6) // 7 or 1) + size
                self.pairs += 1
                if self._scan.units <= 0:
                    yield
            yield

    def _measure_bare(self, rows: list[Row]) -> Iterator[None]:
        """The same for pairs without their values, which are kept for the second pass if there is memory."""
        pairs: list[bytes] = []
        for row in rows:
            pairs.append(self._without_value(row))
            if self._scan.units <= 0:
                yield
        sizes = list(map(len, pairs))
        whole = sum(sizes)
        self.size += whole + _heads_of(sizes)
        self.pairs += len(pairs)
        if self._bare is not None:
            self._bare.append(pairs)
            self._measured.charge(whole + ROW_BYTES * len(pairs))
            if self._measured.over:
                self._measured.hold(0)
                self._bare = None
        yield

    def _measure_plain(self, *, counts: bool) -> Iterator[None]:
        """The same for a plain list."""
        for run in self._scan.runs():
            part, places, sizes = run.part, run.places, run.sizes
            whole = 0
            if part is not None:
                pairs, kept = part.pairs, len(part.data)
                self.size += kept
            else:
                pairs = len(places)
                kept = ROW_BYTES * pairs
                if 0 in sizes:
                    for number, place in enumerate(places):
                        if not sizes[number]:
                            sizes[number] = len(self._scan.read(place))
                            if self._scan.units <= 0:
                                yield
                whole = sum(sizes)
                self.size += whole + _heads_of(sizes)
            if counts:
                self.count += pairs
            self.pairs += pairs
            if self._found is not None:
                self._found.append((run, whole))
                self._measured.charge(kept)
                if self._measured.over:
                    self._measured.hold(0)
                    self._found = None
            yield
        self.more = self._scan.more

    def _count(self) -> Iterator[None]:
        """Count the keys in the range at the bound: those that exist now, corrected by the changes since; or,
        if that is less work, each key.
        """
        index, bound, query = self._index, self._bound, self._query
        key, range_end = query.key, query.range_end
        log = index.log
        if log.newest < bound:
            self.count = index.count_live(key, range_end)
            return
        since, end = log.find(bound >> NUMBER_BITS), log.end
        if end - since > index.count_near(key, range_end, bound):
            for rows in self._scan.rows():
                self.count += len(rows)
                yield
            return
        until = log.newest + 1
        count = index.count_live(key, range_end)
        if not range_end:
            item = index.items.get(key)
            self.count = int(item is not None and pair_below(item, bound) > 0)
            return
        while since < end:
            stop = min(since + CHUNK, end)
            count -= index.growth(key, range_end, bound, until, (since, stop))
            self._scan.units -= CHUNK
            since = stop
            yield
        self.count = count

    def _sort(self, first: int, *, counts: bool) -> Iterator[None]:
        """Sort the rows. With `first` only so many are sorted: the first by key."""
        query = self._query
        most = self._limit + 1 if self._limit else 0
        sorter = Sorter(self._account, self._records, most, descend=query.sort_order == DESCEND)
        seen = 0
        for rows in self._scan.rows():
            if counts:
                self.count += len(rows)
            for row in self._scan.passing(rows):
                if first and seen >= first:
                    break
                seen += 1
                sorter.add(self._sorted_by(row), row.place, row.size)
                if self._scan.units <= 0:
                    yield
            if self._account.spent:
                self._parts.clear()
                if self._account.spent:
                    raise TooMuch
            yield
            if first and seen >= first:
                break
        order: list[int] = []
        for some in sorter.order(CHUNK):
            order += some
            self._scan.units -= 4 * CHUNK
            yield
        if self._limit and len(order) > self._limit:
            self.more = True
            order.pop()
        self._order = order

    def _sorted_by(self, row: Row) -> int | bytes:
        target, item = self._query.sort_target, row.item
        if target == BY_MOD:
            return row.place >> NUMBER_BITS
        if target == BY_VALUE:
            record = self._scan.read(row.place)
            self._scan.units -= SORT_UNITS + 4 * len(record) // UNIT_BYTES
            return keyvalue.decode(record).value
        if item is None or item.at != row.place:
            _, created, _, version, _, _, _ = keyvalue.decode_fields(self._scan.read(row.place))
        else:
            created, version = item.created, item.version
        return created if target == BY_CREATE else version

    # --- the second pass

    def _give(self) -> Generator[tuple[list[bytes], int, bool]]:
        """Lists of pairs, each with their bytes; and whether they are encoded already, in pieces."""
        if self._query.count_only:
            return
        if self.size <= KEEP_BYTES:
            self._scan.fetch = self._records.get_many
        self._is_given = True
        if self._is_plain:
            yield from self._give_plain()
            return
        if self._query.keys_only:
            for pairs in self._bare_pairs():
                yield pairs, sum(map(len, pairs)), False
            return
        for rows in self._chosen(counts=False):
            batch: list[int] = []
            size = 0
            for row in rows:
                if row.size and size + row.size <= self._room:
                    batch.append(row.place)
                    size += row.size
                    continue
                if batch:
                    yield self._scan.read_many(batch), size, False
                batch, size = [row.place], row.size
                if not row.size:
                    (record,) = self._scan.read_many(batch)
                    yield [record], len(record), False
                    batch = []
            if batch:
                yield self._scan.read_many(batch), size, False

    def _bare_pairs(self) -> Iterator[list[bytes]]:
        """What the first pass has kept, or the same looked up again."""
        kept = self._bare
        if kept is None:
            yield from ([self._without_value(row) for row in rows] for rows in self._chosen(counts=False))
            return
        while kept:
            self._scan.units -= 1
            yield kept.popleft()  # freed one by one, as in `_measured_runs`

    def _give_plain(self) -> Iterator[tuple[list[bytes], int, bool]]:
        for run, whole in self._measured_runs():
            if run.part is not None:
                yield from self._give_part(run.part.data)
                continue
            places, sizes = run.places, run.sizes
            if run.end and 0 < whole <= 2 * PART_BYTES:
                pairs = self._scan.read_sized(places, whole)
                pieces = self._encoded(pairs)
                if self._keeps and len(pieces) == 1 and self.size <= KEPT_BYTES:
                    part = Part(run.start, run.end, self._bound, len(pairs), pieces[0])
                    self._parts.add(part, run.since)
                for piece in pieces:
                    yield from self._give_part(piece)
                continue
            if 0 < whole <= self._room:
                yield self._scan.read_sized(places, whole), whole, False
                continue
            start = 0
            while start < len(places):
                some = sizes[start:]
                size = sum(some)
                if size > self._room:
                    some = some[: max(bisect_right(list(accumulate(some)), self._room), 1)]
                    size = sum(some)
                if not min(some):  # a record of unknown size is read alone
                    some = some[: max(some.index(0), 1)]
                    size = sum(some)
                stop = start + len(some)
                if size:
                    yield self._scan.read_sized(places[start:stop], size), size, False
                else:
                    record = self._scan.read(places[start])
                    yield [record], len(record), False
                start = stop

    def _give_part(self, data: bytes) -> Iterator[tuple[list[bytes], int, bool]]:
        """Encoded pairs, as many as there is room for, without a copy: as views, if that is not all. The rest
        is charged until it is taken: it may be kept for this read alone.
        """
        if len(data) <= self._room:
            self._scan.units -= 1 + len(data) // UNIT_BYTES
            yield [data], len(data), True
            return
        self._account.charge(len(data))
        rest = memoryview(data)
        while rest:
            some = rest[: self._room]
            rest = rest[len(some) :]
            self._scan.units -= 1 + len(some) // UNIT_BYTES
            if not rest:
                self._account.release(len(data))
            yield [cast("bytes", some)], len(some), True

    def _measured_runs(self) -> Iterator[tuple[Run, int]]:
        """What the first pass has found, or the same looked up again. The sum is 0 if a size is not known."""
        found = self._found
        if found is None:
            yield from ((run, 0 if 0 in run.sizes else sum(run.sizes)) for run in self._scan.runs())
            return
        while found:
            yield found.popleft()  # freed one by one: all at once would take long

    def _without_value(self, row: Row) -> bytes:
        item = row.item
        if item is None or item.at != row.place:
            return keyvalue.without_value(self._scan.read(row.place))
        self._scan.units -= 1
        modified = row.place >> NUMBER_BITS
        return keyvalue.encode_bare(item.key, item.created, modified, item.version, item.lease)

    # --- both

    @property
    def _is_plain(self) -> bool:
        """In key order, unfiltered, and with values."""
        query = self._query
        return not (query.sort_target != BY_KEY or query.keys_only or self._filtered)

    def _chosen(self, *, counts: bool) -> Iterator[list[Row]]:
        """The rows of the answer, in its order."""
        if self._order is not None:
            for start in range(0, len(self._order), CHUNK):
                self._scan.units -= CHUNK
                some = map(place_and_size, self._order[start : start + CHUNK])
                yield [Row(place, size, None) for place, size in some]
                if self._is_given:
                    # Freed row by row: all at once would take long.
                    self._order[start : start + CHUNK] = [0] * len(self._order[start : start + CHUNK])
            return
        left = self._limit
        for rows in self._scan.rows():
            if counts:
                self.count += len(rows)
            passing = list(self._scan.passing(rows))
            if self._limit and len(passing) > left:
                self.more = True
                if left:
                    yield passing[:left]
                left = 0
                if not counts:
                    return
                continue
            left -= len(passing)
            yield passing


def _heads_of(sizes: list[int]) -> int:
    """Bytes of the field headers of records of these sizes in a repeated field with a number below 16: a tag
    of one byte and the length (protobuf encoding guide).
    """
    if sizes and min(sizes) >= 1 << 7 and max(sizes) < 1 << 14:
        return 3 * len(sizes)
    return sum([1 + (size.bit_length() + 6) // 7 for size in sizes])
