"""The answer of one request over HTTP/1: in one piece, in pieces, behind others."""

from __future__ import annotations

import pytest

from netstore.net.exchange import LOW_WATER
from netstore.net.http1.exchange import SHARED_SIZE
from tests.support.http import Wire, waiting

GET = b"GET /v2/keys/a?wait=true HTTP/1.1\r\nHost: x\r\n\r\n"


OLD = b"GET /old HTTP/1.0\r\n\r\n"


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


def test_head_measures_the_body_and_leaves_it_out() -> None:
    wire = Wire().feed(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 4\r\n" in wire.output.sent
    assert wire.output.sent.endswith(b"\r\n\r\n")


def test_an_answer_without_content_has_no_length() -> None:
    wire = Wire(hold=True).feed(GET)
    wire.exchanges[0].respond(204, b"")
    assert b"Content-Length" not in wire.output.sent


def test_an_answered_request_is_not_told_of_the_end() -> None:
    wire = Wire(hold=True).feed(GET)
    gone: list[bool] = []
    wire.exchanges[0].on_gone(lambda: gone.append(True))
    wire.exchanges[0].respond(200, b"")
    wire.connection.gone()
    assert gone == []
