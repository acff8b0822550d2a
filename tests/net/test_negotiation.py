"""One port for HTTP/1, HTTP/2 and gRPC, plain and over TLS, as real clients find it."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from netstore.net import http2
from netstore.net.http1.bounds import HEAD_SECONDS
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import PREFACE, frame
from netstore.net.negotiation import ALPN, ProtocolDetection
from netstore.net.tls import Credentials
from tests.support.certificates import Certificates
from tests.support.h2client import REQUEST, block
from tests.support.http import FakeOutput
from tests.support.log import KeptLog
from tests.support.patience import seconds
from tests.support.toy import Served, toy_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 20


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    with toy_service() as served:
        yield served


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def credentials(files: Certificates, log: KeptLog | None = None, *, client_auth: bool = True) -> Credentials:
    return Credentials(
        files.certificate,
        files.key,
        files.ca if client_auth else None,
        client_auth=client_auth,
        log=log or KeptLog(),
        alpn=ALPN,
    )


@pytest.fixture(scope="module")
def secured(files: Certificates) -> Iterator[Served]:
    with toy_service(credentials(files)) as served:
        yield served


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=seconds(SECONDS))


def connect_tls(served: Served, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(connect(served), server_hostname="127.0.0.1")


def until_end(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def call_over(sock: socket.socket, path: str, message: bytes) -> bytes:
    """One gRPC call by h2 over a connected socket: the data of the answer."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    headers = [*REQUEST[:2], (":path", path), *REQUEST[3:]]
    number = client.get_next_available_stream_id()
    client.send_headers(number, headers)
    client.send_data(number, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    answer = b""
    while True:
        sock.sendall(client.data_to_send())
        data = sock.recv(65536)
        assert data, "the server closed"
        for event in client.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                answer += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return answer[5:]


def test_http1_and_http2_share_a_port(plain: Served) -> None:
    with connect(plain) as sock:
        sock.sendall(b"GET /one?two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert until_end(sock).endswith(b"GET /one two x ")
    with connect(plain) as sock:
        assert call_over(sock, "/toy.Toy/Echo", b"hello") == b"hello"


def test_a_preface_may_come_byte_by_byte(plain: Served) -> None:
    with connect(plain) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(PREFACE)):
            sock.sendall(PREFACE[index : index + 1])
        sock.sendall(frame(http2.SETTINGS, 0, 0) + frame(http2.PING, 0, 0, b"12345678"))
        data = b""
        while frame(http2.PING, http2.ACK, 0, b"12345678") not in data:
            piece = sock.recv(65536)
            assert piece
            data += piece


def test_a_preface_that_drips_is_refused() -> None:
    output = FakeOutput()
    connection: Any = output
    http1 = Http1Server(lambda _: None)
    http2: Any = None
    first = ProtocolDetection(connection, http1, http2)
    first.sweep(0)
    for second in range(100, 100 + int(HEAD_SECONDS) + 1):
        first.sweep(second)
        assert not first.timed_out
        if second % 2 == 0:
            first.receive(PREFACE[second % 100 // 2 : second % 100 // 2 + 1])
    first.sweep(101 + HEAD_SECONDS + 1)
    assert first.incomplete
    assert first.timed_out
    first.refuse(408, b"408 Request Timeout")
    assert output.sent.startswith(b"HTTP/1.1 4")
    assert output.finished


@pytest.mark.parametrize(
    "first", [b"PRI /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_not_the_preface_is_http1(plain: Served, first: bytes) -> None:
    with connect(plain) as sock:
        sock.sendall(first)
        assert until_end(sock).startswith(b"HTTP/1.1 ")


def test_a_hang_up_before_the_first_byte(plain: Served) -> None:
    with connect(plain) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert until_end(sock) == b""
    with connect(plain) as sock:
        sock.sendall(PREFACE[:5])
        sock.shutdown(socket.SHUT_WR)
        assert until_end(sock) == b""


@pytest.mark.parametrize("protocols", [("h2", "http/1.1"), ("h2",)])
def test_tls_agrees_on_http2(secured: Served, files: Certificates, protocols: tuple[str, ...]) -> None:
    with connect_tls(secured, files.context(*protocols)) as sock:
        assert sock.selected_alpn_protocol() == "h2"
        assert call_over(sock, "/toy.Toy/Echo", b"hello") == b"hello"


@pytest.mark.parametrize("protocols", [("http/1.1",), ()])
def test_tls_agrees_on_http1(secured: Served, files: Certificates, protocols: tuple[str, ...]) -> None:
    with connect_tls(secured, files.context(*protocols)) as sock:
        assert sock.selected_alpn_protocol() == (protocols[0] if protocols else None)
        sock.sendall(b"GET /one HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert until_end(sock).endswith(b"GET /one  x ")


def test_an_end_of_tls_is_said(secured: Served, files: Certificates) -> None:
    """Without the last word of TLS a client must take an answer for cut (`suppress_ragged_eofs`)."""
    context = files.context("http/1.1")
    with context.wrap_socket(
        connect(secured), server_hostname="127.0.0.1", suppress_ragged_eofs=False
    ) as sock:
        sock.sendall(b"GET /one HTTP/1.0\r\n\r\n")
        assert until_end(sock).endswith(b"GET /one   ")


def secure_channel(served: Served, files: Certificates) -> grpc.Channel:
    return grpc.secure_channel(
        f"127.0.0.1:{served.port}",
        grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.client_key.read_bytes(), files.client_certificate.read_bytes()
        ),
        options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
    )


def test_grpc_over_tls_knows_who_calls(secured: Served, files: Certificates) -> None:
    with secure_channel(secured, files) as channel:
        who: Any = channel.unary_unary("/toy.Toy/Who", None, None)
        big: Any = channel.unary_unary("/toy.Toy/Big", None, None)
        assert who(b"", timeout=seconds(SECONDS)).split(b" ")[1] == b"operator"
        assert len(big(b"10000000", timeout=seconds(SECONDS))) == 10_000_000


@pytest.mark.parametrize("shown", [None, "stranger"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_trusted_certificate_is_told_so(
    secured: Served, files: Certificates, shown: str | None, version: ssl.TLSVersion
) -> None:
    context = files.context("http/1.1", shown=shown)
    context.maximum_version = context.minimum_version = version
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        ask_over_tls(secured, context)


def ask_over_tls(served: Served, context: ssl.SSLContext) -> bytes:
    """In version 1.3 a client has finished its handshake before its certificate is judged."""
    with connect_tls(served, context) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(1)


def test_a_handshake_may_come_byte_by_byte(secured: Served, files: Certificates) -> None:
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = files.context("h2").wrap_bio(inbound, outbound, server_hostname="127.0.0.1")
    with connect(secured) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outbound.read():
                    sock.sendall(bytes((byte,)))
                inbound.write(sock.recv(65536))
    assert tls.selected_alpn_protocol() == "h2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(secured: Served, files: Certificates) -> None:
    context = files.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect_tls(secured, context)


def test_plain_http_on_a_port_of_tls_is_told_so(secured: Served) -> None:
    for first in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE):
        with connect(secured) as sock:
            sock.sendall(first)
            answer = until_end(sock)
        assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")


def test_garbage_on_a_port_of_tls_ends_its_connection(secured: Served, files: Certificates) -> None:
    with connect(secured) as sock:
        sock.sendall(b"\x00\x01\x02" * 1000)
        until_end(sock)
    with connect_tls(secured, files.context("h2")) as sock:
        assert call_over(sock, "/toy.Toy/Echo", b"fine") == b"fine"


def test_certificates_change_without_losing_connections(tmp_path: Path) -> None:
    files, log = Certificates(tmp_path / "tls"), KeptLog()
    context = files.context("http/1.1", shown=None)
    with (
        toy_service(credentials(files, log, client_auth=False)) as served,
        connect_tls(served, context) as before,
    ):
        first = before.getpeercert(binary_form=True)
        files.renew()
        with connect_tls(served, context) as after:
            assert after.getpeercert(binary_form=True) != first
        before.sendall(b"GET /still HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert until_end(before).endswith(b"GET /still  x ")
        files.certificate.write_text("not a certificate")
        with connect_tls(served, context) as sock:
            assert sock.version() is not None
    assert log.events == ["certificates_read", "certificates_not_read"]


def test_a_keep_alive_client_of_http1_is_let_go_at_a_stop() -> None:
    with toy_service() as served:
        client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=seconds(SECONDS))
        client.request("GET", "/one")
        client.getresponse().read()
        unsaid = connect(served)
        served.drain()
        assert client.sock is not None
        assert client.sock.recv(1) == b""
        assert unsaid.recv(1) == b""
        client.close()
        unsaid.close()


@pytest.mark.peer("h2load")
def test_h2load_finds_every_answer_right(plain: Served, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\x05hello")
    done = subprocess.run(
        [
            "h2load",
            "-n2000",
            "-c10",
            "-m10",
            f"-d{body}",
            "-Hcontent-type: application/grpc",
            "-Hte: trailers",
            f"http://127.0.0.1:{plain.port}/toy.Toy/Echo",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds(60),
    )
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
    assert "status codes: 2000 2xx" in done.stdout


def test_requests_that_are_not_post_or_not_grpc_are_refused_where_a_method_is(plain: Served) -> None:
    method, scheme, _, authority, kind, _ = REQUEST
    path = (":path", "/toy.Toy/Echo")
    asked = [
        ([method, scheme, path, authority], 415),
        ([method, scheme, path, authority, ("content-type", "application/json")], 415),
        ([method, scheme, path, authority, ("content-type", "application/grpcish")], 415),
        ([(":method", "GET"), scheme, path, authority, kind], 405),
    ]
    for headers, status in asked:
        with connect(plain) as sock:
            sock.sendall(PREFACE + frame(http2.SETTINGS, 0, 0))
            sock.sendall(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block(headers)))
            client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            client.initiate_connection()
            client.send_headers(1, headers, end_stream=True)
            seen = None
            while seen is None:
                for event in client.receive_data(sock.recv(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        seen = dict(event.headers or ())
        assert seen[b":status"] == b"%d" % status
        assert b"grpc-status" in seen
