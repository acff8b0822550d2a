"""The Lease service: renewals in order, whatever order the leader answers in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore.api.v3.lease import FEW, KEYS_PER_UNIT, MOST_UNREAD, MOST_WAITING
from netstore.api.v3.pb import rpc_pb2 as pb
from netstore.errors import NO_LEADER, refusal
from netstore.net import grpc
from netstore.state.commands import encode
from netstore.state.v3commands import DeleteRange, Found, LeaseGrant, LeaseRevoke, Put, Range, V3Command
from netstore.types import Index
from tests.support.v3member import FakeCall, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

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


class Steps:
    """What a member's jobs do, step by step, and how much of something each did."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.most = 0

    def run(self, counter: list[int]) -> Iterator[None]:
        jobs = self.served.member.jobs
        while jobs.ready:
            before = counter[0]
            jobs.run(1)
            self.most = max(self.most, counter[0] - before)
            yield


def begin(served: Served, path: str, request: Message) -> FakeCall:
    """A call that nothing is done for yet."""
    call = FakeCall("/etcdserverpb.Lease/" + path)
    served.services.unary[call.path](call, request.SerializeToString())
    return call


def apply(served: Served, *commands: V3Command) -> None:
    machine = served.member.machine
    for command in commands:
        machine.apply(Index(machine.applied + 1), encode(command))
    machine.save()


def counting(monkeypatch: pytest.MonkeyPatch, name: str, field: str) -> list[int]:
    """How many elements messages of a kind were made with, in all."""
    count, kind = [0], getattr(pb, name)

    def make(**fields: Any) -> Any:
        count[0] += len(fields.get(field, ()))
        return kind(**fields)

    monkeypatch.setattr(pb, name, make)
    return count


def test_many_leases_are_told_in_steps_as_of_one_moment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 5 * FEW)])
    kind = pb.LeaseLeasesResponse
    count = counting(monkeypatch, "LeaseLeasesResponse", "leases")
    call, steps = begin(served, "LeaseLeases", pb.LeaseLeasesRequest()), Steps(served)
    for number, _ in enumerate(steps.run(count), 1):
        apply(served, LeaseRevoke(number), LeaseGrant(9_000 + number, 60))
    assert steps.most <= FEW
    (message,) = call.messages
    assert [each.ID for each in kind.FromString(message).leases] == list(range(1, 5 * FEW))


def test_many_keys_of_a_lease_are_told_in_steps_as_of_one_moment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [b"%05d" % number for number in range(4_500)]
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in keys])
    kind = pb.LeaseTimeToLiveResponse
    count = counting(monkeypatch, "LeaseTimeToLiveResponse", "keys")
    asked = pb.LeaseTimeToLiveRequest(ID=1, keys=True)
    call, steps = begin(served, "LeaseTimeToLive", asked), Steps(served)
    revision = served.member.machine.mvcc.revision
    later: list[FakeCall] = []
    for number, _ in enumerate(steps.run(count)):
        if number < 3:
            apply(served, DeleteRange(keys[number]), Put(b"new%d" % number, b"", 1))
            later.append(begin(served, "LeaseTimeToLive", asked))
    assert steps.most <= FEW
    answer = kind.FromString(call.messages[0])
    assert (answer.header.revision, answer.TTL, answer.grantedTTL) == (revision, 59, 60)
    assert list(answer.keys) == keys
    for each in later:
        answer = kind.FromString(each.messages[0])
        assert list(answer.keys) == [*keys[3:], b"new0", b"new1", b"new2"]
        assert answer.header.revision == revision + 6
    assert count[0] == 9_000, "those who came meanwhile share a list"


def test_keys_that_are_told_at_once_are_counted(served: Served) -> None:
    """So that a turn does not answer for too long (`Host._serve_reads`)."""
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(FEW)])
    mvcc = served.member.machine.mvcc
    before = mvcc.read_units
    for keys, units in ((False, 0), (True, FEW // KEYS_PER_UNIT)):
        begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=keys))
        assert mvcc.read_units - before == units
    assert not served.member.jobs.ready


def test_a_lease_that_ends_while_its_keys_are_listed_takes_all_of_them_along(served: Served) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    call = begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    served.member.jobs.run(1)
    apply(served, DeleteRange(b"00000"), Put(b"new", b"", 1), LeaseRevoke(1))
    found = served.member.machine.mvcc.range(Range(b"\0", b"\0", count_only=True))
    assert isinstance(found, Found)
    assert found.count == 0
    served.member.settle()
    assert len(pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).keys) == 3_000


def test_an_answer_in_steps_that_cannot_be_made_is_said_to_fail(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    asked = pb.LeaseTimeToLiveRequest(ID=1, keys=True)
    call = begin(served, "LeaseTimeToLive", asked)
    served.member.jobs.run(2)
    with monkeypatch.context() as patch:
        patch.setattr("netstore.api.v3.lease.merge", None)
        served.member.settle()
    assert call.status == grpc.INTERNAL
    again = served.call("/etcdserverpb.Lease/LeaseTimeToLive", asked)
    assert len(pb.LeaseTimeToLiveResponse.FromString(again.messages[0]).keys) == 3_000
