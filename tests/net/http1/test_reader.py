"""Bytes of an HTTP/1 connection become requests, however they are cut; what is malformed is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.http1.bounds import REFUSED_DROP
from tests.support.http import Seen, Wire

GET = b"GET /v2/keys/a?wait=true HTTP/1.1\r\nHost: x\r\n\r\n"


PUT = b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nvalue=b"


CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
)


OTHER = b"purge /p HTTP/1.1\r\nHost: x\r\n\r\n"


GET_SEEN: Seen = (b"GET", b"/v2/keys/a", b"wait=true", b"", None, b"1.1", True)


PUT_SEEN: Seen = (b"PUT", b"/v2/keys/a", b"", b"value=b", b"text/plain", b"1.1", True)


CHUNKED_SEEN: Seen = (b"PUT", b"/c", b"", b"abcdefg", None, b"1.1", True)


OTHER_SEEN: Seen = (b"purge", b"/p", b"", b"", None, b"1.1", True)


SEEN = {GET: GET_SEEN, PUT: PUT_SEEN, CHUNKED: CHUNKED_SEEN}


def test_requests_are_handed_over_whole_and_in_order() -> None:
    wire = Wire().feed(GET + PUT + CHUNKED + GET)
    assert wire.requests == [GET_SEEN, PUT_SEEN, CHUNKED_SEEN, GET_SEEN]


@given(st.lists(st.sampled_from([GET, PUT, CHUNKED]), min_size=1, max_size=6), st.data())
def test_the_cut_of_the_bytes_does_not_matter(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, cut = Wire().feed(stream), Wire().feed(*pieces)
    assert whole.requests == cut.requests == [SEEN[message] for message in messages]
    assert whole.output.sent == cut.output.sent


@given(st.lists(st.sampled_from([GET, PUT, CHUNKED, OTHER]), min_size=1, max_size=8))
def test_known_heads_mean_what_parsing_them_means(messages: list[bytes]) -> None:
    """The slow twin: a server that forgets every head parses each message."""
    fast = Wire()
    for message in messages:
        slow = Wire().feed(message)
        fast.exchanges.clear()
        assert fast.feed(message).requests == slow.requests


@pytest.mark.parametrize(("line", "status"), [(b"GET /version", 400), (b"GET /version HTTP/2.0", 505)])
def test_other_versions_are_refused(line: bytes, status: int) -> None:
    wire = Wire().feed(line + b"\r\nHost: a\r\n\r\n")
    assert wire.output.sent.startswith(b"HTTP/1.1 %d " % status)
    assert not wire.requests


def test_a_method_of_nobody_is_handed_over() -> None:
    assert Wire().feed(OTHER).requests == [OTHER_SEEN]
    assert (
        Wire().feed(b"FOO /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" + GET).requests[1]
        == GET_SEEN
    )


def test_absolute_form_names_the_path() -> None:
    wire = Wire().feed(b"GET http://other:1/v2/keys/a?q HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.requests[0][1:3] == (b"/v2/keys/a", b"q")


def test_an_offer_to_upgrade_is_not_taken() -> None:
    wire = Wire().feed(b"GET /u HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + GET)
    assert [request[1] for request in wire.requests] == [b"/u", b"/v2/keys/a"]


def test_a_client_that_asks_is_told_to_go_on() -> None:
    wire = Wire().feed(b"PUT /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert wire.output.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.feed(b"ab").requests[0][3] == b"ab"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"M" * 100 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"FOO /p HTTP/1.1\r\nHost: x\r\n\r\n\x00",
    ],
)
def test_what_cannot_be_understood_is_refused_and_ends_the_connection(garbage: bytes) -> None:
    wire = Wire().feed(garbage, GET)
    assert wire.output.sent.rpartition(b"HTTP/1.1 ")[2].startswith(b"400 ")
    assert wire.output.finished
    assert len(wire.requests) <= 2
    assert wire.output.dropped == REFUSED_DROP


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_make_the_codec_raise(noise: bytes, cut: int) -> None:
    wire = Wire().feed(noise[:cut], noise[cut:])
    wire.connection.eof()
    wire.connection.gone()


def test_a_head_that_never_ends_is_refused() -> None:
    wire = Wire(head_limit=1024).feed(b"GET / HTTP/1.1\r\nHost: x\r\n")
    for _ in range(40):
        wire.feed(b"X-A: %s\r\n" % (b"a" * 50))
    assert b" 431 " in wire.output.sent
    assert wire.requests == []


@pytest.mark.parametrize(
    "message",
    [
        b"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n",
        b"PUT /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n%s\r\n40\r\n%s\r\n"
        % (b"a" * 64, b"a" * 64),
    ],
)
def test_a_body_over_the_limit_is_handed_over_as_too_large(message: bytes) -> None:
    wire = Wire(body_limit=100).feed(message, b"more")
    assert [exchange.request.too_large for exchange in wire.exchanges] == [True]
    assert wire.requests[0][3] == b""
    assert wire.output.finished
    assert wire.output.dropped is None  # the client may send all of it before it reads


def test_a_body_at_the_limit_passes() -> None:
    wire = Wire(body_limit=7).feed(PUT)
    assert wire.requests == [PUT_SEEN]
