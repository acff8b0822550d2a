"""Which changes of role and term are refused."""

from __future__ import annotations

import pytest

from netstore.raft import roles
from netstore.raft.entry import HardState
from netstore.raft.invariant import InvariantBroken
from netstore.raft.state import NOBODY
from netstore.types import Term
from tests.support.raft_cluster import member, voters


def test_terms_and_roles_move_in_one_direction() -> None:
    raft = member(1, voters(1, 2, 3), hard_state=HardState(Term(1)))
    with pytest.raises(InvariantBroken, match="term would fall"):
        roles.become_follower(raft, Term(0), NOBODY)
    with pytest.raises(InvariantBroken, match="a follower became leader"):
        roles.become_leader(raft)
