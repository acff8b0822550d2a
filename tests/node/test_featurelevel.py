"""Two releases side by side: the feature level rises when every member knows it, and never falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from netstore.errors import CannotApply, Fault, NoRestart
from netstore.node.member import OWN
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward
from netstore.state.commands import PublishMember, RaiseLevel, encode
from netstore.state.digest import digest
from netstore.state.envelope import command_of, seal
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import Put
from netstore.types import NodeId
from tests.support.group import Group
from tests.support.later import Later, appending
from tests.support.tree import file_at

if TYPE_CHECKING:
    from netstore.state.machine import Outcome

APPEND: Final = appending(b"k")
NOW: Final = Machine.LEVEL
NEXT: Final = Later.LEVEL


def ask(group: Group, id_: int, command: bytes) -> Outcome:
    outcomes: list[Outcome] = []
    group[id_].host.propose(command, outcomes.append, OWN)
    group.settle()
    group.pass_time(0.2)
    [outcome] = outcomes
    return outcome


def write(group: Group) -> None:
    """Something for everybody, through each member."""
    for id_ in (1, 2, 3):
        assert not isinstance(ask(group, id_, encode(Put(b"load%d" % id_, b"v"))), Fault)
        assert not isinstance(ask(group, id_, encode(Set(b"/load", b"%d" % id_))), Fault)


def digests(group: Group) -> set[bytes]:
    return {digest(peer.machine) for peer in group.peers.values()}


def test_members_are_upgraded_one_by_one_under_load_and_back_again_until_the_last() -> None:
    group = Group(3)
    write(group)
    for id_, release in ((2, Later), (3, Later), (2, Machine), (2, Later)):
        group.restart(id_, release)
        write(group)
        assert {peer.machine.roster.level for peer in group.peers.values()} == {NOW}
        refused = ask(group, id_ if release is Later else 3, APPEND)
        assert isinstance(refused, Fault)
        assert b"feature level %d is not in force: the cluster is at %d" % (NEXT, NOW) in refused.cause
        assert refused.outcome_known
    assert len(digests(group)) == 1
    group.restart(1, Later)
    group.pass_time(1)
    assert {peer.machine.roster.level for peer in group.peers.values()} == {NEXT}
    for id_ in (1, 2, 3):
        assert not isinstance(ask(group, id_, APPEND), Fault)
    write(group)
    assert {b"".join(peer.machine.mvcc.values(b"k", b"")) for peer in group.peers.values()} == {b"+++"}
    assert len(digests(group)) == 1


def raised() -> Group:
    group = Group(3)
    for id_ in (2, 3, 1):
        group.restart(id_, Later)
    group.pass_time(1)
    assert group.leader.machine.roster.level == NEXT
    return group


def test_a_member_that_went_back_stops_at_the_first_entry_it_does_not_know() -> None:
    group = raised()
    assert not isinstance(ask(group, 1, APPEND), Fault)
    with pytest.raises(CannotApply, match=rf"feature level {NEXT}, and {NOW} is known; .*upgrade it"):
        group.restart(3, Machine)


def test_a_state_of_a_later_level_is_not_loaded() -> None:
    group = raised()
    group[3].engine.commit()
    with pytest.raises(NoRestart, match=rf"at feature level {NEXT}, this member knows {NOW}.*upgrade it"):
        Machine(group[3].engine).load()


def test_a_state_copy_of_a_later_level_ends_the_member_with_the_same_words() -> None:
    group = raised()
    group.leader.cluster.add(("http://p4:1",), learner=True, done=lambda _: None, principal=OWN)
    group.settle()
    [new] = set(group.leader.machine.members) - set(group.peers)
    with pytest.raises(NoRestart, match=f"this member knows {NOW}"):
        group.start(new)


def test_a_member_of_a_lower_level_than_the_cluster_is_not_published() -> None:
    group = raised()
    outcome = ask(group, 1, encode(PublishMember(9, "old", (), ("http://p9:1",), 1)))
    assert isinstance(outcome, Fault)
    assert b"the cluster is at feature level %d, this member knows 1" % NEXT in outcome.cause
    assert NodeId(9) not in group[1].machine.members


def test_the_level_is_judged_when_it_is_applied() -> None:
    group = Group(3)
    outcome = ask(group, 2, encode(RaiseLevel(NEXT)))
    assert isinstance(outcome, Fault)
    assert outcome.cause == b"not every member knows feature level %d" % NEXT
    assert not isinstance(ask(group, 2, encode(RaiseLevel(1))), Fault)
    assert group[3].machine.roster.level == NOW


def test_commands_beyond_the_cluster_level_are_not_taken_from_another_member() -> None:
    group = Group(3)
    leader = group.leader.host
    bad = (b"", b"\x01", seal(b"\x92\x5a\xc4\x00"), seal(b"\x00"), b"\x07" * 40)
    good = seal(encode(Set(b"/good", b"1")))
    payloads = (bad[1], good, *bad[2:])
    before = leader.status().last
    leader.receive((Forward(NodeId(2), leader.id, leader.term, EntryKind.NORMAL, payloads),))
    leader.receive((Forward(NodeId(2), leader.id, leader.term, EntryKind.NORMAL, bad[1:]),))
    group.settle()
    assert leader.status().last == before + 1
    assert {file_at(peer.machine.tree, b"/good") is not None for peer in group.peers.values()} == {True}
    assert group.leader.lines.events.count("proposal_not_read") == 4 + 4


def test_an_entry_tells_who_asked_and_when() -> None:
    group = Group(1)
    group[1].host.propose(encode(Set(b"/a")), lambda _: None, b"node1")
    payload = group[1].host.proposals.take(9)[0].payload
    assert payload[20:25] == b"node1"
    assert command_of(payload) == encode(Set(b"/a"))
    assert int.from_bytes(payload[12:20], "little") == group.clock.wall()


def test_the_level_is_in_force_once_it_has_settled() -> None:
    group = Group(1)
    group.restart(1, Later)
    machine = group[1].machine
    assert machine.roster.level == NOW
    levels: list[int] = []
    group[1].levels.settle(lambda: levels.append(machine.roster.level))
    assert levels == []
    group.settle()
    group[1].levels.settle(lambda: levels.append(machine.roster.level))
    assert levels == [NEXT, NEXT]
