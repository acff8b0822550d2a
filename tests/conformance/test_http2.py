"""The wire of gRPC on etcd and on netstored: the same bytes are answered alike. And a real netstored over
TLS, asked by curl and by etcdctl.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Decoder

from netstore.net import http2
from netstore.net.http2 import PREFACE, frame
from tests.support.certificates import Certificates
from tests.support.daemon import Daemon, free_port, start_netstored
from tests.support.h2client import REQUEST, Headers, block
from tests.support.patience import seconds
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 20.0
MESSAGE = b"\0\0\0\0\x03\x0a\x01a"
"""A range of the key `a`, framed."""


@pytest.fixture(scope="module", params=["netstored", pytest.param("etcd", marks=pytest.mark.peer("etcd"))])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    start: Any = start_etcd if request.param == "etcd" else start_netstored
    with start(tmp_path_factory.mktemp(request.param)) as store:
        yield int(store.url.rpartition(":")[2])


def asked(path: str = "/etcdserverpb.KV/Range", body: bytes = MESSAGE, *more: tuple[str, str]) -> bytes:
    """The frames of one call."""
    headers: Headers = [field if field[0] != ":path" else (":path", path) for field in REQUEST]
    return frame(http2.HEADERS, http2.END_HEADERS, 1, block([*headers, *more])) + frame(
        http2.DATA, http2.END_STREAM, 1, body
    )


def exchange(port: int, sent: bytes) -> tuple[dict[str, str], bytes, tuple[int, bytes] | None]:
    """Send these frames on a connection of their own: the fields of the answer, its body, and what the
    connection's GOAWAY said. Read until the stream or the connection ends.
    """
    fields: dict[str, str] = {}
    body, data, decoder = b"", b"", Decoder()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds(SECONDS)) as sock:
        sock.sendall(PREFACE + frame(http2.SETTINGS, 0, 0) + sent)
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                piece = sock.recv(65536)
                assert piece, f"the connection ended after {fields}"
                data += piece
            size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            payload, data = data[9 : 9 + size], data[9 + size :]
            if kind == http2.GOAWAY:
                return fields, body, (int.from_bytes(payload[4:8], "big"), payload[8:])
            if kind == http2.HEADERS:
                fields.update((str(name), str(value)) for name, value in decoder.decode(payload))
            elif kind == http2.DATA:
                body += payload
            if kind in (http2.HEADERS, http2.DATA) and flags & http2.END_STREAM:
                return fields, body, None


def test_a_call_is_answered_with_head_message_and_trailers(port: int) -> None:
    fields, body, _ = exchange(port, asked())
    assert fields == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "0",
        "grpc-message": "",
    }
    assert int.from_bytes(body[1:5], "big") == len(body) - 5


UNIMPLEMENTED, INTERNAL, EXHAUSTED = "12", "13", "8"
GZIP = ("grpc-encoding", "gzip")
NOT_COMPRESSED = "grpc: compressed flag set with identity or empty encoding"
NO_GZIP = 'grpc: Decompressor is not installed for grpc-encoding "gzip"'
REFUSED = {
    "method": (
        asked("/etcdserverpb.KV/Nothing"),
        UNIMPLEMENTED,
        "unknown method Nothing for service etcdserverpb.KV",
    ),
    "service": (asked("/none.Such/Range"), UNIMPLEMENTED, "unknown service none.Such"),
    "compressed": (asked(body=b"\1" + MESSAGE[1:]), INTERNAL, NOT_COMPRESSED),
    "format": (asked(body=b"\x09" + MESSAGE[1:]), INTERNAL, "grpc: received unexpected payload format 9"),
    "gzip": (asked("/etcdserverpb.KV/Range", b"\1" + MESSAGE[1:], GZIP), UNIMPLEMENTED, NO_GZIP),
    "gzip unused": (asked("/etcdserverpb.KV/Range", MESSAGE, GZIP), UNIMPLEMENTED, NO_GZIP),
    "large": (
        asked(body=b"\0" + (2_097_153).to_bytes(4, "big")),
        EXHAUSTED,
        "grpc: received message larger than max (2097153 vs. 2097152)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_has_the_status_and_the_words_of_etcd(port: int, what: str) -> None:
    sent, status, text = REFUSED[what]
    fields, body, _ = exchange(port, sent)
    assert fields.pop("grpc-accept-encoding", "identity") == "identity"
    assert fields == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": status,
        "grpc-message": text,
    }
    assert body == b""


def test_too_many_pings_end_a_connection(port: int) -> None:
    pings = frame(http2.PING, 0, 0, b"12345678") * 6
    assert exchange(port, pings)[2] == (http2.ENHANCE_YOUR_CALM, b"too_many_pings")


def test_an_odd_authority_is_no_reason_to_refuse(port: int) -> None:
    """What clients of etcd 3.5 send there."""
    odd = (":authority", "#initially=[127.0.0.1:2379;10.0.0.2:2379]")
    headers = [odd if field[0] == ":authority" else field for field in REQUEST]
    headers[2] = (":path", "/etcdserverpb.KV/Range")
    sent = frame(http2.HEADERS, http2.END_HEADERS, 1, block(headers))
    fields, _, _ = exchange(port, sent + frame(http2.DATA, http2.END_STREAM, 1, MESSAGE))
    assert fields["grpc-status"] == "0"


# --- TLS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(files: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """A member that serves both schemes, and its https address."""
    url = f"https://127.0.0.1:{free_port()}"
    flags = (
        *("--cert-file", str(files.certificate), "--key-file", str(files.key)),
        *("--trusted-ca-file", str(files.ca), "--client-cert-auth"),
    )
    with start_netstored(tmp_path_factory.mktemp("secured"), *flags, also=url) as daemon:
        yield daemon, url


def curl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("curl", "-sS", "-m", str(SECONDS), *words), capture_output=True, text=True, check=False
    )


def shown(files: Certificates) -> tuple[str, ...]:
    """What curl shows of itself."""
    own = ("--cert", str(files.client_certificate), "--key", str(files.client_key))
    return ("--cacert", str(files.ca), *own)


@pytest.mark.peer("curl")
@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_curl_sets_and_gets_over_tls(secured: tuple[Daemon, str], files: Certificates, version: str) -> None:
    _, url = secured
    words = (version, *shown(files), "-w", "%{http_version}")
    put = curl(*words, "-XPUT", f"{url}/v2/keys/curl", "-d", "value=here")
    assert '"value":"here"' in put.stdout, put
    got = curl(*words, f"{url}/v2/keys/curl")
    assert '"value":"here"' in got.stdout, got
    assert got.stdout.endswith("2" if version == "--http2" else "1.1")


@pytest.mark.peer("curl")
def test_curl_without_a_certificate_is_refused(secured: tuple[Daemon, str], files: Certificates) -> None:
    daemon, url = secured
    refused = curl("--cacert", str(files.ca), f"{url}/version")
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "tls_handshake_failed" in daemon.log


@pytest.mark.peer("curl")
def test_curl_without_tls_is_told_about_it(secured: tuple[Daemon, str]) -> None:
    _, url = secured
    told = curl("-w", "%{http_code}", url.replace("https", "http") + "/version")
    assert told.stdout == "Client sent an HTTP request to an HTTPS server.\n400"


@pytest.mark.peer("etcdctl")
@pytest.mark.parametrize(
    ("api", "words", "got"),
    [
        ("2", ("--ca-file", "--cert-file", "--key-file"), "over tls\n"),
        ("3", ("--cacert", "--cert", "--key"), "/etcdctl\nover tls\n"),
    ],
)
def test_etcdctl_sets_and_gets_over_tls(
    secured: tuple[Daemon, str], files: Certificates, api: str, words: tuple[str, str, str], got: str
) -> None:
    _, url = secured
    given = (files.ca, files.client_certificate, files.client_key)
    command = ["etcdctl", "--endpoints", url]
    for word, file in zip(words, given, strict=True):
        command += [word, str(file)]
    environment = {**os.environ, "ETCDCTL_API": api}

    def run(*more: str) -> str:
        done = subprocess.run(
            [*command, *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds(SECONDS),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("set" if api == "2" else "put", "/etcdctl", "over tls")
    assert run("get", "/etcdctl") == got


def test_both_schemes_serve_the_same_store(secured: tuple[Daemon, str], files: Certificates) -> None:
    daemon, url = secured
    context = files.context("http/1.1")
    host, _, number = url.removeprefix("https://").partition(":")
    bare = socket.create_connection((host, int(number)), seconds(SECONDS))
    with context.wrap_socket(bare, server_hostname=host) as sock:
        sock.sendall(b"PUT /v2/keys/both?value=x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 201 " in sock.recv(65536)
    plain = int(daemon.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", plain), seconds(SECONDS)) as sock:
        sock.sendall(b"GET /v2/keys/both HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"value":"x"' in sock.recv(65536)
