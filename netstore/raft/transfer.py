"""Leadership transfer (Ongaro's dissertation, section 3.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import TimeoutNow
from netstore.raft.state import NOBODY
from netstore.raft.status import Refusal, Role

if TYPE_CHECKING:
    from netstore.raft.state import RaftState
    from netstore.types import NodeId


def start(raft: RaftState, to: NodeId) -> Refusal | None:
    """Start a transfer: refuse proposals, bring `to` up to date, then let it campaign at once.

    It is given up after an election timeout. None if it was started, or if `to` already leads.
    """
    if raft.role is not Role.LEADER:
        return Refusal.NOT_LEADER
    if not raft.conf.votes(to):
        return Refusal.NOT_A_VOTER
    if to == raft.id:
        raft.transfer_to = NOBODY
        return None
    raft.transfer_to = to
    raft.transfer_deadline = raft.ticks + raft.config.election_ticks
    raft.send_due = True
    hand_over(raft)
    return None


def hand_over(raft: RaftState) -> None:
    """Send TimeoutNow once the target has the whole log."""
    to = raft.transfer_to
    if to and raft.progress[to].match == raft.log.last:
        raft.send(TimeoutNow(raft.id, to, raft.term))
