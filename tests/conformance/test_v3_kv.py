"""KV over gRPC, the same on Debian's etcd and on netstored: every option, every refusal to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    HashKVRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
)
from tests.support.patience import seconds
from tests.support.v3client import Refused, prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from tests.support.v3client import V3Client

COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
FUTURE = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")
EMPTY_KEY = ("INVALID_ARGUMENT", "etcdserver: key is not provided")
KEY_NOT_FOUND = ("INVALID_ARGUMENT", "etcdserver: key not found")
DUPLICATE = ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request")
TOO_MANY = ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
NO_LEASE = ("NOT_FOUND", "etcdserver: requested lease not found")

BEYOND = 1 << 40
"""A revision that no store here reaches."""


def refusal(call: Callable[[Message], object], request: Message) -> tuple[str, str]:
    """Code and text of the refusal that this call must get."""
    with pytest.raises(Refused) as caught:
        call(request)
    return caught.value.code, caught.value.text


def put(v3: V3Client, key: bytes, value: bytes = b"", **options: Any) -> int:
    """Put and return the revision."""
    answer = v3.kv.Put(PutRequest(key=key, value=value, **options))
    revision: int = answer.header.revision
    return revision


def keys(answer: Any) -> list[bytes]:
    return [kv.key for kv in answer.kvs]


def get(v3: V3Client, space: bytes, **options: Any) -> Any:
    """All pairs of the space."""
    return v3.kv.Range(RangeRequest(key=space, range_end=prefix_end(space), **options))


def put_op(key: bytes, value: bytes = b"", **options: Any) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value, **options))


def range_op(key: bytes, **options: Any) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **options))


def delete_op(key: bytes, **options: Any) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, **options))


def txn_op(**parts: Any) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(**parts))


# --- Put


def test_a_put_moves_the_revision_by_one_and_counts_versions(v3: V3Client, space: bytes) -> None:
    key = space + b"a"
    first = put(v3, key, b"one")
    assert put(v3, key, b"one") == first + 1, "the same value again is a change"
    answer = v3.kv.Range(RangeRequest(key=key))
    assert answer.header.cluster_id
    assert answer.header.member_id
    assert answer.header.raft_term >= 1
    (kv,) = answer.kvs
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.value) == (first, first + 1, 2, b"one")
    v3.kv.DeleteRange(DeleteRangeRequest(key=key))
    again = put(v3, key, b"")
    (kv,) = v3.kv.Range(RangeRequest(key=key)).kvs
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.value) == (again, again, 1, b"")


def test_a_put_shows_the_pair_before_it(v3: V3Client, space: bytes) -> None:
    key = space + b"a"
    assert not v3.kv.Put(PutRequest(key=key, value=b"1", prev_kv=True)).HasField("prev_kv")
    before = v3.kv.Put(PutRequest(key=key, value=b"2", prev_kv=True)).prev_kv
    assert (before.key, before.value, before.version) == (key, b"1", 1)
    assert not v3.kv.Put(PutRequest(key=key, value=b"3")).HasField("prev_kv")


def test_a_put_may_keep_the_value_or_the_lease(v3: V3Client, space: bytes) -> None:
    key = space + b"a"
    lease = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=90_000)).ID
    put(v3, key, b"kept", lease=lease)
    put(v3, key, ignore_value=True)
    (kv,) = v3.kv.Range(RangeRequest(key=key)).kvs
    assert (kv.value, kv.lease, kv.version) == (b"kept", 0, 2), "lease 0 detaches"
    put(v3, key, b"new", lease=lease)
    put(v3, key, b"newer", ignore_lease=True)
    (kv,) = v3.kv.Range(RangeRequest(key=key)).kvs
    assert (kv.value, kv.lease, kv.version) == (b"newer", lease, 4)
    put(v3, key, ignore_value=True, ignore_lease=True)
    (kv,) = v3.kv.Range(RangeRequest(key=key)).kvs
    assert (kv.value, kv.lease, kv.version) == (b"newer", lease, 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"key": b""}, EMPTY_KEY),
        (
            {"key": b"a", "value": b"x", "ignore_value": True},
            ("INVALID_ARGUMENT", "etcdserver: value is provided"),
        ),
        (
            {"key": b"a", "lease": 7, "ignore_lease": True},
            ("INVALID_ARGUMENT", "etcdserver: lease is provided"),
        ),
        ({"key": b"/none", "ignore_value": True}, KEY_NOT_FOUND),
        ({"key": b"/none", "ignore_lease": True}, KEY_NOT_FOUND),
        ({"key": b"a", "lease": 987_654_321}, NO_LEASE),
    ],
)
def test_a_put_that_is_refused_changes_nothing(
    v3: V3Client, space: bytes, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    before = get(v3, space).header.revision
    assert refusal(v3.kv.Put, PutRequest(**options)) == expected
    assert get(v3, space).header.revision == before


def test_a_request_may_not_be_larger_than_the_limit(v3: V3Client, space: bytes) -> None:
    put(v3, space + b"fits", bytes(1_500_000))
    large = PutRequest(key=space + b"large", value=bytes(1_572_864))
    assert refusal(v3.kv.Put, large) == ("INVALID_ARGUMENT", "etcdserver: request is too large")
    huge = PutRequest(key=space + b"huge", value=bytes(3 << 20))
    code, text = refusal(v3.kv.Put, huge)
    assert code == "RESOURCE_EXHAUSTED"
    assert "received message larger than max" in text
    assert keys(get(v3, space, keys_only=True)) == [space + b"fits"]
    v3.kv.DeleteRange(DeleteRangeRequest(key=space, range_end=prefix_end(space)))


def test_any_bytes_are_a_key_and_a_value(v3: V3Client, space: bytes) -> None:
    odd = [space + each for each in (b"\0", b"\0\0", b" ", b"\x7f", b"\xc3\x28", b"\xff", b"\xff\xff")]
    for key in reversed(odd):
        put(v3, key, key[::-1])
    answer = get(v3, space)
    assert keys(answer) == odd, "in plain order of bytes"
    assert [kv.value for kv in answer.kvs] == [key[::-1] for key in odd]


# --- Range


@pytest.fixture
def five(v3: V3Client, space: bytes) -> list[bytes]:
    """Keys a to e with values 5 to 1; b was put twice and c three times, last of all."""
    names = [space + bytes((letter,)) for letter in b"abcde"]
    for value, name in zip(b"54321", names, strict=True):
        put(v3, name, bytes((value,)))
    for name in (names[1], names[2], names[2]):
        put(v3, name, ignore_value=True)
    return names


def test_a_range_is_a_key_an_interval_or_the_rest(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    a, b, c, d, e = five
    assert keys(v3.kv.Range(RangeRequest(key=b))) == [b]
    assert keys(v3.kv.Range(RangeRequest(key=b, range_end=d))) == [b, c]
    rest = keys(v3.kv.Range(RangeRequest(key=d, range_end=b"\0", keys_only=True)))
    assert rest[:2] == [d, e]
    everything = v3.kv.Range(RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
    assert keys(everything) == sorted(keys(everything))
    assert everything.count == len(everything.kvs) >= 5
    for end in (b, a):
        empty = v3.kv.Range(RangeRequest(key=b, range_end=end))
        assert (empty.count, keys(empty), empty.more) == (0, [], False)
    missing = v3.kv.Range(RangeRequest(key=space + b"none"))
    assert (missing.count, keys(missing)) == (0, [])
    assert refusal(v3.kv.Range, RangeRequest(key=b"", range_end=b"\0")) == EMPTY_KEY


def test_a_limit_counts_what_is_left(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    first = get(v3, space, limit=2)
    assert (keys(first), first.more, first.count) == (five[:2], True, 5)
    second = v3.kv.Range(
        RangeRequest(
            key=five[1] + b"\0",
            range_end=prefix_end(space),
            limit=2,
            revision=first.header.revision,
        )
    )
    assert (keys(second), second.more, second.count) == (five[2:4], True, 3)
    last = v3.kv.Range(RangeRequest(key=five[3] + b"\0", range_end=prefix_end(space), limit=2))
    assert (keys(last), last.more, last.count) == (five[4:], False, 1)
    exact = get(v3, space, limit=5)
    assert (keys(exact), exact.more) == (five, False)
    assert keys(get(v3, space, limit=-1)) == five


def test_keys_only_and_count_only(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    bare = get(v3, space, keys_only=True, limit=3)
    assert [(kv.key, kv.value) for kv in bare.kvs] == [(key, b"") for key in five[:3]]
    assert [kv.version for kv in bare.kvs] == [1, 2, 3]
    assert (bare.more, bare.count) == (True, 5)
    counted = get(v3, space, count_only=True, limit=2)
    assert (keys(counted), counted.more, counted.count) == ([], False, 5)


def test_old_revisions_are_kept(v3: V3Client, space: bytes) -> None:
    key, other = space + b"a", space + b"b"
    first = put(v3, key, b"1")
    second = put(v3, other, b"2")
    deleted = v3.kv.DeleteRange(DeleteRangeRequest(key=key)).header.revision
    last = put(v3, key, b"3")
    for revision, expected in (
        (first - 1, []),
        (first, [(key, b"1")]),
        (second, [(key, b"1"), (other, b"2")]),
        (deleted, [(other, b"2")]),
        (last, [(key, b"3"), (other, b"2")]),
        (0, [(key, b"3"), (other, b"2")]),
        (-5, [(key, b"3"), (other, b"2")]),
    ):
        answer = get(v3, space, revision=revision)
        assert [(kv.key, kv.value) for kv in answer.kvs] == expected
        assert answer.header.revision >= last, "the header has the present revision"
    assert refusal(v3.kv.Range, RangeRequest(key=key, revision=BEYOND)) == FUTURE


NONE, ASCEND, DESCEND = RangeRequest.NONE, RangeRequest.ASCEND, RangeRequest.DESCEND
KEY, VERSION, CREATE, MOD, VALUE = (
    RangeRequest.KEY,
    RangeRequest.VERSION,
    RangeRequest.CREATE,
    RangeRequest.MOD,
    RangeRequest.VALUE,
)


@pytest.mark.parametrize(
    "case",
    [
        (NONE, KEY, "abcde", "ab"),
        (ASCEND, KEY, "abcde", "ab"),
        (DESCEND, KEY, "edcba", "ed"),
        (ASCEND, CREATE, "abcde", "ab"),
        (DESCEND, CREATE, "edcba", "ed"),
        (ASCEND, MOD, "adebc", "ad"),
        (DESCEND, MOD, "cbeda", "cb"),
        (ASCEND, VALUE, "edcba", "ed"),
        (DESCEND, VALUE, "abcde", "ab"),
        # Without an order the first pairs by key, one more than the limit, are what is sorted.
        (NONE, MOD, "adebc", "ab"),
        (NONE, VALUE, "edcba", "cb"),
    ],
)
def test_sorting(v3: V3Client, space: bytes, five: list[bytes], case: tuple[Any, Any, str, str]) -> None:
    order, target, expected, two = case
    sorting: dict[str, Any] = {"sort_order": order, "sort_target": target}
    assert b"".join(key[-1:] for key in keys(get(v3, space, **sorting))).decode() == expected
    cut = get(v3, space, limit=2, **sorting)
    assert b"".join(key[-1:] for key in keys(cut)).decode() == two
    assert (cut.more, cut.count) == (True, 5)


def test_sorting_by_version(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    top = get(v3, space, sort_order=DESCEND, sort_target=VERSION, limit=2)
    assert keys(top) == [five[2], five[1]]
    lowest = get(v3, space, sort_order=ASCEND, sort_target=VERSION)
    assert [kv.version for kv in lowest.kvs] == [1, 1, 1, 2, 3]


def test_bounds_on_revisions(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    made = {kv.key: kv for kv in get(v3, space).kvs}
    a, b, c, d, e = (made[key] for key in five)
    assert keys(get(v3, space, min_mod_revision=b.mod_revision)) == [b.key, c.key]
    assert keys(get(v3, space, max_mod_revision=d.mod_revision)) == [a.key, d.key]
    assert keys(get(v3, space, min_create_revision=c.create_revision)) == [c.key, d.key, e.key]
    both = get(v3, space, max_create_revision=d.create_revision, min_mod_revision=d.mod_revision, limit=2)
    assert keys(both) == [b.key, c.key]
    assert (both.more, both.count) == (True, 5), "more is about what passed the bounds, count is not"
    assert get(v3, space, max_mod_revision=a.mod_revision, limit=1).more is False


def test_a_serializable_read_answers_from_here(v3: V3Client, space: bytes) -> None:
    revision = put(v3, space, b"x")
    answer = v3.kv.Range(RangeRequest(key=space, serializable=True))
    assert answer.header.revision >= revision
    assert [kv.value for kv in answer.kvs] == [b"x"]


# --- DeleteRange


def test_a_range_is_deleted_in_one_revision(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    before = get(v3, space)
    gone = v3.kv.DeleteRange(DeleteRangeRequest(key=five[1], range_end=five[4], prev_kv=True))
    assert gone.deleted == 3
    assert gone.header.revision == before.header.revision + 1
    assert list(gone.prev_kvs) == list(before.kvs[1:4])
    assert keys(get(v3, space)) == [five[0], five[4]]
    quiet = v3.kv.DeleteRange(DeleteRangeRequest(key=five[0]))
    assert (quiet.deleted, list(quiet.prev_kvs)) == (1, [])
    nothing = v3.kv.DeleteRange(DeleteRangeRequest(key=five[0], prev_kv=True))
    assert (nothing.deleted, list(nothing.prev_kvs)) == (0, [])
    assert nothing.header.revision == quiet.header.revision, "nothing changed, no revision"
    empty = v3.kv.DeleteRange(DeleteRangeRequest(key=five[4], range_end=five[0]))
    assert empty.deleted == 0
    assert refusal(v3.kv.DeleteRange, DeleteRangeRequest(key=b"", range_end=b"\0")) == EMPTY_KEY


# --- Txn


def succeeds(v3: V3Client, *compares: Compare) -> bool:
    answer = v3.kv.Txn(TxnRequest(compare=compares))
    assert not answer.responses
    outcome: bool = answer.succeeded
    return outcome


EQUAL, GREATER, LESS, NOT_EQUAL = Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL


def test_compares_of_each_target(v3: V3Client, space: bytes) -> None:
    lease = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=90_000)).ID
    key = space + b"a"
    created = put(v3, key, b"m")
    put(v3, key, b"m", lease=lease)
    for target, name, smaller, own, larger in (
        (Compare.VERSION, "version", 1, 2, 3),
        (Compare.CREATE, "create_revision", created - 1, created, created + 1),
        (Compare.MOD, "mod_revision", created, created + 1, created + 2),
        (Compare.VALUE, "value", b"l", b"m", b"ma"),
        (Compare.LEASE, "lease", lease - 1, lease, lease + 1),
    ):
        table = {
            other: [
                succeeds(v3, Compare(key=key, target=target, result=result, **{name: other}))  # type: ignore[arg-type]  # fields by name
                for result in (EQUAL, GREATER, LESS, NOT_EQUAL)
            ]
            for other in (smaller, own, larger)
        }
        assert table == {
            smaller: [False, True, False, True],
            own: [True, False, False, False],
            larger: [False, False, True, True],
        }, name


def test_compares_with_a_missing_key(v3: V3Client, space: bytes) -> None:
    key = space + b"missing"
    for target in (Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.LEASE):
        assert succeeds(v3, Compare(key=key, target=target, result=EQUAL)), "nothing given counts as zero"
        assert not succeeds(v3, Compare(key=key, target=target, result=NOT_EQUAL))
        assert not succeeds(v3, Compare(key=key, target=target, result=GREATER))
    assert succeeds(v3, Compare(key=key, target=Compare.MOD, result=LESS, mod_revision=1))
    for result in (EQUAL, GREATER, LESS, NOT_EQUAL):
        assert not succeeds(v3, Compare(key=key, target=Compare.VALUE, result=result, value=b"x"))
    assert not succeeds(v3, Compare(key=key, target=Compare.VALUE, result=EQUAL, value=b""))


def test_a_compare_reads_only_the_field_of_its_target(v3: V3Client, space: bytes) -> None:
    put(v3, space, b"x")
    assert not succeeds(v3, Compare(key=space, target=Compare.VERSION, result=EQUAL, mod_revision=1))
    assert succeeds(v3, Compare(key=space, target=Compare.VERSION, result=GREATER, mod_revision=9))


def test_a_compare_over_a_range_must_hold_for_all(v3: V3Client, space: bytes, five: list[bytes]) -> None:
    end = prefix_end(space)
    assert succeeds(v3, Compare(key=space, range_end=end, target=Compare.VERSION, result=GREATER, version=0))
    assert not succeeds(
        v3, Compare(key=space, range_end=end, target=Compare.VERSION, result=EQUAL, version=1)
    )
    assert succeeds(v3, Compare(key=five[3], range_end=end, target=Compare.VERSION, result=EQUAL, version=1))
    nowhere = Compare(key=space + b"x", range_end=end, target=Compare.CREATE, result=EQUAL)
    assert succeeds(v3, nowhere), "an empty range is like a missing key"
    assert not succeeds(v3, Compare(key=space, range_end=end, target=Compare.CREATE, result=EQUAL))


def test_all_compares_must_hold(v3: V3Client, space: bytes) -> None:
    put(v3, space, b"x")
    yes = Compare(key=space, target=Compare.VERSION, result=EQUAL, version=1)
    no = Compare(key=space, target=Compare.VERSION, result=EQUAL, version=2)
    assert succeeds(v3)
    assert succeeds(v3, yes, yes)
    assert not succeeds(v3, yes, no)


def test_a_txn_runs_one_branch_in_order_at_one_revision(v3: V3Client, space: bytes) -> None:
    a, b = space + b"a", space + b"b"
    before = put(v3, a, b"0")
    answer = v3.kv.Txn(
        TxnRequest(
            success=[
                range_op(a),
                put_op(b, b"1"),
                range_op(space, range_end=prefix_end(space)),
                delete_op(a, prev_kv=True),
                range_op(a),
                delete_op(a),
                put_op(space + b"c", b"2", prev_kv=True),
            ],
            failure=[put_op(a, b"never")],
        )
    )
    assert answer.succeeded
    assert answer.header.revision == before + 1
    assert answer.header.member_id
    first, made, both, deleted, gone, again, last = answer.responses
    assert [kv.value for kv in first.response_range.kvs] == [b"0"]
    assert keys(both.response_range) == [a, b]
    assert both.response_range.count == 2
    assert deleted.response_delete_range.deleted == 1
    assert [kv.value for kv in deleted.response_delete_range.prev_kvs] == [b"0"]
    assert gone.response_range.count == 0
    assert again.response_delete_range.deleted == 0
    assert not last.response_put.HasField("prev_kv")
    revisions = [
        first.response_range.header.revision,
        made.response_put.header.revision,
        both.response_range.header.revision,
        deleted.response_delete_range.header.revision,
        last.response_put.header.revision,
    ]
    assert revisions == [before, before + 1, before + 1, before + 1, before + 1]
    assert not made.response_put.header.member_id, "inner headers have the revision alone"
    assert {kv.mod_revision for kv in get(v3, space).kvs} == {before + 1}


def test_the_failure_branch(v3: V3Client, space: bytes) -> None:
    revision = put(v3, space, b"x")
    guard = Compare(key=space, target=Compare.MOD, result=EQUAL, mod_revision=revision - 1)
    answer = v3.kv.Txn(TxnRequest(compare=[guard], success=[put_op(space, b"y")], failure=[range_op(space)]))
    assert not answer.succeeded
    assert answer.header.revision == revision
    assert [kv.value for kv in answer.responses[0].response_range.kvs] == [b"x"]
    empty = v3.kv.Txn(TxnRequest(compare=[guard], success=[put_op(space, b"y")]))
    assert (empty.succeeded, len(empty.responses)) == (False, 0)
    assert v3.kv.Txn(TxnRequest()).succeeded


def test_a_txn_inside_a_txn(v3: V3Client, space: bytes) -> None:
    a, b = space + b"a", space + b"b"
    fresh = Compare(key=a, target=Compare.VERSION, result=EQUAL, version=0)
    answer = v3.kv.Txn(
        TxnRequest(
            success=[
                put_op(a, b"1"),
                txn_op(compare=[fresh], success=[put_op(b, b"2"), range_op(a)], failure=[put_op(b, b"3")]),
            ]
        )
    )
    inner = answer.responses[1].response_txn
    assert inner.succeeded, "compares are decided by the state before the transaction"
    assert [kv.value for kv in inner.responses[1].response_range.kvs] == [b"1"]
    assert inner.HasField("header")
    assert inner.header.revision == 0
    assert [(kv.key, kv.value) for kv in get(v3, space).kvs] == [(a, b"1"), (b, b"2")]
    reading = v3.kv.Txn(TxnRequest(success=[txn_op(success=[range_op(a)])]))
    assert [kv.value for kv in reading.responses[0].response_txn.responses[0].response_range.kvs] == [b"1"]
    assert reading.header.revision == answer.header.revision


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"compare": [Compare(key=b"")]}, EMPTY_KEY),
        ({"success": [range_op(b"")]}, EMPTY_KEY),
        ({"failure": [put_op(b"")]}, EMPTY_KEY),
        ({"success": [delete_op(b"")]}, EMPTY_KEY),
        ({"success": [txn_op(success=[put_op(b"")])]}, EMPTY_KEY),
        ({"success": [RequestOp()]}, KEY_NOT_FOUND),
        (
            {"success": [put_op(b"a", b"x", ignore_value=True)]},
            ("INVALID_ARGUMENT", "etcdserver: value is provided"),
        ),
        (
            {"failure": [put_op(b"a", lease=5, ignore_lease=True)]},
            ("INVALID_ARGUMENT", "etcdserver: lease is provided"),
        ),
        ({"success": [put_op(b"a"), put_op(b"a")]}, DUPLICATE),
        ({"failure": [put_op(b"a"), put_op(b"a")]}, DUPLICATE),
        ({"success": [delete_op(b"a"), put_op(b"a")]}, DUPLICATE),
        ({"success": [put_op(b"b"), delete_op(b"a", range_end=b"c")]}, DUPLICATE),
        ({"success": [put_op(b"a"), txn_op(success=[put_op(b"a")])]}, DUPLICATE),
        ({"success": [txn_op(failure=[put_op(b"a")]), put_op(b"a")]}, DUPLICATE),
        ({"success": [txn_op(success=[put_op(b"a")]), txn_op(failure=[put_op(b"a")])]}, DUPLICATE),
        ({"success": [delete_op(b"a"), txn_op(success=[put_op(b"a")])]}, DUPLICATE),
        ({"success": [put_op(b"a"), txn_op(success=[delete_op(b"a")])]}, DUPLICATE),
        ({"success": [range_op(b"a")] * 129}, TOO_MANY),
        ({"compare": [Compare(key=b"a")] * 129}, TOO_MANY),
        ({"success": [txn_op(success=[range_op(b"a")] * 128)]}, TOO_MANY),
        ({"success": [put_op(b"/none", ignore_value=True)]}, KEY_NOT_FOUND),
        ({"success": [put_op(b"/none", ignore_lease=True)]}, KEY_NOT_FOUND),
        ({"success": [put_op(b"a", lease=987_654_321)]}, NO_LEASE),
        ({"success": [put_op(b"a"), range_op(b"a", revision=BEYOND)]}, FUTURE),
        ({"success": [range_op(b"a", revision=BEYOND)]}, FUTURE),
        ({"success": [txn_op(success=[range_op(b"a", revision=BEYOND)])]}, FUTURE),
    ],
)
def test_a_txn_that_is_refused_changes_nothing(
    v3: V3Client, space: bytes, parts: dict[str, Any], expected: tuple[str, str]
) -> None:
    before = get(v3, space).header.revision
    request = TxnRequest(**parts)
    assert refusal(v3.kv.Txn, request) == expected
    assert get(v3, space).header.revision == before


@pytest.mark.parametrize(
    "parts",
    [
        {"success": [range_op(b"a")] * 128, "failure": [range_op(b"a")] * 128},
        {"success": [txn_op(success=[range_op(b"a")] * 127)]},
        {"success": [delete_op(b"/none"), delete_op(b"/none", range_end=b"/nonf")]},
        {"success": [txn_op(success=[put_op(b"/p")], failure=[put_op(b"/p")])]},
        {"success": [put_op(b"/p")], "failure": [put_op(b"/p"), delete_op(b"/q")]},
        {"success": [delete_op(b"/a", range_end=b"/a"), put_op(b"/p")]},
        # An open end is not looked into.
        {"success": [delete_op(b"~a", range_end=b"\0"), put_op(b"~b")]},
        {"success": [put_op(b"~b"), delete_op(b"~a", range_end=b"\0")]},
        {"failure": [put_op(b"/none", ignore_value=True), put_op(b"/n", lease=987_654_321)]},
        {"failure": [range_op(b"a", revision=BEYOND)]},
    ],
)
def test_a_txn_that_is_allowed(v3: V3Client, parts: dict[str, Any]) -> None:
    assert v3.kv.Txn(TxnRequest(**parts)).succeeded


def test_a_txn_may_read_the_past(v3: V3Client, space: bytes) -> None:
    first = put(v3, space, b"1")
    put(v3, space, b"2")
    answer = v3.kv.Txn(TxnRequest(success=[put_op(space, b"3"), range_op(space, revision=first)]))
    assert [kv.value for kv in answer.responses[1].response_range.kvs] == [b"1"]
    assert answer.responses[1].response_range.header.revision == answer.header.revision


# --- Compact


def test_compaction_cuts_off_the_past(v3: V3Client, space: bytes) -> None:
    key, other = space + b"a", space + b"b"
    first = put(v3, key, b"1")
    put(v3, other, b"x")
    second = put(v3, key, b"2")
    deleted = v3.kv.DeleteRange(DeleteRangeRequest(key=other)).header.revision
    last = put(v3, key, b"3")
    answer = v3.kv.Compact(CompactionRequest(revision=deleted, physical=True))
    assert answer.header.revision == last, "compaction takes no revision"
    for revision in (first, second):
        assert refusal(v3.kv.Range, RangeRequest(key=key, revision=revision)) == COMPACTED
    at = get(v3, space, revision=deleted)
    assert [(kv.key, kv.value, kv.create_revision, kv.version) for kv in at.kvs] == [(key, b"2", first, 2)]
    assert [kv.value for kv in get(v3, space).kvs] == [b"3"]
    for revision in (first, deleted, 0, -1):
        assert refusal(v3.kv.Compact, CompactionRequest(revision=revision)) == COMPACTED
    assert refusal(v3.kv.Compact, CompactionRequest(revision=BEYOND)) == FUTURE
    assert refusal(v3.maintenance.HashKV, HashKVRequest(revision=first)) == COMPACTED
    past = TxnRequest(success=[put_op(space), range_op(key, revision=first)])
    assert refusal(v3.kv.Txn, past) == COMPACTED
    assert get(v3, space).header.revision == last
    v3.kv.Compact(CompactionRequest(revision=last))
    assert [kv.value for kv in get(v3, space, revision=last).kvs] == [b"3"]


# --- what every method shares


def test_methods_and_services_that_are_not_there(v3: V3Client) -> None:
    def call(path: str) -> tuple[str, str]:
        method = v3.channel.unary_unary(path, bytes, bytes)
        return refusal(lambda _: answer(method), RangeRequest())

    def answer(method: Any) -> object:
        import grpc  # noqa: PLC0415 - the one test below the stubs

        try:
            return method(b"", timeout=seconds(20))
        except grpc.RpcError as error:
            raise Refused(error) from None

    assert call("/etcdserverpb.KV/Nothing") == (
        "UNIMPLEMENTED",
        "unknown method Nothing for service etcdserverpb.KV",
    )
    assert call("/no.Such/Thing") == ("UNIMPLEMENTED", "unknown service no.Such")


def test_a_client_that_prefers_streamed_ranges_falls_back(v3: V3Client) -> None:
    """kube-apiserver from 1.37 on asks for KV.RangeStream first: the refusal ends the call alone, and the
    connection serves the Range that follows. An etcd before 3.7 answers alike.
    """
    import grpc  # noqa: PLC0415 - as above

    put(v3, b"/registry/a", b"1")
    stream = v3.channel.unary_stream("/etcdserverpb.KV/RangeStream", bytes, bytes)
    request = RangeRequest(key=b"/registry/", range_end=b"/registry0").SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        list(stream(request, timeout=seconds(20)))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == "unknown method RangeStream for service etcdserverpb.KV"
    range_ = v3.channel.unary_unary("/etcdserverpb.KV/Range", bytes, RangeResponse.FromString)
    assert [kv.value for kv in range_(request, timeout=seconds(20)).kvs] == [b"1"]
