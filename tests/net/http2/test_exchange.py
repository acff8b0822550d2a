"""Plain requests over HTTP/2: the API's `Exchange`, judged by h2."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import h2.events
import pytest

from netstore.net.bodyadmission import GROWTH, TOO_MANY, Claim
from netstore.net.exchange import OPEN_BODY_LIMIT
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Http1Server
from netstore.net.http2 import DATA, END_STREAM, ENHANCE_YOUR_CALM, HELD_LIMIT, Http2Server, frame
from netstore.net.http2.exchange import block_of, opener
from netstore.node.timekeeper import Deadline
from tests.support.h2client import Headers, Judged
from tests.support.http import waiting
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange


class Site:
    """Exchanges kept as they come, and the judge that asks."""

    def __init__(self, body_limit: int = 1000) -> None:
        self.exchanges: list[Exchange] = []
        http1 = Http1Server(self.exchanges.append, body_limit=body_limit)
        http1.set_date(b"Date: now\r\n")
        plain = opener(self.exchanges.append, http1)
        grpc = GrpcServer(
            Services({}, {}), lambda: 0.0, lambda _, call: Deadline(0.0, call), KeptLog(), plain=plain
        )
        self.judge = Judged(server=Http2Server(grpc, lambda: 0.0))

    def ask(
        self, method: str = "GET", path: str = "/a?b=c", body: bytes = b"", *more: tuple[str, str]
    ) -> int:
        headers: Headers = [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", "store:1"),
            *more,
        ]
        number = self.judge.ask(body, headers)
        self.judge.settle()
        return number

    def answer(self, number: int) -> tuple[dict[str, str], bytes]:
        """The header fields and the body of an answer."""
        self.judge.settle()
        heads = [
            {str(n): str(v) for n, v in event.headers}
            for event in self.judge.events
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == number
        ]
        assert len(heads) == 1
        return heads[0], self.judge.bodies.get(number, b"")


def test_a_request_is_the_one_the_api_knows() -> None:
    site = Site()
    site.ask(
        "PUT",
        "/v2/keys/a?b=c",
        b"value=1",
        ("content-type", "text/plain"),
        ("authorization", "Basic x"),
        ("origin", "o"),
    )
    request = site.exchanges[0].request
    assert (request.method, request.path, request.query) == (b"PUT", b"/v2/keys/a", b"b=c")
    assert request.body == b"value=1"
    assert (request.content_type, request.authorization) == (b"text/plain", b"Basic x")
    assert (request.origin, request.host, request.version) == (b"o", b"store:1", b"2")


def test_an_answer_has_the_lines_of_every_answer_and_none_of_http1() -> None:
    site = Site()
    number = site.ask()
    site.exchanges[0].respond(
        404, b"Content-Type: text/plain\r\nConnection: close\r\nX-Odd:  a: b\r\n", b"none\n"
    )
    fields, body = site.answer(number)
    assert fields[":status"] == "404"
    assert fields["x-odd"] == "a: b"
    assert fields["content-length"] == "5"
    assert fields["date"] == "now"
    assert fields["access-control-allow-origin"] == "*"
    assert "connection" not in fields
    assert body == b"none\n"
    assert site.judge.ended == {number}


def test_head_and_empty_answers_have_no_body() -> None:
    site = Site()
    head, empty = site.ask("HEAD"), site.ask()
    site.exchanges[0].respond(200, b"", b"12345")
    site.exchanges[1].respond(204, b"")
    assert site.answer(head)[0]["content-length"] == "5"
    assert "content-length" not in site.answer(empty)[0]
    assert site.judge.bodies == {}
    assert site.judge.ended == {head, empty}


def test_an_open_body_is_pushed_piece_by_piece() -> None:
    site = Site()
    number = site.ask()
    exchange = site.exchanges[0]
    exchange.begin(200, b"")
    assert exchange.push(b"one\n")
    assert site.answer(number)[1] == b"one\n"
    assert exchange.push(b"t", b"wo\n")
    exchange.end()
    assert site.answer(number)[1] == b"one\ntwo\n"
    assert site.judge.ended == {number}
    assert not exchange.push(b"late")


def test_an_answer_in_pieces_goes_on_when_the_client_has_taken_what_was_sent() -> None:
    site = Site()
    site.judge.greedy = False
    number = site.ask()
    exchange = site.exchanges[0]
    told: list[str] = []
    exchange.begin(200, b"", endless=False)
    exchange.on_drained(lambda: told.append("at once"))
    assert exchange.push(bytes(300_000))
    exchange.on_drained(lambda: told.append("later"))
    site.judge.settle()
    assert told == ["at once"]
    site.judge.client.increment_flow_control_window(1_000_000)
    site.judge.client.increment_flow_control_window(1_000_000, number)
    site.judge.settle()
    assert told == ["at once", "later"]
    site.judge.connection.streams[number].drain()
    assert exchange.push(b"the rest"), "an answer that has an end is not given up"
    exchange.end()
    site.judge.settle()
    assert site.judge.ended == {number}


@pytest.mark.parametrize("end", ["reset", "gone", "drain", "end", "respond", "abort"])
def test_an_answer_that_is_over_keeps_nobody_who_waited(end: str) -> None:
    site = Site()
    number = site.ask()
    exchange = site.exchanges[0]
    exchange.begin(200, b"", endless=end == "drain")
    assert exchange.push(bytes(300_000))
    waiter = waiting(exchange)
    assert waiter() is not None
    if end == "reset":
        site.judge.client.reset_stream(number)
        site.judge.settle()
    elif end == "gone":
        site.judge.connection.gone()
    elif end == "drain":
        site.judge.connection.streams[number].drain()
    elif end == "respond":
        exchange.respond(200, b"")
    else:
        getattr(exchange, end)()
    assert waiter() is None, "it and the exchange do not hold each other"
    assert waiting(exchange)() is None, "nor is it kept from then on"


@pytest.mark.parametrize("end", ["head", "reset", "end", "respond", "abort"])
def test_who_waits_for_room_is_told_that_there_will_be_none(end: str) -> None:
    """Else it waits for ever."""
    site = Site()
    site.judge.greedy = False
    number = site.ask("HEAD" if end == "head" else "GET")
    exchange = site.exchanges[0]
    told: list[bool] = []
    exchange.begin(200, b"", endless=False)
    if end != "head":
        assert exchange.on_drained(lambda: told.append(True))
        assert exchange.push(bytes(300_000))
        assert exchange.on_drained(lambda: told.append(True))
    if end == "reset":
        site.judge.client.reset_stream(number)
        site.judge.settle()
    elif end == "respond":
        exchange.respond(200, b"")
    elif end != "head":
        getattr(exchange, end)()
    told.clear()
    assert not exchange.on_drained(lambda: told.append(True))
    site.judge.settle()
    assert told == []


def test_the_head_of_an_answer_in_pieces_is_all_that_a_head_gets() -> None:
    site = Site()
    number = site.ask("HEAD", "/v2/keys/a")
    exchange = site.exchanges[0]
    exchange.begin(200, b"", endless=False)
    assert not exchange.push(b"body")
    exchange.end()
    site.judge.settle()
    assert site.judge.ended == {number}


def test_a_watcher_too_far_behind_is_refused() -> None:
    site = Site()
    site.judge.greedy = False
    number = site.ask()
    exchange = site.exchanges[0]
    exchange.begin(200, b"")
    pushed = 0
    while exchange.push(bytes(100_000)):
        pushed += 100_000
        assert pushed < 2 * OPEN_BODY_LIMIT
    exchange.abort()
    site.judge.settle()
    assert number in site.judge.resets
    assert site.judge.connection.queued == 0


def test_a_client_that_gives_up_is_told_to_who_waits() -> None:
    site = Site()
    number = site.ask()
    gone: list[int] = []
    site.exchanges[0].on_gone(lambda: gone.append(number))
    site.judge.client.reset_stream(number)
    site.judge.settle()
    assert gone == [number]
    site.exchanges[0].respond(200, b"", b"too late")


def test_a_body_beyond_the_limit_is_handed_over_without_it() -> None:
    site = Site()
    number = site.ask("PUT", "/", bytes(5000))
    assert len(site.exchanges) == 1
    assert site.exchanges[0].request.too_large
    assert site.judge.connection.held == 0
    site.exchanges[0].respond(413, b"", b"no\n")
    assert site.answer(number)[1] == b"no\n"
    site.exchanges.clear()
    site.ask("PUT", "/", bytes(1000))
    assert len(site.exchanges[0].request.body) == 1000
    assert site.judge.connection.held == 0


def test_unfinished_bodies_of_a_connection_have_a_limit() -> None:
    site = Site()
    site.judge.connection.held = HELD_LIMIT
    site.judge.client.send_headers(
        1, [(":method", "PUT"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    )
    site.judge.client.send_data(1, b"a piece")
    site.judge.settle()
    assert site.judge.resets == {1: ENHANCE_YOUR_CALM}
    assert site.judge.connection.held == HELD_LIMIT


def test_a_large_body_has_its_memory_until_it_is_answered() -> None:
    site = Site(body_limit=400_000)
    account = site.judge.connection.output.account
    number = site.ask("PUT", "/", bytes(200_000))
    assert len(site.exchanges[0].request.body) == 200_000
    assert account.promised >= 200_000
    site.exchanges[0].respond(200, b"", b"done\n")
    assert site.answer(number)[1] == b"done\n"
    assert account.promised == site.judge.connection.held == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_body_that_nobody_reads_is_not_kept(method: str) -> None:
    """What changes nothing may stay for long, as a watch does. As it comes, and when it has come."""
    site = Site(body_limit=400_000)
    account = site.judge.connection.output.account
    number = site.ask(method, "/a?wait=true", b"")
    little = account.held
    site.judge.client.send_headers(
        3, [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", "x")]
    )
    for _ in range(20):
        site.judge.client.send_data(3, bytes(15_000))
        site.judge.settle()
        assert account.held < little + 2_000
    site.judge.client.end_stream(3)
    site.judge.settle()
    assert site.exchanges[1].request.body == b""
    site.exchanges[1].begin(200, b"")
    assert account.held < little + 2_000
    site.ask(method, "/", bytes(500_000))
    assert site.exchanges[2].request.too_large
    site.exchanges[0].respond(200, b"", b"done\n")
    assert site.answer(number)[0][":status"] == "200"


def test_the_body_of_a_write_is_charged_while_its_answer_goes_out_and_is_not_kept_beyond_it() -> None:
    site = Site(body_limit=400_000)
    site.judge.greedy = False
    account = site.judge.connection.output.account
    site.ask("PUT", "/", bytes(200_000))
    exchange = site.exchanges[0]
    exchange.begin(200, b"", endless=False)
    assert account.promised == 0, "nobody waits for it"
    assert account.held >= account.lasting >= 200_000
    assert exchange.push(bytes(100_000))
    exchange.end()
    assert site.judge.connection.queued > 0, "the windows hold it back"
    assert exchange.request.body == b""
    assert account.held - site.judge.connection.queued < 20_000


def test_a_large_body_is_handed_over_without_a_copy() -> None:
    site = Site(body_limit=9_000_000)
    site.judge.client.send_headers(
        1, [(":method", "PUT"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    )
    site.judge.settle()
    connection = site.judge.connection
    connection.streams[1].allowed = 9_000_000
    connection.streams[1].expected = 8_000_000
    tracemalloc.start()
    try:
        for _ in range(499):
            connection.receive(frame(DATA, 0, 1, bytes(16_000)))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        connection.receive(frame(DATA, END_STREAM, 1, bytes(16_000)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(site.exchanges[0].request.body) == 8_000_000
    assert peak - before < 2_000_000


def test_a_body_of_unknown_size_that_waits_counts_with_all_that_has_come_of_it() -> None:
    site = Site(body_limit=2_000_000)
    output = site.judge.connection.output
    site.judge.client.send_headers(
        1, [(":method", "PUT"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    )
    other = Claim(output, site.judge)  # type: ignore[arg-type]  # nothing is told to it
    sent = 0
    while sent < 400_000 and not output.admission.waiting:
        site.judge.client.send_data(1, bytes(16_000))
        sent += 16_000
        site.judge.settle()
        if sent == 32_000:
            assert output.admission.ask(other, 20_000, 0)
            output.admission._mark = output.admission._few = 0
    assert sent > GROWTH
    assert output.admission.waiting == 1
    assert output.admission._kept >= sent


def test_a_large_body_that_cannot_wait_is_refused_in_words() -> None:
    site = Site(body_limit=400_000)
    output = site.judge.connection.output
    output.admission._room = output.admission._mark = output.admission._few = 0
    other = Claim(output, site.judge)  # type: ignore[arg-type]  # nothing is told to it
    assert output.admission.ask(other, 20_000, 0)
    site.judge.client.send_headers(
        1, [(":method", "PUT"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    )
    for _ in range(2):
        site.judge.client.send_data(1, bytes(16_000))
    head, body = site.answer(1)
    assert (head[":status"], body) == ("503", TOO_MANY)
    assert not site.exchanges
    output.admission.release(other)
    assert output.account.promised == site.judge.connection.held == 0


def test_who_asks_whether_to_go_on_is_told_to() -> None:
    site = Site()
    client = site.judge.client
    headers: Any = [(":method", "PUT"), (":scheme", "https"), (":path", "/"), (":authority", "x")]
    client.send_headers(1, [*headers, ("expect", "100-continue")])
    site.judge.settle()
    told = [e for e in site.judge.events if isinstance(e, h2.events.InformationalResponseReceived)]
    assert [(str(name), str(value)) for name, value in told[0].headers] == [(":status", "100")]
    assert site.exchanges == []


def test_a_stop_gives_up_what_has_no_end() -> None:
    site = Site()
    waiting, plain = site.ask(), site.ask()
    gone: list[int] = []
    site.exchanges[0].on_gone(lambda: gone.append(waiting))
    site.judge.connection.drain()
    assert gone == [waiting]
    site.exchanges[1].respond(200, b"", b"x")
    assert plain not in site.judge.connection.streams


def test_a_request_that_is_deferred_is_answered_while_the_server_stops() -> None:
    site = Site()
    lost, asked = site.ask(), site.ask()
    gone: list[int] = []
    site.exchanges[0].defer(lambda: gone.append(lost))
    site.exchanges[1].defer(lambda: gone.append(asked))
    site.exchanges[1].worked(0.5)
    assert site.judge.output.charged == 0.5
    site.judge.client.reset_stream(lost)
    site.judge.settle()
    site.judge.connection.drain()
    assert gone == [lost]
    assert asked in site.judge.connection.streams
    site.exchanges[1].respond(200, b"", b"x")
    assert asked not in site.judge.connection.streams


def test_header_lines_become_fields() -> None:
    assert block_of(200, b"") == b"\x88"
    assert block_of(200, b"TE:x\r\nTransfer-Encoding: chunked\r\nbroken\r\n") == b"\x88\x00\x02te\x01x"
