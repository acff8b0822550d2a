"""The Lease service: renewals in order, whatever order the leader answers in."""

from __future__ import annotations

import pytest

from netstore.api.v3.lease import MOST_UNREAD, MOST_WAITING
from netstore.api.v3.pb import rpc_pb2 as pb
from netstore.errors import NO_LEADER, refusal
from netstore.net import grpc
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


def test_an_id_is_drawn_until_it_is_free(served: Served) -> None:
    def grant() -> int:
        call = served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60))
        return pb.LeaseGrantResponse.FromString(call.messages[0]).ID

    served.draws = [5, 5, 5, 6]
    assert (grant(), grant()) == (6, 7)
    assert served.draws == []


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
    assert call.status == grpc.OK


def test_without_a_leader_the_stream_ends(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    receiver.received(ask(1))
    receiver.received(ask(2))
    served.lessor.held[0](refusal(NO_LEADER))
    assert (call.status, call.text) == (grpc.UNAVAILABLE, "etcdserver: no leader")
    served.lessor.held[1](5)
    assert told(call) == []


def test_a_client_may_not_ask_without_end(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    for lease in range(MOST_WAITING):
        receiver.received(ask(lease))
    assert call.open
    receiver.received(ask(0))
    assert call.status == grpc.RESOURCE_EXHAUSTED
    served.lessor.held = None
    call, receiver = served.open(PATH)
    call.backlog = MOST_UNREAD + 1
    receiver.received(ask(1))
    assert call.status == grpc.RESOURCE_EXHAUSTED


def test_a_client_that_went_away_is_not_answered(served: Served) -> None:
    served.lessor.held = []
    call, receiver = served.open(PATH)
    receiver.received(ask(1))
    receiver.cancelled()
    served.lessor.held[0](5)
    assert call.messages == []


def test_the_keys_of_a_lease_that_ended_meanwhile_are_not_told(served: Served) -> None:
    call = served.call("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=77, keys=True))
    answer = pb.LeaseTimeToLiveResponse.FromString(call.messages[0])
    assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (77, -1, 0, [])
