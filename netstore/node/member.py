"""What the API sees of the running member: who and where it is, its state to read, and how to propose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.node.jobs import Jobs
    from netstore.node.pacing import Behind
    from netstore.node.slowness import Slowness
    from netstore.raft.status import Status
    from netstore.seams import Clock
    from netstore.state.machine import Machine, Outcome
    from netstore.state.members import MemberInfo
    from netstore.types import ClusterId, Index, Nanos, NodeId, Term
    from netstore.watch.hub import Hub

OWN: Final = b""
"""As a principal: the member asks for itself, not for a client. Its requests go first, have no quota, and are
not slowed for members that are brought up.
"""

DIFFERING_FIX: Final = (
    "start the voters that do not run, so that the member that is wrong stops; if they are lost, stop the"
    " members and restore a backup (netstorectl snapshot restore)"
)
"""What to do while states differ and no majority tells which is right."""


class Queued(Protocol):
    """A command that was given to `Member.propose`."""

    @property
    def waits(self) -> bool:
        """It waits in this member's queue: no other member has it, nobody can have applied it."""


class Member(Protocol):
    """A running member. All methods are plain calls on the loop; none blocks."""

    @property
    def id(self) -> NodeId: ...
    @property
    def name(self) -> str: ...
    @property
    def cluster_id(self) -> ClusterId: ...
    @property
    def leader(self) -> NodeId:
        """The leader this member follows; 0 when it knows none."""

    @property
    def term(self) -> Term: ...
    @property
    def backed_up(self) -> bool:
        """It leads, and requests wait now, or would: some may be older than what it would propose by itself.
        A follower forwards its requests.
        """

    @property
    def paced_to(self) -> int:
        """Bytes a second that it proposes at most, because other members are brought up; 0 if nothing waits
        for that.
        """

    def problems(self) -> dict[str, str]:
        """Why it refuses requests, in words, each with what to do about it; empty if it is well."""

    @property
    def differing(self) -> str:
        """That its state is not that of another member, with nobody to tell which is right, or that the
        leader has another log; and after the last colon what to do. Empty if that is not known.
        """

    def behind(self) -> list[Behind]:
        """The members that are brought up, if it leads. O(members)."""

    @property
    def commit_index(self) -> Index:
        """Highest log index known to be committed."""

    @property
    def leader_since(self) -> Nanos:
        """Wall time at which this member came to know its leader; 0 before it knew any."""

    @property
    def clock(self) -> Clock: ...
    @property
    def machine(self) -> Machine:
        """The replicated state, as far as this member has applied it. Read only."""

    @property
    def jobs(self) -> Jobs:
        """Requests that are answered in steps."""

    @property
    def slowness(self) -> Slowness:
        """Where the time of slow requests went."""

    @property
    def hub(self) -> Hub:
        """Live watchers of the v2 tree."""

    def propose(
        self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes
    ) -> Queued | None:
        """Replicate an encoded command (`state.commands`) for `principal`, which is stored with it, or for
        `OWN`; `done` is called once, in the order of the log.

        It gets the outcome of applying the command, or a Fault: refused (too many requests wait, nowhere to
        send it, above the cluster's feature level), or unknown (time limit, stop). `done` may be called
        before this returns, if the request is refused at once; then, or if it is not queued, the result is
        None.
        """

    def status(self) -> Status:
        """Raft's own status. O(members)."""


class Replica(Member, Protocol):
    """A member that can also be read linearizably (`node.host.Host`)."""

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        """Call `done(None)` once this member's state holds everything that was acknowledged anywhere before
        this call, or `done` with a Fault if that takes too long, or too many reads wait, of all or of
        `principal`. `done` may be called before this returns.
        """


def all_problems(member: Member) -> dict[str, str]:
    """What is wrong with a member, whether or not it refuses requests for that, in words, each with what to
    do about it; empty if it is well.
    """
    found = member.problems()
    if member.differing:
        found = found | {member.differing: member.differing.rpartition(": ")[2]}
    return found


class Membership(Protocol):
    """How the members are changed (`node.membership.MembershipChanges`), for a principal. `done` is called
    once, on the loop; a Fault has etcd's text as its cause (`errors.Reason`).
    """

    def add(
        self,
        peer_urls: tuple[str, ...],
        *,
        learner: bool,
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        """Add a member with these peer URLs; without `learner` it votes once it has caught up."""

    def remove(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        """Remove a member for ever; `done` gets its last record."""

    def promote(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        """Make a learner a voter."""

    def update(
        self,
        id_: NodeId,
        peer_urls: tuple[str, ...],
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        """Change the peer URLs of a member."""

    def transfer(self, to: NodeId, done: Callable[[Fault | None], None]) -> None:
        """Transfer leadership to another voter; only the leader can be asked."""
