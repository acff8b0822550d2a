"""Accepting streams from other members: who is admitted, and what unauthenticated callers may cost.

A caller is unverified until it has proved that it is a member. It has `AUTHENTICATION_SECONDS` for that,
and can make this member hold one greeting. Unverified callers have a limit of their own, so they can
displace each other but never a member. At the limit the one displaced is of a network with many unverified
callers, if there is one, and has got least far (`Listener.make_room`). TLS handshakes are rate-limited,
because each costs about a millisecond.

An unverified caller may ask for the member list, which the client port gives to anybody too. It stays
under the limits of unverified callers.
"""

from __future__ import annotations

import select
from collections import Counter
from typing import TYPE_CHECKING, Final

from netstore.admission import household
from netstore.net.accept import CannotAccept, accept
from netstore.net.listener import listen
from netstore.net.tokenbucket import TokenBucket
from netstore.peer.handshake import Purpose, Verdict
from netstore.peer.incoming import IncomingStream
from netstore.peer.link import Link

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from netstore.limits import Budget
    from netstore.peer.handshake import Hello, Secret
    from netstore.peer.incoming import Owner

MAX_UNVERIFIED: Final = 128
"""Streams of unverified callers."""

MAX_UNVERIFIED_PER_NETWORK: Final = 64
"""The same for one network (`admission.household`)."""

CROWDED_NETWORK: Final = 8
"""Unverified callers of one network above which one of them is displaced for a caller from elsewhere: more
streams than a machine with members opens at once.
"""

MAX_MEMBER_LIST_STREAMS: Final = 16
"""Open member list streams of authenticated callers, each of which lasts as long as adding a member takes;
and unverified callers that have not read the whole answer yet.
"""

ANSWERS_PER_SECOND: Final = 100
"""Rate of member lists sent to unverified callers."""

ANSWERS_BURST: Final = 100

MAX_UNLISTED: Final = 16
"""Message streams of authenticated members that are not in the list here: this member may be behind."""

MAX_INCOMING_STREAMS: Final = MAX_UNVERIFIED + MAX_MEMBER_LIST_STREAMS + MAX_UNLISTED + 256
"""File descriptors reserved for streams opened by others: one for each that the limits above allow, and two
for each of 128 members, more than a cluster has."""

ACCEPTS_AT_ONCE: Final = 4
"""Connections accepted in one round of the reactor: in a burst of connections the first ones get many rounds
to authenticate themselves before later ones could displace them.
"""

HANDSHAKES_PER_SECOND: Final = 200
"""Steps of TLS handshakes of unverified callers; further ones wait. A signature takes about a millisecond."""

HANDSHAKE_BURST: Final = 100

LOG_LINES_PER_SECOND: Final = 1.0
"""Log lines about callers, on average; unverified callers must not be able to fill the disk."""

LOG_LINES_BURST: Final = 20

_BACKLOG: Final = 1024
_IN: Final = select.EPOLLIN


class Listener:
    """The listening sockets, and all streams that others opened to this member. All calls are made on the
    loop. A `peer.incoming.StreamRegistry`.
    """

    def __init__(self, owner: Owner, secret: Secret | None, budget: Budget) -> None:
        """`secret` is what a caller without a certificate must know; if it is None, no such caller is let in.
        Incomplete frames are charged to `budget`.
        """
        self.owner = owner
        self.secret = secret
        self.budget = budget
        self.verified: dict[IncomingStream, None] = {}
        """Streams of authenticated callers."""
        self.unverified: dict[IncomingStream, None] = {}
        """The others, oldest first."""
        self._sockets: dict[socket.socket, Callable[[int], None]] = {}
        self._not_watched: list[socket.socket] = []
        """Listening sockets that are watched again at the next sweep: accepting failed."""
        self._waiting_handshakes: dict[IncomingStream, None] = {}
        """Unverified callers whose TLS handshake waits for `_handshakes`."""
        now = owner.clock.monotonic()
        self._handshakes = TokenBucket(HANDSHAKE_BURST, now, HANDSHAKES_PER_SECOND)
        self._lines = TokenBucket(LOG_LINES_BURST, now, LOG_LINES_PER_SECOND)
        self._answers = TokenBucket(ANSWERS_BURST, now, ANSWERS_PER_SECOND)

    # --- accepting

    def listen(self, sock: socket.socket, *, tls: bool) -> None:
        """Accept streams on this bound socket, and take ownership of it."""
        listen(sock, _BACKLOG)
        self._sockets[sock] = lambda _: self._accept(sock, tls=tls)
        self._attend(sock)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open streams go on."""
        for sock in self._sockets:
            self.owner.reactor.watched.unwatch(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._not_watched.clear()

    def close(self) -> None:
        """End all streams."""
        self.stop_accepting()
        for stream in (*self.verified, *self.unverified):
            stream.link.cut("this member stops")

    def _attend(self, sock: socket.socket) -> None:
        self.owner.reactor.watched.watch(sock.fileno(), _IN, self._sockets[sock], self._not_taken)

    def _not_taken(self, fault: Exception) -> None:
        """An accepted connection could not be set up; its socket is closed with its last reference."""
        self.log("stream_refused", "", repr(fault))

    def _accept(self, listener: socket.socket, *, tls: bool) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted = accept(listener)
            except CannotAccept as why:  # watched further, it would be reported in each round
                self.log("stream_refused", "", str(why))
                self.owner.reactor.watched.unwatch(listener.fileno())
                self._not_watched.append(listener)
                return
            if accepted is None:
                return
            sock, address = accepted
            self._take_in(sock, str(address[0]), tls=tls)

    def _take_in(self, sock: socket.socket, address: str, *, tls: bool) -> None:
        self.make_room(address)
        credentials = self.owner.credentials if tls else None
        context = None if credentials is None else credentials.server()
        certified = credentials is not None and credentials.client_auth
        stream = IncomingStream(self, address, certified=certified)
        stream.link = Link(self.owner.reactor, sock, stream, context, gate=stream.may_handshake)
        self.unverified[stream] = None
        stream.link.start()

    def make_room(self, address: str) -> None:
        """End the stream of an unverified caller if another one from `address` would exceed a limit.

        It is one of the same network if that is at its limit, else of the network with most callers if it
        has more than `CROWDED_NETWORK`, else any. Of these it is the one that has got least far, then one
        of the network with most.
        """
        if len(self.unverified) < MAX_UNVERIFIED_PER_NETWORK:
            return
        counts = Counter(stream.network for stream in self.unverified)
        network = household(address)
        if counts[network] < MAX_UNVERIFIED_PER_NETWORK:
            if len(self.unverified) < MAX_UNVERIFIED:
                return
            network = counts.most_common(1)[0][0]
        crowded = counts[network] > CROWDED_NETWORK
        candidates = [stream for stream in self.unverified if not crowded or stream.network == network]
        least = min(candidates, key=lambda stream: (stream.stage, -counts[stream.network]))
        least.link.cut("too many callers that have not proved who they are")

    # --- time

    def sweep(self) -> None:
        """End streams past their deadline and those of removed members, continue handshakes, accept again.
        Called several times a second.
        """
        now, removed = self.owner.clock.monotonic(), self.owner.removed_ids()
        for stream in [stream for stream in (*self.unverified, *self.verified) if stream.deadline < now]:
            stream.link.cut("nothing was heard in time")
        for stream in [stream for stream in self.verified if stream.sender in removed]:
            stream.link.cut("removed from the cluster")
        while self._waiting_handshakes and self._handshakes.take(now):
            first = next(iter(self._waiting_handshakes))
            del self._waiting_handshakes[first]
            first.continue_handshake()
        not_watched, self._not_watched = self._not_watched, []
        for sock in not_watched:
            try:
                self._attend(sock)
            except OSError as fault:  # the kernel has no memory for it, or watches too many descriptors
                self.log("stream_refused", "", fault.strerror or str(fault))
                self._not_watched.append(sock)

    # --- for `peer.incoming`: see `peer.incoming.StreamRegistry`

    def may_handshake(self, stream: IncomingStream) -> bool:
        """Whether a step of its TLS handshake may be done now; if not, it is continued by `sweep`."""
        if not self._waiting_handshakes and self._handshakes.take(self.owner.clock.monotonic()):
            return True
        self._waiting_handshakes[stream] = None
        return False

    def may_answer(self) -> bool:
        """Whether one more unverified caller may be sent the member list."""
        unread = sum(stream.link.unsent > 0 for stream in self.unverified)
        return unread < MAX_MEMBER_LIST_STREAMS and self._answers.take(self.owner.clock.monotonic())

    def log(self, event: str, address: str, reason: str, **fields: object) -> None:
        """Log a line about a caller, unless too many were logged, or it is the same as the last one."""
        if self._lines.take(self.owner.clock.monotonic()):
            caller = {"address": address} if address else {}
            self.owner.log_change(("caller", address, event), event, **caller, **fields, reason=reason)

    def admit(self, stream: IncomingStream, hello: Hello) -> tuple[Verdict, str]:
        """Let the stream of an authenticated caller in, or say why not."""
        owner, sender = self.owner, hello.sender
        if sender in owner.removed_ids():
            return Verdict.REMOVED, f"member {sender:x} was removed from the cluster"
        if hello.purpose is Purpose.SNAPSHOT:
            stream.snapshot = owner.accept_snapshot(stream.link, sender)
            if stream.snapshot is None:
                return Verdict.BUSY, "another snapshot is being received"
        elif hello.purpose is Purpose.MEMBER_LIST:
            asking = sum(other.purpose is Purpose.MEMBER_LIST for other in self.verified)
            if asking >= MAX_MEMBER_LIST_STREAMS:
                return Verdict.BUSY, "too many others ask at once"
        else:
            for other in [other for other in self.verified if other.sends_messages_of(sender)]:
                other.link.cut("called again")
            listed = owner.member_ids()
            if sender not in listed:
                unlisted = (each for each in self.verified if each.purpose is Purpose.MESSAGES)
                if sum(each.sender not in listed for each in unlisted) >= MAX_UNLISTED:
                    return Verdict.BUSY, "too many members call that are in no list here"
        del self.unverified[stream]
        self.verified[stream] = None
        return Verdict.ACCEPTED, ""

    def forget(self, stream: IncomingStream) -> None:
        """The stream has ended."""
        self.unverified.pop(stream, None)
        self.verified.pop(stream, None)
        self._waiting_handshakes.pop(stream, None)
