"""The list of members as commands change it, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import Fault, Reason
from netstore.state import commands
from netstore.state.commands import Command, encode
from netstore.state.machine import Machine
from netstore.state.members import MemberInfo
from netstore.types import Index, NodeId
from tests.state.strategies import member_commands
from tests.support.local_member import memory_engine

A, B = ("http://a:1",), ("http://b:2",)


def fresh() -> Machine:
    machine = Machine(memory_engine())
    machine.load()
    return machine


def apply(machine: Machine, command: Command) -> str | None:
    """Why the command was refused, or None."""
    outcome = machine.apply(Index(machine.applied + 1), encode(command))
    assert outcome is None or isinstance(outcome, Fault)
    return None if outcome is None else outcome.cause.decode()


@dataclass(frozen=True)
class Known:
    """What the twin knows of a member."""

    name: str
    urls: tuple[str, ...]
    learner: bool
    promote: bool


class Twin:
    """The same in the most obvious way: a list that is gone through for each question."""

    def __init__(self) -> None:
        self.members: dict[int, Known] = {}
        self.removed: list[int] = []

    def objection(self, command: Command) -> str | None:
        match command:
            case commands.RefuseChange(why):
                return why
            case commands.AddMember(id_) | commands.PublishMember(id_) | commands.JoinMember(id_) if (
                id_ in self.removed
            ):
                return Reason.ID_REMOVED.text
            case commands.AddMember(id_) | commands.JoinMember(id_) if id_ in self.members:
                return Reason.ID_EXISTS.text
            case commands.AddMember(id_, urls) if self.has(urls):
                return Reason.PEER_URL_EXISTS.text
            case commands.JoinMember(_, urls, _, replaced) if self.has(urls, but=replaced):
                return Reason.PEER_URL_EXISTS.text
            case commands.PublishMember(id_, _, _, urls) if id_ not in self.members and self.has(urls):
                return Reason.PEER_URL_EXISTS.text
            case commands.UpdateMember(id_) | commands.PromoteMember(id_) | commands.RemoveMember(id_) if (
                id_ not in self.members
            ):
                return Reason.ID_REMOVED.text if id_ in self.removed else Reason.ID_NOT_FOUND.text
            case commands.UpdateMember(id_, urls) if self.has(urls, but=id_):
                return Reason.PEER_URL_EXISTS.text
        return None

    def has(self, urls: tuple[str, ...], but: int = 0) -> bool:
        return any(url in known.urls for id_, known in self.members.items() if id_ != but for url in urls)

    def leave(self, command: Command) -> bool:
        """Whoever is replaced leaves, also where nobody can take the place; whether somebody was."""
        match command:
            case commands.JoinMember(id_, _, _, replaced) if replaced in self.members and id_ not in (
                *self.members,
                *self.removed,
            ):
                del self.members[replaced]
                self.removed.append(replaced)
                return True
        return False

    def take(self, command: Command) -> None:
        match command:
            case commands.JoinMember(id_, urls, voters):
                meant = [known for known in self.members.values() if known.promote or not known.learner]
                self.members[id_] = Known("", urls, learner=True, promote=len(meant) < voters)
            case commands.AddMember(id_, urls, learner, promote):
                self.members[id_] = Known("", urls, learner, promote)
            case commands.PublishMember(id_, name, _, urls):
                known = self.members.get(id_) or Known("", urls, learner=False, promote=False)
                self.members[id_] = replace(known, name=name)
            case commands.UpdateMember(id_, urls):
                self.members[id_] = replace(self.members[id_], urls=urls)
            case commands.PromoteMember(id_):
                self.members[id_] = replace(self.members[id_], learner=False, promote=False)
            case commands.RemoveMember(id_):
                del self.members[id_]
                self.removed.append(id_)


@given(st.lists(member_commands(), max_size=25))
def test_members_change_as_the_slow_twin_says(entries: list[Command]) -> None:
    machine, twin = fresh(), Twin()
    for command in entries:
        index, why = int(machine.tree.index), twin.objection(command)
        index += 2 * twin.leave(command)
        assert apply(machine, command) == why
        if why is None:
            twin.take(command)
            assert machine.tree.index > index
        else:
            assert machine.tree.index == index, "what is refused takes no index"
        shown = {
            id_: Known(known.name, known.peer_urls, known.learner, known.promote)
            for id_, known in machine.members.items()
        }
        assert shown == twin.members
        assert machine.removed == set(twin.removed)
        urls = [url for known in machine.members.values() for url in known.peer_urls]
        assert len(urls) == len(set(urls)), "an URL belongs to one member"
        assert machine.v2.take_events() == []


def test_a_member_that_starts_again_stays_where_its_cluster_knows_it() -> None:
    """Its own settings may be older than the last change of its address."""
    machine = fresh()
    assert apply(machine, commands.PublishMember(1, "one", ("http://c:1",), A)) is None
    assert apply(machine, commands.UpdateMember(1, B)) is None
    assert apply(machine, commands.PublishMember(1, "other", ("http://d:1",), A)) is None
    assert machine.members == {1: MemberInfo(NodeId(1), "other", ("http://d:1",), B, level=machine.LEVEL)}


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (commands.AddMember(2, B), 1),
        (commands.UpdateMember(1, B), 1),
        (commands.PublishMember(1, "one", (), A), 1),
        (commands.PublishMember(2, "two", (), B), 2),
        (commands.RemoveMember(1), 2),
        (commands.AddMember(1, B), 0),
        (commands.RefuseChange("no"), 0),
        (commands.JoinMember(2, B, 3), 1),
        (commands.JoinMember(2, A, 3, replaces=1), 3),
        (commands.JoinMember(2, A, 3), 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_changes_take_indexes_of_the_keys_history(change: Command, taken: int) -> None:
    """As etcd's own records of members do (v2 API, indexes)."""
    machine = fresh()
    apply(machine, commands.AddMember(1, A))
    before = machine.tree.index
    apply(machine, change)
    assert machine.tree.index == before + taken
