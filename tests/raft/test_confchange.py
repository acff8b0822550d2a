"""The configuration a change leads to, against a model that treats each member by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.raft.change import Change, Step, StepKind
from netstore.raft.confchange import after
from netstore.raft.entry import ConfState
from netstore.raft.status import Refusal
from netstore.types import NodeId
from tests.support.raft_cluster import voters
from tests.support.raft_forms import confs

TWO = NodeId(2)


def part(conf: ConfState, node: NodeId) -> str:
    """What one member is, once a joint configuration is left."""
    if node in conf.voters:
        return "voter"
    return "learner" if node in conf.learners or node in conf.learners_next else "stranger"


@st.composite
def small_changes(draw: st.DrawFn) -> Change:
    nodes = draw(st.lists(st.integers(1, 30).map(NodeId), max_size=5, unique=True))
    return Change(tuple(Step(draw(st.sampled_from(StepKind)), node) for node in nodes))


BECOMES = {StepKind.ADD_VOTER: "voter", StepKind.ADD_LEARNER: "learner", StepKind.REMOVE: "stranger"}


@given(confs(), small_changes())
def test_every_member_becomes_what_its_step_says(conf: ConfState, change: Change) -> None:
    result = after(conf, change)
    if not change.steps:
        assert result == Refusal.NOTHING_TO_LEAVE if not conf.joint else isinstance(result, ConfState)
        return
    if conf.joint:
        assert result is Refusal.CHANGE_PENDING
        return
    wanted = {node: part(conf, node) for node in map(NodeId, range(1, 31))}
    wanted |= {step.node: BECOMES[step.kind] for step in change.steps}
    if "voter" not in wanted.values():
        assert result is Refusal.NO_VOTER_LEFT
    elif all(part(conf, node) == kind for node, kind in wanted.items()):
        assert result is Refusal.NOTHING_TO_CHANGE
    else:
        assert isinstance(result, ConfState)
        assert {node: part(result, node) for node in wanted} == wanted
        assert not result.flaw()
        changed = result.voters != conf.voters
        assert result.joint == changed
        assert result.voters_outgoing == (conf.voters if changed else ())


@given(confs(), small_changes())
def test_leaving_a_joint_configuration_keeps_the_role_of_every_member(
    conf: ConfState, change: Change
) -> None:
    entered = after(conf, change)
    joint = entered if isinstance(entered, ConfState) else conf
    left = after(joint, Change())
    if isinstance(left, ConfState):
        assert not left.joint
        assert not left.flaw()
        assert all(part(left, node) == part(joint, node) for node in map(NodeId, range(1, 31)))


def test_a_member_named_twice_is_a_contradiction() -> None:
    twice = Change((Step(StepKind.ADD_VOTER, TWO), Step(StepKind.REMOVE, TWO)))
    assert after(voters(1), twice) is Refusal.CONTRADICTION
    assert after(voters(1), Change((Step(StepKind.ADD_VOTER, NodeId(0)),))) is Refusal.CONTRADICTION
