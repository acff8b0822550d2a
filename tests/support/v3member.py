"""The v3 services of a member without a log, a disk or a socket, and calls that keep their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netstore import codes
from netstore.api.gate import Gate
from netstore.api.v3.services import Options, build
from netstore.guard import guarded
from netstore.net.exchange import LOW_WATER
from netstore.node.jobs import Jobs
from netstore.node.timekeeper import Deadlines
from netstore.state.members import MemberInfo
from netstore.types import NodeId
from netstore.watch.watches import Watches
from tests.support.local_member import LocalMember
from tests.support.member import Lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from netstore.api.networks import NetworkWrites
    from netstore.errors import Fault
    from netstore.net.grpc.protocols import Receiver
    from netstore.state.machine import Outcome


CANCELLED = 1
"""The status by which a call that its client gave up is known in tests; nobody is told it."""

OPTIONS = Options(
    election_seconds=1.0,
    max_request_bytes=1_572_864,
    max_txn_ops=128,
    quota_bytes=0,
    progress_seconds=600.0,
)


class FakeCall:
    """A `net.grpc.protocols.Call` that keeps its answers. `backlog` is what a test says, and `window` how
    much it lets wait.
    """

    def __init__(self, path: str, fields: dict[bytes, bytes] | None = None) -> None:
        self.path = path.encode()
        self.deadline: float | None = None
        self.peer = "127.0.0.1:1"
        self.common_name: str | None = None
        self.principal = "127.0.0.1"
        self.backlog = 0
        self.window = 1 << 20
        self.fields = fields or {}
        self.messages: list[bytes] = []
        self.shared: list[bytes] = []
        self.congested = False
        self.status: int | None = None
        self.text = ""
        self._drained: Callable[[], None] | None = None
        self._pieces: list[bytes] = []
        self._owed = 0

    @property
    def open(self) -> bool:
        return self.status is None

    def metadata(self, name: bytes) -> bytes | None:
        return self.fields.get(name)

    def reply(self, message: bytes) -> None:
        self.send(message)
        self.finish()

    def begin_reply(self, size: int) -> None:
        self._pieces, self._owed = [], size

    def push(self, *pieces: bytes | memoryview) -> None:
        self._owed -= sum(map(len, pieces))
        self._pieces += map(bytes, pieces)

    def end_reply(self) -> None:
        assert self._owed == 0, "a message is as long as it was said to be"
        self.reply(b"".join(self._pieces))

    def send(self, message: bytes, shared: bytes = b"") -> None:
        if self.open:
            self.messages.append(message + shared)
            self.shared.append(shared)

    def finish(self, status: int = codes.OK, text: str = "") -> None:
        if self.open:
            self.status, self.text = status, text

    def on_drained(self, call: Callable[[], None]) -> None:
        if self.backlog <= LOW_WATER:
            call()
        else:
            self._drained = call

    @property
    def window_left(self) -> int:
        return max(0, self.window - self.backlog)

    def may_send_whole(self, size: int) -> bool:
        return size <= self.window_left

    def on_room(self, call: Callable[[], None]) -> None:
        if self.window_left:
            call()
        else:
            self._drained = call

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """Nobody cancels a call here."""

    def guard(self, call: Callable[[], None]) -> None:
        guarded(lambda _: self.finish(codes.INTERNAL, "guarded"), call)

    def drain(self) -> None:
        """The client reads all that waits."""
        self.backlog = 0
        self.tell()

    def tell(self) -> None:
        """What it waits for has come."""
        call, self._drained = self._drained, None
        if call is not None:
            call()


class ReadableMember(LocalMember):
    """A member alone. A read is answered at once, with `unreadable` where a test sets it; so is a proposal
    with `unwritable`. Changes go to `watches`, and a compaction's work is done in the same call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watches = Watches(self.machine.mvcc, lambda: None)
        self.jobs = Jobs(lambda: None, Lines())
        self.unreadable: Fault | None = None
        self.unwritable: Fault | None = None
        self.proposed = 0
        self.readers: list[str] = []
        """For whom it was read."""
        self.writers: list[bytes] = []
        """For whom something was proposed."""

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        self.readers.append(principal)
        done(self.unreadable)

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        self.proposed += 1
        self.writers.append(principal)
        if self.unwritable is not None:
            done(self.unwritable)
            return
        super().propose(command, done, principal)
        self.settle()

    def settle(self) -> None:
        """What the loop does between turns."""
        self.watches.publish(self.machine.take_changes())
        while self.machine.sweeping:
            self.machine.sweep()
        while self.watches.has_work:
            self.watches.step()
        while self.jobs.ready:
            self.jobs.run()


class FakeLessor:
    """Renewals that are answered when a test says so, or at once with the lease's TTL."""

    def __init__(self, member: ReadableMember) -> None:
        self._member = member
        self.held: list[Callable[[int | Fault], None]] | None = None

    def keep_alive(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        self._member.writers.append(principal.encode())
        lease = self._member.machine.leases.get(id_)
        if self.held is not None:
            self.held.append(done)
        else:
            done(0 if lease is None else lease.ttl)

    def time_to_live(self, id_: int, done: Callable[[int | Fault], None], principal: str = "") -> None:
        def tell(fault: Fault | None) -> None:
            lease = self._member.machine.leases.get(id_)
            done(fault or (-1 if lease is None else lease.ttl - 1))

        self._member.read(tell, principal)


class FakeMembers:
    """`node.membership.MembershipChanges` that notes what is asked, and refuses with `fault` or does it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.askers: list[bytes] = []
        """For whom, but for transfers."""
        self.fault: Fault | None = None

    def add(
        self,
        peer_urls: tuple[str, ...],
        *,
        learner: bool,
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        self.askers.append(principal)
        self._do(("add", peer_urls, learner), done, MemberInfo(NodeId(1), "", (), peer_urls, learner))

    def remove(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        self.askers.append(principal)
        self._do(("remove", id_), done, MemberInfo(id_, "", (), ()))

    def update(
        self,
        id_: NodeId,
        peer_urls: tuple[str, ...],
        done: Callable[[MemberInfo | Fault], None],
        principal: bytes,
    ) -> None:
        self.askers.append(principal)
        self._do(("update", id_, peer_urls), done, MemberInfo(id_, "", (), peer_urls))

    def promote(self, id_: NodeId, done: Callable[[MemberInfo | Fault], None], principal: bytes) -> None:
        self.askers.append(principal)
        self._do(("promote", id_), done, MemberInfo(id_, "", (), ()))

    def transfer(self, to: NodeId, done: Callable[[Fault | None], None]) -> None:
        self.asked.append(("transfer", to))
        done(self.fault)

    def _do(
        self, what: tuple[Any, ...], done: Callable[[MemberInfo | Fault], None], member: MemberInfo
    ) -> None:
        self.asked.append(what)
        done(self.fault or member)


class FakeCopy:
    """A copy of the state with these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.closed = False

    def read(self, most: int) -> bytes:
        piece, self._data = self._data[:most], self._data[most:]
        return piece

    def close(self) -> None:
        self.closed = True


class Served:
    """All services over one member."""

    def __init__(self, options: Options = OPTIONS, networks: NetworkWrites | None = None) -> None:
        self.member = ReadableMember()
        self.gate = Gate()
        self.deadlines = Deadlines(self.member.clock)
        self.lessor = FakeLessor(self.member)
        self.members = FakeMembers()
        self.copy: FakeCopy | Fault = FakeCopy(bytes(100_000 // 512 * 512))
        self.draws: list[int] = []
        """Random numbers to come; thirds of the bound when there are none."""
        self.services = build(
            self.member,
            options,
            watches=self.member.watches,
            lessor=self.lessor,
            members=self.members,
            backups=self,
            sizes=lambda: (2_000_000, 1_000_000),
            after=self.deadlines.after,
            below=self._draw,
            log=Lines(),
            gate=self.gate,
            networks=networks,
        )

    def _draw(self, bound: int) -> int:
        return self.draws.pop(0) if self.draws else bound // 3

    def make(self, done: Callable[[FakeCopy | Fault], None]) -> None:
        """`api.v3.maintenance.BackupSource`."""
        done(self.copy)

    def call(self, path: str, request: Message | bytes, fields: dict[bytes, bytes] | None = None) -> FakeCall:
        """Make a unary call; the answer is in what comes back."""
        call = FakeCall(path, fields)
        message = request if isinstance(request, bytes) else request.SerializeToString()
        self.services.unary[call.path](call, message)
        self.member.settle()
        return call

    def open(self, path: str, fields: dict[bytes, bytes] | None = None) -> tuple[FakeCall, Receiver]:
        """Open a stream."""
        call = FakeCall(path, fields)
        return call, self.services.stream[call.path](call)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.member.advance(int(seconds * 1e9))
        self.deadlines.run_due()
