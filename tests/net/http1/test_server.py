"""The header lines of every response."""

from __future__ import annotations

from netstore.net.http1.server import Cors, Http1Server
from tests.support.http import Wire

GET = b"GET /v2/keys/a?wait=true HTTP/1.1\r\nHost: x\r\n\r\n"


def test_origins_are_echoed_only_when_listed() -> None:
    server = Http1Server(lambda _: None, cors=Cors(["http://a.example:1"]))
    asked = b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: %s\r\n\r\n"
    assert (
        b"Access-Control-Allow-Origin: http://a.example:1\r\n"
        in Wire(server).feed(asked % b"http://a.example:1").output.sent
    )
    assert b"Access-Control" not in Wire(server).feed(asked % b"http://b.example:1").output.sent
    assert b"Access-Control-Allow-Origin: *\r\n" in Wire().feed(GET).output.sent
    nobody = Http1Server(lambda _: None, cors=Cors([]))
    assert b"Access-Control" not in Wire(nobody).feed(asked % b"http://a.example:1").output.sent
