"""Never more members vote, or are to, than the wish of those that joined allows; and only a silent member is
replaced. Judged on the committed log by what each entry changed, in the runs in which programs join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import CorruptData
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Append
from netstore.state.commands import AddMember, JoinMember, PromoteMember, PublishMember, decode
from netstore.state.envelope import command_of
from netstore.state.machine import Machine
from netstore.state.members import to_vote
from netstore.state.tables import TABLES
from netstore.types import NodeId
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.raft.entry import Entry
    from netstore.raft.messages import Message
    from netstore.types import Index
    from tests.sim.member import Member
    from tests.sim.world import World


SENT_SECONDS: Final = 0.5
"""Between a change and its first message a member that was silent may be heard again."""


class Joining(Invariant):
    """Applies the ledger to a machine of its own, entry by entry."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._machine = Machine(MemoryEngine(_nowhere, TABLES))
        self._done = 0
        self._heard: dict[tuple[NodeId, NodeId], float] = {}
        """When a member heard another last."""
        self._back: dict[tuple[NodeId, NodeId], float] = {}
        """When it heard another after that had been silent for an election timeout."""
        self._seen: set[tuple[Index, int]] = set()

    def heard(self, member: Member, message: Message) -> None:
        if self.world.plan.joiners:
            pair, now = (member.id, message.sender), self.world.timeline.now
            if now - self._heard.get(pair, now) >= self._timeout(member):
                self._back[pair] = now
            self._heard[pair] = now

    def sent(self, member: Member, message: Message) -> None:
        if not self.world.plan.joiners or not isinstance(message, Append):
            return
        for entry in message.entries:
            place = (entry.index, entry.term)
            if entry.kind is EntryKind.CHANGE and entry.term == member.raft.term and place not in self._seen:
                self._seen.add(place)
                self._look_at(member, entry)

    def _look_at(self, leader: Member, entry: Entry) -> None:
        """A leader makes a change: the first time it sends it."""
        command = _command(entry)
        if not isinstance(command, JoinMember) or not command.replaces:
            return
        pair, now = (leader.id, NodeId(command.replaces)), self.world.timeline.now
        silent = now - self._heard.get(pair, -1e9)
        self.world.reach["replacements_of_the_silent"] += 1
        require(
            silent >= self._timeout(leader) or now - self._back.get(pair, -1e9) < SENT_SECONDS,
            "a member was replaced though it answers",
            replaced=command.replaces,
            heard=silent,
        )

    def _timeout(self, member: Member) -> float:
        """An election timeout by this member's clock, less the tick that may have begun before."""
        plan = self.world.plan
        return (plan.election_ticks - 1) * plan.tick / member.clock.rate

    def turned(self, member: Member) -> None:
        if not self.world.plan.joiners:
            return
        entries = self.world.ledger.entries
        while self._done < len(entries):
            self._apply(entries[self._done])
            self._done += 1

    def _apply(self, entry: Entry) -> None:
        machine = self._machine
        before = dict(machine.members)
        data = Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data
        command = _command(entry)
        machine.enter(entry.index, data)
        if isinstance(command, JoinMember):
            before.pop(NodeId(command.replaces), None)
            allowed = max(command.voters, to_vote(before.values()))
            joined = machine.members.get(NodeId(command.id))
            if joined is not None:
                self.world.reach["joined_to_vote" if joined.promote else "joined_to_learn"] += 1
        elif isinstance(command, AddMember | PromoteMember | PublishMember):
            allowed = to_vote(before.values()) + 1
        else:
            allowed = to_vote(before.values())
        now = to_vote(machine.members.values())
        require(now <= allowed, "more are to vote than was wished", index=entry.index, now=now, of=allowed)

    def finished(self) -> None:
        plan = self.world.plan
        leader = self.world.leader()
        if not plan.joiners or leader is None:
            return
        members = leader.machine.members
        voters = {id_ for id_, each in members.items() if not each.learner}
        conf = leader.raft.conf
        require(
            set(conf.voters) == voters and set(conf.members()) == set(members),
            "the list of members and the configuration differ",
            conf=conf,
            listed=members,
        )
        if not plan.join_operations:
            wished = max(plan.size, min(plan.wish, len(members)))
            require(len(voters) == wished, "not as many vote as was wished", voters=voters, wish=plan.wish)
            self.world.reach["joins_settled"] += 1


def _command(entry: Entry) -> object:
    data = Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data
    try:
        return decode(command_of(data)) if data else None
    except CorruptData:
        return None


def _nowhere(call: Callable[[], object]) -> None:
    call()
