"""Linearizable reads that wait: for the leader's word on how new the state has to be, for this member to have
applied as much, and then for their turn.

What a read does when its turn comes may take as long as an answer of a call does, so those that can be
answered are not all answered at once: the host asks for the next one until its turn has worked enough, and
principals (`admission.household`) take turns, so that who asks for a thousand things waits for itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heapify, heappop, heappush
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.admission import Admission, household

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.types import Index

    Done = Callable[[Fault | None], None]

MAX_WAITING: Final = 20_000
"""Linearizable reads of this member that may wait at once. One principal has at most half of them
(`admission`).
"""


class _Read(NamedTuple):
    done: Done
    late: float
    """When it has waited too long. Monotonic seconds."""
    owner: str


class Reads:
    """The reads of one member, each known by a number. Whoever gets `done` from here calls it, once."""

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self._last = 0
        self._places = Admission(MAX_WAITING)
        self._asked: dict[int, _Read] = {}
        """All that wait, in the order in which they came."""
        self._behind: list[tuple[Index, int]] = []
        """A heap: what has to be applied before a read can be answered. It may have some that were given up.
        """
        self._lines: OrderedDict[str, deque[int]] = OrderedDict()
        """Those that can be answered, by who asked; the next one's line is the first. They too."""

    def __len__(self) -> int:
        """How many wait."""
        return len(self._asked)

    @property
    def ready(self) -> bool:
        """There may be one that can be answered."""
        return bool(self._lines)

    def ask(self, done: Done, principal: str, now: float) -> int | None:
        """One more read, at `now` by the monotonic clock; its number. None when too many wait, of all or of
        this principal.
        """
        owner = household(principal)
        if not self._places.enter(owner):
            return None
        self._last += 1
        self._asked[self._last] = _Read(done, now + self._time_limit, owner)
        return self._last

    def confirm(self, number: int, index: Index) -> None:
        """This read may be answered once everything up to `index` is applied. O(log n)."""
        if number in self._asked:
            heappush(self._behind, (index, number))

    def reach(self, applied: Index) -> None:
        """Everything up to here is applied. O(reads that can be answered now, and log n for each)."""
        behind = self._behind
        while behind and behind[0][0] <= applied:
            _, number = heappop(behind)
            read = self._asked.get(number)
            if read is not None:
                self._lines.setdefault(read.owner, deque()).append(number)

    def take(self) -> Done | None:
        """The read whose turn it is; it waits no more. None where none can be answered."""
        lines = self._lines
        while lines:
            owner, line = lines.popitem(last=False)
            done = self.drop(line.popleft())
            if line:
                lines[owner] = line
            if done is not None:
                return done
        return None

    def drop(self, number: int) -> Done | None:
        """Let a read wait no more; None when it does not."""
        read = self._asked.pop(number, None)
        if read is None:
            return None
        self._places.leave(read.owner)
        return read.done

    def take_late(self, now: float) -> list[Done]:
        """Those that have waited too long, which wait no more. O(those), and of what waits where there are
        any.
        """
        late = list(takewhile(lambda number: self._asked[number].late < now, self._asked))
        found = [done for number in late if (done := self.drop(number)) is not None]
        if found:
            self._behind = [each for each in self._behind if each[1] in self._asked]
            heapify(self._behind)
        return found

    def take_all(self) -> list[Done]:
        """All of them: the member stops."""
        found = [done for number in list(self._asked) if (done := self.drop(number)) is not None]
        self._behind.clear()
        self._lines.clear()
        return found
