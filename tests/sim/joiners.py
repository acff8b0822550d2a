"""Programs that join the cluster, several at a time, each through whomever it finds: some ask twice at once,
some forget the answer, some ask in the place of a member whose machine is gone, or of one that works. Members
are the real `node.membership` and `peer.join`; nobody else changes the members of such a run, save an
operator who now and then promotes, moves or removes one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.peer.wire import JoinRequest
from netstore.state.commands import PublishMember
from netstore.types import NodeId

if TYPE_CHECKING:
    from random import Random

    from netstore.peer.wire import MemberList
    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from netstore.state.members import MemberInfo
    from tests.sim.member import Member
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

ASK_SECONDS: Final = 0.5
"""Between two applications of a program that was not let in."""

LOOK_SECONDS: Final = 0.2
MOST_ASKED: Final = 6
"""Applications of a program whose place is taken."""

NOBODY: Final = NodeId(0)


def peer_url(name: str) -> str:
    """Where a machine is reached."""
    return f"http://{name}:2380"


class Joiners:
    """All of them. Without `Plan.joiners` nothing happens."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.replaced = 0
        self._founders = tuple(world.members)
        self._programs = [_Program(self, f"j{number}") for number in range(world.plan.joiners)]

    def start(self) -> None:
        """From now on: founders tell their names, as they do when they start, and programs ask."""
        plan = self.world.plan
        if not plan.joiners:
            return
        for founder in self._founders:
            self.publish(self.world.members[founder], f"m{founder:x}")
        began = self.random.random() * plan.duration * 0.5
        for program in self._programs:
            self.world.timeline.after(began + self.random.random() * plan.join_spread, program.ask)
        for _ in range(plan.join_operations):
            self.world.timeline.after(self.random.random() * plan.duration, self._operate)

    def settled(self, leader: Member) -> bool:
        """Whether everybody who could be let in has been, has told its name, and votes if it is to."""
        if not self.world.plan.joiners:
            return True
        members = leader.machine.members
        known = {*members, *leader.machine.removed}
        there = all(
            program.over or (program.you in known and program.you in self.world.members)
            for program in self._programs
        )
        named = all(each.name for each in members.values())
        return there and named and not any(each.promote for each in members.values())

    def ready(self, member: Member) -> bool:
        """Whether a member knows who was there first. A real cluster's log begins with that."""
        machine = member.machine
        return all(each in machine.members or each in machine.removed for each in self._founders)

    def publish(self, member: Member, name: str) -> None:
        """A member tells its name, until it is in the list with it or is gone."""
        machine = self.world.members[member.id]
        if machine.retired or (machine.up and member.id in machine.machine.removed):
            return
        if machine.up and not machine.paused:
            known = machine.machine.members.get(member.id)
            if known is not None and known.name:
                return
            if known is not None or machine.founders:
                command = PublishMember(member.id, name, (), (peer_url(name),))
                machine.propose(partial(_given, command), _ignored)
        self.world.timeline.after(LOOK_SECONDS, partial(self.publish, member, name))

    def _operate(self) -> None:
        """An operator does something about the members, or a machine is lost for good."""
        world, random = self.world, self.random
        running = [each for each in world.running() if self.ready(each)]
        if not running or world.faults.over:
            return
        through = random.choice(running)
        known = sorted(through.machine.members)
        concerned = random.choice(known)
        cluster = through.cluster
        what = random.choice(("promote", "update", "lose", "steal"))
        if what == "promote":
            through.ask_cluster(partial(cluster.promote, concerned, principal=b"operator"), self._operated)
        elif what == "update":
            if not through.machine.members[concerned].name:
                return  # its program would not be known any more when it asks again
            urls = (peer_url(random.choice(("moved", *(program.name for program in self._programs)))),)
            through.ask_cluster(
                partial(cluster.update, concerned, urls, principal=b"operator"), self._operated
            )
        elif what == "steal":
            place = through.machine.members[concerned].peer_urls
            thief = _Program(self, "thief", place, concerned)
            thief.steals = True
            self._programs.append(thief)
            thief.ask()
        else:
            self._lose(through, concerned)

    def _lose(self, through: Member, id_: NodeId) -> None:
        """A machine's disk is gone: a program asks to be let in in its place."""
        world, voters = self.world, through.raft.conf.voters
        lost = world.members.get(id_)
        there = [each for each in voters if not self._gone(each)]
        if lost is None or lost.retired or len(there) < 4 - (id_ not in voters) or self.replaced:
            return
        self.replaced += 1
        known = through.machine.members[id_]
        lost.retired = True
        lost.crash()
        world.reach["machines_lost"] += 1
        world.note(f"{id_:x} is lost for good")
        program = _Program(self, known.name or "again", known.peer_urls, id_)
        self._programs = [each for each in self._programs if each.you != id_] + [program]
        program.ask()

    def _gone(self, id_: NodeId) -> bool:
        member = self.world.members.get(id_)
        return member is None or member.retired

    def _operated(self, outcome: MemberInfo | Fault) -> None:
        self.world.reach["member_requests_refused"] += isinstance(outcome, Fault)
        self.world.reach["member_requests_done"] += not isinstance(outcome, Fault)


class _Program:
    """One that wants to be a member."""

    def __init__(
        self, joiners: Joiners, name: str, urls: tuple[str, ...] = (), replaces: NodeId = NOBODY
    ) -> None:
        self.name = name
        self.you = NOBODY
        self.steals = False
        """It asks for the place of a member that works, as far as it knows."""
        self.over = False
        """It will not be let in any more."""
        self._joiners = joiners
        self._request = JoinRequest(name, urls or (peer_url(name),), replaces)
        self._asked = 0

    def ask(self) -> None:
        """Ask somebody, until an answer comes that is none of the past."""
        joiners = self._joiners
        world, random = joiners.world, joiners.random
        if self.you or self.over:
            return
        self._asked += 1
        members = [each for each in world.running() if joiners.ready(each)]
        for _ in range(1 + (random.random() < 0.1)):
            if members:
                random.choice(members).handle_join(self._request, self._told)
        world.timeline.after(ASK_SECONDS * (0.5 + random.random()), self.ask)

    def _told(self, answer: MemberList | Fault) -> None:
        joiners = self._joiners
        world = joiners.world
        if self.you or isinstance(answer, Fault) or not answer.you:
            world.reach["applications_refused"] += not self.you and not isinstance(answer, Fault)
            if isinstance(answer, Fault) or "timed out" in answer.refusal:
                return  # it may have been let in
            if self.steals:
                self.over = True  # the place of a silent member it would have got
                world.reach["replacements_refused"] += 1
            elif "reached at" in answer.refusal or "was removed" in answer.refusal:
                self.over = self._asked > MOST_ASKED  # an operator gave its place away
            return
        if world.faults.over or joiners.random.random() < 0.8:
            self.you = answer.you
            self._start()
        else:
            world.reach["applications_forgotten"] += 1  # it ends before it has written down who it is

    def _start(self) -> None:
        world = self._joiners.world
        if self.you in world.members:
            return
        world.reach["members_joined"] += 1
        world.note(f"{self.name} is {self.you:x}")
        member = world.add(self.you, ())
        member.boot()
        self._joiners.publish(member, self.name)


def _given(command: Command, _: MachineClock) -> Command:
    return command


def _ignored(_: Outcome | Fault) -> None:
    """It is looked for in the list."""
