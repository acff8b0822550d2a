"""Time that runs out, at a running member: renewals and time left for clients, and, while it leads, the
proposals that end what is overdue: leases of the v3 API and nodes of the v2 tree with a TTL.

What ends, and when, is decided by commands in the log (`state.countdown`); here is only the clock, a
monotonic one, and no word of it takes effect before it is applied.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from netstore.errors import Fault, Reason
from netstore.node.member import OWN
from netstore.state.commands import Command, encode
from netstore.state.countdown import Countdown
from netstore.state.v2.commands import ExpireNodes, NoteTtl
from netstore.state.v3.commands import LeaseCheckpoint, LeaseExpire, LeaseGranted, LeaseRenew
from netstore.types import LeaseId

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from netstore.node.member import Member, Replica
    from netstore.state.countdown import Table
    from netstore.state.machine import Outcome
    from netstore.types import Term

K = TypeVar("K", bound=Any)

NOTE_SECONDS: Final = 300.0
"""How often the leader notes in the log what longer TTLs have left, for members that start anew; 5 minutes as
in etcd. Where requests wait, the notes do so too, but no longer than this.
"""

AGAIN_SECONDS: Final = 1.0
"""After so long what is overdue is looked at again while requests wait."""

NOTES_AT_ONCE: Final = 1_000
"""What is looked at for one note in the log, at most: a millisecond to apply."""


class Renewals(Generic[K]):
    """What this member has asked to renew and knows no outcome of yet: until then it does not propose its
    end, which would overtake what waits, for `countdown.LONGEST_SPARED` at most.
    """

    def __init__(self) -> None:
        self._asked: dict[K, int] = {}
        """How often each."""

    def __contains__(self, key: object) -> bool:
        return key in self._asked

    def __len__(self) -> int:
        return len(self._asked)

    def propose(
        self,
        member: Member,
        key: K,
        command: Command,
        done: Callable[[Outcome | Fault], None],
        principal: bytes,
    ) -> None:
        """Propose what may renew this one (`Member.propose`). What raises has asked for nothing."""
        encoded = encode(command)
        self._asked[key] = self._asked.get(key, 0) + 1
        waits = [key]
        try:
            member.propose(encoded, partial(self._told, waits, done), principal)
        except BaseException:
            self._settle(waits)
            raise

    def _told(
        self, waits: list[K], done: Callable[[Outcome | Fault], None], outcome: Outcome | Fault
    ) -> None:
        self._settle(waits)
        done(outcome)

    def _settle(self, waits: list[K]) -> None:
        """Once, however often this is told: whose `done` raises is told of that too."""
        if waits:
            key = waits.pop()
            left = self._asked.pop(key) - 1
            if left:
                self._asked[key] = left


class Reaper(Generic[K]):
    """Proposes, while this member leads, the end of what is overdue in one table. `end` and `note` make the
    commands. `look` has to be called twice a second or so, whoever leads.
    """

    def __init__(
        self,
        member: Member,
        table: Table[K],
        grace_seconds: float,
        end: Callable[[tuple[tuple[K, Any], ...]], Command],
        note: Callable[[tuple[tuple[K, Any, int], ...]], Command],
    ) -> None:
        """For `grace_seconds`, one election timeout, what is overdue is spared under a new leader, and after
        requests had to wait.
        """
        self._member = member
        self._grace_seconds = grace_seconds
        self._end = end
        self._note = note
        self.countdown = Countdown(table)
        self._led: Term | None = None
        now = member.clock.monotonic()
        self._next_notes = now + NOTE_SECONDS
        """Whoever leads by then: leaders that follow each other would put it off without end."""
        self._free_at = now
        """When this member last led with no requests that wait. Under leaders that follow each other and all
        have some, notes would be put off without end if that began anew with each.
        """
        self._waits = False
        """It had some at the last look."""

    def count(self) -> bool:
        """Count on; whether more is to be counted soon. Bounded work."""
        return self.countdown.count(self._member.clock.monotonic())

    def look(self, spared: Container[K] = ()) -> None:
        """The leader proposes what is to end, but for what is spared, and notes what is left; others count
        on. Bounded work.

        While requests wait that the leader does not propose for now, its own or those of others, or writes
        are paced, renewals that came in time may be among them, or were refused. What is overdue meanwhile is
        not ended then, nor for a grace afterwards: whatever has a TTL, for nobody can tell whose renewals
        these are. That, and that something is in `spared`, puts off its end by `countdown.LONGEST_SPARED` at
        most in all, and takes nothing of what it is spared under a new leader.
        """
        member, countdown = self._member, self.countdown
        now = member.clock.monotonic()
        if member.leader != member.id:
            self._led = None
            countdown.count(now)
            return
        if self._led != member.term:
            self._led = member.term
            countdown.lead(now, self._grace_seconds)
        waits, waited = member.backed_up, self._waits
        if waits or waited:
            countdown.spare(now, AGAIN_SECONDS if waits else self._grace_seconds)
        self._waits = waits
        if not waits:
            self._free_at = now
        due = countdown.due(now, spared)
        if due:
            member.propose(encode(self._end(tuple(due))), _ignore, OWN)
        if not waits or now >= self._free_at + NOTE_SECONDS:
            self._note_some(now)

    def _note_some(self, now: float) -> None:
        """Go on with the notes, where it is time for some."""
        countdown = self.countdown
        if now >= self._next_notes and not countdown.noting:
            self._next_notes = now + NOTE_SECONDS
            countdown.begin_notes()
        left = countdown.notes(now, int(NOTE_SECONDS), NOTES_AT_ONCE)
        if left:
            self._member.propose(encode(self._note(tuple(left))), _ignore, OWN)


class Lessor:
    """One for each member. `look` has to be called twice a second or so, whoever leads."""

    def __init__(self, member: Replica, election_seconds: float) -> None:
        """`election_seconds`, one election timeout, is the grace under a new leader."""
        machine = member.machine
        self._member = member
        self._leases: Reaper[LeaseId] = Reaper(
            member, machine.leases, election_seconds, LeaseExpire, LeaseCheckpoint
        )
        self._nodes: Reaper[bytes] = Reaper(
            member, machine.tree.timed, election_seconds, ExpireNodes, NoteTtl
        )
        self._renewing: Renewals[LeaseId] = Renewals()
        self.renewing_nodes: Container[bytes] = ()
        """Nodes with a TTL for which this member has asked for a write that may renew them and has no outcome
        yet: it spares them (`Renewals`). Set by who knows (`api.v2.keys`).
        """
        self.behind = False
        """There may be more to count than was at once."""

    @property
    def nodes(self) -> Countdown[bytes]:
        """How long the nodes of the v2 tree have left."""
        return self._nodes.countdown

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Renew a lease for `principal`, through the log: `done` gets its TTL in seconds, 0 when there is no
        such lease (any more), or the Fault that the renewal met on its way. See `Member.propose` for when.
        Until then this member spares it (`Renewals`).
        """
        told = partial(_tell_ttl, done)
        self._renewing.propose(self._member, LeaseId(id_), LeaseRenew(id_), told, principal.encode())

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Tell `principal` the whole seconds a lease has left, -1 when there is no such lease, as of a moment
        after this call; or the Fault that keeps this member from knowing.
        """
        self._member.read(partial(self._tell, id_, done), principal)

    def look(self) -> None:
        """Count on; the leader proposes the end of what is overdue. It may be `behind` then."""
        self._leases.look(self._renewing)
        self._nodes.look(self.renewing_nodes)
        self.behind = True

    def count(self) -> None:
        """Count on with one piece, to be called until it is not `behind` any more, between other work."""
        self.behind = self._leases.count() or self._nodes.count()

    def _tell(self, id_: int, done: Callable[[int | Fault], None], fault: Fault | None) -> None:
        left = self._leases.countdown.left(LeaseId(id_), self._member.clock.monotonic())
        done(fault or (-1 if left is None else int(left)))


def _tell_ttl(done: Callable[[int | Fault], None], outcome: Outcome | Fault) -> None:
    """What a renewal of a lease came to; see `Lessor.keep_alive`."""
    if isinstance(outcome, LeaseGranted):
        done(outcome.ttl)
    elif isinstance(outcome, Fault) and outcome.reason is not Reason.LEASE_NOT_FOUND:
        done(outcome)
    else:
        done(0)


def _ignore(_: Outcome | Fault) -> None:
    """What came of it shows in the state; what did not is proposed again after a while."""
