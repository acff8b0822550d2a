"""The operator: changes who is a member, and replaces members whose disks were damaged. Acts through
requests like anyone else; what it knows of the cluster it asks the leader.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.raft.change import Step, StepKind
from netstore.state.commands import PublishMember, encode
from netstore.types import Event, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from netstore.raft.entry import ConfState
    from netstore.state.machine import Outcome
    from tests.sim.member import Member
    from tests.sim.world import World

LOOK_SECONDS: Final = 0.25
PATIENCE: Final = 5.0
"""Seconds after which a change without an answer is taken for lost; messages are never under way longer."""

MOST_MACHINES: Final = 12
MOST_VOTERS: Final = 7


class Steward:
    """Looks at the cluster from time to time."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._next_node = len(world.members) + 1
        self._open: dict[int, float] = {}
        """Changes without an answer: until when they may still happen."""
        self._kinds: dict[int, str] = {}
        self._serial = 0
        self._were_members: set[NodeId] = set()

    def start(self) -> None:
        """From now on, to the end of the run."""
        self._look()

    def heal(self) -> None:
        """Nothing special: it has looked all along."""

    def settled(self, leader: Member) -> bool:
        """Whether nothing is left to do: one configuration, committed, without members that are gone."""
        conf = self._committed(leader)
        return conf is not None and not self._gone(conf)

    def may_lose(self, member: Member) -> bool:
        """Whether the disk of this member may be damaged: then at most a minority of disks is."""
        leader = self._world.leader()
        conf = None if leader is None else self._committed(leader)
        if conf is None or self._busy() or self._gone(conf) or self._unresolved():
            return False
        if len(self._world.members) == 1:
            return True
        return len(conf.voters) >= 3 or not conf.votes(member.id)

    def refused(self, member: Member) -> None:
        """A member will not start: its disk is not what it was."""
        if len(self._world.members) == 1:
            self._world.lost_for_good = member.refused

    def act(self) -> None:
        """One change, of a kind that an operator might think of."""
        leader = self._world.leader()
        conf = None if leader is None else self._committed(leader)
        if leader is None or conf is None or self._gone(conf) or self._busy() or self._unresolved():
            return
        kinds = self._possible(conf)
        kind = self._random.choice(list(kinds)) if kinds else ""
        steps = kinds[kind]() if kind else ()
        if steps:
            random = self._random
            through = leader if random.random() < 0.7 else random.choice(self._world.running())
            if Step(StepKind.REMOVE, leader.id) in steps:
                kind = "leader_" + kind
            self._propose(through, steps, kind)

    def _possible(self, conf: ConfState) -> dict[str, Callable[[], tuple[Step, ...]]]:
        """What could be changed in this configuration, and how."""
        voters, learners, choose = list(conf.voters), list(conf.learners), self._random.choice
        add, learn, remove = StepKind.ADD_VOTER, StepKind.ADD_LEARNER, StepKind.REMOVE
        kinds: dict[str, Callable[[], tuple[Step, ...]]] = {}
        if self._may_add():
            kinds["learn"] = lambda: (Step(learn, self._machine()),)
            kinds["replace"] = lambda: (Step(remove, choose(voters)), Step(add, self._machine()))
            if len(voters) < MOST_VOTERS:
                kinds["vote"] = lambda: (Step(add, self._machine()),)
        if learners and len(voters) < MOST_VOTERS:
            kinds["promote"] = lambda: (Step(add, choose(learners)),)
        if learners:
            kinds["exchange"] = lambda: (Step(learn, choose(voters)), Step(add, choose(learners)))
        if len(voters) > 1:
            kinds["remove"] = lambda: (Step(remove, choose(voters)),)
            kinds["demote"] = lambda: (Step(learn, choose(voters)),)
        return kinds

    # --- what it sees

    @staticmethod
    def _committed(leader: Member) -> ConfState | None:
        """The configuration, if it is settled."""
        since, conf = leader.raft.conf_history[-1]
        return None if conf.joint or since > leader.raft.commit else conf

    def _gone(self, conf: ConfState) -> list[NodeId]:
        """Members that will never come back."""
        members = [self._world.members[node] for node in conf.members() if node in self._world.members]
        return [each.id for each in members if each.refused or each.retired]

    def _busy(self) -> bool:
        now = self._world.timeline.now
        self._open = {serial: until for serial, until in self._open.items() if until > now}
        return bool(self._open)

    def _unresolved(self) -> bool:
        """A damaged disk whose member has not been replaced."""
        members = self._world.members.values()
        return any((each.disk.spoiled or each.refused) and not each.retired for each in members)

    def _may_add(self) -> bool:
        return len(self._world.members) < MOST_MACHINES

    # --- what it does

    def _look(self) -> None:
        world = self._world
        world.timeline.after(LOOK_SECONDS * (0.5 + self._random.random()), self._look)
        leader = world.leader()
        conf = None if leader is None else self._committed(leader)
        if leader is None or conf is None:
            return
        self._were_members.update(conf.members())
        for node in sorted(self._were_members - {*conf.members()}):
            if node in world.members and not world.members[node].retired and self._random.random() < 0.3:
                self._retire(world.members[node])
        gone = self._gone(conf)
        if gone and not self._busy() and not world.plan.joiners:
            steps = [Step(StepKind.REMOVE, gone[0])]
            if conf.votes(gone[0]) and len(world.members) < MOST_MACHINES + 4:
                steps.append(Step(StepKind.ADD_LEARNER, self._machine()))
            self._propose(leader, tuple(steps), "repair")

    def _retire(self, member: Member) -> None:
        member.retired = True
        member.crash()
        self._world.note(f"{member.id:x} is taken away")

    def _machine(self) -> NodeId:
        """A new machine with an empty disk, started to join."""
        node = NodeId(self._next_node)
        self._next_node += 1
        member = self._world.add(node, ())
        member.boot()
        return node

    def _propose(self, through: Member, steps: tuple[Step, ...], kind: str) -> None:
        self._serial += 1
        self._kinds[self._serial] = kind
        self._open[self._serial] = self._world.timeline.now + PATIENCE
        command = b""
        for step in steps:
            if step.kind is not StepKind.REMOVE:
                command = encode(PublishMember(step.node, f"m{step.node:x}", (), ()))
        self._world.note(f"change {steps} through {through.id:x}")
        through.change(steps, command, partial(self._answered, self._serial))

    def _answered(self, serial: int, outcome: Outcome | Fault) -> None:
        if isinstance(outcome, Fault):
            if outcome.outcome_known:
                self._open.pop(serial, None)
            return
        if not isinstance(outcome, Event):
            self._world.reach["membership_changes"] += 1
            self._world.reach[f"membership_{self._kinds[serial]}"] += 1
        self._open.pop(serial, None)
