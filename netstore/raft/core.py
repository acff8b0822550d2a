"""`Raft`: one member of a Raft group as a pure object. Input by calls, output by `take_ready`; no clock, no
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
    """One member. `draw(n)` gives a random number in range(n), for election timeouts; the same draws give the
    same behaviour.

    No method blocks; the cost of each is linear in its input. Only `step` raises for what a peer sends;
    InvariantBroken means that the process must stop. Hosts use the methods and properties; the attributes are
    shared by the decisions.
    """

    __slots__ = ("_hard_state",)

    def __init__(self, config: Config, boot: Boot, draw: Callable[[int], int]) -> None:
        """A follower, from what its disk has; CorruptData if that contradicts itself."""
        super().__init__(config, boot, draw)
        confchange.follow_log(self, Index(boot.snapshot.index + 1))
        self._hard_state = boot.hard_state
        """The hard state of the last Ready that had one."""

    # --- input

    def tick(self) -> None:
        """One unit of time has passed."""
        self.ticks += 1
        if self.role is Role.LEADER:
            election.tick_leader(self)
        else:
            election.tick(self)

    def step(self, message: Message) -> None:
        """Take a message from a peer. One for another member, or of an earlier term, is ignored.

        MessageRefused, and nothing has changed, if it contradicts what is certain here; nothing more may be
        taken from its sender then.
        """
        if message.to != self.id or message.sender == self.id:
            return
        if type(message) is Append and message.term >= self.term:
            replication.check_committed(self, message)
        if message.term != self.term and not election.admit(self, message):
            return
        HANDLERS[self.role][type(message)](self, message)

    def propose(self, payloads: Sequence[bytes]) -> Proposed:
        """Replicate commands, all or none of them; in this order and next to each other if this member leads.

        ValueError if there are none.
        """
        if not payloads:
            raise ValueError("nothing to propose: payloads is empty")
        return replication.propose(self, payloads)

    def propose_change(self, change: Change) -> Proposed:
        """Change the membership, one change at a time. A follower checks the size only, and forwards it."""
        return membership.propose(self, change)

    def read(self, token: int) -> None:
        """Ask for the index at which a linearizable read may be served; a Ready answers it, with this
        token."""
        readindex.ask(self, token)

    @property
    def is_only_voter(self) -> bool:
        """No vote but this member's own is needed for anything."""
        return self.conf.voters == (self.id,) and not self.conf.voters_outgoing

    def local_read_index(self) -> Index | None:
        """At which index a linearizable read may be served now, without a round: the commit index, where this
        member leads and is the only voter. None where it takes a round.
        """
        if self.role is not Role.LEADER or not self.is_only_voter:
            return None
        log = self.log
        return log.commit if log.term(log.commit) == self.term else None

    def has_untold_commits(self) -> bool:
        """Whether a follower was not told of the commit index, because nobody there waits for it. Costs the
        number of followers."""
        return sending.has_untold_commits(self)

    def tell_commits(self) -> None:
        """The next Ready tells all followers of the commit index. For the host to call when nothing follows
        soon."""
        self.send_due = self.commits_due = True

    def transfer(self, to: NodeId) -> Refusal | None:
        """Transfer leadership to the voter `to`; None if that was started. It is given up after an election
        timeout."""
        return transfer.start(self, to)

    def campaign(self) -> None:
        """Campaign now instead of after an election timeout. A sole voter wins within this call."""
        election.campaign(self)

    # --- what the host did

    def persisted(self, index: Index, term: Term) -> None:
        """The entries of a Ready, of which the last one has this index and term, are durable, and so is
        everything of earlier Readies.

        May come late: entries that were replaced meanwhile do not count. Reporting the last of several is
        enough.
        """
        if not self.log.synced(index, term) or self.role is not Role.LEADER:
            return
        if not self.term_durable and self.log.term(self.log.persisted) == self.term:
            self.term_durable = True
        commit.advance(self)

    def apply_change(self, entry: Entry) -> ConfState:
        """The configuration that an applied CHANGE entry leads to. If it is not joint and this member is not
        in it, the member was removed. Changes nothing here: the core uses the newest configuration in its
        log.
        """
        if entry.kind is not EntryKind.CHANGE or not self.log.applied < entry.index <= self.log.applying:
            raise InvariantBroken(f"entry {entry.index} is not a change handed out for applying")
        return confchange.conf_at(self, entry.index)

    def applied_to(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        self.log.applied_to(index)

    def compact(self, index: Index) -> None:
        """Drop entries up to `index`, which must be applied, and durable in a snapshot or database. Followers
        that are behind it get snapshots."""
        snapshotting.compact(self, index)

    def snapshot_meta(self, index: Index) -> SnapshotMeta:
        """The description of a snapshot at `index`: an applied index, at or after the last compaction."""
        return snapshotting.meta_at(self, index)

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        """The snapshot of `Ready.snapshot` is in place and durable, and the log on disk starts after it."""
        snapshotting.installed(self, meta)

    def report_unreachable(self, peer: NodeId) -> None:
        """Messages to `peer` were dropped: probe instead of streaming."""
        replication.report_unreachable(self, peer)

    def report_snapshot(self, peer: NodeId, ok: bool, index: int = 0) -> None:
        """A snapshot for `peer` was given up, or has arrived: the host there has stepped the
        `InstallSnapshot`. It is at `index`, which may be later than was asked for."""
        snapshotting.report(self, peer, ok=ok, index=index)

    # --- output

    def take_lost_entries(self) -> dict[NodeId, tuple[Index, Index]]:
        """Members found since the last call that lack entries which they had acknowledged to this leader: up
        to where they acknowledged, and where their logs may end. Their disks were replaced by older ones:
        they are sent no entries, and entries may have been committed by their acknowledgements.
        """
        found, self.lost_entries = self.lost_entries, {}
        return found

    def has_ready(self) -> bool:
        """Whether `take_ready` would give anything to do now. A commit index that moved alone is nothing to
        do: it goes with the next Ready. O(1).
        """
        log = self.log
        known = self._hard_state
        return bool(
            (log.handed < log.last and self.installing is None)
            or self.send_due
            or self.messages
            or self.after_sync
            or (
                log.applying < log.commit
                and log.has_committed()
                and self.installing is None
                and not self.apply_paused
            )
            or self.accepted is not None
            or self.reads_done
            or self.reads_failed
            or self.reads.unsent
            or self.snapshot is not None
            or known.term != self.term
            or known.vote != self.vote
            or (self.reads.waiting and readindex.can_start_round(self))
        )

    @property
    def has_more(self) -> bool:
        """Whether the last Ready had no room for everything to write and send (`Config.max_ready_bytes`)."""
        return self.send_due or (self.installing is None and self.log.handed < self.log.last)

    def take_ready(self) -> Ready:
        """Everything to do since the last call. The caller must do all of it, in the order that `ready`
        says."""
        if self.reads.waiting and readindex.can_start_round(self):
            readindex.start_round(self)
        if self.reads.unsent:
            readindex.forward_reads(self)
        if self.send_due:
            sending.send_all(self)
        log = self.log
        # While a snapshot replaces the log, nothing is written: the log on disk already starts after it.
        is_whole = self.installing is None
        has_entries = is_whole and log.handed < log.last
        entries = log.take_unwritten(self.config.max_ready_bytes) if has_entries else []
        if self.accepted is not None:
            replication.answer_appends(self)
        known = self._hard_state
        hard_state = None
        is_vote_new = known.term != self.term or known.vote != self.vote
        commit = min(log.commit, log.handed)  # never beyond the entries that the disk was given
        if is_vote_new or known.commit != commit:
            self._hard_state = hard_state = HardState(self.term, self.vote, commit)
        ready = Ready(
            hard_state,
            entries,
            self.snapshot,
            self.messages,
            self.after_sync,
            self.take_committed() if log.applying < log.commit else [],
            self.reads_done,
            self.reads_failed,
            bool(entries or is_vote_new or self.after_sync),
        )
        self.snapshot = None
        self.messages = []
        self.after_sync = []
        self.reads_done = []
        self.reads_failed = []
        self.forwarded_bytes = 0
        return ready

    def take_committed(self) -> list[Entry]:
        """The next entries to apply, as the next Ready would give them. For a host that has synced a Ready
        before it carries out the rest of it: these follow those of that Ready."""
        if self.apply_paused or self.installing is not None:
            return []
        return self.log.take_committed()

    # --- queries

    @property
    def commit(self) -> Index:
        """The commit index."""
        return self.log.commit

    @property
    def last_index(self) -> Index:
        """The index of the last entry of the log, on disk or not."""
        return self.log.last

    @property
    def log_bytes(self) -> int:
        """The size of all entries that are not compacted, with overhead."""
        return self.log.bytes

    def compact_index(self, max_bytes: int) -> Index:
        """The smallest index after which the log has at most `max_bytes`. Costs the entries after it."""
        return self.log.compact_index(max_bytes)

    def status(self) -> Status:
        """The current status. Costs the number of members."""
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


def _follow_leader(raft: Raft, message: Append | Heartbeat | InstallSnapshot) -> None:
    """Candidate or pre-candidate: another member leads this term (section 3.4); follow it."""
    roles.become_follower(raft, message.term, message.sender)
    HANDLERS[Role.FOLLOWER][type(message)](raft, message)


def _handle_forward(raft: Raft, message: Forward) -> None:
    """Leader: append what a follower was asked to propose. A refusal is not reported here: a host that wants
    it reported takes these messages itself, and answers `ForwardRefused`."""
    raft.waits_at(message.sender)
    if message.kind is EntryKind.NORMAL:
        replication.propose(raft, message.payloads)
        return
    for payload in message.payloads:
        membership.propose(raft, Change.decode(payload))


def _ignore(_raft: Raft, _message: Message) -> None:
    """Not for this role: a late answer, or a request that only a leader can serve."""


_ANY_ROLE: Final[dict[type[Message], Callable[[Raft, Any], None]]] = {
    PreVoteRequest: election.answer_pre_vote,
    VoteRequest: election.answer_vote,
}
_CAMPAIGNING: Final[dict[type[Message], Callable[[Raft, Any], None]]] = {
    **_ANY_ROLE,
    Append: _follow_leader,
    Heartbeat: _follow_leader,
    InstallSnapshot: _follow_leader,
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
        Append: replication.handle_append,
        AppendAccepted: _ignore,
        AppendRejected: _ignore,
        Heartbeat: replication.handle_heartbeat,
        HeartbeatAnswer: _ignore,
        InstallSnapshot: snapshotting.handle_install,
        TimeoutNow: election.handle_timeout_now,
        Forward: _ignore,
        ForwardRefused: _ignore,
        ReadRequest: readindex.refuse_request,
        ReadAnswer: readindex.handle_answer,
    },
    Role.PRE_CANDIDATE: {**_CAMPAIGNING, PreVoteAnswer: election.count_pre_vote, VoteAnswer: _ignore},
    Role.CANDIDATE: {**_CAMPAIGNING, PreVoteAnswer: _ignore, VoteAnswer: election.count_vote},
    Role.LEADER: {
        **_ANY_ROLE,
        PreVoteAnswer: _ignore,
        VoteAnswer: _ignore,
        Append: election.refuse_second_leader,
        AppendAccepted: replication.handle_accepted,
        AppendRejected: replication.handle_rejected,
        Heartbeat: election.refuse_second_leader,
        HeartbeatAnswer: replication.handle_heartbeat_answer,
        InstallSnapshot: election.refuse_second_leader,
        TimeoutNow: _ignore,
        Forward: _handle_forward,
        ForwardRefused: _ignore,
        ReadRequest: readindex.handle_request,
        ReadAnswer: _ignore,
    },
}
"""The handler of each message of the current term, by role. `election.admit` decides which other terms are
handled."""
