"""Which changes are refused when they are proposed, and when a joint configuration is left."""

from __future__ import annotations

from netstore.raft.change import MAX_CONTEXT_BYTES, Change, Step, StepKind
from netstore.raft.status import Fate, Refusal, Role
from netstore.types import NodeId
from tests.support.raft_cluster import group, voters

ONE, TWO, THREE = map(NodeId, (1, 2, 3))


def test_refusals_of_a_proposal() -> None:
    cluster = group(3)
    leader, follower = (cluster.hosts[node].raft for node in (ONE, TWO))
    remove = Change((Step(StepKind.REMOVE, THREE),))
    long = Change(remove.steps, context=b"x" * (MAX_CONTEXT_BYTES + 1))
    assert leader.propose_change(long).refusal is Refusal.TOO_LARGE
    leader.transfer(THREE)
    assert leader.propose_change(remove).refusal is Refusal.TRANSFERRING
    cluster.settle()
    assert follower.propose_change(remove).fate is Fate.FORWARDED
    cluster.settle()
    assert cluster.leader().raft.status().conf == voters(1, 2)
    lonely = group(3, leader=0).hosts[ONE].raft
    assert lonely.propose_change(remove).refusal is Refusal.NO_LEADER


def test_a_joint_configuration_is_not_left_before_it_is_committed() -> None:
    """The entry before it is committed alone: the leader waits."""
    cluster = group(3, max_append_bytes=1)
    leader = cluster.hosts[ONE].raft
    leader.propose([b"a"])
    leader.propose_change(Change((Step(StepKind.REMOVE, THREE),)))
    cluster.hosts[TWO].raft.step(next(m for m in cluster.collect() if m.to == TWO))
    cluster.wire = []
    cluster.collect()
    for message in cluster.wire:
        leader.step(message)
    assert (leader.commit, leader.last_index) == (2, 3)
    assert leader.status().conf.joint


def test_a_transfer_to_a_member_that_is_removed_ends() -> None:
    cluster = group(3)
    leader = cluster.hosts[ONE].raft
    leader.propose_change(Change((Step(StepKind.REMOVE, THREE),)))
    leader.transfer(THREE)
    cluster.settle(lambda message: THREE not in (message.sender, message.to))
    assert leader.transfer_to == 0
    assert leader.role is Role.LEADER
