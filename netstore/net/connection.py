"""One accepted socket and what stands between it and its session: TLS, what is not sent yet, and the time.

`reactor` decides whose turn it is and makes every call in here; `session.Session` is what a codec has to
offer. A connection does a bounded piece of work in a turn: one read, one piece of what its session has to
hand over, and `SEND_SIZE` bytes sent.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from netstore.guard import guarded
from netstore.net.exchange import HIGH_WATER
from netstore.net.sendqueue import rest_of
from netstore.net.session import Closed
from netstore.net.tls import TlsFailed, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.net.session import Session
    from netstore.net.tls import Credentials

READ_SIZE: Final = 64 * 1024
"""Bytes taken by one read; what a client sends beyond it waits for the next round."""

FIRST_READ: Final = 8 * 1024
"""The same while bodies wait for memory (`bodyadmission`), of who has none for one."""

SEND_SIZE: Final = 1024 * 1024
"""Bytes sent in one turn; the rest waits for the next round, however fast the client reads."""

JOINED_SIZE: Final = 256 * 1024
"""Bytes of small pieces that are joined for one send."""

GATHERED_SIZE: Final = 2048
"""Pieces of so many bytes on average are not joined: to tell the system of each costs less than a copy."""

MOST_GATHERED: Final = 64
"""How many of them are sent in one call: about as much as the kernel takes of a connection at once."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take for its TLS handshake, from being accepted."""

RECORD_SECONDS: Final = 30.0
"""How long a TLS record may take, from the sweep that sees part of it: 16 KiB, at more than half a KiB a
second.
"""

DRAIN_LIMIT: Final = 64 * 1024 * 1024
"""Bytes read and dropped from a closing connection, so that the last answer reaches the client instead of a
reset (RFC 9112, 9.6).
"""

_UNCHARGED: Final = 4096
"""Unsent bytes of a connection that are not worth the price of charging them."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_PLAIN_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class Handshake(Closed):
    """Stands in for the session of a TLS connection until it is open. Nothing can be read before."""

    reading = True
    waiting = True
    answers_need_reading = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def eof(self) -> None:
        """The peer gave up."""
        self._connection.cut()

    def refuse(self, status: int, text: bytes) -> None:
        """It took too long. Nothing can be said over what is not open."""
        self._connection.abandon(f"{status}: {text.decode()}")

    def drain(self) -> None:
        """Nothing was asked yet."""
        self._connection.cut()


_CLOSED: Final = Closed()


class Connection:
    """One accepted socket: reads for its session, sends what the session wrote. Implements `session.Output`.

    With `credentials` both go through TLS; the session is made when the handshake is over.
    """

    __slots__ = (
        "_accepted",
        "_address",
        "_charged",
        "_closing",
        "_dirty",
        "_doomed",
        "_drained",
        "_drop",
        "_farewell",
        "_mask",
        "_mute",
        "_partial",
        "_queue",
        "_reactor",
        "_record",
        "_record_since",
        "_rested_at",
        "_resting",
        "_sealed",
        "_socket",
        "_soon",
        "_spoken",
        "_tunnel",
        "account",
        "admission",
        "charged",
        "fd",
        "heard",
        "held_back",
        "left",
        "load",
        "principal",
        "progress",
        "session",
        "settled",
        "taken",
        "unsent",
        "used",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        address: Any,
        now: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._address = address
        self.fd = sock.fileno()
        self.account = reactor.memory.account(partial(reactor.pressure.moved, self))
        """What this connection holds of the memory for all, here and in its session; closed with it."""
        self.admission = reactor.admission
        """Where its session asks before it reads a large body."""
        self.principal: str = address[0] if isinstance(address, tuple) else ""
        """Who this is, for sharing fairly and for the record: the common name of the certificate once that is
        known, else the address without its port; empty for a socket of the machine's own.
        """
        self.load = reactor.joined(self.principal)
        """What was done for it lately, and whom it counts with."""
        self.session: Session = Handshake(self)
        self.progress = self._accepted = now
        self.used: float = now
        """When something came from the peer last; `progress` is moved on while it owes nothing."""
        self._tunnel = None if credentials is None else Tunnel(credentials.server(), None)
        """Where there is one, nothing of `_queue` leaves but through it, until the end of the connection."""
        self._queue: deque[bytes | memoryview] = deque()
        self._sealed: bytes | memoryview | None = None
        """What is to go over the wire before the rest, as it is: the rest of a record, or words of TLS."""
        self.heard = False
        """It sent something that its session was given, or opened its TLS."""
        self._partial = 0
        """Bytes of a TLS record that has not come whole, as they are charged."""
        self._record = 0
        """Which record that was at the last sweep; timed since `_record_since`."""
        self._record_since = 0.0
        self._farewell = False
        self._spoken = False
        self.settled = False
        self.unsent = 0
        """Bytes that the kernel has not taken yet; see `session.Output`."""
        self._charged = 0
        """What of it is charged to the account."""
        self.taken = 0
        """Bytes that the kernel took, in all."""
        self.charged = 0
        """How many of them count in the load."""
        self.held_back = False
        """It holds so much of the memory for all that nothing new is to be handled for it."""
        self.left = 0
        """Bytes that it held when it had been sent to last, beside what was promised: what its peer did not
        take.
        """
        self._doomed = False
        """It is to be cut at its next turn: what it held is gone already."""
        self._mute = False
        """What the session writes is dropped: nobody is to get it."""
        self._soon: Callable[[], None] | None = None
        self._dirty = False
        self._closing = False
        self._drained = 0
        self._drop = DRAIN_LIMIT
        self._mask = _IN
        self._resting = False
        """The kernel tells nothing of it: it waits for its turn, since `_rested_at`."""
        self._rested_at = now

    def begin(self) -> None:
        """It can carry a session now."""
        name = self.common_name
        if name:
            self._reactor.named(self, name)
        self.session = self._reactor.session(self)

    @property
    def open(self) -> bool:
        """The socket has not been closed."""
        return self.fd >= 0

    @property
    def peer(self) -> str:
        """The address of the client, as `127.0.0.1:40312`; empty where it has none."""
        if not isinstance(self._address, tuple):
            return ""
        host, port = self._address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def protocol(self) -> str | None:
        """What both sides agreed on in the TLS handshake (ALPN); None where they did not."""
        return None if self._tunnel is None else self._tunnel.protocol

    @property
    def common_name(self) -> str | None:
        """The common name in the client's certificate, if it showed one."""
        return None if self._tunnel is None else self._tunnel.common_name

    @property
    def idle(self) -> bool:
        """Nothing was asked that is not answered to its end, and nothing of an answer waits to be sent."""
        session = self.session
        return session.idle and not (self.unsent or self._closing or session.waiting or session.busy)

    def write(self, data: bytes | memoryview, *more: bytes | memoryview) -> None:
        """Queue pieces of bytes; they are sent when the reactor flushes."""
        if self._mute:
            return
        self._queue.append(data)
        self.unsent += len(data)
        if more:
            self._queue += more
            self.unsent += sum(map(len, more))
        if not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)
        if self.unsent > self._charged + _UNCHARGED:
            self._charge()

    def _charge(self) -> None:
        """Bring the account up to date."""
        more = self.unsent - self._charged
        self._charged = self.unsent
        self.account.charge(more)

    def doom(self) -> None:
        """Let go of everything it holds, from within any call; it is cut at its next turn."""
        self._doomed = self._mute = True
        self._queue.clear()
        self._sealed = None
        self.unsent = self._charged = 0
        self.account.close()
        if not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def hold_back(self, *, held: bool) -> None:
        """Handle nothing new of it, or go on."""
        self.held_back = held
        self._watch()
        if not held:
            self._reactor.later(self)

    def again(self) -> None:
        """The session has something to go on with, or is to be read again; see `session.Output`."""
        if self.fd >= 0:
            self._watch()
            self._reactor.later(self)

    @property
    def paused(self) -> bool:
        """Nothing is read of it for now: what does not come is not its peer's fault."""
        return not self._mask & _IN

    @property
    def unread(self) -> float | None:
        """See `session.Output`."""
        return self.used if self._resting or not self._mask & _IN else None

    @property
    def hurried(self) -> bool:
        """This turn is to be a short one: others wait who ask for less."""
        return self._reactor.hurried

    def finish(self, drop: int | None = None) -> None:
        """See `session.Output`."""
        self._closing = True
        self._drop = DRAIN_LIMIT if drop is None else drop
        if self.fd >= 0 and not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def worked(self, seconds: float) -> None:
        """So much work was done for it beside its turns; see `session.Output`."""
        self._reactor.worked(self, seconds)

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call of the session at the next turn: it has more to do than it does in one."""
        self._soon = call
        self._reactor.later(self)

    def cut(self) -> None:
        """Close now."""
        if self.fd < 0:
            return
        self._reactor.forget(self)
        self._socket.close()
        self.fd = -1
        self._mute = True
        self._queue.clear()
        self._sealed = None
        self.unsent = 0
        self._soon = None
        self._resting = False
        self.account.close()
        session, self.session = self.session, _CLOSED
        guarded(self._reactor.failed, session.gone)

    def abandon(self, reason: str) -> None:
        """The TLS handshake came to nothing."""
        self._reactor.refused(self.peer, reason)
        self.cut()

    def ready(self, mask: int) -> None:
        """It is this connection's turn: the kernel has something to read, room to write or bad news, or there
        is something to go on with.
        """
        if self._resting:
            self._resting = False
            self._reactor.modify(self.fd, self._mask)
        if self._doomed:
            self.cut()
        elif mask & _OUT or self._dirty:
            self._dirty = False
            self._send()
            account = self.account
            if account.held - account.promised != self.left:
                self._leave()
        if self.fd >= 0:
            soon, self._soon = self._soon, None
            if soon is not None:
                soon()
                self._watch()
            elif self._mask != _IN or self.session.has_pending:
                self.session.resume()
                self._watch()
        if mask & self._mask & _IN and self.fd >= 0:
            self._read()
        elif mask & ~(_IN | _OUT):
            self.cut()

    def flush(self) -> None:
        """Send what was written since the last flush. What the session has more to do waits for its turn."""
        self._dirty = False
        if self._doomed:
            self.cut()
            return
        if self.fd >= 0 and not self._mask & _OUT:
            self._send()
        if self.fd < 0:
            return
        account = self.account
        if account.held - account.promised != self.left:
            self._leave()
        if self.session.has_pending:
            self._reactor.later(self)
        elif self._mask != _IN:
            self.session.resume()
            self._watch()

    def _leave(self) -> None:
        """It was sent to: what is held now is what was left."""
        self.left = self.account.held - self.account.promised
        if self.fd >= 0:
            self._reactor.pressure.moved(self)

    def sweep(self, now: float, limit: float) -> None:
        """Once a second: look at the time. A peer that stalled for longer than the limit is given up."""
        if self.fd >= 0 and self.stalled(now, limit):
            self.give_up()

    def stalled(self, now: float, limit: float) -> bool:
        """The peer owes us something (the rest of a request, reading an answer, a close) for longer than the
        limit, in seconds. While it stands in line for its turn it is judged by what it did until then: what
        has come since is not read, and who sends a little now and then stands in line most of the time.
        """
        seen = self._rested_at if self._resting else now
        if self._shaking and seen - self._accepted > HANDSHAKE_SECONDS:
            return True
        session, reads = self.session, not self.paused
        session.sweep(seen)
        if reads and (session.late or (self._partial and self._is_record_late(seen))):
            return True
        if not reads:
            self._record_since = now
        owes = self._closing or self.unsent > 0 or (reads and (session.waiting or self._partial > 0))
        if not owes:
            self.progress = now
        return seen - self.progress > limit

    def _is_record_late(self, now: float) -> bool:
        """The record that is here in part takes too long, however often a byte of it comes."""
        if self._tunnel is not None and self._tunnel.records != self._record:
            self._record, self._record_since = self._tunnel.records, now
        return now - self._record_since > RECORD_SECONDS

    def give_up(self) -> None:
        """The peer stalled: say so if it may still listen, then close."""
        if self._shaking:
            self.session.refuse(408, b"no handshake in time")
        elif self.unsent or self._closing or not self.session.waiting:
            self.cut()
        else:
            self.session.refuse(408, b"408 Request Timeout")

    def _read(self) -> None:
        few = self.admission.waiting and not self.account.coming
        try:
            data = self._socket.recv(FIRST_READ if few else READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.cut()
            return
        if self._closing or not self.session.reading:
            self._drain(data)
        elif data:
            self.progress = self.used = self._reactor.now
            if self._tunnel is not None:
                data = self._untunnel(self._tunnel, data)
            if not self.heard and (data or (self._tunnel is not None and self._tunnel.open)):
                self.heard = True
                self._reactor.crowd.spoke(self)
            if data:
                self.session.receive(data)
            if self._tunnel is not None and self._tunnel.ended and not self._mute:
                self.session.eof()
            if self.session.busy or not self.session.reading or self.unsent > HIGH_WATER:
                self._watch()
        else:
            self.session.eof()
            self._watch()

    @property
    def _shaking(self) -> bool:
        """Its TLS handshake is under way."""
        return self._tunnel is not None and not self._tunnel.open and not self._closing

    def _untunnel(self, tunnel: Tunnel, data: bytes) -> bytes:
        """The plain bytes that `data` completes; empty where the connection is not so far, or over."""
        spoken, self._spoken = self._spoken, True
        if not spoken and data[:1].isalpha():
            # No record of TLS begins with a letter, every request of HTTP does.
            self._end_tls(_PLAIN_HTTP)
            return b""
        shaken = tunnel.open
        try:
            plain = tunnel.take(data)
        except TlsFailed as fault:
            # Close in order: a reset would overtake the alert that says what is wrong.
            self._end_tls(tunnel.outbound())
            if shaken:
                self.session.gone()
            else:
                self._reactor.refused(self.peer, str(fault))
            return b""
        self._seal(tunnel.outbound())
        if tunnel.partial != self._partial:
            self.account.charge(tunnel.partial - self._partial)
            self._partial = tunnel.partial
        if tunnel.open and not shaken:
            self.begin()
        return plain

    def _end_tls(self, last: bytes) -> None:
        """Nothing can be sealed any more: answers that were not are dropped, and after `last`, as it is, the
        connection closes.
        """
        self._mute = self._farewell = True
        self._queue.clear()
        self.unsent = 0 if self._sealed is None else len(self._sealed)
        self._charge()
        self.account.release(self._partial)
        self._partial = 0
        self._seal(last)
        self.finish()

    def _seal(self, data: bytes) -> None:
        """Send what TLS itself has to say."""
        if data:
            self._sealed = data if self._sealed is None else b"".join((self._sealed, data))
            self.unsent += len(data)
            if not self._dirty:
                self._dirty = True
                self._reactor.dirty.append(self)

    def _drain(self, data: bytes) -> None:
        self._drained += len(data)
        if not data or self._drained > self._drop:
            if self._closing and not self.unsent:
                self.cut()
            elif not data:
                self.session.eof()
                self._watch()
            else:
                self.cut()

    def _send(self) -> None:
        queue, tunnel = self._queue, self._tunnel
        room = SEND_SIZE
        while queue or self._sealed is not None:
            if self._sealed is not None:
                data, self._sealed = self._sealed, None
            elif tunnel is None and len(queue) > 1 and self.unsent >= GATHERED_SIZE * len(queue):
                before = self.taken
                takes_more = self._gather()
                if self.fd < 0:
                    return
                room -= self.taken - before
                if room <= 0 or not takes_more:
                    break
                continue
            else:
                data = queue.popleft()
                if queue and len(data) < READ_SIZE:
                    data = self._joined(data)
                if tunnel is not None:
                    if len(data) > JOINED_SIZE:
                        queue.appendleft(rest_of(data, JOINED_SIZE))
                        data = memoryview(data)[:JOINED_SIZE]
                    self.unsent -= len(data)
                    data = tunnel.send(data)
                    self.unsent += len(data)
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.cut()
                return
            self.unsent -= sent
            if sent:
                self.progress = self._reactor.now
                self.taken += sent
                room -= sent
            if sent < len(data):
                rest = rest_of(data, sent)
                if tunnel is not None:
                    self._sealed = rest
                else:
                    queue.appendleft(rest)
                break
            if room <= 0:
                break
        if self._charged:
            self._charge()
        if self._closing and not self.unsent and tunnel is not None and not self._farewell:
            self._farewell = True
            self._seal(tunnel.close())
        elif self._closing and not self.unsent:
            self._shut()
        elif self.unsent or self._mask != _IN:
            self._watch()

    def _gather(self) -> bool:
        """Send some pieces in one call, without a copy of them (sendmsg(2)). False when not all of them were
        taken, or the connection is over.
        """
        queue = self._queue
        pieces = [queue.popleft() for _ in range(min(len(queue), MOST_GATHERED))]
        try:
            sent = left = self._socket.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            sent = left = 0
        except OSError:
            self.cut()
            return False
        self.unsent -= sent
        self.taken += sent
        if sent:
            self.progress = self._reactor.now
        place = 0
        while place < len(pieces) and left >= len(pieces[place]):
            left -= len(pieces[place])
            place += 1
        if place == len(pieces):
            return True
        if left:
            pieces[place] = rest_of(pieces[place], left)
        queue.extendleft(reversed(pieces[place:]))
        return False

    def _joined(self, first: bytes | memoryview) -> bytes:
        """Small pieces in one, because each send is a system call; a large one stays what it is, for it may
        be kept by others as well.
        """
        queue = self._queue
        if self.unsent <= JOINED_SIZE:
            queue.appendleft(first)
            data = b"".join(queue)
            queue.clear()
            return data
        pieces, size = [first], len(first)
        while queue and size + len(queue[0]) <= JOINED_SIZE:
            pieces.append(queue.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()
            return
        self.progress = self._reactor.now
        self.settle()
        self._watch()

    def settle(self) -> None:
        """Everything was answered and sent, or nothing more can be."""
        if not self.settled:
            self.settled = True
            self._reactor.settled()

    def _watch(self) -> None:
        """Tell the kernel what this connection waits for now."""
        if self.fd < 0:
            return
        session = self.session
        coming = self.account.coming  # a body is read whatever of answers waits: others wait for it
        paused = not self._closing and (
            session.busy
            or not session.reading
            or (self.unsent > HIGH_WATER and not coming)
            or (self.held_back and not (coming or session.answers_need_reading))
        )
        # What is to be flushed is not waited for yet: only a send tells that the kernel takes no more.
        waits = self.unsent and (not self._dirty or self._mask & _OUT)
        mask = (0 if paused else _IN) | (_OUT if waits else 0)
        if mask != self._mask:
            self._mask = mask
            if not self._resting:
                self._reactor.modify(self.fd, mask)

    def rest(self) -> None:
        """It waits for its turn, and the kernel told of it already: again is of no use until then."""
        if not self._resting:
            self._resting = True
            self._rested_at = self._reactor.now
            self._reactor.modify(self.fd, 0)
