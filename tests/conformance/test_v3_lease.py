"""Leases over gRPC, the same on Debian's etcd and on netstored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from netstore.proto.kv_pb2 import Event
from netstore.proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseLeasesRequest,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
)
from tests.support.patience import seconds
from tests.support.v3client import Refused, prefix_end

if TYPE_CHECKING:
    from tests.support.v3client import V3Client

NOT_FOUND = ("NOT_FOUND", "etcdserver: requested lease not found")


def grant(v3: V3Client, ttl: int = 90_000, lease: int = 0) -> int:
    answer = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=ttl, ID=lease))
    assert answer.error == ""
    number: int = answer.ID
    return number


def attached(v3: V3Client, lease: int) -> list[bytes]:
    return sorted(v3.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=lease, keys=True)).keys)


def test_a_grant_chooses_an_id_or_takes_the_given(v3: V3Client) -> None:
    before = v3.kv.Range(RangeRequest(key=b"x")).header.revision
    answer = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=100))
    assert answer.ID > 0
    assert answer.TTL == 100
    assert answer.header.revision == before, "a lease takes no revision"
    assert answer.header.member_id
    assert grant(v3) != answer.ID
    assert grant(v3, lease=-123_456) == -123_456
    with pytest.raises(Refused) as caught:
        grant(v3, lease=-123_456)
    assert (caught.value.code, caught.value.text) == (
        "FAILED_PRECONDITION",
        "etcdserver: lease already exists",
    )
    v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=-123_456))


def test_the_bounds_of_a_ttl(v3: V3Client) -> None:
    for asked in (0, -5, 1):
        answer = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=asked))
        assert answer.TTL == 2, "one and a half election timeouts, rounded up"
    assert v3.lease.LeaseGrant(LeaseGrantRequest(TTL=9_000_000_000)).TTL == 9_000_000_000
    with pytest.raises(Refused) as caught:
        grant(v3, 9_000_000_001)
    assert (caught.value.code, caught.value.text) == ("OUT_OF_RANGE", "etcdserver: too large lease TTL")


def test_what_is_left_of_a_lease(v3: V3Client, space: bytes) -> None:
    lease = grant(v3, 600)
    answer = v3.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=lease))
    assert (answer.ID, answer.grantedTTL) == (lease, 600)
    assert 590 <= answer.TTL <= 600
    assert not answer.keys
    v3.kv.Put(PutRequest(key=space, lease=lease))
    assert attached(v3, lease) == [space]
    for unknown in (0, 987_654_321):
        answer = v3.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=unknown, keys=True))
        assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (unknown, -1, 0, [])
        assert answer.header.revision


def test_a_key_has_one_lease_at_most(v3: V3Client, space: bytes) -> None:
    one, two = grant(v3), grant(v3)
    a, b = space + b"a", space + b"b"
    v3.kv.Put(PutRequest(key=a, lease=one))
    v3.kv.Put(PutRequest(key=b, lease=one))
    assert attached(v3, one) == [a, b]
    v3.kv.Put(PutRequest(key=a, lease=two))
    assert (attached(v3, one), attached(v3, two)) == ([b], [a])
    v3.kv.Put(PutRequest(key=b))
    assert attached(v3, one) == []
    v3.kv.DeleteRange(DeleteRangeRequest(key=a))
    assert attached(v3, two) == []
    v3.kv.Txn(TxnRequest(success=[RequestOp(request_put=PutRequest(key=a, lease=two))]))
    assert attached(v3, two) == [a]
    guard = Compare(key=a, target=Compare.LEASE, result=Compare.EQUAL, lease=two)
    assert v3.kv.Txn(TxnRequest(compare=[guard])).succeeded


def test_revoking_deletes_the_keys_at_once(v3: V3Client, space: bytes) -> None:
    lease = grant(v3)
    for name in (b"a", b"b"):
        v3.kv.Put(PutRequest(key=space + name, lease=lease))
    before = v3.kv.Put(PutRequest(key=space + b"free")).header.revision
    answer = v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=lease))
    assert answer.header.revision == before + 1
    left = v3.kv.Range(RangeRequest(key=space, range_end=prefix_end(space)))
    assert [kv.key for kv in left.kvs] == [space + b"free"]
    with pytest.raises(Refused) as caught:
        v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=lease))
    assert (caught.value.code, caught.value.text) == NOT_FOUND
    bare = grant(v3)
    assert v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=bare)).header.revision == before + 1


def test_the_list_of_leases(v3: V3Client) -> None:
    some = {grant(v3) for _ in range(3)}
    answer = v3.lease.LeaseLeases(LeaseLeasesRequest())
    assert some <= {each.ID for each in answer.leases}
    assert answer.header.revision
    gone = some.pop()
    v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=gone))
    listed = {each.ID for each in v3.lease.LeaseLeases(LeaseLeasesRequest()).leases}
    assert gone not in listed
    assert some <= listed


def test_keepalives_are_answered_in_order(v3: V3Client) -> None:
    one, two = grant(v3, 300), grant(v3, 200)
    with v3.lease.LeaseKeepAlive() as stream:
        for lease in (one, 987_654_321, two, one):
            stream.send(LeaseKeepAliveRequest(ID=lease))
        answers = [stream.next() for _ in range(4)]
        assert [(answer.ID, answer.TTL) for answer in answers] == [
            (one, 300),
            (987_654_321, 0),
            (two, 200),
            (one, 300),
        ]
        assert all(answer.header.member_id for answer in answers)
        v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=one))
        stream.send(LeaseKeepAliveRequest(ID=one))
        assert stream.next().TTL == 0, "unknown is no error, the stream lives"
        stream.half_close()
        with pytest.raises(EOFError):
            stream.next()


def test_a_lease_that_is_not_kept_alive_takes_its_keys_along(v3: V3Client, space: bytes) -> None:
    life = math.ceil(seconds(1.5))
    dying, kept = grant(v3, life), grant(v3, 2 * life)
    for name, lease in ((b"b", dying), (b"a", dying), (b"kept", kept)):
        v3.kv.Put(PutRequest(key=space + name, lease=lease))
    with v3.watch.Watch() as watch, v3.lease.LeaseKeepAlive() as keepalive:
        wanted = WatchCreateRequest(key=space, range_end=prefix_end(space), prev_kv=True)
        watch.send(WatchRequest(create_request=wanted))
        assert watch.next().created
        answer = None
        while answer is None:
            keepalive.send(LeaseKeepAliveRequest(ID=kept))
            assert 2 * life == keepalive.next().TTL
            answer = watch.next_if_any(0.1)
    assert [(event.type, event.kv.key) for event in answer.events] == [
        (Event.DELETE, space + b"a"),
        (Event.DELETE, space + b"b"),
    ]
    assert {event.prev_kv.lease for event in answer.events} == {dying}
    assert len({event.kv.mod_revision for event in answer.events}) == 1
    assert v3.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=dying)).TTL == -1
    left = v3.kv.Range(RangeRequest(key=space, range_end=prefix_end(space)))
    assert [kv.key for kv in left.kvs] == [space + b"kept"]
