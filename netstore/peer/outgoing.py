"""The other members: a stream to each; the streams they open here are in `peer.incoming`.

Messages to a member flow one way, on the stream this member opened; its answers come on the one it opened.
What the loop decides to send in a turn is written to the sockets in that turn (`peer.link`); what comes in is
given to the host once for each read. A peer that does not take what it is sent costs `OUTBOX_BYTES`, then
messages to it are dropped and Raft is told; one that is silent too long is hung up on, and called again
later. Nothing here blocks.

A refusal or a failed call is logged once for each peer and reason, until it changes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore import __version__
from netstore.errors import CorruptData, MustStop
from netstore.peer.dial import Call, CallFailed, call
from netstore.peer.incoming import SILENCE_SECONDS, Guests
from netstore.peer.wire import (
    LOWEST_VERSION,
    PING,
    REFUSING_VERSION,
    Frames,
    Hello,
    Purpose,
    StateNote,
    Verdict,
    encode_batch,
)
from netstore.raft.messages import Append, ForwardRefused, InstallSnapshot

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from netstore.disk.datadir import MemberIdentity
    from netstore.limits import Budget
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Secret
    from netstore.peer.incoming import Incoming
    from netstore.peer.link import Link
    from netstore.peer.wire import Application, Roster
    from netstore.raft.messages import Message
    from netstore.seams import Clock
    from netstore.types import Index, NodeId

    Directory = Callable[[], tuple[Mapping[NodeId, Sequence[str]], AbstractSet[NodeId]]]
    """Gives where every member is reached, and who was removed."""

    Register = Callable[["Application | None", Callable[["Roster"], None]], None]
    """Answers who is in the cluster, after an application was dealt with."""

OUTBOX_BYTES: Final = 64 * 1024 * 1024
"""Unsent bytes for one peer beyond which messages to it are dropped; Raft's own window is a quarter of it."""

PING_SECONDS: Final = 1.0

FIRST_PAUSE_SECONDS: Final = 0.05

LONGEST_PAUSE_SECONDS: Final = 1.0
"""Between two calls to a peer: doubles from the first to the longest, less a random half. A peer that calls
here is called back at once."""

MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""Bytes of frames that are not complete yet, of all members together: two of the largest."""

LOOK_SECONDS: Final = 0.1
"""How often the list of members is looked at, and streams for silence."""

MOST_ANSWERS: Final = 512
"""Answers to pings that are taken in one read; one ping is on its way at a time."""

_NOTES: Final = 256


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> None:
        """One line."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


class Receiver(Protocol):
    """This member, as its peers reach it (`node.host.Host`)."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages have come. MessageRefused for one that cannot be true; those before it were taken."""

    def unreachable(self, peer: NodeId) -> None:
        """Messages to this peer were lost."""


class Copies(Protocol):
    """Who sends and takes state copies (`peer.snapshots`)."""

    def request(self, message: InstallSnapshot) -> None:
        """Raft wants a copy sent to `message.to`."""

    def incoming(self, link: Link, sender: NodeId) -> Incoming | None:
        """A peer is about to send a copy; None while another is on its way."""


@dataclass(slots=True)
class Traffic:
    """What went to other members and came from them since this one started; state copies are not counted."""

    appends_received: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    appends_sent: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class RoundTrip:
    """The way to one member and back, in seconds, as pings measured it since this member started."""

    successes: int = 0
    failures: int = 0
    current: float = 0.0
    average: float = 0.0
    least: float = 0.0
    most: float = 0.0
    _squares: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._squares / self.successes) if self.successes else 0.0

    def add(self, seconds: float) -> None:
        """One more was measured (the running sums are Welford's)."""
        self.successes += 1
        apart = seconds - self.average
        self.current = seconds
        self.average += apart / self.successes
        self._squares += apart * (seconds - self.average)
        self.least = min(self.least, seconds) if self.successes > 1 else seconds
        self.most = max(self.most, seconds)


class Peers:
    """Everybody this member talks to. `send` is what the host is given; `run` is the task."""

    def __init__(
        self,
        *,
        identity: MemberIdentity,
        reactor: Reactor,
        credentials: Credentials | None,
        directory: Directory,
        register: Register,
        expelled: Callable[[str], None],
        noted: Callable[[NodeId, Index, bytes], None],
        clock: Clock,
        log: Log,
        secret: Secret | None,
        budget: Budget,
    ) -> None:
        """`expelled` is called when peers say that this member was removed, `noted` with what a peer says its
        state was. `secret` is made of the cluster's join token, where it has one. What waits to be sent or to
        be completed counts in `budget`.
        """
        self.identity = identity
        self.reactor = reactor
        self.credentials = credentials
        self.secret = secret
        self.budget = budget
        self.clock = clock
        self.log = log
        self.traffic = Traffic()
        self._directory = directory
        self._register = register
        self._expelled = expelled
        self._noted = noted
        self._peers: dict[NodeId, _Peer] = {}
        self.guests = Guests(self, secret, budget.share(min(MAX_HELD_BYTES, budget.limit // 2)))
        """Streams that others opened to this member."""
        self._notes: dict[object, str] = {}
        self._host: Receiver
        self._copies: Copies
        self._nursery: trio.Nursery

    # --- out

    def send(self, messages: Sequence[Message]) -> None:
        """Send one turn's messages, or drop them. A message that asks for a state copy starts one."""
        batches: dict[NodeId, list[Message]] = {}
        for message in messages:
            if isinstance(message, InstallSnapshot):
                self._copies.request(message)
            elif message.to in batches:
                batches[message.to].append(message)
            else:
                batches[message.to] = [message]
        for to, batch in batches.items():
            peer = self._peers.get(to)
            if peer is not None and not peer.send(batch):
                self._host.unreachable(to)

    def count_sent(self, messages: Sequence[Message], size: int) -> None:
        """Messages were handed to a stream."""
        traffic = self.traffic
        traffic.messages_sent += len(messages)
        traffic.appends_sent += sum(type(message) is Append for message in messages)
        traffic.bytes_sent += size

    def tell(self, note: StateNote) -> None:
        """Send a note of this member's state to everybody; it is lost where there is no stream."""
        data = note.encode()
        for peer in self._peers.values():
            peer.tell(data)

    def hello(self, purpose: Purpose, receiver: NodeId) -> Hello:
        """How this member introduces itself."""
        return Hello(
            purpose, self.identity.cluster_id, self.identity.member_id, receiver, f"netstored {__version__}"
        )

    def urls(self, peer: NodeId) -> Sequence[str]:
        """Where a peer is reached; empty when it is not known."""
        return self._directory()[0].get(peer, ())

    def connected(self, peer: NodeId) -> bool:
        """Whether messages to this peer can leave now."""
        known = self._peers.get(peer)
        return known is not None and known.connected

    def round_trip(self, peer: NodeId) -> RoundTrip:
        """What was measured towards one member; all zeros for a stranger."""
        known = self._peers.get(peer)
        return RoundTrip() if known is None else known.round_trip

    def connected_since(self, peer: NodeId) -> float | None:
        """Since when (monotonic seconds) there is a stream to this peer; None while there is none."""
        known = self._peers.get(peer)
        return None if known is None else known.since

    # --- in

    def listen(self, sock: socket.socket, *, tls: bool) -> None:
        """Take streams from others on this bound socket, which is owned here from now on."""
        self.guests.listen(sock, tls=tls)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open streams go on."""
        self.guests.stop_accepting()

    # --- the task

    async def run(self, host: Receiver, copies: Copies) -> None:
        """Keep a stream to every member until cancelled, then hang up on all."""
        self._host, self._copies = host, copies
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    self._follow()
                    self.guests.look()
                    await trio.sleep(LOOK_SECONDS)
        finally:
            self.guests.close()

    def _follow(self) -> None:
        """Call who is new, forget who is gone."""
        addresses, _ = self._directory()
        for id_, urls in addresses.items():
            if id_ == self.identity.member_id:
                continue
            peer = self._peers.get(id_)
            if peer is None:
                peer = self._peers[id_] = _Peer(self, id_)
                self._nursery.start_soon(peer.run)
            peer.move(tuple(urls))
        for id_ in [id_ for id_ in self._peers if id_ not in addresses]:
            self._peers.pop(id_).forget()

    # --- for the parts below

    def note(self, about: object, event: str, **fields: object) -> None:
        """Log a line unless the last one about the same said the same."""
        said = f"{event} {fields}"
        if self._notes.get(about) != said:
            if len(self._notes) >= _NOTES:
                self._notes.clear()
            self._notes[about] = said
            self.log.warning(event, **fields)

    def forget_note(self, about: object) -> None:
        """The next line about this is logged, whatever it says."""
        self._notes.pop(about, None)

    def refused_as_removed(self, reason: str) -> None:
        """A peer says that this member was removed."""
        self._expelled(reason)

    def listed(self) -> AbstractSet[NodeId]:
        """See `peer.incoming.Home`."""
        return self._directory()[0].keys()

    def removed(self) -> AbstractSet[NodeId]:
        """See `peer.incoming.Home`."""
        return self._directory()[1]

    def copy_comes(self, link: Link, sender: NodeId) -> Incoming | None:
        """See `peer.incoming.Home`."""
        return self._copies.incoming(link, sender)

    def came(self, sender: NodeId) -> None:
        """See `peer.incoming.Home`: who called here can be called."""
        if sender in self._peers:
            self._peers[sender].knock()

    def deliver(self, messages: Sequence[Message], size: int) -> None:
        """See `peer.incoming.Home`."""
        traffic = self.traffic
        traffic.messages_received += len(messages)
        traffic.appends_received += sum(type(message) is Append for message in messages)
        traffic.bytes_received += size
        if messages:
            self._host.receive(messages)

    def apply(self, application: Application | None, answer: Callable[[Roster], None]) -> None:
        """See `peer.incoming.Home`."""
        self._register(application, answer)

    def noted(self, sender: NodeId, note: StateNote) -> None:
        """See `peer.incoming.Home`."""
        self._noted(sender, note.index, note.digest)

    def lost(self, peer: NodeId) -> None:
        """The stream to a peer broke: what was on its way may be lost."""
        self._host.unreachable(peer)


class _Peer:
    """One other member, and the stream to it."""

    def __init__(self, peers: Peers, id_: NodeId) -> None:
        self._peers = peers
        self._id = id_
        self._urls: tuple[str, ...] = ()
        self._url = ""
        self._call: Call | None = None
        self._frames = Frames()
        self._knocked = trio.Event()
        self._forgotten = trio.CancelScope()
        self._account = peers.budget.account()
        self.since: float | None = None
        self.round_trip = RoundTrip()
        self._heard = 0.0
        self._pinged = 0.0
        """When the ping was sent that has not come back; 0 when none is on its way."""

    @property
    def connected(self) -> bool:
        return self._call is not None

    @property
    def _version(self) -> int:
        """Of the protocol in which this stream goes on."""
        welcome = self._call.welcome if self._call is not None else None
        return LOWEST_VERSION if welcome is None else welcome.version

    def move(self, urls: tuple[str, ...]) -> None:
        """It is reached there; a stream to an address that is no more among them ends."""
        if urls == self._urls:
            return
        self._urls = urls
        if self._call is not None and self._url not in urls:
            self._call.link.cut("moved to another address")

    def knock(self) -> None:
        """It called here, so it can be called."""
        self._knocked.set()

    def forget(self) -> None:
        """It is no member any more."""
        self._forgotten.cancel()

    def send(self, messages: Sequence[Message]) -> bool:
        """False when they were dropped although there is a stream, because it is full."""
        if self._call is None:
            return True  # Raft was told when the stream broke
        if self._version < REFUSING_VERSION:
            messages = [each for each in messages if type(each) is not ForwardRefused]
        link = self._call.link
        data = encode_batch(messages)
        if link.unsent and link.unsent + len(data) > OUTBOX_BYTES:
            return False
        link.write(data)
        self._account.hold(link.unsent)
        self._peers.count_sent(messages, len(data))
        return True

    def tell(self, data: bytes) -> None:
        """Send a frame, if there is a stream that is not full."""
        if self._call is not None and self._call.link.unsent <= OUTBOX_BYTES:
            self._call.link.write(data)

    async def run(self) -> None:
        """Call again and again, until it is forgotten."""
        pause = FIRST_PAUSE_SECONDS
        turn = 0
        with self._forgotten:
            while True:
                self._url = self._urls[turn % len(self._urls)] if self._urls else ""
                turn += 1
                try:
                    await self._talk()
                    pause = FIRST_PAUSE_SECONDS
                except CallFailed as fault:
                    self.round_trip.failures += 1
                    self._peers.note(
                        self._id, "peer_not_reached", peer=f"{self._id:x}", url=self._url, reason=str(fault)
                    )
                    if fault.verdict == Verdict.REMOVED:
                        self._peers.refused_as_removed(str(fault))
                except MustStop:
                    raise
                except Exception as fault:  # noqa: BLE001 - what goes wrong with one peer ends no other stream
                    self._peers.note(
                        self._id, "peer_failed", peer=f"{self._id:x}", url=self._url, reason=repr(fault)
                    )
                self._knocked = trio.Event()
                with trio.move_on_after(pause * (0.5 + random.random() / 2)):  # noqa: S311 - spreads calls
                    await self._knocked.wait()
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _talk(self) -> None:
        """One stream, from the call to its end."""
        peers = self._peers
        self._frames = Frames(0)
        made = await call(
            peers.reactor,
            self._url,
            peers.hello(Purpose.MESSAGES, self._id),
            self._take,
            credentials=peers.credentials,
            secret=peers.secret,
        )
        try:
            self._heard = self.since = peers.clock.monotonic()
            self._call = made
            peers.forget_note(self._id)
            peers.log.info("peer_connected", peer=f"{self._id:x}", url=self._url)
            taken = 0
            while not made.over.is_set():
                with trio.move_on_after(PING_SECONDS):
                    await made.over.wait()
                self._account.hold(made.link.unsent)
                if made.link.taken != taken:
                    taken = made.link.taken
                    self._heard = peers.clock.monotonic()
                if peers.clock.monotonic() - self._heard > SILENCE_SECONDS:
                    made.link.cut("nothing was heard in time")
                if not made.link.unsent and not self._pinged:
                    self._pinged = peers.clock.monotonic()
                    made.link.write(PING)
        finally:
            self._call = self.since = None
            self._pinged = 0.0
            self._account.hold(0)
            made.link.cut("forgotten")
        peers.note(self._id, "peer_lost", peer=f"{self._id:x}", url=self._url, reason=made.reason)
        peers.lost(self._id)

    def _take(self, data: bytes) -> None:
        """A ping has come back, perhaps in pieces."""
        self._heard = self._peers.clock.monotonic()
        self._frames.add(data)
        answers = 0
        while self._frames.take() is not None:
            answers += 1
            if answers > MOST_ANSWERS:
                raise CorruptData("answers pings that were not sent")
        if answers and self._pinged:
            self.round_trip.add(self._heard - self._pinged)
            self._pinged = 0.0
