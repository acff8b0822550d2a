"""What happens when client connections hold more of the memory than they should.

What requests were promised (`Account.promised`) is no part of it here: `bodyadmission` bounds that, at the
budget and one body more, whoever waits gives none of it back, and nobody is cut for it. From `WAIT` of the
budget on in the rest, no new request is handled of the connections that hold most of what can be given back,
until what the others hold fits. What they were answered goes on being sent, and over HTTP/2 read from them is
what opens their windows; so each goes on as soon as it is no more among the heaviest, or has taken what it
was owed. One of them that takes less than `PACE` meanwhile is cut once the budget is spent, after
`PATIENCE_SECONDS`. Where all this is not enough, because answers already under way or events for a thousand
watches grow until twice the budget is held with what was promised, the heaviest lose what they hold at once
and are cut, until the budget holds the others; an answer that was made just now, and not sent yet, does not
count there. While more than twice the budget is held all the same, it does. So no charge leaves more than
that, unless the promised part alone is larger than the budget, and then no more than the budget beside it: an
account tells of each change, wherever in a connection or its codec and in whose turn it is charged (`moved`),
so who holds most is known at each (`ranks`), and holds no less than what was charged.

Only what reading answers gives back makes anybody wait (`Account.lasting` is the rest: HTTP/2 opens no new
streams for who has many of them, instead), and nobody waits who holds no more than an equal part of the mark:
those together cannot pass it.

Who has to wait is looked at again when the sum has moved by a part or a while has passed, and only while the
mark is passed or somebody waits. However many connections there are, a look takes `STEPS_AT_ONCE` for who has
to wait, who takes too little and who is cut, each; the next one, a round later, goes on with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from netstore.guard import guarded
from netstore.net.bucketqueue import BucketQueue
from netstore.net.incremental import STEPS_AT_ONCE, run_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from netstore.limits import Account, Budget
    from netstore.seams import Log

WAIT: Final = 0.5
"""Part of the budget from which the heaviest wait."""

RELEASE: Final = 0.375
"""Part of the budget below which all go on at once."""

CUT: Final = 2.0
"""Times the budget beyond which the heaviest lose what they hold at once."""

FRESH: Final = 0.0625
"""Part of the budget that one may hold in what was made since it was sent to last, before that counts when
the heaviest are cut: 4 MiB of 64, an answer of v2 with the largest values before and after.
"""

PACE: Final = 64 * 1024
"""Bytes that one which waits has to take each second."""

PATIENCE_SECONDS: Final = 3
"""For how many seconds it may take less."""

_HELD_MOST: Final = "memory ran out and it held most"
_TOLD_EVERY: Final = 10.0
_CUT_TOLD_EVERY: Final = 1.0
_AGAIN_SECONDS: Final = 0.1
_AGAIN_PART: Final = 16


class Holder(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    account: Account
    not_taken: int
    """What it held when it was sent to last, beside what was promised."""

    principal: str
    sent: int
    """Bytes that the kernel accepted from it, in all."""

    def hold_back(self, *, held: bool) -> None:
        """Handle nothing new of it, or go on."""

    def discard(self) -> None:
        """Let go of what it holds now, and be cut soon."""


class MemoryPressure:
    """Watches over what all connections hold together. `holders` gives the open ones."""

    def __init__(self, memory: Budget, holders: Callable[[], Collection[Holder]], log: Log) -> None:
        self._memory = memory
        self._holders = holders
        self._log = log
        self._wait = int(memory.limit * WAIT)
        self._release = int(memory.limit * RELEASE)
        self._cut = int(memory.limit * CUT)
        self._fresh = int(memory.limit * FRESH)
        self._by_held = BucketQueue[Holder]()
        self._by_not_taken = BucketQueue[Holder]()
        self._finding: Iterator[None] | None = None
        """It is being found out who has to wait."""
        self._sweeping: Iterator[None] | None = None
        """It is being found out who took too little."""
        self._cutting = False
        """The heaviest are being cut."""
        self._held_back: dict[Holder, tuple[int, int]] = {}
        """What each had taken when it was looked at last, and for how many seconds it took too little."""
        self._looked_used = 0
        self._looked_at = self._told_at = self._cut_told_at = float("-inf")
        self._left_out = 0
        """Cuts that were not told of since the last that was: a line takes longer than a cut."""
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """How many connections are held back."""
        return len(self._held_back)

    @property
    def looking(self) -> bool:
        """A look is not over: the next one goes on with it."""
        return self._cutting or self._finding is not None or self._sweeping is not None

    def moved(self, holder: Holder) -> None:
        """It holds more or less, or was sent to. Makes room at once where it must; O(1) otherwise."""
        own = _own(holder)
        self._by_held.put(holder, own)
        self._by_not_taken.put(holder, self._without_fresh(holder, own))
        if self._memory.used > self._cut:
            self._make_room()

    def look(self, now: float) -> None:
        """Once a round, and once a second: see who has to wait, and who does no longer. O(1) while nobody
        has to, and mostly else; never more than `STEPS_AT_ONCE` of each kind.
        """
        self._now = now
        memory = self._memory
        if self._cutting or memory.used > self._cut:
            self._make_room()
        if self._sweeping is not None:
            self._sweeping = run_steps(self._sweeping)
        if self._finding is not None:
            self._finding = run_steps(self._finding)
            return
        used = memory.used - memory.promised
        if used <= self._wait and not self._held_back:
            return
        if used <= self._release:
            self._finding = run_steps(self._let_all_go())
            return
        moved = abs(used - self._looked_used) * _AGAIN_PART > self._memory.limit
        if moved or now - self._looked_at >= _AGAIN_SECONDS:
            self._looked_used, self._looked_at = used, now
            self._finding = run_steps(self._find(now))

    def sweep(self) -> None:
        """Once a second: cut who waits, takes nothing, and stands in the way of others. A piece of it; the
        looks go on with it.
        """
        if self._sweeping is None:
            self._sweeping = run_steps(self._cut_the_slow())

    def _cut_the_slow(self) -> Iterator[None]:
        for holder in list(self._held_back):
            state = self._held_back.get(holder)
            if state is not None:
                taken, slow = state
                slow = slow + 1 if holder.sent - taken < PACE else 0
                self._held_back[holder] = holder.sent, slow
                if slow >= PATIENCE_SECONDS and self._memory.over:
                    self._drop(holder, "it took nothing while memory was short")
            yield

    def forget(self, holder: Holder) -> None:
        """It is closed."""
        self._held_back.pop(holder, None)
        self._by_held.put(holder, 0)
        self._by_not_taken.put(holder, 0)

    def _find(self, now: float) -> Iterator[None]:
        """Hold back those whose answers have to be taken so that what is held is less by what is too much,
        the heaviest first, and let go of the others. Who waits already and holds more than its part goes on
        waiting though there is no excess, so that nobody is stopped and started again around the mark.
        """
        holders = self._holders()
        part = self._wait // max(len(holders), 1)
        found: BucketQueue[Holder] = BucketQueue()
        for holder in holders:  # most hold less than their part
            size = _given_back(holder)
            if size > part:
                found.put(holder, size)
            yield
        excess = self._own_of_all - self._wait
        waits: set[Holder] = set()
        first: Holder | None = None
        for holder in found.in_order():
            size = _given_back(holder)
            if size > part and (excess > 0 or holder in self._held_back):
                waits.add(holder)
                excess -= size
                if holder not in self._held_back:
                    first = first or holder
                    self._held_back[holder] = holder.sent, 0
                    holder.hold_back(held=True)
            yield
        for holder in self._held_back.keys() - waits:
            self._let_go(holder)
            yield
        if first is not None and now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            guarded(_lost, self._tell_held_back, first)

    def _tell_held_back(self, first: Holder) -> None:
        self._log.warning(
            "connections_held_back",
            principal=first.principal,
            bytes=first.account.held,
            connections=len(self._held_back),
            reason=f"client connections hold more than {self._wait} bytes, and these hold most of them",
            limit="memory_budget",
            held_by_all=self._own_of_all,
            held_until=self._release,
            fix="read answers as they come, or raise memory_budget: an eighth of it is for connections",
        )

    def _let_all_go(self) -> Iterator[None]:
        while self._held_back and self._own_of_all <= self._release:
            self._let_go(next(iter(self._held_back)))
            yield

    def _let_go(self, holder: Holder) -> None:
        if self._held_back.pop(holder, None) is not None:
            holder.hold_back(held=False)

    @property
    def _own_of_all(self) -> int:
        """What all hold beside what was promised."""
        return self._memory.used - self._memory.promised

    def _make_room(self) -> None:
        """Cut those who hold most that is not fresh, until the budget holds the others; the rest of them with
        the next looks and charges. Nobody goes who holds no more than an equal part of it: those together
        fit. What is fresh counts only while too much is held all the same. Nobody goes at all where it is
        what was promised that is too much.
        """
        memory = self._memory
        self._cutting = False
        for _ in range(STEPS_AT_ONCE):
            holder = self._by_not_taken.heaviest
            if self._own_of_all <= memory.limit or holder is None:
                break
            size = self._without_fresh(holder, _own(holder))
            if self._by_not_taken.put(holder, size):
                continue  # it had less than was told of it
            if size <= memory.limit // max(len(self._by_held), 1):
                break
            self._drop(holder, _HELD_MOST)
        else:
            self._cutting = self._own_of_all > memory.limit
        for _ in range(STEPS_AT_ONCE):
            holder = self._by_held.heaviest
            if memory.used <= self._cut or self._own_of_all <= memory.limit or holder is None:
                return
            if not self._by_held.put(holder, _own(holder)):
                self._drop(holder, _HELD_MOST)
        self._cutting = True

    def _without_fresh(self, holder: Holder, own: int) -> int:
        """What of its `own` could have been sent, or is more than may be fresh."""
        return own - min(max(own - holder.not_taken, 0), self._fresh)

    def _drop(self, holder: Holder, reason: str) -> None:
        """Let go of one. First of all: this may be in the charge of another, which is to fail for nothing."""
        held = holder.account.held
        holder.discard()
        self.forget(holder)
        if self._now - self._cut_told_at >= _CUT_TOLD_EVERY:
            left_out, self._left_out, self._cut_told_at = self._left_out, 0, self._now
            guarded(_lost, self._tell_cut, holder.principal, held, reason, left_out)
        else:
            self._left_out += 1

    def _tell_cut(self, principal: str, held: int, reason: str, left_out: int) -> None:
        self._log.warning(
            "connection_cut_for_memory",
            principal=principal,
            bytes=held,
            reason=reason,
            limit="memory_budget",
            left_out=left_out,
            fix="read answers as they come, or raise memory_budget",
        )


def _lost(_: Exception) -> None:
    """A line could not be written, for want of memory most often: what it tells of is done all the same."""


def _own(holder: Holder) -> int:
    """What it holds beside what was promised."""
    return holder.account.held - holder.account.promised


def _given_back(holder: Holder) -> int:
    """What it holds until it has read its answers."""
    account = holder.account
    return account.held - account.lasting - account.promised
