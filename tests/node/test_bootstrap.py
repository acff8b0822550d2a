"""All initial members work out the same; a sole survivor keeps everything it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.disk.wal import Replay
from netstore.node import bootstrap
from netstore.raft.change import Change, Step, StepKind
from netstore.raft.config import Boot, Config
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from netstore.state.commands import AddMember, encode
from netstore.state.envelope import seal
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.types import Index, NodeId, Term
from tests.support.local_member import memory_engine
from tests.support.tree import file_at

MEMBERS = {NodeId(3): ("http://c:1",), NodeId(1): ("http://a:1",), NodeId(2): ("http://b:1", "http://b:2")}


def test_ids_are_those_of_etcd() -> None:
    # What etcd 3.4 logs for --initial-cluster a=http://127.0.0.1:21001 and its default token.
    member = bootstrap.member_id(["http://127.0.0.1:21001"], "etcd-cluster")
    assert f"{member:x}" == "a759d8e1c4eeb940"
    assert f"{bootstrap.cluster_id([member]):x}" == "65ab6007cf6ff544"
    assert bootstrap.member_id(("http://127.0.0.1:21001",), "another") != member
    assert bootstrap.cluster_id([member]) != bootstrap.cluster_id([member, NodeId(1)])


@given(st.permutations(sorted(MEMBERS)))
def test_the_beginning_does_not_depend_on_who_writes_it(order: list[NodeId]) -> None:
    members = {id_: MEMBERS[id_] for id_ in order}
    assert bootstrap.first_batch(members) == bootstrap.first_batch(MEMBERS)
    assert bootstrap.first_mark(members) == bootstrap.first_mark(MEMBERS)
    assert bootstrap.cluster_id(members) == bootstrap.cluster_id(MEMBERS)


def test_a_new_cluster_begins_with_its_members_and_nobody_leads() -> None:
    hard_state, entries = bootstrap.first_batch(MEMBERS)
    mark = bootstrap.first_mark(MEMBERS)
    raft = Raft(Config(id=NodeId(1)), Boot(hard_state, mark, entries, Index(0)), lambda _: 0)
    assert (raft.leader, raft.term, raft.commit, raft.last_index) == (0, 1, 3, 3)
    assert raft.status().conf.voters == (1, 2, 3)
    machine = Machine(memory_engine())
    for entry in entries:
        machine.enter(entry.index, entry.data)
    assert {id_: member.peer_urls for id_, member in machine.members.items()} == MEMBERS
    assert machine.tree.index == 3


@pytest.mark.parametrize(
    ("replay", "empty"),
    [
        (Replay(), True),
        (Replay(mark=SnapshotMeta()), True),
        (Replay(hard_state=HardState(Term(1))), False),
        (Replay(mark=SnapshotMeta(Index(1), Term(1))), False),
        (Replay(entries=[Entry(Index(1), Term(1), EntryKind.NORMAL, b"")]), False),
    ],
)
def test_a_log_is_empty_only_if_nothing_was_ever_said(replay: Replay, empty: bool) -> None:
    assert bootstrap.is_empty(replay) is empty


def log() -> list[Entry]:
    """Two writes and a change of the members, the last of them not known to be committed."""
    write = seal(encode(Set(b"/k", b"1")))
    add = seal(encode(AddMember(9, ("http://n:1",))))
    change = Change((Step(StepKind.ADD_LEARNER, NodeId(9)),), context=add).encode()
    last = seal(encode(Set(b"/k", b"2")))
    return [
        Entry(Index(5), Term(2), EntryKind.NORMAL, write),
        Entry(Index(6), Term(2), EntryKind.CHANGE, change),
        Entry(Index(7), Term(3), EntryKind.NORMAL, last),
    ]


@pytest.mark.parametrize("applied", [4, 5, 7])
def test_a_sole_survivor_applies_everything_it_has(applied: int) -> None:
    machine = Machine(memory_engine())
    machine.applied = Index(4)
    bootstrap.catch_up(machine, [entry for entry in log() if entry.index <= applied])
    bootstrap.catch_up(machine, log())
    node = file_at(machine.tree, b"/k")
    assert node is not None
    assert node.value == b"2"
    assert NodeId(9) in machine.members
    assert machine.applied == 7
    assert machine.v2.take_events() == []


def test_a_sole_survivor_votes_alone_from_its_last_entry_on() -> None:
    mark = SnapshotMeta(Index(4), Term(1), ConfState(voters=(NodeId(1), NodeId(2), NodeId(3))))
    alone = ConfState(voters=(NodeId(2),))
    assert bootstrap.sole_voter_mark(NodeId(2), Replay(mark=mark, entries=log())) == SnapshotMeta(
        Index(7), Term(3), alone
    )
    assert bootstrap.sole_voter_mark(NodeId(2), Replay(mark=mark)) == SnapshotMeta(Index(4), Term(1), alone)
    with pytest.raises(ValueError, match="without entries"):
        bootstrap.sole_voter_mark(NodeId(2), Replay(mark=SnapshotMeta()))
