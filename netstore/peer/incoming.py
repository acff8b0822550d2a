"""One stream that another member, or an unverified caller, opened to this one: handshake, then its contents.

A caller is authenticated by a certificate that a trusted authority signed (a TLS listener that asks for one),
else by its answer to a challenge with the cluster's join token (`peer.handshake`). Only an authenticated
stream replaces an earlier one of the same member. Incomplete frames are charged to a budget. How many streams
there may be, and of whom, is decided in `peer.listener`.

An unverified caller may ask for the member list, and for nothing else.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import structs

from netstore.admission import household
from netstore.errors import CorruptData, MustStop
from netstore.peer.dial import DIAL_SECONDS
from netstore.peer.handshake import (
    FIRST_VERSION,
    LOWEST_VERSION,
    NONCE_BYTES,
    RECORDS_VERSION,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Verdict,
    Welcome,
    check_addressee,
    proofs_equal,
)
from netstore.peer.records import TAMPERED
from netstore.peer.wire import (
    MAX_MEMBER_LIST_BYTES,
    PING,
    DigestMessage,
    FrameReader,
    decode_batch,
    decode_join_request,
    encode_document,
    frame,
)
from netstore.raft.messages import Append, Forward, MessageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from netstore.disk.datadir import MemberIdentity
    from netstore.limits import Budget
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Secret
    from netstore.peer.link import Link
    from netstore.peer.wire import JoinRequest, MemberList
    from netstore.raft.messages import Message
    from netstore.seams import Clock
    from netstore.types import NodeId

SILENCE_SECONDS: Final = 5.0
"""A stream on which a member sends nothing for so long, not even a ping, is ended."""

AUTHENTICATION_SECONDS: Final = DIAL_SECONDS
"""How long a caller may take for TLS and handshake together: what a member allows when it dials."""

MAX_UNVERIFIED_REQUEST_BYTES: Final = 4096
"""Largest frame accepted from an unverified caller: a join request with many URLs."""

JOIN_REFUSAL: Final = (
    "joining needs the cluster's join token: netstorectl member token prints it on a machine that has a"
    " member; give it with --join-token-file"
)
"""Answer to a join request of an unverified caller."""

MESSAGES_PER_TURN: Final = 512
"""Frames, messages and forwarded requests of a member that are handled in one turn: about 2 ms. What was read
beyond them is decoded in the next rounds, before more is read.
"""

ENTRIES_PER_MESSAGE: Final = 4
"""This many appended entries count as one more message."""

BYTES_PER_TURN: Final = 256 * 1024
"""The same for the bytes that they propose or append, not counting the last message."""

UNREAD_BYTES: Final = 64 * 1024
"""Replies to pings that a caller may leave unread; and what one may hold of an incomplete frame once the
budget is used up."""

_ONE_REQUEST: Final = "asks more than one thing"


class SnapshotSink(Protocol):
    """The receiver of one snapshot."""

    def received(self, data: bytes) -> None:
        """Part of the stream. CorruptData if it is not valid."""

    def gone(self, reason: str) -> None:
        """The stream has ended."""


class Owner(Protocol):
    """The member that streams are opened to (`peer.peers.Peers`)."""

    identity: MemberIdentity
    reactor: Reactor
    credentials: Credentials | None
    clock: Clock

    def member_ids(self) -> AbstractSet[NodeId]:
        """The members, as far as this one knows."""

    def removed_ids(self) -> AbstractSet[NodeId]:
        """Members that were removed from the cluster."""

    def accept_snapshot(self, link: Link, sender: NodeId) -> SnapshotSink | None:
        """A member is about to send a snapshot; None while another one is being received."""

    def stream_opened(self, sender: NodeId) -> None:
        """A member's stream of messages is open."""

    def stream_refused(self, sender: NodeId) -> None:
        """A stream of a member is cut because of what it sent."""

    def deliver(self, messages: Sequence[Message], size: int, sender: NodeId) -> None:
        """`size` bytes were read from a member, and completed these messages."""

    def handle_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        """A caller asks for the member list, or to join."""

    def digest_received(self, sender: NodeId, digest: DigestMessage) -> None:
        """A member announces the digest of its state."""

    def log_change(self, about: object, event: str, **fields: object) -> None:
        """Log a line unless it is the same as the last one about the same subject."""


class StreamRegistry(Protocol):
    """All streams that callers opened to this member (`peer.listener.Listener`)."""

    owner: Owner
    secret: Secret | None
    """What a caller without a certificate must know; if it is None, no such caller is let in."""
    budget: Budget
    """Incomplete frames are charged to it."""

    def may_handshake(self, stream: IncomingStream) -> bool:
        """Whether a step of its TLS handshake may be done now; if not, `continue_handshake` is called."""

    def may_answer(self) -> bool:
        """Whether one more unverified caller may be sent the member list."""

    def admit(self, stream: IncomingStream, hello: Hello) -> tuple[Verdict, str]:
        """Let the stream of an authenticated caller in, or say why not."""

    def forget(self, stream: IncomingStream) -> None:
        """The stream has ended."""

    def log(self, event: str, address: str, reason: str, **fields: object) -> None:
        """Log a line about a caller; their rate is limited."""


class IncomingStream:
    """A stream that a caller opened to this member. A `peer.link.LinkHandler`."""

    def __init__(self, registry: StreamRegistry, address: str, *, certified: bool) -> None:
        """`certified`: TLS is only established with a certificate that a trusted authority signed."""
        self.link: Link
        self.address = address
        self.network = household(address)
        self.snapshot: SnapshotSink | None = None
        self.deadline = registry.owner.clock.monotonic() + AUTHENTICATION_SECONDS
        """When it will have been silent too long."""
        self.spoke = False
        """Something was received."""
        self._registry = registry
        self._certified = certified
        self._account = registry.budget.account()
        self._hello: Hello | None = None
        self._hello_bytes = b""
        """The hello as it was received."""
        self._challenge: Challenge | None = None
        self._open = False
        """TLS, where it is used, is established."""
        self._admitted = False
        """It is authenticated, and was let in."""
        self._unverified_request = False
        """It is not authenticated, and may ask for the member list."""
        self._requested = False
        """The request of a member list stream was received: there is only one."""
        self._proved = False
        """The caller answered a challenge."""
        self._read = b""
        self._frames = FrameReader()
        self._batch: Iterator[Message] = iter(())
        """The messages of the last frame that were not handled yet."""
        self._batch_size = 0

    @property
    def sender(self) -> NodeId | None:
        """The member that the caller says it is."""
        return None if self._hello is None else self._hello.sender

    @property
    def purpose(self) -> Purpose | None:
        """What the stream was opened for."""
        return None if self._hello is None else self._hello.purpose

    @property
    def stage(self) -> int:
        """How far it got: 0 nothing received, 1 something, 2 TLS established, 3 hello received."""
        return 0 if not self.spoke else 1 + self._open + (self._hello is not None)

    def sends_messages_of(self, sender: NodeId) -> bool:
        """It is this member's stream of messages."""
        return self.purpose is Purpose.MESSAGES and self.sender == sender

    # --- handler of the link

    def opened(self) -> None:
        """See `peer.link.LinkHandler`: the caller sends first."""
        self._open = True

    def flushed(self) -> None:
        """See `peer.link.LinkHandler`: an unverified caller that was answered is closed once it has read."""
        self._charge()
        if self._requested and self._unverified_request:
            self.link.cut("answered")

    def may_handshake(self) -> bool:
        """The gate of its link: whether the TLS handshake may go on now."""
        self.spoke = True
        return self._registry.may_handshake(self)

    def continue_handshake(self) -> None:
        """Its TLS handshake may go on now."""
        self.link.resume(passed=True)

    def received(self, data: bytes) -> None:
        """See `peer.link.LinkHandler`."""
        self.spoke = True
        try:
            if self._admitted or self._unverified_request:
                self._take(data)
            else:
                self._take_greeting(data)
        except MustStop:
            raise
        except (CorruptData, MessageRefused) as fault:
            self._cut(fault)

    def _cut(self, fault: Exception) -> None:
        if self._admitted and self._hello is not None:
            self._registry.owner.stream_refused(self._hello.sender)
        self._registry.log("peer_cut", self.address, str(fault))
        self.link.cut(str(fault))

    def gone(self, reason: str) -> None:
        """See `peer.link.LinkHandler`. Connections closed before a hello are not logged, except for TLS
        failures.
        """
        self._account.close()
        self._batch = iter(())
        self._registry.forget(self)
        if self._hello is None and reason.startswith("TLS: "):
            self._registry.log("peer_refused", self.address, reason)
        elif reason.startswith(TAMPERED):
            self._registry.log("peer_cut", self.address, reason)
        if self.snapshot is not None:
            self.snapshot.gone(reason)

    # --- handshake, called side

    def _take_greeting(self, data: bytes) -> None:
        """A hello or a proof. If a proof is needed, the caller may send nothing more before it was answered;
        else what follows is short.
        """
        self._read += data
        if self._hello is None:
            found = Hello.read(self._read)
            if found is None:
                return
            read, self._read = self._read, b""
            hello, length = found
            rest = read[length:]
            if rest and hello.offer is not Offer.NOTHING:
                raise CorruptData("more was sent after a greeting, before the answer")
            self._hello_bytes, self._hello = read, hello
            self._answer_hello(hello)
            if rest and (self._admitted or self._unverified_request):
                self._take(rest)
        else:
            proof = Proof.read(self._read)
            if proof is None:
                return
            read, self._read = self._read, b""
            if len(read) != proof[1] or self._challenge is None:
                raise CorruptData("more was sent after a proof, before the answer")
            self._check(self._hello, proof[0], self._challenge)

    def _answer_hello(self, hello: Hello) -> None:
        own = self._registry.owner.identity
        verdict, text = check_addressee(hello, own.cluster_id, own.member_id)
        if verdict is not Verdict.ACCEPTED:
            self._refuse(verdict, text)
        elif self._certified and hello.offer is not Offer.TOKEN:
            self._admit(hello)
        elif hello.offer is Offer.NOTHING:
            self._accept_unverified(hello)
        elif self._registry.secret is None:
            self._refuse(Verdict.NOT_PROVED, "this member has no join token to compare with: give it one")
        else:
            nonce = secrets.token_bytes(NONCE_BYTES)
            self._challenge = Challenge(own.cluster_id, own.member_id, nonce, hello.version)
            self.link.write(self._challenge.encode())

    def _check(self, hello: Hello, proof: Proof, challenge: Challenge) -> None:
        secret = self._registry.secret
        if secret is not None and proofs_equal(
            proof.proof, secret.caller_proof(self._hello_bytes, challenge.encode())
        ):
            self._proved = True
            self._admit(hello)
        else:
            self._refuse(Verdict.NOT_PROVED, "does not know the join token of this cluster")

    def _admit(self, hello: Hello) -> None:
        verdict, text = self._registry.admit(self, hello)
        if verdict is not Verdict.ACCEPTED:
            self._refuse(verdict, text)
            return
        self._admitted = True
        self.deadline = self._registry.owner.clock.monotonic() + SILENCE_SECONDS
        if hello.purpose is Purpose.MEMBER_LIST:
            self._frames = FrameReader(MAX_MEMBER_LIST_BYTES)
        elif hello.purpose is Purpose.SNAPSHOT:
            self.deadline = float("inf")  # its receiver has time limits of its own
        self._welcome(Verdict.ACCEPTED, "")
        secret = self._registry.secret
        if secret is not None and self._challenge is not None and hello.version >= RECORDS_VERSION:
            self.link.use_records(secret.called_records(self._hello_bytes, self._challenge.encode()))
        if hello.purpose is Purpose.MESSAGES:
            self._registry.owner.stream_opened(hello.sender)

    def _refuse(self, verdict: Verdict, text: str) -> None:
        if self._hello is not None and self._hello.highest == FIRST_VERSION:
            own = self._registry.owner.identity
            welcome = Welcome(verdict, own.cluster_id, own.member_id, text, version=FIRST_VERSION)
            self.link.write(welcome.encode())
        else:
            self._welcome(verdict, text)
        self._registry.log("peer_refused", self.address, text, peer=f"{self.sender or 0:x}")
        self.link.cut("refused")

    def _welcome(self, verdict: Verdict, text: str) -> None:
        own, secret = self._registry.owner.identity, self._registry.secret
        version = LOWEST_VERSION if self._hello is None else self._hello.version
        welcome = Welcome(verdict, own.cluster_id, own.member_id, text, version=version)
        # An unverified caller gets no proof: it could test guesses of the token against it.
        if self._proved and self._challenge is not None and secret is not None:
            proof = secret.called_proof(self._hello_bytes, self._challenge.encode(), welcome.without_proof())
            welcome = structs.replace(welcome, proof=proof)
        self.link.write(welcome.encode())

    # --- member list streams

    def _accept_unverified(self, hello: Hello) -> None:
        if hello.purpose is not Purpose.MEMBER_LIST:
            self._refuse(Verdict.NOT_PROVED, "offers no proof that it is a member")
        elif not self._registry.may_answer():
            self._refuse(Verdict.BUSY, "too many others ask at once")
        else:
            self._unverified_request = True
            self._frames = FrameReader(MAX_UNVERIFIED_REQUEST_BYTES)
            self._welcome(Verdict.ACCEPTED, "")

    def _take_request(self) -> None:
        payload = self._frames.take()
        if payload is None:
            return
        if self._frames.held:
            raise CorruptData(_ONE_REQUEST)
        self._requested = True
        request = decode_join_request(payload)
        owner = self._registry.owner
        if not self._unverified_request:
            self.deadline = float("inf")  # the answer has a time limit
            owner.handle_join(request, self._answer)
        elif request is None:
            owner.handle_join(None, self._answer)
        else:
            self._registry.log("peer_refused", self.address, "wants to join, and offers no proof")
            owner.handle_join(
                None, lambda members: self._answer(structs.replace(members, refusal=JOIN_REFUSAL))
            )

    def _answer(self, members: MemberList) -> None:
        self.link.write(frame(encode_document(members)))
        self._charge()
        if not self._unverified_request:
            self.deadline = self._registry.owner.clock.monotonic() + SILENCE_SECONDS
        elif not self.link.unsent:
            self.link.cut("answered")

    def _charge(self) -> None:
        self._account.hold(self._frames.held + self._batch_size + self.link.unsent)

    # --- what follows the handshake

    def _take(self, data: bytes) -> None:
        hello, owner = self._hello, self._registry.owner
        if hello is None:
            return
        if self.snapshot is not None:
            self.snapshot.received(data)
            return
        if self._requested:
            raise CorruptData(_ONE_REQUEST)
        if not self._unverified_request:
            self.deadline = owner.clock.monotonic() + SILENCE_SECONDS
        self._frames.add(data)
        if hello.purpose is Purpose.MEMBER_LIST:
            self._take_request()
            self._charge_frames()
            return
        self._take_messages(hello, len(data))

    def _take_rest(self) -> None:
        """Handle more of what was read, in a later turn."""
        if self._hello is None:
            return
        self.deadline = self._registry.owner.clock.monotonic() + SILENCE_SECONDS
        try:
            self._take_messages(self._hello, 0)
        except MustStop:
            raise
        except (CorruptData, MessageRefused) as fault:
            self._cut(fault)

    def _take_messages(self, hello: Hello, size: int) -> None:
        """Handle the next messages, up to the limits of a turn. `size` bytes were read."""
        owner, frames = self._registry.owner, self._frames
        messages: list[Message] = []
        count = taken = pings = 0
        while True:
            for message in self._batch:
                if message.sender != hello.sender:
                    raise CorruptData(
                        f"message of member {message.sender:x} in the stream of {hello.sender:x}"
                    )
                messages.append(message)
                count += _parts(message)
                taken += _weight(message)
                if count >= MESSAGES_PER_TURN or taken >= BYTES_PER_TURN:
                    break
            else:
                self._batch_size = 0
            if count >= MESSAGES_PER_TURN or taken >= BYTES_PER_TURN:
                self.link.later(self._take_rest)
                break
            payload = frames.take()
            if payload is None:
                break
            count += 1
            if payload:
                self._take_frame(hello, payload)
            else:
                pings += 1
        if pings:
            if self.link.unsent > UNREAD_BYTES:
                raise CorruptData("sends pings and does not take the answers")
            self.link.write(PING * pings)
        self._charge_frames()
        owner.deliver(messages, size, hello.sender)

    def _take_frame(self, hello: Hello, payload: bytes) -> None:
        digest = DigestMessage.decode(payload)
        if digest is None:
            self._batch, self._batch_size = decode_batch(payload), len(payload)
        else:
            self._registry.owner.digest_received(hello.sender, digest)

    def _charge_frames(self) -> None:
        """Charge buffered frames, and end the stream if the budget is used up. The budget is that of members
        alone: what clients hold must not cut members off from each other. A frame that is larger than the
        budget is still received if it is the only one.
        """
        self._charge()
        budget, held = self._registry.budget, self._frames.held
        if not self._frames.has_pending and held > UNREAD_BYTES and held < budget.used > budget.limit:
            raise CorruptData("too many bytes of frames that are not complete are held")


def _parts(message: Message) -> int:
    """How many messages it counts as."""
    if type(message) is Append:
        return 1 + len(message.entries) // ENTRIES_PER_MESSAGE
    return len(message.payloads) if type(message) is Forward else 1


def _weight(message: Message) -> int:
    """Bytes that it proposes or appends."""
    if type(message) is Append:
        return sum(len(entry.data) for entry in message.entries)
    return sum(map(len, message.payloads)) if type(message) is Forward else 0
