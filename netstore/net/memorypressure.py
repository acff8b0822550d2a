"""Memory pressure: what happens when client connections hold too much of the shared memory.

Memory promised to request bodies (`Account.promised`) is not counted here: `bodyadmission` bounds it at
the budget and one body, those who wait return none of it, and no connection is cut because of it. When the
rest exceeds `WAIT` of the budget, no new request is handled on the connections that hold most of what can
be freed by reading answers, until what the others hold fits. Their answers are still sent, and HTTP/2
connections are still read for window updates, so each continues as soon as it is no longer among the
largest, or its peer has read its answers. A connection held back whose peer reads less than `PACE` is cut
after `PATIENCE_SECONDS` if the budget is exceeded.

If that is not enough, because answers under way or events for a thousand watches grow until twice the
budget is held with what was promised, the largest connections lose what they hold at once and are cut,
until the budget holds the others. An answer that was just made and not sent yet (`FRESH`) does not count
then, unless more than twice the budget is held all the same. So no charge leaves more than twice the
budget held; only if the promised part alone is larger than the budget, the rest may be up to the budget
beside it. An account reports each change, wherever a connection or its codec charges it and in whose turn
(`moved`), so the largest holder is known at each charge (`bucketqueue`) and cutting it frees at least what
was charged.

Only what reading answers frees makes a connection wait (`Account.lasting` is the rest: an HTTP/2
connection with many open streams opens no new ones instead), and none waits that holds no more than an
equal share of the mark: those together cannot exceed it.

Which connections have to wait is computed again when the sum has changed by some part or after a while,
and only while the mark is exceeded or a connection waits. However many connections there are, one `step`
does `STEPS_AT_ONCE` steps each of finding those that have to wait, those that are slow, and of cutting;
the next one, a round later, continues.
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
"""Part of the budget from which the largest connections are held back."""

RELEASE: Final = 0.375
"""Part of the budget below which all continue at once."""

CUT: Final = 2.0
"""Multiple of the budget beyond which the largest connections lose what they hold at once."""

FRESH: Final = 0.0625
"""Part of the budget that a connection may hold in data made since the last send, before that counts when
the largest ones are cut: 4 MiB of 64, an answer of v2 with the largest values before and after.
"""

PACE: Final = 64 * 1024
"""Bytes that the peer of a connection held back must read each second."""

PATIENCE_SECONDS: Final = 3
"""How many seconds in a row it may read fewer."""

_HELD_MOST: Final = "memory ran out and it held most"
_LOG_SECONDS: Final = 10.0
_CUT_LOG_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.1
_AGAIN_PART: Final = 16


class Holder(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    account: Account
    not_taken: int
    """Bytes held after the last send, without what was promised."""

    principal: str
    sent: int
    """Bytes that the kernel accepted from it, in all."""

    def hold_back(self, *, held: bool) -> None:
        """Handle no new request of it; or continue, if `held` is false."""

    def discard(self) -> None:
        """Free what it holds now, to be cut soon."""


class MemoryPressure:
    """Limits what all connections hold together. `holders` returns the open ones."""

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
        """The search for those that have to wait, if one is under way."""
        self._sweeping: Iterator[None] | None = None
        """The search for those that are slow, if one is under way."""
        self._cutting = False
        """The largest are being cut."""
        self._held_back: dict[Holder, tuple[int, int]] = {}
        """Connections held back -> bytes sent when it was last examined, and seconds in a row in which it
        read too little.
        """
        self._looked_used = 0
        self._looked_at = self._logged_at = self._cut_logged_at = float("-inf")
        self.looking = False
        """A search is not finished, or more are to be cut: the next `step` continues it."""
        self._left_out = 0
        """Cuts that were not logged since the last one that was: writing a log line takes longer than a
        cut.
        """
        self.now = 0.0
        """Monotonic seconds: the reactor's `now`, which sets it in each round."""

    @property
    def waiting(self) -> int:
        """How many connections are held back."""
        return len(self._held_back)

    @property
    def due(self) -> bool:
        """`step` has something to do."""
        memory = self._memory
        return (
            memory.used - memory.promised > self._wait
            or memory.used > self._cut
            or bool(self._held_back)
            or self.looking
        )

    def moved(self, holder: Holder) -> None:
        """Called when it holds more or less, or was sent to. Makes room at once if it must; O(1)
        otherwise.
        """
        own = _own(holder)
        self._by_held.put(holder, own)
        self._by_not_taken.put(holder, self._without_fresh(holder, own))
        if self._memory.used > self._cut:
            self._make_room()
            self._look_on()

    def _look_on(self) -> None:
        """Set `looking`, after each piece of work."""
        self.looking = self._cutting or self._finding is not None or self._sweeping is not None

    def step(self, now: float) -> None:
        """Called once a round in which it is `due`, and once a second: hold connections back, or let them
        continue. O(1) while none has to wait, and mostly otherwise; never more than `STEPS_AT_ONCE` of each
        kind.
        """
        self.now = now
        try:
            self._step(now)
        finally:
            self._look_on()

    def _step(self, now: float) -> None:
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
            self._finding = run_steps(self._release_all())
            return
        moved = abs(used - self._looked_used) * _AGAIN_PART > self._memory.limit
        if moved or now - self._looked_at >= _AGAIN_SECONDS:
            self._looked_used, self._looked_at = used, now
            self._finding = run_steps(self._find(now))

    def sweep(self) -> None:
        """Called once a second: cut connections held back whose peers read too little, if the budget is
        exceeded. Does one piece of that; `step` does the rest.
        """
        if self._sweeping is None:
            self._sweeping = run_steps(self._cut_the_slow())
            self._look_on()

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
        """Hold back the largest connections until what they can free covers the excess, and let the others
        continue. One that is held back already and holds more than its share stays so even without an
        excess: otherwise connections would be stopped and started again around the mark.
        """
        holders = self._holders()
        part = self._wait // max(len(holders), 1)
        found: BucketQueue[Holder] = BucketQueue()
        for holder in holders:  # most hold less than their share
            size = _can_free(holder)
            if size > part:
                found.put(holder, size)
            yield
        excess = self._own_of_all - self._wait
        waits: set[Holder] = set()
        first: Holder | None = None
        for holder in found.in_order():
            size = _can_free(holder)
            if size > part and (excess > 0 or holder in self._held_back):
                waits.add(holder)
                excess -= size
                if holder not in self._held_back:
                    first = first or holder
                    self._held_back[holder] = holder.sent, 0
                    holder.hold_back(held=True)
            yield
        for holder in self._held_back.keys() - waits:
            self._release_one(holder)
            yield
        if first is not None and now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            guarded(_log_failed, self._log_held_back, first)

    def _log_held_back(self, first: Holder) -> None:
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

    def _release_all(self) -> Iterator[None]:
        while self._held_back and self._own_of_all <= self._release:
            self._release_one(next(iter(self._held_back)))
            yield

    def _release_one(self, holder: Holder) -> None:
        if self._held_back.pop(holder, None) is not None:
            holder.hold_back(held=False)

    @property
    def _own_of_all(self) -> int:
        """What all hold without what was promised."""
        return self._memory.used - self._memory.promised

    def _make_room(self) -> None:
        """Cut the connections that hold most, not counting fresh data, until the budget holds the others;
        more of them at the next looks and charges. None is cut that holds no more than an equal share of
        the budget: those together fit. Fresh data counts only while too much is held all the same. None is
        cut if it is the promised part that is too large.
        """
        memory = self._memory
        self._cutting = False
        for _ in range(STEPS_AT_ONCE):
            holder = self._by_not_taken.heaviest
            if self._own_of_all <= memory.limit or holder is None:
                break
            size = self._without_fresh(holder, _own(holder))
            if self._by_not_taken.put(holder, size):
                continue  # it had less than the queue says
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
        """The part of `own` that could have been sent, or exceeds what may be fresh."""
        return own - min(max(own - holder.not_taken, 0), self._fresh)

    def _drop(self, holder: Holder, reason: str) -> None:
        """Cut one. It is freed first, because this may run inside a charge of another connection, which
        must not fail for it.
        """
        held = holder.account.held
        holder.discard()
        self.forget(holder)
        if self.now - self._cut_logged_at >= _CUT_LOG_SECONDS:
            left_out, self._left_out, self._cut_logged_at = self._left_out, 0, self.now
            guarded(_log_failed, self._log_cut, holder.principal, held, reason, left_out)
        else:
            self._left_out += 1

    def _log_cut(self, principal: str, held: int, reason: str, left_out: int) -> None:
        self._log.warning(
            "connection_cut_for_memory",
            principal=principal,
            bytes=held,
            reason=reason,
            limit="memory_budget",
            left_out=left_out,
            fix="read answers as they come, or raise memory_budget",
        )


def _log_failed(_: Exception) -> None:
    """Logging failed, mostly because memory is exhausted; what was to be logged is done in any case."""


def _own(holder: Holder) -> int:
    """What it holds without what was promised."""
    return holder.account.charged


def _can_free(holder: Holder) -> int:
    """What is freed when its peer has read its answers."""
    account = holder.account
    return account.held - account.lasting - account.promised
