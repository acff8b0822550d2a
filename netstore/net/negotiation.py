"""What a client port speaks: HTTP/1 or HTTP/2, told apart for each connection.

Under TLS both sides say it in the handshake (ALPN). Otherwise the first bytes do: every HTTP/2 client begins
with the same preface, which is no request of HTTP/1 (RFC 9113, 3.4).
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
"""What is offered to clients in a TLS handshake, the best first."""


class ProtocolDetection:
    """Stands in for the session of a connection until it has shown what it speaks. Implements
    `session.Session`.
    """

    busy = False
    idle = True
    reading = True
    has_pending = False
    late = False
    answers_need_reading = False

    def __init__(self, connection: Connection, http1: Http1Server, http2: Http2Server) -> None:
        self._connection = connection
        self._http1 = http1
        self._http2 = http2
        self._read = b""
        self._since: float | None = None

    @property
    def waiting(self) -> bool:
        """Part of a preface is here."""
        return bool(self._read)

    def receive(self, data: bytes) -> None:
        """Decide as soon as one byte differs from the preface, or all of it is here."""
        read = self._read + data
        if read.startswith(PREFACE):
            connection = self._connection
            session: Session = Http2Connection(
                self._http2, connection, connection.peer, connection.common_name
            )
        elif PREFACE.startswith(read):
            self._read = read
            return
        else:
            session = self._http1_session()
        self._connection.session = session
        session.receive(read)

    def resume(self) -> None:
        """Nothing waits."""

    def eof(self) -> None:
        """The peer said nothing, or half of a preface."""
        self._connection.cut()

    def gone(self) -> None:
        """Nobody is to be told."""

    def refuse(self, status: int, text: bytes) -> None:
        """The rest of the first bytes did not come: answer as HTTP/1, which half a preface is."""
        session = self._connection.session = self._http1_session()
        session.receive(self._read)
        session.refuse(status, text)

    def sweep(self, now: float) -> None:
        """See whether the rest of a preface comes in time; see `Http1Connection.sweep`."""
        if not self._read:
            return
        if self._since is None:
            self._since = now
        self.late = now - self._since > HEAD_SECONDS

    def drain(self) -> None:
        """Nothing was asked yet."""
        self._connection.finish()

    def _http1_session(self) -> Session:
        return Http1Connection(self._http1, self._connection)


class SessionFactory:
    """Makes the session of each new connection."""

    def __init__(self, http2: Http2Server) -> None:
        self._http2 = http2

    def session(self, connection: Connection, http1: Http1Server) -> Session:
        """See `Reactor.run`."""
        if connection.protocol == "h2":
            return Http2Connection(self._http2, connection, connection.peer, connection.common_name)
        if connection.protocol == "http/1.1":
            return Http1Connection(http1, connection)
        return ProtocolDetection(connection, http1, self._http2)
