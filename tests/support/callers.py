"""A member without sockets, and callers whose link is a recording fake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from netstore.disk.datadir import MemberIdentity
from netstore.limits import Budget
from netstore.peer.handshake import Challenge, Hello, Offer, Proof, Purpose, Secret, Welcome, read_answer
from netstore.peer.incoming import IncomingStream
from netstore.peer.listener import Listener
from netstore.peer.wire import DigestMessage, JoinRequest, MemberList, decode_member_list, read_frame
from netstore.state.members import MemberInfo
from netstore.types import ClusterId, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.net.tls import Credentials
    from netstore.raft.messages import Message

CLUSTER, ME, OTHER = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)
SECRET = Secret("a token")
MEMBER = MemberInfo(ME, "me", ("http://c:1",), ("http://p:1",), learner=False, promote=False)
MEMBER_LIST = MemberList(CLUSTER, NodeId(0), (MEMBER,))
ASKING = Hello(Purpose.MEMBER_LIST, ClusterId(0), NodeId(0), NodeId(0), "x")


class NearLink:
    """A fake link: records what is sent over it."""

    def __init__(self) -> None:
        self.handler: IncomingStream
        self.open = True
        self.unsent = 0
        self.sent = b""
        self.reason = ""
        self.left: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        self.sent += data

    def later(self, call: Callable[[], None]) -> None:
        assert self.left is None
        self.left = call

    def go_on(self) -> bool:
        """Run the next round; more is read only if this returns False."""
        call, self.left = self.left, None
        if call is not None:
            call()
        return call is not None

    def cut(self, reason: str) -> None:
        if self.open:
            self.open, self.reason, self.left = False, reason, None
            self.handler.gone(reason)


class CalledMember:
    """The owner of a listener: records what it is told."""

    def __init__(self) -> None:
        self.identity = MemberIdentity(CLUSTER, ME, "me")
        self.reactor: Any = None
        self.credentials: Credentials | None = None
        self.clock: Any = self
        self.got: list[Message] = []
        self.read = 0
        self.refused: list[NodeId] = []
        self.notes: list[DigestMessage] = []
        self.asked: list[JoinRequest | None] = []
        self.lines: list[object] = []
        self.now = 0.0
        self.listener = Listener(self, SECRET, Budget(1 << 20))

    def monotonic(self) -> float:
        return self.now

    def member_ids(self) -> set[NodeId]:
        return {ME, OTHER}

    def removed_ids(self) -> set[NodeId]:
        return {NodeId(0xDEAD)}

    def accept_snapshot(self, _link: object, _sender: NodeId) -> None:
        return None

    def stream_opened(self, sender: NodeId) -> None:
        assert sender

    def stream_refused(self, sender: NodeId) -> None:
        self.refused.append(sender)

    def deliver(self, messages: Sequence[Message], size: int, sender: NodeId) -> None:
        assert sender
        self.read += size
        self.got += messages

    def handle_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.asked.append(request)
        if request is None:
            answer(MEMBER_LIST)

    def digest_received(self, sender: NodeId, digest: DigestMessage) -> None:
        assert sender
        self.notes.append(digest)

    def log_change(self, about: object, event: str, **fields: object) -> None:
        self.lines.append((about, event, fields))

    def call(self, address: str = "10.0.0.1") -> NearLink:
        """A caller connects."""
        wire = NearLink()
        stream = IncomingStream(self.listener, address, certified=False)
        stream.link = wire  # type: ignore[assignment] # a link by what is used of it
        wire.handler = stream
        self.listener.unverified[stream] = None
        return wire


def prove(wire: NearLink, hello: Hello) -> None:
    """Do the handshake as a caller that knows the token."""
    said = structs.replace(hello, offer=Offer.TOKEN).encode()
    wire.handler.received(said)
    found = read_answer(wire.sent)
    assert found is not None
    assert isinstance(found[0], Challenge)
    wire.sent = b""
    wire.handler.received(Proof(SECRET.caller_proof(said, found[0].encode())).encode())


def told(wire: NearLink) -> tuple[Welcome, MemberList | None]:
    """The answer to an unverified caller."""
    found = read_answer(wire.sent)
    assert found is not None
    welcome, length = found
    assert isinstance(welcome, Welcome)
    assert welcome.proof == bytes(32), "an unverified caller gets no proof"
    payload = read_frame(wire.sent, 1 << 20, length)
    return welcome, None if payload is None else decode_member_list(payload[0])
