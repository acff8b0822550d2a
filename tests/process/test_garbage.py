"""What clients and members that come and go leave to Python's collector of cycles: nothing that grows.

`netstore.collector` sets aside what got old and never looks at it again, so a cycle of objects that lived
long is memory for ever. Each kind of client is driven some times, then three times as often.
"""

from __future__ import annotations

import signal
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from netstore.proto import rpc_pb2 as pb
from tests.support.certificates import Certificates
from tests.support.cluster import PACE, Members, converged, cut_before, fill, leader_of, put, request, write
from tests.support.daemon import free_port, launch, netstored_command
from tests.support.garbage import PROGRAM, TOLD_IN, found, watched
from tests.support.patience import seconds, until
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon


ROUNDS: Final = 1
FEW: Final = 100
"""Objects that may be found however long a member ran."""

PREFACE_ONLY: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
COPIED: Final = '"state_copy_installed"'
UNDER_WAY: Final = 260
"""More messages than may wait for one member (`raft.config`)."""

BIG: Final = b"big/"
PIECE: Final = b"x" * 60_000
PIECES: Final = 15


class Site:
    """A member with both schemes, and much to read."""

    def __init__(self, daemon: Daemon, tls_port: int, files: Certificates) -> None:
        self.daemon = daemon
        self.tls_port = tls_port
        self.files = files
        self.operator = V3Client(daemon.url)
        kv = self.operator.kv
        self.revision = kv.Put(pb.PutRequest(key=b"first", value=b"1")).header.revision
        for number in range(PIECES):
            kv.Put(pb.PutRequest(key=BIG + b"%d" % number, value=PIECE))
            assert put(daemon, f"big/{number}", PIECE.decode() * 6).status == 201

    def raw(self, data: bytes, *, port: int = 0, context: ssl.SSLContext | None = None) -> socket.socket:
        """A connection with a small receive buffer, on which this was sent."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(seconds(20))
        sock.connect((self.daemon.host, port or (self.tls_port if context else self.daemon.port)))
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        sock.sendall(data)
        return sock

    def watchers(self) -> int:
        """How many watchers the v2 tree has."""
        return int(request(self.daemon, "GET", "/v2/stats/store").body["watchers"])

    def sockets(self) -> int:
        """How many sockets the member has."""
        count = 0
        for each in Path(f"/proc/{self.daemon.pid}/fd").iterdir():
            with suppress(OSError):
                count += str(each.readlink()).startswith("socket:")
        return count


class Two:
    """A connection of HTTP/2 that opens no window beyond the first 64 KiB."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.two = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.two.initiate_connection()
        self.data = 0
        self.ended: list[int] = []

    def ask(self, method: str, path: str, *fields: tuple[str, str], message: bytes | None = None) -> int:
        """Send a request; a message ends it if it is a plain one."""
        number = self.two.get_next_available_stream_id()
        heads = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x"), *fields]
        self.two.send_headers(number, heads, end_stream=message is None)
        if message is not None:
            self.two.send_data(number, struct.pack(">BI", 0, len(message)) + message)
        self.flush()
        return number

    def call(self, method: str, message: Any, *fields: tuple[str, str]) -> int:
        """Begin a call; its request stream stays open."""
        kind = (("content-type", "application/grpc"), ("te", "trailers"), *fields)
        return self.ask("POST", f"/etcdserverpb.{method}", *kind, message=message.SerializeToString())

    def end(self, number: int) -> None:
        """Half-close: no more requests follow."""
        self.two.end_stream(number)
        self.flush()

    def reset(self, number: int) -> None:
        self.two.reset_stream(number, 8)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.two.data_to_send())

    def read_until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            got = self.sock.recv(65536)
            assert got, "the member hung up"
            for event in self.two.receive_data(got):
                if isinstance(event, h2.events.DataReceived):
                    self.data += len(event.data)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    self.ended.append(event.stream_id)
            self.flush()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("garbage")
    files = Certificates(folder / "tls")
    port, tls_port = free_port(), free_port()
    flags = (
        *("--cert-file", str(files.certificate), "--key-file", str(files.key)),
        *("--trusted-ca-file", str(files.ca), "--client-cert-auth"),
        *("--experimental-watch-progress-notify-interval", "100ms"),
    )
    command = watched(
        netstored_command(folder / "data", *flags, port=port, also=f"https://127.0.0.1:{tls_port}")
    )
    surroundings = {TOLD_IN: str(folder / "told")}
    with launch(
        command, f"http://127.0.0.1:{port}", folder / "data", folder / "log", environment=surroundings
    ) as daemon:
        made = Site(daemon, tls_port, files)
        yield made
        made.operator.close()


def create(key: bytes = b"watched", **wish: Any) -> pb.WatchRequest:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, **wish))


def watches_of_grpcio(site: Site) -> None:
    """Watches that end by cancel requests, with their stream, with the connection, and at their deadline."""
    client = V3Client(site.daemon.url)
    with client.watch.Watch() as stream:
        for number in range(1, 21):
            stream.send(create(watch_id=number, progress_notify=number % 2 == 0, prev_kv=number % 3 == 0))
            while not stream.next().created:  # a progress response of another watch may come first
                pass
        site.operator.kv.Put(pb.PutRequest(key=b"watched", value=b"1"))
        told = set[int]()
        while len(told) < 20:
            answer = stream.next()
            told |= {answer.watch_id} if answer.events else set()
        for number in range(1, 11):
            stream.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=number)))
        left = 10
        while left:
            left -= stream.next().canceled
        while stream.next().events:  # a progress response comes by itself
            pass
    with client.watch.Watch() as stream:
        stream.send(create(start_revision=1 << 40))
        assert stream.next().created
        stream.send(create(b"refused", range_end=b"a"))
        stream.next()
        stream.half_close()
    late = client.watch.Watch(timeout=0.3)  # fixed: it is to pass
    late.send(create(progress_notify=True))
    with pytest.raises(Refused, match="DEADLINE"):
        until(lambda: late.next() is None, "its time is up")
    left_open = client.watch.Watch()
    left_open.send(create(progress_notify=True))
    assert left_open.next().created
    client.close()
    left_open.cancel()


def watches_unread(site: Site) -> None:
    """Watches on a connection that reads 64 KiB: behind and live, both cut; one ended at its deadline."""
    with site.raw(b"") as sock:
        two = Two(sock)
        for progress in (False, True):
            two.call(
                "Watch/Watch",
                create(BIG, range_end=b"big0", start_revision=site.revision, progress_notify=progress),
            )
        two.read_until(lambda: two.data > 60_000)
    with site.raw(b"") as sock:
        two = Two(sock)
        number = two.call("Watch/Watch", create(progress_notify=True), ("grpc-timeout", "200m"))
        other = two.call("Watch/Watch", create(progress_notify=True))
        two.read_until(lambda: number in two.ended)
        two.reset(other)
        two.call("Watch/Watch", create(progress_notify=True))
        two.call("Watch/Watch", create(progress_notify=True))
        before = two.data
        two.read_until(lambda: two.data > before + 10)
    with site.raw(b"") as sock:
        two = Two(sock)
        number = two.call("Watch/Watch", create(b"full"))
        two.read_until(lambda: two.data > 0)
        for _ in range(10):
            site.operator.kv.Put(pb.PutRequest(key=b"full", value=b"y" * 500_000))
        two.read_until(lambda: two.data > 60_000)


def leases(site: Site) -> None:
    """Kept alive until the stream, the connection or the lease ends."""
    client = V3Client(site.daemon.url)
    granted = [client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl)).ID for ttl in (1, 100, 100)]
    for id_ in granted:
        with suppress(Refused):  # on a slow machine the short one may have ended
            client.kv.Put(pb.PutRequest(key=b"leased/%d" % id_, value=b"1", lease=id_))
    streams = [client.lease.LeaseKeepAlive() for _ in range(3)]
    for stream in streams:
        for id_ in (*granted, 77):
            stream.send(pb.LeaseKeepAliveRequest(ID=id_))
        assert [stream.next().ID for _ in range(4)][3] == 77
    streams[0].half_close()
    with pytest.raises(EOFError):
        streams[0].next()
    streams[1].cancel()
    client.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=granted[1]))
    client.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=granted[2], keys=True))
    client.lease.LeaseLeases(pb.LeaseLeasesRequest())
    client.close()
    streams[2].cancel()


def long_answers(site: Site) -> None:
    """Ranges, snapshots and lists cut off in the middle, by RST_STREAM or by closing the connection."""
    everything = pb.RangeRequest(key=b"\0", range_end=b"\0")
    for method, message in (("KV/Range", everything), ("Maintenance/Snapshot", pb.SnapshotRequest())):
        for reset in (False, True):
            with site.raw(b"") as sock:
                two = Two(sock)
                number = two.call(method, message)
                two.end(number)
                two.read_until(lambda two=two: two.data > 60_000)  # type: ignore[misc]
                if reset:
                    two.reset(number)
                    last = two.call("Maintenance/HashKV", pb.HashKVRequest())
                    two.end(last)
                    two.two.increment_flow_control_window(1 << 20)
                    two.flush()
                    two.read_until(lambda two=two, last=last: last in two.ended)  # type: ignore[misc]
    assert len(site.operator.kv.Range(everything).kvs) > PIECES
    for answer in site.operator.maintenance.Snapshot(pb.SnapshotRequest()):
        assert answer.blob
    site.operator.maintenance.HashKV(pb.HashKVRequest())
    sock = site.raw(b"GET /v2/keys/big?recursive=true HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sock.recv(4096)
    sock.close()
    with site.raw(b"HEAD /v2/keys/big?recursive=true HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
        assert sock.recv(4096)
    site.raw(b"GET /v2/keys/big?recursive=true&quorum=true HTTP/1.1\r\nHost: x\r\n\r\n").close()
    with site.raw(b"") as sock:
        two = Two(sock)
        head = two.ask("HEAD", "/v2/keys/big?recursive=true")
        two.read_until(lambda: head in two.ended)
        two.ask("GET", "/v2/keys/big?recursive=true")
        two.read_until(lambda: two.data > 60_000)
        two.ask("GET", "/v2/keys/big?recursive=true&quorum=true")


def refused(site: Site) -> None:
    """Calls that are refused, or that no method takes."""
    for call, message in (
        (site.operator.kv.Put, pb.PutRequest()),
        (site.operator.kv.Put, pb.PutRequest(key=b"k", value=b"v", lease=99)),
        (site.operator.kv.Range, pb.RangeRequest(key=b"k", revision=1 << 40)),
        (site.operator.kv.Put, pb.PutRequest(key=b"k", value=b"v" * (3 << 20))),
        (site.operator.lease.LeaseRevoke, pb.LeaseRevokeRequest(ID=99)),
        (site.operator.kv.Compact, pb.CompactionRequest(revision=1 << 40)),
        (site.operator.cluster.MemberRemove, pb.MemberRemoveRequest(ID=99)),
        (site.operator.maintenance.MoveLeader, pb.MoveLeaderRequest(targetID=99)),
    ):
        with pytest.raises(Refused):
            call(message)
    with site.raw(b"") as sock:
        two = Two(sock)
        numbers = [two.call(method, pb.PutRequest(key=b"\xff")) for method in ("KV/Put", "KV/None", "No/No")]
        numbers.append(
            two.ask("POST", "/etcdserverpb.KV/Range", ("content-type", "application/grpc"), message=b"\xff")
        )
        for number in numbers:
            with suppress(h2.exceptions.StreamClosedError):
                two.end(number)
        two.read_until(lambda: set(two.ended) >= set(numbers))
    for sent in (PREFACE_ONLY + b"\xff" * 100, PREFACE_ONLY, PREFACE_ONLY[:10]):
        with site.raw(sent) as sock, suppress(OSError):
            sock.settimeout(0.05)  # fixed: no matter what it reads until then
            while sock.recv(4096):
                pass


def polls(site: Site) -> None:
    """Long polls and streams of the v2 API, some answered and some cut off."""
    before = site.watchers()
    asked = (b"wait=true", b"wait=true&recursive=true", b"wait=true&stream=true&recursive=true")
    cut = [site.raw(b"GET /v2/keys/never?%b HTTP/1.1\r\nHost: x\r\n\r\n" % each) for each in asked]
    told = [site.raw(b"GET /v2/keys/polled?%b HTTP/1.1\r\nHost: x\r\n\r\n" % each) for each in asked]
    two = Two(site.raw(b""))
    numbers = [two.ask("GET", f"/v2/keys/never?{each.decode()}") for each in asked]
    until(lambda: site.watchers() == before + 9, "all wait")
    put(site.daemon, "polled", "1")
    for sock in told:
        got = b""
        while b'"value":"1"' not in got:
            got += sock.recv(4096)
    two.reset(numbers[0])
    for sock in (*cut, *told, two.sock):
        sock.close()
    until(lambda: site.watchers() <= before, "none waits any more")


def requests_of_http1(site: Site) -> None:
    """Incomplete and invalid requests, and requests with `Expect: 100-continue`."""
    head = b"PUT /v2/keys/expected HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 7\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    for body in (b"value=1", b"val"):
        with site.raw(head) as sock:
            assert b" 100 " in sock.recv(4096)
            sock.sendall(body)
            if len(body) == 7:
                assert b"HTTP/1.1 20" in sock.recv(4096)
    for bad in (
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /v2/keys/a HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
        b"GET /v2/keys/a?wait=perhaps HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /nowhere HTTP/1.0\r\n\r\n",
        b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/keys/a HTTP/1.1\r\nHost: " + b"x" * 2_000_000,
    ):
        with suppress(OSError), site.raw(bad) as sock:
            assert sock.recv(4096).startswith(b"HTTP/1")
    for half in (b"GET /v2", b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nva"):
        site.raw(half).close()
    for path in ("/health", "/version", "/v2/stats/self", "/v2/members", "/netstore/status", "/debug/vars"):
        request(site.daemon, "GET", path)
    site.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").close()
    request(site.daemon, "PUT", "/v2/keys/a/b?prevExist=perhaps")
    request(site.daemon, "DELETE", "/v2/keys/none")
    request(site.daemon, "POST", "/v2/members")


def tls(site: Site) -> None:
    """TLS connections with a client certificate, and handshakes that fail."""
    plain = b"GET /v2/keys/never?wait=true HTTP/1.1\r\nHost: x\r\n\r\n"
    before = site.watchers()
    known = [site.raw(plain, context=site.files.context()) for _ in range(2)]
    sock = site.raw(b"", context=site.files.context("h2"))
    two = Two(sock)
    two.call("Watch/Watch", create(progress_notify=True))
    two.read_until(lambda: two.data > 0)
    until(lambda: site.watchers() == before + 2, "all wait")
    for each in (*known, sock):
        each.close()
    with site.raw(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", context=site.files.context()) as sock:
        assert sock.recv(4096)
        assert isinstance(sock, ssl.SSLSocket)
        with suppress(OSError):
            sock.unwrap()
    for shown in (None, "stranger"):
        with suppress(OSError), site.raw(plain, context=site.files.context(shown=shown)) as sock:
            assert not sock.recv(4096)
    for sent in (plain, b"\x16\x03\x01\x40\x00\x01", b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff", b"\0" * 50):
        with suppress(OSError), site.raw(sent, port=site.tls_port) as sock:
            sock.settimeout(0.05)  # fixed: no matter what it reads until then
            sock.recv(4096)
    until(lambda: site.watchers() <= before, "none waits any more")


KINDS: Final = (
    watches_of_grpcio,
    watches_unread,
    leases,
    long_answers,
    refused,
    polls,
    requests_of_http1,
    tls,
)


def check_growth(few: Counter[str], many: Counter[str]) -> None:
    """Compare the garbage found after `ROUNDS` with that after three times as many."""
    grown = {each: (few[each], many[each]) for each in many if many[each] >= few[each] + 2 * ROUNDS}
    assert not grown, f"found after {ROUNDS} and after {3 * ROUNDS} rounds: {grown}"
    assert many.total() <= FEW, many


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_clients_that_are_gone_leave_nothing_that_grows(site: Site, kind: Callable[[Site], None]) -> None:
    def after(rounds: int) -> Counter[str]:
        for _ in range(rounds):
            kind(site)
        until(lambda: site.sockets() <= idle, "all connections are closed")
        site.operator.kv.Put(pb.PutRequest(key=b"last", value=b"1"))
        return found(site.daemon)

    site.operator.kv.Put(pb.PutRequest(key=b"idle", value=b"1"))
    idle = site.sockets()
    after(1)  # what is made once is not counted
    check_growth(after(ROUNDS), after(3 * ROUNDS))


def led_by(members: Members, name: str) -> None:
    """Make this member the leader."""
    while (leader := members.leader()) != name:
        httpx.post(
            f"{members[leader].url}/netstore/leader", json={"to": members.id_of(name)}, timeout=seconds(10)
        )


def takes_a_copy(members: Members, name: str) -> None:
    """Halt a member until the log of the others lacks what it would need, so that it is given a copy."""
    halted = members[name]
    copied = halted.log.count(COPIED)
    halted.process.send_signal(signal.SIGSTOP)
    others = [other for other in members.daemons if other != name]
    try:
        write(members[others[0]], "halted", name)
        leader = members[
            until(
                lambda: next((each for each in others if leader_of(members[each]) == each), ""), "one leads"
            )
        ]
        with httpx.Client(timeout=seconds(10)) as client:
            for number in range(UNDER_WAY):
                client.put(f"{leader.url}/v2/keys/sent", params={"value": number}).raise_for_status()
            known = int(client.get(f"{leader.url}/v2/keys/sent").headers["x-raft-index"])
        until(
            lambda: fill(leader, 100) and cut_before(leader) > known,
            "the log of the leader has nothing left of what is under way",
        )
    finally:
        halted.process.send_signal(signal.SIGCONT)
    until(lambda: halted.log.count(COPIED) > copied, "it took a copy")


@pytest.mark.slow
def test_members_that_come_and_go_leave_nothing_that_grows(tmp_path: Path) -> None:
    """One that stays follows others that end and come back, and leads them; it takes copies of the state, and
    gives some.
    """

    def told_in(name: str) -> dict[str, str]:
        return {TOLD_IN: str(tmp_path / f"{name}.told")}

    def after(rounds: int) -> Counter[str]:
        for number in range(rounds):
            led_by(members, "b")
            assert put(here, "forwarded", "1").status in {200, 201}
            takes_a_copy(members, "a")
            led_by(members, "ab"[number % 2])
            members["b"].kill()
            write(here, "alone", str(number))
            members["b"].start_again()
            led_by(members, "a")
            takes_a_copy(members, "b")
        write(here, "last", "1")
        converged(members, "last", "1")
        return found(here)

    flags = (*PACE, "--snapshot-count", "10")
    with Members(tmp_path, flags=flags, program=PROGRAM, environment_of=told_in) as members:
        here = members["a"]
        found(here)
        check_growth(after(ROUNDS), after(3 * ROUNDS))
