"""Changes of the members: adding, removing, moving and promoting them, and transferring leadership.

The leader judges every change, on a state that contains all changes before it. Then it is one entry of the
log, which changes Raft's configuration and the list of members together. Another member forwards its request
to the leader; a refusal comes back through the log (`RefuseChange`), so that it is certain and not a timeout.
One change is under way at a time, others wait. A request without an answer when the term changes is sent to
the next leader: if both commit, the second fails validation, and the first completes the request, because
outcomes come in log order. Only if a snapshot may contain the first one, so that its outcome was not seen
here, a refusal of the second proves nothing, and the outcome is unknown.

A member that is added as a voter could cost the cluster its quorum before it has started. So it enters as a
learner with a promotion flag in its record, and the leader promotes it once it has caught up (Ongaro's
dissertation, section 4.2.1). Adding is therefore always safe, and etcd's refusal to add to a cluster with too
few started members has no counterpart here; removing and promoting are refused as in etcd.

No member decides by its own view. A joining program asks with the number of voters that are wished, and
whether it will be one is decided when its entry is applied: by then all who joined, were promoted or left
before it are known (`JoinMember`). So however many join at once, no more get the flag than are wished. It is
given once: when a voter leaves, no learner takes its place unless it has the flag; the next that joins gets
it, or an operator promotes a learner.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from netstore import errors
from netstore.admission import PARTS
from netstore.errors import CorruptData, Fault, Reason, fault_from_text, refusal
from netstore.node.bootstrap import member_id
from netstore.node.fairqueue import owner_of
from netstore.node.member import OWN
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.status import Refusal
from netstore.state.commands import (
    AddMember,
    JoinMember,
    PromoteMember,
    RefuseChange,
    RemoveMember,
    UpdateMember,
    encode,
)
from netstore.state.envelope import answering, principal_of, request_of
from netstore.state.members import MemberInfo, to_vote
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.host import Host
    from netstore.seams import Log
    from netstore.state.machine import Outcome

    MemberDone: TypeAlias = Callable[[MemberInfo | Fault], None]

MAX_WAITING_CHANGES: Final = 64
"""Changes that may wait for their turn at a leader; more are refused. One household has half of them, as in
`admission`.
"""

MAX_LEARNERS: Final = 64
"""Learners a cluster may have unless the operator says otherwise: the leader feeds each of them."""

MAX_VOTERS: Final = 7
"""More voters make every write slower and in practice survive no failure that seven do not."""

CLEAN_COPIES: Final = 2
"""Other members that must vote and answer before a damaged member is replaced."""

_IDS: Final = 1 << 64
"""Ids are below this, and not 0."""

_TEMPORARY: Final = (Refusal.CHANGE_PENDING, Refusal.TRANSFERRING, Refusal.NO_LEADER)
"""Refusals of Raft that pass: the change waits."""

_WORDS: Final = {
    Refusal.LEARNER_BEHIND: Reason.LEARNER_NOT_READY.text,
    Refusal.QUORUM_AT_RISK: Reason.UNHEALTHY.text,
    Refusal.NO_VOTER_LEFT: Reason.NOT_ENOUGH_STARTED.text,
}

_Command: TypeAlias = AddMember | JoinMember | RemoveMember | PromoteMember


class _PendingChange:
    """A change that waits. `payload` begins with the id of the request; its slot may be at another member."""

    __slots__ = ("again", "command", "deadline", "over", "own", "owner", "payload", "snapshots", "term")

    def __init__(self, command: _Command, payload: bytes, deadline: float, *, own: bool) -> None:
        self.command = command
        self.payload = payload
        self.deadline = deadline
        self.own = own
        self.owner = ""
        """The household that asks; empty for a member itself."""
        self.term = Term(0)
        """The term in which it was given to Raft."""
        self.snapshots = 0
        """Snapshots that had been installed when it was first asked."""
        self.again = False
        """It was given to Raft more than once."""
        self.over = False


class MembershipChanges:
    """The members as a whole, which can be changed through any of them. All methods are plain calls on the
    loop; `done` is called once, perhaps before the call returns.
    """

    def __init__(self, host: Host, *, log: Log, max_learners: int = MAX_LEARNERS) -> None:
        self._host = host
        self._log = log
        self._max_learners = max_learners
        self._waiting: deque[_PendingChange] = deque()
        self._sent: list[_PendingChange] = []
        """Own requests that were given to Raft and have no answer yet."""
        self._held_since: float | None = None
        """Since when the first of the waiting changes, or those before it, waits because the leader is
        overloaded. Monotonic seconds.
        """
        self._named = 0
        """Ids given to new members."""
        self._tidy_at = Index(0)
        """The change after which no learner without a record was left."""
        self._transfers: list[tuple[NodeId, float, Callable[[Fault | None], None]]] = []
        host.change_asked = self._asked

    # --- what can be asked

    def add(self, peer_urls: tuple[str, ...], *, learner: bool, done: MemberDone, principal: bytes) -> None:
        """Add a member with these peer URLs, as `principal` asks; without `learner` it will vote once it has
        caught up.

        `done` gets the new member before it has started, or why there is none: a URL is taken, or there are
        too many learners or voters.
        """
        urls = tuple(sorted(peer_urls))
        self._ask(AddMember(self._new_id(urls), urls, learner=True, promote=not learner), done, principal)

    def join(self, peer_urls: tuple[str, ...], *, voters: int, replaces: NodeId, done: MemberDone) -> None:
        """Let in a program with these peer URLs. It will vote if fewer than `voters` (`MAX_VOTERS` at most)
        do or will when its turn comes, whoever else joins meanwhile; otherwise it stays a learner.

        With `replaces` (0 means nobody) it takes the place of that member in one step. Refused while that one
        answers, while fewer than `CLEAN_COPIES` others vote or too few answer, and if it was removed before.

        The caller is no client but a program that has proved that it belongs here; there are at most
        `peer.listener.MAX_MEMBER_LIST_STREAMS` of them.
        """
        if not 0 <= replaces < _IDS:
            done(refusal(Reason.ID_NOT_FOUND))
            return
        urls = tuple(sorted(peer_urls))
        self._ask(JoinMember(self._new_id(urls), urls, min(voters, MAX_VOTERS), replaces), done, OWN)

    def _new_id(self, urls: tuple[str, ...]) -> NodeId:
        """An id that nobody has had: from URLs and time, as in etcd, and from this member and a counter, so
        that no two requests in the same instant get the same.
        """
        self._named += 1
        now, own = self._host.clock.wall(), self._host.id
        return member_id(urls, f"{now} {own:x} {self._named}")

    def remove(self, id_: NodeId, done: MemberDone, principal: bytes) -> None:
        """Remove a member for ever; `done` gets its last record. Refused if too few started voters would be
        left, or too few of them answer, and if there is no such member or it was removed before.
        """
        self._ask(RemoveMember(id_), done, principal)

    def promote(self, id_: NodeId, done: MemberDone, principal: bytes) -> None:
        """Make a learner a voter; refused until it has caught up."""
        self._ask(PromoteMember(id_), done, principal)

    def update(self, id_: NodeId, peer_urls: tuple[str, ...], done: MemberDone, principal: bytes) -> None:
        """Change the peer URLs of a member."""
        if not 0 < id_ < _IDS:
            done(refusal(Reason.ID_NOT_FOUND))
            return
        command = UpdateMember(id_, tuple(sorted(peer_urls)))
        self._host.propose(encode(command), self._answer(id_, done), principal)

    def transfer(self, to: NodeId, done: Callable[[Fault | None], None]) -> None:
        """Transfer leadership to another voter. `done(None)` comes once it leads. Only the leader can be
        asked.
        """
        host = self._host
        if host.leader != host.id:
            done(refusal(Reason.NOT_LEADER))
        elif to == host.id:
            done(None)
        elif (refused := host.transfer(to)) is not None:
            bad = refused is Refusal.NOT_A_VOTER
            done(refusal(Reason.BAD_TRANSFEREE) if bad else fault_from_text(f"etcdserver: {refused.value}"))
        else:
            self._transfers.append((to, host.clock.monotonic() + host.proposals.time_limit, done))

    # --- time

    def tick(self) -> None:
        """Let waiting changes go on; as leader, promote members that have caught up. O(members)."""
        if self._transfers:
            self._look_at_transfers()
        if self._sent:
            self._ask_again()
        if self._waiting:
            self._advance()
        host = self._host
        if host.leader == host.id and self._is_current():
            self._promote_flagged()
            if self._tidy_at != host.change_index:
                self._remove_unlisted()

    # --- one change

    def _ask(self, command: _Command, done: MemberDone, principal: bytes) -> None:
        host = self._host
        if not 0 < command.id < _IDS:
            done(refusal(Reason.ID_NOT_FOUND))  # no change can name it, whoever the leader is
            return
        asked: _PendingChange

        def complete(outcome: Outcome | Fault) -> None:
            asked.over = True
            if (
                isinstance(outcome, Fault)
                and asked.again
                and asked.snapshots != host.snapshot_install.installed
            ):
                outcome = errors.timed_out(Reason.TIMED_OUT_LEADER)
            answer(outcome)

        answer = self._answer(NodeId(command.id), done)
        asked = _PendingChange(command, b"", float("inf"), own=True)
        asked.snapshots = host.snapshot_install.installed
        payload = host.proposals.open(encode(command), complete, principal)
        if payload is not None:
            asked.payload = payload
            asked.owner = owner_of(principal)
            self._enqueue(asked)

    def _answer(self, id_: NodeId, done: MemberDone) -> Callable[[Outcome | Fault], None]:
        members = self._host.machine.members
        before = members.get(id_)

        def answer(outcome: Outcome | Fault) -> None:
            if isinstance(outcome, Fault):
                done(outcome)
            else:
                done(self._host.machine.members.get(id_) or before or MemberInfo(id_, "", (), ()))

        return answer

    def _asked(self, change: Change) -> None:
        """Another member asks this leader for a change."""
        try:
            command = self._host.machine.understand(change.context)
        except CorruptData as fault:
            self._log.warning("member_change_not_read", reason=str(fault))
            return
        if isinstance(command, _Command):
            deadline = self._host.clock.monotonic() + self._host.proposals.time_limit
            asked = _PendingChange(command, change.context, deadline, own=False)
            asked.owner = owner_of(principal_of(change.context))
            self._enqueue(asked)
        else:
            self._log.warning("member_change_not_read", reason=f"{type(command).__name__} is none")

    def _ask_again(self) -> None:
        """What was given to the leader of an earlier term may be lost with it."""
        term = self._host.term
        unanswered = [each for each in self._sent if not each.over]
        self._sent = [each for each in unanswered if each.term == term]
        for each in unanswered:
            if each.term != term:
                each.again = True
                self._waiting.append(each)

    def _enqueue(self, asked: _PendingChange) -> None:
        if not self._has_place(asked.owner):
            self._refuse(asked, Reason.TOO_MANY.text)
            return
        self._waiting.append(asked)
        self._advance()

    def _has_place(self, owner: str) -> bool:
        """Whether one more change of this household may wait."""
        held = [each.owner for each in (*self._waiting, *self._sent)]
        if 2 * len(held) < MAX_WAITING_CHANGES:
            return True
        return len(held) < MAX_WAITING_CHANGES and not (
            owner and held.count(owner) >= MAX_WAITING_CHANGES // PARTS
        )

    def _advance(self) -> None:
        now = self._host.clock.monotonic()
        while self._waiting:
            first = self._waiting[0]
            if not first.over and first.deadline >= now and not self._try(first):
                return
            self._waiting.popleft()
        self._held_since = None

    def _try(self, asked: _PendingChange) -> bool:
        """Propose a change, or refuse it. False if it has to wait."""
        host = self._host
        if not host.backpressure.is_overloaded:
            self._held_since = None
        if not host.leader:
            return False
        if host.backpressure.is_overloaded:
            if self._held_since is None:
                self._held_since = host.clock.monotonic()
            fault = host.backpressure.refusal(host.proposals.now - self._held_since)
            if fault is not None:
                self._refuse(asked, fault.cause.decode())
            return fault is not None
        if host.leader == host.id:
            if not self._is_current():
                return False
            why = self._objection(asked.command)
            if why is not None:
                self._refuse(asked, why)
                return True
        elif not asked.own:
            return True  # it does not lead any more: the request times out at the member that asked
        refused = host.proposer.propose_change(Change(_steps(asked.command), context=asked.payload))
        if refused in _TEMPORARY:
            return False
        if refused is Refusal.NOTHING_TO_CHANGE and isinstance(asked.command, RemoveMember):
            host.proposer.relay(asked.payload)  # it is in the list of members only
            refused = None
        if refused is not None:
            self._refuse(asked, _WORDS.get(refused, f"etcdserver: {refused.value}"))
        elif asked.own:
            asked.term = host.term
            self._sent.append(asked)
        return True

    def _is_current(self) -> bool:
        """The state here contains every change of the members that is in the log."""
        return self._host.change_index <= self._host.machine.applied

    def _refuse(self, asked: _PendingChange, why: str) -> None:
        if asked.own:
            self._host.proposals.give_up(request_of(asked.payload), fault_from_text(why))
        else:
            self._host.proposer.relay(answering(asked.payload, encode(RefuseChange(why))))

    def _objection(self, command: _Command) -> str | None:
        """Why the present members rule out a change, in etcd's words; None if they do not."""
        machine = self._host.machine
        members, id_ = machine.members, NodeId(command.id)
        if isinstance(command, AddMember | JoinMember):
            return self._objection_to_new(command)
        if id_ not in members:
            return Reason.ID_REMOVED.text if id_ in machine.removed else Reason.ID_NOT_FOUND.text
        concerned = members[id_]
        voters = [each for each in members.values() if not each.learner and each.id != id_]
        if isinstance(command, PromoteMember):
            if not concerned.learner:
                return Reason.NOT_LEARNER.text
            if not concerned.name:
                return Reason.LEARNER_NOT_READY.text
            if to_vote(each for each in members.values() if each.id != id_) >= MAX_VOTERS:
                return Reason.TOO_MANY_VOTERS.text
            voters.append(concerned)
        elif concerned.learner:
            return None
        started = sum(bool(each.name) for each in voters)
        return Reason.NOT_ENOUGH_STARTED.text if started < len(voters) // 2 + 1 else None

    def _objection_to_new(self, command: AddMember | JoinMember) -> str | None:
        machine, id_ = self._host.machine, NodeId(command.id)
        if id_ in machine.members or id_ in machine.removed:
            return Reason.ID_EXISTS.text if id_ in machine.members else Reason.ID_REMOVED.text
        replaced = NodeId(command.replaces if isinstance(command, JoinMember) else 0)
        why = self._objection_to_replacing(replaced) if replaced else None
        if why is not None:
            return why
        others = [each for each in machine.members.values() if each.id != replaced]
        if any(url in command.peer_urls for each in others for url in each.peer_urls):
            return Reason.PEER_URL_EXISTS.text
        if sum(each.learner for each in others) >= self._max_learners:
            return Reason.TOO_MANY_LEARNERS.text
        if isinstance(command, JoinMember):
            return Reason.TOO_MANY_VOTERS.text if command.voters > MAX_VOTERS else None
        is_one_more = command.promote and to_vote(others) >= MAX_VOTERS
        return Reason.TOO_MANY_VOTERS.text if is_one_more else None

    def _objection_to_replacing(self, replaced: NodeId) -> str | None:
        """A member that answers is not replaced, whoever asks: it is not the one that lost its data."""
        if replaced in self._host.machine.removed:
            return f"member {replaced:x} was removed from the cluster"
        if replaced not in self._host.machine.members:
            return f"the cluster has no member {replaced:x} that could be replaced"
        status = self._host.status()
        if replaced == self._host.id or any(each.id == replaced and each.active for each in status.peers):
            return (
                f"member {replaced:x} answers: only one that has been silent for an election timeout is"
                f" replaced; stop it, or remove it first (netstorectl member rm {replaced:x})"
            )
        if replaced in status.conf.members() and len({*status.conf.voters} - {replaced}) < CLEAN_COPIES:
            return f"fewer than {CLEAN_COPIES} other members vote"
        return None

    # --- what a leader does by itself

    def _promote_flagged(self) -> None:
        """Promote one member that is flagged to vote, has published its name, and has caught up.

        Until its name is in the list, another program with the same URLs is given the same identity
        (`peer.join`): a member that has voted must not be given away like that.
        """
        members = self._host.machine.members
        if not any(each.promote for each in members.values()):
            return
        for peer in self._host.status().peers:
            info = members.get(peer.id)
            if peer.caught_up and info is not None and info.promote and info.name:
                steps = (Step(StepKind.ADD_VOTER, peer.id),)
                self._host.proposer.change_members(
                    steps, encode(PromoteMember(peer.id)), self._told("member_promoted", peer.id)
                )
                return

    def _remove_unlisted(self) -> None:
        """A learner whose record was refused when it was applied, because its URL had been taken in between,
        is no member: remove it from Raft's configuration too.
        """
        members = self._host.machine.members
        for learner in self._host.status().conf.learners:
            if learner not in members:
                steps = (Step(StepKind.REMOVE, learner),)
                self._host.proposer.change_members(steps, b"", self._told("unlisted_member_removed", learner))
                return
        self._tidy_at = self._host.change_index

    def _told(self, event: str, id_: NodeId) -> Callable[[Outcome | Fault], None]:
        def told(outcome: Outcome | Fault) -> None:
            if not isinstance(outcome, Fault):
                self._log.info(event, member=f"{id_:x}")

        return told

    def _look_at_transfers(self) -> None:
        host, now = self._host, self._host.clock.monotonic()
        transfers, self._transfers = self._transfers, []
        for to, deadline, done in transfers:
            if host.leader == to:
                done(None)
            elif now > deadline or (host.leader and host.leader != host.id):
                done(refusal(Reason.TRANSFER_TIMED_OUT))
            else:
                self._transfers.append((to, deadline, done))


def _steps(command: _Command) -> tuple[Step, ...]:
    id_ = NodeId(command.id)
    if isinstance(command, PromoteMember):
        return (Step(StepKind.ADD_VOTER, id_),)
    if isinstance(command, RemoveMember):
        return (Step(StepKind.REMOVE, id_),)
    learn = Step(StepKind.ADD_LEARNER, id_)
    if isinstance(command, JoinMember) and command.replaces:
        return (Step(StepKind.REMOVE, NodeId(command.replaces)), learn)
    return (learn,)
