"""`Raft`: the consensus of one member as a pure object. Input by calls, output by `take_ready`; no clock, no
disk, no network.

The decisions are functions over `state.RaftState`, in modules below this one: `election`, `replication`,
`membership`, `snapshotting`, `readindex` and what they share. The table `HANDLERS` names the function for
every role and message. The order in which the host must carry out what `take_ready` gives is in `ready`;
DESIGN.md has the invariants and the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from netstore.raft import (
    commit,
    confchange,
    election,
    membership,
    readindex,
    replication,
    roles,
    sending,
    snapshotting,
    transfer,
)
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind, HardState
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    ForwardRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    PreVoteAnswer,
    PreVoteRequest,
    ReadAnswer,
    ReadRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from netstore.raft.ready import Ready
from netstore.raft.state import RaftState
from netstore.raft.status import PeerStatus, Proposed, Refusal, Role, Status
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.raft.config import Boot, Config
    from netstore.raft.entry import ConfState, Entry, SnapshotMeta
    from netstore.raft.messages import Message
    from netstore.raft.progress import Progress
    from netstore.types import NodeId, Term


class Raft(RaftState):
    """One member. `draw(n)` gives a number in range(n); it spreads election timeouts, and same draws give
    same behaviour.

    All methods return at once, cost what their input weighs, and none but `step` raises for what a peer
    sends; InvariantBroken means that the process must stop. The plain attributes are the state that the
    decisions share; hosts use methods and properties.
    """

    __slots__ = ("_told",)

    def __init__(self, config: Config, boot: Boot, draw: Callable[[int], int]) -> None:
        """A follower as the disk remembers it; CorruptData if what is remembered contradicts itself."""
        super().__init__(config, boot, draw)
        confchange.follow_log(self, Index(boot.snapshot.index + 1))
        self._told = boot.hard_state
        """The hard state that the disk was given last."""

    # --- input

    def tick(self) -> None:
        """One unit of time has passed."""
        self.ticks += 1
        if self.role is Role.LEADER:
            election.tick_leader(self)
        else:
            election.tick(self)

    def step(self, message: Message) -> None:
        """Take a message from a peer. One for somebody else, or from an earlier term, is not listened to.

        MessageRefused, before anything of it was taken, when it contradicts what is certain here; whoever
        says that is not to be listened to any more.
        """
        if message.to != self.id or message.sender == self.id:
            return
        if type(message) is Append and message.term >= self.term:
            replication.check_committed(self, message)
        if message.term != self.term and not election.admit(self, message):
            return
        HANDLERS[self.role][type(message)](self, message)

    def propose(self, payloads: Sequence[bytes]) -> Proposed:
        """Replicate commands, all or none of them, in this order and next to each other if this member leads.

        ValueError if there are none.
        """
        if not payloads:
            raise ValueError("nothing to propose: payloads is empty")
        return replication.propose(self, payloads)

    def propose_change(self, change: Change) -> Proposed:
        """Change the membership; one change at a time. Followers forward it without checking more than its
        size."""
        return membership.propose(self, change)

    def read(self, token: int) -> None:
        """Ask at which index a linearizable read may be served; the answer comes in a Ready, under this
        token."""
        readindex.ask(self, token)

    def transfer(self, to: NodeId) -> Refusal | None:
        """Hand leadership to the voter `to`; None if it was started. It is given up after an election
        timeout."""
        return transfer.start(self, to)

    def campaign(self) -> None:
        """Try to lead now instead of after an election timeout. The only voter of a group wins in this
        call."""
        election.campaign(self)

    # --- what the host did

    def persisted(self, index: Index, term: Term) -> None:
        """The log up to the batch that ended with this entry is durable; so is everything handed out before
        it.

        `index` and `term` are those of the last entry of a Ready. May come late: what was overruled in
        between is not counted. Reporting only the last of several batches is enough.
        """
        if not self.log.synced(index, term) or self.role is not Role.LEADER:
            return
        if not self.term_durable and self.log.term(self.log.persisted) == self.term:
            self.term_durable = True
        commit.advance(self)

    def apply_change(self, entry: Entry) -> ConfState:
        """The configuration that the CHANGE entry leads to, now that it is applied; one this member is not in
        any more, and which is not joint, has removed it. Changes nothing here: the core follows its log.
        """
        if entry.kind is not EntryKind.CHANGE or not self.log.applied < entry.index <= self.log.applying:
            raise InvariantBroken(f"entry {entry.index} is not a change handed out for applying")
        return confchange.at(self, entry.index)

    def applied_to(self, index: Index) -> None:
        """The state machine holds everything up to `index`."""
        self.log.applied_to(index)

    def compact(self, index: Index) -> None:
        """Forget entries up to `index` (applied, and in a durable state copy or database). Followers behind
        it get state copies."""
        snapshotting.compact(self, index)

    def snapshot_meta(self, index: Index) -> SnapshotMeta:
        """What a state copy taken at `index` stands for: an applied index at or after the last compaction."""
        return snapshotting.meta_at(self, index)

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        """The state copy of `Ready.snapshot` is in place and durable, and the log on disk starts after it."""
        snapshotting.installed(self, meta)

    def report_unreachable(self, peer: NodeId) -> None:
        """Messages to `peer` were dropped: stop streaming and find out what it has."""
        replication.lose(self, peer)

    def report_snapshot(self, peer: NodeId, ok: bool, index: int = 0) -> None:
        """A state copy for `peer` was given up, or arrived: its host has stepped the `InstallSnapshot`
        there. It was one at `index`, which may be after the place that was asked for."""
        snapshotting.report(self, peer, ok=ok, index=index)

    # --- output

    def take_forgetful(self) -> dict[NodeId, tuple[Index, Index]]:
        """Members found since the last call that lack what they had acknowledged to this leader: how far that
        went, and where their logs may end. Their disks were exchanged for older ones: they are sent nothing,
        and what they acknowledged may have been counted.
        """
        found, self.forgetful = self.forgetful, {}
        return found

    def has_ready(self) -> bool:
        """Whether `take_ready` would give anything to do. Cheap."""
        log = self.log
        told = self._told
        return bool(
            (log.handed < log.last and self.installing is None)
            or self.send_due
            or self.messages
            or self.after_sync
            or (
                log.applying < log.commit and log.appliable() and self.installing is None and not self.holding
            )
            or self.accepted is not None
            or self.reads_done
            or self.reads_failed
            or self.reads.unsent
            or self.snapshot is not None
            or told.commit < min(log.commit, log.handed)
            or told.term != self.term
            or told.vote != self.vote
            or (self.reads.waiting and readindex.can_open(self))
        )

    @property
    def has_more(self) -> bool:
        """The last Ready had no room for all that is to be written and sent (`Config.max_ready_bytes`)."""
        return self.send_due or self._has_entries

    @property
    def _has_entries(self) -> bool:
        """There are entries to be given to the disk. While a state copy replaces the log there are none: the
        disk has the mark of the copy already, and they would stand behind it.
        """
        return self.installing is None and self.log.handed < self.log.last

    def take_ready(self) -> Ready:
        """Everything to do since the last call. The caller has promised to do it, in the order that `ready`
        tells."""
        if readindex.can_open(self):
            readindex.open_round(self)
        if self.reads.unsent:
            readindex.forward(self)
        if self.send_due:
            sending.send_all(self)
        log = self.log
        entries = log.hand_out(self.config.max_ready_bytes) if self._has_entries else []
        replication.answer_appends(self)
        told = self._told
        hard_state = None
        votes = told.term != self.term or told.vote != self.vote
        commit = min(log.commit, log.handed)  # the disk is not told of more than it is given
        if votes or told.commit != commit:
            self._told = hard_state = HardState(self.term, self.vote, commit)
        ready = Ready(
            hard_state,
            entries,
            self.snapshot,
            self.messages,
            self.after_sync,
            log.hand_committed() if self.installing is None and not self.holding else [],
            self.reads_done,
            self.reads_failed,
            bool(entries or votes or self.after_sync),
        )
        self.snapshot = None
        self.messages = []
        self.after_sync = []
        self.reads_done = []
        self.reads_failed = []
        self.forwarded_bytes = 0
        return ready

    # --- looking

    @property
    def commit(self) -> Index:
        """Highest index known to be committed."""
        return self.log.commit

    @property
    def last_index(self) -> Index:
        """End of the log, on disk or not."""
        return self.log.last

    @property
    def log_bytes(self) -> int:
        """What all entries that are remembered weigh."""
        return self.log.bytes

    def place_before(self, max_bytes: int) -> Index:
        """The last place after which the log weighs at most `max_bytes`. Costs the entries there."""
        return self.log.place_before(max_bytes)

    def status(self) -> Status:
        """A frozen picture. Costs the number of members."""
        log = self.log
        return Status(
            id=self.id,
            term=self.term,
            role=self.role,
            leader=self.leader,
            compacted=log.compacted,
            applied=log.applied,
            commit=log.commit,
            last=log.last,
            conf=self.conf,
            peers=tuple(self._peer_status(peer, progress) for peer, progress in self.progress.items()),
        )

    def _peer_status(self, peer: NodeId, progress: Progress) -> PeerStatus:
        return PeerStatus(
            id=peer,
            match=progress.match,
            active=self.is_active(progress),
            caught_up=peer in self.conf.learners and membership.caught_up(self, progress),
        )


def _yield_to_leader(raft: Raft, message: Append | Heartbeat | InstallSnapshot) -> None:
    """Candidate or pre-candidate: another member leads this term (section 3.4)."""
    roles.become_follower(raft, message.term, message.sender)
    HANDLERS[Role.FOLLOWER][type(message)](raft, message)


def _take_forward(raft: Raft, message: Forward) -> None:
    """Leader: append what a follower was asked to propose. A refusal is not reported here: a host that wants
    it reported takes these messages itself, and answers `ForwardRefused`."""
    if message.kind is EntryKind.NORMAL:
        replication.propose(raft, message.payloads)
        return
    for payload in message.payloads:
        membership.propose(raft, Change.decode(payload))


def _ignore(_raft: Raft, _message: Message) -> None:
    """Not for this role: an answer that came too late, or a request to a member that cannot help."""


_ANY_ROLE: Final[dict[type[Message], Callable[[Raft, Any], None]]] = {
    PreVoteRequest: election.answer_pre_vote,
    VoteRequest: election.answer_vote,
}
_STANDING: Final[dict[type[Message], Callable[[Raft, Any], None]]] = {
    **_ANY_ROLE,
    Append: _yield_to_leader,
    Heartbeat: _yield_to_leader,
    InstallSnapshot: _yield_to_leader,
    AppendAccepted: _ignore,
    AppendRejected: _ignore,
    HeartbeatAnswer: _ignore,
    TimeoutNow: _ignore,
    Forward: _ignore,
    ForwardRefused: _ignore,
    ReadRequest: readindex.refuse_request,
    ReadAnswer: _ignore,
}

HANDLERS: Final[dict[Role, dict[type[Message], Callable[[Raft, Any], None]]]] = {
    Role.FOLLOWER: {
        **_ANY_ROLE,
        PreVoteAnswer: _ignore,
        VoteAnswer: _ignore,
        Append: replication.take_append,
        AppendAccepted: _ignore,
        AppendRejected: _ignore,
        Heartbeat: replication.take_heartbeat,
        HeartbeatAnswer: _ignore,
        InstallSnapshot: snapshotting.take_install,
        TimeoutNow: election.lead_now,
        Forward: _ignore,
        ForwardRefused: _ignore,
        ReadRequest: readindex.refuse_request,
        ReadAnswer: readindex.take_answer,
    },
    Role.PRE_CANDIDATE: {**_STANDING, PreVoteAnswer: election.count_pre_vote, VoteAnswer: _ignore},
    Role.CANDIDATE: {**_STANDING, PreVoteAnswer: _ignore, VoteAnswer: election.count_vote},
    Role.LEADER: {
        **_ANY_ROLE,
        PreVoteAnswer: _ignore,
        VoteAnswer: _ignore,
        Append: election.refuse_second_leader,
        AppendAccepted: replication.take_accepted,
        AppendRejected: replication.take_rejected,
        Heartbeat: election.refuse_second_leader,
        HeartbeatAnswer: replication.take_heartbeat_answer,
        InstallSnapshot: election.refuse_second_leader,
        TimeoutNow: _ignore,
        Forward: _take_forward,
        ForwardRefused: _ignore,
        ReadRequest: readindex.take_request,
        ReadAnswer: _ignore,
    },
}
"""What happens to a message of the current term, by role. Which terms are listened to at all is
`election.admit`."""
