"""A few real hosts and the changes of their members, over memory: messages arrive at once, disks keep at
once, time moves by hand. A member can be cut off from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.disk.frame import Identity
from netstore.disk.wal import Wal
from netstore.node.bootstrap import first_batch
from netstore.node.driver import Driver
from netstore.node.featurelevel import Levels
from netstore.node.host import Host
from netstore.node.member import OWN
from netstore.node.membership import MembershipChanges
from netstore.node.proposals import Proposals
from netstore.raft.config import Boot, Config
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.raft.messages import InstallSnapshot
from netstore.state.commands import PublishMember, encode
from netstore.state.machine import Machine
from netstore.types import Index, Nanos, NodeId, Term
from netstore.watch.hub import Hub
from tests.support.local_member import HandClock, memory_engine
from tests.support.member import CLUSTER, HandDevice, Lines

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine
    from netstore.raft.messages import Message

TICK: Final = 100_000_000
"""Nanoseconds."""

TIME_LIMIT: Final = 7.0

Members = dict[NodeId, tuple[str, ...]]


class Peer:
    """One member. Without `initial` it joins: it waits for a state copy."""

    def __init__(
        self,
        group: Group,
        id_: NodeId,
        initial: Members | None,
        release: type[Machine] = Machine,
        before: Peer | None = None,
    ) -> None:
        """`release` is the version of the program, as far as it knows commands; `before` is the member whose
        disk this one starts with.
        """
        self.id = id_
        self.group = group
        self.woken = False
        self.cut_off = False
        self.lines = Lines()
        self.device: HandDevice = HandDevice(before.device.files if before else None)
        self.engine: MemoryEngine = before.engine.crash() if before else memory_engine()
        self.machine = release(self.engine)
        self.machine.load()
        wal, replay = Wal.open(self.device, Identity(CLUSTER, id_))
        hard_state, entries = first_batch(initial or {})
        meta = SnapshotMeta(Index(0), Term(0), ConfState(voters=tuple(sorted(initial or {}))))
        if before:
            hard_state, meta, entries = replay.hard_state or hard_state, replay.mark or meta, replay.entries
        else:
            wal.mark(meta, lambda _: None)
            if initial:
                wal.append(hard_state, entries, lambda _: None)
            else:
                hard_state = HardState(Term(0), NodeId(0), Index(0))
        self.device.sync()
        boot = Boot(hard_state, meta, entries, self.machine.applied)
        self.host = Host(
            name=f"m{id_:x}",
            cluster_id=CLUSTER,
            driver=Driver(Raft(Config(id=id_), boot, lambda bound: id_ % bound)),
            wal=wal,
            engine=self.engine,
            machine=self.machine,
            hub=Hub(),
            clock=group.clock,
            proposals=Proposals(id_ << 48, TIME_LIMIT),
            wake=self._wake,
            send=group.sent.extend,
            flush=lambda: None,
            snapshot_count=10,
            log=self.lines,
            catch_up_entries=0,
        )
        self.cluster = MembershipChanges(self.host, log=self.lines)
        self.levels = Levels(self.host)

    def _wake(self) -> None:
        self.woken = True

    def publish(self) -> None:
        """Say one's name, as a member does when it starts."""
        urls, known = (f"http://c{self.id:x}:1",), self.machine.LEVEL
        self.host.propose(
            encode(PublishMember(self.id, self.host.name, urls, (), known)), lambda _: None, OWN
        )
        self.group.settle()

    def seen(self) -> dict[int, tuple[bool, bool]]:
        """The members as this one knows them: whether they learn, and whether they are to be promoted."""
        return {id_: (each.learner, each.promote) for id_, each in sorted(self.machine.members.items())}

    @property
    def conf(self) -> ConfState:
        """The configuration this member decides by."""
        return self.host.status().conf


class Group:
    """A cluster of members 1 to `count`."""

    def __init__(self, count: int) -> None:
        self.clock = HandClock()
        self.sent: list[Message] = []
        self.peers: dict[NodeId, Peer] = {}
        initial: Members = {NodeId(number): (f"http://p{number}:1",) for number in range(1, count + 1)}
        for id_ in initial:
            self.peers[id_] = Peer(self, id_, initial)
        self.peers[NodeId(1)].host.campaign()
        self.settle()
        for peer in list(self.peers.values()):
            peer.publish()

    def __getitem__(self, id_: int) -> Peer:
        return self.peers[NodeId(id_)]

    def start(self, id_: int) -> Peer:
        """The program of an added member starts, and publishes itself once it knows a leader."""
        peer = self.peers[NodeId(id_)] = Peer(self, NodeId(id_), None)
        self.pass_time(0.3)
        peer.publish()
        return peer

    def restart(self, id_: int, release: type[Machine] = Machine) -> Peer:
        """A member's program is killed and starts again, as this version of it."""
        before = self.peers[NodeId(id_)]
        peer = self.peers[NodeId(id_)] = Peer(self, NodeId(id_), None, release, before)
        self.pass_time(3)
        peer.publish()
        return peer

    def settle(self) -> None:
        """Turns, syncs and messages until nothing is left to do."""
        while True:
            for peer in self.peers.values():
                while peer.woken or peer.device.waiting:
                    if peer.woken:
                        peer.woken = False
                        peer.host.turn()
                    peer.device.sync()
            if not self.sent and not self.tell_commits():
                return
            messages = self.sent.copy()
            self.sent.clear()
            for message in messages:
                self.carry(message)

    def tell_commits(self) -> bool:
        """What `node.loop` does when no round follows; whether that gave something to do."""
        for peer in self.peers.values():
            peer.woken = peer.host.tell_commits() or peer.woken
        return any(peer.woken for peer in self.peers.values())

    def carry(self, message: Message) -> None:
        """A message arrives, or is lost."""
        sender, receiver = self.peers[message.sender], self.peers.get(message.to)
        lost = receiver is None or sender.cut_off or receiver.cut_off
        if not isinstance(message, InstallSnapshot):
            if receiver is not None and not lost:
                receiver.host.receive((message,))
            return
        if receiver is None or lost:
            sender.host.snapshot_sending.begun(message.meta.index, message.to)
            sender.host.snapshot_sending.ended(message.to, ok=False)
            return
        sender.engine.commit()
        meta = sender.host.snapshot_sending.begun(sender.engine.durable(), message.to)
        receiver.host.snapshot_install.receive(
            InstallSnapshot(message.sender, message.to, message.term, meta), sender.engine
        )
        sender.host.snapshot_sending.ended(message.to, ok=True)

    def tick(self, times: int = 1) -> None:
        """Everybody's clock goes on by some ticks."""
        for _ in range(times):
            self.clock.now = Nanos(self.clock.now + TICK)
            for peer in list(self.peers.values()):
                peer.host.tick()
                peer.cluster.tick()
                peer.levels.look()
            self.settle()

    def pass_time(self, seconds: float) -> None:
        """As many ticks as that takes."""
        self.tick(round(seconds * 1e9 / TICK))

    @property
    def leader(self) -> Peer:
        """Whom those who are not cut off follow."""
        [leader] = {peer.host.leader for peer in self.peers.values() if not peer.cut_off}
        return self.peers[leader]
