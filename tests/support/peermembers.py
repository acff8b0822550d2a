"""Two members whose streams run over real sockets, and callers that dial them."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from netstore.disk.datadir import MemberIdentity
from netstore.limits import Budget
from netstore.peer.dial import OutgoingStream, dial
from netstore.peer.handshake import (
    Hello,
    Offer,
    Purpose,
    Secret,
)
from netstore.peer.join import request_member_list
from netstore.peer.peers import Peers
from netstore.peer.wire import (
    JoinRequest,
    MemberList,
)
from netstore.raft.messages import Heartbeat, InstallSnapshot, MessageRefused
from netstore.state.members import MemberInfo
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.links import Quiet, eventually, running_reactor
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.incoming import IncomingStream
    from netstore.peer.link import Link
    from netstore.raft.messages import Message


CLUSTER, A, B = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)
SECRET = Secret("a token")


class HandClock:
    """Real time, which a test can advance."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead  # fixed: a clock

    def wall(self) -> Any:
        raise NotImplementedError


class Member:
    """One end: the peers under test, recording everything that they pass on."""

    def __init__(
        self,
        reactor: Reactor,
        id_: NodeId,
        cluster: ClusterId = CLUSTER,
        *,
        secret: Secret | None = SECRET,
        credentials: Credentials | None = None,
    ) -> None:
        self.got: list[Message] = []
        self.refuses = ""
        self.lost: list[NodeId] = []
        self.notes: list[tuple[NodeId, Index, bytes]] = []
        self.expelled: list[str] = []
        self.wanted: list[InstallSnapshot] = []
        self.addresses: dict[NodeId, Sequence[str]] = {}
        self.removed: set[NodeId] = set()
        self.requests: list[JoinRequest | None] = []
        self.listed: tuple[MemberInfo, ...] = (MemberInfo(id_, "", (), ()),)
        self.clock = HandClock()
        self.log = Quiet()
        self.peers = Peers(
            identity=MemberIdentity(cluster, id_, f"m{id_:x}"),
            reactor=reactor,
            credentials=credentials,
            directory=lambda: (self.addresses, self.removed),
            join=self._handle_join,
            on_removed=self.expelled.append,
            on_digest=lambda *note: self.notes.append(note),
            clock=self.clock,
            log=self.log,
            secret=secret,
            budget=Budget(1 << 30),
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        scheme = "http" if credentials is None else "https"
        self.port = sock.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peers.listen(sock, tls=credentials is not None)

    @property
    def incoming_streams(self) -> list[IncomingStream]:
        """Incoming streams of authenticated callers."""
        return list(self.peers.listener.verified)

    @property
    def connections(self) -> int:
        """How many streams to members that are listed were opened so far."""
        return sum(peer.counts.lost + peer.is_connected for peer in self.peers._peers.values())

    @property
    def unverified(self) -> list[IncomingStream]:
        """Incoming streams of unverified callers."""
        return list(self.peers.listener.unverified)

    def _handle_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.requests.append(request)
        answer(MemberList(CLUSTER, NodeId(5), self.listed))

    # A receiver, and copies.

    def receive(self, messages: Sequence[Message]) -> None:
        self.got += messages
        if self.refuses:
            raise MessageRefused(self.refuses)

    def unreachable(self, peer: NodeId) -> None:
        self.lost.append(peer)

    def request(self, message: InstallSnapshot) -> None:
        self.wanted.append(message)

    def accept(self, _link: Link, _sender: NodeId) -> None:
        return None


@asynccontextmanager
async def members(*clusters: ClusterId) -> AsyncIterator[tuple[Member, Member]]:
    """A and B, which know each other's URL."""
    async with running_reactor() as reactor:
        one, two = (
            Member(reactor, id_, cluster)
            for id_, cluster in zip((A, B), clusters or (CLUSTER, CLUSTER), strict=True)
        )
        for each in (one, two):
            each.addresses = {A: (one.url,), B: (two.url,)}
        async with trio.open_nursery() as nursery:
            for each in (one, two):
                nursery.start_soon(each.peers.run, each, each)
            yield one, two
            nursery.cancel_scope.cancel()


async def met(one: Member, two: Member) -> None:
    await eventually(lambda: one.connections and two.connections, "both have called")


def beat(sender: NodeId, to: NodeId, commit: int = 0) -> Heartbeat:
    return Heartbeat(sender, to, Term(1), Index(commit), 0)


async def who_is_there(
    member: Member, *urls: str, request: JoinRequest | None = None, secret: Secret | None = SECRET
) -> MemberList:
    return await request_member_list(
        member.peers.reactor, urls, request, program="test", credentials=None, secret=secret
    )


STRANGER = Hello(Purpose.MESSAGES, CLUSTER, NodeId(0x99), A, "test")
"""From a member that is in no list."""


async def open_stream(
    member: Member, hello: Hello = STRANGER, secret: Secret | None = SECRET
) -> OutgoingStream:
    """Dial as a member that is not in the called one's list, but knows the token."""
    return await dial(
        member.peers.reactor, member.url, hello, lambda _: None, credentials=None, secret=secret
    )


def knock(member: Member, *, at: str = "127.0.0.2", says: bytes = b"") -> socket.socket:
    """A connection from another address of this machine, without a proof."""
    sock = socket.create_connection(("127.0.0.1", member.port), seconds(5), (at, 0))
    sock.sendall(says)
    return sock


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


FAKE = Hello(Purpose.MESSAGES, CLUSTER, B, A, "test", offer=Offer.TOKEN)
"""From a caller that claims to be B."""
