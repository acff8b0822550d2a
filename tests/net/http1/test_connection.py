"""The HTTP/1 codec: what it hands over, what it sends, and that neither depends on how the bytes arrive."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.exchange import LOW_WATER
from netstore.net.http1.bounds import PIPELINE_LIMIT, REFUSED_DROP
from netstore.net.http1.exchange import SHARED_SIZE
from netstore.net.http1.server import Cors, Http1Server
from tests.support.http import Seen, Wire, waiting

GET = b"GET /v2/keys/a?wait=true HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nvalue=b"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
)
OTHER = b"purge /p HTTP/1.1\r\nHost: x\r\n\r\n"
OLD = b"GET /old HTTP/1.0\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

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


def test_answers_leave_in_the_order_of_the_requests() -> None:
    wire = Wire(hold=True).feed(GET + PUT + PUT)
    first, second, third = wire.exchanges
    third.respond(200, b"", b"3")
    second.respond(200, b"", b"2")
    assert wire.output.sent == b""
    first.respond(200, b"", b"1")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in wire.output.sent.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"1", b"2", b"3"]


def test_a_read_waits_for_the_writes_before_it_and_writes_do_not_wait() -> None:
    wire = Wire(hold=True).feed(PUT + PUT + GET + PUT)
    assert [exchange.request.method for exchange in wire.exchanges] == [b"PUT", b"PUT"]
    wire.exchanges[1].respond(200, b"", b"2")
    wire.connection.resume()
    assert len(wire.exchanges) == 2
    wire.exchanges[0].respond(200, b"", b"1")
    wire.connection.resume()
    assert [exchange.request.method for exchange in wire.exchanges[2:]] == [b"GET", b"PUT"]


@pytest.mark.parametrize(("line", "status"), [(b"GET /version", 400), (b"GET /version HTTP/2.0", 505)])
def test_other_versions_are_refused(line: bytes, status: int) -> None:
    wire = Wire().feed(line + b"\r\nHost: a\r\n\r\n")
    assert wire.output.sent.startswith(b"HTTP/1.1 %d " % status)
    assert not wire.requests


def test_a_stream_behind_a_slow_answer_is_held_and_then_flows() -> None:
    wire = Wire(hold=True).feed(GET + GET)
    first, second = wire.exchanges
    second.begin(200, b"")
    assert second.push(b"early\n")
    assert wire.output.sent == b""
    first.respond(200, b"", b"1")
    assert wire.output.sent.endswith(b"Transfer-Encoding: chunked\r\n\r\n6\r\nearly\n\r\n")
    second.end()
    assert wire.output.sent.endswith(b"0\r\n\r\n")


def test_a_large_piece_is_not_copied_to_be_framed(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(hold=True).feed(GET)
    [exchange] = wire.exchanges
    exchange.begin(200, b"")
    written: list[bytes] = []
    monkeypatch.setattr(wire.output, "write", written.append)
    small, large = b"s" * SHARED_SIZE, b"l" * (SHARED_SIZE + 1)
    assert exchange.push(small)
    assert exchange.push(large)
    assert b"".join(written) == b"1000\r\n%b\r\n1001\r\n%b\r\n" % (small, large)
    assert len(written) == 4
    assert written[2] is large


@pytest.mark.parametrize("size", [1, SHARED_SIZE])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_piece_in_parts_is_one_chunk(size: int, version: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(hold=True).feed(GET.replace(b"1.1", version))
    [exchange] = wire.exchanges
    exchange.begin(200, b"")
    written: list[bytes] = []
    monkeypatch.setattr(wire.output, "write", written.append)
    parts = (b"a" * size, b"b" * size, b"c" * size)
    assert exchange.push(*parts)
    body = b"".join(parts)
    assert b"".join(written) == (body if version == b"1.0" else b"%x\r\n%b\r\n" % (len(body), body))
    assert size == 1 or all(any(each is part for each in written) for part in parts)


def test_an_answer_in_pieces_goes_on_when_the_network_has_taken_what_was_sent() -> None:
    wire = Wire(hold=True)
    wire.feed(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
    first, second = wire.exchanges
    told: list[str] = []
    first.begin(200, b"", endless=False)
    first.on_drained(lambda: told.append("at once"))
    wire.output.backlog = LOW_WATER + 1
    first.on_drained(lambda: told.append("later"))
    assert (told, first.backlog) == (["at once"], LOW_WATER + 1)
    wire.connection.resume()
    assert told == ["at once"]
    wanted = wire.connection.has_pending
    wire.output.backlog = LOW_WATER
    wire.connection.resume()
    assert told == ["at once", "later"]
    assert (wanted, wire.connection.has_pending) == (True, False), "it wants to be asked until it was told"
    second.begin(200, b"", endless=False)
    assert second.push(b"x" * (LOW_WATER + 1))
    second.on_drained(lambda: told.append("the next one"))
    wire.connection.resume()
    assert len(told) == 2, "it is held behind the first"
    first.end()
    wire.connection.resume()
    assert told == ["at once", "later", "the next one"]


@pytest.mark.parametrize("end", ["the client hangs up", "end", "respond"])
def test_an_answer_that_is_over_keeps_nobody_who_waited(end: str) -> None:
    wire = Wire(hold=True)
    wire.feed(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    (exchange,) = wire.exchanges
    if end != "respond":
        exchange.begin(200, b"", endless=False)
    wire.output.backlog = LOW_WATER + 1
    waiter = waiting(exchange)
    assert waiter() is not None
    if end == "end":
        exchange.end()
    elif end == "respond":
        exchange.respond(200, b"")
    else:
        wire.connection.gone()
    assert waiter() is None, "it and the exchange do not hold each other"
    assert waiting(exchange)() is None, "nor is it kept from then on"


@pytest.mark.parametrize("backlog", [0, LOW_WATER + 1])
@pytest.mark.parametrize("end", ["head", "the client hangs up", "end", "respond"])
def test_who_waits_for_room_is_told_that_there_will_be_none(end: str, backlog: int) -> None:
    """Else it waits for ever."""
    wire = Wire(hold=True).feed(GET.replace(b"GET", b"HEAD") if end == "head" else GET)
    (exchange,) = wire.exchanges
    told: list[bool] = []
    if end != "respond":
        exchange.begin(200, b"", endless=False)
    if end != "head":
        for unsent in (LOW_WATER + 1, 0):
            wire.output.backlog = unsent
            assert exchange.on_drained(lambda: told.append(True))
        assert told == [True]
    wire.output.backlog = backlog
    if end == "end":
        exchange.end()
    elif end == "respond":
        exchange.respond(200, b"")
    elif end != "head":
        wire.connection.gone()
    told.clear()
    assert not exchange.on_drained(lambda: told.append(True))
    wire.output.backlog = 0
    wire.connection.resume()
    assert told == []


def test_an_answer_that_has_an_end_survives_a_client_that_sends_no_more() -> None:
    wire = Wire(hold=True)
    wire.feed(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    (exchange,) = wire.exchanges
    gone: list[bool] = []
    exchange.begin(200, b"", endless=False)
    exchange.on_gone(lambda: gone.append(True))
    wire.connection.eof()
    assert not wire.output.was_cut
    assert exchange.push(b"all of it")
    exchange.end()
    assert b"all of it" in wire.output.sent
    assert wire.output.finished
    assert not gone


def test_the_head_of_an_answer_in_pieces_is_all_that_a_head_gets() -> None:
    wire = Wire(hold=True).feed(b"HEAD /long HTTP/1.1\r\nHost: x\r\n\r\n")
    (exchange,) = wire.exchanges
    exchange.begin(200, b"", endless=False)
    assert not exchange.push(b"body")
    exchange.end()
    assert wire.output.sent.endswith(b"\r\n\r\n")
    assert len(wire.connection._pending) == 0


def test_a_push_too_far_behind_is_refused() -> None:
    wire = Wire(hold=True).feed(GET)
    wire.exchanges[0].begin(200, b"")
    wire.output.backlog = 100 << 20
    assert not wire.exchanges[0].push(b"x")


def test_an_old_client_gets_a_body_until_close() -> None:
    wire = Wire(hold=True).feed(OLD)
    exchange = wire.exchanges[0]
    exchange.begin(200, b"")
    exchange.push(b"a")
    exchange.end()
    head, _, body = wire.output.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"Transfer-Encoding" not in head
    assert body == b"a"
    assert wire.output.finished


def test_an_old_client_may_keep_the_connection() -> None:
    wire = Wire().feed(b"GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", GET)
    assert len(wire.requests) == 2
    assert b"Connection: keep-alive\r\n" in wire.output.sent


def test_nothing_is_read_after_the_last_request() -> None:
    wire = Wire().feed(LAST + GET)
    assert [request[1] for request in wire.requests] == [b"/last"]
    assert wire.output.finished
    assert b"Connection: close\r\n" in wire.output.sent


def test_head_measures_the_body_and_leaves_it_out() -> None:
    wire = Wire().feed(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 4\r\n" in wire.output.sent
    assert wire.output.sent.endswith(b"\r\n\r\n")


def test_an_answer_without_content_has_no_length() -> None:
    wire = Wire(hold=True).feed(GET)
    wire.exchanges[0].respond(204, b"")
    assert b"Content-Length" not in wire.output.sent


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


def test_a_client_that_hangs_up_is_told_to_the_watch() -> None:
    wire = Wire(hold=True).feed(GET)
    gone: list[bool] = []
    wire.exchanges[0].on_gone(lambda: gone.append(True))
    wire.exchanges[0].begin(200, b"")
    wire.connection.eof()
    assert gone == [True]
    assert wire.output.was_cut
    assert not wire.exchanges[0].push(b"x")


def test_a_client_that_only_stops_sending_still_gets_its_answer() -> None:
    wire = Wire(hold=True).feed(GET)
    wire.connection.eof()
    assert not wire.output.was_cut
    wire.exchanges[0].respond(200, b"", b"here")
    assert wire.output.sent.endswith(b"here")
    assert wire.output.finished


def test_nothing_overtakes_a_request_that_is_deferred() -> None:
    wire = Wire(hold=True).feed(PUT)
    gone: list[bool] = []
    wire.exchanges[0].defer(lambda: gone.append(True))
    wire.exchanges[0].worked(0.5)
    assert wire.output.charged == 0.5
    wire.feed(PUT + GET)
    assert len(wire.exchanges) == 1
    wire.exchanges[0].respond(200, b"")
    wire.connection.resume()
    assert len(wire.exchanges) == 2
    wire.exchanges[1].defer(lambda: gone.append(True))
    wire.connection.gone()
    assert gone == [True]


def test_a_client_that_only_stops_sending_gets_an_answer_that_was_deferred() -> None:
    wire = Wire(hold=True).feed(PUT)
    gone: list[bool] = []
    wire.exchanges[0].defer(lambda: gone.append(True))
    wire.connection.eof()
    wire.exchanges[0].respond(200, b"", b"here")
    assert gone == []
    assert wire.output.sent.endswith(b"here")
    assert wire.output.finished


def test_an_answered_request_is_not_told_of_the_end() -> None:
    wire = Wire(hold=True).feed(GET)
    gone: list[bool] = []
    wire.exchanges[0].on_gone(lambda: gone.append(True))
    wire.exchanges[0].respond(200, b"")
    wire.connection.gone()
    assert gone == []


def test_many_unanswered_requests_stop_the_reading() -> None:
    wire = Wire(hold=True).feed(GET * (PIPELINE_LIMIT - 1))
    while wire.output.run_turn():
        assert len(wire.exchanges) < PIPELINE_LIMIT
    assert not wire.connection.busy
    assert wire.feed(GET).connection.busy
    wire.exchanges[0].respond(200, b"")
    assert not wire.connection.busy


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


@given(
    st.lists(
        st.tuples(st.sampled_from([GET, PUT, OLD]), st.binary(max_size=40), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_h11_reads_what_is_sent(plan: list[tuple[bytes, bytes, bool]]) -> None:
    """An independent reader agrees on every answer, streamed or not."""
    for message, body, streamed in plan:
        wire = Wire(hold=True).feed(message)
        exchange = wire.exchanges[0]
        if streamed:
            exchange.begin(200, b"X-Test: 1\r\n")
            for byte in body:
                exchange.push(bytes([byte]))
            exchange.end()
        else:
            exchange.respond(200, b"X-Test: 1\r\n", body)
        judge = h11.Connection(h11.CLIENT)
        judge.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        judge.send(h11.EndOfMessage())
        judge.receive_data(wire.output.sent)
        if wire.output.finished:
            judge.receive_data(b"")
        read = b""
        answer = judge.next_event()
        assert isinstance(answer, h11.Response)
        assert (b"x-test", b"1") in answer.headers
        while isinstance(event := judge.next_event(), h11.Data):
            read += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        assert read == body
