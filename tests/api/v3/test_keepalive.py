"""The LeaseKeepAlive stream: renewals in order, whatever order the leader answers in."""

from __future__ import annotations

import pytest

from netstore import codes
from netstore.api.v3.keepalive import MOST_UNREAD, MOST_WAITING
from netstore.errors import Reason, refusal
from netstore.proto import rpc_pb2 as pb
from tests.support.v3member import FakeCall, Served

PATH = "/etcdserverpb.Lease/LeaseKeepAlive"


@pytest.fixture
def served() -> Served:
    return Served()


def ask(lease: int) -> bytes:
    return pb.LeaseKeepAliveRequest(ID=lease).SerializeToString()


def told(call: FakeCall) -> list[tuple[int, int]]:
    answers = map(pb.LeaseKeepAliveResponse.FromString, call.messages)
    return [(answer.ID, answer.TTL) for answer in answers]


def test_answers_keep_the_order_of_the_requests(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    for lease in (1, 2, 3):
        receiver.received(ask(lease))
    first, second, third = served.lessor.held
    third(30)
    second(0)
    assert told(call) == []
    first(10)
    assert told(call) == [(1, 10), (2, 0), (3, 30)]
    receiver.received(ask(4))
    receiver.half_closed()
    assert call.open, "what was asked is answered first"
    served.lessor.held[3](40)
    assert told(call)[-1] == (4, 40)
    assert call.status == codes.OK


def test_without_a_leader_the_stream_ends(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    receiver.received(ask(1))
    receiver.received(ask(2))
    served.lessor.held[0](refusal(Reason.NO_LEADER))
    assert (call.status, call.text) == (codes.UNAVAILABLE, "etcdserver: no leader")
    served.lessor.held[1](5)
    assert told(call) == []


def test_a_client_may_not_ask_without_end(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    for lease in range(MOST_WAITING):
        receiver.received(ask(lease))
    assert call.open
    receiver.received(ask(0))
    assert call.status == codes.RESOURCE_EXHAUSTED
    served.lessor.held = None
    call, receiver = served.open(PATH)
    call.backlog = MOST_UNREAD + 1
    receiver.received(ask(1))
    assert call.status == codes.RESOURCE_EXHAUSTED


def test_a_client_that_went_away_is_not_answered(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    receiver.received(ask(1))
    receiver.cancelled()
    served.lessor.held[0](5)
    assert call.messages == []
