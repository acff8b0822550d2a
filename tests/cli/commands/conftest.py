"""Stores to run the command against, the command itself, and stores that misbehave."""

from __future__ import annotations

import io
import json
import os
import re
import socketserver
import ssl
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from netstore.cli import netstorectl
from netstore.proto import rpc_pb2 as pb
from tests.support.certificates import Certificates
from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEAD: Final = "http://127.0.0.1:1"
"""Nothing listens there."""

FILE: Final = '{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":1,"createdIndex":1}}'

VARIABLES: Final = re.compile(r"(NETSTORE|NETSTORECTL|ETCDCTL|_NETSTORECTL)_.*")


@dataclass(frozen=True)
class Told:
    """What a run of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it must be."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """Standard output as plain fields."""
        return [line.split("\t") for line in self.out.splitlines()]


class Terminal(io.StringIO):
    """Standard input where a person sits, and what the person types."""

    def isatty(self) -> bool:
        return True


class Run(Protocol):
    """Runs netstorectl in this process."""

    def __call__(self, *words: str, stdin: bytes = b"") -> Told:
        """What these words do."""


@pytest.fixture(scope="session", params=[pytest.param("etcd", marks=pytest.mark.peer), "netstored"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real store, shared by all tests: each keeps to its own prefix."""
    start = start_etcd if request.param == "etcd" else start_netstored
    with start(tmp_path_factory.mktemp(request.param)) as daemon:
        yield daemon.url


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def program(*words: str, stdin: bytes = b"") -> Told:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = netstorectl.run(words)
        out, err = capsys.readouterr()
        return Told(status, out, err)

    return program


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A place in the store that only this test writes below."""
    return "/" + re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def ctl(run: Run, store: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """netstorectl for the store and the place of this test."""
    monkeypatch.setenv("NETSTORE_ENDPOINTS", store)
    monkeypatch.setenv("NETSTORE_PREFIX", prefix)
    return run


class Keys:
    """Keys in a real store as daemons and administrators write them, in one of its APIs. No TTL is 0."""

    def __init__(self, ctl: Run, url: str, api: str) -> None:
        self.api = api
        self._ctl = ctl
        self._v3 = V3Client(url) if api == "v3" else None

    def put(self, key: str, value: str, ttl: int = 0) -> None:
        if self._v3 is None:
            assert self._ctl("key", "set", "--ttl", str(ttl), key, value).status == 0
            return
        lease = self._v3.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl)).ID if ttl else 0
        self._v3.kv.Put(pb.PutRequest(key=key.encode(), value=value.encode(), lease=lease))

    def node(self, key: str) -> dict[str, Any] | None:
        """`value`, `modifiedIndex` and, if it has an end, `ttl`; None if there is no such key."""
        if self._v3 is None:
            told = self._ctl("key", "get", key, "-o", "json")
            return told.document["node"] if told.status == 0 else None
        kvs = self._v3.kv.Range(pb.RangeRequest(key=key.encode())).kvs
        if not kvs:
            return None
        node = {"value": kvs[0].value.decode(), "modifiedIndex": kvs[0].mod_revision}
        if kvs[0].lease:
            node["ttl"] = self._v3.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=kvs[0].lease)).TTL
        return node

    def remove(self, key: str) -> None:
        if self._v3 is None:
            assert self._ctl("key", "rm", key).status == 0
        else:
            self._v3.kv.DeleteRange(pb.DeleteRangeRequest(key=key.encode()))

    def close(self) -> None:
        if self._v3 is not None:
            self._v3.close()


@pytest.fixture(params=["v2", "v3"])
def keys(
    request: pytest.FixtureRequest, ctl: Run, store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keys]:
    """The store of this test in one of its APIs, which the command is told to use."""
    monkeypatch.setenv("NETSTORECTL_STORE_API", request.param)
    found = Keys(ctl, store, request.param)
    yield found
    found.close()


@pytest.fixture
def keys_at(run: Run) -> Callable[[str, str], Keys]:
    """The keys of a store that the test has started, in one of its APIs."""

    def keys(url: str, api: str) -> Keys:
        def program(*words: str, stdin: bytes = b"") -> Told:
            return run("--endpoints", url, *words, stdin=stdin)

        return Keys(program, url, api)

    return keys


@contextmanager
def answering(answer: Callable[[bytes], bytes], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads one request a connection, sends what `answer` makes of its head, and hangs up. It
    is https with `context`.
    """

    class Session(socketserver.BaseRequestHandler):
        def setup(self) -> None:
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)

        def handle(self) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = self.request.recv(65536)
                if not piece:
                    return
                head += piece
            self.request.sendall(answer(head))

        def finish(self) -> None:
            self.request.close()  # the server closes the socket below TLS alone

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def http(status: str, body: str, *fields: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Connection: close", *fields]
    return "\r\n".join([*lines, "", body]).encode()


def served(body: str = FILE, status: str = "200 OK") -> bytes:
    """An answer of the v2 API."""
    return http(status, body, "X-Etcd-Index: 1", "Content-Type: application/json")


def error(code: int, cause: str, status: str) -> bytes:
    """A refusal of the v2 API."""
    return served(json.dumps({"errorCode": code, "message": "m", "cause": cause, "index": 0}), status)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a server on loopback."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_context(certificates: Certificates) -> ssl.SSLContext:
    """For an https server with `certificates`, which asks for none of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context
