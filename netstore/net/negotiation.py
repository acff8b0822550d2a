"""Chooses the protocol of each client connection, HTTP/1 or HTTP/2. Under TLS it is agreed on in the
handshake (ALPN). Otherwise the first bytes decide: every HTTP/2 client begins with the same preface, which
is no valid HTTP/1 request (RFC 9113, 3.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.http1.bounds import HEAD_SECONDS
from netstore.net.http1.connection import Http1Connection
from netstore.net.http2 import PREFACE, Http2Connection

if TYPE_CHECKING:
    from netstore.net.connection import Connection
    from netstore.net.http1.server import Http1Server
    from netstore.net.http2 import Http2Server
    from netstore.net.session import Session

ALPN = ("h2", "http/1.1")
"""The protocols offered in a TLS handshake, the preferred one first."""


class ProtocolDetection:
    """The session of a connection whose protocol is not known yet. Implements `session.Session`."""

    at_limit = False
    idle = True
    reading = True
    has_pending = False
    timed_out = False
    answers_need_reading = False

    def __init__(self, connection: Connection, http1: Http1Server, http2: Http2Server) -> None:
        self._connection = connection
        self._http1 = http1
        self._http2 = http2
        self._read = b""
        self._since: float | None = None

    @property
    def incomplete(self) -> bool:
        """Part of a preface has arrived."""
        return bool(self._read)

    def receive(self, data: bytes) -> bool:
        """Decide as soon as one byte differs from the preface, or all of it has arrived."""
        read = self._read + data
        if read.startswith(PREFACE):
            connection = self._connection
            session: Session = Http2Connection(
                self._http2, connection, connection.peer, connection.common_name
            )
        elif PREFACE.startswith(read):
            self._read = read
            return False
        else:
            session = self._http1_session()
        self._connection.session = session
        return session.receive(read)

    def resume(self) -> None:
        """Does nothing."""

    def eof(self) -> None:
        """The peer sent nothing, or part of a preface."""
        self._connection.cut()

    def gone(self) -> None:
        """Does nothing."""

    def refuse(self, status: int, text: bytes) -> None:
        """The rest of the preface did not arrive: answer as HTTP/1."""
        session = self._connection.session = self._http1_session()
        session.receive(self._read)
        session.refuse(status, text)

    def sweep(self, now: float) -> None:
        """Check the time limit for the preface; see `Http1Connection.sweep`."""
        if not self._read:
            return
        if self._since is None:
            self._since = now
        self.timed_out = now - self._since > HEAD_SECONDS

    def drain(self) -> None:
        """No request was made yet."""
        self._connection.finish()

    def _http1_session(self) -> Session:
        return Http1Connection(self._http1, self._connection)


class SessionFactory:
    """Makes the session of each new connection."""

    def __init__(self, http2: Http2Server) -> None:
        self._http2 = http2

    def session(self, connection: Connection, http1: Http1Server) -> Session:
        """See `Reactor.run`."""
        if connection.http1 is not None:
            return Http1Connection(connection.http1, connection)
        if connection.protocol == "h2":
            return Http2Connection(self._http2, connection, connection.peer, connection.common_name)
        if connection.protocol == "http/1.1":
            return Http1Connection(http1, connection)
        return ProtocolDetection(connection, http1, self._http2)
