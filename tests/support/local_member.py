"""A member without a log, a disk or a socket.

Proposals are applied at once, time moves when a test says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from netstore.api.admin import AdminApi
from netstore.api.backup import BackupApi
from netstore.api.beside import Beside
from netstore.api.gate import Gate
from netstore.api.health import Health, Version
from netstore.api.http.router import Route, Router
from netstore.api.plugins import Admitted, PluginsApi
from netstore.api.probes import Probes
from netstore.api.v2.keys import KeysApi
from netstore.api.v2.members import MembersApi
from netstore.api.v2.stats import StatsApi
from netstore.disk.closer import Closer
from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import Fault, Reason, refusal
from netstore.net.exchange import Request
from netstore.node.jobs import Jobs
from netstore.node.lessor import Reaper
from netstore.node.slowness import Slowness
from netstore.node.timekeeper import Deadlines
from netstore.peer.traffic import RoundTrip, Traffic
from netstore.raft.entry import ConfState
from netstore.raft.status import Role, Status
from netstore.state import commands
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2 import commands as v2
from netstore.types import ClusterId, Index, Nanos, NodeId, Term
from netstore.watch.hub import Hub
from tests.support.log import AnyLevel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.api.networks import NetworkWrites
    from netstore.node.backup import FullCopy
    from netstore.node.pacing import Behind
    from netstore.raft.status import PeerStatus
    from netstore.state.machine import Outcome
    from netstore.state.members import MemberInfo

START: Final = Nanos(1_795_000_000_123_456_789)
TICK_NANOS: Final = 500_000_000
"""How often a leader looks for what has expired."""


def memory_engine() -> MemoryEngine:
    """An engine that calls back at once."""
    return MemoryEngine(lambda call: call(), TABLES)


class HandClock:
    """`seams.Clock` moved by hand."""

    def __init__(self, now: Nanos = START) -> None:
        self.now = now
        self.wrong = 0
        """Nanoseconds by which the wall clock is wrong."""

    def monotonic(self) -> float:
        return self.now / 1e9

    def wall(self) -> Nanos:
        return Nanos(self.now + self.wrong)


class _FailingLog(AnyLevel):
    """A job that fails fails the test."""

    def take(self, event: str, fields: dict[str, Any]) -> None:
        raise AssertionError(event, fields)


class RecordedExchange:
    """`net.exchange.Exchange` that keeps the answer. `room` bounds what a slow reader's connection takes."""

    def __init__(self, request: Request, room: int = 1_000_000, principal: str = "here") -> None:
        self._request = request
        self.principal = principal
        self.status = 0
        self.fields = b""
        self.body = b""
        self.pieces: list[bytes] = []
        self.open = False
        self.done = False
        self.cut = False
        """It was given up half-way."""
        self.room = room
        self._gone: Callable[[], None] | None = None
        self._drained: Callable[[], None] | None = None
        self._taken = 0
        self.charged = 0.0
        """Seconds of work that were done beside its turns."""

    @property
    def request(self) -> Request:
        return self._request

    def respond(self, status: int, fields: bytes, body: bytes = b"") -> None:
        assert not self.status, "answered twice"
        self.status, self.fields, self.done = status, fields, True
        self.body = b"" if self._request.method == b"HEAD" else body

    def refuse(self, status: int, text: bytes) -> None:
        self.respond(status, b"", text)

    @property
    def backlog(self) -> int:
        """What was pushed since the network took everything."""
        return sum(map(len, self.pieces[self._taken :]))

    def take(self) -> None:
        """The network takes everything."""
        self._taken = len(self.pieces)
        call, self._drained = self._drained, None
        if call is not None:
            call()

    def on_drained(self, call: Callable[[], None]) -> bool:
        if self.done:
            return False
        self._drained = call
        return True

    def begin(self, status: int, fields: bytes, *, endless: bool = True) -> None:
        assert not self.status, "answered twice"
        self.status, self.fields, self.open = status, fields, True
        if self._request.method == b"HEAD":
            self.open, self.done = False, True

    def push(self, *parts: bytes) -> bool:
        if not self.open:
            return False
        if len(self.pieces) >= self.room:
            return False
        self.pieces += parts
        return True

    def end(self) -> None:
        assert self.open, "ended a body that is not open"
        self.open, self.done = False, True

    def abort(self) -> None:
        self.open, self.done, self.cut = False, True, True

    def defer(self, gone: Callable[[], None]) -> None:
        assert not self.status, "answered already"
        self._gone = gone

    def worked(self, seconds: float) -> None:
        self.charged += seconds

    def on_gone(self, call: Callable[[], None]) -> None:
        self._gone = call

    def hang_up(self) -> None:
        """The client closes the connection."""
        self.open = False
        if self._gone is not None:
            self._gone()

    @property
    def headers(self) -> dict[str, str]:
        """The fields of the head by name."""
        lines = self.fields.decode("latin-1").split("\r\n")
        assert lines.pop() == "", "every field line ends with CRLF"
        return dict(line.split(": ", 1) for line in lines)

    @property
    def text(self) -> bytes:
        """The whole body so far."""
        return self.body + b"".join(self.pieces)


class NoPeers:
    """A member that has nobody to talk to. Implements `api.v2.stats.Transport`."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def round_trip(self, _: NodeId) -> RoundTrip:
        return RoundTrip()


class LocalCluster:
    """`node.member.Membership` that makes every change at once, with no more objections than the state has.
    `refusal` is what it answers instead, once set.
    """

    def __init__(self, member: LocalMember) -> None:
        self._member = member
        self.next_id = NodeId(0xABC)
        self.refusal: Fault | None = None
        self.asked: list[tuple[object, ...]] = []
        self.askers: list[bytes] = []
        """For whom, but for transfers."""

    def add(
        self,
        peer_urls: tuple[str, ...],
        *,
        learner: bool,
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        self.asked.append(("add", peer_urls, learner))
        self._change(
            commands.AddMember(self.next_id, peer_urls, learner=True, promote=not learner), done, principal
        )

    def remove(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        self.asked.append(("remove", id_))
        self._change(commands.RemoveMember(id_), done, principal)

    def promote(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        self.asked.append(("promote", id_))
        self._change(commands.PromoteMember(id_), done, principal)

    def update(
        self,
        id_: NodeId,
        peer_urls: tuple[str, ...],
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        self.asked.append(("update", id_, peer_urls))
        self._change(commands.UpdateMember(id_, peer_urls), done, principal)

    def transfer(self, to: NodeId, done: Callable[[Fault | None], None]) -> None:
        self.asked.append(("transfer", to))
        if self.refusal is None:
            self._member.leader = to
        done(self.refusal)

    def _change(
        self,
        command: commands.AddMember | commands.RemoveMember | commands.PromoteMember | commands.UpdateMember,
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        self.askers.append(principal)
        id_ = NodeId(command.id)
        before = self._member.machine.members.get(id_)

        def answer(outcome: Outcome | Fault) -> None:
            if isinstance(outcome, Fault):
                done(outcome)
            else:
                found = self._member.machine.members.get(id_) or before
                assert found is not None
                done(found)

        if self.refusal is not None:
            done(self.refusal)
        else:
            self._member.propose(commands.encode(command), answer, principal)


def _at_once(call: Callable[[], object]) -> None:
    call()


class NoBackups:
    """A member that makes no backups now. Implements `api.backup.FullBackupSource`."""

    def make_full(self, done: Callable[[FullCopy | Fault], None], folder: Path | None = None) -> None:
        assert folder is None
        done(refusal(Reason.SNAPSHOT_BUSY))


def backups_of(member: LocalMember) -> BackupApi:
    """What answers for full backups."""
    return BackupApi(NoBackups(), Closer(), member.deadlines.after)


def plugins_of(member: LocalMember) -> PluginsApi:
    """The plugin store of a member."""
    return PluginsApi(member, Admitted(member.machine.plugins), Beside(_at_once, _FailingLog()))


class LocalMember:
    """`node.member.Replica` of a cluster of one that decides at once, with its keys API behind a router."""

    def __init__(
        self,
        engine: MemoryEngine | None = None,
        clock: HandClock | None = None,
        networks: NetworkWrites | None = None,
    ) -> None:
        self.id = NodeId(0x8E9E05C52164694D)
        self.name = "local"
        self.cluster_id = ClusterId(0xCDF818194E3A8C32)
        self.leader = self.id
        self.leader_since = START
        self.conf = ConfState(voters=(self.id,))
        self.term = Term(2)
        self.backed_up = False
        self.paced_to = 0
        self.others_behind: list[Behind] = []
        self.own_problems: dict[str, str] = {}
        self.differing = ""
        self.peers: tuple[PeerStatus, ...] = ()
        self.engine = engine or memory_engine()
        self.clock = clock or HandClock()
        self.machine = Machine(self.engine)
        self.machine.load()
        self.hub = Hub()
        self.slowness = Slowness(self.clock.monotonic)
        self.commit_index = self.machine.applied
        self.jobs = Jobs(lambda: None, _FailingLog())
        self.stats = StatsApi(self, NoPeers())
        self.cluster = LocalCluster(self)
        self.reaper = Reaper(self, self.machine.tree.timed, 0.0, v2.ExpireNodes, v2.TtlCheckpoint)
        self.gate = Gate()
        self.keys = KeysApi(self, self.reaper.countdown, self.gate, networks)
        self.deadlines = Deadlines(self.clock)
        members = MembersApi(self, self.cluster)
        self.router = Router(
            self.gate,
            {
                b"/version": Route(Version(self), None),
                b"/health": Route(Health(self, self.deadlines.after), None),
                **{path: Route(each, None) for path, each in Probes(self, self.deadlines.after).handlers()},
                b"/v2/machines": Route(members.machines, None),
                b"/v2/stats/store": Route(self.stats.store, None),
                b"/v2/stats/self": Route(self.stats.own, None),
                b"/v2/stats/leader": Route(self.stats.leader, None),
            },
            {
                b"/v2/keys": Route(self.keys.handle, None),
                b"/v2/members": Route(members.members, None),
                b"/netstore": Route(AdminApi(self, self.cluster).handle, None, closed=True),
            },
        )
        publish = commands.PublishMember(self.id, self.name, ("http://c:1",), ("http://p:1",))
        self._apply(commands.encode(publish))
        if not self.machine.roster.cluster_version:
            self._apply(commands.encode(commands.SetClusterVersion("3.4.0")))
        self._publish()

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        done(None)

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        done(self._apply(command))
        self._publish()
        self.reaper.countdown.count(self.clock.monotonic())

    def problems(self) -> dict[str, str]:
        """Why it refuses what is asked."""
        return self.own_problems

    def behind(self) -> list[Behind]:
        """Who is being brought up."""
        return self.others_behind

    def status(self) -> Status:
        """What Raft would tell of itself."""
        return Status(
            id=self.id,
            term=self.term,
            role=Role.LEADER if self.leader == self.id else Role.FOLLOWER,
            leader=self.leader,
            compacted=Index(0),
            applied=self.machine.applied,
            commit=self.commit_index,
            last=self.commit_index,
            conf=self.conf,
            peers=self.peers,
        )

    def _apply(self, command: bytes) -> Outcome:
        self.commit_index = Index(self.commit_index + 1)
        outcome = self.machine.apply(self.commit_index, command)
        self.machine.save()
        self.engine.commit()
        return outcome

    def _publish(self) -> None:
        """Tell watchers what was answered."""
        for event in self.machine.v2.take_events():
            self.hub.publish(event)

    def advance(self, nanos: int) -> None:
        """Let time pass, with the leader's ticks in it."""
        until = self.clock.now + nanos
        while self.clock.now < until:
            self.clock.now = Nanos(min(self.clock.now + TICK_NANOS, until))
            self.tick()

    def tick(self) -> None:
        """What a leader does every half second."""
        self.reaper.look(self.keys.renewing)

    def send(
        self,
        method: str,
        target: str | bytes,
        body: bytes = b"",
        content_type: bytes | None = b"application/x-www-form-urlencoded",
    ) -> RecordedExchange:
        """Carry one request to the API, as a router does."""
        raw = target.encode("utf-8") if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        exchange = RecordedExchange(Request(method.encode(), path, query, body, content_type))
        self.router.handle(exchange)
        while self.jobs.ready:
            self.jobs.run()
            exchange.take()
        return exchange
