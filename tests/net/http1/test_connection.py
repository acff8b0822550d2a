"""The HTTP/1 codec: what it hands over, what it sends, and that neither depends on how the bytes arrive."""

from __future__ import annotations

import h11
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.http1.bounds import PIPELINE_LIMIT
from tests.support.http import Seen, Wire

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


SEEN = {GET: GET_SEEN, PUT: PUT_SEEN, CHUNKED: CHUNKED_SEEN}


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


def test_nothing_is_read_after_the_last_request() -> None:
    wire = Wire().feed(LAST + GET)
    assert [request[1] for request in wire.requests] == [b"/last"]
    assert wire.output.finished
    assert b"Connection: close\r\n" in wire.output.sent


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


def test_many_unanswered_requests_stop_the_reading() -> None:
    wire = Wire(hold=True).feed(GET * (PIPELINE_LIMIT - 1))
    while wire.output.run_turn():
        assert len(wire.exchanges) < PIPELINE_LIMIT
    assert not wire.connection.at_limit
    assert wire.feed(GET).connection.at_limit
    wire.exchanges[0].respond(200, b"")
    assert not wire.connection.at_limit


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
