"""Time that is left, counted by one member: for leases of the v3 API, and nodes of the v2 tree with a TTL.

What has a TTL is made, renewed and ended by commands, at one index, for everybody; no instant is replicated
that anything is judged by. Every member counts for itself how long ago it applied the last renewal, by its
monotonic clock, and the leader proposes the end of what is overdue by its count. Invariants:
 1. Everything lives at least its TTL from its last renewal: by the clock of the member that proposes its end,
    which started when that member applied the renewal, or later. Of what a checkpoint left of the TTL where
    no member has counted on since, as after a restart.
 2. A proposal that is overtaken by a renewal is void, whoever made it: it names the index of the renewal it
    counts from (`Timed.since`).
 3. However often leaders change, a member spares what is overdue for that reason at most `MOST_GRACES` times.
 4. However often requests have to wait, and however many renewals of the same thing wait or are refused,
    nothing ends more than `LONGEST_SPARED` later for these reasons together than it would by the rest.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from netstore.expiry import Expiries, Expiry
from netstore.parted import LET_GO_STEP, Parted

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

K = TypeVar("K", bound=Any)

MAX_DUE: Final = 500
"""How many one look at the clock finds: a wave of them must not fill the log at once."""

RETRY_SECONDS: Final = 3.0
"""After this long what is overdue and still there is told again."""

MOST_BYTES: Final = 64 * 1024
"""Bytes of the keys in one proposal, and one key more: a path may have tens of kilobytes."""

COUNTED_AT_ONCE: Final = 500
"""Renewals that are counted in one call, removals, and ends that are looked at: 1 to 5 us each. After a state
was loaded there may be many; what is counted later lives longer.
"""

MOST_GRACES: Final = 10
"""How often a member that comes to lead gives the same thing a grace: else leaders that follow each other
faster than graces pass would keep it for ever.
"""

LONGEST_SPARED: Final = 60.0
"""By so many seconds an end is put off, at most, because requests wait or had to, or what may renew it
waits: else a leader that always has more to do than it can would end nothing, and what others try to write
all the time, as a lock, would outlive its owner for ever.
"""


class Timed(Protocol):
    """Something with a TTL. `since` is the index that made or last renewed it, `remaining` what a checkpoint
    after that left of its TTL, 0 for all of it. Both times in seconds.
    """

    ttl: int
    since: Any
    remaining: int


class Table(Protocol[K]):
    """Where what has a TTL lies (`lease.Leases`, `tree.Tree.timed`)."""

    def get(self, key: K) -> Timed | None:
        """What lies there, or None."""

    def timed_keys(self) -> Iterable[K]:
        """The keys of all that has a TTL."""

    @property
    def news(self) -> News[K]:
        """What changed of it, for the one clock of this member."""


class Waiting(Generic[K]):
    """Keys that wait to be taken, each once, in the order in which they came: one that comes again keeps its
    place. So each is taken after what was there before it, however many come, and however often.
    """

    __slots__ = ("_is_wanted", "_order", "_spent")

    def __init__(self) -> None:
        self._order: deque[K] = deque()
        self._is_wanted: Parted[K, bool] = Parted()
        """Of each key in the order: not, where it was dropped since. Its place is kept, so that who drops
        keys and adds them again makes the order no longer than there are keys.
        """
        self._spent: Iterator[None] = iter(())
        """Gives back the room of many that were taken, in steps."""

    def __len__(self) -> int:
        """How many places there are. O(1)."""
        return len(self._order)

    def add(self, key: K) -> None:
        """It waits, from now on if it did not."""
        if key not in self._is_wanted:
            self._order.append(key)
        self._is_wanted[key] = True

    def drop(self, key: K) -> bool:
        """It waits no more; whether it did."""
        if not self._is_wanted.get(key, False):
            return False
        self._is_wanted[key] = False
        return True

    def take(self, most: int) -> list[K]:
        """The next that wait, of so many places."""
        order, is_wanted = self._order, self._is_wanted
        keys = [order.popleft() for _ in range(min(most, len(order)))]
        found = [key for key in keys if is_wanted.pop(key)]
        next(self._spent, None)
        if not order and is_wanted.is_large:
            self._is_wanted, self._spent = Parted(), is_wanted.let_go()
        return found

    def let_go(self) -> Iterator[None]:
        """Forget all of it in steps, when nobody looks at it any more."""
        order = self._order
        while order:
            for _ in range(min(LET_GO_STEP, len(order))):
                order.popleft()
            yield
        yield from self._is_wanted.let_go()


class News(Generic[K]):
    """What a table notes for who counts its time: which keys were renewed and which were removed since it was
    asked. What was noted first is told first: else a flood of others would put a key off for ever.
    """

    __slots__ = ("_removed", "_renewed")

    def __init__(self) -> None:
        self._renewed: Waiting[K] = Waiting()
        self._removed: Waiting[K] = Waiting()

    def renew(self, key: K) -> None:
        """Its time begins anew."""
        self._renewed.add(key)

    def remove(self, key: K) -> None:
        """It is gone."""
        self._renewed.drop(key)
        self._removed.add(key)

    @property
    def waits(self) -> bool:
        """Something was not taken yet."""
        return bool(self._renewed or self._removed)

    def take_one(self, key: K) -> bool:
        """Take this one; whether it was renewed and not taken yet."""
        return self._renewed.drop(key)

    def restart(self, keys: Waiting[K]) -> Iterator[None]:
        """These are all there are, with their time beginning now; they are taken over. What was there before
        and is not any more is told by `remove`. Gives the steps in which what waited is let go of.
        """
        gone, self._renewed = self._renewed, keys
        return gone.let_go()

    def take_renewed(self, most: int) -> list[K]:
        """So many of those that were renewed and not taken yet, or fewer though some are left (`waits`)."""
        return self._renewed.take(most)

    def take_removed(self, most: int) -> list[K]:
        """So many of those that were removed and not taken yet; some may be there again."""
        return self._removed.take(most)


class _Count(Generic[K]):
    """What is known of one of them."""

    __slots__ = ("end", "is_overdue", "leads", "look", "since")

    def __init__(self, end: float, leads: int, since: Any, look: Expiry[K]) -> None:
        self.end = end
        """When its time is over."""
        self.leads = leads
        """How often this member had come to lead when that began to be counted."""
        self.since = since
        """The index of the renewal that it counts from."""
        self.look = look
        """Its place among those to be looked at, or among those that are overdue."""
        self.is_overdue = False
        """Which of the two."""


class Countdown(Generic[K]):
    """How long each has left by this member's count. Instants are seconds of its monotonic clock.

    A renewal counts from the first call after it was applied, so one of them has to be made often: what comes
    between lets things live longer. Each call does at most `COUNTED_AT_ONCE` of what is to be done of each
    kind, O(log n) each, and has nothing to make up for; nothing is held of what is gone.
    """

    def __init__(self, table: Table[K]) -> None:
        self._table = table
        self._counts: Parted[K, _Count[K]] = Parted()
        self._looks: Expiries[K] = Expiries()
        """When each is to be looked at, which may be before its end."""
        self._overdue: Expiries[K] = Expiries()
        """Those whose end has come, by when that was seen."""
        self._led = -inf
        """When this member came to lead last."""
        self._leads = 0
        self._grace = 0.0
        self._spared_until = -inf
        """Before this, nothing is overdue that has not been so for long."""
        self._noted: tuple[float, int] | None = None
        """How far the round of notes has come in `_looks`: a time, and a number of those that have it."""

    def __len__(self) -> int:
        """How many are counted."""
        return len(self._counts)

    def count(self, now: float) -> bool:
        """Begin to count what was renewed since the last call, and look whose time has come. Whether some of
        that is left for another call, which should come soon.
        """
        table = self._table
        news = table.news
        for key in news.take_removed(COUNTED_AT_ONCE):
            if table.get(key) is None:
                self._forget(key)
        for key in news.take_renewed(COUNTED_AT_ONCE):
            self._begin(key, now)
        return not self._look_through(now) or news.waits

    def _look_through(self, now: float) -> bool:
        """Look at those whose time for that has come: whether at all of them."""
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
        """The seconds it has left, not below 0; None when it is not there. O(log n)."""
        timed = self._table.get(key)
        if timed is None:
            return None
        self._catch_up(key, now)
        count = self._counts.get(key)
        return float(timed.remaining or timed.ttl) if count is None else max(0.0, self._end(count) - now)

    def left_since(self, key: K, since: Any, now: float) -> float | None:
        """The seconds left of the TTL that began at the index `since`, below 0 where it is overdue; all of
        them where it is not counted yet, and never more. None where that is not known: something has come
        after it and was counted. Changes nothing.
        """
        count, timed = self._counts.get(key), self._table.get(key)
        if count is None or count.since != since:
            is_new = timed is not None and timed.since == since
            return float(timed.remaining or timed.ttl) if is_new and timed is not None else None
        left = self._end(count) - now
        return min(left, timed.ttl) if timed is not None and timed.since == since else left

    def due(self, now: float, spared: Container[K] = ()) -> list[tuple[K, Any]]:
        """What is overdue, as (key, since), the longest overdue first, at most `MAX_DUE` and `MOST_BYTES`.
        What was told is not told again for `RETRY_SECONDS`. What is `spared` has up to `LONGEST_SPARED` after
        its time; once it is not spared any more, the next call may tell it.
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
                end = now  # looked at again behind all others
            elif end <= now:
                if size >= MOST_BYTES:
                    break
                found.append((key, timed.since))
                size += _size(key)
                end = now + RETRY_SECONDS
            self._look(key, count, end)
        return found

    def lead(self, now: float, grace: float) -> None:
        """This member has come to lead. What was renewed before gets a grace of so many seconds, because
        others may have been answered later than is counted here, and what is overdue so many from now, for
        its owner to renew it.
        """
        self.count(now)
        self._led = now
        self._leads += 1
        self._grace = grace

    def spare(self, now: float, grace: float) -> None:
        """Requests wait at this member, which leads, or did until now: what is overdue, or will be within so
        many seconds, has these from now, for its owner to renew it, up to `LONGEST_SPARED` after its time.
        """
        self._spared_until = now + grace

    @property
    def noting(self) -> bool:
        """A round of `notes` is not over."""
        return self._noted is not None

    def begin_notes(self) -> None:
        """Begin another round of `notes`."""
        self._noted = _FIRST if self._looks else None

    def notes(self, now: float, longer_than: int, most: int) -> list[tuple[K, Any, int]]:
        """What is left, in whole seconds rounded up, of what has a longer TTL than this and is not overdue,
        as (key, since, seconds): out of the next `most` of the round, or fewer where their keys are long.
        What is renewed while the round lasts may be left out, or come twice.
        """
        found: list[tuple[K, Any, int]] = []
        if self._noted is None:
            return found
        entries = self._looks.following(self._noted, most)
        size = 0
        for when, number, key in entries:
            self._noted = when, number
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
            self._noted = None
        return found

    def _end(self, count: _Count[K], spared_until: float = -inf) -> float:
        """When it ends. Whatever spares it does so here, under the one bound."""
        end = count.end
        if 0 < self._leads - count.leads <= MOST_GRACES:
            end = max(end, self._led) + self._grace
        return max(end, min(max(self._spared_until, spared_until), end + LONGEST_SPARED))

    def _begin(self, key: K, now: float) -> None:
        """It was renewed: its time begins now."""
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
        """Count its renewal before anything is said of it."""
        if self._table.news.take_one(key):
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
"""Before all times and numbers."""


def _size(key: object) -> int:
    """Bytes that a key takes in a proposal, about."""
    return len(key) if isinstance(key, bytes) else 8
