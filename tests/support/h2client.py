"""The HTTP/2 codec without a socket, and `h2` as the client that judges it.

`Wire` gives raw bytes to a connection and reads its frames; `Judged` lets `h2`, which checks every rule of
RFC 9113 it knows, talk to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import msgspec
from hpack import Decoder, Encoder

from netstore.net import http2
from netstore.net.http2 import Head, Http2Connection, Http2Server, Stream, frame
from netstore.net.http2.hpackcache import literal, status_field
from tests.support.http import FakeOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Headers = list[tuple[str, str]]

REQUEST: Headers = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
OPENING = status_field(200) + literal(b"content-type", b"application/grpc")
ENDING = literal(b"grpc-status", b"0")


class Echo(Stream, kw_only=True, eq=False):
    """Sends back its body once it is complete, unless the application is set to `hold`."""

    application: Echoes
    head: Head
    _pieces: list[bytes] = msgspec.field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        self.application.fault(self, "take")
        self._pieces.append(data[start:stop])
        if ended:
            self.connection.ready.append(self)

    def hand_over(self) -> None:
        if not self.open:
            self.application.lost.append(self.number)
            self.application.fault(self, "told")
        else:
            self.application.fault(self, "hand_over")
            self.application.handed.append((self.number, self.head.path, self.body))
            if not self.application.hold:
                self.answer()

    def lost(self) -> None:
        self.connection.ready.append(self)
        self.application.fault(self, "lost")

    def drained(self) -> None:
        self.application.drained.append(self.number)
        self.application.fault(self, "drained")

    def drain(self) -> None:
        self.application.told_to_stop.append(self.number)
        self.application.fault(self, "drain")

    def answer(self, body: bytes | None = None) -> None:
        self.put_head(OPENING)
        self.put_data(b"", self.body if body is None else body)
        self.put_last(ENDING)


class Echoes:
    """The application of the tests. Implements `http2.Application`."""

    def __init__(self, *, hold: bool = False) -> None:
        self.hold = hold
        self.streams: dict[int, Echo] = {}
        self.handed: list[tuple[int, bytes, bytes]] = []
        self.lost: list[int] = []
        self.drained: list[int] = []
        self.told_to_stop: list[int] = []
        self.timeouts: list[bytes | None] = []
        self.faults: dict[str, Exception] = {}
        """What the callbacks of stream 3 raise, by their names."""
        self.failures: list[Exception] = []

    def route(self, head: Head) -> Any:
        if "route" in self.faults and head.path == b"/unroutable":
            raise self.faults["route"]
        return None

    def fault(self, stream: Stream, name: str) -> None:
        if name in self.faults and stream.number == 3:
            raise self.faults[name]

    def failed(self, what: Stream | Head, fault: Exception) -> None:
        self.failures.append(fault)
        if "failed" in self.faults:
            raise self.faults["failed"]

    def open(self, connection: Http2Connection, number: int, head: Head, timeout: bytes | None) -> Stream:
        self.timeouts.append(timeout)
        if "open" in self.faults and number == 3:
            raise self.faults["open"]
        stream = self.streams[number] = Echo(
            connection, number, head.content_length, connection.now, application=self, head=head
        )
        return stream


@dataclass(frozen=True)
class Frame:
    """One frame as sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == http2.GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


def frames(data: bytes) -> list[Frame]:
    """The frames in these bytes, which must be complete."""
    found = []
    while data:
        size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
        payload = data[9 : 9 + size]
        assert len(payload) == size
        found.append(Frame(kind, flags, int.from_bytes(data[5:9], "big"), payload))
        data = data[9 + size :]
    return found


def block(headers: Iterable[tuple[str, str]] = REQUEST) -> bytes:
    """A header block with these fields that does not use the dynamic table."""
    return b"".join(literal(name.encode(), value.encode()) for name, value in headers)


class Wire:
    """A connection fed with raw bytes. `time` is its clock."""

    def __init__(self, *, hold: bool = False, greet: bool = True, **limits: Any) -> None:
        self.time = 1000.0
        self.application = Echoes(hold=hold)
        self.server = Http2Server(self.application, lambda: self.time, varying=b"grpc-timeout", **limits)
        self.output = FakeOutput()
        self.connection = Http2Connection(self.server, self.output)
        self.encoder = Encoder()
        if greet:
            self.feed(http2.PREFACE, frame(http2.SETTINGS, 0, 0))
            self.sent()

    def feed(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            self.connection.receive(piece)
            while self.output.run_turn():
                pass
        return self

    def sent(self) -> list[Frame]:
        """The frames that were sent since the last call."""
        data, self.output.sent = self.output.sent, b""
        return frames(data)

    def compressed(self, headers: Iterable[tuple[str, str]] = REQUEST) -> bytes:
        """A header block with these fields by an encoder that uses its dynamic table; to be fed in order."""
        return bytes(self.encoder.encode(list(headers)))

    def request(
        self,
        number: int,
        body: bytes = b"",
        headers: Iterable[tuple[str, str]] = REQUEST,
        *,
        end: bool = True,
    ) -> bytes:
        """The frames of a request whose header block does not use the dynamic table."""
        flags = http2.END_HEADERS | (http2.END_STREAM if end and not body else 0)
        asked = frame(http2.HEADERS, flags, number, block(headers))
        while body:
            piece, body = body[: http2.MAX_FRAME], body[http2.MAX_FRAME :]
            flags = http2.END_STREAM if end and not body else 0
            asked += frame(http2.DATA, flags, number, piece)
        return asked

    def verdict(self) -> tuple[str, int] | None:
        """How the connection reacted to what was fed: scope and code of the error; None without one."""
        for sent in self.sent():
            if sent.kind == http2.GOAWAY:
                assert self.output.finished
                assert not self.connection.reading
                return ("connection", sent.code)
            if sent.kind == http2.RST_STREAM:
                assert not self.output.finished
                return ("stream", sent.code)
        return None


class Judged:
    """A connection whose client is `h2`. `cut` splits what the client sends into pieces."""

    def __init__(
        self,
        *,
        hold: bool = False,
        settings: dict[h2.settings.SettingCodes, int] | None = None,
        cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data],
        server: Http2Server | None = None,
    ) -> None:
        self.application = Echoes(hold=hold)
        self.output = FakeOutput()
        self.connection = Http2Connection(
            server or Http2Server(self.application, lambda: 1000.0, varying=b"grpc-timeout"), self.output
        )
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        if settings:
            self.client.local_settings = h2.settings.Settings(client=True, initial_values=settings)
            self.client.max_inbound_frame_size = self.client.local_settings.max_frame_size
        self.client.initiate_connection()
        self.events: list[Any] = []
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.greedy = True
        """The client opens its windows again as soon as something came."""
        self._cut = cut

    def settle(self) -> Judged:
        """Let both sides talk until neither sends anything."""
        while True:
            asked = self.client.data_to_send()
            for piece in self._cut(asked):
                self.connection.receive(piece)
                while self.output.run_turn():
                    pass
            self.connection.resume()
            said, self.output.sent = self.output.sent, b""
            if not asked and not said:
                return self
            for event in self.client.receive_data(said):
                self._take(event)

    def ask(self, body: bytes = b"", headers: Headers = REQUEST) -> int:
        """Send a request as the server's windows allow, padded every other time; its stream."""
        number = int(self.client.get_next_available_stream_id())
        self.client.send_headers(number, headers, end_stream=not body)
        while body:
            room = min(self.client.local_flow_control_window(number), self.client.max_outbound_frame_size)
            if room < 300:
                self.settle()
                continue
            pad = 200 if number % 4 == 1 and room > 300 else None
            piece, body = body[: room - 256], body[room - 256 :]
            self.client.send_data(number, piece, end_stream=not body, pad_length=pad)
        return number

    def _take(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.DataReceived):
            number = event.stream_id
            self.bodies[number] = self.bodies.get(number, b"") + event.data
            if self.greedy:
                self.client.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)


def fields(block: bytes) -> Headers:
    """The fields of a header block that uses no dynamic table."""
    return [(str(name), str(value)) for name, value in Decoder().decode(block)]
