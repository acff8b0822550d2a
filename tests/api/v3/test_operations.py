"""What the gate is told of requests of the v3 API."""

from __future__ import annotations

import pytest

from netstore.api.gate import Access, Kind, Operation
from netstore.api.v3 import messages, operations, transactions
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3.commands import Txn
from tests.support.profiled import profiled

PUT = pb.PutRequest(key=b"p", value=b"v", lease=7, prev_kv=True)
RANGE = pb.RangeRequest(key=b"r", range_end=b"s")
DELETE = pb.DeleteRangeRequest(key=b"d", range_end=b"\0", prev_kv=True)


def decoded(request: pb.TxnRequest) -> Txn:
    command = transactions.read_txn(request)
    assert isinstance(command, Txn)
    return command


def test_a_put_writes_and_may_read_and_use_a_lease() -> None:
    plain = messages.parse_put(pb.PutRequest(key=b"k", value=b"v").SerializeToString())
    assert operations.put(plain).accesses == (Access(Kind.WRITE, b"k"),)
    whole = messages.parse_put(PUT.SerializeToString())
    assert operations.put(whole).accesses == (
        Access(Kind.WRITE, b"p"),
        Access(Kind.READ, b"p"),
        Access(Kind.LEASE, lease=7),
    )
    assert operations.put(whole).may_write


def test_ranges_are_intervals() -> None:
    assert operations.range_(RANGE).accesses == (Access(Kind.READ, b"r", b"s"),)
    assert not operations.range_(RANGE).may_write
    assert operations.delete_range(DELETE).accesses == (
        Access(Kind.DELETE, b"d", b"\0"),
        Access(Kind.READ, b"d", b"\0"),
    )
    assert operations.watch(pb.WatchCreateRequest()).accesses == (Access(Kind.WATCH, b"\0"),)
    assert operations.watch(pb.WatchCreateRequest(key=b"w", range_end=b"x")).accesses == (
        Access(Kind.WATCH, b"w", b"x"),
    )


def test_a_transaction_is_all_of_its_compares_and_branches_at_any_depth() -> None:
    inner = pb.TxnRequest(
        compare=[pb.Compare(key=b"c2", range_end=b"c3")],
        failure=[pb.RequestOp(request_delete_range=DELETE)],
    )
    request = pb.TxnRequest(
        compare=[pb.Compare(key=b"c")],
        success=[pb.RequestOp(request_put=PUT), pb.RequestOp(request_txn=inner)],
        failure=[pb.RequestOp(request_range=RANGE)],
    )
    made = operations.txn(decoded(request))
    assert made.accesses == (
        Access(Kind.READ, b"c"),
        Access(Kind.WRITE, b"p"),
        Access(Kind.READ, b"p"),
        Access(Kind.LEASE, lease=7),
        Access(Kind.READ, b"c2", b"c3"),
        Access(Kind.DELETE, b"d", b"\0"),
        Access(Kind.READ, b"d", b"\0"),
        Access(Kind.READ, b"r", b"s"),
    )
    assert made.may_write
    assert not operations.txn(decoded(pb.TxnRequest(failure=[pb.RequestOp(request_range=RANGE)]))).may_write


@pytest.mark.parametrize(
    ("made", "lease", "changes"),
    [
        (operations.lease_grant(pb.LeaseGrantRequest(TTL=9)), 0, True),
        (operations.lease_grant(pb.LeaseGrantRequest(ID=4, TTL=9)), 4, True),
        (operations.lease_time_to_live(pb.LeaseTimeToLiveRequest(ID=4)), 4, False),
        (operations.lease_keep_alive(4), 4, True),
        (operations.lease_leases(pb.LeaseLeasesRequest()), 0, False),
    ],
    ids=lambda value: value.name.decode() if isinstance(value, Operation) else "",
)
def test_leases(made: Operation, lease: int, changes: bool) -> None:
    assert made.accesses == (Access(Kind.LEASE, lease=lease),)
    assert made.may_write is changes


def test_the_keys_of_a_lease_are_accessed_where_they_are_listed_or_deleted() -> None:
    own = Access(Kind.LEASE, lease=4)
    listed = operations.lease_time_to_live(pb.LeaseTimeToLiveRequest(ID=4, keys=True))
    assert (listed.accesses, listed.may_write) == ((own, Access(Kind.READ, lease=4)), False)
    revoked = operations.lease_revoke(pb.LeaseRevokeRequest(ID=4))
    assert (revoked.accesses, revoked.may_write) == ((own, Access(Kind.DELETE, lease=4)), True)


def test_the_cost_of_a_transaction_does_not_grow_with_depth() -> None:
    def nested(depth: int) -> pb.TxnRequest:
        request = pb.TxnRequest(success=[pb.RequestOp(request_range=RANGE)] * 100)
        for _ in range(depth):
            request = pb.TxnRequest(success=[pb.RequestOp(request_txn=request)])
        return request

    def calls(request: pb.TxnRequest) -> int:
        command = decoded(request)
        with profiled() as counted:
            assert len(operations.txn(command).accesses) == 100
        return counted.total()

    assert calls(nested(40)) - calls(nested(0)) <= 40 * 10


def test_alarms_are_listed_or_changed() -> None:
    assert not operations.alarm(pb.AlarmRequest()).may_write
    assert operations.alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE)).may_write


def test_each_method_of_the_api_has_its_name_here() -> None:
    declared = {
        b"/etcdserverpb.%b/%b" % (service.encode(), method.name.encode())
        for service, each in pb.DESCRIPTOR.services_by_name.items()
        for method in each.methods
    }
    named = {value for name, value in vars(operations).items() if name.isupper() and isinstance(value, bytes)}
    assert {name for name in named if name.startswith(b"/etcdserverpb.") and name[-1:] != b"/"} == declared
