"""The state on disk: LMDB behind `seams.Engine`, and its in-memory twin.

LMDB gives what is asked for here: ordered tables, one transaction for the data and the applied index, and
after any crash the last commit; `disk.tables` adds checksums. What it cannot give is a commit that the loop
need not wait for. So:

    write -> pending -> (every commit_interval, or commit_changes, or commit_bytes) -> in flight -> LMDB

The loop owns `pending` and `in flight`, plain dictionaries of the newest value per key, and looks there
before it looks in LMDB; the storage thread owns the write transaction and gets `in flight` whole, read-only.
The write-ahead log has everything that is not committed yet, so losing the two dictionaries in a crash costs
a longer replay, nothing else.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from bisect import bisect_left
from functools import partial
from heapq import merge
from itertools import chain, islice, repeat
from operator import itemgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from netstore.disk.apart import Marker
from netstore.disk.datadir import sync_folder
from netstore.disk.deliver import tell
from netstore.disk.tables import HEADROOM_BYTES, Tables, Tracker, damaged, is_room_for
from netstore.errors import CorruptData, NetstoreError, StateDamaged
from netstore.limits import Budget
from netstore.seams import PASSING, SHORT_KEY_BYTES
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from netstore.disk.deliver import Deliver
    from netstore.disk.tables import Pair

    Done = Callable[[OSError | None], None]
    Changes = dict[tuple[str, bytes], bytes | None]

COMMIT_INTERVAL: Final = 0.1
"""Seconds between commits, as in etcd: the log is replayed from the last one, so longer is a longer start."""

COMMIT_CHANGES: Final = 10_000
"""Changes that are committed without waiting for the interval."""

COMMIT_BYTES: Final = 16 << 20
"""The same by their size."""

OVERLAY_BYTES: Final = 64 << 20
"""Uncommitted changes beyond which the engine is `behind`: two commits and what comes while they are made."""

CHANGE_COST: Final = 300
"""Bytes a change takes in memory beside its key and value: two objects, a pair, two places in a table."""

MAP_BYTES: Final = 1 << 30
"""Address space reserved at first; the file is only as large as its data."""

MAP_LIMIT_BYTES: Final = 1 << 36
"""The map doubles up to this (64 GiB); beyond it a commit fails like one on a full disk."""

_GROWN_BYTES: Final = 1 << 20
"""The map grows by multiples of this."""

FULL_BYTES: Final = 1 << 20
"""With less free space than this a failed commit is taken for a full disk."""

_PIECE_BYTES: Final = 256 * 1024
"""A copy is written to its file in pieces of this size, and may be given up between them."""

_LAYER: Final = 40_000
"""Changes in one dictionary of those that wait. Long commands bring many more, and a dictionary that grows is
built anew in one piece: of so many in 1 ms, of a million in 50 ms.
"""

_IN_ORDER: Final = 2_000
"""Changes that a call of `some` puts in order before it gives nothing and the next one goes on: 2 ms."""

_RUN: Final = 5_000
"""Keys in one list of those in order. A list is merged with what belongs into it, and all of it is moved."""

_HASHED: Final = 500
"""Bytes of a key that LMDB does not take which are as much work as putting a change in order."""

_REPEATS: Final = 4
"""How often the same place may come on average before a call of `some` gives less than it was asked for."""

_LET_GO: Final = 500
"""Changes that were committed are let go of so many at a time: 0.1 ms without the loop."""

_NO_STATE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
"""What opening a file says whose bytes are not what was written."""


class _Order:
    """The keys of one layer in order, as far as it was put in order. What has come since then is behind what
    there was: a dictionary keeps the order in which its keys came.
    """

    __slots__ = ("_keys", "_runs", "seen")

    def __init__(self) -> None:
        self.seen = 0
        """How many of the layer are in order."""
        self._runs: dict[str, list[list[bytes]]] = {}
        """Places in one of LMDB's tables, in lists of which each is in order."""
        self._keys: dict[str, dict[bytes, bytes]] = {}
        """What lies at places of one of LMDB's tables that are not the keys themselves. In another one the
        same bytes may be a key.
        """

    def go_on(self, layer: Changes, work: int, place_of: Callable[[str, bytes], tuple[str, bytes]]) -> int:
        """Put more of the layer in order; what is left of the work. `place_of` is that of `Tables`."""
        fresh: dict[str, list[bytes]] = {}
        for table, key in islice(layer, self.seen, self.seen + work):
            name, place = place_of(table, key)
            fresh.setdefault(name, []).append(place)
            self.seen += 1
            work -= 1
            if place is not key:
                self._keys.setdefault(name, {})[place] = key
                work -= len(key) // _HASHED
                if work <= 0:
                    break
        for name, places in fresh.items():
            places.sort()
            runs = self._runs.setdefault(name, [])
            if not runs or len(runs[-1]) + len(places) > _RUN:
                runs.append(places)
                continue
            run = runs[-1]
            is_behind = run[-1] < places[0]
            run += places
            if not is_behind:
                run.sort()
        return work

    def runs(self, name: str, start: bytes) -> Iterator[Iterator[bytes]]:
        """The places in one of LMDB's tables from `start` on: each of these is in order. None is touched
        before it is asked for.
        """
        for run in self._runs.get(name, ()):
            at = bisect_left(run, start)
            if at < len(run):
                yield map(run.__getitem__, range(at, len(run)))

    def key(self, name: str, place: bytes) -> bytes:
        """What lies at a place of one of LMDB's tables."""
        keys = self._keys.get(name)
        return place if keys is None else keys.get(place, place)

    def let_go(self) -> Iterable[dict[bytes, bytes]]:
        """What takes long to let go of. The keys are the layer's as well, so that their lists do not."""
        self._runs.clear()
        return self._keys.values()


class _Overlay:
    """Changes that wait, in the order they came: one dictionary until it is large, then another one. What
    lies in a later one holds. A look-up looks in each: 1 us for the million changes of a long command.

    Each has its order, which is worked out when `some` needs it, and goes where the dictionary goes: it holds
    until the changes are committed, whoever has them.
    """

    __slots__ = ("layers", "orders")

    def __init__(self) -> None:
        self.layers: list[Changes] = [{}]
        self.orders = [_Order()]

    def __bool__(self) -> bool:
        return bool(self.layers[0])

    def __len__(self) -> int:
        """How many there are; what changed again in a later layer counts twice."""
        return sum(map(len, self.layers))

    def update(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """These have come."""
        if len(self.layers[-1]) >= _LAYER:
            self._add({}, _Order())
        self.layers[-1].update(changes)

    def take(self, others: _Overlay) -> None:
        """These have come, and nothing comes to them any more. What is long is not copied; what is short is
        put to the last layer without its order, so that commits that fail make no more layers.
        """
        for layer, order in zip(others.layers, others.orders, strict=True):
            if len(self.layers[-1]) + len(layer) > _LAYER:
                self._add(layer, order)
            else:
                self.layers[-1].update(layer)

    def _add(self, layer: Changes, order: _Order) -> None:
        self.layers.append(layer)
        self.orders.append(order)

    def items(self) -> Iterator[tuple[tuple[str, bytes], bytes | None]]:
        """All of them, so that the last of each place holds."""
        return chain.from_iterable(layer.items() for layer in self.layers)

    def put_in_order(self, work: int, place_of: Callable[[str, bytes], tuple[str, bytes]]) -> int:
        """Put in order what is not, and tell what is left of the work; when nothing is, there may be more."""
        for layer, order in zip(self.layers, self.orders, strict=True):
            if order.seen < len(layer) and work > 0:
                work = order.go_on(layer, work, place_of)
        return work


class _Ahead(NamedTuple):
    """The first of the changes that wait, from a place of one of LMDB's tables on."""

    changes: dict[bytes, Pair | None]
    """What is at these places, in order; None where something is erased."""
    bound: bytes | None
    """The place of the next one, None when there is none."""
    following: bytes | None
    """Its key."""


def _ahead(overlays: Sequence[_Overlay], table: str, name: str, start: bytes, most: int) -> _Ahead:
    """At most so many, without the empty key's. `overlays` are in order: all of them, the newest first.

    O(log n) for each of their lists, and for each place; a place that changed in many layers counts as many,
    so that there may be fewer.
    """
    layers: list[tuple[Changes, _Order]] = []
    runs: list[Iterator[tuple[bytes, int]]] = []
    for overlay in overlays:
        for layer, order in zip(reversed(overlay.layers), reversed(overlay.orders), strict=True):
            runs.extend(zip(run, repeat(len(layers))) for run in order.runs(name, start))
            layers.append((layer, order))
    found: dict[bytes, Pair | None] = {}
    last: bytes | None = None
    for looked, (place, number) in enumerate(merge(*runs)):
        if place == last:
            continue  # the first of them is of the newest layer
        last = place
        layer, order = layers[number]
        key = order.key(name, place)
        if not key:
            continue
        if len(found) >= most or (found and looked >= _REPEATS * most):
            return _Ahead(found, place, key)
        value = layer[table, key]
        found[place] = None if value is None else (key, value)
    return _Ahead(found, None, None)


class _Batch(NamedTuple):
    serial: int
    applied: Index
    log: bytes
    changes: _Overlay


class _Tick:
    """There is something to commit: ask for it after the interval, unless a batch comes before."""


class _Image(NamedTuple):
    path: Path
    done: Done


class _Spent(NamedTuple):
    """Changes that nobody looks at any more. To let go of all of them at once would take long."""

    changes: _Overlay


class _Stop:
    pass


def _nobody() -> None:
    """Nobody waits for the engine."""


def _let_go(changes: _Overlay) -> None:
    """Empty tables that nobody looks at any more, and leave the loop its turns meanwhile."""
    for layer, order in zip(changes.layers, changes.orders, strict=True):
        for keys in order.let_go():
            _empty(keys)
        _empty(layer)


def _empty(table: dict[bytes, bytes] | Changes) -> None:
    while table:
        for _ in range(min(_LET_GO, len(table))):
            table.popitem()
        os.sched_yield()


def _cost(changes: Mapping[tuple[str, bytes], bytes | None]) -> int:
    """Bytes that changes take in memory. 0.1 us each."""
    size = CHANGE_COST * len(changes)
    for (_, key), value in changes.items():
        size += len(key) + (0 if value is None else len(value))
    return size


def _first(
    pairs: Iterable[Pair], most: int, size: int, bound: bytes | None
) -> tuple[list[Pair], bytes | None]:
    """What `some` gives of pairs that end before `bound`."""
    found: list[Pair] = []
    for pair in pairs:
        if len(found) >= most or size <= 0:
            return found, pair[0]
        found.append(pair)
        size -= len(pair[1])
    return found, bound


class LmdbEngine:
    """Tables in one LMDB file. See `seams.Engine` for the contract; called on the loop unless said otherwise.

    A look-up costs about 1 us more than a dictionary's. `scan` holds a read transaction while it is
    consumed and sorts the overlay's part of the range first: for loading at start-up.

    Failures: a full disk or map, or no memory, is reported to `on_failure` and to every waiting `sync`, and
    the commit is tried again each interval, with nothing lost. Any other failure ends commits for good (what
    a failed sync left behind is unknown): it is reported the same way, and the member should stop; the log
    has everything.
    Either way reads go on. The caller bounds what is written and not durable: it begins no other write while
    the engine is `behind`. What is prepared for one write is not bounded here.

    Damage: a read that meets a record which is not what was written raises StateDamaged, and `on_damage` is
    told, also where somebody takes the exception for the failure of one request. The member must end; the
    next `Marker.arrive` verifies the whole file.
    """

    def __init__(
        self,
        path: Path,
        deliver: Deliver,
        tables: Sequence[str],
        on_failure: Callable[[OSError], None],
        *,
        on_damage: Callable[[StateDamaged], None] | None = None,
        commit_interval: float = COMMIT_INTERVAL,
        commit_changes: int = COMMIT_CHANGES,
        commit_bytes: int = COMMIT_BYTES,
        overlay_bytes: int = OVERLAY_BYTES,
        budget: Budget | None = None,
        map_bytes: int = MAP_BYTES,
        map_limit_bytes: int = MAP_LIMIT_BYTES,
    ) -> None:
        """Open or create the file `path`, mode 0600. Blocks. NetstoreError when it cannot be opened,
        CorruptData when that is because it is no state.
        """
        self._path = path
        self._deliver = deliver
        self._on_failure = on_failure
        self._on_damage = on_damage
        self._commit_interval = commit_interval
        self._commit_changes = commit_changes
        budget = budget or Budget(overlay_bytes)
        self._overlay_bytes = min(overlay_bytes, budget.limit)
        self._commit_bytes = min(commit_bytes, self._overlay_bytes // 4)
        self._map_limit_bytes = map_limit_bytes
        self._map_bytes = map_bytes
        self._names = tables
        self._marker = Marker(path)
        try:
            self._marker.check()
            self._marker.arrive()
            self._tables = Tables.open(path, tables, map_bytes)
        except _NO_STATE as error:
            raise damaged(path, f"not a state that can be read ({error})") from error
        except (lmdb.Error, OSError) as error:
            raise NetstoreError(
                f"{path}: the state cannot be opened ({error}): check the disk, and who owns the file"
            ) from error
        self.log_position: Callable[[], bytes] = bytes
        """Tells how far the log is on stable storage; kept with each commit (`disk.diagnose.Position`)."""
        self.eased: Callable[[], object] = _nobody
        """See `seams.Engine`."""
        # The loop's side. A serial numbers the writes; the applied index need not move with each.
        self._pending = _Overlay()
        self._in_flight = _Overlay()
        self._overlay = budget.account()
        self._pending_bytes = 0
        self._prepared = 0
        """Bytes in `_pending` that belong to the next write: nothing is handed over before that."""
        self._serial = self._handed = self._committed = 0
        self._applied = self._durable = self._tables.summary.applied
        self._busy = False
        self._ticking = False
        self._waiting: list[tuple[int, Done]] = []
        self._failing = False
        self._fatal: OSError | None = None
        self._damage: StateDamaged | None = None
        # All sides. `_reading`: by a read of the loop, a scan from its first record to its last; with it and
        # `_writing` the map may move. `_writing`: by a commit, and by who must not meet one.
        self._reading = threading.RLock()
        self._writing = threading.Lock()
        self._copies: set[lmdb.Transaction] = set()
        """Of copies that are being made and were not given up."""
        self._tracker: Tracker | None = None
        self._replaced = 0
        self._sizes_before: tuple[int, int] | None = None
        """What `sizes` tells while a copy is put in place: there is no file to look at."""
        self._closed = False
        self._queue: SimpleQueue[_Batch | _Image | _Tick | _Spent | _Stop] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def applied(self) -> Index:
        return self._applied

    def durable(self) -> Index:
        return self._durable

    def behind(self) -> int:
        """See `seams.Engine`."""
        return max(0, self._overlay.held - self._prepared - self._overlay_bytes)

    def failing(self) -> bool:
        """See `seams.Engine`."""
        return self._failing

    def get(self, table: str, key: bytes) -> bytes | None:
        place = (table, key)
        for overlay in (self._pending, self._in_flight):
            for layer in reversed(overlay.layers):
                if place in layer:
                    return layer[place]
        try:
            with self._reading:
                return self._tables.get(table, key)
        except StateDamaged as error:
            self._found(error)
            raise

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `seams.Engine`. About 1 us for each key: one transaction, and one call of LMDB for all that are
        stored.
        """
        found: dict[bytes, bytes | None] = {}
        overlays = [layer for layer in (*self._in_flight.layers, *self._pending.layers) if layer]
        stored = keys
        if overlays:
            stored = []
            for key in keys:
                place = (table, key)
                for overlay in overlays:
                    if place in overlay:
                        found[key] = overlay[place]
                if key not in found:
                    stored.append(key)
        longest = self._tables.longest
        if not all(0 < len(key) <= longest for key in stored):
            return [self.get(table, key) for key in keys]
        try:
            with self._reading:
                found.update(self._tables.get_many(table, stored))
        except StateDamaged as error:
            self._found(error)
            raise
        return [found.get(key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[Pair]:
        overlay = {
            key: value
            for changes in (self._in_flight, self._pending)
            for (name, key), value in changes.items()
            if name == table and start <= key and (end is None or key < end)
        }
        pairs = self._merge(table, start, end, overlay)
        next(pairs)  # begins it: it is of this moment
        return pairs

    def some(self, table: str, start: bytes, most: int, size: int) -> tuple[list[Pair], bytes | None]:
        """See `seams.Engine`. What is not committed is put in order by this, and in pieces: a call that does
        not come to the end of it gives nothing. Once, or once more where it was joined to what came before it
        (`_Overlay.take`). Keys that LMDB does not take are given in the order of their places, after the
        others; but the empty one first.
        """
        work = _IN_ORDER
        for overlay in (self._in_flight, self._pending):
            work = overlay.put_in_order(work, self._tables.place)
        if work <= 0:
            return [], start
        found: list[Pair] = []
        name, place = self._tables.place(table, start) if start else (table, b"")
        if not start and (value := self.get(table, b"")) is not None:
            found.append((b"", value))
            size -= len(value)
        if name == table:
            some, following = self._some(table, name, place, most - len(found), size)
            found += some
            if following is not None:
                return found, following
            name, place = self._tables.beside(table), b""
            size -= sum(len(value) for _, value in some)
        some, following = self._some(table, name, place, most - len(found), size)
        return found + some, following

    def _some(
        self, table: str, name: str, start: bytes, most: int, size: int
    ) -> tuple[list[Pair], bytes | None]:
        """The next pairs of one of LMDB's tables from a place on, without the empty key's."""
        overlay, bound, following = _ahead((self._pending, self._in_flight), table, name, start, most)
        fresh = [(place, pair) for place, pair in overlay.items() if pair is not None]
        try:
            with self._reading, self._tables.env.begin() as txn:
                if name == table:
                    plain = self._tables.walk(txn, name, start, bound)
                    stored: Iterator[tuple[bytes, Pair]] = ((pair[0], pair) for pair in plain)
                else:
                    stored = self._tables.long(txn, table, start, bound)
                older = (each for each in stored if each[0] not in overlay and each[1][0])
                both = merge(older, fresh, key=itemgetter(0)) if fresh else older
                return _first((pair for _, pair in both), most, size, following)
        except StateDamaged as error:
            self._found(error)
            raise

    def count(self, table: str) -> int | None:
        """See `seams.Engine`."""
        return None if self._pending or self._in_flight else self._tables.count(table)

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """See `seams.Engine`."""
        error = damaged(self._path, f"table {table}, key {key!r}: there is no such record")
        self._found(error)
        return error

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`. Costs what `write` does. What was written before is not committed meanwhile
        either, unless a commit is under way. It counts in the budget at once, and in `behind` from the write
        on: the command that it is of must go on. So it has no bound but the size of that command.
        """
        self._pending.update(changes)
        size = _cost(changes)
        self._prepared += size
        self._overlay.charge(size)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`. A dictionary update, and 0.1 us for each change; ValueError when `applied` goes
        back.
        """
        if applied < self._applied:
            raise ValueError(f"applied index {applied} after {self._applied}")
        self._applied = applied
        self._serial += 1
        self._pending.update(changes)
        size = _cost(changes)
        self._overlay.charge(size)
        self._pending_bytes += self._prepared + size
        self._prepared = 0
        full = len(self._pending) >= self._commit_changes or self._pending_bytes >= self._commit_bytes
        if full or self._waiting:
            self._hand_over()
        else:
            self._tick()

    def sync(self, done: Done) -> None:
        if self._fatal is not None:
            self._deliver(partial(done, self._fatal))
        elif self._committed == self._serial:
            self._deliver(partial(done, None))
        else:
            self._waiting.append((self._serial, done))
            self._hand_over()

    def install(self, image: object, done: Done) -> None:
        """See `seams.Engine`. `image` is the path of a file made by `copy_to`, on the same file system: it is
        moved.

        What was written and not committed is dropped; syncs that wait are answered with the copy's.
        """
        if not isinstance(image, Path):
            raise TypeError(f"{image!r} is not the path of a copy")
        for changes in (self._pending, self._in_flight):
            self._queue.put(_Spent(changes))
        self._pending, self._in_flight = _Overlay(), _Overlay()
        self._overlay.hold(0)
        self._pending_bytes = self._prepared = 0
        self._handed = self._serial
        self._sizes_before = self.sizes()
        self._queue.put(_Image(image, done))

    def copy_to(self, file: int) -> None:
        """Write a consistent copy of the last commit to a file descriptor. Blocks: for a thread of its own.

        Reads and commits go on (LMDB's own copying keeps writers waiting): a read transaction keeps the pages
        of that commit from being written over, the system copies them. OSError (EAGAIN) when the copy was
        given up, because the map had to grow or the state was replaced or closed: it may be asked for again.
        """
        with self._writing:  # between two commits the first two pages are those of the last one
            if self._closed:
                raise OSError(errno.EAGAIN, f"{self._path}: closed")
            copy = self._tables.env.begin()
            self._copies.add(copy)
            page = self._tables.env.stat()["psize"]
            end = (self._tables.env.info()["last_pgno"] + 1) * page
            source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            roots = memoryview(os.pread(source, 2 * page, 0))
        at = len(roots)
        try:
            while roots:
                roots = roots[os.write(file, roots) :]
            while at < end and copy in self._copies:
                sent = os.sendfile(file, source, at, min(end - at, _PIECE_BYTES))
                if not sent:
                    raise OSError(errno.EIO, f"{self._path}: ends before offset {end}")
                at += sent
        finally:
            os.close(source)
            with self._writing:
                given_up = copy not in self._copies
                self._copies.discard(copy)
                copy.abort()
        if given_up:
            raise OSError(errno.EAGAIN, f"{self._path}: the copy was given up: the state needed room")

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, and of its pages that hold something, as of the last commit; of the state before
        while a copy is put in place. About 20 us.
        """
        if self._sizes_before is not None:
            return self._sizes_before
        with self._reading:
            return self._tables.pages()

    def close(self) -> None:
        """See `seams.Engine`. OSError when the last commit fails; the log still has what is missing."""
        self._queue.put(_Stop())
        self._thread.join()
        error = self._fatal
        if self._prepared:
            for _, done in self._waiting:
                done(OSError(errno.ECANCELED, f"{self._path}: closed within a write"))
            self._waiting = []
        elif error is None and self._damage is None and self._committed != self._serial:
            changes = self._in_flight
            changes.take(self._pending)
            error = self._commit(_Batch(self._serial, self._applied, self.log_position(), changes))
        for _, done in self._waiting:
            done(error)
        self._overlay.close()
        with self._writing:
            self._closed = True
            self._give_way()
            self._tables.close()
        if self._damage is None:
            self._marker.leave()
        if error is not None:
            raise error

    # --- verifying, from another thread

    @property
    def tables(self) -> list[str]:
        """What `verify_step` goes through, in the order of their names."""
        return sorted(self._tables.names)

    def verify_step(self, tracker: Tracker, most_records: int, most_bytes: int) -> int | None:
        """Verify the next records of a table; how many bytes they have, None when the table is done and is
        what was written. Commits wait meanwhile. StateDamaged, which is told to `on_damage` too; OSError
        (EAGAIN) when the state was replaced since the tracker began, or is closed.
        """
        with self._writing:
            if self._closed or tracker.life not in (-1, self._replaced):
                raise OSError(errno.EAGAIN, f"{self._path}: replaced")
            tracker.life = self._replaced
            self._tracker = tracker
            try:
                with self._tables.env.begin() as txn:
                    size = self._tables.step(txn, tracker, most_records, most_bytes)
                if not size:
                    self._tracker = None
                    self._tables.compare(tracker.table, tracker.seen)
                    return None
            except StateDamaged as error:
                tell(self._deliver, self._found, error)
                raise
            return size

    def _found(self, error: StateDamaged) -> None:
        """On the loop: what was read is not what was written."""
        if self._damage is None:
            self._damage = error
            if self._on_damage is not None:
                self._on_damage(error)

    def _merge(
        self, table: str, start: bytes, end: bytes | None, overlay: dict[bytes, bytes | None]
    ) -> Generator[Pair]:
        """First a pair that is none, then the pairs. The map does not move until it is over, or closed."""
        try:
            with self._reading, self._tables.env.begin() as txn:
                yield b"", b""
                below, above = self._tables.range(txn, table, start, end)
                if not above and not overlay:
                    yield from below
                    return
                stored = (pair for pair in merge(below, above, key=itemgetter(0)) if pair[0] not in overlay)
                fresh = sorted((key, value) for key, value in overlay.items() if value is not None)
                yield from merge(stored, fresh, key=itemgetter(0))
        except StateDamaged as error:
            self._found(error)
            raise

    def _tick(self) -> None:
        if not (self._ticking or self._busy or self._fatal):
            self._ticking = True
            self._queue.put(_Tick())

    def _due(self) -> None:
        """The interval is over. A write that is prepared sees to the next one."""
        self._ticking = False
        self._hand_over()

    def _hand_over(self) -> None:
        """Give everything written so far to the storage thread; while that is at work, `_settle` will."""
        if self._busy or self._fatal or self._prepared or self._handed == self._serial:
            return
        self._ticking = False
        changes, fresh = self._pending, _Overlay()
        # Whatever may fail for want of memory comes before anything is changed that shows.
        if self._in_flight:  # a commit has failed
            changes = self._in_flight
            changes.take(self._pending)
        self._queue.put(_Batch(self._serial, self._applied, self.log_position(), changes))
        self._busy = True
        self._in_flight, self._pending = changes, fresh
        self._pending_bytes = 0
        self._handed = self._serial

    def _settle(self, batch: _Batch, error: OSError | None) -> None:
        """On the loop: a commit was made or failed."""
        self._busy = False
        self._failing = error is not None
        if error is None:
            self._committed = batch.serial
            self._durable = batch.applied
            self._in_flight = _Overlay()
            self._queue.put(_Spent(batch.changes))
            behind = self.behind() > 0
            self._overlay.hold(self._pending_bytes + self._prepared)
            if behind:
                self.eased()
            ready = [done for serial, done in self._waiting if serial <= batch.serial]
            self._waiting = [wait for wait in self._waiting if wait[0] > batch.serial]
        else:
            self._handed = self._committed
            if error.errno not in PASSING:
                self._fatal = error
            ready = [done for _, done in self._waiting]
            self._waiting = []
        full = len(self._pending) >= self._commit_changes or self._pending_bytes >= self._commit_bytes
        if error is None and (self._waiting or full):
            self._hand_over()
        elif self._handed != self._serial:
            self._tick()
        if error is not None:
            self._on_failure(error)
        for done in ready:
            done(error)

    def _installed(self, image: _Image, outcome: Index | OSError) -> None:
        """On the loop: the copy is in place, or it never will be and nothing more is committed."""
        self._failing = isinstance(outcome, OSError)
        error: OSError | None = None
        if isinstance(outcome, OSError):
            error = self._fatal = outcome
        else:
            self._sizes_before = None
            self._applied = self._durable = outcome
            self._committed = self._serial
        ready, self._waiting = self._waiting, []
        for done in (image.done, *(wait[1] for wait in ready)):
            done(error)

    # From here on: the storage thread (and `close`, once that has ended).

    def _run(self) -> None:
        queue = self._queue
        due: float | None = None
        while True:
            try:
                job = queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except Empty:
                due = None
                tell(self._deliver, self._due)
                continue
            if isinstance(job, _Stop):
                return
            if isinstance(job, _Tick):
                due = time.monotonic() + self._commit_interval
            if isinstance(job, _Batch):
                due = None
                tell(self._deliver, self._settle, job, self._commit(job))
            if isinstance(job, _Spent):
                _let_go(job.changes)
            if isinstance(job, _Image):
                tell(self._deliver, self._installed, job, self._replace(job.path))

    def _commit(self, batch: _Batch) -> OSError | None:
        while True:
            try:
                with self._writing:
                    self._put(batch)
            except lmdb.MapFullError as error:
                if not self._grow():
                    return OSError(errno.ENOSPC, f"{self._path}: {error}")
            except (MemoryError, lmdb.MemoryError):
                return OSError(errno.ENOMEM, f"{self._path}: {os.strerror(errno.ENOMEM)}")
            except lmdb.Error as error:
                return self._as_os_error(error)
            except OSError as error:
                return error
            else:
                return None

    def _put(self, batch: _Batch) -> None:
        self._tables.write(batch.applied, batch.log, batch.changes, self._tracker)

    def _replace(self, image: Path) -> Index | OSError:
        """Move a copy into the place of the file; its applied index. The loop does not read meanwhile."""
        with self._writing:
            self._give_way()
            self._replaced += 1
            self._tracker = None
            self._tables.close()
            try:
                image.rename(self._path)
                sync_folder(self._path.parent)
                self._tables = Tables.open(self._path, self._names, self._map_bytes)
            except CorruptData as error:
                return OSError(errno.EIO, str(error))
            except (MemoryError, lmdb.MemoryError):
                return OSError(errno.EIO, f"{self._path}: no memory to open it again")
            except OSError as error:
                return error
            except lmdb.Error as error:
                return self._as_os_error(error)
            return self._tables.summary.applied

    def _as_os_error(self, error: lmdb.Error) -> OSError:
        # LMDB reports a write that the full disk cut short as an input/output error. Trying such a commit
        # again is safe whatever it was: all its pages are written anew, and the root moves only after they
        # were synced.
        status = os.statvfs(self._path)
        full = status.f_bavail * status.f_frsize < FULL_BYTES or "No space left" in str(error)
        return OSError(errno.ENOSPC if full else errno.EIO, f"{self._path}: {error}")

    def _grow(self) -> bool:
        """Double the map, or make it larger by less where there is little address space; False at its limit.
        No transaction is open: look-ups hold the lock, and a copy that is being made gives way.
        """
        now = self._tables.env.info()["map_size"]
        for more in (now, now // 4 & -_GROWN_BYTES):
            if more and now + more <= self._map_limit_bytes and is_room_for(more + HEADROOM_BYTES):
                break
        else:
            return False
        size = now + more
        with self._writing, self._reading:
            self._give_way()
            self._tables.env.set_mapsize(size)
        return True

    def _give_way(self) -> None:
        """End copies that are being made, with `_writing` held: whoever asked for one asks again."""
        while self._copies:
            self._copies.pop().abort()


class MemoryEngine:
    """The twin in memory, for the same contract (`seams.Engine`).

    Nothing is durable before `commit`, `sync` or `close`.

    So a test chooses what a crash loses.
    """

    def __init__(self, deliver: Deliver, tables: Sequence[str]) -> None:
        self._deliver = deliver
        self._seen: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._kept: dict[str, dict[bytes, bytes]] = {name: {} for name in tables}
        self._journal: list[tuple[Index, Changes]] = []
        self._prepared: Changes = {}
        self._durable = Index(0)
        self._failure: OSError | None = None
        self.eased: Callable[[], object] = _nobody
        """See `seams.Engine`; called by nothing here."""

    def applied(self) -> Index:
        return self._journal[-1][0] if self._journal else self._durable

    def durable(self) -> Index:
        return self._durable

    def behind(self) -> int:
        """See `seams.Engine`: what is not durable is counted, and bounded by nothing."""
        return 0

    def failing(self) -> bool:
        """See `seams.Engine`."""
        return self._failure is not None

    def count(self, table: str) -> int | None:
        """See `seams.Engine`."""
        return len(self._seen[table])

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """See `seams.Engine`."""
        return StateDamaged(f"table {table}, key {key!r}: there is no such record")

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._seen[table].get(key)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._seen[table].items()
        return iter(
            sorted((key, value) for key, value in pairs if start <= key and (end is None or key < end))
        )

    def some(self, table: str, start: bytes, most: int, size: int) -> tuple[list[Pair], bytes | None]:
        """See `seams.Engine`."""
        pairs = self._seen[table].items()
        found = sorted((len(key) > SHORT_KEY_BYTES, key, value) for key, value in pairs)
        place = bisect_left(found, (len(start) > SHORT_KEY_BYTES, start))
        return _first(((key, value) for _, key, value in found[place:]), most, size, None)

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """See `seams.Engine`."""
        self._prepared.update(changes)
        _change(self._seen, changes)

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        if applied < self.applied():
            raise ValueError(f"applied index {applied} after {self.applied()}")
        prepared, self._prepared = self._prepared, {}
        prepared.update(changes)
        self._journal.append((applied, prepared))
        _change(self._seen, changes)

    def sync(self, done: Done) -> None:
        if self._failure is None:
            self.commit()
        self._deliver(partial(done, self._failure))

    def close(self) -> None:
        """See `seams.Engine`; OSError after `fail`."""
        if self._failure is not None:
            raise self._failure
        self.commit()

    def install(self, image: object, done: Done) -> None:
        """See `seams.Engine`. `image` is another of this kind, of which what is durable is taken."""
        if not isinstance(image, MemoryEngine):
            raise TypeError(f"{image!r} is not a copy of an engine in memory")
        if self._failure is None:
            self._seen, self._kept = image.kept(), image.kept()
            self._durable = image.durable()
            self._journal.clear()
            self._prepared = {}
        self._deliver(partial(done, self._failure))

    def commit(self, writes: int | None = None) -> None:
        """Make the oldest `writes` durable that are not yet; None: all."""
        count = len(self._journal) if writes is None else writes
        for applied, changes in self._journal[:count]:
            _change(self._kept, changes)
            self._durable = applied
        del self._journal[:count]

    def fail(self, error: OSError | None) -> None:
        """From now on no sync succeeds; None: they do again."""
        self._failure = error

    def kept(self) -> dict[str, dict[bytes, bytes]]:
        """A copy of the tables as far as they are durable."""
        return {name: dict(pairs) for name, pairs in self._kept.items()}

    def crash(self) -> MemoryEngine:
        """The engine as it opens after a power loss: only what was durable."""
        twin = MemoryEngine(self._deliver, tuple(self._kept))
        twin._seen, twin._kept, twin._durable = self.kept(), self.kept(), self._durable
        return twin


def _change(tables: dict[str, dict[bytes, bytes]], changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
    for (table, key), value in changes.items():
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value
