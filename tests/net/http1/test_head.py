"""Heads: what each form means, what is refused, and that a meaning depends on the bytes alone."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netstore.net.exchange import Request
from netstore.net.http1.head import (
    CHUNKED,
    KNOWN_BYTES,
    KNOWN_HEAD_BYTES,
    KNOWN_HEADS,
    METHOD_BYTES,
    KnownHeads,
    Malformed,
    parse_head,
    refuse_unfinished,
)
from netstore.net.http1.server import Http1Server
from tests.support.http import Wire

MESSAGES = (
    b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a?b HTTP/1.1\r\nHost: y\r\nOrigin: http://a\r\n\r\n",
    b"DELETE /all HTTP/1.1\r\nHost: x\r\nAuthorization: Basic cm9vdA==\r\n\r\n",
    b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nvalue=b",
    b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n\r\n\r\nGET /in HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"PUT /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
    b"PUT /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /old HTTP/1.0\r\n\r\n",
    b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"PUT /long HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300 + b"\r\n\r\n",
    b"PUT /big HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",
    b"PUT /big HTTP/1.1\r\nHost: x\r\nContent-Length: 401\r\n\r\n" + b"v" * 401,
)
ODD = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\n\n", b" ", b"\0", b"a", b"GET ", b"/b", b" HTTP/1.1\r\n",
    b" HTTP/0.9\r\n", b"Host: x\r\n", b"X: a\r\n b\r\n", b"GET /\r\n\r\n", b"GET /n HTTP/1.1\nHost: x\n\n",
    b"0\r\n\r\n", b"5\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"t" * 70,
)  # fmt: skip
PIECES = st.one_of(
    st.sampled_from(MESSAGES),
    st.sampled_from(ODD),
    st.binary(max_size=6),
    st.sampled_from(MESSAGES).flatmap(lambda m: st.integers(0, len(m)).map(lambda end: m[:end])),
    st.tuples(st.sampled_from(MESSAGES), st.sampled_from((b"\r\n", b"\n", b"\r", b""))).map(
        lambda pair: pair[0].replace(b"\r\n", pair[1])
    ),
)
STREAMS = st.lists(PIECES, max_size=8).map(b"".join)

Told = tuple[list[tuple[object, ...]], bytes, bool]


def told(stream: bytes, cuts: list[int], heads: KnownHeads) -> Told:
    """Everything a connection makes of a stream that comes in these pieces, then ends."""
    server = Http1Server(lambda _: None, head_limit=256, body_limit=400)
    server.heads = heads
    wire = Wire(server)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if start < end:
            wire.feed(stream[start:end])
    requests = [
        tuple(
            getattr(exchange.request, name)
            for name in Request.__struct_fields__
            if name != "expects_continue"
        )
        for exchange in wire.exchanges
    ]
    sent = wire.output.sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return requests, sent, wire.output.finished


@given(STREAMS, st.lists(STREAMS, max_size=3), st.data())
@example(MESSAGES[2], [b"\r\n\r\n" + MESSAGES[2]], None)
@example(MESSAGES[-1], [MESSAGES[-1]], None)
@example(b"\r\n\r\n", [b"\r\n\r\n" + MESSAGES[2]], None)
@example(b"GET /a HTTP/1.1\nHost: x\n\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n", [MESSAGES[0]], None)
@example(b"\r\n\r\nGET /in HTTP/1.1\r\nHost: x\r\n\r\n", [MESSAGES[4]], None)
def test_a_stream_means_the_same_whatever_the_cuts_and_whatever_was_heard_before(
    stream: bytes, others: list[bytes], data: st.DataObject | None
) -> None:
    cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    plain = told(stream, [], KnownHeads(0))
    warm = KnownHeads()
    for other in others:
        told(other, [], warm)
    assert told(stream, [], KnownHeads()) == plain
    assert told(stream, [], warm) == plain
    assert told(stream, cuts, warm) == plain
    assert told(stream, cuts, KnownHeads(0)) == plain
    assert told(stream, list(range(1, len(stream))), warm) == plain


def test_what_a_client_sent_with_its_credentials_is_done_for_nobody_else() -> None:
    server = Http1Server(lambda _: None)
    for empty in (b"", b"\r\n", b"\r\n\r\n"):
        assert len(Wire(server).feed(empty + MESSAGES[2]).requests) == 1
    for stream in (b"\r\n\r\n", b"\r\n\r\n\r\n", b"\r\n" + MESSAGES[0]):
        assert all(request[0] == b"GET" for request in Wire(server).feed(stream).requests)


@pytest.mark.parametrize("field", [b"Authorization: a", b"Cookie: a=b", b"proxy-authorization: a"])
def test_heads_that_prove_who_asks_are_not_kept(field: bytes) -> None:
    heads = KnownHeads()
    assert heads.read(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % field).private
    assert len(heads) == 0


def test_what_is_remembered_is_bounded_in_number_and_in_bytes() -> None:
    heads = KnownHeads()
    for number in range(KNOWN_HEADS + 10):
        heads.read(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    assert len(heads) == 10
    largest = 0
    for number in range(KNOWN_HEADS):
        heads.read(b"GET /%0990d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        assert heads.size <= KNOWN_BYTES
        largest = max(largest, heads.size)
    assert largest > KNOWN_BYTES - KNOWN_HEAD_BYTES
    before = len(heads)
    heads.read(b"GET /%02000d HTTP/1.1\r\nHost: x\r\n\r\n" % 1)
    assert len(heads) == before


def head(*lines: bytes, line: bytes = b"PUT /p HTTP/1.1") -> bytes:
    return b"".join(each + b"\r\n" for each in (line, *lines, b""))


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Host: a", b"Host: b"), 400),
        ((b"Host: a", b"host: a"), 400),
        ((), 400),
        ((b"Host: a b",), 400),
        ((b"Host: a/b",), 400),
        ((b"Host: a,b@c",), 400),
        ((b"Host: \xc3\xa9",), 400),
        ((b"Host: a:b",), 400),
        ((b"Host: [::1",), 400),
        ((b"Host: a", b"Content-Length: 1", b"Content-Length: 1"), 400),
        ((b"Host: a", b"Content-Length: 1, 1"), 400),
        ((b"Host: a", b"Content-Length: +1"), 400),
        ((b"Host: a", b"Content-Length: 1_0"), 400),
        ((b"Host: a", b"Content-Length: \xb2"), 400),
        ((b"Host: a", b"Content-Length: " + b"9" * 5000), 400),
        ((b"Host: a", b"Content-Length:"), 400),
        ((b"Host: a", b"Content-Length : 1"), 400),
        ((b"Host: a", b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
        ((b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        ((b"Host: a", b"Transfer-Encoding: chunked, identity"), 400),
        ((b"Host: a", b"Transfer-Encoding: xchunked"), 400),
        ((b"Host: a", b"Transfer-Encoding: \x0bchunked"), 400),
        ((b"Host: a", b"Transfer-Encoding:", b" chunked"), 400),
        ((b"Host: a", b"Transfer-Encoding: gzip, chunked"), 501),
        ((b"Host: a", b"Authorization: a", b"Authorization: b"), 400),
        ((b"Host: a", b"X: a\0"), 400),
        ((b"Host: a", b"X: a\rb"), 400),
        ((b"Host: a", b"X: a\nb: c"), 400),
        ((b"Host: a", b"X: a\x7f"), 400),
        ((b"Host: a", b"X: a", b" b"), 400),
        ((b"Host: a", b": b"), 400),
        ((b"Host: a", b"X"), 400),
        ((b"Host: a", b"X\xc3: b"), 400),
    ],
)
def test_fields_that_are_refused(lines: tuple[bytes, ...], status: int) -> None:
    with pytest.raises(Malformed) as bad:
        parse_head(head(*lines))
    assert bad.value.status == status
    assert bad.value.text.startswith(b"%d " % status)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /a b HTTP/1.1", 400),
        (b"GET  /a HTTP/1.1", 400),
        (b"GET\t/a HTTP/1.1", 400),
        (b" GET /a HTTP/1.1", 400),
        (b"GET /a", 400),
        (b"GET /a HTTP/1.1 ", 400),
        (b"GET /a http/1.1", 400),
        (b"GET /a HTTP/1.10", 400),
        (b"GET /a HTTP/0.9", 400),
        (b"GET /a HTTP/1.2", 505),
        (b"GET /a HTTP/2.0", 505),
        (b"GET /a\0 HTTP/1.1", 400),
        (b"GET /a\x7f HTTP/1.1", 400),
        (b"GET /a\rb HTTP/1.1", 400),
        (b"GET a HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET http:/a HTTP/1.1", 400),
        (b"GET http:///a HTTP/1.1", 400),
        (b"GET http://u@b/a HTTP/1.1", 400),
        (b"G@T /a HTTP/1.1", 400),
        (b"M" * (METHOD_BYTES + 1) + b" /a HTTP/1.1", 400),
        (b"CONNECT a:1 HTTP/1.1", 501),
        (b"CONNECT /metrics HTTP/1.1", 501),
    ],
)
def test_request_lines_that_are_refused(line: bytes, status: int) -> None:
    with pytest.raises(Malformed) as bad:
        parse_head(head(b"Host: a", line=line))
    assert bad.value.status == status


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        (b"/a?b?c", b"a", b"/a", b"b?c"),
        (b"/a#b", b"a", b"/a#b", b""),
        (b"//b/c", b"a", b"//b/c", b""),
        (b"/\xff%zz", b"a", b"/\xff%zz", b""),
        (b"http://b:1/c?d", b"b:1", b"/c", b"d"),
        (b"http://b", b"b", b"/", b""),
        (b"http://b?x=/y", b"b", b"/", b"x=/y"),
        (b"http://[::1]:2379/c", b"[::1]:2379", b"/c", b""),
    ],
)
def test_targets(target: bytes, host: bytes, path: bytes, query: bytes) -> None:
    request = parse_head(head(b"Host: a", line=b"GET %b HTTP/1.1" % target)).request
    assert (request.host, request.path, request.query) == (host, path, query)


def test_options_may_ask_for_no_path() -> None:
    assert parse_head(head(b"Host: a", line=b"OPTIONS * HTTP/1.1")).request.path == b"*"


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"X: y", True),
        (b"1.1", b"Connection: x, Close", False),
        (b"1.1", b"Connection: keep-alive\r\nconnection:close", False),
        (b"1.1", b"Connection: closed", True),
        (b"1.1", b"Connection: not close", True),
        (b"1.1", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM", True),
        (b"1.0", b"X: y", False),
        (b"1.0", b"Connection: Keep-Alive", True),
        (b"1.0", b"Connection: keep-alive, close", False),
    ],
)
def test_whether_the_connection_stays(version: bytes, connection: bytes, stays: bool) -> None:
    assert parse_head(head(b"Host: a", connection, line=b"GET / HTTP/" + version)).request.keep_alive == stays


def test_old_requests_have_no_coding_and_need_no_host() -> None:
    assert parse_head(b"GET / HTTP/1.0\r\n\r\n").request.host is None
    with pytest.raises(Malformed, match="Transfer-Encoding in HTTP"):
        parse_head(head(b"Transfer-Encoding: chunked", line=b"PUT / HTTP/1.0"))


def test_how_long_the_body_is() -> None:
    assert parse_head(head(b"Host: a")).length == 0
    assert parse_head(head(b"Host: a", b"Content-Length: \t007 ")).length == 7
    assert parse_head(head(b"Host: a", b"transfer-encoding: Chunked")).length == CHUNKED


@given(
    st.sampled_from((b"GET", b"PUT", b"x-y")),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(str.encode),
    st.lists(
        st.sampled_from(
            (b"Host: a", b"Host:b", b"Content-Length: 3", b"X:", b"Y: \xe9 ", b"Transfer-Encoding: chunked")
        ),
        max_size=4,
    ),
    st.sampled_from((b"1.1", b"1.0")),
)
def test_h11_reads_the_same_in_what_is_accepted(
    method: bytes, target: bytes, lines: list[bytes], version: bytes
) -> None:
    """An independent reader: what is taken here means the same there."""
    raw = head(*lines, line=b"%b /%b HTTP/%b" % (method, target, version))
    try:
        meaning = parse_head(raw)
    except Malformed:
        return
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(raw)
    event = judge.next_event()
    assert isinstance(event, h11.Request)
    path, query = meaning.request.path, meaning.request.query
    assert event.method == meaning.request.method
    assert event.target.partition(b"?")[::2] == (path, query)
    fields = dict(event.headers)
    assert fields.get(b"host") == meaning.request.host
    assert int(fields.get(b"content-length", 0)) == max(meaning.length, 0)
    assert (b"transfer-encoding" in fields) == (meaning.length == CHUNKED)


def test_the_longest_head_passes_and_one_byte_more_does_not() -> None:
    limit = 1024
    bare = head(b"Host: a", b"X: ")
    for size, answer in ((limit, b"200"), (limit + 1, b"431")):
        whole = head(b"Host: a", b"X: " + b"a" * (size - len(bare)))
        assert len(whole) == size
        for step in (size, 1, 7, limit - 1):
            wire = Wire(head_limit=limit).feed(
                b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + whole[:step],
                *(whole[at : at + step] for at in range(step, size, step)),
            )
            answers = wire.output.sent.split(b"HTTP/1.1 ")[1:]
            assert [each[:3] for each in answers] == [b"200", answer], (size, step)


def test_a_head_that_fills_its_limit_without_an_end_is_refused_at_once() -> None:
    begun = head(b"Host: a", b"X: " + b"a" * 1024)[:1024]
    assert Wire(head_limit=1024).feed(begun[:-1]).output.sent == b""
    for pieces in ([begun], [begun[:500], begun[500:]]):
        assert Wire(head_limit=1024).feed(*pieces).output.sent.startswith(b"HTTP/1.1 431 ")


def test_what_can_become_no_head_is_refused_before_it_ends() -> None:
    for begun in (
        b"\x16\x03\x01",
        b" GET",
        b"G\0",
        b"M" * (METHOD_BYTES + 1),
        b"GET / HTTP/1.1\nHost: a\r\n",
    ):
        with pytest.raises(Malformed, match="400"):
            refuse_unfinished(begun, 0, 1000)
    for begun in (b"G", b"M" * METHOD_BYTES, b"M" * METHOD_BYTES + b" ", b"GET / HTTP/1.1\r\nHost: a\r"):
        refuse_unfinished(begun, 0, 1000)
