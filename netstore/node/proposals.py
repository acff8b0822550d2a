"""Requests that wait for the log: each has a slot, found again by its request id when its entry is applied.

A slot is completed exactly once, by the loop, with one of three meanings: the outcome of applying it, a
refusal (it was never proposed), or a fault whose outcome is unknown (the time limit passed, or the member
stopped).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.admission import WeighedAdmission, household
from netstore.errors import MustStop
from netstore.guard import guarded, tell, unguarded
from netstore.state.envelope import request_of, seal
from netstore.types import Nanos, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.machine import Outcome

    Done = Callable[[Outcome | Fault], None]

MAX_WAITING: Final = 20_000
"""Proposals of this member that may wait at once; at 10 us each that is 0.2 s of work. One principal has at
most half of them (`admission`), the member itself what is left.
"""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes of commands that may wait at once, shared out like them."""

TURN: Final = 16
"""Payloads of one principal (`admission.household`) that are taken before those of the next."""

AGAIN_AT_ONCE: Final = 1_000
"""Payloads of an earlier term that are looked at in one `take`: 0.3 ms. A batch of them may come on top."""

_ID_MASK: Final = (1 << 64) - 1


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
        self._slots: dict[int, tuple[Done, float, int, str]] = {}
        self._waiting = WeighedAdmission(MAX_WAITING, MAX_WAITING_BYTES)
        """What the member itself proposes has no place there, only bytes."""
        self._first: deque[bytes] = deque()
        """Payloads that go before those of the lines: put back, or of the member itself."""
        self._lines: OrderedDict[str, deque[bytes]] = OrderedDict()
        """The others by who asked (`admission.household`); the next one's line is the first."""
        self._sent: deque[tuple[Term, list[bytes]]] = deque()
        """What was handed to Raft and may still be waited for, with the term in which it was."""
        self._term = Term(0)
        """What was handed over in an earlier one is to be queued again."""
        self._again: deque[bytes] = deque()
        """Payloads that go before all others: they were sent once, in vain."""
        self.now = 0.0
        """Monotonic seconds; the loop sets it at each turn."""
        self.failed: Callable[[Exception], object] = unguarded
        """Told what a slot raised when it was completed."""
        self.wall = Nanos(0)
        """Wall time, set with it; what the envelopes tell."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def queued(self) -> bool:
        """Payloads wait to be proposed, or are to be looked at again."""
        return bool(self._first or self._lines or self._again or self._is_overtaken)

    @property
    def _is_overtaken(self) -> bool:
        """There is something left that was sent in an earlier term."""
        return bool(self._sent) and self._sent[0][0] < self._term

    def open(self, command: bytes, done: Done, principal: bytes = b"", level: int = 1) -> bytes | None:
        """Give a command its slot and return its payload (`state.envelope`), to be proposed by the caller.
        None (and `done` was called) when too much waits already, of all or of this principal.
        """
        size = len(command) + 1  # nobody holds no bytes
        owner = household(principal.decode())
        if len(self._slots) >= MAX_WAITING or not self._waiting.enter(owner, size, 1 if owner else 0):
            done(errors.too_many())
            return None
        self._next = request = (self._next + 1) & _ID_MASK
        self._slots[request] = (done, self.now + self.time_limit, size, owner)
        return seal(command, request, level, self.wall, principal)

    def add(self, command: bytes, done: Done, principal: bytes = b"", level: int = 1) -> None:
        """Give a command its slot and queue its payload for `take`; refused like `open`. Without a principal
        it is the member's own, ends of leases above all, and goes first.
        """
        payload = self.open(command, done, principal, level)
        if payload is None:
            return
        owner = household(principal.decode())
        if not owner:
            self._first.append(payload)
        elif (line := self._lines.get(owner)) is not None:
            line.append(payload)
        else:
            self._lines[owner] = deque((payload,))

    def take(self, most: int) -> list[bytes]:
        """Up to `most` queued payloads: those of one principal in the order they came, and where not all can
        be taken, principals by turns, so that who writes without a pause delays nobody but itself. What was
        overtaken comes before the others, however many calls that takes: some of these may give nothing.
        """
        first, lines, again = self._first, self._lines, self._again
        if self._is_overtaken:
            self._queue_again()
        payloads = [again.popleft() for _ in range(min(most, len(again)))]
        if self._is_overtaken:
            return payloads
        payloads += [first.popleft() for _ in range(min(most - len(payloads), len(first)))]
        if lines and len(payloads) + sum(map(len, lines.values())) <= most:
            for line in lines.values():
                payloads += line
            lines.clear()
        while lines and len(payloads) < most:
            owner, line = lines.popitem(last=False)
            payloads += [line.popleft() for _ in range(min(TURN, len(line), most - len(payloads)))]
            if line:
                lines[owner] = line
        return payloads

    def put_back(self, payloads: list[bytes]) -> None:
        """These were taken and could not be proposed yet: they are the next again."""
        self._first.extendleft(reversed(payloads))

    def sent(self, term: Term, payloads: list[bytes]) -> None:
        """These were handed to Raft, in this term, as one batch."""
        while self._sent and request_of(self._sent[0][1][-1]) not in self._slots:
            self._sent.popleft()
        self._sent.append((term, payloads))

    def overtaken(self, term: Term) -> None:
        """An entry of this term was applied. What was sent in an earlier term and has not been applied never
        will be: entries of the log are in the order of their terms, and a leader takes only what was sent in
        its own (Ongaro's dissertation, section 3.6). It is queued again, by the next calls of `take`, so that
        a request survives the leader it was given to, and still happens once at most.
        """
        self._term = term

    def _queue_again(self) -> None:
        most = AGAIN_AT_ONCE
        while most > 0 and self._is_overtaken:
            batch = self._sent.popleft()[1]
            self._again += [each for each in batch if request_of(each) in self._slots]
            most -= len(batch)

    def jumped(self) -> None:
        """The state became that of a copy: what was sent may be part of it, and is not sent again."""
        self._sent.clear()

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
        done, _, size, principal = slot
        self._waiting.leave(principal, size, 1 if principal else 0)
        # Whoever waits makes its answer now. Where it cannot, it is told that, and the next goes on.
        try:
            done(outcome)
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - told
            tell(self.failed, fault)
            guarded(self.failed, done, errors.failed())

    def give_up_sent(self, fault: Fault, most: int) -> bool:
        """Nobody can say when what was handed to Raft is kept: complete the slots of so many payloads, the
        oldest first. Whether there are more.
        """
        while self._sent and most > 0:
            term, batch = self._sent.popleft()
            if len(batch) > most:
                self._sent.appendleft((term, batch[most:]))
            for payload in batch[:most]:
                self.complete(request_of(payload), fault)
            most -= len(batch)
        return bool(self._sent)

    def expire(self, fault: Callable[[], Fault], most: int) -> int:
        """Give up to so many slots past their time limit a fault; how many. Slots are in the order of their
        limits, and so are the payloads of each line: this is O(expired), amortised.
        """
        late = list(takewhile(self._is_late, islice(self._slots.items(), most)))
        for request, (_, _, _, owner) in late:
            self.complete(request, fault())
            line = self._lines.get(owner)
            if line is not None:
                self._forget_first(line)
                if not line:
                    del self._lines[owner]
        if late:
            self._forget_first(self._first)
            self._forget_first(self._again)
        return len(late)

    def fail_all(self, fault: Fault) -> None:
        """The member stops: complete every slot."""
        self._first.clear()
        self._lines.clear()
        self._again.clear()
        self._sent.clear()
        for request in list(self._slots):
            self.complete(request, fault)

    def refuse(self, payloads: list[bytes], fault: Fault) -> None:
        """These payloads were not proposed: complete their slots, all at once. 10 us each."""
        for payload in payloads:
            self.complete(request_of(payload), fault)

    def _forget_first(self, payloads: deque[bytes]) -> None:
        """Let go of those at the front for which nobody waits."""
        while payloads and request_of(payloads[0]) not in self._slots:
            payloads.popleft()

    def _is_late(self, item: tuple[int, tuple[Done, float, int, str]]) -> bool:
        return item[1][1] < self.now
