"""Linearizable reads that wait: for the leader to confirm a read index, for this member to have applied up to
it, and then for their turn.

A read may take as long as the answer of a call does, so not all that can be answered are answered at once: a
turn of the member stops when it has worked enough. Households (`admission.household`) take turns, so that a
client with a thousand reads delays only itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from sortedcontainers import SortedDict  # type: ignore[import-untyped]  # it has no annotations

from netstore import errors
from netstore.admission import Admission, household
from netstore.guard import guarded, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.v3.mvcc import Mvcc
    from netstore.types import Index

    Done = Callable[[Fault | None], None]

MAX_WAITING: Final = 20_000
"""Linearizable reads of this member that may wait at once. One principal has at most half of them
(`admission`).
"""

READ_UNITS: Final = 5_000
"""About how many microseconds of work on reads one turn does; the others are answered in the next turns."""

UNITS_A_READ: Final = 20
"""About how many microseconds a read takes beside what it looks at (`Mvcc.read_units`)."""

LINED_UP: Final = 1_000
"""Reads that are put into the queues of their households in one go, when they can be answered: 0.2 ms."""

LINED_UP_EACH: Final = 64
"""The same for further ones, each time one is taken."""


class _Read(NamedTuple):
    done: Done
    late: float
    """Its time limit, in monotonic seconds."""
    owner: str


class Reads:
    """The reads of one member, each known by a number. Who gets `done` from here calls it, once."""

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self.failed: Callable[[Exception], object] = unguarded
        """Called with the exception that an answer raised."""
        self.slow_before = float("-inf")
        """A read whose time limit ends before this has waited for long; the host sets it in each turn."""
        self.slow: Callable[[Done, float, Fault | None], None] = _answer
        """Calls `done` of such a read; it is told when the read was asked for, too."""
        self._last = 0
        self._places = Admission(MAX_WAITING)
        self._asked: dict[int, _Read] = {}
        """All that wait, in the order in which they came."""
        self._behind = SortedDict()
        """Reads that wait for an index to be applied, by that index, in order: few indexes, for one serves
        many reads.
        """
        self._applied = 0
        """The applied index as last reported."""
        self._index_of: dict[int, Index] = {}
        """The index that each confirmed read waits for."""
        # These may contain reads that were given up.
        self._reached: deque[int] = deque()
        """Those that can be answered and are in no queue yet."""
        self._queues: OrderedDict[str, deque[int]] = OrderedDict()
        """The others that can be answered, by household; the first one has the next turn."""

    def serve(self, applied: Index, mvcc: Mvcc) -> None:
        """Answer the reads that can be answered once everything up to `applied` is, by turns of households,
        until that was enough work for one turn of the member; the others remain `ready`.
        """
        self.reach(applied)
        units = READ_UNITS
        while units > 0 and (done := self.take()) is not None:
            before = mvcc.read_units
            self.finish(done, None)
            units -= UNITS_A_READ + mvcc.read_units - before

    def finish(self, done: Done | None, fault: Fault | None) -> None:
        """Call `done`, if there is one."""
        if done is not None and not guarded(self.failed, done, fault):
            guarded(self.failed, done, errors.failed())

    def __len__(self) -> int:
        """How many wait."""
        return len(self._asked)

    @property
    def ready(self) -> bool:
        """There may be one that can be answered."""
        return bool(self._queues or self._reached)

    def ask(self, done: Done, principal: str, now: float) -> int | None:
        """A new read, at `now` by the monotonic clock; its number. None when too many wait, of all or of this
        principal.
        """
        owner = household(principal)
        if not self._places.enter(owner):
            return None
        self._last += 1
        self._asked[self._last] = _Read(done, now + self._time_limit, owner)
        return self._last

    def confirm(self, number: int, index: Index) -> None:
        """The leader has confirmed this read: it may be answered once everything up to `index` is applied,
        which is mostly the case. O(log n).
        """
        if number not in self._asked or number in self._index_of:
            return
        if index <= self._applied:
            self._reached.append(number)
            return
        numbers = self._behind.get(index)
        if numbers is None:
            numbers = self._behind[index] = {}
        numbers[number] = None
        self._index_of[number] = index

    def reach(self, applied: Index) -> None:
        """Everything up to `applied` is applied. O(indexes that were waited for, and `LINED_UP`), and 10 ns
        for each further read.
        """
        self._applied = applied
        behind = self._behind
        while behind and behind.peekitem(0)[0] <= applied:
            self._reached += behind.popitem(0)[1]
        self._line_up(LINED_UP)

    def take(self) -> Done | None:
        """Remove and return the next read that can be answered; None if there is none. O(1), beside those
        that were given up.
        """
        queues = self._queues
        if self._reached:
            self._line_up(LINED_UP_EACH)
        while queues:
            owner, queue = queues.popitem(last=False)
            done = self.drop(queue.popleft())
            if queue:
                queues[owner] = queue
            if done is not None:
                return done
        return None

    def _line_up(self, most: int) -> None:
        """Move up to `most` of those that can be answered into the queues of their households."""
        reached, asked = self._reached, self._asked
        for _ in range(min(most, len(reached))):
            number = reached.popleft()
            read = asked.get(number)
            if read is not None:
                self._queues.setdefault(read.owner, deque()).append(number)

    def drop(self, number: int) -> Done | None:
        """Remove a read; None if it does not wait."""
        read = self._asked.pop(number, None)
        if read is None:
            return None
        self._places.leave(read.owner)
        index = self._index_of.pop(number, None)
        numbers = None if index is None else self._behind.get(index)
        if numbers is not None:
            numbers.pop(number, None)
            if not numbers:
                del self._behind[index]
        if read.late < self.slow_before:
            return partial(self.slow, read.done, read.late - self._time_limit)
        return read.done

    def take_late(self, now: float, most: int) -> list[Done]:
        """Remove and return up to `most` reads past their time limit. O(those)."""
        late = list(takewhile(lambda number: self._asked[number].late < now, islice(self._asked, most)))
        return [done for number in late if (done := self.drop(number)) is not None]

    def take_all(self) -> list[Done]:
        """Remove and return all: the member stops."""
        found = [done for number in list(self._asked) if (done := self.drop(number)) is not None]
        self._behind.clear()
        self._reached.clear()
        self._queues.clear()
        return found


def _answer(done: Done, _asked: float, fault: Fault | None) -> None:
    done(fault)
