"""Clients that send the transactions of kube-apiserver, in one thread: bare HTTP/2, one call under way on
each connection, the next request made from the last answer.

grpcio would take several times as long for a call as the stores do; this takes some 40 us.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from hpack import Encoder

from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMIT_SECONDS: Final = 60.0

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MOST: Final = 2**31 - 1
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK = 1, 1
_END_HEADERS: Final = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Caller:
    """One connection."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HI", 4, _MOST)
        opening = frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, struct.pack(">I", _MOST - 65_535))
        self.socket.sendall(_PREFACE + opening)
        self._authority = place.netloc
        self._encoder = Encoder()
        self._stream = -1
        self._read = b""
        self._answer: list[bytes] = []
        self._taken = 0
        self.began = 0.0

    def call(self, method: str, message: bytes) -> None:
        """Send a request of a method such as `KV/Put`."""
        self._stream += 2
        self._answer = []
        block = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/etcdserverpb.{method}"),
                (":authority", self._authority),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
        )
        body = struct.pack(">BI", 0, len(message)) + message
        self.began = time.perf_counter()
        self.socket.sendall(
            frame(_HEADERS, _END_HEADERS, self._stream, block) + frame(_DATA, _END_STREAM, self._stream, body)
        )

    def receive(self) -> bytes | None:
        """Read what is there: the message of the answer, once it is whole."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the store hung up")
        self._read += data
        done = None
        at = 0
        while len(self._read) - at >= 9:
            size = int.from_bytes(self._read[at : at + 3], "big")
            if len(self._read) - at < 9 + size:
                break
            kind, flags = self._read[at + 3], self._read[at + 4]
            payload = self._read[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == _DATA:
                self._answer.append(payload)
                self._widen(size)
            elif kind == _HEADERS and flags & _END_STREAM:
                done = b"".join(self._answer)
                if len(done) < 5:
                    raise RuntimeError("a call was refused")
            elif kind == _PING and not flags & _ACK:
                self.socket.sendall(frame(_PING, _ACK, 0, payload))
            elif kind == _SETTINGS and not flags & _ACK:
                self.socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
            elif kind in {_RESET, _GOAWAY}:
                raise RuntimeError("the store ended a call or the connection")
        self._read = self._read[at:]
        return None if done is None else done[5:]

    def _widen(self, size: int) -> None:
        self._taken += size
        if self._taken > 1 << 20:
            self.socket.sendall(frame(_WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0


class Callers:
    """Some of them. `run` lets each make calls until there are no more."""

    def __init__(self, url: str, count: int) -> None:
        self._callers = [Caller(url) for _ in range(count)]

    def run(
        self,
        method: str,
        requests: Iterable[tuple[int, bytes]],
        answered: Callable[[int, bytes], bytes | None],
    ) -> list[float]:
        """Make these calls, each known by a number; seconds that each took. `answered` checks an answer, and
        gives the next request of the same call, if it has more than one.
        """
        waiting = iter(requests)
        under_way: dict[int, int] = {}
        took = []
        with selectors.DefaultSelector() as selector:
            for place, caller in enumerate(self._callers):
                selector.register(caller.socket, selectors.EVENT_READ, place)
                if (first := next(waiting, None)) is not None:
                    under_way[place] = first[0]
                    caller.call(method, first[1])
            while under_way:
                ready = selector.select(LIMIT_SECONDS)
                if not ready:
                    raise TimeoutError(f"no answer in {LIMIT_SECONDS:.0f} s")
                for key, _ in ready:
                    caller = self._callers[key.data]
                    if (answer := caller.receive()) is None:
                        continue
                    took.append(time.perf_counter() - caller.began)
                    number = under_way.pop(key.data)
                    more = answered(number, answer)
                    following = next(waiting, None) if more is None else (number, more)
                    if following is not None:
                        under_way[key.data] = following[0]
                        caller.call(method, following[1])
        return took

    def close(self) -> None:
        """Hang up."""
        for caller in self._callers:
            caller.socket.close()


class Objects:
    """Objects of one resource in one store: what is asked, and what the answers must be."""

    def __init__(self, url: str, callers: int, count: int, size: int) -> None:
        self._callers = Callers(url, callers)
        self._value = b"k8s\0" + b"o" * size
        self._count = count
        self._round = 0
        self._revisions: dict[int, int] = {}
        """Of each object, the revision at which it was written last."""

    def _name(self, number: int) -> bytes:
        return b"/registry/pods/round-%04d/pod-%06d" % (self._round, number)

    def begin(self) -> None:
        """New objects from now on."""
        self._round += 1

    def create(self) -> list[float]:
        """Each object where there is none of its name."""
        return self._written(
            {number: pb.RequestOp(request_put=self._put(number)) for number in self._all()}, {}
        )

    def update(self) -> list[float]:
        """Each as of the revision that is known."""
        return self._written(
            {number: pb.RequestOp(request_put=self._put(number)) for number in self._all()}, self._revisions
        )

    def delete(self) -> list[float]:
        """The same."""
        wanted = {
            number: pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=self._name(number)))
            for number in self._all()
        }
        return self._written(wanted, self._revisions)

    def get(self) -> list[float]:
        """Each, linearizable."""

        def check(number: int, answer: bytes) -> None:
            [found] = pb.RangeResponse.FromString(answer).kvs
            if found.mod_revision != self._revisions[number]:
                raise RuntimeError("an old object was read")

        wanted = ((each, pb.RangeRequest(key=self._name(each)).SerializeToString()) for each in self._all())
        return self._callers.run("KV/Range", wanted, check)

    def pages(self, times: int, page: int) -> list[float]:
        """All of them, page by page at the revision of the first; seconds of each page."""
        prefix = b"/registry/pods/round-%04d/" % self._round
        end = prefix[:-1] + b"0"
        found = dict.fromkeys(range(times), 0)

        def go_on(number: int, answer: bytes) -> bytes | None:
            response = pb.RangeResponse.FromString(answer)
            found[number] += len(response.kvs)
            if not response.more:
                if found[number] != self._count:
                    raise RuntimeError(f"{found[number]} objects in a list, not {self._count}")
                return None
            key, revision = response.kvs[-1].key + b"\0", response.header.revision
            following = pb.RangeRequest(key=key, range_end=end, limit=page, revision=revision)
            return following.SerializeToString()

        first = pb.RangeRequest(key=prefix, range_end=end, limit=page).SerializeToString()
        return self._callers.run("KV/Range", ((number, first) for number in range(times)), go_on)

    def _all(self) -> range:
        return range(self._count)

    def _put(self, number: int) -> pb.PutRequest:
        return pb.PutRequest(key=self._name(number), value=self._value)

    def _written(self, operations: dict[int, pb.RequestOp], known: dict[int, int]) -> list[float]:
        def requests() -> Iterable[tuple[int, bytes]]:
            for number, operation in operations.items():
                name, revision = self._name(number), known.get(number, 0)
                compare = pb.Compare(key=name, target=pb.Compare.MOD, mod_revision=revision)
                read = pb.RequestOp(request_range=pb.RangeRequest(key=name))
                # A creation reads nothing where it fails.
                failure = [read] if known else []
                request = pb.TxnRequest(compare=[compare], success=[operation], failure=failure)
                yield number, request.SerializeToString()

        def check(number: int, answer: bytes) -> None:
            response = pb.TxnResponse.FromString(answer)
            if not response.succeeded:
                raise RuntimeError("a write lost against nobody")
            self._revisions[number] = response.header.revision

        if not known:
            self._revisions.clear()
        return self._callers.run("KV/Txn", requests(), check)

    def close(self) -> None:
        """Hang up."""
        self._callers.close()
