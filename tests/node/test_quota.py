"""The quota: what would grow the store too far is refused, and the cluster is told once."""

from __future__ import annotations

import dataclasses

from netstore import codes
from netstore.node.quota import DEFAULT_BYTES, Quota
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3.commands import NOSPACE
from tests.support.v3member import OPTIONS, ReadableMember, Served

REFUSED = (codes.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")


def served_with(quota: int) -> Served:
    return Served(dataclasses.replace(OPTIONS, quota_bytes=quota))


def put(served: Served, key: bytes, size: int) -> tuple[int | None, str]:
    call = served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=key, value=bytes(size)))
    return call.status, call.text


def test_the_alarm_is_raised_and_stays() -> None:
    served = served_with(50_000)
    machine = served.member.machine
    assert put(served, b"a", 30_000)[0] == codes.OK
    assert put(served, b"b", 30_000) == REFUSED
    assert machine.alarms.active == [(served.member.id, NOSPACE)]
    assert put(served, b"c", 1) == REFUSED, "until somebody clears it"
    grant = served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60))
    assert (grant.status, grant.text) == REFUSED
    deleted = served.call("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest(key=b"a"))
    assert deleted.status == codes.OK
    revision = machine.mvcc.revision
    assert served.call("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=revision)).status == codes.OK
    assert machine.mvcc.size < 1_000, "compaction gives the room back"
    off = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=served.member.id, alarm=pb.NOSPACE)
    served.call("/etcdserverpb.Maintenance/Alarm", off)
    assert put(served, b"c", 30_000)[0] == codes.OK


def test_a_transaction_costs_its_dearer_branch() -> None:
    served = served_with(50_000)
    assert put(served, b"a", 30_000)[0] == codes.OK
    large = pb.RequestOp(request_put=pb.PutRequest(key=b"b", value=bytes(30_000)))
    read = pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))
    call = served.call("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[read], failure=[large]))
    assert (call.status, call.text) == REFUSED


def test_no_quota_and_the_default() -> None:
    served = served_with(-1)
    assert put(served, b"a", 1_000_000)[0] == codes.OK
    assert Quota(ReadableMember(), 0).limit == DEFAULT_BYTES
    status = served_with(0).call("/etcdserverpb.Maintenance/Status", pb.StatusRequest())
    assert pb.StatusResponse.FromString(status.messages[0]).dbSizeQuota == DEFAULT_BYTES
