"""The messages between members: one class for each. `raft.encoding` has their byte forms.

Every message has its sender, its receiver and the sender's term, except that a `PreVoteRequest` has the term
that the sender would start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry, EntryKind, SnapshotMeta
    from netstore.types import Index, NodeId, Term

MAX_NUMBER: Final = 2**62 - 1
"""Largest term, index, read round or sequence number that is accepted from another member. Ten million a
second reach it in 14,000 years. Numbers counted up from it still fit the byte forms, on disk
(`entry.MAX_STORED`) and on the wire."""


class MessageRefused(NetstoreError):  # noqa: N818 - named for what happened
    """A well-formed message contradicts what is certain in this group; it changed nothing.

    Its sender is faulty, or not the member it claims to be: nothing more may be taken from its stream.
    """


class LogContradicted(MessageRefused):
    """A leader has another entry than the one that is committed here."""


@dataclass(slots=True)
class PreVoteRequest:
    """Whether the receiver would vote for the sender in `term`; changes nothing there (Ongaro's dissertation,
    section 9.6)."""

    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term


@dataclass(slots=True)
class PreVoteAnswer:
    """The answer to a `PreVoteRequest` for the term `asked`."""

    sender: NodeId
    to: NodeId
    term: Term
    asked: Term
    granted: bool


@dataclass(slots=True)
class VoteRequest:
    """RequestVote (section 3.4). `forced`: the leader itself asked for this election (section 3.10), so its
    lease does not count."""

    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term
    forced: bool


@dataclass(slots=True)
class VoteAnswer:
    """The answer to a `VoteRequest` of the same term."""

    sender: NodeId
    to: NodeId
    term: Term
    granted: bool


@dataclass(slots=True)
class Append:
    """AppendEntries (section 3.5): entries after `previous_index`, whose entry must have `previous_term`.

    It is answered, unless it has no entries and moves the receiver's commit index. One without entries that
    asks for an answer, a probe, has `commit` 0.
    """

    sender: NodeId
    to: NodeId
    term: Term
    previous_index: Index
    previous_term: Term
    commit: Index
    entries: Sequence[Entry]


@dataclass(slots=True)
class AppendAccepted:
    """The sender's log matches the leader's up to `index`, and is on its disk that far. Unless it `waits` for
    commits, the leader may tell it of them a little later (`sending`).
    """

    sender: NodeId
    to: NodeId
    term: Term
    index: Index
    waits: bool = True


@dataclass(slots=True)
class AppendRejected:
    """The sender has no matching entry at `previous_index`; the logs may match up to `hint_index`, where it
    has `hint_term`.

    `needs_snapshot`: the sender has no configuration yet, which it can only get from a snapshot.
    """

    sender: NodeId
    to: NodeId
    term: Term
    previous_index: Index
    hint_index: Index
    hint_term: Term
    needs_snapshot: bool


@dataclass(slots=True)
class Heartbeat:
    """The leader is alive; `commit` is committed and known to match in the receiver's log; `round` is the
    newest ReadIndex round."""

    sender: NodeId
    to: NodeId
    term: Term
    commit: Index
    round: int


@dataclass(slots=True)
class HeartbeatAnswer:
    """The sender follows in this term, and confirms ReadIndex round `round`. Round 0 also answers a leader of
    an old term."""

    sender: NodeId
    to: NodeId
    term: Term
    round: int


@dataclass(slots=True)
class InstallSnapshot:
    """InstallSnapshot (section 5.1). The core names the index; the host sends the snapshot itself with it.

    The sending host sets `meta` to the description of the snapshot that it sends (`Raft.snapshot_meta`); the
    receiving host steps the message into its core when the whole snapshot has arrived and is verified.
    """

    sender: NodeId
    to: NodeId
    term: Term
    meta: SnapshotMeta


@dataclass(slots=True)
class TimeoutNow:
    """The receiver is to start an election at once (section 3.10)."""

    sender: NodeId
    to: NodeId
    term: Term


@dataclass(slots=True)
class Forward:
    """Proposals made at a follower, for the leader to append."""

    sender: NodeId
    to: NodeId
    term: Term
    kind: EntryKind
    payloads: Sequence[bytes]


@dataclass(slots=True)
class ForwardRefused:
    """The leader has not appended payloads that were forwarded to it in this term, and never will. Hosts use
    and read it: `why` is their code, and `requests` are their numbers of the payloads.
    """

    sender: NodeId
    to: NodeId
    term: Term
    why: int
    requests: Sequence[int]


@dataclass(slots=True)
class ReadRequest:
    """A follower asks for the read index for all its reads up to `sequence` (section 6.4)."""

    sender: NodeId
    to: NodeId
    term: Term
    sequence: int


@dataclass(slots=True)
class ReadAnswer:
    """Reads up to `sequence` may be served at `index`; with index 0 they were refused and may be tried
    again."""

    sender: NodeId
    to: NodeId
    term: Term
    sequence: int
    index: Index


Message: TypeAlias = (
    PreVoteRequest
    | PreVoteAnswer
    | VoteRequest
    | VoteAnswer
    | Append
    | AppendAccepted
    | AppendRejected
    | Heartbeat
    | HeartbeatAnswer
    | InstallSnapshot
    | TimeoutNow
    | Forward
    | ForwardRefused
    | ReadRequest
    | ReadAnswer
)
