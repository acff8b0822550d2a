"""The client side of HTTP/2, with the server side of `h2` as its judge."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.http2.client import (
    ANSWER_LIMIT,
    CONNECTION_WINDOW,
    EMPTY_LIMIT,
    LIST_LIMIT,
    STREAM_WINDOW,
    ClientConnection,
    Data,
    Event,
    Fields,
    GoingAway,
    Pong,
    Reset,
)
from netstore.net.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    MAX_FRAME,
    PADDED,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
)

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), (b":authority", b"store:1")]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]


class Pair:
    """A client, and the server that judges what it sends."""

    def __init__(self, settings: dict[SettingCodes | int, int] | None = None) -> None:
        self.client = ClientConnection()
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.server.initiate_connection()
        if settings:
            self.server.update_settings(settings)
        self.seen: list[object] = []
        """What the server received."""

    def exchange(self) -> list[Event]:
        """Deliver everything both have to send; what the client received."""
        events: list[Event] = []
        while True:
            sent = bytes(self.client.output)
            self.client.output.clear()
            self.seen += self.server.receive_data(sent) if sent else []
            came = self.server.data_to_send()
            if not sent and not came:
                return events
            events += self.client.receive(came)

    def body(self, stream: int) -> bytes:
        """What the server received on a stream; it opens its windows again."""
        data = b""
        for event in self.seen:
            if isinstance(event, DataReceived) and event.stream_id == stream:
                data += event.data or b""
        return data

    def acknowledge(self) -> None:
        """The server takes what it received."""
        for event in self.seen:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.seen = [each for each in self.seen if not isinstance(each, DataReceived)]


def test_a_call_and_its_answer() -> None:
    pair = Pair()
    stream = pair.client.open([*REQUEST, (b"token", b"secret")])
    pair.client.send(stream, b"ask", is_end=True)
    assert pair.exchange() == []
    [request] = [each for each in pair.seen if isinstance(each, RequestReceived)]
    assert [(bytes(name), bytes(value)) for name, value in request.headers or []] == [
        *REQUEST,
        (b"token", b"secret"),
    ]
    assert pair.body(stream) == b"ask"
    assert any(isinstance(each, StreamEnded) for each in pair.seen)
    pair.server.send_headers(stream, ANSWER)
    pair.server.send_data(stream, b"answer", pad_length=3)
    pair.server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    head, data, trailers = pair.exchange()
    assert head == Fields(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")], False)
    assert data == Data(stream, b"answer", 10, False)
    assert trailers == Fields(stream, [(b"grpc-status", b"0")], True)
    assert pair.client.open_streams == 0


@given(st.lists(st.integers(0, 60), max_size=20), st.data())
def test_it_does_not_matter_how_what_comes_is_cut(cuts: list[int], data: st.DataObject) -> None:
    pair = Pair()
    streams = [pair.client.open(REQUEST, is_end=True) for _ in range(3)]
    pair.exchange()
    for stream in streams:
        pair.server.send_headers(stream, ANSWER)
        pair.server.send_data(stream, data.draw(st.binary(max_size=50)), end_stream=True)
    pair.server.ping(b"12345678")
    came = pair.server.data_to_send()
    whole = Pair()
    for _ in streams:
        whole.client.open(REQUEST, is_end=True)
    whole.exchange()
    expected = whole.client.receive(came)
    found: list[Event] = []
    for cut in cuts:
        found += pair.client.receive(came[:cut])
        came = came[cut:]
    found += pair.client.receive(came)
    assert found == expected
    assert pair.client.output == whole.client.output


def test_it_sends_only_what_the_peers_windows_allow() -> None:
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    pair.exchange()
    body = bytes(range(256)) * 1000
    stream = pair.client.open(REQUEST)
    pair.client.send(stream, body[:150_000])
    pair.client.send(stream, body[150_000:], is_end=True)
    pair.exchange()  # h2 raises if a window is exceeded
    assert len(pair.body(stream)) == 1000
    assert pair.client.unsent(stream) == len(body) - 1000
    received = b""
    while len(received) < len(body):
        received += pair.body(stream)
        pair.acknowledge()
        pair.exchange()
    assert received == body
    assert any(isinstance(each, StreamEnded) for each in pair.seen)


def test_a_smaller_initial_window_counts_for_open_streams_too() -> None:
    pair = Pair()
    stream = pair.client.open(REQUEST)
    pair.exchange()
    pair.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.exchange()
    pair.client.send(stream, bytes(100), is_end=True)
    pair.exchange()
    assert len(pair.body(stream)) == 10


def test_what_it_holds_is_bounded_until_it_is_consumed() -> None:
    pair = Pair()
    stream = pair.client.open(REQUEST, is_end=True)
    pair.exchange()
    pair.server.send_headers(stream, ANSWER)
    events = pair.exchange()
    sent = 0
    while (room := min(pair.server.local_flow_control_window(stream), 16_384)) > 0:
        pair.server.send_data(stream, bytes(room))
        sent += room
        events += pair.exchange()
    assert sent == STREAM_WINDOW
    for event in events:
        if isinstance(event, Data):
            pair.client.consumed(stream, event.charged)
    pair.exchange()
    assert pair.server.local_flow_control_window(stream) > STREAM_WINDOW * 3 // 4


def test_streams_that_end_unread_do_not_use_up_the_connections_window() -> None:
    pair = Pair()
    for number in range(2 * CONNECTION_WINDOW // 500_000):
        stream = pair.client.open(REQUEST, is_end=True)
        pair.exchange()
        pair.server.send_headers(stream, ANSWER)
        for _ in range(500_000 // 10_000):
            pair.server.send_data(stream, bytes(10_000))
        if number % 2:
            pair.client.reset(stream)  # crosses the data on its way
            came = pair.server.data_to_send()
            assert not any(isinstance(each, Data) for each in pair.client.receive(came))
        else:
            pair.server.end_stream(stream)
        pair.exchange()
    assert pair.server.outbound_flow_control_window > CONNECTION_WINDOW * 3 // 4


def test_resets_pings_and_a_peer_that_goes_away() -> None:
    pair = Pair()
    one, two = pair.client.open(REQUEST), pair.client.open(REQUEST)
    pair.client.ping()
    assert pair.exchange() == [Pong()]
    assert any(isinstance(each, PingReceived) for each in pair.seen)
    pair.client.reset(one)
    pair.exchange()
    assert [each.stream_id for each in pair.seen if isinstance(each, StreamReset)] == [one]
    pair.server.reset_stream(two, 7)
    assert pair.exchange() == [Reset(two, 7)]
    pair.client.send(two, b"too late")
    assert pair.client.output == b""
    pair.server.close_connection(0, b"leaving", last_stream_id=two)
    assert pair.exchange() == [GoingAway(two, 0, "leaving")]
    assert pair.client.is_going_away


def test_a_large_header_list_is_sent_in_continuations() -> None:
    pair = Pair()
    fields = [*REQUEST, *((f"x-{number}".encode(), bytes([65 + number]) * 9_000) for number in range(6))]
    pair.server.local_settings.max_header_list_size = LIST_LIMIT * 2
    pair.client.open(fields, is_end=True)
    pair.exchange()
    [request] = [each for each in pair.seen if isinstance(each, RequestReceived)]
    assert len(request.headers or []) == len(fields)


@pytest.mark.parametrize("size", [0, 100, 2**20])
def test_the_peers_header_table_is_used_as_large_as_it_is(size: int) -> None:
    client = ClientConnection()
    client.receive(frame(SETTINGS, 0, 0, b"\0\1" + size.to_bytes(4)))
    decoder = Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = min(size, 4096)
    for _ in range(3):
        client.output.clear()
        client.open(REQUEST, is_end=True)
        assert len(list(decoder.decode(bytes(client.output[9:])))) == len(REQUEST)


def test_small_pieces_open_the_windows_seldom() -> None:
    client = ClientConnection()
    stream = client.open(REQUEST, is_end=True)
    client.receive(START + frame(HEADERS, END_HEADERS, stream, HEAD_200))
    client.output.clear()
    for _ in range(2):
        for event in client.receive(frame(DATA, 0, stream, b"x") * 10_000):
            assert isinstance(event, Data)
            client.consumed(stream, event.charged)
    assert client.output == b""


@pytest.mark.parametrize("kind", ["PING", "SETTINGS", "WINDOW_UPDATE"])
def test_what_a_peer_that_reads_nothing_makes_us_send_is_bounded(kind: str) -> None:
    asked = {
        "PING": frame(PING, 0, 0, bytes(8)),
        "SETTINGS": frame(SETTINGS, 0, 0),
        "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 1, bytes([0, 0, 0, 1])),
    }[kind]
    client = ClientConnection()
    client.receive(START + frame(SETTINGS, 0, 0, b"\0\4" + bytes(4)))
    client.send(client.open(REQUEST), bytes(10**6))
    with pytest.raises(ConnectionFault, match="not taken") as caught:
        client.receive(asked * 100_000)
    assert caught.value.code == ENHANCE_YOUR_CALM
    assert len(client.output) < 2 * ANSWER_LIMIT
    reading = ClientConnection()
    reading.receive(START)
    for _ in range(1000):
        reading.output.clear()
        reading.receive(asked * 100)


def test_empty_frames_of_data_are_not_reported_and_bounded() -> None:
    client = ClientConnection()
    stream = client.open(REQUEST, is_end=True)
    client.receive(START + frame(HEADERS, END_HEADERS, stream, HEAD_200))
    for _ in range(3):
        assert client.receive(frame(DATA, 0, stream) * EMPTY_LIMIT) == []
        assert len(client.receive(frame(DATA, 0, stream, b"x"))) == 1
    with pytest.raises(ConnectionFault, match="empty DATA"):
        client.receive(frame(DATA, PADDED, stream, b"\1\0") * (EMPTY_LIMIT + 1))


START = frame(SETTINGS, 0, 0)
HEAD_200 = b"\x88"

FAULTS = {
    "no SETTINGS first": frame(PING, 0, 0, bytes(8)),
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a push": START + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + HEAD_200),
    "a header block that is interrupted": START
    + frame(HEADERS, 0, 1, HEAD_200)
    + frame(PING, 0, 0, bytes(8)),
    "a continuation of nothing": START + frame(CONTINUATION, END_HEADERS, 1, HEAD_200),
    "an endless header block": START
    + frame(HEADERS, 0, 1, bytes(1000))
    + frame(CONTINUATION, 0, 1, bytes(MAX_FRAME)) * 5,
    "a malformed header block": START
    + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    "a stream that was not opened": START + frame(HEADERS, END_HEADERS, 3, HEAD_200),
    "data of a stream that was not opened": START + frame(DATA, 0, 5, b"x"),
    "more padding than data": START + frame(DATA, PADDED, 1, b"\x09x"),
    "a window of zero": START + frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window beyond its limit": START + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "a setting beyond its limit": frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
    "half a setting": frame(SETTINGS, 0, 0, b"\0\4"),
    "a reset of the wrong size": START + frame(RST_STREAM, 0, 1, b"x"),
    "a short goodbye": START + frame(GOAWAY, 0, 0, b"x"),
    "a long frame": START + b"\xff\xff\xff\0\0\0\0\0\1",
    "more data than the window": START
    + frame(HEADERS, END_HEADERS, 1, HEAD_200)
    + frame(DATA, 0, 1, bytes(MAX_FRAME)) * (STREAM_WINDOW // MAX_FRAME + 1),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_a_peer_must_not_send_ends_the_connection(what: str) -> None:
    client = ClientConnection()
    client.open(REQUEST, is_end=True)
    client.output.clear()
    with pytest.raises(ConnectionFault) as caught:
        client.receive(FAULTS[what])
    assert bytes([GOAWAY]) + bytes(5) in bytes(client.output), "the peer is told"
    assert str(caught.value)


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 255), st.integers(0, 4), st.binary(max_size=30)))
)
def test_any_frames_are_processed_or_refused(frames: list[tuple[int, int, int, bytes]]) -> None:
    client = ClientConnection()
    for _ in range(2):
        client.send(client.open(REQUEST), bytes(100_000))
    try:
        client.receive(START + b"".join(frame(*each) for each in frames))
    except ConnectionFault:
        return
    client.receive(frame(PING, 0, 0, bytes(8))) if client._block is None else None
