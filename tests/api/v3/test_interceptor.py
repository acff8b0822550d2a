"""Who is let in: learners, members without a leader, messages that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from netstore import codes
from netstore.api.v3.interceptor import ENDED_AT_ONCE, NULL_RECEIVER, Interceptor
from netstore.errors import timed_out, too_many
from netstore.proto import rpc_pb2 as pb
from netstore.types import NodeId
from tests.support.v3member import FakeCall, Served

if TYPE_CHECKING:
    from google.protobuf.message import Message

NEEDS_LEADER = {b"hasleader": b"true"}
PATHS = sorted(Served().services.unary)
STREAMS = sorted(Served().services.stream)


@pytest.fixture
def served() -> Served:
    return Served()


def make_learner(served: Served) -> None:
    member = served.member
    info = member.machine.members[member.id]
    member.machine.roster.by_id[member.id] = msgspec.structs.replace(info, learner=True)
    member.leader = NodeId(member.id + 1)


@pytest.mark.parametrize("path", [path.decode() for path in PATHS])
def test_bytes_that_are_no_message(served: Served, path: str) -> None:
    call = served.call(path, b"\x0a\xff")
    assert call.status == codes.INTERNAL
    assert call.text.startswith("grpc: error unmarshalling request")
    assert call.messages == []
    assert served.member.proposed == 0


@pytest.mark.parametrize("path", [path.decode() for path in STREAMS])
def test_bytes_that_are_no_message_of_a_stream(served: Served, path: str) -> None:
    call, receiver = served.open(path)
    receiver.received(b"\x0a\xff")
    assert call.status == codes.INTERNAL


def test_a_learner_serves_what_it_has(served: Served) -> None:
    make_learner(served)
    local = pb.RangeRequest(key=b"a", serializable=True)
    assert served.call("/etcdserverpb.KV/Range", local).status == codes.OK
    assert served.call("/etcdserverpb.Maintenance/Status", pb.StatusRequest()).status == codes.OK
    for path, request in (
        ("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a")),
        ("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a")),
        ("/etcdserverpb.Cluster/MemberList", pb.MemberListRequest()),
        ("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest()),
    ):
        call = served.call(path, request)
        assert (call.status, call.text) == (codes.UNAVAILABLE, "etcdserver: rpc not supported for learner")
    call, receiver = served.open("/etcdserverpb.Watch/Watch")
    assert call.status == codes.UNAVAILABLE
    receiver.received(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a")).SerializeToString())
    receiver.half_closed()
    receiver.cancelled()
    assert call.messages == []
    assert served.open("/etcdserverpb.Maintenance/Snapshot")[0].open


def test_a_client_that_needs_a_leader(served: Served) -> None:
    served.member.leader = NodeId(0)
    read = pb.RangeRequest(key=b"a", serializable=True)
    call = served.call("/etcdserverpb.KV/Range", read, NEEDS_LEADER)
    assert (call.status, call.text) == (codes.UNAVAILABLE, "etcdserver: no leader")
    assert served.call("/etcdserverpb.KV/Range", read).status == codes.OK
    assert served.call("/etcdserverpb.KV/Range", read, {b"hasleader": b"false"}).status == codes.OK
    assert served.open("/etcdserverpb.Watch/Watch", NEEDS_LEADER)[0].status == codes.UNAVAILABLE


def watching(served: Served, fields: dict[bytes, bytes]) -> object:
    call, receiver = served.open("/etcdserverpb.Watch/Watch", fields)
    receiver.received(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a")).SerializeToString())
    return call


def test_streams_end_when_no_leader_is_seen_for_long(served: Served) -> None:
    needing, careless = watching(served, NEEDS_LEADER), watching(served, {})
    leader = served.member.leader
    assert served.member.watches.count == 2
    for seen in (0, 0, leader, 0, 0):
        served.member.leader = NodeId(seen)
        served.advance(1.0)
        assert needing.status is None  # type: ignore[attr-defined]  # a FakeCall
    served.advance(1.0)
    assert (needing.status, needing.text) == (codes.UNAVAILABLE, "etcdserver: no leader")  # type: ignore[attr-defined]  # as above
    assert careless.status is None  # type: ignore[attr-defined]  # as above
    assert served.member.watches.count == 1, "its watches are gone, too"


def test_many_streams_end_in_slices(served: Served) -> None:
    calls = [watching(served, NEEDS_LEADER) for _ in range(3 * ENDED_AT_ONCE)]
    served.member.leader = NodeId(0)
    for _ in range(2):
        served.advance(1.0)
    ended = [0]
    for _ in range(3):
        served.advance(1.0)
        ended.append(sum(call.status is not None for call in calls))  # type: ignore[attr-defined]  # FakeCalls
    assert ended == [0, ENDED_AT_ONCE, 2 * ENDED_AT_ONCE, 3 * ENDED_AT_ONCE]


def test_a_look_costs_the_same_however_many_streams_need_a_leader(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3 * ENDED_AT_ONCE):
        watching(served, NEEDS_LEADER)
    looked: list[object] = []

    def look(call: FakeCall) -> bool:
        looked.append(call)
        return True

    monkeypatch.setattr(FakeCall, "open", property(look))
    served.advance(1.0)
    assert 0 < len(looked) <= ENDED_AT_ONCE


def test_streams_that_have_ended_are_not_kept(served: Served) -> None:
    interceptor = Interceptor(served.member, served.gate, served.deadlines.after, 1.0)
    handle = interceptor.stream(lambda _, __: NULL_RECEIVER)
    for _ in range(1_000):
        call = FakeCall("/etcdserverpb.Watch/Watch", NEEDS_LEADER)
        handle(call)
        call.finish()
    assert len(interceptor._needing_leader) <= 4


def test_a_stream_that_cannot_be_ended_keeps_no_other_open(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = watching(served, NEEDS_LEADER), watching(served, NEEDS_LEADER)

    def fail(status: int, text: str) -> None:
        raise MemoryError

    monkeypatch.setattr(broken, "finish", fail)
    served.member.leader = NodeId(0)
    for _ in range(2):
        served.advance(1.0)
    with pytest.raises(MemoryError):
        served.advance(1.0)
    assert other.status == codes.UNAVAILABLE  # type: ignore[attr-defined]  # a FakeCall


def test_who_writes_is_noted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[bytes] = []
    monkeypatch.setattr(served.member, "propose", lambda command, done, principal: noted.append(principal))
    operation = pb.RequestOp(request_put=pb.PutRequest(key=b"a"))
    for path, request in (
        ("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a")),
        ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest(key=b"a")),
        ("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[operation])),
        ("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=1)),
        ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=9)),
        ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=9)),
        (
            "/etcdserverpb.Maintenance/Alarm",
            pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=served.member.id, alarm=pb.NOSPACE),
        ),
    ):
        served.call(path, request)
        assert noted == [b"127.0.0.1"], path
        noted.clear()


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a")),
        (
            "/etcdserverpb.KV/Txn",
            pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))]),
        ),
        ("/etcdserverpb.Cluster/MemberList", pb.MemberListRequest(linearizable=True)),
        ("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=9)),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)
def test_what_waits_for_a_moment_to_read_at_has_a_place_of_who_asks(
    served: Served, path: str, request_: Message
) -> None:
    assert served.call(path, request_).status == codes.OK
    assert served.member.readers == ["127.0.0.1"]
    served.member.unreadable = too_many()
    call = served.call(path, request_)
    assert (call.status, call.text) == (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


def test_a_renewal_has_a_place_of_who_asks(served: Served) -> None:
    _, receiver = served.open("/etcdserverpb.Lease/LeaseKeepAlive")
    receiver.received(pb.LeaseKeepAliveRequest(ID=9).SerializeToString())
    assert served.member.writers == [b"127.0.0.1"]


def test_what_a_read_and_a_write_can_run_into(served: Served) -> None:
    served.member.unreadable = served.member.unwritable = timed_out()
    expected = (codes.UNAVAILABLE, "etcdserver: request timed out")
    for path, request in (
        ("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a")),
        ("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a")),
        ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest(key=b"a")),
        ("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a"))])),
        (
            "/etcdserverpb.KV/Txn",
            pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))]),
        ),
        ("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=1)),
        ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=9)),
        ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=9)),
        (
            "/etcdserverpb.Maintenance/Alarm",
            pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=served.member.id, alarm=pb.NOSPACE),
        ),
        ("/etcdserverpb.Cluster/MemberList", pb.MemberListRequest(linearizable=True)),
    ):
        call = served.call(path, request)
        assert (call.status, call.text) == expected, path
    local = pb.RequestOp(request_range=pb.RangeRequest(key=b"a", serializable=True))
    assert served.call("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[local])).status == codes.OK
    assert served.call("/etcdserverpb.KV/Txn", pb.TxnRequest()).status == codes.UNAVAILABLE
