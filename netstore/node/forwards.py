"""Requests that other members forward to this leader: each is proposed, postponed, or refused.

A command is decoded before it enters the log: an entry that a member could not apply would stop every one of
them. A refusal is sent to the member that asked (`ForwardRefused`) and is certain: this leader has not put
the request into the log, and it is the only leader of its term.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.errors import CorruptData, Fault, Reason
from netstore.node.backpressure import HELD_BYTES
from netstore.node.diskspace import only_removes, split
from netstore.node.fairqueue import owner_of
from netstore.node.logsize import BYTES_PER_TURN, PAYLOADS_PER_TURN
from netstore.node.postponed import Postponed, Request
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES
from netstore.raft.messages import ForwardRefused
from netstore.raft.status import Refusal
from netstore.state.envelope import principal_of, request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.node.backpressure import Backpressure
    from netstore.node.diskspace import DiskSpace
    from netstore.node.pacing import Pacing
    from netstore.node.proposals import Proposals
    from netstore.raft.core import Raft
    from netstore.raft.messages import Forward
    from netstore.seams import Log
    from netstore.state.machine import Machine
    from netstore.types import NodeId, Term

_TEMPORARY: Final = (Refusal.TRANSFERRING, Refusal.BACKLOG_FULL)
"""Refusals of Raft after which a request of another member waits."""


class RefusalReason(IntEnum):
    """Why a leader does not propose a request of another member, as `ForwardRefused` says. An unknown number
    means `FAILED`.
    """

    FAILED = 0
    """It cannot be decoded, or is too large for any log."""
    TOO_MANY = 1
    NO_SPACE = 2


_FAULTS: Final[dict[int, Fault]] = {
    RefusalReason.TOO_MANY: errors.too_many(),
    RefusalReason.NO_SPACE: errors.no_space(),
}
_NOT_TAKEN: Final = errors.refusal(Reason.NOT_TAKEN)


def fault_for(why: int) -> Fault:
    """What a client is told whose request the leader refused for this reason."""
    return _FAULTS.get(why, _NOT_TAKEN)


class Forwards:
    """Proposes, postpones or refuses forwarded requests."""

    def __init__(
        self,
        machine: Machine,
        raft: Raft,
        proposals: Proposals,
        *,
        backpressure: Backpressure,
        space: DiskSpace,
        pacing: Pacing,
        wake: Callable[[], None],
        log: Log,
    ) -> None:
        """Of `proposals`, only the time and the time limit are used."""
        self._machine = machine
        self._raft = raft
        self._proposals = proposals
        self._backpressure = backpressure
        self._space = space
        self._pacing = pacing
        self._wake = wake
        self._log = log
        self.postponed = Postponed(2 * HELD_BYTES)
        """Those that wait."""
        self.new_bytes = 0
        """Bytes of new requests that were proposed since the last turn."""

    def are_for_me(self, message: Forward) -> bool:
        """This member is the leader that is asked, and leads in that term."""
        raft = self._raft
        return message.to == raft.id == raft.leader and message.term == raft.term

    def take(self, message: Forward) -> None:
        """Propose the requests of a message. If some wait already, or there is no room now, they wait behind
        those of the same household; what has no place there, or would not be proposed in time, is refused.
        """
        self._raft.waits_at(message.sender)
        waits: list[Request] = []
        for payload in message.payloads:
            request = request_of(payload)
            try:
                command = self._machine.understand(payload)
            except CorruptData as error:
                self._log.warning("proposal_not_read", member=f"{message.sender:x}", reason=str(error))
                self._send_refusal(message.sender, message.term, (request,), RefusalReason.FAILED)
                continue
            size = len(payload) + ENTRY_OVERHEAD_BYTES
            removes, now = only_removes(command), self._proposals.now
            waits.append(Request(message.sender, message.term, request, payload, "", removes, size, now))
        if not waits:
            return
        if not (
            self.postponed
            or self._backpressure.is_overloaded
            or self._pacing.rate is not None
            or self.new_bytes >= BYTES_PER_TURN
        ):
            size = sum(each.size for each in waits)
            waits = self._propose(waits)
            if not waits:
                self.new_bytes += size
        rate = self._pacing.rate
        most = float("inf") if rate is None else rate * self._patience
        for each in waits:
            each.owner = owner_of(principal_of(each.payload))
        self._refuse([each for each in waits if not self.postponed.add(each, most)], RefusalReason.TOO_MANY)

    def propose_postponed(self) -> None:
        """Propose some of those that wait, by turns of their households. What was asked of the leader of an
        earlier term is dropped: whoever asked asks again.
        """
        waiting = self.postponed
        if not waiting:
            return
        most, fitting = self._pacing.budget(BYTES_PER_TURN)
        found = waiting.take(PAYLOADS_PER_TURN, most, fitting=fitting)
        waits = self._propose([each for each in found if self._leads_in(each.term)])
        kept = set(waits)
        waiting.leave(each for each in found if each not in kept)
        waiting.put_back(waits)
        # What waits for Raft is looked at again at the next tick, or when a turn is run for another reason.
        if waiting and not waits:
            if fitting:
                self._pacing.hold()
            if found or not fitting:  # there is no room, and nothing fits: a tick looks again
                self._wake()

    def refuse_late(self) -> None:
        """Refuse some of those that have waited so long that soon nobody may wait for them: they would be
        written for nothing, and what comes later is done in time. The time counts from when they came here:
        what its member could not forward at once may be written after its client was told that it took too
        long.
        """
        late = self.postponed.give_up(PAYLOADS_PER_TURN, self._proposals.now - self._patience)
        self._refuse(late, RefusalReason.TOO_MANY)
        if len(late) == PAYLOADS_PER_TURN:
            self._wake()

    def refuse_some(self, why: RefusalReason) -> None:
        """Refuse up to `PAYLOADS_PER_TURN` of those that wait, the oldest first."""
        self._refuse(self.postponed.give_up(PAYLOADS_PER_TURN), why)

    @property
    def _patience(self) -> float:
        """Seconds that a request may wait here: half of the time its client waits at its own member. It
        waited there before it came here, and its outcome is known there only after it was applied.
        """
        return self._proposals.time_limit / 2

    def _propose(self, requests: list[Request]) -> list[Request]:
        """Propose these, all or none; returns those that have to wait. What the disk has no space for is
        refused.
        """
        space = self._space
        if space.is_short:
            requests, refused = split(requests, lambda each: each.removes and space.log_error is None)
            self._refuse(refused, RefusalReason.TOO_MANY if space.lacks_means else RefusalReason.NO_SPACE)
        if not requests:
            return []
        refusal = self._raft.propose([each.payload for each in requests]).refusal
        if refusal in _TEMPORARY:
            return requests
        if refusal is not None:
            self._refuse(requests, RefusalReason.FAILED)
        else:
            self._pacing.spend(sum(each.size for each in requests))
        return []

    def _refuse(self, requests: Sequence[Request], why: RefusalReason) -> None:
        """Tell those that asked, in a message for each member and term."""
        asked: dict[tuple[NodeId, Term], list[int]] = {}
        for each in requests:
            asked.setdefault((each.sender, each.term), []).append(each.request)
        for (sender, term), those in asked.items():
            self._send_refusal(sender, term, tuple(those), why)

    def _send_refusal(
        self, sender: NodeId, term: Term, requests: tuple[int, ...], why: RefusalReason
    ) -> None:
        """Tell the member that asked in this term that these are not in the log and that this leader never
        puts them there; whoever is told so asks no other leader.
        """
        if self._leads_in(term):
            self._raft.send(ForwardRefused(self._raft.id, sender, term, why, requests))

    def _leads_in(self, term: Term) -> bool:
        """This member leads in this term, which is the current one."""
        return self._raft.leader == self._raft.id and term == self._raft.term
