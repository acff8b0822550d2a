"""What an HTTP/1 connection may hold and how long it may take: bytes, answers that wait, slow clients."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.limits import Budget
from netstore.net.bodyadmission import GROWTH, TOO_MANY, TOO_SLOW, BodyAdmission
from netstore.net.exchange import HIGH_WATER, OPEN_BODY_LIMIT
from netstore.net.http1.bounds import (
    BODY_RATE,
    BODY_SECONDS,
    HEAD_SECONDS,
    HURRIED_LIMIT,
    PIPELINE_LIMIT,
    READ_AHEAD_LIMIT,
    TURN_LIMIT,
)
from netstore.net.http1.server import Http1Server
from tests.support.http import Wire
from tests.support.log import KeptLog

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def watch(wire: Wire) -> list[bool]:
    """The last request is answered as a watch is; the list tells that it was let go."""
    gone: list[bool] = []
    wire.exchanges[-1].begin(200, b"")
    wire.exchanges[-1].on_gone(lambda: gone.append(True))
    return gone


def busy(wire: Wire) -> bool:
    return wire.connection.at_limit


def test_nothing_is_handed_over_behind_an_answer_without_an_end() -> None:
    wire = Wire(hold=True).feed(GET)
    watch(wire)
    wire.feed(PUT + GET, GET[:10])
    assert len(wire.exchanges) == 1
    assert not busy(wire)  # how else would the end of the connection be seen
    wire.exchanges[0].end()
    wire.connection.resume()
    assert [exchange.request.method for exchange in wire.exchanges] == [b"GET", b"PUT"]
    wire.feed(GET[10:])
    wire.exchanges[1].respond(200, b"")
    wire.connection.resume()
    assert len(wire.exchanges) == 4


def test_what_comes_behind_a_watch_is_bounded_and_charged() -> None:
    wire = Wire(hold=True).feed(GET)
    gone = watch(wire)
    fed = 0
    while not busy(wire):
        wire.feed(GET * 100)
        fed += len(GET) * 100
    assert READ_AHEAD_LIMIT <= fed < READ_AHEAD_LIMIT + 100 * len(GET)
    assert fed <= wire.output.account.held < fed + 1024
    wire.connection.eof()
    assert gone == [True]
    assert wire.output.was_cut
    assert wire.output.account.held == 0


def test_a_body_that_stays_open_without_a_watcher_ends_with_the_connection() -> None:
    wire = Wire(hold=True).feed(GET)
    wire.exchanges[0].begin(200, b"")
    wire.connection.eof()
    assert wire.output.was_cut


def test_a_watch_that_is_asked_for_by_who_already_left_is_given_up() -> None:
    wire = Wire(hold=True).feed(PUT + GET)
    wire.connection.eof()
    wire.exchanges[0].respond(200, b"")
    wire.server.handle = lambda exchange: exchange.on_gone(lambda: None)
    wire.connection.resume()
    assert wire.output.was_cut


def test_answers_that_wait_are_bounded_and_charged() -> None:
    wire = Wire(hold=True).feed(GET * TURN_LIMIT)
    for exchange in wire.exchanges:
        exchange.respond(200, b"", b"")
    slow = wire.feed(GET).exchanges[-1]
    answer = b"a" * 300_000
    wire.server.handle = lambda exchange: exchange.respond(200, b"", answer)
    wire.feed(GET * TURN_LIMIT)
    assert len(wire.connection._pending) == 1 + HIGH_WATER // len(answer) + 1
    assert busy(wire)
    assert wire.output.account.held > HIGH_WATER
    before = len(wire.output.sent)
    slow.respond(200, b"")
    assert len(wire.output.sent) > before + HIGH_WATER
    assert wire.output.account.held < HIGH_WATER // 100
    wire.output.backlog = HIGH_WATER  # the network has not taken them
    wire.connection.resume()
    assert len(wire.connection._pending) == 0
    wire.output.backlog = 0
    wire.connection.resume()
    assert len(wire.connection._pending) == 0
    assert not busy(wire)
    assert wire.output.sent.count(answer) == TURN_LIMIT
    assert wire.output.account.held == 0


def test_nothing_is_handed_over_while_answers_wait_for_the_network() -> None:
    wire = Wire().feed(GET)
    wire.output.backlog = HIGH_WATER
    wire.feed(GET)
    assert len(wire.exchanges) == 1
    assert busy(wire)
    wire.output.backlog = HIGH_WATER - 1
    wire.connection.resume()
    assert len(wire.exchanges) == 2


def test_an_open_body_that_waits_is_bounded() -> None:
    wire = Wire(hold=True).feed(GET + GET)
    second = wire.exchanges[1]
    second.begin(200, b"")
    pushed = 0
    while second.push(b"a" * 100_000):
        pushed += 100_000
    assert OPEN_BODY_LIMIT <= pushed <= OPEN_BODY_LIMIT + 100_000


def test_bodies_of_unanswered_requests_are_bounded_and_charged() -> None:
    size = 300_000
    put = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"v" * size
    wire = Wire(hold=True)
    fed = 0
    while not busy(wire):
        wire.feed(put)
        fed += 1
    assert fed == HIGH_WATER // size + 1
    assert wire.output.account.held >= fed * size
    for exchange in wire.exchanges:
        exchange.respond(200, b"")
    assert not busy(wire)
    assert wire.output.account.held == 0


def test_a_body_that_has_not_come_whole_is_charged_for_all_of_it() -> None:
    for head, size in (
        (b"Content-Length: 20000", 20000),
        (b"Transfer-Encoding: chunked\r\n\r\n4e20", GROWTH),
    ):
        wire = Wire().feed(b"PUT / HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (head, b"\r\n" * (b"C" in head[:1])))
        wire.feed(b"v" * 8000)
        assert wire.output.account.held == wire.output.account.promised == size
        wire.connection.gone()
        assert wire.output.account.held == wire.output.account.promised == 0


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"1\r\nv\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n"])
@pytest.mark.parametrize("before", [b"", PUT])
def test_no_request_that_became_whole_leaves_memory_behind(method: bytes, last: bytes, before: bytes) -> None:
    """Whatever its body turns out to be, and whether it is handed over at once or waits for a write."""
    wire = Wire(hold=True)
    memory = wire.output.account
    for _ in range(3):
        wire.feed(before)
        wire.feed(method + b" /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert memory.promised == GROWTH
        wire.feed(last)
        for exchange in wire.exchanges:
            exchange.respond(200, b"")
            wire.connection.resume()
        assert len(wire.connection._pending) == 0
        assert memory.held == memory.promised == 0
    assert len(wire.exchanges) == 3 + 3 * bool(before)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 8000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_a_large_body_is_handed_over_without_a_copy(framing: bytes) -> None:
    """One of the longest takes longer than a piece of work may."""
    wire = Wire(hold=True).feed(b"PUT /a HTTP/1.1\r\nHost: x\r\n" + framing)
    piece, last = bytes(50_000), b""
    if b"chunked" in framing:
        piece, last = b"c350\r\n" + piece + b"\r\n", b"0\r\n\r\n"
    tracemalloc.start()
    try:
        wire.feed(*[piece] * 159)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        wire.feed(piece + last)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(wire.exchanges[0].request.body) == 8_000_000
    assert peak - before < 2_000_000


def test_a_request_has_the_memory_of_its_own_body_and_of_no_other() -> None:
    wire = Wire(hold=True)
    wire.feed(b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")
    wire.exchanges[0].respond(200, b"")
    wire.feed(PUT)
    assert wire.exchanges[1].claim is None


BODY = 50_000
LARGE = b"%b /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"


def sharing(count: int) -> list[Wire]:
    """Connections that have memory for one body at a time."""
    memory = Budget(BODY * 2)
    admission = BodyAdmission(memory, KeptLog(), lambda: admission.step(0.0))
    wires = [Wire(hold=True) for _ in range(count)]
    for wire in wires:
        wire.output.admission = admission
        wire.output.account = memory.account()
    return wires


def test_a_body_waits_unread_and_untimed_until_those_before_it_are_answered() -> None:
    first, second = sharing(2)
    first.feed(LARGE % b"PUT", bytes(1000))
    second.feed(LARGE % b"PUT" + bytes(1000))
    assert (first.connection.at_limit, second.connection.at_limit) == (False, True)
    assert not second.connection.incomplete, "it owes nothing"
    for second_of_time in range(100):
        second.connection.sweep(float(second_of_time))
        assert not second.connection.timed_out
    first.feed(bytes(BODY - 1000))
    assert len(first.exchanges) == 1
    assert second.connection.at_limit, "the first one's body is still held"
    first.exchanges[0].respond(200, b"")
    assert (busy(second), second.output.asked) == (False, 1)
    second.feed(bytes(BODY - 1000))
    assert len(second.exchanges[0].request.body) == BODY
    second.exchanges[0].respond(200, b"")
    assert first.output.account.held == second.output.account.held == 0


def test_a_body_waits_also_behind_an_answer_that_turned_out_to_have_no_end() -> None:
    first, second = sharing(2)
    first.feed(LARGE % b"PUT", bytes(1000))
    second.feed(GET + LARGE % b"PUT")
    assert busy(second)
    watch(second)
    assert busy(second), "it has no memory yet"
    first.connection.gone()
    assert not busy(second)


def test_who_waits_with_its_body_is_told_to_send_it_once_there_is_memory() -> None:
    first, second = sharing(2)
    first.feed(LARGE % b"PUT")
    second.feed(LARGE[:-2] % b"PUT" + b"Expect: 100-continue\r\n\r\n")
    assert second.output.sent == b""
    first.connection.gone()
    assert second.output.sent.startswith(b"HTTP/1.1 100")


def test_a_body_is_read_whatever_is_held_of_answers() -> None:
    (wire,) = sharing(1)
    wire.feed(LARGE % b"PUT", bytes(1000))
    wire.output.held_back = True
    wire.output.backlog = HIGH_WATER
    for _ in range(4):
        assert not busy(wire)
        wire.feed(bytes(10_000))
    wire.feed(bytes(9_000))
    assert busy(wire)
    assert not wire.exchanges, "it is whole, and handled when answers are taken"
    assert wire.output.account.promised == 0
    assert wire.output.account.held >= BODY
    wire.output.held_back = False
    wire.output.backlog = 0
    wire.connection.resume()
    wire.exchanges[0].respond(200, b"")
    assert wire.output.account.held == 0


def test_a_request_that_changes_nothing_keeps_others_waiting_no_longer_than_it_is_read() -> None:
    first, second = sharing(2)
    first.feed(LARGE % b"GET", bytes(1000))
    second.feed(LARGE % b"PUT", bytes(1000))
    assert busy(second)
    first.feed(bytes(BODY - 1000))
    assert not busy(second)
    assert first.output.account.held >= BODY


def test_chunked_bodies_that_grow_together_come_whole_one_after_another() -> None:
    wires = sharing(3)
    chunk = b"2710\r\n" + bytes(10_000) + b"\r\n"
    left = [30] * 3
    for wire in wires:
        wire.feed(b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    while any(left):
        places = [place for place in range(3) if left[place] and not wires[place].connection.at_limit]
        assert places, "one of them can always go on"
        for place in places:
            if left[place] and not wires[place].connection.at_limit:
                left[place] -= 1
                wires[place].feed(chunk if left[place] else chunk + b"0\r\n\r\n")
                for exchange in wires[place].exchanges:
                    exchange.respond(200, b"")
    assert [len(wire.exchanges[0].request.body) for wire in wires] == [300_000] * 3
    assert all(wire.output.account.held == 0 for wire in wires)


def test_a_body_beyond_those_that_may_wait_is_refused_in_words() -> None:
    wires = sharing(5)
    for wire in wires:
        wire.feed(LARGE % b"PUT" + bytes(20_000))
    refused = wires[-1].output
    assert refused.sent.startswith(b"HTTP/1.1 503 ")
    assert TOO_MANY in refused.sent
    assert refused.finished
    assert refused.dropped is None, "what it still sends is dropped until it has read that"


def test_a_body_that_is_given_up_is_refused_in_its_turn() -> None:
    (wire,) = sharing(1)
    wire.feed(LARGE % b"PUT", bytes(1000))
    wire.connection.given_up(408, TOO_SLOW)
    assert wire.output.sent == b""
    assert wire.output.asked == 1
    wire.connection.resume()
    assert wire.output.sent.startswith(b"HTTP/1.1 408 ")
    assert wire.output.account.held == wire.output.account.promised == 0


@given(
    st.lists(
        st.sampled_from((GET, PUT, GET[:20], b"\r\n", PUT[:-2], b"PUT / HTTP/1.1\r\nHost: x\r\n")),
        max_size=300,
    ),
    st.lists(st.integers(0, 400), max_size=30),
    st.booleans(),
)
def test_everything_charged_is_given_back(parts: list[bytes], order: list[int], ends: bool) -> None:
    wire = Wire(hold=True)
    for part in parts:
        wire.feed(part * 20)
    for number in order:
        if number < len(wire.exchanges):
            wire.exchanges[number].respond(200, b"", b"b" * number * 100)
            wire.connection.resume()
    if ends:
        wire.connection.eof()
    wire.connection.gone()
    assert wire.output.account.held == 0


@pytest.mark.parametrize(("hurried", "turn"), [(False, TURN_LIMIT), (True, HURRIED_LIMIT)])
@pytest.mark.parametrize("hold", [False, True])
def test_other_connections_have_their_turn_after_so_many_requests(
    turn: int, *, hurried: bool, hold: bool
) -> None:
    """Whether they are answered or not: the next turn is asked for, and hangs on nothing."""
    wire = Wire(hold=hold)
    wire.output.short_turn = hurried
    wire.feed(GET * (3 * turn + 1))
    seen = [len(wire.exchanges)]
    while wire.output.run_turn():
        seen.append(len(wire.exchanges))
    assert seen == [turn, 2 * turn, 3 * turn, 3 * turn + 1]
    assert not wire.connection.has_pending


def test_offers_to_upgrade_are_passed_over_with_their_bodies() -> None:
    offer = (
        b"PUT /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n%b"
    )
    wire = Wire().feed(offer % (len(GET), GET) + PUT)
    assert [(request[0], request[3]) for request in wire.requests] == [(b"PUT", GET), (b"PUT", b"body")]
    wire = Wire().feed(offer % (0, b"") * 3000)
    while wire.connection.has_pending:
        wire.connection.resume()
    assert len(wire.exchanges) == 3000


def test_who_waits_for_leave_to_send_gets_it_when_its_turn_comes() -> None:
    wire = Wire(hold=True).feed(PUT)
    wire.feed(b"PUT /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert wire.output.sent == b""
    wire.exchanges[0].respond(200, b"")
    assert wire.output.sent.endswith(b"\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    assert wire.feed(b"ab").requests[1][3] == b"ab"


def test_an_answer_on_its_way_reaches_a_client_that_stopped_sending() -> None:
    wire = Wire().feed(GET)
    wire.output.backlog = 100
    wire.connection.eof()
    assert wire.output.finished
    assert not wire.output.was_cut


def test_everybody_is_told_of_the_end_whatever_one_of_them_raises() -> None:
    wire = Wire(hold=True).feed(GET * 3)
    told: list[int] = []

    def tell(number: int) -> None:
        told.append(number)
        wire.exchanges[0].respond(200, b"")  # whoever is told may answer others
        if number != 1:
            raise RuntimeError(number)

    for number, exchange in enumerate(wire.exchanges):
        exchange.on_gone(lambda number=number: tell(number))  # type: ignore[misc]
    with pytest.raises(RuntimeError):
        wire.connection.gone()
    assert told == [0, 1, 2]
    assert len(wire.connection._pending) == 0
    assert wire.output.sent == b""


def test_a_handler_that_raises_leaves_the_connection_in_order() -> None:
    def fail(_: object) -> None:
        raise RuntimeError

    server = Http1Server(lambda _: None)
    wire = Wire(server, hold=True)
    server.handle = fail
    with pytest.raises(RuntimeError):
        wire.feed(PUT + GET)
    assert len(wire.connection._pending) == 1
    server.handle = wire.exchanges.append
    wire.connection.gone()
    assert len(wire.connection._pending) == 0
    assert wire.output.account.held == 0


def sweeps(wire: Wire, start: float, seconds: float, piece: bytes) -> float | None:
    """Sweep once a second while this comes in each; when the connection was found late."""
    for second in range(int(seconds) + 1):
        wire.connection.sweep(start + second)
        if wire.connection.timed_out:
            return second
        if piece:
            wire.feed(piece)
    return None


def test_a_head_must_come_in_time_however_it_drips() -> None:
    wire = Wire().feed(b"GET / HTTP/1.1\r\n")
    assert sweeps(wire, 1000, 100, b"X") == HEAD_SECONDS + 1
    wire.connection.refuse(408, b"408 Request Timeout")
    assert b"HTTP/1.1 408 " in wire.output.sent
    assert wire.output.finished


def test_each_head_has_its_own_time() -> None:
    wire = Wire().feed(GET + GET[:10])
    assert sweeps(wire, 0, 100, GET[10:] + GET[:10]) is None
    assert len(wire.exchanges) == 102


def test_a_connection_without_a_request_is_never_late() -> None:
    assert sweeps(Wire(), 0, 1000, b"\r\n") is None
    assert sweeps(Wire(hold=True).feed(GET), 0, 1000, b"") is None


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"]
)
def test_a_body_must_keep_a_pace(framing: bytes) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing
    assert sweeps(Wire().feed(head), 0, 300, b"v" * BODY_RATE) is None
    assert sweeps(Wire().feed(head), 0, 300, b"v" * (BODY_RATE - 1)) == BODY_SECONDS
    burst = Wire().feed(head, b"v" * 500_000)  # what came at once pays for no later silence
    assert sweeps(burst, 0, 300, b"v") == BODY_SECONDS
    burst = Wire().feed(head)
    burst.connection.sweep(0)
    burst.feed(b"v" * 500_000)
    assert sweeps(burst, 1, 300, b"v") == 2 * BODY_SECONDS - 1


def test_a_trailer_must_come_in_time() -> None:
    wire = Wire().feed(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
    assert sweeps(wire, 0, 300, b"t") == BODY_SECONDS


def test_nobody_is_late_while_we_do_not_read() -> None:
    wire = Wire(hold=True).feed(GET * PIPELINE_LIMIT + GET[:10])
    assert sweeps(wire, 0, 100, b"") is None
    wire = Wire().feed(GET + GET[:10])
    wire.output.paused = True
    assert sweeps(wire, 0, 100, b"") is None
    wire.output.paused = False
    assert sweeps(wire, 200, 100, b"") == HEAD_SECONDS + 1
