"""Maintenance, Cluster and gRPC's health service, the same on Debian's etcd and on netstored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from netstore.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from netstore.proto.rpc_pb2 import (
    CORRUPT,
    NONE,
    NOSPACE,
    AlarmRequest,
    CompactionRequest,
    DefragmentRequest,
    DeleteRangeRequest,
    HashKVRequest,
    HashRequest,
    LeaseGrantRequest,
    MemberAddRequest,
    MemberListRequest,
    MemberPromoteRequest,
    MemberRemoveRequest,
    MemberUpdateRequest,
    MoveLeaderRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SnapshotRequest,
    StatusRequest,
    TxnRequest,
)
from tests.support.v3client import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from tests.support.v3client import V3Client

NO_SPACE = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
CORRUPT_CLUSTER = ("DATA_LOSS", "etcdserver: corrupt cluster")


def refusal(call: Callable[[Message], object], request: Message) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        call(request)
    return caught.value.code, caught.value.text


def put(v3: V3Client, key: bytes, value: bytes = b"") -> int:
    revision: int = v3.kv.Put(PutRequest(key=key, value=value)).header.revision
    return revision


def own_id(v3: V3Client) -> int:
    number: int = v3.maintenance.Status(StatusRequest()).header.member_id
    return number


# --- Status


def test_status(v3: V3Client, space: bytes) -> None:
    revision = put(v3, space, b"x")
    answer = v3.maintenance.Status(StatusRequest())
    assert answer.header.revision >= revision
    assert answer.leader == answer.header.member_id
    assert answer.raftTerm == answer.header.raft_term
    assert answer.raftIndex >= answer.raftAppliedIndex > 0
    assert answer.dbSize >= answer.dbSizeInUse > 0
    assert not answer.isLearner
    assert list(answer.errors) == []
    major, minor, patch = map(int, answer.version.split("."))
    assert (major, minor) >= (3, 4)
    assert patch


# --- Alarms


@pytest.fixture
def disarmed(v3: V3Client) -> Iterator[None]:
    yield
    for kind in (NOSPACE, CORRUPT):
        for alarm in v3.maintenance.Alarm(AlarmRequest(alarm=kind)).alarms:
            off = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=kind)
            v3.maintenance.Alarm(off)


def alarms(v3: V3Client, **options: int) -> list[tuple[int, int]]:
    request = AlarmRequest(**options)  # type: ignore[arg-type]  # numbers of enumerations
    return [(each.memberID, each.alarm) for each in v3.maintenance.Alarm(request).alarms]


@pytest.mark.usefixtures("disarmed")
def test_alarms_are_raised_listed_and_cleared(v3: V3Client) -> None:
    me = own_id(v3)
    assert alarms(v3) == []
    activate, deactivate = AlarmRequest.ACTIVATE, AlarmRequest.DEACTIVATE
    assert alarms(v3, action=activate, memberID=me, alarm=NOSPACE) == [(me, NOSPACE)]
    assert alarms(v3, action=activate, memberID=me, alarm=NOSPACE) == [(me, NOSPACE)]
    assert alarms(v3, action=activate, memberID=me, alarm=CORRUPT) == [(me, CORRUPT)]
    assert sorted(alarms(v3, alarm=NONE)) == [(me, NOSPACE), (me, CORRUPT)]
    assert alarms(v3, alarm=CORRUPT) == [(me, CORRUPT)]
    shown = set(v3.maintenance.Status(StatusRequest()).errors)
    assert shown == {f"memberID:{me} alarm:NOSPACE ", f"memberID:{me} alarm:CORRUPT "}
    assert alarms(v3, action=deactivate, memberID=me, alarm=CORRUPT) == [(me, CORRUPT)]
    assert alarms(v3, action=deactivate, memberID=me, alarm=CORRUPT) == []
    assert alarms(v3, action=deactivate, memberID=me, alarm=NOSPACE) == [(me, NOSPACE)]
    assert alarms(v3) == []


@pytest.mark.usefixtures("disarmed")
def test_without_space_only_what_costs_nothing_is_done(v3: V3Client, space: bytes) -> None:
    put(v3, space, b"before")
    lease = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=90_000)).ID
    alarms(v3, action=AlarmRequest.ACTIVATE, memberID=own_id(v3), alarm=NOSPACE)
    assert refusal(v3.kv.Put, PutRequest(key=space, value=b"after")) == NO_SPACE
    assert refusal(v3.lease.LeaseGrant, LeaseGrantRequest(TTL=100)) == NO_SPACE
    write = RequestOp(request_put=PutRequest(key=space, value=b"after"))
    read = RequestOp(request_range=RangeRequest(key=space))
    remove = RequestOp(request_delete_range=DeleteRangeRequest(key=space))
    for txn in (TxnRequest(success=[write]), TxnRequest(success=[read], failure=[write])):
        assert refusal(v3.kv.Txn, txn) == NO_SPACE
    assert v3.kv.Txn(TxnRequest(success=[read])).responses[0].response_range.kvs[0].value == b"before"
    assert v3.kv.Range(RangeRequest(key=space)).kvs[0].value == b"before"
    revision = v3.kv.Txn(TxnRequest(success=[remove])).header.revision
    v3.kv.DeleteRange(DeleteRangeRequest(key=space))
    v3.kv.Compact(CompactionRequest(revision=revision))
    alarms(v3, action=AlarmRequest.DEACTIVATE, memberID=own_id(v3), alarm=NOSPACE)
    put(v3, space, b"after")
    assert v3.kv.Put(PutRequest(key=space, lease=lease)).header.revision > revision


@pytest.mark.usefixtures("disarmed")
def test_a_corrupt_cluster_serves_no_data(v3: V3Client, space: bytes) -> None:
    alarms(v3, action=AlarmRequest.ACTIVATE, memberID=own_id(v3), alarm=CORRUPT)
    for call, request in (
        (v3.kv.Put, PutRequest(key=space)),
        (v3.kv.DeleteRange, DeleteRangeRequest(key=space)),
        (v3.kv.Txn, TxnRequest(success=[RequestOp(request_put=PutRequest(key=space))])),
        (v3.kv.Compact, CompactionRequest(revision=1)),
        (v3.lease.LeaseGrant, LeaseGrantRequest(TTL=100)),
    ):
        assert refusal(call, request) == CORRUPT_CLUSTER


# --- Hash, Defragment, Snapshot, MoveLeader


def test_hashes(v3: V3Client, space: bytes) -> None:
    first = put(v3, space, b"1")
    now = v3.maintenance.HashKV(HashKVRequest())
    at = v3.maintenance.HashKV(HashKVRequest(revision=first))
    assert at.hash == now.hash
    assert now.header.revision == first
    put(v3, space, b"2")
    assert v3.maintenance.HashKV(HashKVRequest(revision=first)).hash == at.hash, "later changes do not count"
    assert v3.maintenance.HashKV(HashKVRequest()).hash != at.hash
    future = HashKVRequest(revision=first + 1000)
    assert refusal(v3.maintenance.HashKV, future) == (
        "OUT_OF_RANGE",
        "etcdserver: mvcc: required revision is a future revision",
    )
    compacted = v3.kv.Compact(CompactionRequest(revision=first + 1, physical=True)).header.revision
    assert v3.maintenance.HashKV(HashKVRequest()).compact_revision == compacted == first + 1
    assert v3.maintenance.Hash(HashRequest()).hash


def test_defragment(v3: V3Client, space: bytes) -> None:
    put(v3, space, b"kept")
    v3.maintenance.Defragment(DefragmentRequest())
    assert v3.kv.Range(RangeRequest(key=space)).kvs[0].value == b"kept"


def test_a_snapshot_ends_with_its_digest(v3: V3Client, space: bytes) -> None:
    put(v3, space, bytes(100_000))
    parts = list(v3.maintenance.Snapshot(SnapshotRequest()))
    body = b"".join(part.blob for part in parts)
    data, digest = body[:-32], body[-32:]
    assert len(data) % 512 == 0
    assert len(data) > 100_000
    assert hashlib.sha256(data).digest() == digest
    assert parts[-1].blob == digest
    assert parts[-1].remaining_bytes == 0
    done = 0
    for part in parts[:-1]:
        done += len(part.blob)
        assert part.remaining_bytes == len(data) - done


def test_leadership_goes_to_members_only(v3: V3Client) -> None:
    me = own_id(v3)
    v3.maintenance.MoveLeader(MoveLeaderRequest(targetID=me))
    assert refusal(v3.maintenance.MoveLeader, MoveLeaderRequest(targetID=12345)) == (
        "FAILED_PRECONDITION",
        "etcdserver: bad leader transferee",
    )
    assert v3.maintenance.Status(StatusRequest()).leader == me


# --- Cluster


def test_members(v3: V3Client) -> None:
    answer = v3.cluster.MemberList(MemberListRequest())
    (member,) = answer.members
    assert (member.ID, member.name, member.isLearner) == (own_id(v3), "default", False)
    assert len(member.peerURLs) == len(member.clientURLs) == 1
    assert answer.header.member_id == member.ID
    assert answer.header.revision == 0
    assert v3.cluster.MemberList(MemberListRequest(linearizable=True)).members == answer.members


def test_a_learner_comes_and_goes(v3: V3Client, space: bytes) -> None:
    def settle() -> None:
        """A change of the members that follows another one at once is lost by etcd: its Raft has not been
        told yet that the one before was applied. After a write it has.
        """
        put(v3, space, b"")

    url = "http://127.0.0.1:24999"
    added = v3.cluster.MemberAdd(MemberAddRequest(peerURLs=[url], isLearner=True))
    new = added.member
    try:
        assert (new.name, list(new.peerURLs), list(new.clientURLs), new.isLearner) == ("", [url], [], True)
        assert sorted(member.ID for member in added.members) == sorted([own_id(v3), new.ID])
        for request, expected in (
            (
                MemberAddRequest(peerURLs=[url, "http://127.0.0.1:24996"]),
                ("FAILED_PRECONDITION", "etcdserver: Peer URLs already exists"),
            ),
            (
                MemberAddRequest(peerURLs=[]),
                ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid"),
            ),
            (
                MemberAddRequest(peerURLs=["ftp://127.0.0.1:24998"]),
                ("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid"),
            ),
        ):
            assert refusal(v3.cluster.MemberAdd, request) == expected
        assert refusal(v3.cluster.MemberPromote, MemberPromoteRequest(ID=new.ID)) == (
            "FAILED_PRECONDITION",
            "etcdserver: can only promote a learner member which is in sync with leader",
        )
        assert refusal(v3.cluster.MemberPromote, MemberPromoteRequest(ID=own_id(v3))) == (
            "FAILED_PRECONDITION",
            "etcdserver: can only promote a learner member",
        )
        settle()
        moved = MemberUpdateRequest(ID=new.ID, peerURLs=["http://127.0.0.1:24997"])
        updated = v3.cluster.MemberUpdate(moved)
        assert {tuple(member.peerURLs) for member in updated.members if member.ID == new.ID} == {
            ("http://127.0.0.1:24997",)
        }
    finally:
        settle()
        removed = v3.cluster.MemberRemove(MemberRemoveRequest(ID=new.ID))
    assert [member.ID for member in removed.members] == [own_id(v3)]
    strangers: tuple[tuple[Callable[[Message], object], Message], ...] = (
        (v3.cluster.MemberRemove, MemberRemoveRequest(ID=new.ID)),
        (v3.cluster.MemberRemove, MemberRemoveRequest(ID=4711)),
        (v3.cluster.MemberUpdate, MemberUpdateRequest(ID=4711, peerURLs=[url])),
        (v3.cluster.MemberPromote, MemberPromoteRequest(ID=4711)),
    )
    for call, stranger in strangers:
        assert refusal(call, stranger) == ("NOT_FOUND", "etcdserver: member not found")
    put(v3, b"/still-alone")


# --- gRPC health


def test_the_health_service(v3: V3Client) -> None:
    answer = v3.health.Check(HealthCheckRequest())
    assert answer.status == HealthCheckResponse.SERVING
    assert refusal(v3.health.Check, HealthCheckRequest(service="etcdserverpb.KV")) == (
        "NOT_FOUND",
        "unknown service",
    )
    for name, status in (("", HealthCheckResponse.SERVING), ("nobody", HealthCheckResponse.SERVICE_UNKNOWN)):
        stream = v3.health.Watch(HealthCheckRequest(service=name))
        assert next(stream).status == status
