"""What befalls the cluster while a run is under way: each fault at its own rate, drawn by the plan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from netstore.types import NodeId
    from tests.sim.member import Member
    from tests.sim.world import World

DOWN_SECONDS = 2.0
"""Most a machine stays down."""

DAY = 86_400.0
"""Seconds a wall clock is set wrong at most."""

SLOWEST = 5.0
"""Most seconds a slow disk takes for a sync."""

Pairs = list[tuple["NodeId", "NodeId"]]


class Faults:
    """Starts and ends faults. After `stop` everything runs and nothing is in the way."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self.over = False
        self._timeout = world.plan.election_ticks * world.plan.tick

    def start(self) -> None:
        """From now on."""
        plan = self._world.plan
        for name in plan.faults:
            self._next(name)
        if plan.outage:
            self._world.timeline.after(plan.duration * self._random.random(), self._outage)

    def stop(self) -> None:
        """No more; and what was, ends: the network is whole, disks work, everybody runs."""
        self.over = True
        world = self._world
        world.network.heal()
        for member in list(world.members.values()):
            member.fuse = None
            member.disk.full = member.disk.short = member.disk.failing = False
            member.disk.plug = None
            member.disk.latency = member.disk.usual_latency
            member.resume()
            self.boot(member)

    def ended(self, member: Member) -> None:
        """A member went down; somebody starts it again after a while."""
        if not self.over:
            self._world.timeline.after(
                DOWN_SECONDS * self._random.random() ** 2, partial(self._boot_in_time, member, member.life)
            )
        else:
            self._world.timeline.after(0.01, partial(self.boot, member))

    def boot(self, member: Member) -> None:
        """Start a member that is down and can be started."""
        world = self._world
        if member.up or member.retired or member.refused:
            return
        if self._random.random() < world.plan.no_battery:
            member.clock.forget()
        world.reach["restarts"] += 1
        member.boot()

    def _boot_in_time(self, member: Member, life: int) -> None:
        if member.life == life:
            self.boot(member)

    def _next(self, name: str) -> None:
        rate = self._world.plan.faults[name]
        self._world.timeline.after(self._random.expovariate(rate), partial(self._strike, name))

    def _strike(self, name: str) -> None:
        if self.over:
            return
        self._next(name)
        member = self._anyone()
        if member is not None:
            kind: Callable[[Member], None] = getattr(self, f"_{name}")
            kind(member)

    def _anyone(self) -> Member | None:
        """A running member; the leader more often than its share."""
        running = self._world.running()
        leader = self._world.leader()
        if leader is not None and self._random.random() < 0.4:
            return leader
        return self._random.choice(running) if running else None

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        self._world.timeline.after(seconds, call)

    def _struck(self, what: str, member: Member | None = None) -> None:
        self._world.reach[what] += 1
        self._world.note(f"fault {what} {'' if member is None else format(member.id, 'x')}")

    # --- machines

    def _crash(self, member: Member) -> None:
        self._struck("crashes", member)
        member.crash()

    def _power(self, member: Member) -> None:
        """Two or three machines share a plug."""
        for each in self._random.sample(self._world.running(), k=min(len(self._world.running()), 2)):
            self._crash(each)

    def _fuse(self, member: Member) -> None:
        """The power will go after so many effects, in the middle of whatever it does then."""
        self._struck("crashes_between_effects", member)
        member.fuse = self._random.randrange(12)

    def _plug(self, member: Member) -> None:
        """The power will go while a write is under way."""
        self._struck("crashes_in_a_write", member)
        life = member.life

        def pull() -> None:
            if member.life == life:
                member.crash()

        member.disk.plug = pull

    def _outage(self) -> None:
        if not self.over:
            self._struck("outages")
            for member in self._world.running():
                member.crash()

    def _restart(self, member: Member) -> None:
        self._struck("orderly_stops", member)
        member.stop()

    def _pause(self, member: Member) -> None:
        self._struck("pauses", member)
        member.pause()
        long = self._random.random() < 0.7
        seconds = (
            self._timeout * (1 + 2 * self._random.random()) if long else self._timeout * self._random.random()
        )
        self._later(seconds, partial(self._resume, member, member.life))

    def _resume(self, member: Member, life: int) -> None:
        if member.life == life:
            member.resume()

    def _jump(self, member: Member) -> None:
        self._struck("clock_jumps", member)
        member.clock.jump(self._random.choice((-DAY, -3600.0, -5.0, -0.5, 0.5, 5.0, 3600.0, DAY)))

    # --- the network

    def _partition(self, member: Member) -> None:
        self._struck("partitions")
        self._world.network.cut(self._parting())
        self._later(self._timeout * (0.5 + 3 * self._random.random()), self._mend)

    def _isolate(self, member: Member) -> None:
        """One member, and a leader by preference, is alone; or it hears and is not heard, or the reverse."""
        self._struck("partitions", member)
        others = [node for node in self._world.members if node != member.id]
        out = [(member.id, node) for node in others]
        back = [(node, member.id) for node in others]
        self._world.network.cut(self._random.choice((out + back, out, back)))
        self._later(self._timeout * (0.5 + 3 * self._random.random()), self._mend)

    def _mend(self) -> None:
        if not self.over:
            self._world.network.cut(())

    def _parting(self) -> Pairs:
        nodes = list(self._world.members)
        self._random.shuffle(nodes)
        kind = self._random.randrange(4)
        if kind == 0:  # two sides
            side = set(nodes[: self._random.randrange(len(nodes) + 1)])
            return [(a, b) for a, b in self._pairs(nodes) if (a in side) != (b in side)]
        if kind == 1:  # a ring: each hears its neighbours only
            count = len(nodes)
            near = {(nodes[at], nodes[(at + step) % count]) for at in range(count) for step in (1, -1)}
            return [pair for pair in self._pairs(nodes) if pair not in near]
        if kind == 2:  # one way only
            side = set(nodes[: self._random.randrange(len(nodes) + 1)])
            return [(a, b) for a, b in self._pairs(nodes) if a in side and b not in side]
        # a bridge: two sides that share one member
        bridge, *rest = nodes
        side = set(rest[: len(rest) // 2])
        return [(a, b) for a, b in self._pairs(rest) if (a in side) != (b in side)] if bridge else []

    @staticmethod
    def _pairs(nodes: Iterable[NodeId]) -> Pairs:
        nodes = list(nodes)
        return [(a, b) for a in nodes for b in nodes if a != b]

    def _clog(self, member: Member) -> None:
        self._struck("clogged")
        pairs = self._pairs(self._world.members)
        self._world.network.clog(self._random.sample(pairs, k=min(len(pairs), self._random.randrange(1, 5))))
        self._later(self._timeout * (1 + 2 * self._random.random()), partial(self._world.network.clog, ()))

    # --- disks

    def _full(self, member: Member) -> None:
        """For a while, or for one write."""
        length = self._random.random()
        if length < 0.1:
            self._struck("short_disks", member)
            member.disk.short = True
            return
        self._struck("full_disks", member)
        member.disk.full = True
        self._later(0.2 + 2 * length, partial(setattr, member.disk, "full", False))

    def _slow(self, member: Member) -> None:
        self._struck("slow_disks", member)
        latency = self._timeout * self._random.choice((0.2, 1.0, 2.0, 2.0, 20.0))
        member.disk.latency = min(latency, SLOWEST)
        self._later(
            self._timeout * 4 * self._random.random(),
            partial(setattr, member.disk, "latency", member.disk.usual_latency),
        )

    def _sync(self, member: Member) -> None:
        self._struck("failed_syncs", member)
        member.disk.failing = True

    def _rot(self, member: Member) -> None:
        """Damage is found when the member starts again, so it goes down with it."""
        if self._world.steward.may_lose(member) and member.disk.rot(self._random):
            self._struck("rot", member)
            member.crash()

    def _misdirect(self, member: Member) -> None:
        if self._world.steward.may_lose(member) and member.disk.misdirect(self._random):
            self._struck("misdirected", member)
            member.crash()

    # --- operation

    def _transfer(self, member: Member) -> None:
        leader = self._world.leader()
        if leader is not None:
            to = self._random.choice(leader.raft.conf.members())
            self._struck("transfers", leader)
            leader.enter(lambda: _none(leader.host.transfer(to)))

    def _membership(self, member: Member) -> None:
        self._world.steward.act()


def _none(_: object) -> None:
    """A refusal is an answer too."""
