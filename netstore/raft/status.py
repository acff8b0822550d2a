"""What a member reports: its role, the fate of a proposal, and its status."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from netstore.raft.entry import ConfState


class Role(Enum):
    """What a member is in its term (Ongaro's dissertation, section 3.3; pre-candidate: section 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Refusal(Enum):
    """Why something was refused; the value is the text. It did not happen, and will not."""

    NO_LEADER = "no leader is known"
    NOT_LEADER = "this member is not the leader"
    TOO_LARGE = "a payload is larger than an entry may be"
    BACKLOG_FULL = "too many bytes wait to be committed"
    TRANSFERRING = "leadership is being transferred"
    CHANGE_PENDING = "another membership change is not finished"
    NOTHING_TO_CHANGE = "the change would change nothing"
    NOTHING_TO_LEAVE = "the configuration is not joint"
    NO_VOTER_LEFT = "the change would leave no voter"
    CONTRADICTION = "the change names a member twice, or as 0"
    QUORUM_AT_RISK = "too few of the voters-to-be answer; add new members as learners first"
    LEARNER_BEHIND = "the learner to be promoted has not caught up"
    NOT_A_VOTER = "the member to lead does not vote"


class Fate(Enum):
    """What happened to a proposal when it was made."""

    APPENDED = "appended"
    FORWARDED = "forwarded"
    REFUSED = "refused"


class Proposed(msgspec.Struct, frozen=True, gc=False):
    """The answer to a proposal.

    APPENDED: this leader appended it to its log, from `index` on, in `term`; it is committed if an entry with
    this index and term is applied, and lost if one of another term is applied there. FORWARDED: sent to the
    leader; it is applied later, or never. REFUSED: it did not happen, `refusal` says why.
    """

    fate: Fate
    index: Index = Index(0)
    term: Term = Term(0)
    refusal: Refusal | None = None


class PeerStatus(msgspec.Struct, frozen=True, gc=False):
    """What the leader knows of one other member."""

    id: NodeId
    match: Index
    active: bool
    caught_up: bool
    """For a learner: whether it may be promoted now (section 4.2.1)."""


class Status(msgspec.Struct, frozen=True, gc=False):
    """The status of a member. `peers` is empty unless it leads."""

    id: NodeId
    term: Term
    role: Role
    leader: NodeId
    compacted: Index
    applied: Index
    commit: Index
    last: Index
    conf: ConfState
    peers: tuple[PeerStatus, ...] = ()
