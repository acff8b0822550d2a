"""TTLs at a running member: renewals and time left for clients, and, at the leader, the proposals that end
what is overdue: leases of the v3 API and nodes of the v2 tree.

What ends, and when, is decided by commands in the log (`state.countdown`). Only the monotonic clock is read
here, and nothing takes effect before its command is applied.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from netstore import errors
from netstore.errors import Fault, MustStop, Reason
from netstore.guard import guarded
from netstore.node.member import OWN
from netstore.state.applying import COMMAND_UNITS
from netstore.state.commands import Command, encode
from netstore.state.countdown import Countdown
from netstore.state.v2.commands import ExpireNodes, TtlCheckpoint
from netstore.state.v3.commands import LeaseCheckpoint, LeaseExpire, LeaseGranted, LeaseRenew
from netstore.types import LeaseId

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from netstore.node.member import Member, Queued, Replica
    from netstore.state.countdown import Table
    from netstore.state.machine import Outcome
    from netstore.types import Term

K = TypeVar("K", bound=Any)

CHECKPOINT_SECONDS: Final = 300.0
"""How often the leader writes into the log what longer TTLs have left (a checkpoint), for members that start;
5 minutes as in etcd. While requests wait, checkpoints wait too, but no longer than this.
"""

AGAIN_SECONDS: Final = 1.0
"""While requests wait, overdue TTLs are looked at again after this time."""

MOST_JOINED: Final = 64
"""Renewals of a lease that one entry of the log stands for, at most: 0.5 ms to answer."""

MOST_JOINTS: Final = 1_000
"""Entries that renewals may join, or could a moment ago, which are kept."""

MOST_ALL_JOINED: Final = 20_000
"""Renewals that may wait for an entry of another one, for all leases."""

CHECKPOINTS_AT_ONCE: Final = 1_000
"""TTLs looked at for one checkpoint entry, at most: a millisecond to apply."""


class Renewals(Generic[K]):
    """Renewals that this member has proposed and has no outcome of: meanwhile it does not propose the end of
    what they renew, which would overtake them, for `countdown.LONGEST_SPARED` at most.
    """

    def __init__(self) -> None:
        self._asked: dict[K, int] = {}
        """How many, by what they renew."""

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
    ) -> Queued | None:
        """Propose a command that may renew `key` (`Member.propose`). If that raises, nothing was proposed."""
        encoded = encode(command)
        self._asked[key] = self._asked.get(key, 0) + 1
        waits = [key]
        try:
            return member.propose(encoded, partial(self._told, waits, done), principal)
        except BaseException:
            self._settle(waits)
            raise

    def _told(
        self, waits: list[K], done: Callable[[Outcome | Fault], None], outcome: Outcome | Fault
    ) -> None:
        self._settle(waits)
        done(outcome)

    def _settle(self, waits: list[K]) -> None:
        """Once, even if `done` is called again with what it raised."""
        if waits:
            key = waits.pop()
            left = self._asked.pop(key) - 1
            if left:
                self._asked[key] = left


class _Joint:
    """Renewals of one lease that one entry stands for: those of a principal that came while the first one was
    still queued here. That entry is applied, and the lease's time begins, after each of them was asked for,
    as if each had an entry of its own.
    """

    __slots__ = ("asked", "queued")

    def __init__(self, done: Callable[[int | Fault], None]) -> None:
        self.asked = [done]
        """Who is to be told."""
        self.queued: Queued | None = None
        """The entry that is to be; None if nothing may join it."""


class Reaper(Generic[K]):
    """Proposes, while this member leads, the end of what is overdue in one table. `end` and `checkpoint` make
    the commands. `look` has to be called about twice a second, whoever leads.
    """

    def __init__(
        self,
        member: Member,
        table: Table[K],
        grace_seconds: float,
        end: Callable[[tuple[tuple[K, Any], ...]], Command],
        checkpoint: Callable[[tuple[tuple[K, Any, int], ...]], Command],
    ) -> None:
        """For `grace_seconds`, one election timeout, overdue TTLs are spared under a new leader, and after
        requests had to wait.
        """
        self._member = member
        self._grace_seconds = grace_seconds
        self._end = end
        self._checkpoint = checkpoint
        self.countdown = Countdown(table)
        self._led: Term | None = None
        now = member.clock.monotonic()
        self._next_checkpoints = now + CHECKPOINT_SECONDS
        """When the next checkpoint is due, whoever leads then: if it began anew with each leader, frequent
        changes would put it off for ever.
        """
        self._free_at = now
        """When this member last led with no requests waiting. It does not begin anew with each leader, for
        the same reason.
        """
        self._waits = False
        """Requests waited at the last look."""

    def count(self) -> bool:
        """Count on; whether more is to be counted soon. Bounded work."""
        return self.countdown.count(self._member.clock.monotonic())

    def look(self, spared: Container[K] = ()) -> None:
        """The leader proposes the end of what is overdue and not `spared`, and checkpoints of what is left;
        others count on. Bounded work.

        While requests wait that the leader does not propose for now, its own or forwarded ones, or while
        writes are paced, renewals that came in time may be among them, or were refused. What is overdue
        meanwhile is not ended then, nor during a grace period afterwards; that holds for every TTL, since
        nobody can tell what those requests renew. This, and being in `spared`, delays an end by
        `countdown.LONGEST_SPARED` at most in all, and does not shorten the grace under a new leader.
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
        if not waits or now >= self._free_at + CHECKPOINT_SECONDS:
            self._checkpoint_some(now)

    def _checkpoint_some(self, now: float) -> None:
        """Go on with the checkpoint, or begin one if it is due."""
        countdown = self.countdown
        if now >= self._next_checkpoints and not countdown.is_checkpointing:
            self._next_checkpoints = now + CHECKPOINT_SECONDS
            countdown.begin_checkpoints()
        left = countdown.checkpoints(now, int(CHECKPOINT_SECONDS), CHECKPOINTS_AT_ONCE)
        if left:
            self._member.propose(encode(self._checkpoint(tuple(left))), _ignore, OWN)


class Lessor:
    """The TTLs of one member. `look` has to be called about twice a second, whoever leads."""

    def __init__(self, member: Replica, election_seconds: float) -> None:
        """`election_seconds`, one election timeout, is the grace period under a new leader."""
        machine = member.machine
        self._member = member
        self._leases: Reaper[LeaseId] = Reaper(
            member, machine.leases, election_seconds, LeaseExpire, LeaseCheckpoint
        )
        self._nodes: Reaper[bytes] = Reaper(
            member, machine.tree.timed, election_seconds, ExpireNodes, TtlCheckpoint
        )
        self._renewing: Renewals[LeaseId] = Renewals()
        self._joints: dict[tuple[int, str], _Joint] = {}
        """Some of those since the last look, so that none waits much longer than the others, by lease and
        principal.
        """
        self._joined = 0
        """Renewals that wait for the entry of another one."""
        self.renewing_nodes: Container[bytes] = ()
        """Nodes with a TTL for which this member has proposed a write that may renew them and has no outcome
        of: they are spared (`Renewals`). Set by `api.v2.keys`.
        """
        self.behind = False
        """There may be more to count than was counted at once."""

    @property
    def nodes(self) -> Countdown[bytes]:
        """How long the nodes of the v2 tree have left."""
        return self._nodes.countdown

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Renew a lease for `principal`, through the log: `done` gets its TTL in seconds, 0 if there is no
        such lease (any more), or the Fault that the renewal met; see `Member.propose`. Until then this member
        spares the lease (`Renewals`).
        """
        key = id_, principal
        joints = self._joints
        joint = joints.get(key)
        if (
            joint is not None
            and (queued := joint.queued) is not None
            and queued.waits
            and len(joint.asked) < MOST_JOINED
            and self._joined < MOST_ALL_JOINED
        ):
            joint.asked.append(done)
            self._joined += 1
            return
        joint = _Joint(done)
        told = partial(self._tell_renewed, joint)
        queued = self._renewing.propose(self._member, LeaseId(id_), LeaseRenew(id_), told, principal.encode())
        if queued is not None:
            joint.queued = queued
            if len(joints) >= MOST_JOINTS:
                joints.clear()
            joints[key] = joint

    def _tell_renewed(self, joint: _Joint, outcome: Outcome | Fault) -> None:
        """The outcome of a renewal. If one of them cannot be told, the others are nevertheless."""
        answer = _ttl_of(outcome)
        joint.queued = None
        if len(joint.asked) == 1:
            joint.asked[0](answer)
            return
        asked, joint.asked = joint.asked, []
        if not asked:
            return  # this is called again with the fault of having raised
        more = len(asked) - 1
        self._joined -= more
        self._member.machine.applying.worked += more * COMMAND_UNITS
        faults: list[Exception] = []
        for done in asked:
            try:  # `guarded`, without a call
                done(answer)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - raised below
                faults.append(fault)
                guarded(faults.append, done, errors.failed())
        if faults:
            raise faults[0]

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        """Tell `principal` how many whole seconds a lease has left, -1 if there is no such lease, as of a
        moment after this call; or the Fault that keeps this member from knowing.
        """
        self._member.read(partial(self._tell, id_, done), principal)

    def look(self) -> None:
        """Count on; the leader proposes the end of what is overdue. Afterwards this may be `behind`."""
        self._joints.clear()
        self._leases.look(self._renewing)
        self._nodes.look(self.renewing_nodes)
        self.behind = True

    def count(self) -> None:
        """Count a piece; to be called between other work while this is `behind`."""
        self.behind = self._leases.count() or self._nodes.count()

    def _tell(self, id_: int, done: Callable[[int | Fault], None], fault: Fault | None) -> None:
        left = self._leases.countdown.left(LeaseId(id_), self._member.clock.monotonic())
        done(fault or (-1 if left is None else int(left)))


def _ttl_of(outcome: Outcome | Fault) -> int | Fault:
    """What `Lessor.keep_alive` tells of the outcome of a renewal."""
    if isinstance(outcome, LeaseGranted):
        return outcome.ttl
    if isinstance(outcome, Fault) and outcome.reason is not Reason.LEASE_NOT_FOUND:
        return outcome
    return 0


def _ignore(_: Outcome | Fault) -> None:
    """The result shows in the state; what failed is proposed again after a while."""
