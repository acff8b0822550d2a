"""TTL timers of one member: for leases of the v3 API, and for nodes of the v2 tree with a TTL.

What has a TTL (here: an item) is created, renewed and ended by log entries. No replicated instant decides
anything: every member measures by its monotonic clock how long ago it applied the last renewal, and the
leader proposes the end of the items that are overdue by its clock. Invariants:
 1. An item lives at least its TTL after its last renewal, measured by the member that proposes its end from
    when that member applied the renewal or later. After a restart the time runs from the last checkpoint: at
    least the TTL that it left.
 2. A proposal to end an item is void if the item was renewed after that proposal was made: it names the index
    of the renewal that it counts from (`Timed.since`).
 3. However often leaders change, a member postpones the end of an item for that reason at most `MOST_GRACES`
    times.
 4. However often requests have to wait, and however many renewals of an item wait or are refused, its end is
    postponed for these reasons by at most `LONGEST_SPARED` in all.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from netstore.expiry import Expiries, Expiry
from netstore.parted import FREE_STEP, Parted

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

K = TypeVar("K", bound=Any)

MAX_DUE: Final = 500
"""Items that one call of `due` returns: many that end together must not fill the log at once."""

RETRY_SECONDS: Final = 3.0
"""After this time an item that was returned by `due` and still exists is returned again."""

MOST_BYTES: Final = 64 * 1024
"""Bytes of the keys in one proposal; the last may exceed it: a path may have tens of kilobytes."""

COUNTED_AT_ONCE: Final = 500
"""Renewals, removals and timers that are processed in one call, each: 1 to 5 us each. After a state was
loaded there may be many; an item whose timer starts later lives longer.
"""

MOST_GRACES: Final = 10
"""How often a new leader postpones the end of the same item: otherwise leaders that change faster than the
grace time passes would keep it for ever.
"""

LONGEST_SPARED: Final = 60.0
"""Seconds by which an end is postponed at most because requests wait or had to wait, or because a renewal
waits: otherwise an overloaded leader would end nothing, and a lock that others try to take all the time would
outlive its owner for ever.
"""


class Timed(Protocol):
    """An item with a TTL. `since` is the index that created or last renewed it, `remaining` what a checkpoint
    after that has recorded as left of the TTL, 0 if there was none. Both times in seconds.
    """

    ttl: int
    since: Any
    remaining: int


class Table(Protocol[K]):
    """A table of items with a TTL (`lease.Leases`, `ttl.TimedNodes`)."""

    def get(self, key: K) -> Timed | None:
        """The item, or None."""

    def timed_keys(self) -> Iterable[K]:
        """The keys of all items."""

    @property
    def ttl_changes(self) -> TtlChanges[K]:
        """Its changes, for the one `Countdown` of this member."""


class KeyQueue(Generic[K]):
    """A first-in, first-out queue of distinct keys: a key that is added again keeps its place. So no key
    waits for more than those that were there before it, however many are added, and however often.
    """

    __slots__ = ("_is_wanted", "_order", "_spent")

    def __init__(self) -> None:
        self._order: deque[K] = deque()
        self._is_wanted: Parted[K, bool] = Parted()
        """For each key in the order: False if it was dropped since. Its place is kept, so that dropping keys
        and adding them again does not make the queue longer than the number of keys.
        """
        self._spent: Iterator[None] = iter(())
        """Frees the table of a large queue that was emptied, in steps."""

    def __len__(self) -> int:
        """Keys in the queue, dropped ones included. O(1)."""
        return len(self._order)

    def add(self, key: K) -> None:
        """Append a key, unless it is in the queue."""
        if key not in self._is_wanted:
            self._order.append(key)
        self._is_wanted[key] = True

    def drop(self, key: K) -> bool:
        """Remove a key; whether it was in the queue."""
        if not self._is_wanted.get(key, False):
            return False
        self._is_wanted[key] = False
        return True

    def take(self, most: int) -> list[K]:
        """Take the next keys out of so many places; fewer keys if some were dropped."""
        order, is_wanted = self._order, self._is_wanted
        keys = [order.popleft() for _ in range(min(most, len(order)))]
        found = [key for key in keys if is_wanted.pop(key)]
        next(self._spent, None)
        if not order and is_wanted.is_large:
            self._is_wanted, self._spent = Parted(), is_wanted.free_steps()
        return found

    def free_steps(self) -> Iterator[None]:
        """Free the queue in steps, when it is used no more."""
        order = self._order
        while order:
            for _ in range(min(FREE_STEP, len(order))):
                order.popleft()
            yield
        yield from self._is_wanted.free_steps()


class TtlChanges(Generic[K]):
    """The changes of a table for its `Countdown`: the keys that were renewed and those that were removed
    since it asked last, oldest first, so that many changes of others cannot delay a key for ever.
    """

    __slots__ = ("_removed", "_renewed")

    def __init__(self) -> None:
        self._renewed: KeyQueue[K] = KeyQueue()
        self._removed: KeyQueue[K] = KeyQueue()

    def renew(self, key: K) -> None:
        """The key was created or renewed: its time starts anew."""
        self._renewed.add(key)

    def remove(self, key: K) -> None:
        """The key was removed."""
        self._renewed.drop(key)
        self._removed.add(key)

    @property
    def waits(self) -> bool:
        """Whether something was not taken yet."""
        return bool(self._renewed or self._removed)

    def take_one(self, key: K) -> bool:
        """Take one renewed key out of turn; whether it was renewed and not taken yet."""
        return self._renewed.drop(key)

    def restart(self, keys: KeyQueue[K]) -> Iterator[None]:
        """The table was replaced: `keys`, which is taken over, are all its keys, and their time starts now.
        The table reports keys that do not exist any more by `remove`. Returns the steps that free the old
        queue.
        """
        gone, self._renewed = self._renewed, keys
        return gone.free_steps()

    def take_renewed(self, most: int) -> list[K]:
        """The next renewed keys, at most so many; may be fewer although some are left (`waits`)."""
        return self._renewed.take(most)

    def take_removed(self, most: int) -> list[K]:
        """The next removed keys, at most so many; some may have been created again."""
        return self._removed.take(most)


class _Count(Generic[K]):
    """The timer of one item."""

    __slots__ = ("end", "is_overdue", "leads", "look", "since")

    def __init__(self, end: float, leads: int, since: Any, look: Expiry[K]) -> None:
        self.end = end
        """When its TTL is over."""
        self.leads = leads
        """How often this member had become leader when the timer was started."""
        self.since = since
        """The index of the renewal that it was started for."""
        self.look = look
        """Its entry in `_looks` or `_overdue`."""
        self.is_overdue = False
        """Whether that is `_overdue`."""


class Countdown(Generic[K]):
    """The timers of a table. Instants are seconds of this member's monotonic clock.

    The timer of a renewal starts at the first call of `count` after it was applied, so `count` must be called
    often: a delay only makes items live longer. Each call processes at most `COUNTED_AT_ONCE` changes of each
    kind, O(log n) each. Nothing is kept of items that were removed.
    """

    def __init__(self, table: Table[K]) -> None:
        self._table = table
        self._counts: Parted[K, _Count[K]] = Parted()
        self._looks: Expiries[K] = Expiries()
        """Timers that are not overdue, by when to check them, which may be before their end."""
        self._overdue: Expiries[K] = Expiries()
        """Timers that are overdue, by when they were found to be."""
        self._led = -inf
        """When this member became leader last."""
        self._leads = 0
        self._grace = 0.0
        self._spared_until = -inf
        """Ends are postponed until this instant, but by at most `LONGEST_SPARED` (`spare`)."""
        self._checkpointed: tuple[float, int] | None = None
        """How far the round of `checkpoints` has come in `_looks`: the time and number of an entry."""

    def __len__(self) -> int:
        """The number of timers."""
        return len(self._counts)

    def count(self, now: float) -> bool:
        """Start the timers of items renewed since the last call, and check which are overdue. Whether some of
        this work is left for another call, which should come soon.
        """
        table = self._table
        ttl_changes = table.ttl_changes
        for key in ttl_changes.take_removed(COUNTED_AT_ONCE):
            if table.get(key) is None:
                self._forget(key)
        for key in ttl_changes.take_renewed(COUNTED_AT_ONCE):
            self._begin(key, now)
        return not self._look_through(now) or ttl_changes.waits

    def _look_through(self, now: float) -> bool:
        """Check the timers whose time for that has come; whether all were checked."""
        looks, overdue = self._looks, self._overdue
        for key in looks.due(now, COUNTED_AT_ONCE):
            if self._table.get(key) is None:
                self._forget(key)
                continue
            count = self._counts[key]
            end = self._end(count)
            count.is_overdue = end <= now
            count.look = overdue.add(now, key) if count.is_overdue else looks.add(end, key)
        return not looks.is_due(now)

    def left(self, key: K, now: float) -> float | None:
        """The seconds an item has left, not below 0; None if it does not exist. O(log n)."""
        timed = self._table.get(key)
        if timed is None:
            return None
        self._catch_up(key, now)
        count = self._counts.get(key)
        return float(timed.remaining or timed.ttl) if count is None else max(0.0, self._end(count) - now)

    def left_since(self, key: K, since: Any, now: float) -> float | None:
        """The seconds left of the TTL that began at the index `since`, below 0 if it is overdue; the whole
        TTL if its timer was not started yet, and never more. None if that is not known because a later
        renewal was processed. Changes nothing.
        """
        count, timed = self._counts.get(key), self._table.get(key)
        if count is None or count.since != since:
            is_new = timed is not None and timed.since == since
            return float(timed.remaining or timed.ttl) if is_new and timed is not None else None
        left = self._end(count) - now
        return min(left, timed.ttl) if timed is not None and timed.since == since else left

    def due(self, now: float, spared: Container[K] = ()) -> list[tuple[K, Any]]:
        """The overdue items as (key, since), longest overdue first, at most `MAX_DUE` and `MOST_BYTES`. One
        that was returned is not returned again for `RETRY_SECONDS`. One in `spared` is returned at most
        `LONGEST_SPARED` later; when it is not in it any more, the next call may return it.
        """
        self.count(now)
        found: list[tuple[K, Any]] = []
        size = 0
        for _, _, key in self._overdue.following(_FIRST, MAX_DUE):
            timed = self._table.get(key)
            if timed is None:
                self._forget(key)
                continue
            self._catch_up(key, now)
            count = self._counts[key]
            if not count.is_overdue:
                continue
            end = self._end(count)
            if end <= now and key in spared and self._end(count, inf) > now:
                end = now  # checked again after all others
            elif end <= now:
                if size >= MOST_BYTES:
                    break
                found.append((key, timed.since))
                size += _size(key)
                end = now + RETRY_SECONDS
            self._look(key, count, end)
        return found

    def lead(self, now: float, grace: float) -> None:
        """This member has become leader. Items renewed before get `grace` seconds more, because clients may
        have been told later ends by other members; overdue items get so many from now, so that their owners
        can renew them.
        """
        self.count(now)
        self._led = now
        self._leads += 1
        self._grace = grace

    def spare(self, now: float, grace: float) -> None:
        """Requests wait at this leader, or did until now: postpone the ends within the next `grace` seconds,
        and those that are over, to the end of these, so that owners can renew their items; by at most
        `LONGEST_SPARED` each.
        """
        self._spared_until = now + grace

    @property
    def is_checkpointing(self) -> bool:
        """Whether a round of `checkpoints` is not finished."""
        return self._checkpointed is not None

    def begin_checkpoints(self) -> None:
        """Start another round of `checkpoints`: checkpoints of the time that items have left."""
        self._checkpointed = _FIRST if self._looks else None

    def checkpoints(self, now: float, longer_than: int, most: int) -> list[tuple[K, Any, int]]:
        """The time left of items that have a longer TTL than `longer_than` and are not overdue, as (key,
        since, seconds rounded up): out of the next `most` items of the round, fewer if their keys are long.
        An item that is renewed during the round may be left out, or returned twice.
        """
        found: list[tuple[K, Any, int]] = []
        if self._checkpointed is None:
            return found
        entries = self._looks.following(self._checkpointed, most)
        size = 0
        for when, number, key in entries:
            self._checkpointed = when, number
            timed = self._table.get(key)
            if timed is None or timed.ttl <= longer_than:
                continue
            self._catch_up(key, now)
            left = self._counts[key].end - now
            if left > 0:
                found.append((key, timed.since, ceil(left)))
                size += _size(key)
                if size >= MOST_BYTES:
                    return found
        if len(entries) < most:
            self._checkpointed = None
        return found

    def _end(self, count: _Count[K], spared_until: float = -inf) -> float:
        """When an item is to be ended. All that postpones it is applied here, within the bound."""
        end = count.end
        if 0 < self._leads - count.leads <= MOST_GRACES:
            end = max(end, self._led) + self._grace
        return max(end, min(max(self._spared_until, spared_until), end + LONGEST_SPARED))

    def _begin(self, key: K, now: float) -> None:
        """Start the timer of an item that was renewed."""
        timed = self._table.get(key)
        if timed is None:
            return
        end = now + (timed.remaining or timed.ttl)
        count = self._counts.get(key)
        if count is None:
            self._counts[key] = _Count(end, self._leads, timed.since, self._looks.add(end, key))
            return
        count.end, count.leads, count.since = end, self._leads, timed.since
        place = count.look.place
        if count.is_overdue or place is None or end < place[0]:
            self._look(key, count, end)

    def _catch_up(self, key: K, now: float) -> None:
        """Process a pending renewal of an item before its timer is used."""
        if self._table.ttl_changes.take_one(key):
            self._begin(key, now)

    def _look(self, key: K, count: _Count[K], when: float) -> None:
        self._unlook(count)
        count.is_overdue = False
        count.look = self._looks.add(when, key)

    def _unlook(self, count: _Count[K]) -> None:
        (self._overdue if count.is_overdue else self._looks).settle(count.look)

    def _forget(self, key: K) -> None:
        count = self._counts.pop(key, None)
        if count is not None:
            self._unlook(count)


_FIRST: Final = (-inf, 0)
"""Less than every entry."""


def _size(key: object) -> int:
    """Bytes of a key in a proposal, about."""
    return len(key) if isinstance(key, bytes) else 8
