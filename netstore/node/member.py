"""What the API and the programs see of the running member: identity, position, the state to read, the door to
propose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.node.jobs import Jobs
    from netstore.node.pacing import Behind
    from netstore.raft.status import Status
    from netstore.seams import Clock
    from netstore.state.machine import Machine, Outcome
    from netstore.state.members import MemberInfo
    from netstore.types import ClusterId, Index, Nanos, NodeId, Term
    from netstore.watch.hub import Hub

OWN: Final = b""
"""As a principal: the member asks for itself, and for no client. That goes first, has no share, and waits for
nobody that is brought up.
"""


class Member(Protocol):
    """A running member. Everything is a plain call on the loop; nothing blocks."""

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
        """It leads, and what is asked of it now waits, or would: some of that may be older than what it would
        propose by itself. A follower passes on what it is asked.
        """

    @property
    def paced_to(self) -> int:
        """Bytes a second that it proposes at most, because others are brought up; 0 where nothing waits for
        that.
        """

    def problems(self) -> list[str]:
        """Why it refuses what is asked of it, in words; nothing where it is well."""

    def behind(self) -> list[Behind]:
        """Those that are being brought up, where it leads. Costs the number of members."""

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
        """The replicated state as far as this member has applied it. Read only."""

    @property
    def jobs(self) -> Jobs:
        """Requests that are answered in steps."""

    @property
    def hub(self) -> Hub:
        """Live watchers of the v2 tree."""

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        """Replicate an encoded command (`state.commands`) for `principal`, who is noted with it, or `OWN`;
        `done` is called once, in the order of the log.

        It gets what applying the command gave, or a Fault: refused (too many waiting, no place to send it,
        beyond the cluster's feature level) or
        unknown (time limit, stop). May call `done` before it returns when the proposal is refused at once.
        """

    def status(self) -> Status:
        """What Raft tells of itself. Costs the number of members."""


class Replica(Member, Protocol):
    """A member that can be read linearizably, too (`node.host.Host`)."""

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        """Call `done(None)` once this member's state holds everything that was acknowledged anywhere before
        this call, or `done` with a Fault when that cannot be had in time, or when too much waits already, of
        all or of `principal`. May be called before it returns.
        """


class Membership(Protocol):
    """What can be changed about the members (`node.membership.Cluster`), for a principal. `done` is called
    once, on the loop; a Fault has etcd's words as its cause (`errors.Reason`).
    """

    def add(
        self,
        peer_urls: tuple[str, ...],
        *,
        learner: bool,
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        """Add a member that is reached there; without `learner` it votes once it has caught up."""

    def remove(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        """Remove a member for ever; `done` gets what it was."""

    def promote(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        """Give a learner its vote."""

    def update(
        self,
        id_: NodeId,
        peer_urls: tuple[str, ...],
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        """A member is reached there from now on."""

    def transfer(self, to: NodeId, done: Callable[[Fault | None], None]) -> None:
        """Let another voter lead; only the leader can be asked."""
