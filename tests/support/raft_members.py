"""One Raft member of three, leading or following, for tests that step messages into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import (
    Heartbeat,
    VoteAnswer,
)
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import member, said, stand, voters

if TYPE_CHECKING:
    from netstore.raft.core import Raft


ONE, TWO, THREE = map(NodeId, (1, 2, 3))
TRIO = voters(1, 2, 3)
HERE = (TWO, ONE)


def leading(**options: int) -> Raft:
    """Member 1 of three, leading term 1, nothing acknowledged by the others, its first entry on its disk."""
    raft = member(1, TRIO, (), hard_state=None, draw=lambda _bound: 0, **options)
    stand(raft)
    raft.step(VoteAnswer(TWO, ONE, Term(1), granted=True))
    said(raft)
    return raft


def following() -> Raft:
    """Member 1 of three, following member 2 in term 1 with one entry."""
    raft = member(1, TRIO, [1])
    raft.step(Heartbeat(*HERE, Term(1), Index(0), 0))
    said(raft)
    return raft
