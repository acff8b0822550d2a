"""What the KV service decides itself: sizes, which reads wait, physical compaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore import codes
from netstore.errors import timed_out, too_many
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3.store import V3Store
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.types import Revision


@pytest.fixture
def served() -> Served:
    return Served()


def test_a_request_is_measured_with_its_envelope(served: Served) -> None:
    def put(size: int) -> tuple[int | None, str]:
        call = served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k", value=bytes(size)))
        return call.status, call.text

    too_large = (codes.INVALID_ARGUMENT, "etcdserver: request is too large")
    assert put(1_572_864 - 100)[0] == codes.OK
    before = served.member.proposed
    assert put(1_572_864) == too_large
    assert put(1_572_864 - 10) == too_large
    op = pb.RequestOp(request_put=pb.PutRequest(key=b"k", value=bytes(800_000)))
    call = served.call("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[op], failure=[op]))
    assert (call.status, call.text) == too_large
    assert served.member.proposed == before


def test_which_transactions_enter_the_log(served: Served) -> None:
    read = pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))
    write = pb.RequestOp(request_put=pb.PutRequest(key=b"k"))
    before = served.member.proposed
    for txn, proposals in (
        (pb.TxnRequest(success=[read]), 0),
        (pb.TxnRequest(compare=[pb.Compare(key=b"k")]), 0),
        (pb.TxnRequest(success=[read], failure=[write]), 1),
        (pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(success=[read]))]), 1),
    ):
        assert served.call("/etcdserverpb.KV/Txn", txn).status == codes.OK
        assert served.member.proposed - before == proposals
        before = served.member.proposed


def test_a_transaction_waits_unless_all_its_reads_are_local(served: Served) -> None:
    served.member.unreadable = timed_out()
    local = pb.RequestOp(request_range=pb.RangeRequest(key=b"k", serializable=True))
    strict = pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))

    def status(*ops: pb.RequestOp) -> int | None:
        return served.call("/etcdserverpb.KV/Txn", pb.TxnRequest(success=ops)).status

    assert status(local, local) == codes.OK
    assert status(local, strict) == codes.UNAVAILABLE
    assert status() == codes.UNAVAILABLE


def test_a_physical_compaction_is_answered_when_it_is_over(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Callable[[Fault | None], None]] = []

    def when_swept(_: V3Store, revision: Revision, done: Callable[[Fault | None], None]) -> None:
        assert revision >= 2
        waiting.append(done)

    monkeypatch.setattr(V3Store, "when_swept", when_swept)
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k"))
    call = served.call("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=2, physical=True))
    assert call.messages == []
    waiting.pop()(None)
    assert pb.CompactionResponse.FromString(call.messages[0]).header.revision == 2
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k"))
    call = served.call("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=3, physical=True))
    waiting.pop()(too_many())
    assert call.status == codes.RESOURCE_EXHAUSTED


def test_each_option_of_a_put_means_something(served: Served) -> None:
    def put(**fields: object) -> pb.PutResponse:
        call = served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k", **fields))  # type: ignore[arg-type]
        assert call.status == codes.OK, call.text
        return pb.PutResponse.FromString(call.messages[0])

    served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=5, TTL=100))
    put(value=b"1", lease=5)
    assert put(value=b"2", ignore_lease=True, prev_kv=True).prev_kv.value == b"1"
    assert put(ignore_value=True, prev_kv=True).prev_kv.lease == 5
    last = put(prev_kv=True).prev_kv
    assert (last.value, last.lease, last.version) == (b"2", 0, 3)
