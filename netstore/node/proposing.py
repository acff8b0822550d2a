"""From waiting requests to the log: which are proposed in a turn, and what becomes of those that are not.

Requests of this member's clients (`node.proposals`) and, at a leader, those forwarded by other members
(`node.forwards`) take turns at going first. None are proposed while the leader is overloaded
(`node.backpressure`), fewer while writes are paced (`node.pacing`), and only what removes while disk space is
short (`node.diskspace`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from netstore import errors
from netstore.errors import CorruptData
from netstore.node.diskspace import only_removes, split
from netstore.node.fairqueue import payload_of
from netstore.node.forwards import RefusalReason, fault_for
from netstore.node.logsize import BYTES_PER_TURN, PAYLOADS_PER_TURN, log_size
from netstore.node.member import OWN
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.raft.change import Change
from netstore.raft.status import Fate, Refusal
from netstore.state.envelope import request_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.node.backpressure import Backpressure
    from netstore.node.diskspace import DiskSpace
    from netstore.node.forwards import Forwards
    from netstore.node.pacing import Pacing
    from netstore.node.proposals import Proposals, Slot
    from netstore.raft.change import Step
    from netstore.raft.core import Raft
    from netstore.raft.messages import ForwardRefused
    from netstore.raft.status import Proposed
    from netstore.state.machine import Machine, Outcome


class Proposer:
    """Proposes what waits at one member."""

    def __init__(
        self,
        machine: Machine,
        raft: Raft,
        proposals: Proposals,
        *,
        forwards: Forwards,
        backpressure: Backpressure,
        space: DiskSpace,
        pacing: Pacing,
        wake: Callable[[], None],
        flush: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._raft = raft
        self._proposals = proposals
        self._forwards = forwards
        self._backpressure = backpressure
        self._space = space
        self._pacing = pacing
        self._wake = wake
        self._flush = flush
        self.stalled_since: float | None = None
        """Since when this member has been overloaded while something waited all the time; None while it is
        not. Monotonic seconds.
        """
        self.refused: deque[tuple[Slot, Fault]] = deque()
        """Requests of this member that the leader refused, and whose callers are to be told."""
        self.is_giving_up = False
        """More of what the log has no space for is to be given up."""
        self._own_is_first = True
        """Whether requests of this member go before forwarded ones next time."""

    def propose_waiting(self) -> None:
        """Propose requests of this member and forwarded ones, up to `PAYLOADS_PER_TURN` of each. While the
        member is overloaded they wait on, or some of each are refused.
        """
        forwards, proposals = self._forwards, self._proposals
        has_postponed = bool(forwards.postponed.waiting)
        if has_postponed:
            forwards.refuse_late()
        if self._backpressure.is_overloaded:
            if self.stalled_since is None:
                self.stalled_since = proposals.now
            fault = self._backpressure.refusal(proposals.now - self.stalled_since)
            if fault is not None:
                forwards.refuse_some(
                    RefusalReason.NO_SPACE if self._space.state_error else RefusalReason.TOO_MANY
                )
                proposals.refuse(proposals.take(COMPLETED_AT_ONCE), fault)
                if proposals.queued or forwards.postponed:
                    self._wake()
            return
        if not has_postponed:
            self._propose_queued()
            return
        own_is_first = self._own_is_first
        if self._pacing.room != 0:
            self._own_is_first = not own_is_first
        if own_is_first:
            self._propose_queued()
        forwards.propose_postponed()
        if not own_is_first:
            self._propose_queued()

    def check_stall(self) -> None:
        """To be called in each turn while `stalled_since` is set: it is not, once nothing waits."""
        has_waiting = bool(self._forwards.postponed) or self._proposals.queued
        if not (has_waiting and self._backpressure.is_overloaded):
            self.stalled_since = None

    def _propose_queued(self) -> None:
        proposals = self._proposals
        if not (proposals.queued and self._raft.leader):
            return
        most, fitting = self._pacing.budget(BYTES_PER_TURN)
        slots = taken = proposals.take(PAYLOADS_PER_TURN, most, fitting=fitting)
        if self._space.is_short:
            slots, refused = split(slots, self._is_possible)
            self._proposals.refuse(refused, self._space.refusal())
        if slots and not self._propose(slots):
            return
        if proposals.queued:
            if fitting:
                self._pacing.hold()
            if taken or not fitting:  # there is no room, and nothing fits: a tick looks again
                self._wake()

    def _propose(self, slots: list[Slot]) -> bool:
        """False when these wait because leadership is being transferred: a tick tries again."""
        payloads: list[bytes] = list(map(payload_of, slots))
        proposed = self._raft.propose(payloads)
        if proposed.fate is not Fate.REFUSED:
            if self._pacing.rate is not None:
                self._pacing.spend(log_size(payloads))
            self._proposals.sent(self._raft.term, slots)
        elif proposed.refusal is Refusal.TRANSFERRING:
            self._proposals.put_back(slots)
            return False
        else:
            self._proposals.refuse(slots, _fault_of(proposed))
        return True

    # --- disk space is short

    def _is_possible(self, slot: Slot) -> bool:
        """Whether this can be done: what only removes can, unless the log cannot be written at all. Each
        payload is decoded once.
        """
        if self._space.log_error is not None:
            return False
        if slot.removes is None:
            slot.removes = self._only_removes(slot.payload)
        return slot.removes

    def _only_removes(self, payload: bytes) -> bool:
        try:
            return only_removes(self._machine.understand(payload))
        except CorruptData:
            return False

    def give_up(self) -> None:
        """The log has no space: complete some of the proposed requests as unknown; the others in the next
        turns, unless the log can be written again by then.
        """
        self.is_giving_up = self._space.log_error is not None and self._proposals.give_up_sent(
            errors.no_space_unknown(), COMPLETED_AT_ONCE
        )
        if self.is_giving_up:
            self._wake()
        self._flush()

    # --- refusals by the leader

    def refusal_received(self, message: ForwardRefused) -> None:
        """The leader of that term has not proposed these requests. One that was given to a later leader since
        may be done by that one, and one that a snapshot may contain has no term any more: those wait on.
        """
        fault = fault_for(message.why)
        self.refused += [(slot, fault) for slot in self._proposals.refused(message.term, message.requests)]

    def tell_refused(self) -> None:
        """Complete some of the requests that the leader refused."""
        refused = self.refused
        for _ in range(min(len(refused), COMPLETED_AT_ONCE)):
            slot, fault = refused.popleft()
            self._proposals.give_up(slot.request, fault)
        if refused:
            self._wake()

    # --- changes of the members

    def change_members(
        self, steps: tuple[Step, ...], command: bytes, done: Callable[[Outcome | Fault], None]
    ) -> None:
        """Change who votes and who learns, and apply `command` to the state in the same entry of the log.
        Refused at once by a leader that is overloaded.
        """
        if self._backpressure.is_overloaded:
            done(errors.too_many())
            return
        payload = self._proposals.open(command, done, OWN)
        if payload is None:
            return
        proposed = self._raft.propose_change(Change(steps, context=payload))
        if proposed.fate is Fate.REFUSED:
            self._proposals.give_up(request_of(payload), _fault_of(proposed))
        else:
            self._pacing.spend(log_size((payload,)))
        self._wake()

    def propose_change(self, change: Change) -> Refusal | None:
        """Change the members for a request whose slot is elsewhere: `change.context` is its payload."""
        refusal = self._raft.propose_change(change).refusal
        if refusal is None:
            self._pacing.spend(log_size((change.context,)))
        self._wake()
        return refusal

    def relay(self, payload: bytes) -> None:
        """Propose a payload whose slot another member has. If it is refused, it times out there."""
        if self._raft.propose((payload,)).fate is not Fate.REFUSED:
            self._pacing.spend(log_size((payload,)))
        self._wake()


def _fault_of(proposed: Proposed) -> Fault:
    why = "not accepted" if proposed.refusal is None else proposed.refusal.value
    return errors.fault_from_text(f"etcdserver: {why}")
