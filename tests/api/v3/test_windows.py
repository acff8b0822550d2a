"""Long answers over HTTP/2: no more of them is made than a client's windows let through, and what waits for a
window goes on when that opens.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.limits import Budget
from netstore.net import http2
from netstore.net.exchange import LOW_WATER
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.server import GrpcServer
from netstore.net.http2 import Http2Connection, Http2Server, frame
from netstore.net.http2.bounds import ANSWERS_LIMIT, ANSWERS_LIMIT_OVER, ROOM_CALLS_AT_ONCE
from netstore.net.http2.closing import give_up
from netstore.node.timekeeper import Deadline
from netstore.proto import rpc_pb2 as pb
from tests.support.h2client import REQUEST, block, frames
from tests.support.http import FakeOutput
from tests.support.log import KeptLog
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.errors import Fault
    from netstore.node.jobs import Job

BIG: Final = 1 << 20
"""Bytes of one value."""

KEYS: Final = 900
"""Of 1 KiB: a list of them is given in many pieces."""

MOST_WINDOW: Final = 1 << 30
LIST: Final = pb.RangeRequest(key=b"k", range_end=b"l", serializable=True)
ONE: Final = pb.RangeRequest(key=b"big", serializable=True)
MEDIUM: Final = pb.RangeRequest(key=b"medium", serializable=True)


@pytest.fixture(scope="module")
def served() -> Served:
    served = Served()
    for number in range(KEYS):
        put(served, b"k%05d" % number, bytes(1_000))
    put(served, b"big", bytes(BIG))
    put(served, b"medium", bytes(200_000))
    return served


def put(served: Served, key: bytes, value: bytes) -> None:
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=key, value=value))


def number_of(value: int) -> bytes:
    return value.to_bytes(4, "big")


class Client:
    """A connection to the services of a member, driven as the reactor does it: `resume` is called where the
    connection has pending work (`has_pending`), and turns where it asks for them.
    """

    def __init__(self, served: Served, window: int, whole: int = MOST_WINDOW) -> None:
        self.time = 100.0
        self.jobs = served.member.jobs
        server = GrpcServer(
            served.services, lambda: self.time, lambda _, call: Deadline(0.0, call), KeptLog()
        )
        self.output = FakeOutput()
        self.connection = Http2Connection(
            Http2Server(server, lambda: self.time, varying=TIMEOUT_FIELD), self.output
        )
        self.got: Counter[int] = Counter()
        """Bytes of DATA by stream."""
        self.ended: set[int] = set()
        self.resets: set[int] = set()
        self.goaways = 0
        self.most = 0
        self._next = 1
        self.feed(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"\0\4" + number_of(window)))
        if whole > 65_535:
            self.widen(0, whole - 65_535)

    def feed(self, data: bytes) -> None:
        self.connection.receive(data)
        self.run()

    def run(self) -> None:
        """Until there is nothing to do but to wait for the client or the network."""
        for _ in range(10_000):
            while self.output.run_turn():
                self.most = max(self.most, self.connection.answers)
            if not self.jobs.ready:
                break
            self.jobs.run()
            self.most = max(self.most, self.connection.answers)
            self._take()
        else:
            raise AssertionError("it comes to no rest")
        self._take()

    def _take(self) -> None:
        for each in frames(self.output.sent):
            if each.kind == http2.DATA:
                self.got[each.stream] += len(each.payload)
            if each.kind == http2.HEADERS and each.flags & http2.END_STREAM:
                self.ended.add(each.stream)
            if each.kind == http2.RST_STREAM:
                self.resets.add(each.stream)
            self.goaways += each.kind == http2.GOAWAY
        self.output.sent = b""

    def ask(self, request: pb.RangeRequest) -> int:
        number, self._next = self._next, self._next + 2
        message = request.SerializeToString()
        headers = [*REQUEST[:2], (":path", "/etcdserverpb.KV/Range"), *REQUEST[3:]]
        self.feed(
            frame(http2.HEADERS, http2.END_HEADERS, number, block(headers))
            + frame(http2.DATA, http2.END_STREAM, number, b"\0" + number_of(len(message)) + message)
        )
        return number

    def widen(self, number: int, size: int) -> None:
        self.feed(frame(http2.WINDOW_UPDATE, 0, number, number_of(size)))

    def initial(self, size: int) -> None:
        self.feed(frame(http2.SETTINGS, 0, 0, b"\0\4" + number_of(size)))

    def reset(self, number: int) -> None:
        self.feed(frame(http2.RST_STREAM, 0, number, number_of(http2.CANCEL)))

    def network(self, unsent: int) -> None:
        """So much is not sent; a socket that takes something gives the session its turn if it wants one."""
        self.output.backlog = unsent
        if self.connection.has_pending:
            self.connection.resume()
        self.run()

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time += 1
            self.connection.sweep(self.time)
            self.run()

    @property
    def paused(self) -> bool:
        """A job waits, and none has something to do."""
        return len(self.jobs) > 0 and not self.jobs.ready


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Those that a test makes; none leaves a job behind."""
    made: list[Client] = []
    yield made
    for each in made:
        each.connection.gone()
        each.run()
        assert len(each.jobs) == 0


def client(clients: list[Client], served: Served, window: int, whole: int = MOST_WINDOW) -> Client:
    made = Client(served, window, whole)
    clients.append(made)
    return made


@pytest.mark.parametrize("window", [0, 1, 1_000, 65_535])
@pytest.mark.parametrize("request_", [ONE, LIST], ids=["one", "list"])
def test_what_cannot_leave_is_not_made(
    served: Served, clients: list[Client], window: int, request_: pb.RangeRequest
) -> None:
    """However many streams ask, and however little they let through."""
    one = client(clients, served, window)
    asked = [one.ask(request_) for _ in range(20)]
    assert one.paused
    held = 5 * len(asked) if window < 5 else ANSWERS_LIMIT + BIG
    assert one.most <= held + 100
    for _ in range(10):
        for number in asked:
            one.widen(number, 1)
    assert one.most <= ANSWERS_LIMIT + BIG + 100
    assert not one.ended


def test_a_list_for_a_small_window_is_given_pair_by_pair(served: Served, clients: list[Client]) -> None:
    one = client(clients, served, 0)
    number = one.ask(LIST)
    for _ in range(50):
        one.widen(number, 1_000)
    assert one.most <= 2 * 1_100
    assert one.got[number] == 50_000


def test_answers_in_one_piece_do_not_pile_up_either(served: Served, clients: list[Client]) -> None:
    one = client(clients, served, 0)
    asked = [one.ask(MEDIUM) for _ in range(20)]
    assert one.most <= ANSWERS_LIMIT
    one.initial(MOST_WINDOW)
    assert one.ended == set(asked)


def test_less_may_wait_once_the_memory_for_all_is_spent(served: Served, clients: list[Client]) -> None:
    one = client(clients, served, 65_535)
    budget = Budget(1)
    budget.add(2)
    one.output.account = budget.account()
    for _ in range(20):
        one.ask(LIST)
    assert one.most <= ANSWERS_LIMIT_OVER + 2 * 1_100
    one.initial(MOST_WINDOW)
    assert len(one.ended) == 20


@pytest.mark.parametrize("way", ["stream", "settings", "connection", "network", "reset", "both", "narrowed"])
def test_what_waits_goes_on(served: Served, clients: list[Client], way: str) -> None:
    """Each way from paused to resumed: until it happens nothing comes, and after it everything."""
    whole = 65_536 if way in {"connection", "both"} else MOST_WINDOW
    window = MOST_WINDOW if way in {"connection", "network"} else 1_000
    one = client(clients, served, window, whole)
    if way == "network":
        one.output.backlog = http2.UNSENT_LIMIT
    if way == "reset":
        blocker = one.ask(ONE)
        one.widen(0, 1)
        number = one.ask(LIST)
        one.widen(number, MOST_WINDOW)
        assert number in one.ended or one.connection.answers > ANSWERS_LIMIT
    else:
        number = one.ask(LIST)
    assert one.paused
    assert number not in one.ended
    if way == "stream":
        one.widen(number, MOST_WINDOW)
    elif way == "settings":
        one.initial(MOST_WINDOW)
    elif way == "connection":
        one.widen(0, MOST_WINDOW)
    elif way == "both":
        one.widen(0, MOST_WINDOW)
        assert number not in one.ended
        one.widen(number, MOST_WINDOW)
    elif way == "network":
        one.network(LOW_WATER)
    elif way == "reset":
        one.reset(blocker)
    else:
        one.initial(0)
        one.widen(number, 10)
        assert number not in one.ended
        one.initial(MOST_WINDOW)
    assert number in one.ended
    assert one.got[number] > KEYS * 1_000
    assert len(one.jobs) == 0


def test_what_waits_for_the_network_alone_goes_on(served: Served, clients: list[Client]) -> None:
    """Nothing is queued that would be sent: only the line says that there is something to do."""
    one = client(clients, served, 5)
    number = one.ask(LIST)
    one.output.backlog = http2.UNSENT_LIMIT
    one.widen(number, MOST_WINDOW)
    assert one.paused
    assert one.connection.queued == 0
    one.network(0)
    assert number in one.ended


def test_a_window_that_is_taken_back_from_one_in_line_is_waited_for(
    served: Served, clients: list[Client]
) -> None:
    one = client(clients, served, 1_000, 0)
    one.connection.window = 5
    number = one.ask(LIST)
    assert list(one.connection.room_waiters) == [one.connection.streams[number]]
    one.initial(0)
    one.widen(0, MOST_WINDOW)
    check_lines(one.connection)
    assert one.paused
    one.initial(MOST_WINDOW)
    assert one.ended == {number}


def test_those_that_wait_for_one_that_fails_go_on(served: Served, clients: list[Client]) -> None:
    """A stream may end outside of any turn of its connection."""
    one = client(clients, served, 1_000)
    blocker = one.ask(ONE)
    others = [one.ask(LIST) for _ in range(3 * ROOM_CALLS_AT_ONCE)]
    for number in others:
        one.widen(number, MOST_WINDOW)
    assert not one.ended
    give_up(one.connection, one.connection.streams[blocker], http2.INTERNAL_ERROR)
    one.run()
    assert one.ended == set(others)


def test_those_that_were_told_and_left_keep_nobody_waiting(served: Served, clients: list[Client]) -> None:
    """Of many in line the first ones give up, however near they were."""
    one = client(clients, served, MOST_WINDOW, 0)
    one.connection.window = 0
    asked = [one.ask(LIST) for _ in range(5 * ROOM_CALLS_AT_ONCE)]
    one.connection.receive(frame(http2.WINDOW_UPDATE, 0, 0, number_of(MOST_WINDOW)))
    for number in asked[: 2 * ROOM_CALLS_AT_ONCE]:
        one.connection.receive(frame(http2.RST_STREAM, 0, number, number_of(http2.CANCEL)))
    one.run()
    assert one.ended == set(asked[2 * ROOM_CALLS_AT_ONCE :])


def test_a_stream_that_lets_nothing_through_is_ended_though_nothing_was_made(
    served: Served, clients: list[Client]
) -> None:
    one = client(clients, served, 0)
    number = one.ask(ONE)
    one.pass_time(int(http2.STALL_SECONDS))
    assert not one.resets
    one.pass_time(3)
    assert (one.resets, one.goaways) == ({number}, 0)
    assert len(one.jobs) == 0


def test_who_lets_enough_through_is_not_closed(served: Served, clients: list[Client]) -> None:
    one = client(clients, served, 0)
    number = one.ask(ONE)
    for _ in range(100):
        one.widen(number, 2 * http2.STALL_RATE)
        one.pass_time(1)
    assert one.goaways == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([0, 1, 2]), st.just(0)),
        st.tuples(st.just("widen"), st.integers(0, 5), st.sampled_from([1, 1_000, 70_000, 2_000_000])),
        st.tuples(st.just("whole"), st.just(0), st.sampled_from([1, 1_000, 70_000, 2_000_000])),
        st.tuples(st.just("initial"), st.just(0), st.sampled_from([0, 1, 1_000, 65_535, 1_000_000])),
        st.tuples(st.just("network"), st.just(0), st.sampled_from([0, 100_000, 300_000])),
        st.tuples(st.just("reset"), st.integers(0, 5), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


@given(STEPS, st.sampled_from([0, 1, 1_000, 65_535]))
@settings(max_examples=60)
def test_nothing_that_waits_is_forgotten(
    served: Served, steps: list[tuple[str, int, int]], window: int
) -> None:
    """Whatever a client did before: once it opens all windows and the network takes all, all is answered."""
    one = Client(served, window, 0)
    asked: list[int] = []
    gone: set[int] = set()
    for step, target, value in steps:
        number = asked[target % len(asked)] if asked else 0
        if step == "ask":
            asked.append(one.ask((LIST, ONE, MEDIUM)[target]))
        elif step == "whole":
            one.widen(0, value)
        elif step == "initial":
            one.initial(value)
        elif step == "network":
            one.network(value)
        elif number and number not in one.ended | gone:
            if step == "widen":
                one.widen(number, value)
            else:
                gone.add(number)
                one.reset(number)
        assert one.most <= 2 * (ANSWERS_LIMIT + BIG)
        check_lines(one.connection)
    one.network(0)
    one.widen(0, MOST_WINDOW)
    one.initial(MOST_WINDOW)
    assert one.ended >= set(asked) - gone
    assert len(one.jobs) == 0


def check_lines(connection: Http2Connection) -> None:
    """Who wants room stands in one line, and is alive."""
    streams = list(connection.streams.values())
    assert connection.answers == sum(each.queued for each in streams if each.defers_to_peer)
    waiting = [*connection.window_waiters, *connection.room_waiters]
    assert sorted(each.number for each in streams if each.awaiting_room) == sorted(e.number for e in waiting)
    assert all(each.window <= each.queued for each in connection.window_waiters)


def test_a_list_that_leaves_at_once_is_given_at_once(served: Served, clients: list[Client]) -> None:
    """It needs no steps, though it is larger than what may wait."""
    one = client(clients, served, MOST_WINDOW)
    started: list[Job] = []
    start = one.jobs.start

    def note(principal: str, job: Job) -> Fault | None:
        started.append(job)
        return start(principal, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.jobs, "start", note)
        number = one.ask(LIST)
        assert one.ended == {number}
        assert len(started) == 0
        one.initial(1_000)
        one.ask(LIST)
        assert len(started) == 1
