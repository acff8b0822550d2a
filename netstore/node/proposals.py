"""Requests that wait for the log: each has a slot, found again by its request id when its entry is applied.

A slot is completed exactly once, by the loop, with one of three meanings: the outcome of applying it, a
refusal (it was never proposed), or a fault whose outcome is unknown (the time limit passed, or the member
stopped).
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import msgspec

from netstore import errors
from netstore.admission import WeighedAdmission
from netstore.errors import MustStop
from netstore.guard import guarded, tell, unguarded
from netstore.node.fairqueue import Lines, owner_of
from netstore.state.envelope import seal
from netstore.types import Nanos, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.errors import Fault
    from netstore.state.machine import Outcome

    Done = Callable[[Outcome | Fault], None]

MAX_WAITING: Final = 20_000
"""Proposals of this member that may wait at once; at 10 us each that is 0.2 s of work. One principal has at
most half of them (`admission`), the member itself what is left.
"""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes of commands that may wait at once, shared out like them: queued, or handed to Raft and not answered.
Where they are queued elsewhere, as in the log, that is the same memory.
"""

COMPLETED_AT_ONCE: Final = 250
"""Waiting requests that are completed with a fault in one piece, and as many reads: about 2 ms."""

NEVER_AGAIN: Final = Term(1 << 64)
"""Later than any term: what is marked with it is not sent again, whichever leader comes."""

_QUEUED: Final = Term(0)
"""Earlier than any: what is not handed to Raft."""

_ID_MASK: Final = (1 << 64) - 1


class Slot(msgspec.Struct, eq=False):
    """A request that waits for its outcome. `late_at` is in monotonic seconds; `term` is that in which the
    payload was handed to Raft.
    """

    request: int
    payload: bytes
    """Empty once it is completed: whoever has the slot in a queue passes over it."""
    done: Done
    late_at: float
    size: int
    owner: str
    term: Term = _QUEUED
    removes: bool | None = None
    """Whether it only removes, once somebody looked."""


class Proposals:
    """The slots of one member, and the payloads that have not been handed to Raft yet.

    Request ids count up from `origin`: 64 bits drawn anew for each life of a member, so that nobody waits
    under the id of an entry that another member, or an earlier life of this one, put into the log. No clock
    can stand in for it: one that is set back, or starts at the same instant each time, gives the same ids
    again.
    """

    def __init__(self, origin: int, time_limit: float) -> None:
        self._next = origin
        self.time_limit = time_limit
        """Seconds a request may wait."""
        self._slots: dict[int, Slot] = {}
        """In the order in which they were opened, which is that of their time limits."""
        self._waiting = WeighedAdmission(MAX_WAITING, MAX_WAITING_BYTES)
        """What the member itself proposes has no place there, only bytes."""
        self._lines: Lines[Slot] = Lines()
        """What is to be handed to Raft."""
        self.now = 0.0
        """Monotonic seconds; the loop sets it at each turn."""
        self.failed: Callable[[Exception], object] = unguarded
        """Told what a slot raised when it was completed."""
        self.is_stopped = False
        """The member stops: nothing more is accepted."""
        self.wall = Nanos(0)
        """Wall time, set with it; what the envelopes tell."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def queued(self) -> bool:
        """There is something to `take`, or there was."""
        return bool(self._lines)

    def open(self, command: bytes, done: Done, principal: bytes, level: int = 1) -> bytes | None:
        """Give a command its slot and return its payload (`state.envelope`), to be proposed by the caller.
        None (and `done` was called) when too much waits already, of all or of this principal.
        """
        slot = self._open(command, done, principal, level)
        return None if slot is None else slot.payload

    def _open(self, command: bytes, done: Done, principal: bytes, level: int) -> Slot | None:
        size = len(command) + 1  # nobody holds no bytes
        owner = owner_of(principal)
        if len(self._slots) >= MAX_WAITING or not self._waiting.enter(owner, size, 1 if owner else 0):
            done(errors.too_many())
            return None
        self._next = request = (self._next + 1) & _ID_MASK
        payload = seal(command, request, level, self.wall, principal)
        slot = self._slots[request] = Slot(request, payload, done, self.now + self.time_limit, size, owner)
        return slot

    def add(self, command: bytes, done: Done, principal: bytes, level: int = 1) -> None:
        """Give a command its slot and queue it for `take`; refused like `open`. For `member.OWN` it is the
        member's own, ends of leases above all, and goes first.
        """
        slot = self._open(command, done, principal, level)
        if slot is not None:
            self._lines.add(slot)

    def take(self, most: int, most_bytes: int = MAX_WAITING_BYTES, *, fitting: bool = False) -> list[Slot]:
        """Some of what is queued, by turns of who asked: see `Lines.take`."""
        return self._lines.take(most, most_bytes, fitting=fitting)

    def put_back(self, slots: list[Slot]) -> None:
        """See `Lines.put_back`."""
        self._lines.put_back(slots)

    def sent(self, term: Term, slots: Sequence[Slot]) -> None:
        """These were handed to Raft, in this term."""
        for slot in slots:
            slot.term = term

    def overtaken(self, term: Term) -> None:
        """An entry of this term was applied. What was sent in an earlier term and has not been applied never
        will be: entries of the log are in the order of their terms, and a leader takes only what was sent in
        its own (Ongaro's dissertation, section 3.6). It is queued again, in the line of who asked and in the
        order in which it was opened, so that a request survives the leader it was given to, and still happens
        once at most. O(`MAX_WAITING`): 2 ms, 13 where as many asked.
        """
        again = [slot for slot in self._slots.values() if _QUEUED < slot.term < term]
        if not again:
            return
        for slot in again:
            slot.term = _QUEUED
        first = next(iter(self._slots))
        self._lines.put_among(again, lambda slot: (slot.request - first) & _ID_MASK)

    def jumped(self) -> None:
        """The state became that of a copy: what was sent may be part of it, and is not sent again. O(all)."""
        for slot in self._slots.values():
            if slot.term:
                slot.term = NEVER_AGAIN

    def awaits(self, request: int) -> bool:
        """Whether somebody waits for the outcome of this request."""
        return request in self._slots

    def complete(self, request: int, outcome: Outcome | Fault) -> None:
        """The entry of this request was applied. Nothing happens when nobody waits for it (another member's,
        or timed out).
        """
        slot = self._slots.pop(request, None)
        if slot is None:
            return
        done, owner = slot.done, slot.owner
        slot.payload = b""
        self._waiting.leave(owner, slot.size, 1 if owner else 0)
        # Whoever waits makes its answer now. Where it cannot, it is told that, and the next goes on.
        try:
            done(outcome)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - told
            tell(self.failed, fault)
            guarded(self.failed, done, errors.failed())

    def give_up_sent(self, fault: Fault, most: int) -> bool:
        """Nobody can say when what was handed to Raft is kept: complete so many slots of it, the oldest
        first. Whether there may be more. O(`MAX_WAITING`) to find them: 1 ms.
        """
        sent = list(islice((slot for slot in self._slots.values() if slot.term), most))
        self.refuse(sent, fault)
        return len(sent) == most

    def expire(self, fault: Callable[[], Fault], most: int) -> int:
        """Give up to so many slots past their time limit a fault; how many. Slots are in the order of their
        limits, and so is each line: this is O(expired), amortised.
        """
        late = list(takewhile(self._is_late, islice(self._slots.values(), most)))
        for slot in late:
            self.complete(slot.request, fault())
            self._lines.forget(slot)
        return len(late)

    def fail_all(self, fault: Fault) -> None:
        """The member stops: complete every slot."""
        self._lines.clear()
        self.refuse(list(self._slots.values()), fault)

    def refuse(self, slots: list[Slot], fault: Fault) -> None:
        """These go no further: complete them, all at once. 10 us each."""
        for slot in slots:
            self.complete(slot.request, fault)

    def refused(self, term: Term, requests: Sequence[int]) -> list[Slot]:
        """The leader to whom these were handed in this term did not propose them, and never will: those that
        wait and were handed to no other since. The caller completes them; they are not sent again.
        """
        found: list[Slot] = []
        for request in requests:
            slot = self._slots.get(request)
            if slot is not None and slot.term == term:
                slot.term = NEVER_AGAIN
                found.append(slot)
        return found

    def _is_late(self, slot: Slot) -> bool:
        return slot.late_at < self.now
