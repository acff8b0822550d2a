"""A raw HTTP/1 connection whose answers are judged by h11: anything against RFC 9112 is an error of the test.

What is sent is the test's own bytes, however odd; what comes back must be well formed. Reads are bounded in
time.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import h11

from tests.support.patience import seconds

if TYPE_CHECKING:
    from types import TracebackType

READ_SECONDS: Final = 10.0
READ_BYTES: Final = 65536


@dataclass
class Answer:
    """One answer: `headers` by lower-case name, `order` the names as sent."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""
    version: bytes = b"1.1"
    order: list[bytes] = field(default_factory=list)

    @property
    def closes(self) -> bool:
        """It announces that the connection ends after it."""
        return self.headers.get(b"connection", b"").lower() == b"close"


class Wire:
    """One connection. `send` raw bytes, then take the answers in order."""

    def __init__(self, host: str, port: int, limit: float = READ_SECONDS) -> None:
        self.socket = socket.create_connection((host, port), timeout=seconds(limit))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._judge: h11.Connection | None = None

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def interim(self, method: bytes = b"GET") -> int:
        """Wait for an informational answer (100 Continue) and return its status."""
        event = self._event(method)
        assert isinstance(event, h11.InformationalResponse), event
        return event.status_code

    def head(self, method: bytes = b"GET") -> Answer:
        """Wait for the head of the next answer; its body follows with `piece`."""
        event = self._event(method)
        while isinstance(event, h11.InformationalResponse):
            event = self._event(method)
        assert isinstance(event, h11.Response), event
        raw = list(event.headers.raw_items())
        return Answer(
            event.status_code,
            dict(event.headers),
            version=event.http_version,
            order=[bytes(name) for name, _ in raw],
        )

    def piece(self) -> bytes:
        """The next piece of the body as it came, empty at its end."""
        assert self._judge is not None
        event = self._event(b"")
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        self._rest = self._judge.trailing_data[0]
        self._judge = None
        return b""

    def answer(self, method: bytes = b"GET") -> Answer:
        """Wait for the whole next answer, to a request of `method` (an answer to HEAD has no body)."""
        answer = self.head(method)
        answer.body = b"".join(iter(self.piece, b""))
        return answer

    def ask(self, data: bytes) -> Answer:
        """Send one request and wait for its answer."""
        self.send(data)
        return self.answer(data.partition(b" ")[0])

    def ended(self) -> bool:
        """Wait for the server to close: True when it does so without another byte (or by a reset)."""
        if self._rest:
            return False
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, method: bytes) -> object:
        if self._judge is None:
            # The judge must believe that it asked; what it would have sent is thrown away.
            self._judge = h11.Connection(h11.CLIENT)
            safe = method if method == b"HEAD" else b"GET"
            self._judge.send(h11.Request(method=safe, target="/", headers=[("Host", "judge")]))
            self._judge.send(h11.EndOfMessage())
            if self._rest:
                self._judge.receive_data(self._rest)
                self._rest = b""
        while True:
            event = self._judge.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._judge.receive_data(self.socket.recv(READ_BYTES))
