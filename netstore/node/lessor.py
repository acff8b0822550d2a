"""The leases of a running member: renewals and time left for clients, and, while it leads, the proposals that
end what is overdue.

Which lease ends, and when, is decided by commands in the log (`state.lease`); here is only the clock, and no
word of it takes effect before it is applied.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from netstore.errors import LEASE_NOT_FOUND, Fault
from netstore.node.member import Member
from netstore.state.commands import encode
from netstore.state.lease import LeaseClock
from netstore.state.v3commands import LeaseCheckpoint, LeaseExpire, LeaseGranted, LeaseRenew

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.state.machine import Outcome
    from netstore.types import Term

CHECKPOINT_SECONDS: Final = 300.0
"""How often the leader notes in the log what longer leases have left, for members that start anew; 5 minutes
as in etcd.
"""


class Replica(Member, Protocol):
    """A member that can be read linearizably (`node.host.Host`)."""

    def read(self, done: Callable[[Fault | None], None]) -> None:
        """Call `done(None)` once the state holds everything acknowledged anywhere before this call."""


class Lessor:
    """One for each member. `look` has to be called twice a second or so, whoever leads."""

    def __init__(self, member: Replica, election_seconds: float) -> None:
        """`election_seconds`, one election timeout, is what leases get extra under a new leader."""
        self._member = member
        self._election_seconds = election_seconds
        self._clock = LeaseClock(member.machine.leases)
        self._led: Term | None = None
        self._next_checkpoint = 0.0

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None]) -> None:
        """Renew a lease, through the log: `done` gets its TTL in seconds, 0 when there is no such lease (any
        more), or the Fault that the renewal met on its way. See `Member.propose` for when.
        """
        self._member.propose(encode(LeaseRenew(id_)), partial(_renewed, done))

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None]) -> None:
        """Tell the whole seconds a lease has left, -1 when there is no such lease, as of a moment after this
        call; or the Fault that keeps this member from knowing.
        """
        self._member.read(partial(self._tell, id_, done))

    def look(self) -> None:
        """Count on; the leader proposes the end of overdue leases."""
        member = self._member
        now = member.clock.monotonic()
        if member.leader != member.id:
            self._led = None
            self._clock.left(0, now)
            return
        if self._led != member.term:
            self._led = member.term
            self._clock.extend(now, self._election_seconds)
            self._next_checkpoint = now + CHECKPOINT_SECONDS
        due = self._clock.due(now)
        if due:
            member.propose(encode(LeaseExpire(tuple(due))), _ignore)
        if now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_SECONDS
            left = self._clock.checkpoints(now, int(CHECKPOINT_SECONDS))
            if left:
                member.propose(encode(LeaseCheckpoint(tuple(left))), _ignore)

    def _tell(self, id_: int, done: Callable[[int | Fault], None], fault: Fault | None) -> None:
        left = self._clock.left(id_, self._member.clock.monotonic())
        done(fault or (-1 if left is None else int(left)))


def _renewed(done: Callable[[int | Fault], None], outcome: Outcome | Fault) -> None:
    if isinstance(outcome, LeaseGranted):
        done(outcome.ttl)
    elif isinstance(outcome, Fault) and outcome.cause != LEASE_NOT_FOUND:
        done(outcome)
    else:
        done(0)


def _ignore(_: Outcome | Fault) -> None:
    """What came of it shows in the state; what did not is proposed again after a while."""
