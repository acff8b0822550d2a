"""Streams that others open to this member: who is let in, what a stranger may cost, what members say here.

Whoever has not proved that it is a member is a stranger. It gets `PROVE_SECONDS`, and may make this member
hold one greeting. Strangers have a bound of their own, and when it is reached the least promising goes: of a
crowd at one network, or else whoever came least far (`Guests.make_room`). So they keep out each other, and
never a member. Work on TLS handshakes is rationed, because each costs about a millisecond.

A certificate that a trusted authority signed proves a caller (a TLS listener that asks for one); elsewhere it
must answer a challenge with the cluster's join token (`peer.handshake`). Only what proved itself takes the
place of an earlier stream of the same member. Frames that are not complete are charged to a budget.

A stranger that offers no proof may ask one thing, who is in the cluster: the client port tells anybody that
too. It stays a stranger, with a stranger's bounds.
"""

from __future__ import annotations

import secrets
import select
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import structs

from netstore.admission import household
from netstore.errors import CorruptData, MustStop
from netstore.net.accept import CannotAccept, accept
from netstore.net.allowance import Allowance
from netstore.peer.dial import DIAL_SECONDS
from netstore.peer.handshake import NONCE_BYTES, same
from netstore.peer.link import Link
from netstore.peer.seal import ALTERED
from netstore.peer.wire import (
    FIRST_VERSION,
    LOWEST_VERSION,
    MAX_ROSTER_BYTES,
    PING,
    SEALED_VERSION,
    Challenge,
    Frames,
    Hello,
    Offer,
    Proof,
    Purpose,
    StateNote,
    Verdict,
    Welcome,
    decode_application,
    decode_batch,
    encode_document,
    frame,
    judge,
)
from netstore.raft.messages import Append, Forward, MessageRefused

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from netstore.disk.datadir import MemberIdentity
    from netstore.limits import Budget
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Secret
    from netstore.peer.wire import Application, Roster
    from netstore.raft.messages import Message
    from netstore.seams import Clock
    from netstore.types import NodeId

SILENCE_SECONDS: Final = 5.0
"""A member that sends nothing for so long, not even a ping, is hung up on."""

PROVE_SECONDS: Final = DIAL_SECONDS
"""How long a caller may take for TLS and its proof together: what a member gives its own calls."""

MAX_STRANGERS: Final = 128
"""Streams of callers that have not proved who they are."""

MAX_STRANGERS_AT_ONE: Final = 64
"""The same of one network (`admission.household`)."""

CROWD: Final = 8
"""Strangers of one network above which they pay for a newcomer elsewhere: more streams than a machine with
members opens at once."""

MAX_ASKING: Final = 16
"""Roster streams of those who proved themselves that may be open at once, each for the seconds that letting
somebody in takes; and as many strangers may be slow to take the answer."""

MAX_QUESTION_BYTES: Final = 4096
"""Largest frame of a stranger, who may ask who is in the cluster: an application with many addresses."""

ANSWERS_PER_SECOND: Final = 100
"""Strangers that are told who is in the cluster, over time."""

ANSWERS_BURST: Final = 100

JOINING_NEEDS: Final = (
    "joining needs the cluster's join token: netstorectl member token prints it on a machine that has a"
    " member; give it with --join-token-file"
)
"""What a stranger is told that wants to be let in."""

MAX_UNLISTED: Final = 16
"""Message streams of proved members that the list here does not have: this member may be the one that is
behind."""

MAX_GUESTS: Final = MAX_STRANGERS + MAX_ASKING + MAX_UNLISTED + 256
"""Descriptors that are kept for streams opened here: one for each that the bounds above allow, and two for
each of 128 members, more than a cluster has."""

ACCEPTS_AT_ONCE: Final = 4
"""Connections accepted in one round of the reactor: who calls in a crowd gets many rounds to prove itself
before the crowd behind it could push it out."""

HANDSHAKES_PER_SECOND: Final = 200
"""Steps of TLS handshakes done for strangers; more wait. Signing takes about a millisecond each."""

HANDSHAKE_BURST: Final = 100

TAKEN_MESSAGES: Final = 512
"""Frames, messages and forwarded requests of a member that are taken in one turn: about 2 ms. What was read
beside them is taken apart in the next rounds, before more is read.
"""

ENTRIES_A_MESSAGE: Final = 4
"""So many entries that are appended count as one more of them."""

TAKEN_BYTES: Final = 256 * 1024
"""The same for bytes of what they propose or append, without the last message."""

UNREAD_BYTES: Final = 64 * 1024
"""Answers to pings that a caller may leave unread; and what one may hold of a frame when the budget is
spent."""

LINES_PER_SECOND: Final = 1.0
"""Log lines about callers, over time; what strangers do must not fill a disk."""

LINES_BURST: Final = 20

_ONE_QUESTION: Final = "asks more than one thing"
_BACKLOG: Final = 1024
_IN: Final = select.EPOLLIN


class Incoming(Protocol):
    """One state copy that is being received."""

    def received(self, data: bytes) -> None:
        """Part of the stream. CorruptData when it makes no sense."""

    def gone(self, reason: str) -> None:
        """The stream is over."""


class Home(Protocol):
    """The member that is called (`peer.outgoing.Peers`)."""

    identity: MemberIdentity
    reactor: Reactor
    credentials: Credentials | None
    clock: Clock

    def listed(self) -> AbstractSet[NodeId]:
        """Members, as far as this one knows."""

    def removed(self) -> AbstractSet[NodeId]:
        """Who was removed from the cluster."""

    def copy_comes(self, link: Link, sender: NodeId) -> Incoming | None:
        """A member is about to send a state copy; None while another is on its way."""

    def came(self, sender: NodeId) -> None:
        """A member's stream of messages is open."""

    def deliver(self, messages: Sequence[Message], size: int) -> None:
        """`size` bytes of a member were read, and completed these messages."""

    def apply(self, application: Application | None, answer: Callable[[Roster], None]) -> None:
        """Somebody asks who is in the cluster, or to be let in."""

    def noted(self, sender: NodeId, note: StateNote) -> None:
        """A member says what its state was."""

    def note(self, about: object, event: str, **fields: object) -> None:
        """Log a line unless the last one about the same said the same."""


class Guests:
    """All streams that others opened to this member. Everything is a plain call on the loop."""

    def __init__(self, home: Home, secret: Secret | None, budget: Budget) -> None:
        """`secret` is what a caller without a certificate must know; without one nobody can. Frames that are
        not complete count in `budget`.
        """
        self.home = home
        self.secret = secret
        self.budget = budget
        self.members: dict[Guest, None] = {}
        """Streams of those who proved themselves."""
        self.strangers: dict[Guest, None] = {}
        """The others, oldest first."""
        self._listeners: dict[socket.socket, Callable[[int], None]] = {}
        self._resting: list[socket.socket] = []
        self._shaking: dict[Guest, None] = {}
        """Strangers whose handshake waits for its turn."""
        now = home.clock.monotonic()
        self._handshakes = Allowance(HANDSHAKE_BURST, now, HANDSHAKES_PER_SECOND)
        self._lines = Allowance(LINES_BURST, now, LINES_PER_SECOND)
        self._answers = Allowance(ANSWERS_BURST, now, ANSWERS_PER_SECOND)

    # --- accepting

    def listen(self, sock: socket.socket, *, tls: bool) -> None:
        """Take streams on this bound socket, which is owned here from now on."""
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        self._listeners[sock] = lambda _: self._accept(sock, tls=tls)
        self._attend(sock)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open streams go on."""
        for sock in self._listeners:
            self.home.reactor.dismiss(sock.fileno())
            sock.close()
        self._listeners.clear()
        self._resting.clear()

    def close(self) -> None:
        """Hang up on all."""
        self.stop_accepting()
        for guest in (*self.members, *self.strangers):
            guest.link.cut("this member stops")

    def _attend(self, sock: socket.socket) -> None:
        self.home.reactor.attend(sock.fileno(), _IN, self._listeners[sock], self._not_taken)

    def _not_taken(self, fault: Exception) -> None:
        """Nothing could be made of a caller; its socket closes with the last that knows it."""
        self.tell("guest_refused", "", repr(fault))

    def _accept(self, listener: socket.socket, *, tls: bool) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted = accept(listener)
            except CannotAccept as why:  # it would be told again at once, and again
                self.tell("guest_refused", "", str(why))
                self.home.reactor.dismiss(listener.fileno())
                self._resting.append(listener)
                return
            if accepted is None:
                return
            sock, address = accepted
            self._take_in(sock, str(address[0]), tls=tls)

    def _take_in(self, sock: socket.socket, address: str, *, tls: bool) -> None:
        self.make_room(address)
        credentials = self.home.credentials if tls else None
        context = None if credentials is None else credentials.server()
        guest = Guest(self, address, certified=credentials is not None and credentials.client_auth)
        guest.link = Link(self.home.reactor, sock, guest, context, gate=guest.may_shake)
        self.strangers[guest] = None
        guest.link.start()

    def make_room(self, address: str) -> None:
        """Let a stranger go if another one at `address` would be too many.

        One of a network that has as many as it may have, else of the one that has most, if that is a crowd;
        else anybody. Of those it is who came least far, and then of the network that has most.
        """
        if len(self.strangers) < MAX_STRANGERS_AT_ONE:
            return
        counts = Counter(guest.network for guest in self.strangers)
        network = household(address)
        if counts[network] < MAX_STRANGERS_AT_ONE:
            if len(self.strangers) < MAX_STRANGERS:
                return
            network = counts.most_common(1)[0][0]
        crowd = counts[network] > CROWD
        there = [guest for guest in self.strangers if not crowd or guest.network == network]
        least = min(there, key=lambda guest: (guest.stage, -counts[guest.network]))
        least.link.cut("too many callers that have not proved who they are")

    # --- time

    def look(self) -> None:
        """Hang up on the late and the removed, accept again. Called a few times a second."""
        now, removed = self.home.clock.monotonic(), self.home.removed()
        for guest in [guest for guest in (*self.strangers, *self.members) if guest.deadline < now]:
            guest.link.cut("nothing was heard in time")
        for guest in [guest for guest in self.members if guest.sender in removed]:
            guest.link.cut("removed from the cluster")
        while self._shaking and self._handshakes.take(now):
            first = next(iter(self._shaking))
            del self._shaking[first]
            first.shake()
        resting, self._resting = self._resting, []
        for sock in resting:
            try:
                self._attend(sock)
            except OSError as fault:  # no memory for it in the kernel, or too much is watched
                self.tell("guest_refused", "", fault.strerror or str(fault))
                self._resting.append(sock)

    # --- for guests

    def may_shake(self, guest: Guest) -> bool:
        """Whether a step of its TLS handshake may be done now; else it is done when its turn comes."""
        if not self._shaking and self._handshakes.take(self.home.clock.monotonic()):
            return True
        self._shaking[guest] = None
        return False

    def may_ask(self) -> bool:
        """Whether one more stranger may be told who is in the cluster."""
        owed = sum(guest.link.unsent > 0 for guest in self.strangers)
        return owed < MAX_ASKING and self._answers.take(self.home.clock.monotonic())

    def tell(self, event: str, address: str, reason: str, **fields: object) -> None:
        """Log a line about a caller, unless too many were logged, or the last one said the same."""
        if self._lines.take(self.home.clock.monotonic()):
            told = {"address": address} if address else {}
            self.home.note(("guest", address, event), event, **told, **fields, reason=reason)

    def enter(self, guest: Guest, hello: Hello) -> tuple[Verdict, str]:
        """Who proved itself asks for a stream: take it in, or say why not."""
        home, sender = self.home, hello.sender
        if sender in home.removed():
            return Verdict.REMOVED, f"member {sender:x} was removed from the cluster"
        if hello.purpose is Purpose.IMAGE:
            guest.copy = home.copy_comes(guest.link, sender)
            if guest.copy is None:
                return Verdict.BUSY, "another state copy is being received"
        elif hello.purpose is Purpose.ROSTER:
            if sum(other.purpose is Purpose.ROSTER for other in self.members) >= MAX_ASKING:
                return Verdict.BUSY, "too many others ask at once"
        else:
            for other in [other for other in self.members if other.sends_messages_of(sender)]:
                other.link.cut("called again")
            listed = home.listed()
            if sender not in listed:
                unlisted = (each for each in self.members if each.purpose is Purpose.MESSAGES)
                if sum(each.sender not in listed for each in unlisted) >= MAX_UNLISTED:
                    return Verdict.BUSY, "too many members call that are in no list here"
        del self.strangers[guest]
        self.members[guest] = None
        return Verdict.ACCEPTED, ""

    def leave(self, guest: Guest) -> None:
        """A guest is gone."""
        self.strangers.pop(guest, None)
        self.members.pop(guest, None)
        self._shaking.pop(guest, None)


class Guest:
    """A stream that somebody opened to this member. A `peer.link.Party`."""

    def __init__(self, guests: Guests, address: str, *, certified: bool) -> None:
        """`certified`: the stream opens only for a certificate that a trusted authority signed."""
        self.link: Link
        self.address = address
        self.network = household(address)
        self.copy: Incoming | None = None
        self.deadline = guests.home.clock.monotonic() + PROVE_SECONDS
        """When it will have been silent too long."""
        self.spoke = False
        """Something came from it."""
        self._guests = guests
        self._certified = certified
        self._account = guests.budget.account()
        self._hello: Hello | None = None
        self._said = b""
        """The hello as it came."""
        self._challenge: Challenge | None = None
        self._open = False
        """It may speak: its TLS, if there is any, is there."""
        self._entered = False
        self._asks = False
        """It offered no proof, and may ask who is in the cluster."""
        self._asked = False
        """Its question is here: there is one on a roster stream."""
        self._proved = False
        """It answered a challenge."""
        self._read = b""
        self._frames = Frames()
        self._batch: Iterator[Message] = iter(())
        """What was not taken yet of the last frame."""
        self._batch_size = 0

    @property
    def sender(self) -> NodeId | None:
        """Who it says it is."""
        return None if self._hello is None else self._hello.sender

    @property
    def purpose(self) -> Purpose | None:
        """What for."""
        return None if self._hello is None else self._hello.purpose

    @property
    def stage(self) -> int:
        """How far it came: silent, speaking, through with its TLS, greeted."""
        return 0 if not self.spoke else 1 + self._open + (self._hello is not None)

    def sends_messages_of(self, sender: NodeId) -> bool:
        """It is this member's stream of messages."""
        return self.purpose is Purpose.MESSAGES and self.sender == sender

    # --- a party of its link

    def opened(self) -> None:
        """See `peer.link.Party`: who called speaks first."""
        self._open = True

    def flushed(self) -> None:
        """See `peer.link.Party`: only the end of a stranger that was answered waits for it."""
        self._charge()
        if self._asked and self._asks:
            self.link.cut("answered")

    def may_shake(self) -> bool:
        """See `peer.link.Link`: a handshake goes on when there is time for it."""
        self.spoke = True
        return self._guests.may_shake(self)

    def shake(self) -> None:
        """Its handshake may go on now."""
        self.link.resume(passed=True)

    def received(self, data: bytes) -> None:
        """See `peer.link.Party`."""
        self.spoke = True
        try:
            if self._entered or self._asks:
                self._take(data)
            else:
                self._greet(data)
        except MustStop:
            raise
        except (CorruptData, MessageRefused) as fault:
            self._cut(fault)

    def _cut(self, fault: Exception) -> None:
        self._guests.tell("peer_cut", self.address, str(fault))
        self.link.cut(str(fault))

    def gone(self, reason: str) -> None:
        """See `peer.link.Party`. A port that is only knocked at is no news."""
        self._account.close()
        self._batch = iter(())
        self._guests.leave(self)
        if self._hello is None and reason.startswith("TLS: "):
            self._guests.tell("peer_refused", self.address, reason)
        elif reason.startswith(ALTERED):
            self._guests.tell("peer_cut", self.address, reason)
        if self.copy is not None:
            self.copy.gone(reason)

    # --- who it is

    def _greet(self, data: bytes) -> None:
        """What has to be proved may be followed by nothing before it was answered; else little is held."""
        self._read += data
        if self._hello is None:
            found = Hello.read(self._read)
            if found is None:
                return
            said, self._read = self._read, b""
            hello, length = found
            rest = said[length:]
            if rest and hello.offer is not Offer.NOTHING:
                raise CorruptData("a greeting is followed by more before it was answered")
            self._said, self._hello = said, hello
            self._judge(hello)
            if rest and (self._entered or self._asks):
                self._take(rest)
        else:
            proof = Proof.read(self._read)
            if proof is None:
                return
            said, self._read = self._read, b""
            if len(said) != proof[1] or self._challenge is None:
                raise CorruptData("a proof is followed by more before it was answered")
            self._check(self._hello, proof[0], self._challenge)

    def _judge(self, hello: Hello) -> None:
        """What needs no proof: does it mean this member at all?"""
        own = self._guests.home.identity
        verdict, text = judge(hello, own.cluster_id, own.member_id)
        if verdict is not Verdict.ACCEPTED:
            self._refuse(verdict, text)
        elif self._certified and hello.offer is not Offer.TOKEN:
            self._enter(hello)
        elif hello.offer is Offer.NOTHING:
            self._be_asked(hello)
        elif self._guests.secret is None:
            self._refuse(Verdict.NOT_PROVED, "this member has no join token to compare with: give it one")
        else:
            nonce = secrets.token_bytes(NONCE_BYTES)
            self._challenge = Challenge(own.cluster_id, own.member_id, nonce, hello.version)
            self.link.write(self._challenge.encode())

    def _check(self, hello: Hello, proof: Proof, challenge: Challenge) -> None:
        secret = self._guests.secret
        if secret is not None and same(proof.proof, secret.caller(self._said, challenge.encode())):
            self._proved = True
            self._enter(hello)
        else:
            self._refuse(Verdict.NOT_PROVED, "does not know the join token of this cluster")

    def _enter(self, hello: Hello) -> None:
        verdict, text = self._guests.enter(self, hello)
        if verdict is not Verdict.ACCEPTED:
            self._refuse(verdict, text)
            return
        self._entered = True
        self.deadline = self._guests.home.clock.monotonic() + SILENCE_SECONDS
        if hello.purpose is Purpose.ROSTER:
            self._frames = Frames(MAX_ROSTER_BYTES)
        elif hello.purpose is Purpose.IMAGE:
            self.deadline = float("inf")  # it has time limits of its own
        self._answer(Verdict.ACCEPTED, "")
        secret = self._guests.secret
        if secret is not None and self._challenge is not None and hello.version >= SEALED_VERSION:
            self.link.seal(secret.called_seal(self._said, self._challenge.encode()))
        if hello.purpose is Purpose.MESSAGES:
            self._guests.home.came(hello.sender)

    def _refuse(self, verdict: Verdict, text: str) -> None:
        if self._hello is not None and self._hello.highest == FIRST_VERSION:
            own = self._guests.home.identity
            told = Welcome(verdict, own.cluster_id, own.member_id, text, version=FIRST_VERSION)
            self.link.write(told.encode())
        else:
            self._answer(verdict, text)
        self._guests.tell("peer_refused", self.address, text, peer=f"{self.sender or 0:x}")
        self.link.cut("refused")

    def _answer(self, verdict: Verdict, text: str) -> None:
        own, secret = self._guests.home.identity, self._guests.secret
        version = LOWEST_VERSION if self._hello is None else self._hello.version
        welcome = Welcome(verdict, own.cluster_id, own.member_id, text, version=version)
        # A stranger gets nothing that the token could be found with by trying.
        if self._proved and self._challenge is not None and secret is not None:
            proof = secret.called(self._said, self._challenge.encode(), welcome.unproved())
            welcome = structs.replace(welcome, proof=proof)
        self.link.write(welcome.encode())

    # --- the question of a roster stream

    def _be_asked(self, hello: Hello) -> None:
        if hello.purpose is not Purpose.ROSTER:
            self._refuse(Verdict.NOT_PROVED, "offers no proof that it is a member")
        elif not self._guests.may_ask():
            self._refuse(Verdict.BUSY, "too many others ask at once")
        else:
            self._asks = True
            self._frames = Frames(MAX_QUESTION_BYTES)
            self._answer(Verdict.ACCEPTED, "")

    def _hear_question(self) -> None:
        payload = self._frames.take()
        if payload is None:
            return
        if self._frames.held:
            raise CorruptData(_ONE_QUESTION)
        self._asked = True
        application = decode_application(payload)
        home = self._guests.home
        if not self._asks:
            self.deadline = float("inf")  # the answer has a time limit
            home.apply(application, self._tell)
        elif application is None:
            home.apply(None, self._tell)
        else:
            self._guests.tell("peer_refused", self.address, "wants to join, and offers no proof")
            home.apply(None, lambda roster: self._tell(structs.replace(roster, refusal=JOINING_NEEDS)))

    def _tell(self, roster: Roster) -> None:
        self.link.write(frame(encode_document(roster)))
        self._charge()
        if not self._asks:
            self.deadline = self._guests.home.clock.monotonic() + SILENCE_SECONDS
        elif not self.link.unsent:
            self.link.cut("answered")

    def _charge(self) -> None:
        self._account.hold(self._frames.held + self._batch_size + self.link.unsent)

    # --- what it says

    def _take(self, data: bytes) -> None:
        hello, home = self._hello, self._guests.home
        if hello is None:
            return
        if self.copy is not None:
            self.copy.received(data)
            return
        if self._asked:
            raise CorruptData(_ONE_QUESTION)
        if not self._asks:
            self.deadline = home.clock.monotonic() + SILENCE_SECONDS
        self._frames.add(data)
        if hello.purpose is Purpose.ROSTER:
            self._hear_question()
            self._hold()
            return
        self._take_messages(hello, len(data))

    def _go_on(self) -> None:
        """Take more of what was read."""
        if self._hello is None:
            return
        self.deadline = self._guests.home.clock.monotonic() + SILENCE_SECONDS
        try:
            self._take_messages(self._hello, 0)
        except MustStop:
            raise
        except (CorruptData, MessageRefused) as fault:
            self._cut(fault)

    def _take_messages(self, hello: Hello, size: int) -> None:
        """Take the next messages, until it is enough for one turn. `size` bytes were read."""
        home, frames = self._guests.home, self._frames
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
                if count >= TAKEN_MESSAGES or taken >= TAKEN_BYTES:
                    break
            else:
                self._batch_size = 0
            if count >= TAKEN_MESSAGES or taken >= TAKEN_BYTES:
                self.link.later(self._go_on)
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
        self._hold()
        home.deliver(messages, size)

    def _take_frame(self, hello: Hello, payload: bytes) -> None:
        note = StateNote.decode(payload)
        if note is None:
            self._batch, self._batch_size = decode_batch(payload), len(payload)
        else:
            self._guests.home.noted(hello.sender, note)

    def _hold(self) -> None:
        """Charge what is held of frames. Its own share counts alone: what clients hold must not cut members
        off from each other. And a frame that is larger than the share still comes through, if it is the only
        one.
        """
        self._charge()
        budget, held = self._guests.budget, self._frames.held
        if not self._frames.more and held > UNREAD_BYTES and held < budget.used > budget.limit:
            raise CorruptData("too many bytes of frames that are not complete are held")


def _parts(message: Message) -> int:
    """What it counts as."""
    if type(message) is Append:
        return 1 + len(message.entries) // ENTRIES_A_MESSAGE
    return len(message.payloads) if type(message) is Forward else 1


def _weight(message: Message) -> int:
    """Bytes of what is proposed or appended."""
    if type(message) is Append:
        return sum(len(entry.data) for entry in message.entries)
    return sum(map(len, message.payloads)) if type(message) is Forward else 0
