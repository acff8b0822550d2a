"""HTTP/1 on the wire: the same raw bytes against netstored and, where it is installed, Debian's etcd.

Each expectation is thereby checked on the original too ("v2 API, HTTP rules"). Where netstored is meant to
differ, the test is for it alone and says why. h11 judges every answer (`tests.support.wire`).
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.daemon import Daemon, start_netstored
from tests.support.peers import missing, start_etcd
from tests.support.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

CORS: Final = {
    b"access-control-allow-methods": b"POST, GET, OPTIONS, PUT, DELETE",
    b"access-control-allow-origin": b"*",
    b"access-control-allow-headers": b"accept, content-type, authorization",
}
FORM: Final = b"Content-Type: application/x-www-form-urlencoded\r\n"
HOST: Final = b"Host: store\r\n"

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def netstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start_netstored(tmp_path_factory.mktemp("http")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if reason := missing("etcd"):
        pytest.skip(reason)
    with start_etcd(tmp_path_factory.mktemp("http")) as daemon:
        yield daemon


@pytest.fixture(params=["netstored", pytest.param("etcd", marks=pytest.mark.peer("etcd"))])
def server(request: pytest.FixtureRequest) -> Daemon:
    daemon = request.getfixturevalue(request.param)
    assert isinstance(daemon, Daemon)
    return daemon


@pytest.fixture
def wire(server: Daemon) -> Iterator[Wire]:
    with Wire(server.host, server.port) as connection:
        yield connection


@pytest.fixture
def key() -> bytes:
    """A key that no other test of this module uses."""
    return b"/v2/keys/http/k%d" % next(_numbers)


def request(method: bytes, target: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    """A plain HTTP/1.1 request; a body gets its length."""
    if body:
        headers += b"Content-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (method, target, HOST, headers, body)


def put(key: bytes, value: bytes) -> bytes:
    return request(b"PUT", key, FORM, b"value=" + value)


def value_of(answer: Answer) -> str:
    value = json.loads(answer.body)["node"]["value"]
    assert isinstance(value, str)
    return value


# -- connections -----------------------------------------------------------------------------------


def test_connection_serves_one_request_after_another(wire: Wire, key: bytes) -> None:
    assert wire.ask(put(key, b"1")).status == 201
    for _ in range(3):
        answer = wire.ask(request(b"GET", key))
        assert (answer.status, value_of(answer), answer.closes) == (200, "1", False)


def test_connection_close_is_obeyed_and_announced(wire: Wire, key: bytes) -> None:
    answer = wire.ask(request(b"GET", key, b"Connection: close\r\n"))
    assert answer.status == 404
    assert answer.closes
    assert wire.ended()


def test_http10_closes_unless_asked_to_stay(wire: Wire, key: bytes) -> None:
    kept = wire.ask(b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % key)
    assert kept.status == 404
    assert kept.headers[b"connection"].lower() == b"keep-alive"
    last = wire.ask(b"GET %b HTTP/1.0\r\n\r\n" % key)
    assert last.status == 404
    assert wire.ended()


def test_half_closed_client_still_gets_its_answer(wire: Wire, key: bytes) -> None:
    wire.send(put(key, b"1"))
    wire.socket.shutdown(1)
    assert wire.answer().status == 201
    assert wire.ended()


def test_pipelined_requests_are_answered_in_order(wire: Wire, key: bytes) -> None:
    steps = range(60)
    wire.send(b"".join(put(key, b"%d" % n) + request(b"GET", key) for n in steps))
    for n in steps:
        written = wire.answer(b"PUT")
        assert (written.status, value_of(written)) == (200 if n else 201, str(n))
        read = wire.answer(b"GET")
        assert (read.status, value_of(read)) == (200, str(n))


def test_answers_behind_a_watch_wait_for_it(server: Daemon, wire: Wire, key: bytes) -> None:
    """Whether a read behind a watch is done before it or after is open (both are safe), its place is not."""
    wire.send(request(b"GET", key + b"?wait=true") + request(b"GET", key))
    assert wire.head().status == 200
    with Wire(server.host, server.port) as other:
        assert other.ask(put(key, b"9")).status == 201
    event = json.loads(b"".join(iter(wire.piece, b"")))
    assert (event["action"], event["node"]["value"]) == ("set", "9")
    assert wire.answer().status in {200, 404}


def test_head_arrives_a_byte_at_a_time(wire: Wire, key: bytes) -> None:
    data = put(key, b"slow") + request(b"GET", key)
    for place in range(len(data)):
        wire.send(data[place : place + 1])
    assert wire.answer(b"PUT").status == 201
    assert value_of(wire.answer()) == "slow"


def test_empty_lines_before_a_request_are_skipped(netstored: Daemon, key: bytes) -> None:
    """RFC 9112, section 2.2. etcd answers 400, so this is for netstored alone."""
    with Wire(netstored.host, netstored.port) as wire:
        assert wire.ask(b"\r\n" + request(b"GET", key)).status == 404


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        b"c\r\nvalue=chunks\r\n0\r\n\r\n",
        b"1\r\nv\r\n2\r\nal\r\n9\r\nue=chunks\r\n0\r\n\r\n",
        b"00C\r\nvalue=chunks\r\n000\r\n\r\n",
        b"c;name=1\r\nvalue=chunks\r\n0\r\n\r\n",
        b"c\r\nvalue=chunks\r\n0\r\nTrailer: 1\r\n\r\n",
    ],
    ids=["one", "three", "zeros", "extension", "trailer"],
)
def test_chunked_body(wire: Wire, key: bytes, chunks: bytes) -> None:
    written = wire.ask(request(b"PUT", key, FORM + b"Transfer-Encoding: chunked\r\n") + chunks)
    assert (written.status, value_of(written)) == (201, "chunks")
    assert value_of(wire.ask(request(b"GET", key))) == "chunks"


def test_body_of_get_is_read_and_ignored(wire: Wire, key: bytes) -> None:
    assert wire.ask(request(b"GET", key, FORM, b"recursive=nonsense")).status == 404
    assert wire.ask(request(b"GET", key)).status == 404


def test_expect_continue_is_answered_before_the_body(wire: Wire, key: bytes) -> None:
    body = b"value=continued"
    wire.send(request(b"PUT", key, FORM + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body)))
    assert wire.interim() == 100
    wire.send(body)
    written = wire.answer()
    assert (written.status, value_of(written)) == (201, "continued")
    assert value_of(wire.ask(request(b"GET", key))) == "continued"


def test_long_answers_are_whole(wire: Wire, key: bytes) -> None:
    """Past two kilobytes etcd changes from a length to chunks; either is right, the bytes must be there."""
    value = b"x" * 300_000
    assert wire.ask(put(key, value)).status == 201
    assert value_of(wire.ask(request(b"GET", key))) == value.decode()


def test_largest_form_body_is_taken_and_one_more_byte_is_not(server: Daemon, key: bytes) -> None:
    """The form limit is 10 MiB of body ("v2 API, limits"); the store itself takes less than that."""
    limit = 10 * 1024 * 1024
    with Wire(server.host, server.port) as wire:
        padding = b"&x=" + b"a" * (limit - len(b"value=fits&x="))
        assert wire.ask(request(b"PUT", key, FORM, b"value=fits" + padding)).status == 201
    with Wire(server.host, server.port) as wire:
        wire.send(request(b"PUT", key, FORM + b"Content-Length: %d\r\n" % (limit + 1)))
        try:
            wire.send(b"value=" + b"a" * (limit + 1 - 6))
        except ConnectionError:
            pass  # it may answer and close without reading what it will not take
        else:
            refused = wire.answer()
            fault = json.loads(refused.body)
            assert (refused.status, fault["errorCode"]) == (400, 210)
            assert fault["cause"] == "http: POST too large"
    with Wire(server.host, server.port) as wire:
        assert value_of(wire.ask(request(b"GET", key))) == "fits"


# -- HEAD, OPTIONS, other methods ------------------------------------------------------------------


def test_head_is_get_without_the_body(wire: Wire, key: bytes) -> None:
    wire.ask(put(key, b"measured"))
    full = wire.ask(request(b"GET", key))
    bare = wire.ask(request(b"HEAD", key))
    assert (bare.status, bare.body) == (200, b"")
    assert bare.headers[b"content-length"] == b"%d" % len(full.body)
    for name in (b"content-type", b"x-etcd-index", b"x-etcd-cluster-id"):
        assert bare.headers[name] == full.headers[name]
    assert wire.ask(request(b"HEAD", key + b"/none")).status in {400, 404}
    assert wire.ask(request(b"GET", key)).status == 200


@pytest.mark.parametrize("target", [b"/v2/keys/a", b"/nowhere", b"/version"])
def test_options_is_answered_everywhere(wire: Wire, target: bytes) -> None:
    answer = wire.ask(request(b"OPTIONS", target))
    assert (answer.status, answer.body) == (200, b"")
    assert b"allow" not in answer.headers
    assert CORS.items() <= answer.headers.items()


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        (b"PATCH", b"/v2/keys/a", b"HEAD,GET,PUT,POST,DELETE"),
        (b"get", b"/v2/keys/a", b"HEAD,GET,PUT,POST,DELETE"),
        (b"POST", b"/version", b"GET"),
        (b"HEAD", b"/version", b"GET"),
        (b"PUT", b"/health", b"GET"),
    ],
)
def test_wrong_method_names_the_right_ones(wire: Wire, method: bytes, target: bytes, allow: bytes) -> None:
    answer = wire.ask(request(method, target))
    assert answer.status == 405
    assert answer.headers[b"allow"] == allow
    assert b"x-etcd-index" not in answer.headers
    assert wire.ask(request(b"GET", b"/version")).status == 200


@pytest.mark.parametrize("target", [b"/", b"/v2", b"/v2/", b"/v2/keysfoo", b"/V2/keys", b"/health/"])
def test_unknown_path(wire: Wire, target: bytes) -> None:
    answer = wire.ask(request(b"GET", target))
    assert (answer.status, answer.body) == (404, b"404 page not found\n")
    assert answer.headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert answer.headers[b"x-content-type-options"] == b"nosniff"
    assert CORS.items() <= answer.headers.items()


def test_every_answer_has_a_date(wire: Wire, key: bytes) -> None:
    for target in (key, b"/version", b"/nowhere"):
        assert wire.ask(request(b"GET", target)).headers[b"date"].endswith(b" GMT")


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/v2//keys/a", b"/v2/keys/a"),
        (b"/v2/keys//a?wait=true&x=%2F", b"/v2/keys/a?wait=true&x=%2F"),
        (b"/v2/keys/a/./b", b"/v2/keys/a/b"),
        (b"/v2/keys/a/../b/", b"/v2/keys/b/"),
        (b"/v2/keys/%2e%2e/x", b"/v2/x"),
        (b"/v2/keys/a%2F%2Fb", b"/v2/keys/a/b"),
        (b"/../../v2/keys", b"/v2/keys"),
        (b"//", b"/"),
        (b"/v2/keys//a%20b%3Fc", b"/v2/keys/a%20b%3Fc"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE"])
def test_unclean_path_is_redirected(wire: Wire, method: bytes, target: bytes, location: bytes) -> None:
    answer = wire.ask(request(method, target))
    assert answer.status == 301
    assert answer.headers[b"location"] == location
    assert b"x-etcd-cluster-id" not in answer.headers
    if method == b"GET":
        shown = location.replace(b"&", b"&amp;")
        assert answer.body == b'<a href="%b">Moved Permanently</a>.\n\n' % shown
        assert answer.headers[b"content-type"] == b"text/html; charset=utf-8"
    else:
        assert answer.body == b""
        assert (b"content-type" in answer.headers) == (method == b"HEAD")


def test_escaped_slash_separates_and_plus_stays(wire: Wire, key: bytes) -> None:
    wire.ask(put(key + b"%2Fa+b", b"1"))
    node = json.loads(wire.ask(request(b"GET", key + b"/a+b")).body)["node"]
    assert node["key"].endswith("/a+b")
    assert value_of(wire.ask(put(key + b"/c", b"a+b%2Bc"))) == "a b+c"


def test_malformed_escape_in_the_path_ends_the_connection(wire: Wire) -> None:
    answer = wire.ask(request(b"GET", b"/v2/keys/%zz"))
    assert (answer.status, answer.body) == (400, b"400 Bad Request")
    assert answer.closes
    assert wire.ended()


def test_malformed_escape_in_the_query_is_a_v2_error(wire: Wire, key: bytes) -> None:
    answer = wire.ask(request(b"GET", key + b"?wait=%zz"))
    fault = json.loads(answer.body)
    assert (answer.status, fault["errorCode"], fault["cause"]) == (400, 210, 'invalid URL escape "%zz"')
    assert answer.headers[b"x-etcd-index"] == b"0"
    assert wire.ask(request(b"GET", key)).status == 404


def test_absolute_target(wire: Wire, key: bytes) -> None:
    wire.ask(put(key, b"absolute"))
    assert value_of(wire.ask(request(b"GET", b"http://elsewhere:1" + key))) == "absolute"


# -- watches ---------------------------------------------------------------------------------------


def test_watch_head_comes_at_once_and_is_chunked(server: Daemon, wire: Wire, key: bytes) -> None:
    wire.send(request(b"GET", key + b"?wait=true"))
    head = wire.head()
    assert (head.status, head.headers.get(b"transfer-encoding")) == (200, b"chunked")
    with Wire(server.host, server.port) as other:
        other.ask(put(key, b"1"))
    assert json.loads(b"".join(iter(wire.piece, b"")))["action"] == "set"
    assert wire.ask(request(b"GET", key)).status == 200


def test_watch_over_http10_ends_with_the_connection(server: Daemon, wire: Wire, key: bytes) -> None:
    wire.send(b"GET %b?wait=true HTTP/1.0\r\n\r\n" % key)
    head = wire.head()
    assert head.status == 200
    assert b"transfer-encoding" not in head.headers
    with Wire(server.host, server.port) as other:
        other.ask(put(key, b"1"))
    assert json.loads(b"".join(iter(wire.piece, b"")))["node"]["value"] == "1"
    assert wire.ended()


# -- what is refused -------------------------------------------------------------------------------


def test_http11_needs_a_host(wire: Wire) -> None:
    answer = wire.ask(b"GET /version HTTP/1.1\r\n\r\n")
    assert answer.status == 400
    assert wire.ended()


def test_http10_needs_no_host(wire: Wire) -> None:
    assert wire.ask(b"GET /version HTTP/1.0\r\n\r\n").status == 200


MALFORMED: Final = {
    "space in name": b"GET /version HTTP/1.1\r\nHo st: a\r\n\r\n",
    "no colon": b"GET /version HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "length not a number": b"PUT /v2/keys/m HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n",
    "negative length": b"PUT /v2/keys/m HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"PUT /v2/keys/m HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "control character in value": b"GET /version HTTP/1.1\r\nHost: a\r\nX: \x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_refused_and_the_connection_closed(wire: Wire, data: bytes) -> None:
    wire.send(data)
    assert wire.answer().status == 400
    assert wire.ended()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /version\r\n\r\n",
        b"GET /version HTTP/x.y\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
    ],
    ids=["no version", "nonsense version", "TLS"],
)
def test_first_line_that_is_not_http_is_refused(netstored: Daemon, data: bytes) -> None:
    """etcd has several protocols on the port and drops what is none of them, without a word of HTTP."""
    with Wire(netstored.host, netstored.port) as wire:
        wire.send(data)
        assert wire.answer().status == 400
        assert wire.ended()


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 12\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Content-Length: +12\r\n",
        b"Content-Length: 1 2\r\n",
    ],
)
def test_two_ways_to_read_a_body_are_refused(netstored: Daemon, key: bytes, headers: bytes) -> None:
    """RFC 9112, section 6.3: what a proxy in front could frame otherwise is never acted on."""
    with Wire(netstored.host, netstored.port) as wire:
        wire.send(request(b"PUT", key, FORM + headers) + b"c\r\nvalue=chunks\r\n0\r\n\r\n")
        assert wire.answer().status in {400, 501}
        assert wire.ended()
    with Wire(netstored.host, netstored.port) as wire:
        assert wire.ask(request(b"GET", key)).status == 404


@pytest.mark.parametrize(
    "data",
    [
        request(b"GET", b"/v2/keys/" + b"a" * 200_000),
        request(b"GET", b"/version", b"X-Padding: " + b"a" * 200_000 + b"\r\n"),
        request(b"GET", b"/version", b"X-%d: a\r\n" * 30_000 % tuple(range(30_000))),
    ],
    ids=["target", "header", "headers"],
)
def test_head_past_the_limit_is_refused(netstored: Daemon, data: bytes) -> None:
    """etcd's limits (a reset past 4 KiB of target, 1 MiB of headers) come from its libraries."""
    with Wire(netstored.host, netstored.port) as wire:
        try:
            wire.send(data)
            status = wire.answer().status
        except ConnectionError:
            status = 431  # closed while we were still sending
        assert status in {400, 414, 431}
    with Wire(netstored.host, netstored.port) as wire:
        assert wire.ask(request(b"GET", b"/version")).status == 200


def test_longest_key_of_etcd_is_taken(wire: Wire) -> None:
    """The request line may have 4096 bytes on etcd's plain listener; nobody's key must be refused by us."""
    target = b"/v2/keys/".ljust(4096 - len(b"GET  HTTP/1.1\r\n"), b"k")
    assert wire.ask(request(b"GET", target)).status == 404
