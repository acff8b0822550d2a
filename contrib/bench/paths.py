"""The paths of requests through the code without a network, each measured when it is asked for.

`against` runs this file on two checkouts at once, so it uses nothing that changes often: the codecs, the
services and the member of the tests, and of what differs between versions it looks what is there. A name on
standard input is one round of a path; what it took of the processor, in microseconds for each request (key,
record), is the answer.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections import deque
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hpack import Encoder

from netstore.api.gate import Gate
from netstore.api.v3.services import build
from netstore.disk.engine import LmdbEngine
from netstore.net import http2
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.connection import Http1Connection
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import Http2Connection, Http2Server
from netstore.net.http2.head import Head
from netstore.node.lessor import Lessor
from netstore.node.timekeeper import Deadline
from netstore.proto import kv_pb2, rpc_pb2
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3 import commands as v3
from netstore.types import Index
from tests.support.http import FakeOutput
from tests.support.local_member import LocalMember
from tests.support.member import Lines, Solo
from tests.support.v3member import OPTIONS, FakeMembers

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH: Final = 64
"""Requests that come in one read, and whose changes the state is given together."""

ROUND: Final = 4_096
"""Requests of one round."""

KEYS: Final = 1_000
"""Keys that are written again and again."""

LISTED: Final = 10_000
"""Keys of the list."""

LOADED: Final = 20_000
"""Records of the state that is loaded."""

SCRAPES: Final = 20

METHODS: Final = 36
"""Unary methods of the v3 API."""

VALUE: Final = b"v" * 256

_PUT: Final = b"/etcdserverpb.KV/Put"
_TXN: Final = b"/etcdserverpb.KV/Txn"
_RANGE: Final = b"/etcdserverpb.KV/Range"
_WIDE: Final = (1 << 31) - 1


class Output(FakeOutput):
    """Counts what is sent and keeps none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.writes = 0

    def write(self, data: bytes | memoryview, *more: bytes | memoryview) -> None:
        """See `Output.write`."""
        self.size += len(data) + sum(map(len, more))
        self.writes += 1


def _never(_seconds: float, _call: object) -> Any:
    """Nothing here waits for time to pass."""


class Client:
    """One HTTP/2 connection that makes calls of one method."""

    def __init__(self, services: Services, path: bytes) -> None:
        # A second for each look at the clock: how fast a connection may be is not the point here.
        server = GrpcServer(services, time.monotonic, lambda _seconds, call: Deadline(0.0, call), Lines())
        self.output = Output()
        self._connection = Http2Connection(
            Http2Server(server, map(float, count()).__next__, varying=TIMEOUT_FIELD), self.output
        )
        settings = http2.SET_INITIAL_WINDOW.to_bytes(2, "big") + _WIDE.to_bytes(4, "big")
        self._connection.receive(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, settings))
        self._widen()
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"127.0.0.1:2379"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"grpc-go/1.38.0"),
            (b"te", b"trailers"),
        ]
        encoder = Encoder()
        self._number = -1
        self._block = encoder.encode(fields)
        self.give(self.calls([b""]))
        self._block = encoder.encode(fields)
        """As it is once everything in it is in the table of the connection."""

    def calls(self, messages: list[bytes]) -> bytes:
        """The bytes of such calls, one after the other."""
        frames = []
        for message in messages:
            self._number += 2
            body = b"\0" + len(message).to_bytes(4, "big") + message
            frames.append(
                http2.frame(http2.HEADERS, http2.END_HEADERS, self._number, self._block)
                + http2.frame(http2.DATA, http2.END_STREAM, self._number, body)
            )
        return b"".join(frames)

    def give(self, data: bytes) -> None:
        """Let the server read this."""
        self._connection.receive(data)
        while getattr(self.output, "turns", None):
            self.output.run_turn()

    def go_on(self) -> None:
        """Let the server send what waits, and allow it more."""
        self._connection.resume()
        self._widen()

    def _widen(self) -> None:
        more = _WIDE - self._connection.window
        if more > _WIDE // 2:
            self.give(http2.frame(http2.WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))


class Store:
    """A member with its log, on a disk and an engine in memory, its v3 services, and a client of it."""

    def __init__(self) -> None:
        self.solo = Solo(snapshot_count=1_000).lead()
        host: Any = self.solo.host
        self._services = build(
            host,
            OPTIONS,
            watches=host.watches,
            lessor=Lessor(host, 1.0),
            members=FakeMembers(),
            backups=_nobody,
            sizes=lambda: (0, 0),
            after=_never,
            below=lambda bound: bound // 2,
            log=Lines(),
            gate=Gate(),
        )
        self.client = cache(partial(Client, self._services))

    def prepare(self, path: bytes, messages: list[bytes], batch: int = BATCH) -> Callable[[], None]:
        """What makes these calls, `batch` of them in one read; their bytes are made before."""
        client, solo = self.client(path), self.solo
        reads = [client.calls(messages[at : at + batch]) for at in range(0, len(messages), batch)]

        def run() -> None:
            before = client.output.writes
            for read in reads:
                client.give(read)
                settle(solo)
                client.go_on()
            if client.output.writes - before < len(messages):
                raise AssertionError("not all was answered")

        return run

    def ask(self, path: bytes, messages: list[bytes]) -> float:
        """Microseconds of the processor for each call."""
        run = self.prepare(path, messages)
        start = time.process_time()
        run()
        took = time.process_time() - start
        self.tidy()
        return took / len(messages) * 1e6

    def tidy(self) -> None:
        """What the engine's thread does after a while."""
        self.solo.engine.commit()
        self.solo.host.compaction.compact()


def settle(solo: Solo) -> None:
    """Turns until nothing is left to do, on a disk that has written everything when it is asked."""
    while solo.woken or solo.device.waiting:
        solo.turn()
        written, solo.device.waiting = solo.device.waiting, deque()
        for _, _, _, done in written:
            done(None)


_nobody: Any = None


def _name(number: int) -> bytes:
    return b"/registry/pods/default/pod-%08d" % number


@cache
def _store() -> Store:
    return Store()


@cache
def _listed() -> Store:
    """A store for lists alone: what else is read must not push their records out of memory."""
    store = Store()
    store.ask(_PUT, [_put(number) for number in range(LISTED)])
    return store


def _put(number: int) -> bytes:
    return rpc_pb2.PutRequest(key=_name(number), value=VALUE).SerializeToString()


def put() -> float:
    """A put from the frames of its call to those of its answer, through the log and the state."""
    return _store().ask(_PUT, [_put(number % KEYS) for number in range(ROUND)])


def txn() -> float:
    """A transaction as Kubernetes changes an object: one compare, a put, and a range where it fails."""
    store = _store()
    store.ask(_PUT, [_put(number) for number in range(KEYS)])
    messages = []
    for number in range(KEYS):
        name = _name(number)
        item: Any = store.solo.host.machine.mvcc
        revision = kv_pb2.KeyValue.FromString(item.get(name)).mod_revision
        compare = rpc_pb2.Compare(key=name, target=rpc_pb2.Compare.MOD, mod_revision=revision)
        change = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=VALUE))
        read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))
        messages.append(
            rpc_pb2.TxnRequest(compare=[compare], success=[change], failure=[read]).SerializeToString()
        )
    return store.ask(_TXN, messages)


def get() -> float:
    """A linearizable read of one key."""
    store = _store()
    store.ask(_PUT, [_put(number) for number in range(KEYS)])
    names = [_name(number % KEYS) for number in range(ROUND)]
    return store.ask(_RANGE, [rpc_pb2.RangeRequest(key=name).SerializeToString() for name in names])


def listing() -> float:
    """A list of 10,000 keys, for each."""
    message = rpc_pb2.RangeRequest(key=b"/registry/pods/", range_end=b"/registry/pods0").SerializeToString()
    store = _listed()
    output = store.client(_RANGE).output
    before = output.size
    took = store.ask(_RANGE, [message] * 4)
    if output.size - before < 4 * LISTED * len(VALUE):
        raise AssertionError("the lists are not whole")
    return took / LISTED


class _Stored:
    """A machine on LMDB. What the engine's thread wants done on the loop is done between batches."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.lmdb"
        self._calls: list[Callable[[], object]] = []
        self.machine, self.engine = self._open()

    def _open(self) -> tuple[Machine, LmdbEngine]:
        engine = LmdbEngine(self._path, self._calls.append, TABLES, _raise)
        machine = Machine(engine)
        machine.load()
        return machine, engine

    def load(self) -> float:
        """Close and open again; seconds of the processor that it took."""
        self.engine.close()
        gc.collect()
        start = time.process_time()
        self.machine, self.engine = self._open()
        return time.process_time() - start

    def apply(self, commands: list[bytes]) -> float:
        """Apply, save and commit; microseconds of the processor for each."""
        machine = self.machine
        start = time.process_time()
        for at in range(0, len(commands), BATCH):
            for command in commands[at : at + BATCH]:
                machine.apply(Index(machine.applied + 1), command)
            machine.take_changes()
            machine.save()
            self._run()
        done: list[OSError | None] = []
        self.engine.sync(done.append)
        while not done:
            time.sleep(0.001)
            self._run()
        return (time.process_time() - start) / len(commands) * 1e6

    def _run(self) -> None:
        while self._calls:
            self._calls.pop(0)()


def _raise(error: OSError) -> None:
    raise error


_folder = tempfile.TemporaryDirectory(prefix="netstore-bench-")


@cache
def _stored() -> _Stored:
    stored = _Stored(Path(_folder.name))
    stored.apply([encode(v3.Put(_name(number), VALUE)) for number in range(LOADED)])
    return stored


def state_put() -> float:
    """Put in the state alone, until LMDB has committed it."""
    return _stored().apply([encode(v3.Put(_name(number % KEYS), VALUE)) for number in range(ROUND)])


def load() -> float:
    """Loading the state, for each record."""
    stored = _stored()
    if stored.machine.mvcc.revision < 2:
        raise AssertionError("nothing is stored")
    index = Index(stored.machine.applied + 1)
    stored.machine.apply(index, encode(v3.Compact(stored.machine.mvcc.revision)))
    while stored.machine.sweeping:
        stored.machine.take_changes()
        stored.machine.sweep()
    stored.machine.save()
    return stored.load() / LOADED * 1e6


@cache
def _unary() -> Client:
    return Client(Services({_PUT: lambda call, _: call.reply(b"h" * 30)}, {}), _PUT)


def unary() -> float:
    """The codecs of a unary call without a service."""
    client = _unary()
    message = b"\x0a\x10" + b"k" * 16 + b"\x12\x1e" + b"v" * 30
    reads = [client.calls([message] * BATCH) for _ in range(0, ROUND, BATCH)]
    before = client.output.writes
    start = time.process_time()
    for read in reads:
        client.give(read)
    took = time.process_time() - start
    if client.output.writes - before < ROUND:
        raise AssertionError("not all was answered")
    client.go_on()
    return took / ROUND * 1e6


def _http1(handle: Callable[[Any], None], requests: list[bytes]) -> float:
    connection = Http1Connection(Http1Server(handle), Output())
    for request in requests[:KEYS]:
        connection.receive(request)  # their heads are known from now on
    start = time.process_time()
    for request in requests:
        connection.receive(request)
    return (time.process_time() - start) / len(requests) * 1e6


_HEAD: Final = b"Host: 127.0.0.1:2379\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n"
_FORM: Final = b"Content-Type: application/x-www-form-urlencoded\r\n"


def _v2_get(number: int) -> bytes:
    return b"GET /v2/keys/bench/%04d HTTP/1.1\r\n%b\r\n" % (number % KEYS, _HEAD)


def _v2_set(number: int) -> bytes:
    body = b"value=" + b"v" * 32
    head = b"PUT /v2/keys/bench/%04d HTTP/1.1\r\n" % (number % KEYS)
    return head + _HEAD + _FORM + b"Content-Length: %d\r\n\r\n" % len(body) + body


def http1_get() -> float:
    """The HTTP/1 codec: gets of known heads."""
    answer: Callable[[Any], None] = lambda exchange: exchange.respond(200, _FORM, b"x" * 100)  # noqa: E731
    return _http1(answer, [_v2_get(number) for number in range(ROUND * 2)])


def http1_put() -> float:
    """The HTTP/1 codec: puts of known heads."""
    answer: Callable[[Any], None] = lambda exchange: exchange.respond(200, _FORM, b"x" * 100)  # noqa: E731
    return _http1(answer, [_v2_set(number) for number in range(ROUND * 2)])


@cache
def _v2() -> LocalMember:
    return LocalMember()


def v2_set() -> float:
    """A v2 set from its bytes to those of its answer; the log and the disk are left out."""
    return _http1(_v2().router.handle, [_v2_set(number) for number in range(ROUND)])


def v2_get() -> float:
    """The same for a get."""
    v2_set()
    return _http1(_v2().router.handle, [_v2_get(number) for number in range(ROUND)])


def scrape(watches: int) -> float:
    """One scrape of the metrics of a store whose methods were all called, with so many watches; 0 where there
    are no metrics yet, or only those of fewer methods.
    """
    try:
        from tests.support.metered import Metered, watched  # noqa: PLC0415 - not in every checkout

        metered = Metered(tuple(b"/etcdserverpb.Any/M%d" % number for number in range(METHODS)))
    except (ImportError, TypeError):
        return 0.0
    for path in metered.grpc.services.unary:
        fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path))
        counted: Any = metered.grpc.route(Head((*fields, (b"content-type", b"application/grpc"))))
        counted.answered += 1
    watched(metered, watches)
    metered.exposition()
    start = time.process_time()
    for _ in range(SCRAPES):
        metered.exposition()
    return (time.process_time() - start) / SCRAPES * 1e6


PATHS: Final[dict[str, Callable[[], float]]] = {
    "v3 put": put,
    "v3 txn": txn,
    "v3 get": get,
    "list of 10,000, a key": listing,
    "put in the state": state_put,
    "load, a record": load,
    "HTTP/2 unary codec": unary,
    "HTTP/1 codec, get": http1_get,
    "HTTP/1 codec, put": http1_put,
    "v2 set": v2_set,
    "v2 get": v2_get,
    "scrape of metrics, 10 watches": partial(scrape, 10),
    "scrape of metrics, 1,000 watches": partial(scrape, 1_000),
}
"""By their names, in the order they are shown."""


def main() -> None:
    """Answer names until there are none."""
    for line in sys.stdin:
        print(PATHS[line.rstrip("\n")](), flush=True)


if __name__ == "__main__":
    main()
