"""Requests of this member that wait for the log: each has a slot, which is found by its request id when its
entry is applied.

A slot is completed exactly once, on the loop, with one of three results: the outcome of applying the entry; a
refusal, which means that it was never proposed; or a fault whose outcome is unknown, because the time limit
passed or the member stopped.
"""

from __future__ import annotations

from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import msgspec

from netstore import errors
from netstore.admission import WeighedAdmission
from netstore.errors import MustStop
from netstore.guard import guarded, tell, unguarded
from netstore.node.fairqueue import FairQueue, owner_of
from netstore.node.slowness import SLOW_SECONDS
from netstore.state.envelope import seal
from netstore.types import Nanos, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.errors import Fault
    from netstore.seams import Clock
    from netstore.state.machine import Outcome

    Done = Callable[[Outcome | Fault], None]

MAX_WAITING: Final = 20_000
"""Requests of this member that may wait at once; at 10 us each that is 0.2 s of work. One principal has at
most half of them (`admission`), the member itself what is left.
"""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes of commands that may wait at once, shared out in the same way: queued, or handed to Raft and not
completed. Commands that are also in the log share their memory with it.
"""

_SHARED: Final = MAX_WAITING // 2
_SHARED_BYTES: Final = MAX_WAITING_BYTES // 2
"""Requests, and bytes, up to which no share is looked at."""

COMPLETED_AT_ONCE: Final = 250
"""Waiting requests that are completed with a fault in one piece, and as many reads: about 2 ms."""

NEVER_AGAIN: Final = Term(1 << 64)
"""Later than any term: a slot with it is not proposed again, whoever leads."""

_QUEUED: Final = Term(0)
"""Earlier than any term: the slot is not handed to Raft."""

_ID_MASK: Final = (1 << 64) - 1


class Slot(msgspec.Struct, eq=False):
    """A request that waits for its outcome. `late_at` is in monotonic seconds; `term` is that in which the
    payload was handed to Raft.
    """

    request: int
    payload: bytes
    """Empty once the slot is completed: queues skip it then."""
    done: Done
    late_at: float
    size: int
    owner: str
    term: Term = _QUEUED
    removes: bool | None = None
    """Whether the command only removes; None until it was decoded."""
    sent_at: float = 0.0
    """When it was last handed to Raft, in monotonic seconds; 0 if it was not."""

    @property
    def waits(self) -> bool:
        """See `member.Queued`."""
        return not self.term and bool(self.payload)


class Proposals:
    """The slots of one member, and the queue of payloads that were not handed to Raft yet.

    Request ids count up from `origin`, 64 random bits drawn at each start of a member, so that no request has
    the id of an entry that another member, or an earlier run of this one, has put into the log. A clock
    cannot replace it: one that is set back, or starts at the same time at each boot, gives the same ids
    again.
    """

    def __init__(self, origin: int, time_limit: float, clock: Clock | None = None) -> None:
        """`clock` is read when the first request comes after none waited: the last turn may have been long
        ago then.
        """
        self._next = origin
        self._clock = clock
        self.time_limit = time_limit
        """Seconds a request may wait."""
        self._slots: dict[int, Slot] = {}
        """In the order in which they were opened, which is that of their time limits."""
        self.size = 0
        """Bytes of all commands that wait."""
        self._shares: WeighedAdmission | None = None
        """What each household has. It is counted from when half of what may wait does, until a quarter of
        what may wait does: nobody is refused before (`WeighedAdmission.enter`), and counting each request
        took 90 bytecodes, 4 % of a put. Requests of the member itself count in bytes only.
        """
        self._queue: FairQueue[Slot] = FairQueue()
        """What is to be handed to Raft."""
        self.now = 0.0
        """Monotonic seconds; the host sets it in each turn."""
        self.failed: Callable[[Exception], object] = unguarded
        """Called with the exception that completing a slot raised."""
        self.is_stopped = False
        """The member stops: nothing more is accepted."""
        self.given_up = 0
        """Requests that were completed without an outcome."""
        self.slow_before = float("-inf")
        """A slot whose time limit ends before this has waited for long. The host sets it before it applies
        entries; a slot that is given up sets it itself.
        """
        self.slow: Callable[[Slot, bytes, bool, Outcome | Fault], None] = _complete
        """Calls `done` of such a slot; it is told the payload, and whether its entry was applied, too."""
        self.wall = Nanos(0)
        """Wall time, set with `now`; it is stored in the envelopes."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def queued(self) -> bool:
        """Whether there may be something to `take`."""
        queue = self._queue
        return bool(queue.new or queue.first or queue.queues)  # without a call: asked often in each turn

    def open(self, command: bytes, done: Done, principal: bytes, level: int = 1) -> bytes | None:
        """Give a command its slot and return its payload (`state.envelope`), which the caller proposes. None,
        after `done` was called, when the member stops or too much waits already, of all or of this principal.
        """
        slot = self.add(command, done, principal, level, is_queued=False)
        return None if slot is None else slot.payload

    def add(
        self, command: bytes, done: Done, principal: bytes, level: int = 1, *, is_queued: bool = True
    ) -> Slot | None:
        """Give a command its slot and, if `is_queued`, queue it for `take`; refused like `open`. With
        `member.OWN` the request is the member's own, an end of leases above all, and goes first.
        """
        if self.is_stopped:
            done(errors.stopped())
            return None
        size = len(command) + 1  # never 0: an empty command counts too
        owner, slots = owner_of(principal), self._slots
        all_size = self.size + size
        if (
            len(slots) >= _SHARED or all_size > _SHARED_BYTES or self._shares is not None
        ) and not self._enter(owner, size):
            done(errors.too_many())
            return None
        self.size = all_size
        if not slots and self._clock is not None:
            self.now, self.wall = self._clock.monotonic(), self._clock.wall()
        self._next = request = (self._next + 1) & _ID_MASK
        payload = seal(command, request, level, self.wall, principal)
        slot = slots[request] = Slot(request, payload, done, self.now + self.time_limit, size, owner)
        if is_queued:
            queue = self._queue
            (queue.new if owner else queue.first).append(slot)  # `add`, without a call
        return slot

    def _enter(self, owner: str, size: int) -> bool:
        """Whether one more request of a household may wait, where its share matters."""
        shares = self._shares
        if shares is None:
            shares = self._shares = WeighedAdmission(MAX_WAITING, MAX_WAITING_BYTES)
            for slot in self._slots.values():
                shares.hold(slot.owner, slot.size, 1 if slot.owner else 0)
        return len(self._slots) < MAX_WAITING and shares.enter(owner, size, 1 if owner else 0)

    def _leave(self, shares: WeighedAdmission, slot: Slot) -> None:
        shares.leave(slot.owner, slot.size, 1 if slot.owner else 0)
        if 2 * len(self._slots) <= _SHARED and 2 * self.size <= _SHARED_BYTES:
            self._shares = None

    def take(self, most: int, most_bytes: int = MAX_WAITING_BYTES, *, fitting: bool = False) -> list[Slot]:
        """Some of what is queued, by turns of households: see `FairQueue.take`."""
        return self._queue.take(most, most_bytes, fitting=fitting)

    def put_back(self, slots: list[Slot]) -> None:
        """See `FairQueue.put_back`."""
        self._queue.put_back(slots)

    def sent(self, term: Term, slots: Sequence[Slot]) -> None:
        """These were handed to Raft in this term."""
        now = self.now
        for slot in slots:
            slot.term = term
            slot.sent_at = now

    def requeue_lost(self, term: Term) -> None:
        """An entry of this term was applied. What was proposed in an earlier term and has not been applied
        never will be: the terms of log entries only rise, and a leader takes only what was proposed in its
        own term (Ongaro's dissertation, section 3.6). It is queued again, in the queue of its household and
        in the order in which it was opened. So a request survives the loss of the leader it was given to, and
        is still done once at most. O(`MAX_WAITING`): 2 ms, 13 ms with as many households.
        """
        again = [slot for slot in self._slots.values() if _QUEUED < slot.term < term]
        if not again:
            return
        for slot in again:
            slot.term = _QUEUED
        first = next(iter(self._slots))
        self._queue.put_among(again, lambda slot: (slot.request - first) & _ID_MASK)

    def snapshot_installed(self) -> None:
        """A snapshot has replaced the state: it may contain what was proposed, so that is not proposed again.
        O(all).
        """
        for slot in self._slots.values():
            if slot.term:
                slot.term = NEVER_AGAIN

    def awaits(self, request: int) -> bool:
        """Whether somebody waits for the outcome of this request."""
        return request in self._slots

    def complete(self, request: int, outcome: Outcome | Fault, *, is_applied: bool = True) -> None:
        """The entry of this request was applied. Nothing happens when nobody waits for it: it is another
        member's, or was given up.
        """
        slot = self._slots.pop(request, None)
        if slot is None:
            return
        done = slot.done
        if slot.late_at < self.slow_before:
            done = partial(self.slow, slot, slot.payload, is_applied)
        slot.payload = b""
        self.size -= slot.size
        if self._shares is not None:
            self._leave(self._shares, slot)
        # The callback makes the answer. If it raises, it gets a fault instead, and the next slot goes on.
        try:
            done(outcome)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - told
            tell(self.failed, fault)
            guarded(self.failed, done, errors.failed())

    def give_up_sent(self, fault: Fault, most: int) -> bool:
        """Nobody can say when what was handed to Raft will be durable: complete up to `most` slots of it, the
        oldest first. Whether there may be more. O(`MAX_WAITING`) to find them: 1 ms.
        """
        sent = list(islice((slot for slot in self._slots.values() if slot.term), most))
        self.refuse(sent, fault)
        return len(sent) == most

    def expire(self, fault: Callable[[], Fault], most: int) -> int:
        """Complete up to `most` slots past their time limit with a fault; returns how many. Slots, and each
        queue, are in the order of their time limits, so this is O(expired), amortised.
        """
        late = list(takewhile(self._is_late, islice(self._slots.values(), most)))
        for slot in late:
            self.give_up(slot.request, fault())
            self._queue.forget(slot)
        return len(late)

    def fail_all(self, fault: Fault) -> None:
        """The member stops: complete every slot."""
        self._queue.clear()
        self.refuse(list(self._slots.values()), fault)

    def refuse(self, slots: list[Slot], fault: Fault) -> None:
        """These are not proposed: complete all of them. 10 us each."""
        for slot in slots:
            self.give_up(slot.request, fault)

    def give_up(self, request: int, fault: Fault) -> None:
        """Complete a slot whose entry was not applied. Nothing happens when nobody waits for it."""
        self.given_up += request in self._slots
        self.slow_before = self.now + self.time_limit - SLOW_SECONDS
        self.complete(request, fault, is_applied=False)

    def refused(self, term: Term, requests: Sequence[int]) -> list[Slot]:
        """The leader they were handed to in this term has not proposed these, and never will: returns those
        that still wait and were handed to no other leader since. The caller completes them; they are not
        proposed again.
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


def _complete(slot: Slot, _payload: bytes, _is_applied: bool, outcome: Outcome | Fault) -> None:
    slot.done(outcome)
