"""Requests whose cost is counted, not timed: from the bytes that a socket brings to those that it takes.

One member in one thread: the real reactor with socket pairs in place of connections, the real codecs,
handlers, host turns and state; a disk that has written everything when it is asked, an engine in memory, and
clocks that move by the same step at each look. So a path does the same work each time, on every machine, and
what it takes can be counted: `instructions` does.

What is left out: Trio (a busy loop seldom goes through it), the threads of log and engine, and the kernel.
"""

from __future__ import annotations

import socket
from collections import deque
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self

from hpack import Encoder

from netstore.api.gate import Gate
from netstore.api.http.router import Route, Router
from netstore.api.v2.keys import KeysApi
from netstore.api.v3.services import build
from netstore.net import http2
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import Http2Server
from netstore.net.negotiation import SessionFactory
from netstore.net.reactor import Limits, Reactor
from netstore.node.lessor import Lessor
from netstore.node.timekeeper import Deadline
from netstore.proto import kv_pb2, rpc_pb2
from tests.support.member import Lines, Solo
from tests.support.v3member import OPTIONS, FakeMembers

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT: Final = 200
"""Requests of the smaller of two runs: whole rounds of 20 connections with 5 calls."""

CONNECTIONS: Final = 64
"""Of the v2 API, one request on each in a round."""

CALLERS: Final = (20, 5)
"""Connections of the v3 API, and calls on each in a round."""

KEYS: Final = 1_000
LISTED: Final = 1_000
VALUE: Final = b"v" * 256
LEASE: Final = 7

CLOCK_STEP: Final = 2e-6
"""Seconds between two looks at the clock, about as under load: less would make every request look light to
the scheduler.
"""

_PUT: Final = b"/etcdserverpb.KV/Put"
_TXN: Final = b"/etcdserverpb.KV/Txn"
_RANGE: Final = b"/etcdserverpb.KV/Range"
_GRANT: Final = b"/etcdserverpb.Lease/LeaseGrant"
_KEEPALIVE: Final = b"/etcdserverpb.Lease/LeaseKeepAlive"
_WIDE: Final = (1 << 31) - 1
_FORM: Final = b"Content-Type: application/x-www-form-urlencoded\r\n"
_HEAD: Final = b"Host: 127.0.0.1:2379\r\n"


class _Turns:
    """Runs the host's turns at the end of rounds, as `node.loop` does. Implements `reactor.Rounds`."""

    def __init__(self, solo: Solo) -> None:
        self._solo = solo

    def begin(self) -> None:
        """A round begins."""

    def end(self, *, is_idle: bool) -> None:
        """A turn, if the host wants one."""
        if self._solo.woken:
            self._solo.woken = False
            self._solo.host.turn(is_idle=is_idle)

    def rest(self) -> None:
        """No round follows soon."""


class _Client:
    """One end of a connection. What it receives is kept as it came, to be looked at when nothing counts."""

    def __init__(self, reactor: Reactor, number: int) -> None:
        self.socket, theirs = socket.socketpair()
        theirs.setblocking(False)
        for end in (self.socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        reactor.add(theirs, ("127.0.0.1", 40_000 + number), None)
        self.received: list[bytes] = []


class _Caller(_Client):
    """A client with HTTP/2 and calls of one method. Its windows are as wide as they can be."""

    def __init__(self, reactor: Reactor, number: int, path: bytes) -> None:
        super().__init__(reactor, number)
        self._encoder = Encoder()
        self._fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"127.0.0.1:2379"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        self._stream = -1
        settings = http2.SET_INITIAL_WINDOW.to_bytes(2, "big") + _WIDE.to_bytes(4, "big")
        self.socket.sendall(
            http2.PREFACE
            + http2.frame(http2.SETTINGS, 0, 0, settings)
            + http2.frame(http2.WINDOW_UPDATE, 0, 0, (_WIDE - 65_535).to_bytes(4, "big"))
        )

    def calls(self, messages: list[bytes]) -> bytes:
        """The bytes of such calls, one after the other."""
        frames: list[bytes] = []
        for message in messages:
            self._stream += 2
            block, body = (
                self._encoder.encode(self._fields),
                b"\0" + len(message).to_bytes(4, "big") + message,
            )
            frames += (
                http2.frame(http2.HEADERS, http2.END_HEADERS, self._stream, block),
                http2.frame(http2.DATA, http2.END_STREAM, self._stream, body),
            )
        return b"".join(frames)


class Member:
    """See the module."""

    def __init__(self) -> None:
        self._solo = solo = Solo(snapshot_count=1_000).lead()
        self.host = host = solo.host
        gate, clock, lessor = Gate(), count(1), Lessor(host, 1.0)
        now: Callable[[], float] = lambda: next(clock) * CLOCK_STEP  # noqa: E731
        keys = KeysApi(host, lessor.nodes, gate)
        router = Router(gate, {}, {b"/v2/keys": Route(keys.handle, None)})
        self._reactor = reactor = Reactor(Limits(), Http1Server(router.handle), Lines(), now)
        services = build(
            host,
            OPTIONS,
            watches=host.watches,
            lessor=lessor,
            members=FakeMembers(),
            backups=_nobody,
            sizes=lambda: (0, 0),
            after=lambda _seconds, call: Deadline(0.0, call),
            below=lambda bound: bound // 2,
            log=Lines(),
            gate=gate,
        )
        calls = GrpcServer(services, now, lambda _seconds, call: Deadline(0.0, call), Lines(), rounds=reactor)
        factory = SessionFactory(Http2Server(calls, lambda: reactor.now, varying=TIMEOUT_FIELD))
        # What `Reactor.run` begins with; its rounds are made by hand here.
        reactor._connect, reactor._rounds = factory.session, _Turns(solo)  # noqa: SLF001
        solo.device.on_release = self._written
        self._callers: dict[bytes, list[_Caller]] = {}
        self._askers = [_Client(reactor, number) for number in range(CONNECTIONS)]

    def _written(self) -> None:
        """The disk has done everything, within the call: a write that comes alone is synced by the loop."""
        written, self._solo.device.waiting = self._solo.device.waiting, deque()
        for _, _, _, done in written:
            done(None)

    def _rounds(self) -> None:
        """Rounds until nothing is left to do; the results of the disk come in one of their own."""
        device, reactor = self._solo.device, self._reactor
        while reactor._round(0) or device.waiting or self._solo.woken:  # noqa: SLF001 - see above
            written, device.waiting = device.waiting, deque()
            for _, _, _, done in written:
                reactor.call_soon(partial(done, None))
            if not written and self._solo.woken:
                reactor.call_soon(_nothing)  # as the task that `node.loop` wakes

    def calls(self, path: bytes, messages: list[bytes], *, alone: bool = False) -> Callable[[], None]:
        """What makes these calls, from all callers at once or from one, one call at a time."""
        if path not in self._callers:
            first = CONNECTIONS + len(self._callers) * CALLERS[0]
            self._callers[path] = [
                _Caller(self._reactor, first + number, path) for number in range(CALLERS[0])
            ]
        callers, streams = (self._callers[path][:1], 1) if alone else (self._callers[path], CALLERS[1])
        pieces = [messages[at : at + streams] for at in range(0, len(messages), streams)]
        sent = [callers[place % len(callers)].calls(piece) for place, piece in enumerate(pieces)]
        return partial(self._exchange, callers, sent, len(messages), _answered_calls)

    def requests(
        self, requests: list[bytes], *, alone: bool = False, queued: bool = False
    ) -> Callable[[], None]:
        """The same for HTTP/1. With `queued`, each connection waits for its turn in the fair queue, as where
        rounds are too short for all that ask.
        """
        askers = self._askers[:1] if alone else self._askers
        return partial(self._exchange, askers, requests, len(requests), _answered_requests, queued=queued)

    def _exchange(
        self,
        clients: list[Any],
        sent: list[bytes],
        wanted: int,
        answered: Callable[[bytes], int],
        *,
        queued: bool = False,
    ) -> None:
        self._reactor.scheduler.heavy_at = inf if queued else -inf
        for at in range(0, len(sent), len(clients)):
            asking = clients[: len(sent) - at]
            for place, client in enumerate(asking, at):
                client.socket.sendall(sent[place])
            self._rounds()
            for client in asking:
                client.received.append(client.socket.recv(8 << 20, socket.MSG_DONTWAIT))
        self._check = partial(_check, clients, wanted, answered)

    def settle(self) -> None:
        """Between two runs: see that all was answered, and do what the engine's thread does after a while."""
        self._check()
        self._solo.engine.commit()
        self.host.compaction.compact()

    def close(self) -> None:
        """Close all sockets."""
        self._reactor._close()  # noqa: SLF001 - see above
        for client in (*self._askers, *(each for callers in self._callers.values() for each in callers)):
            client.socket.close()


_nobody: Any = None


def _nothing() -> None:
    """The result of nothing."""


def _check(clients: list[_Client], wanted: int, answered: Callable[[bytes], int]) -> None:
    found = sum(answered(b"".join(client.received)) for client in clients)
    for client in clients:
        client.received.clear()
    if found != wanted:
        raise AssertionError(f"{found} of {wanted} requests were answered")


def _answered_calls(data: bytes) -> int:
    """Calls that ended with status 0: the last HEADERS of a stream, whose body is compressed."""
    at = found = 0
    while at < len(data):
        kind, flags = data[at + 3], data[at + 4]
        found += kind == http2.HEADERS and bool(flags & http2.END_STREAM)
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return found


def _answered_requests(data: bytes) -> int:
    return data.count(b"HTTP/1.1 20")


def _name(number: int) -> bytes:
    return b"/registry/pods/default/pod-%08d" % (number % KEYS)


def _put(number: int) -> rpc_pb2.PutRequest:
    return rpc_pb2.PutRequest(key=_name(number), value=VALUE)


def _operation(number: int) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=_put(number))


class Paths:
    """What is counted, by its name: `of[NAME](n)` prepares n requests and gives what makes them."""

    def __init__(self) -> None:
        self.member = member = Member()
        self._fill()
        calls, requests = member.calls, member.requests
        self.of: dict[str, Callable[[int], Callable[[], None]]] = {
            "v3 put": lambda n: calls(_PUT, [_put(each).SerializeToString() for each in range(n)]),
            "v3 put alone": lambda n: calls(
                _PUT, [_put(each).SerializeToString() for each in range(n)], alone=True
            ),
            "v3 txn of two puts": lambda n: calls(_TXN, [_two_puts(each) for each in range(n)]),
            "v3 update of an object": lambda n: calls(_TXN, [self._update(each) for each in range(n)]),
            "v3 range": lambda n: calls(_RANGE, [_get(each) for each in range(n)]),
            "v3 range, serializable": lambda n: calls(
                _RANGE, [_get(each, serializable=True) for each in range(n)]
            ),
            "v3 list of 1,000 keys, 25 of them": lambda n: calls(_RANGE, [_list()] * (n // 40), alone=True),
            "v3 list without values, 25 of 1,000 keys": lambda n: calls(
                _RANGE, [_list(keys_only=True)] * (n // 40), alone=True
            ),
            "v3 keepalive": lambda n: calls(
                _KEEPALIVE, [rpc_pb2.LeaseKeepAliveRequest(ID=LEASE).SerializeToString()] * n
            ),
            "v2 set": lambda n: requests([_v2_set(each) for each in range(n)]),
            "v2 set, queued": lambda n: requests([_v2_set(each) for each in range(n)], queued=True),
            "v2 set alone": lambda n: requests([_v2_set(each) for each in range(n)], alone=True),
            "v2 get": lambda n: requests([_v2_get(each) for each in range(n)]),
            "v2 get alone": lambda n: requests([_v2_get(each) for each in range(n)], alone=True),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.member.close()

    def run(self, prepared: Callable[[], None]) -> None:
        """One run outside of what is counted."""
        prepared()
        self.member.settle()

    def _fill(self) -> None:
        self.run(self.member.calls(_PUT, [_put(number).SerializeToString() for number in range(KEYS)]))
        self.run(self.member.requests([_v2_set(number) for number in range(KEYS)]))
        grant = rpc_pb2.LeaseGrantRequest(ID=LEASE, TTL=3600)
        self.run(self.member.calls(_GRANT, [grant.SerializeToString()], alone=True))

    def _update(self, number: int) -> bytes:
        """As kube-apiserver changes an object: compared with what it read, and read where that fails."""
        name = _name(number)
        mvcc: Any = self.member.host.machine.mvcc
        revision = kv_pb2.KeyValue.FromString(mvcc.get(name)).mod_revision
        compare = rpc_pb2.Compare(key=name, target=rpc_pb2.Compare.MOD, mod_revision=revision)
        read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))
        request = rpc_pb2.TxnRequest(compare=[compare], success=[_operation(number)], failure=[read])
        return bytes(request.SerializeToString())


def _two_puts(number: int) -> bytes:
    operations = [_operation(2 * number), _operation(2 * number + 1)]
    return rpc_pb2.TxnRequest(success=operations).SerializeToString()


def _get(number: int, *, serializable: bool = False) -> bytes:
    return rpc_pb2.RangeRequest(key=_name(number), serializable=serializable).SerializeToString()


def _list(*, keys_only: bool = False) -> bytes:
    wanted = rpc_pb2.RangeRequest(key=b"/registry/pods/", range_end=b"/registry/pods0", keys_only=keys_only)
    return wanted.SerializeToString()


def _v2_set(number: int) -> bytes:
    body = b"value=" + b"v" * 32
    head = b"PUT /v2/keys/bench/%04d HTTP/1.1\r\n" % (number % KEYS)
    return head + _HEAD + _FORM + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _v2_get(number: int) -> bytes:
    return b"GET /v2/keys/bench/%04d HTTP/1.1\r\n%b\r\n" % (number % KEYS, _HEAD)
