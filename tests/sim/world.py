"""One run: a cluster, its network, its faults, its clients, and everything that is remembered of it.

    world = World(seed)
    world.run()          # raises Violated or Wrong, with what was seen

A run has three parts: the cruel one, the healing (faults stop; the cluster must become one leader, equal
states, fresh writes served: P11), and the judgement of what clients were told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from netstore.node.lessor import AGAIN_SECONDS
from netstore.node.pacing import LINGER_SECONDS
from netstore.raft.election import MAX_TERMS_AHEAD
from netstore.raft.messages import InstallSnapshot
from netstore.raft.status import Role
from netstore.state.countdown import RETRY_SECONDS
from netstore.state.machine import Machine
from netstore.types import Event, NodeId, Term
from tests.check.history import Fate
from tests.sim import plan as plans
from tests.sim.disk import COPY_SECONDS, Disk
from tests.sim.faults import Faults
from tests.sim.hostile import Hostile
from tests.sim.invariants import Invariant, Violated, all_invariants
from tests.sim.joiners import Joiners
from tests.sim.leaseload import LONGEST_TTL, LeaseLoad
from tests.sim.ledger import Ledger
from tests.sim.member import Member
from tests.sim.network import Network
from tests.sim.pairload import PairLoad
from tests.sim.pairwatch import PairWatches
from tests.sim.releases import Releases
from tests.sim.steward import Steward
from tests.sim.timeline import MachineClock, Timeline
from tests.sim.verdict import judge
from tests.sim.workload import Workload
from tests.support.later import Later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from netstore.disk.wal import Replay
    from netstore.raft.entry import Entry
    from netstore.raft.messages import Message
    from tests.check.history import Operation
    from tests.sim.plan import Plan

RECOVERY_TIMEOUTS: Final = 20
"""Election timeouts, at their longest, within which a healed cluster must serve and be equal."""

JOIN_SECONDS: Final = 2.0
"""What each program that joins adds to that: its change, its copy of the state and its promotion."""

_STREAMS: Final = 8


class World:
    """A run of one seed. `plan` overrides what the seed would draw; `trace` keeps a line for whatever
    happens.
    """

    def __init__(self, seed: int, plan: Plan | None = None, *, trace: bool = False) -> None:
        streams = [Random(seed * _STREAMS + number) for number in range(_STREAMS)]  # noqa: S311 - repeatable
        self.seed = seed
        self.plan = plan or plans.draw(streams[0])
        self.random_raft, self.random_net, self.random_disk, self.random_fault = streams[1:5]
        self.reach: Counter[str] = Counter()
        self.trace: list[str] | None = [] if trace else None
        self.timeline = Timeline()
        self.ledger = Ledger(Later if self.plan.upgrades else Machine)
        self.members: dict[NodeId, Member] = {}
        self.leases: dict[tuple[bytes, int], tuple[float, int]] = {}
        """(key, instant of expiry) -> when it was written, with which TTL in seconds."""
        self.calm_since: float | None = None
        """Since when, after faults have stopped, one leader has led that had applied all of its log: until
        then a sync that began on a slow disk may hold it up. None before.
        """
        self.lost_for_good = ""
        """Why no recovery is asked for: a cluster of one whose only disk was damaged."""
        self.network = Network(
            self.timeline, self.random_net, self.plan, self.reach, deliver=self._deliver, lost=self._lost
        )
        invariants = [each(self) for each in all_invariants()]
        self._replayed = _hooks(invariants, "replayed")
        self._refused = _hooks(invariants, "refused")
        self._booted = _hooks(invariants, "booted")
        self._ticked = _hooks(invariants, "ticked")
        self._heard = _hooks(invariants, "heard")
        self._stored = _hooks(invariants, "stored")
        self._sent = _hooks(invariants, "sent")
        self._turned = _hooks(invariants, "turned")
        self._finished = _hooks(invariants, "finished")
        founders = tuple(NodeId(number) for number in range(1, self.plan.size + 1))
        for node in founders:
            self.add(node, founders)
        self.steward = Steward(self, streams[5])
        self.faults = Faults(self, self.random_fault)
        self.workload = Workload(self, streams[6])
        self.pairs = PairLoad(self, streams[7])
        self.pair_watches = PairWatches(self, Random(f"watches {seed}"))  # noqa: S311 - repeatable
        self.lease_load = LeaseLoad(self, Random(f"leases {seed}"))  # noqa: S311 - repeatable
        self.hostile = Hostile(self, Random(f"hostile {seed}"))  # noqa: S311 - repeatable
        self.joiners = Joiners(self, Random(f"joiners {seed}"))  # noqa: S311 - repeatable
        self.releases = Releases(self, Random(f"releases {seed}"))  # noqa: S311 - repeatable
        self._random_lies = Random(f"lies {seed}")  # noqa: S311 - repeatable

    # --- the run

    def run(self) -> None:
        """The whole run. Violated or Wrong when a promise is broken."""
        for member in list(self.members.values()):
            member.boot()
        self.faults.start()
        self.steward.start()
        self.workload.start()
        self.pairs.start()
        self.pair_watches.start()
        self.lease_load.start()
        self.joiners.start()
        self.hostile.start()
        self.releases.start()
        self.timeline.run(self.plan.duration)
        self.workload.stop()
        self.pair_watches.stop()
        if not self.lost_for_good:
            self._heal()
        for hook in self._finished:
            hook()
        if self.plan.hostile:
            self.ledger.replay()
        else:
            judge(self)

    def _heal(self) -> None:
        self.note("faults stop")
        self.faults.stop()
        self.steward.heal()
        timeout = 2 * self.plan.election_ticks * self.plan.tick
        step = self.plan.tick
        limit = self.timeline.now + RECOVERY_TIMEOUTS * max(timeout, 0.5) + 20 * self.plan.disk_latency
        limit += JOIN_SECONDS * self.plan.joiners
        # A node whose TTL is over stays for so long after writes were paced last.
        limit += LINGER_SECONDS + AGAIN_SECONDS
        if self.plan.lease_clients:
            limit += LONGEST_TTL + RETRY_SECONDS
        asked: list[Operation] = []
        led = None
        while True:
            self.timeline.run(self.timeline.now + step)
            leader = self.leader()
            if leader is None or (leader.id, leader.life, leader.raft.term) != led:
                led = None if leader is None else (leader.id, leader.life, leader.raft.term)
                self.calm_since = None
            if (
                leader is not None
                and self.calm_since is None
                and leader.machine.applied == leader.raft.log.last
            ):
                self.calm_since = self.timeline.now
            if leader is not None and self.steward.settled(leader) and self.joiners.settled(leader):
                everyone = [self.members[node] for node in leader.raft.conf.members()]
                if not asked:
                    asked = [self.workload.ask(member) for member in everyone]
                elif any(
                    write.fate is not Fate.OPEN and not isinstance(write.outcome, Event) for write in asked
                ):
                    asked = []  # a leader may have changed under it: ask again, in time
                elif all(isinstance(write.outcome, Event) for write in asked) and self._equal(
                    leader, everyone
                ):
                    self.reach["recovered"] += 1
                    return
            if self.lost_for_good:
                return
            if self.timeline.now > limit:
                raise Violated(
                    f"the cluster did not come back within {RECOVERY_TIMEOUTS} timeouts: {self._state()}"
                )

    def _equal(self, leader: Member, everyone: list[Member]) -> bool:
        last = leader.raft.log.last
        counting = leader.machine.tree.timed or any(leader.machine.leases)
        living = counting and not self.plan.hostile  # theirs live for centuries
        return not living and all(
            member.up and member.machine.applied == last == member.raft.commit for member in everyone
        )

    def _state(self) -> str:
        return "; ".join(
            f"{node:x} {member.raft.status()}" if member.up else f"{node:x} down {member.refused}"
            for node, member in self.members.items()
        )

    # --- looking

    def running(self) -> list[Member]:
        """Members that are up and do not stand still."""
        return [member for member in self.members.values() if member.up and not member.paused]

    def leader(self) -> Member | None:
        """The leader of the highest term among the running."""
        leaders = [member for member in self.running() if member.raft.role is Role.LEADER]
        return max(leaders, key=lambda member: member.raft.term, default=None)

    def note(self, line: str) -> None:
        """Into the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.timeline.now:.6f} {line}")

    # --- what members tell

    def add(self, node: NodeId, founders: tuple[NodeId, ...]) -> Member:
        """A machine that was not there before."""
        random, plan = self.random_disk, self.plan
        latency = plan.disk_latency * (0.5 + random.random())
        clock = MachineClock(
            self.timeline,
            plan.skew * (2 * random.random() - 1),
            1.0 + plan.drift * (2 * random.random() - 1),
        )
        member = self.members[node] = Member(self, node, founders, Disk(latency), clock)
        return member

    def replayed(self, member: Member, replay: Replay) -> None:
        for hook in self._replayed:
            hook(member, replay)

    def refused(self, member: Member, why: str) -> None:
        member.refused = why
        self.note(f"{member.id:x} refuses to start: {why}")
        for hook in self._refused:
            hook(member, why)
        self.steward.refused(member)

    def booted(self, member: Member) -> None:
        for hook in self._booted:
            hook(member)

    def ended(self, member: Member) -> None:
        """A life is over."""
        self.faults.ended(member)

    def ticked(self, member: Member) -> None:
        for hook in self._ticked:
            hook(member)

    def stored(self, member: Member, before: int, entries: Sequence[Entry]) -> None:
        for hook in self._stored:
            hook(member, before, entries)

    def heard(self, member: Member, message: Message) -> None:
        if self.trace is not None:
            self.note(f"{message.sender:x}>{message.to:x} {_shown(message)}")
        for hook in self._heard:
            hook(member, message)

    def sent(self, member: Member, messages: Iterable[Message]) -> None:
        for hook in self._sent:
            for message in messages:
                hook(member, message)

    def turned(self, member: Member) -> None:
        """A turn is over; what left everything as it was needs no second look."""
        raft = member.raft
        log = raft.log
        state = (
            raft.term,
            raft.vote,
            raft.role,
            raft.leader,
            raft.ticks if raft.role is Role.LEADER else 0,
            raft.reads.round,
            raft.installing,
            log.compacted,
            log.applied,
            log.applying,
            log.commit,
            log.persisted,
            log.handed,
            log.last,
            member.machine.applied,
            member.machine.tree.index,
        )
        if state == member.state_seen and raft.conf is member.conf_seen:
            return
        member.state_seen = state
        for hook in self._turned:
            hook(member)

    # --- the network

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is None or not member.up:
            self._lost(message)
        else:
            if self.plan.lies and not self.faults.over and self._random_lies.random() < self.plan.lies:
                term = Term(message.term + 2 * MAX_TERMS_AHEAD)
                member.hear_lie(replace(message, term=term))
            member.receive(message)

    def _lost(self, message: Message) -> None:
        sender = self.members[message.sender]
        if sender.up and self.random_net.random() < 0.3:
            self.timeline.after(self.plan.delay, partial(sender.unreachable, message.to))

    def copy(self, sender: Member, message: InstallSnapshot) -> None:
        """A member streams a copy of its state to another, as `peer.snapshots` does: the last commit, piece
        by piece; complete and durable there before its host hears of it.
        """
        image = sender.engine.copy()
        index = image.applied()
        meta = sender.host.snapshot_sending.begun(index, message.to)
        self.reach["copies_sent"] += 1
        offer = InstallSnapshot(message.sender, message.to, message.term, meta)
        receiver = self.members.get(message.to)
        pieces = self.random_net.randrange(1, 6)
        lives = (sender.life, receiver.life if receiver is not None else 0)
        self.note(f"{message.sender:x}>{message.to:x} copy at {index} in {pieces} pieces")

        def cut() -> None:
            self.reach["copies_cut"] += 1
            if sender.up and sender.life == lives[0]:
                sender.enter(partial(sender.host.snapshot_sending.ended, message.to, ok=False))

        def piece(left: int) -> None:
            if (
                receiver is None
                or not index
                or not sender.up
                or not receiver.up
                or (sender.life, receiver.life) != lives
                or not self.network.passes(sender.id, receiver.id)
                or (not self.faults.over and self.random_net.random() < self.plan.copy_cut / pieces)
            ):
                cut()
            elif left:
                self.timeline.after(self._piece_time(), partial(piece, left - 1))
            else:
                delay = min(receiver.disk.latency * 5, COPY_SECONDS)
                self.timeline.after(delay, partial(arrived, receiver))

        def arrived(receiver: Member) -> None:
            if not receiver.up or receiver.life != lives[1]:
                cut()
                return
            receiver.disk.copies[index] = image
            receiver.enter(partial(receiver.host.snapshot_install.receive, offer, image))
            self.reach["copies_received"] += 1
            if sender.up and sender.life == lives[0]:
                sender.enter(partial(sender.host.snapshot_sending.ended, message.to, ok=True))

        piece(pieces)

    def _piece_time(self) -> float:
        return self.plan.delay * 10 * self.random_net.random()


def _hooks(invariants: list[Invariant], name: str) -> list[Callable[..., None]]:
    """The methods of this name, of those that have one of their own."""
    plain = getattr(Invariant, name)
    return [getattr(each, name) for each in invariants if getattr(type(each), name) is not plain]


def _shown(message: Message) -> str:
    """A message in a trace: without the bytes of its entries."""
    text = repr(message)
    return text if len(text) < 300 else text[:300] + "..."
