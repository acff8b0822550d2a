"""A thousand watchers in one thread: bare HTTP/2 that writes its requests once and then only counts events.

Every watched value is a mark of 16 bytes that appears nowhere else, and an event is counted where its mark is
seen. A mark that is cut by the end of a frame is not seen, so no more than `AT_ONCE` events of a watch may be
under way: then a message is never longer than a frame. The windows are opened so far at the start that none
has to be widened later.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from typing import Final
from urllib.parse import urlsplit

from hpack import Encoder

from netstore.proto import rpc_pb2 as pb

MARK: Final = b"<16 bytes, mark>"
AT_ONCE: Final = 100
LIMIT_SECONDS: Final = 120.0

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MOST: Final = 2**31 - 1
_READ: Final = 1 << 20


class Fan:
    """`count` watches of one key, each a stream of its own, spread over `connections`."""

    mark = MARK

    def __init__(self, url: str, key: bytes, count: int, connections: int) -> None:
        place = urlsplit(url)
        wanted = pb.WatchCreateRequest(key=key)
        message = pb.WatchRequest(create_request=wanted).SerializeToString()
        body = struct.pack(">BI", 0, len(message)) + message
        self._selector = selectors.DefaultSelector()
        self._tails: dict[socket.socket, bytes] = {}
        for _ in range(connections):
            sock = socket.create_connection((place.hostname, place.port))
            sock.sendall(_opening(place.netloc, body, count // connections))
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, sock)
            self._tails[sock] = b""
        self._count = 0
        self._settle(count // connections * connections)

    def _settle(self, count: int) -> None:
        """Wait until every watch is said to exist: a message for each. Nobody writes yet."""
        read = dict.fromkeys(self._tails, b"")
        deadline = time.monotonic() + LIMIT_SECONDS
        while sum(map(_messages, read.values())) < count:
            ready = self._selector.select(deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"not all of {count} watches in {LIMIT_SECONDS:.0f} s")
            for key, _ in ready:
                if not (data := key.data.recv(_READ)):
                    raise ConnectionError("a store hung up on its watchers")
                read[key.data] += data

    def wait(self, events: int) -> None:
        """Return once so many events have come since the last call."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._count < events:
            if not self._selector.select(deadline - time.monotonic()):
                raise TimeoutError(f"{self._count} of {events} events in {LIMIT_SECONDS:.0f} s")
            self._read()
        if self._count > events:
            raise RuntimeError(f"{self._count} events, not {events}")
        self._count = 0

    def _read(self) -> None:
        for ready, _ in self._selector.select(0):
            sock: socket.socket = ready.data
            data = sock.recv(_READ)
            if not data:
                raise ConnectionError("a store hung up on its watchers")
            data = self._tails[sock] + data
            self._count += data.count(MARK)
            # A mark may be cut by the end of a read; none is counted twice, for none fits into the tail.
            self._tails[sock] = data[1 - len(MARK) :]

    def close(self) -> None:
        """Hang up."""
        for sock in self._tails:
            sock.close()
        self._selector.close()


def _messages(data: bytes) -> int:
    """Whole DATA frames that are not empty."""
    at = found = 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        at += 9 + size
        found += data[at - size - 6] == 0 and size > 0 and at <= len(data)
    return found


def _opening(authority: str, body: bytes, streams: int) -> bytes:
    settings = struct.pack(">HI", 4, _MOST)
    parts = [
        _PREFACE,
        _frame(4, 0, 0, settings),
        _frame(8, 0, 0, struct.pack(">I", _MOST - 65_535)),
        _frame(4, 1, 0, b""),
    ]
    encoder = Encoder()
    for number in range(streams):
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.Watch/Watch"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        stream = 2 * number + 1
        parts += (_frame(1, 4, stream, encoder.encode(fields)), _frame(0, 0, stream, body))
    return b"".join(parts)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
