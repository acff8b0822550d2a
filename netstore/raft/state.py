"""The fields of one member, and the messages it has to send.

`core.Raft` adds the interface for the host. The decisions are functions over these fields, in `election`,
`replication`, `membership` and the modules below them; nothing is decided here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.raft.log import Log
from netstore.raft.reads import Reads
from netstore.raft.status import Role
from netstore.types import Index, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.raft.config import Boot, Config
    from netstore.raft.entry import ConfState, SnapshotMeta
    from netstore.raft.messages import Message
    from netstore.raft.progress import Progress

NOBODY: Final = NodeId(0)
"""No member: no vote given, no leader known, no transfer under way."""


class RaftState:
    """The protocol state of one member, as plain attributes."""

    __slots__ = (
        "accepted",
        "after_sync",
        "apply_paused",
        "backlog",
        "backlog_bytes",
        "commits_due",
        "conf",
        "conf_history",
        "config",
        "draw",
        "elapsed",
        "forwarded_bytes",
        "heartbeat_elapsed",
        "id",
        "installing",
        "leader",
        "log",
        "lost_entries",
        "messages",
        "pending_change",
        "progress",
        "reads",
        "reads_done",
        "reads_failed",
        "role",
        "send_due",
        "send_next",
        "snapshot",
        "term",
        "term_durable",
        "ticks",
        "timeout",
        "transfer_deadline",
        "transfer_to",
        "vote",
        "votes",
        "waits",
    )

    def __init__(self, config: Config, boot: Boot, draw: Callable[[int], int]) -> None:
        """A follower, from what its disk has, with the configuration of its snapshot; CorruptData if what the
        disk has contradicts itself."""
        boot.check()
        self.config: Final = config
        self.draw: Final = draw
        self.id: Final = config.id

        # Term, log and configuration.
        self.role = Role.FOLLOWER
        self.term = boot.hard_state.term
        self.vote = boot.hard_state.vote
        self.leader = NOBODY
        self.log = Log(boot.snapshot.index, boot.snapshot.term, boot.entries)
        self.log.commit_to(max(boot.hard_state.commit, boot.applied))
        self.log.applying = self.log.applied = boot.applied
        self.conf = boot.snapshot.conf
        """The newest configuration in the log, committed or not."""
        self.conf_history: list[tuple[Index, ConfState]] = [(boot.snapshot.index, self.conf)]
        """(index of the entry, configuration from it on), from the snapshot to the end of the log."""
        self.installing: SnapshotMeta | None = None
        """The snapshot that the host is putting in place."""
        self.apply_paused = False
        """Set by the host while it takes no entries to apply, because its state machine is too far behind."""

        # Times, in ticks.
        self.ticks = 0
        self.elapsed = 0
        """Since the leader was last heard, the vote was given or the role changed; not counted while
        leading."""
        self.heartbeat_elapsed = 0
        self.timeout = config.election_ticks + draw(config.election_ticks)

        # Of a candidate.
        self.votes: dict[NodeId, bool] = {}
        self.term_durable = True
        """False while the vote of this member for itself may not be on its disk: its messages as leader of
        the term must wait for that."""

        # Of a leader.
        self.progress: dict[NodeId, Progress] = {}
        """Of every other member, in the order of ids."""
        self.pending_change = Index(0)
        """No change may be proposed until this entry is committed."""
        self.transfer_to = NOBODY
        self.transfer_deadline = 0
        self.backlog: deque[tuple[Index, int]] = deque()
        """(last index, size) of each batch of entries that is not committed."""
        self.backlog_bytes = 0
        self.send_due = False
        """The next Ready looks for appends to send."""
        self.commits_due = False
        """The next Ready tells all followers of the commit index, also those where nobody waits for it."""
        self.send_next = NOBODY
        """The follower with which the next Ready begins: the first for which the last Ready had no room."""
        self.lost_entries: dict[NodeId, tuple[Index, Index]] = {}
        """See `Raft.take_lost_entries`."""

        # Of a follower.
        self.accepted: Index | None = None
        """How far the log is known to match the leader's; the next Ready acknowledges it."""
        self.forwarded_bytes = 0
        self.waits = True
        """Set by the host: somebody here waits for commits (a request, a read, a watcher). The leader is told
        so with each acknowledgement."""

        # Reads, and output for the next Ready.
        self.reads = Reads(draw(1 << 48))
        self.messages: list[Message] = []
        self.after_sync: list[Message] = []
        self.reads_done: list[tuple[int, Index]] = []
        self.reads_failed: list[int] = []
        self.snapshot: SnapshotMeta | None = None

    def send(self, message: Message) -> None:
        """Send a message with the next Ready; after the sync, if this member leads and its vote for itself
        may not be on disk yet."""
        if self.term_durable or self.role is not Role.LEADER:
            self.messages.append(message)
        else:
            self.after_sync.append(message)

    def waits_at(self, node: NodeId) -> None:
        """Leader: somebody at this follower waits for commits, until its next acknowledgement says
        otherwise."""
        progress = self.progress.get(node)
        if progress is not None and not progress.waits:
            progress.waits = self.send_due = True

    def accept(self, index: Index) -> None:
        """Follower: the log matches the leader's up to `index`."""
        self.accepted = index if self.accepted is None else max(self.accepted, index)

    def match_at(self, node: NodeId) -> Index:
        """How far the log of `node` is known to be durable and equal to this leader's."""
        return self.log.persisted if node == self.id else self.progress[node].match

    def round_at(self, node: NodeId) -> int:
        """The newest read round that `node` has confirmed."""
        return self.reads.round if node == self.id else self.progress[node].read_round

    def active_at(self, node: NodeId) -> int:
        """1 if `node` was heard from within an election timeout, else 0. Also for nodes without progress."""
        progress = self.progress.get(node)
        return int(node == self.id or (progress is not None and self.is_active(progress)))

    def is_active(self, progress: Progress) -> bool:
        """Whether this follower was heard from within an election timeout."""
        return progress.active(self.ticks, self.config.election_ticks)
