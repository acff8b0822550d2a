"""One accepted client socket: reading for its session, sending what the session wrote, TLS and time limits.

It has more than 500 lines, because all of this works on the state of one socket in the path of each request:
divided, each part would need most of the state of the others, and a call more for each read and each send.

The reactor decides whose turn it is and makes all calls; `session.Session` is the codec on top. A turn is a
bounded piece of work: one read, one piece of what the session has to handle, and `SEND_SIZE` bytes sent.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from netstore.guard import guarded
from netstore.net.exchange import HIGH_WATER
from netstore.net.sendqueue import join_small, rest_of, send_gathered, take_joined
from netstore.net.session import Closed
from netstore.net.tls import TlsFailed, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.http1.server import Http1Server
    from netstore.net.reactor import Reactor
    from netstore.net.session import Session
    from netstore.net.tls import Credentials

READ_SIZE: Final = 64 * 1024
"""Bytes of one read; what a client sends beyond it waits for the next round."""

FIRST_READ: Final = 8 * 1024
"""Bytes of one read while request bodies wait for memory (`bodyadmission`) and this connection has none
admitted.
"""

SEND_SIZE: Final = 1024 * 1024
"""Bytes sent in one turn; the rest waits for the next round, however fast the client reads."""

JOINED_SIZE: Final = 256 * 1024
"""Bytes of small pieces that are joined for one send, and bytes given to TLS at once."""

GATHERED_SIZE: Final = 2048
"""Pieces of at least this size on average are not joined but passed to sendmsg(2) together: below it, copying
costs less than one more element in the system call.
"""

HANDSHAKE_SECONDS: Final = 10.0
"""Time limit for the TLS handshake, from accept(2)."""

DRAIN_LIMIT: Final = 64 * 1024 * 1024
"""Bytes read and dropped from a closing connection, so that the last answer reaches the client instead of a
reset (RFC 9112, 9.6).
"""

_UNCHARGED: Final = 4096
"""Unsent bytes of a connection that are not charged to the shared memory: charging them would cost more
than it gains.
"""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_END: Final = select.EPOLLRDHUP

NEW_DATA: Final = _IN | _END | select.EPOLLET
"""What is registered with epoll while a connection only waits for data: it is told once of what has arrived,
not in each round until that is read, so a connection that waits for its turn costs no system calls. After a
read that may have left something (all that was asked for, or the end of the stream), it is registered again,
which makes epoll look again (epoll(7)).
"""
_PLAIN_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class Handshake(Closed):
    """The `Session` of a TLS connection until its handshake is done. Nothing is received before that."""

    reading = True
    waiting = True
    answers_need_reading = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def eof(self) -> None:
        """The peer gave up."""
        self._connection.cut()

    def refuse(self, status: int, text: bytes) -> None:
        """It took too long. No error response can be sent without TLS."""
        self._connection.handshake_failed(f"{status}: {text.decode()}")

    def drain(self) -> None:
        """No request was made yet."""
        self._connection.cut()


_CLOSED: Final = Closed()


class Connection:
    """One accepted socket. Implements `session.Output`.

    With `credentials` everything goes through TLS, and the session is made when the handshake is done.
    """

    __slots__ = (
        "_accepted",
        "_address",
        "_charged",
        "_close_notify_sent",
        "_closing",
        "_dirty",
        "_discarded",
        "_drop_limit",
        "_dropped",
        "_encrypted",
        "_mask",
        "_muted",
        "_next_turn",
        "_queue",
        "_reactor",
        "_socket",
        "_suspended",
        "_tunnel",
        "account",
        "admission",
        "fd",
        "heard",
        "held_back",
        "http1",
        "last_read",
        "load",
        "not_taken",
        "principal",
        "progress",
        "sent",
        "sent_counted",
        "session",
        "settled",
        "short_turn",
        "unsent",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        address: Any,
        now: float,
        credentials: Credentials | None = None,
        *,
        http1: Http1Server | None = None,
    ) -> None:
        self._reactor = reactor
        self.http1 = http1
        """The only server of its port; None where the protocol is negotiated."""
        self._socket = sock
        self._address = address
        self.fd = sock.fileno()
        self.account = reactor.memory.account(partial(reactor.pressure.moved, self))
        """Memory charged to this connection, here and by its session; closed with it."""
        self.admission = reactor.admission
        """See `session.Output`."""
        self.principal: str = address[0] if isinstance(address, tuple) else ""
        """The client, for fair shares and logs: the common name of its certificate once that is known, else
        its address without the port; empty for a Unix socket.
        """
        self.load = reactor.scheduler.joined(self.principal)
        """How much of the loop it used lately, by itself and with its household."""
        self.session: Session = Handshake(self)
        self.progress = self._accepted = now
        """When it last did what it owes: sent part of a request, or read part of an answer."""
        self.last_read: float = now
        """When something was last received."""
        self._tunnel = None if credentials is None else Tunnel(credentials.server(), None)
        """If there is one, all of `_queue` is sent through it, until the connection closes."""
        self._queue: deque[bytes | memoryview] = deque()
        """What the session wrote and the kernel has not accepted."""
        self._encrypted: bytes | memoryview | None = None
        """Bytes to be sent before `_queue`, as they are: the rest of a TLS record, or messages of TLS itself.
        """
        self.heard = False
        """The session received data, or the TLS handshake was completed."""
        self._close_notify_sent = False
        """No TLS alert of ours is to follow what is queued."""
        self.settled = False
        """All answers are sent, or none can be sent any more (`Reactor.drain`)."""
        self.unsent = 0
        """See `session.Output`."""
        self._charged = 0
        """How many of the unsent bytes are charged to the account."""
        self.sent = 0
        """Bytes that the kernel accepted, in all."""
        self.sent_counted = 0
        """How many of them are counted in the load."""
        self.held_back = False
        """See `session.Output`."""
        self.short_turn = False
        """See `session.Output`; set by the scheduler."""
        self.not_taken = 0
        """Bytes held after the last send, without those promised to request bodies: what the peer did not
        take.
        """
        self._discarded = False
        """What it held is freed already; it is to be cut in its next turn."""
        self._muted = False
        """What the session writes is dropped."""
        self._next_turn: Callable[[], None] | None = None
        """See `call_next_turn`."""
        self._dirty = False
        """It is in `Reactor.dirty`: to be flushed at the end of the round."""
        self._closing = False
        self._dropped = 0
        """Bytes that were read and dropped."""
        self._drop_limit = DRAIN_LIMIT
        self._mask = _IN
        """Events of epoll that it waits for."""
        self._suspended = False
        """It waits for a turn, and no event is registered with epoll until then."""

    def start_session(self) -> None:
        """Make the session: at once without TLS, else after the handshake."""
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
        """The address of the client, as `127.0.0.1:40312`; empty for a Unix socket."""
        if not isinstance(self._address, tuple):
            return ""
        host, port = self._address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def protocol(self) -> str | None:
        """The protocol agreed on in the TLS handshake (ALPN); None without TLS or agreement."""
        return None if self._tunnel is None else self._tunnel.protocol

    @property
    def common_name(self) -> str | None:
        """The common name of the client's certificate, if it sent one."""
        return None if self._tunnel is None else self._tunnel.common_name

    @property
    def idle(self) -> bool:
        """No request is open, and no part of an answer waits to be sent."""
        session = self.session
        return session.idle and not (self.unsent or self._closing or session.incomplete or session.at_limit)

    # --- `session.Output`

    def write(self, data: bytes | memoryview, *more: bytes | memoryview) -> None:
        """See `session.Output`; the reactor sends at the end of the round."""
        if self._muted:
            return
        self._queue.append(data)
        unsent = self.unsent + len(data)
        if more:
            self._queue += more
            unsent += sum(map(len, more))
        self.unsent = unsent
        if not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)
        if unsent > self._charged + _UNCHARGED:
            self._charge()

    def request_turn(self) -> None:
        """See `session.Output`."""
        if self.fd >= 0:
            self._watch()
            self._reactor.scheduler.later(self)

    @property
    def paused(self) -> bool:
        """See `session.Output`. What does not arrive meanwhile is not the peer's fault."""
        return not self._mask & _IN

    @property
    def unread(self) -> float | None:
        """See `bodyadmission.Owner`."""
        waits = self in self._reactor.scheduler.queue.places
        return self.last_read if waits or not self._mask & _IN else None

    def finish(self, drop: int | None = None) -> None:
        """See `session.Output`."""
        self._closing = True
        self._drop_limit = DRAIN_LIMIT if drop is None else drop
        if self.fd >= 0 and not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def add_load(self, seconds: float) -> None:
        """See `session.Output`."""
        self._reactor.scheduler.worked(self, seconds)

    def call_next_turn(self, call: Callable[[], None]) -> None:
        """See `session.Output`."""
        self._next_turn = call
        self._reactor.scheduler.later(self)

    def cut(self) -> None:
        """Close now; what is queued is lost."""
        if self.fd < 0:
            return
        self._reactor.forget(self)
        self._socket.close()
        self.fd = -1
        self._mask = 0
        self._muted = True
        self._queue.clear()
        self._encrypted = None
        self.unsent = 0
        self._next_turn = None
        self._suspended = False
        self.account.close()
        session, self.session = self.session, _CLOSED
        guarded(self._reactor.failed, session.gone)

    # --- shared memory (`memorypressure`)

    def _charge(self) -> None:
        """Charge the unsent bytes to the account."""
        more = self.unsent - self._charged
        self._charged = self.unsent
        self.account.charge(more)

    def discard(self) -> None:
        """Free what it holds, now and from within any call; it is cut in its next turn."""
        self._discarded = self._muted = True
        self._queue.clear()
        self._encrypted = None
        self.unsent = self._charged = 0
        self.account.close()
        if not self._dirty:
            self._dirty = True
            self._reactor.dirty.append(self)

    def hold_back(self, *, held: bool) -> None:
        """Handle no new request of it; or continue, if `held` is false."""
        self.held_back = held
        self._watch()
        if not held:
            self._reactor.scheduler.later(self)

    def _update_not_taken(self) -> None:
        """Called after sending, if what is held has changed."""
        self.not_taken = self.account.charged
        if self.fd >= 0:
            self._reactor.pressure.moved(self)

    # --- turns

    def ready(self, mask: int) -> None:
        """A turn of this connection. `mask` has the events that epoll reported: data, room to write or an
        error; 0 if it has other work to do.
        """
        if mask == _IN == self._mask and not (
            self._suspended or self._dirty or self._next_turn is not None or self.session.has_pending
        ):
            self._read(mask)  # it only waited for data, the common case
            return
        if self.fd >= 0:
            self._go_on(mask)
        if self.fd < 0:
            return
        if mask & self._mask & _IN:
            self._read(mask)
        elif mask & ~(_IN | _OUT | _END):
            self.cut()

    def _go_on(self, mask: int) -> None:
        """What a turn begins with, unless the connection only waited for data."""
        if self._suspended:
            self._suspended = False
            self._register()
        if self._discarded:
            self.cut()
        elif mask & _OUT or self._dirty:
            self._dirty = False
            self._send()
            if self.account.charged != self.not_taken:
                self._update_not_taken()
        if self.fd < 0:
            return
        call, self._next_turn = self._next_turn, None
        if call is not None:
            call()
            self._watch()
        elif self._mask != _IN or self.session.has_pending:
            self.session.resume()
            self._watch()

    def flush(self) -> None:
        """Send what was written since the last flush. If the session has more to do, it gets another turn."""
        self._dirty = False
        queue = self._queue
        if len(queue) == 1 and self._mask == _IN and self._tunnel is None and not self._closing:
            # One piece, the common case: what `_send` does if the kernel takes all of it.
            piece = queue.pop()
            try:
                sent = self._socket.send(piece)
            except OSError:
                sent = 0  # `_send` finds out why
            self.sent += sent
            if sent == self.unsent:
                self.unsent = 0
                self.progress = self._reactor.now
                if self._charged:
                    self._charge()
            else:
                self.unsent -= sent
                queue.append(rest_of(piece, sent))
                self._send()
        elif self._discarded:
            self.cut()
        elif self.fd >= 0 and not self._mask & _OUT:
            self._send()
        if self.account.charged != self.not_taken:
            self._update_not_taken()
        if self.session.has_pending:
            self._reactor.scheduler.later(self)
        elif self._mask != _IN and self.fd >= 0:
            self.session.resume()
            self._watch()

    def suspend(self) -> None:
        """More has arrived while it waits for its turn: do not report it again until then."""
        if not self._suspended:
            self._suspended = True
            self._reactor.modify(self.fd, 0)

    def _register(self) -> None:
        """Let epoll report what this connection waits for, and that anew if it is there already."""
        self._reactor.modify(self.fd, NEW_DATA if self._mask == _IN else self._mask)

    def _watch(self) -> None:
        """Register with epoll the events that this connection waits for now."""
        if self.fd < 0:
            return
        session = self.session
        coming = self.account.coming  # an admitted body is read in any case: others wait for its memory
        paused = not self._closing and (
            session.at_limit
            or not session.reading
            or (self.unsent > HIGH_WATER and not coming)
            or (self.held_back and not (coming or session.answers_need_reading))
        )
        # Room to write is waited for only after a send that was not complete: until then there is room.
        waits = self.unsent and (not self._dirty or self._mask & _OUT)
        mask = (0 if paused else _IN) | (_OUT if waits else 0)
        if mask != self._mask:
            self._mask = mask
            if not self._suspended:
                self._register()

    # --- reading

    def _read(self, mask: int) -> None:
        size = READ_SIZE
        if self.admission.waiting and not self.account.coming:
            size = FIRST_READ
        try:
            data = self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.cut()
            return
        if mask != _IN or len(data) == size:
            self._register()
        if self._closing or not self.session.reading:
            self._drop(data)
        elif data:
            self.progress = self.last_read = self._reactor.now
            if self._tunnel is not None:
                is_stopped = self._read_tls(self._tunnel, data)
            else:
                if not self.heard:
                    self.heard = True
                    self._reactor.connection_limit.heard(self)
                is_stopped = self.session.receive(data)
            if is_stopped or self.unsent > HIGH_WATER:
                self._watch()
        else:
            self.session.eof()
            self._watch()

    def _read_tls(self, tunnel: Tunnel, data: bytes) -> bool:
        """Returns what `session.Session.receive` does."""
        plain = self._decrypt(tunnel, data)
        if not self.heard and (plain or tunnel.open):
            self.heard = True
            self._reactor.connection_limit.heard(self)
        if plain:
            self.session.receive(plain)
        if self._tunnel is not None and tunnel.ended and not self._muted:
            self.session.eof()
        return self.session.at_limit or not self.session.reading

    def _drop(self, data: bytes) -> None:
        """Drop what arrives while the connection closes."""
        self._dropped += len(data)
        if not data or self._dropped > self._drop_limit:
            if self._closing and not self.unsent:
                self.cut()
            elif not data:
                self.session.eof()
                self._watch()
            else:
                self.cut()

    # --- sending

    def _send(self) -> None:
        queue, tunnel = self._queue, self._tunnel
        room = SEND_SIZE
        while queue or self._encrypted is not None:
            data: bytes | memoryview | None
            if self._encrypted is not None:
                data, self._encrypted = self._encrypted, None
            elif tunnel is not None:
                data = queue.popleft()
                if queue or len(data) > JOINED_SIZE:
                    queue.appendleft(data)
                    data = take_joined(queue, JOINED_SIZE)
                self.unsent -= len(data)
                data = tunnel.send(data)
                self.unsent += len(data)
            elif len(queue) > 1 and self.unsent >= GATHERED_SIZE * len(queue):
                data = None  # several pieces, without joining them
            else:
                data = queue.popleft()
                if queue and len(data) < READ_SIZE:
                    if self.unsent <= JOINED_SIZE:
                        queue.appendleft(data)
                        data = b"".join(queue)
                        queue.clear()
                    else:
                        data = join_small(data, queue, JOINED_SIZE)
            try:
                if data is None:
                    sent, complete = send_gathered(self._socket, queue)
                else:
                    sent = self._socket.send(data)
                    complete = sent == len(data)
            except (BlockingIOError, InterruptedError):
                sent, complete = 0, False
            except OSError:
                self.cut()
                return
            self.unsent -= sent
            if sent:
                self.progress = self._reactor.now
                self.sent += sent
                room -= sent
            if not complete:
                if data is not None and tunnel is not None:
                    self._encrypted = rest_of(data, sent)
                elif data is not None:
                    queue.appendleft(rest_of(data, sent))
                break
            if room <= 0:
                break
        if self._charged:
            self._charge()
        if self._closing and not self.unsent and tunnel is not None and not self._close_notify_sent:
            self._close_notify_sent = True
            self._send_encrypted(tunnel.close())
        elif self._closing and not self.unsent:
            self._shut_down()
        elif self.unsent or self._mask != _IN:
            self._watch()

    def _shut_down(self) -> None:
        """Everything is sent: close the sending side; the peer's data is dropped until it closes its own."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()
            return
        self.progress = self._reactor.now
        self.settle()
        self._watch()

    def settle(self) -> None:
        """Tell the reactor, once, that all answers are sent or none can be sent any more."""
        if not self.settled:
            self.settled = True
            self._reactor.settled()

    # --- TLS

    @property
    def _handshaking(self) -> bool:
        return self._tunnel is not None and not self._tunnel.open and not self._closing

    def handshake_failed(self, reason: str) -> None:
        """Log it and cut the connection."""
        self._reactor.refused(self.peer, reason)
        self.cut()

    def _decrypt(self, tunnel: Tunnel, data: bytes) -> bytes:
        """The plaintext that `data` completes; empty during the handshake and after an error."""
        if not tunnel.records and data[:1].isalpha():
            # The first byte of a TLS record is no letter; that of an HTTP request is one.
            self._end_tls(tunnel, _PLAIN_HTTP)
            return b""
        established = tunnel.open
        partial_before = tunnel.partial
        try:
            plain = tunnel.take(data)
        except TlsFailed as fault:
            # Close in order: a reset would overtake the alert that says what is wrong.
            self.account.release(partial_before)
            self._end_tls(tunnel, tunnel.outbound())
            if established:
                self.session.gone()
            else:
                self._reactor.refused(self.peer, str(fault))
            return b""
        self._send_encrypted(tunnel.outbound())
        if tunnel.partial != partial_before:
            self.account.charge(tunnel.partial - partial_before)
        if tunnel.open and not established:
            self.start_session()
        return plain

    def _end_tls(self, tunnel: Tunnel, last: bytes) -> None:
        """Nothing can be encrypted any more: drop the answers that were not, send `last` as it is, and
        close.
        """
        self._muted = self._close_notify_sent = True
        tunnel.partial = 0
        self._queue.clear()
        self.unsent = 0 if self._encrypted is None else len(self._encrypted)
        self._charge()
        self._send_encrypted(last)
        self.finish()

    def _send_encrypted(self, data: bytes) -> None:
        """Queue bytes of TLS itself, before the answers."""
        if data:
            self._encrypted = data if self._encrypted is None else b"".join((self._encrypted, data))
            self.unsent += len(data)
            if not self._dirty:
                self._dirty = True
                self._reactor.dirty.append(self)

    # --- time limits

    def sweep(self, now: float, limit: float) -> None:
        """Once a second. A peer that has stalled for longer than the limit is given up."""
        if self.fd >= 0 and self.stalled(now, limit):
            self.give_up()

    def stalled(self, now: float, limit: float) -> bool:
        """The peer has owed something (the rest of a request, reading an answer, closing) for longer than the
        limit, in seconds. A connection that waits for its turn is judged as of when it was queued: what
        has arrived since is not read, and one that sends a little now and then waits most of the time.
        """
        seen = now - self._reactor.scheduler.waited(self)
        if self._handshaking and seen - self._accepted > HANDSHAKE_SECONDS:
            return True
        session, tunnel, reads = self.session, self._tunnel, not self.paused
        in_record = False
        session.sweep(seen)
        if tunnel is not None:
            in_record = tunnel.partial > 0
            if reads and in_record and tunnel.is_record_late(seen):
                return True
            if not reads:
                tunnel.record_since = now
        if reads and session.timed_out:
            return True
        owes = self._closing or self.unsent > 0 or (reads and (session.incomplete or in_record))
        if not owes:
            self.progress = now
        return seen - self.progress > limit

    def give_up(self) -> None:
        """The peer stalled: send an error response if it may still read one, then close."""
        if self._handshaking:
            self.session.refuse(408, b"no handshake in time")
        elif self.unsent or self._closing or not self.session.incomplete:
            self.cut()
        else:
            self.session.refuse(408, b"408 Request Timeout")
