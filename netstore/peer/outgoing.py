"""The stream of messages to one other member: dialed again whenever it ends, until the member is removed.

Messages are written to the socket in the turn that decided on them (`peer.link`). What the member does not
accept is queued up to `OUTBOX_BYTES`; beyond that messages are dropped, and Raft is told. A stream on which
nothing was heard for `SILENCE_SECONDS` is ended and dialed again later.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import trio

from netstore.errors import CorruptData, MustStop
from netstore.peer.dial import StreamFailed, dial
from netstore.peer.handshake import LOWEST_VERSION, QUIET_VERSION, REFUSING_VERSION, Purpose, Verdict
from netstore.peer.incoming import SILENCE_SECONDS
from netstore.peer.traffic import PeerCounts, RoundTrip
from netstore.peer.wire import PING, FrameReader, encode_batch
from netstore.raft.messages import AppendAccepted, ForwardRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.limits import Budget
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.dial import OutgoingStream
    from netstore.peer.handshake import Hello, Secret
    from netstore.raft.messages import Message
    from netstore.seams import Clock, Log
    from netstore.types import NodeId

_FIXES: Final[dict[int, str]] = {
    Verdict.OTHER_CLUSTER: "restore or import all members from the same file with the same --initial-cluster"
    " and --initial-cluster-token, each into a new folder",
    Verdict.OTHER_MEMBER: "the data of the members is whole: correct the peer URLs that they listen on, or"
    " what the host names in them resolve to",
    Verdict.NOT_PROVED: "the data of the members is whole: give all of them the same --join-token, or"
    " --initial-cluster-token; netstorectl member token shows that of a folder",
}
"""Refusals that do not end by themselves, with what to do."""

OUTBOX_BYTES: Final = 64 * 1024 * 1024
"""Unsent bytes for one member beyond which messages to it are dropped; Raft's own window is a quarter of it.
"""

PING_SECONDS: Final = 1.0

FIRST_PAUSE_SECONDS: Final = 0.05

MAX_PAUSE_SECONDS: Final = 1.0
"""Pause before a member is dialed again: doubles from the first to the longest, less a random half. A member
that dials this one is dialed at once.
"""

STEADY_SECONDS: Final = 2.0
"""How long a stream must last so that the pause begins anew and the next one is logged as soon as it is open:
a member that cuts each stream after the first message is dialed slowly, and logged once.
"""

MAX_PONGS_PER_READ: Final = 512
"""Replies to pings accepted in one read; only one ping is under way at a time."""


class Dialer(Protocol):
    """The member that dials others and sends to them (`peer.peers.Peers`)."""

    reactor: Reactor
    credentials: Credentials | None
    secret: Secret | None
    """What proves to a member without certificates who this one is."""
    budget: Budget
    """Unsent data is charged to it."""
    clock: Clock
    log: Log

    def hello(self, purpose: Purpose, receiver: NodeId) -> Hello:
        """The hello of this member."""

    def count_sent(self, messages: Sequence[Message], size: int) -> None:
        """Messages were written to a stream."""

    def stream_lost(self, peer: NodeId) -> None:
        """The stream to a member broke: messages on it may be lost."""

    def refused_as_removed(self, reason: str) -> None:
        """A member says that this one was removed."""

    def log_change(self, about: object, event: str, **fields: object) -> None:
        """Log a line unless it is the same as the last one about the same subject."""

    def forget_logged(self, about: object) -> None:
        """The next line about this subject is logged, even if it is the same as the last."""


class PeerConnection:
    """One other member, and the stream of messages to it."""

    def __init__(self, dialer: Dialer, id_: NodeId) -> None:
        self._dialer = dialer
        self._id = id_
        self._urls: tuple[str, ...] = ()
        self._url = ""
        self._stream: OutgoingStream | None = None
        self._frames = FrameReader()
        self._redial = trio.Event()
        """Ends the pause before the next attempt."""
        self._removed = trio.CancelScope()
        self._account = dialer.budget.account()
        self.round_trip = RoundTrip()
        self.counts = PeerCounts()
        self.estranged: tuple[str, str] | None = None
        """Where and why the last attempt found that this is not a member of the same cluster, or not the one
        that was meant, and the fix; None if that is not so.
        """
        self._heard = 0.0
        """When something was received, or accepted from the queue, last."""
        self._pinged = 0.0
        """When the ping under way was sent; 0 when there is none."""
        self._is_steady = True
        """The last stream lasted for `STEADY_SECONDS`, or there was none."""
        self._pause = FIRST_PAUSE_SECONDS
        """Before the next attempt."""

    @property
    def is_connected(self) -> bool:
        """The stream is open."""
        return self._stream is not None

    @property
    def _version(self) -> int:
        """Protocol version of the stream."""
        welcome = self._stream.welcome if self._stream is not None else None
        return LOWEST_VERSION if welcome is None else welcome.version

    def set_urls(self, urls: tuple[str, ...]) -> None:
        """Where the member is reached; a stream to a URL that is not among them any more is ended."""
        if urls == self._urls:
            return
        self._urls = urls
        if self._stream is not None and self._url not in urls:
            self._stream.link.cut("moved to another address")

    def redial(self) -> None:
        """The member has just dialed this one: end the pause before the next attempt."""
        self._redial.set()

    def stop(self) -> None:
        """The member is not in the list any more: end the task."""
        self._removed.cancel()

    def send(self, messages: Sequence[Message]) -> bool:
        """False if they were dropped because the queue of an open stream is full."""
        if self._stream is None:
            return True  # Raft was told when the stream broke
        if self._version < QUIET_VERSION:
            messages = _understood(messages, self._version)
        link = self._stream.link
        data = encode_batch(messages)
        if link.unsent and link.unsent + len(data) > OUTBOX_BYTES:
            self.counts.dropped += 1
            return False
        self.counts.sent += len(data)
        link.write(data)
        self._account.hold(link.unsent)
        self._dialer.count_sent(messages, len(data))
        return True

    def send_frame(self, data: bytes) -> None:
        """Send a frame, unless there is no stream or its queue is full."""
        if self._stream is not None and self._stream.link.unsent <= OUTBOX_BYTES:
            self._stream.link.write(data)

    async def run(self) -> None:
        """Dial again and again, until stopped."""
        turn = 0
        with self._removed:
            while True:
                self._url = self._urls[turn % len(self._urls)] if self._urls else ""
                turn += 1
                try:
                    await self._run_stream()
                    if self._is_steady:
                        self._pause = FIRST_PAUSE_SECONDS
                except StreamFailed as fault:
                    self.round_trip.failures += 1
                    fix = None if fault.verdict is None else _FIXES.get(fault.verdict)
                    self.estranged = None if fix is None else (f"at {self._url} says: {fault}", fix)
                    self._dialer.log_change(
                        self._id, "peer_not_reached", peer=f"{self._id:x}", url=self._url, reason=str(fault)
                    )
                    if fault.verdict == Verdict.REMOVED:
                        self._dialer.refused_as_removed(str(fault))
                except MustStop:
                    raise
                except Exception as fault:  # noqa: BLE001 - a fault with one member ends no other stream
                    self._dialer.log_change(
                        self._id, "peer_failed", peer=f"{self._id:x}", url=self._url, reason=repr(fault)
                    )
                self._redial = trio.Event()
                with trio.move_on_after(self._pause * (0.5 + random.random() / 2)):  # noqa: S311 - jitter
                    await self._redial.wait()
                self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)

    async def _run_stream(self) -> None:
        """One stream, from dialing to its end."""
        dialer = self._dialer
        self._frames = FrameReader(0)
        stream = await dial(
            dialer.reactor,
            self._url,
            dialer.hello(Purpose.MESSAGES, self._id),
            self._receive,
            credentials=dialer.credentials,
            secret=dialer.secret,
        )
        try:
            self._heard = opened = dialer.clock.monotonic()
            self._stream = stream
            self.estranged = None
            is_logged, self._is_steady = self._is_steady, False
            if is_logged:
                self._log_connected()
            taken = 0
            while not stream.over.is_set():
                with trio.move_on_after(PING_SECONDS):
                    await stream.over.wait()
                if not self._is_steady and dialer.clock.monotonic() - opened >= STEADY_SECONDS:
                    self._is_steady = True
                    if not is_logged:
                        self._log_connected()
                self._account.hold(stream.link.unsent)
                if stream.link.taken != taken:
                    taken = stream.link.taken
                    self._heard = dialer.clock.monotonic()
                if dialer.clock.monotonic() - self._heard > SILENCE_SECONDS:
                    stream.link.cut("nothing was heard in time")
                if not stream.link.unsent and not self._pinged:
                    self._pinged = dialer.clock.monotonic()
                    stream.link.write(PING)
        finally:
            self._stream = None
            self._pinged = 0.0
            self._account.hold(0)
            stream.link.cut("stopped")
        self.counts.lost += 1
        dialer.log_change(self._id, "peer_lost", peer=f"{self._id:x}", url=self._url, reason=stream.reason)
        dialer.stream_lost(self._id)

    def _log_connected(self) -> None:
        self._dialer.forget_logged(self._id)
        self._dialer.log.info("peer_connected", peer=f"{self._id:x}", url=self._url)

    def _receive(self, data: bytes) -> None:
        """Replies to pings, perhaps in pieces: nothing else comes on this stream."""
        self._heard = self._dialer.clock.monotonic()
        self._frames.add(data)
        replies = 0
        while self._frames.take() is not None:
            replies += 1
            if replies > MAX_PONGS_PER_READ:
                raise CorruptData("answers pings that were not sent")
        if replies and self._pinged:
            self.round_trip.add(self._heard - self._pinged)
            self._pinged = 0.0


def _understood(messages: Sequence[Message], version: int) -> list[Message]:
    """What of these may be sent in a version before `QUIET_VERSION`, and how."""
    return [
        replace(each, waits=True) if type(each) is AppendAccepted else each
        for each in messages
        if version >= REFUSING_VERSION or type(each) is not ForwardRefused
    ]
