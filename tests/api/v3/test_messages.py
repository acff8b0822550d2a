"""Spliced answers are, byte for byte, what protobuf writes; requests come out of it whole."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.api.v3 import messages, transactions
from netstore.api.v3.messages import Headers, WatchAnswers
from netstore.api.v3.status import RefusedError
from netstore.errors import Fault
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb
from netstore.proto.wire import framed, parse
from netstore.state.v3 import commands as v3
from netstore.state.v3 import txn
from netstore.state.v3.commands import Deleted, Found, Later, PutDone, TxnDone
from netstore.types import Revision, Term
from tests.support.local_member import LocalMember
from tests.support.profiled import profiled

counts = st.integers(0, 2**63 - 1)
revisions = counts.map(Revision)
pairs = st.builds(
    lambda key, value, lease, version: kv_pb2.KeyValue(
        key=key, value=value, lease=lease, version=version, create_revision=3, mod_revision=300
    ).SerializeToString(),
    st.binary(min_size=1, max_size=20),
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
    counts,
)
puts = st.tuples(revisions, st.none() | pairs).map(lambda fields: PutDone(*fields))
found = st.tuples(revisions, st.lists(pairs, max_size=5), counts, st.booleans()).map(
    lambda fields: Found(*fields)
)
deleted = st.tuples(revisions, counts, st.lists(pairs, max_size=5)).map(lambda fields: Deleted(*fields))
done = st.recursive(
    puts | found | deleted,
    lambda inner: st.tuples(revisions, st.booleans(), st.lists(inner, max_size=4)).map(
        lambda fields: TxnDone(*fields)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def headers() -> Headers:
    return Headers(LocalMember())


def header(member: LocalMember, revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(
        cluster_id=member.cluster_id, member_id=member.id, revision=revision, raft_term=member.term
    )


def kv(data: bytes) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue.FromString(data)


def as_protobuf(outcome: PutDone | Found | Deleted | Later | TxnDone) -> Any:
    """The answer as protobuf has it, with the header of an operation inside a transaction."""
    assert not isinstance(outcome, Later)
    inner = pb.ResponseHeader(revision=outcome.revision)
    if isinstance(outcome, PutDone):
        assert not isinstance(outcome.prev_kv, Later)
        prev = None if outcome.prev_kv is None else kv(outcome.prev_kv)
        return pb.PutResponse(header=inner, prev_kv=prev)
    if isinstance(outcome, Found):
        kvs = list(map(kv, outcome.kvs))
        return pb.RangeResponse(header=inner, kvs=kvs, more=outcome.more, count=outcome.count)
    if isinstance(outcome, Deleted):
        assert not isinstance(outcome.prev_kvs, Later)
        prev_kvs = list(map(kv, outcome.prev_kvs))
        return pb.DeleteRangeResponse(header=inner, deleted=outcome.deleted, prev_kvs=prev_kvs)
    responses = []
    for each in outcome.responses:
        name = {
            PutDone: "response_put",
            Found: "response_range",
            Deleted: "response_delete_range",
            TxnDone: "response_txn",
        }[type(each)]
        responses.append(pb.ResponseOp(**{name: as_protobuf(each)}))
    return pb.TxnResponse(header=inner, succeeded=outcome.succeeded, responses=responses)


@given(st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_headers(revision: int, term: int) -> None:
    member = LocalMember()
    member.term = Term(term)
    headers = Headers(member)
    expected = pb.CompactionResponse(header=header(member, revision)).SerializeToString()
    assert headers(revision) == expected
    assert headers(revision) == expected, "remembered"
    member.term = Term(term - 1)
    assert headers(revision) == pb.CompactionResponse(
        header=header(member, revision)
    ).SerializeToString() or (
        term == 1  # a term of zero is written out, which means the same
    )


@given(done)
def test_answers(outcome: PutDone | Found | Deleted | TxnDone) -> None:
    member = LocalMember()
    write: Any = {
        PutDone: messages.write_put,
        Found: messages.write_found,
        Deleted: messages.write_deleted,
        TxnDone: messages.write_txn,
    }[type(outcome)]
    expected = as_protobuf(outcome)
    expected.header.CopyFrom(header(member, 7))
    assert write(Headers(member)(7), outcome) == expected.SerializeToString()


@given(st.integers(1, 2**63 - 1).map(Revision), st.booleans(), st.integers(0, 5))
def test_answers_to_transactions_of_puts_alone(revision: Revision, succeeded: bool, puts: int) -> None:
    outcome = TxnDone(revision, succeeded, [PutDone(revision)] * puts)
    header = Headers(LocalMember())(revision)
    assert messages.write_puts(header, outcome) == messages.write_txn(header, outcome)


def test_a_transaction_is_not_copied_at_each_level_it_lies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = [0]

    def frame(tag: bytes, message: bytes) -> bytes:
        copied[0] += len(message)
        return framed(tag, message)

    monkeypatch.setattr(messages, "framed", frame)
    outcome: Found | TxnDone = Found(Revision(0), [bytes(1_000)] * 100, 100, False)
    for _ in range(transactions.MAX_DEPTH):
        outcome = TxnDone(Revision(0), True, [outcome])
    answer = messages.write_answer(b"", outcome)
    assert len(answer) > 100_000
    assert copied[0] < 2 * len(answer)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**10))
def test_renewals(lease: int, ttl: int) -> None:
    member = LocalMember()
    answers = messages.KeptAlive(Headers(member))
    for revision in (5, 5, 6):
        expected = pb.LeaseKeepAliveResponse(header=header(member, revision), ID=lease, TTL=ttl)
        assert answers.write(revision, lease, ttl) == expected.SerializeToString()
        assert answers.write(revision, 1, ttl) != answers.write(revision, 2, ttl)


@given(
    watch_id=st.integers(-1, 2**63 - 1),
    revision=st.integers(1, 2**63 - 1),
    events=st.lists(pairs, max_size=4),
    flags=st.fixed_dictionaries(
        {
            "created": st.booleans(),
            "canceled": st.booleans(),
            "fragment": st.booleans(),
            "compact_revision": counts,
            "reason": st.text(max_size=20),
        }
    ),
)
def test_watch_answers(watch_id: int, revision: int, events: list[bytes], flags: dict[str, Any]) -> None:
    member = LocalMember()
    answers = WatchAnswers(Headers(member))
    shown = [kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv(each)) for each in events]
    entries = pb.WatchResponse(events=shown).SerializeToString()
    plain = pb.WatchResponse(header=header(member, revision), watch_id=watch_id, events=shown)
    assert answers.plain(watch_id, revision, entries) == plain.SerializeToString()
    assert answers.plain(watch_id, revision, entries) == plain.SerializeToString()
    special = dict(flags)
    special["cancel_reason"] = special.pop("reason")
    expected = pb.WatchResponse(
        header=header(member, revision), watch_id=watch_id, events=shown, **special
    ).SerializeToString()
    assert answers.special(watch_id, revision, entries, **flags) == expected


def test_watches_that_are_told_the_same_share_the_bytes(headers: Headers) -> None:
    answers = WatchAnswers(headers)
    events = bytes(bytearray(b"\x5a\x02\x12\x00"))
    first = answers.plain(3, 9, events)
    assert answers.plain(3, 9, events) is first
    assert answers.plain(4, 9, events) != first
    assert answers.plain(3, 10, events) != first
    assert answers.plain(3, 10, b"") != answers.plain(3, 11, b"")


# --- requests


def test_a_transaction_is_read_whole() -> None:
    put = pb.PutRequest(key=b"k", value=b"v", lease=7, prev_kv=True, ignore_value=True, ignore_lease=True)
    query = pb.RangeRequest(
        key=b"a",
        range_end=b"b",
        limit=1,
        revision=2,
        sort_order=pb.RangeRequest.DESCEND,
        sort_target=pb.RangeRequest.VALUE,
        keys_only=True,
        count_only=True,
        min_mod_revision=3,
        max_mod_revision=4,
        min_create_revision=5,
        max_create_revision=6,
    )
    compares = [
        pb.Compare(key=b"c", target=pb.Compare.VERSION, result=pb.Compare.LESS, version=1),
        pb.Compare(key=b"c", target=pb.Compare.CREATE, create_revision=2, range_end=b"d"),
        pb.Compare(key=b"c", target=pb.Compare.MOD, mod_revision=3),
        pb.Compare(key=b"c", target=pb.Compare.VALUE, value=b"4"),
        pb.Compare(key=b"c", target=pb.Compare.LEASE, lease=5),
        pb.Compare(key=b"c", target=pb.Compare.LEASE, version=6),
    ]
    request = pb.TxnRequest(
        compare=compares,
        success=[pb.RequestOp(request_put=put), pb.RequestOp(request_range=query)],
        failure=[
            pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"x", range_end=b"y", prev_kv=True)),
            pb.RequestOp(request_txn=pb.TxnRequest(success=[pb.RequestOp(request_put=put)])),
        ],
    )
    written = v3.Put(b"k", b"v", 7, prev_kv=True, ignore_value=True, ignore_lease=True)
    assert transactions.read_txn(request) == v3.Txn(
        compares=(
            v3.Compare(b"c", v3.VERSION, v3.LESS, 1),
            v3.Compare(b"c", v3.CREATE, v3.EQUAL, 2, b"", b"d"),
            v3.Compare(b"c", v3.MOD, v3.EQUAL, 3),
            v3.Compare(b"c", v3.VALUE, v3.EQUAL, 0, b"4"),
            v3.Compare(b"c", v3.LEASE, v3.EQUAL, 5),
            v3.Compare(b"c", v3.LEASE, v3.EQUAL, 0),
        ),
        success=(
            written,
            v3.Range(
                b"a",
                b"b",
                1,
                2,
                v3.DESCEND,
                v3.BY_VALUE,
                keys_only=True,
                count_only=True,
                min_mod_revision=3,
                max_mod_revision=4,
                min_create_revision=5,
                max_create_revision=6,
            ),
        ),
        failure=(v3.DeleteRange(b"x", b"y", prev_kv=True), v3.Txn(success=(written,))),
    )


def raw(number: int, value: int) -> bytes:
    """A field that no class would let us set: an unknown number of an enumeration."""
    return bytes((number << 3, value))


@pytest.mark.parametrize("field", [5, 6])
def test_an_order_that_does_not_exist(field: int) -> None:
    request = parse(pb.RangeRequest, b"\x0a\x01a" + raw(field, 9))
    answer = messages.read_range(request)
    assert isinstance(answer, Fault)
    assert answer.cause == b"etcdserver: invalid sort option"

    with pytest.raises(RefusedError, match="invalid sort option"):
        messages.parse_range(request.SerializeToString())


asked = st.builds(
    pb.RangeRequest,
    key=st.binary(max_size=3) | st.binary(min_size=126, max_size=129),
    range_end=st.just(b"") | st.binary(max_size=2),
    serializable=st.booleans(),
    limit=st.sampled_from((0, 0, 1)),
)


@given(asked.map(lambda request: request.SerializeToString()), st.integers(0, 2), st.binary(max_size=4))
def test_a_range_is_decoded_as_protobuf_does_it(message: bytes, cut: int, more: bytes) -> None:
    """Of one key without protobuf; cut short, and with bytes behind it, too."""
    data = message[: len(message) - cut] + more
    try:
        request = pb.RangeRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            messages.parse_range(data)
        return
    if isinstance(messages.read_range(request), Fault):
        return
    assert messages.parse_range(data) == (messages.read_range(request), request.serializable)


def test_a_range_of_one_key_needs_no_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "RangeRequest", None)
    for is_serializable in (False, True):
        message = pb.RangeRequest(key=b"k" * 127, serializable=is_serializable).SerializeToString()
        assert messages.parse_range(message) == (v3.Range(b"k" * 127), is_serializable)


@pytest.mark.parametrize("field", [1, 2])
def test_a_compare_that_does_not_exist(field: int) -> None:
    compare = b"\x1a\x01a" + raw(field, 9)
    answer = transactions.read_txn(parse(pb.TxnRequest, b"\x0a%c%b" % (len(compare), compare)))
    assert isinstance(answer, Fault)


def test_transactions_lie_in_each_other_only_so_deep() -> None:
    request = pb.TxnRequest()
    for _ in range(30):
        request = pb.TxnRequest(success=[pb.RequestOp(request_txn=request)])
    assert not isinstance(transactions.read_txn(request), Fault)
    assert isinstance(transactions.read_txn(request, depth=transactions.MAX_DEPTH - 10), Fault)


def many(ops: int, compares: int = 0, nested: int = 0) -> pb.TxnRequest:
    """A transaction of `nested` transactions in each branch, or of reads."""
    op = pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))
    request = pb.TxnRequest(success=[op] * ops, compare=[pb.Compare(key=b"a")] * compares)
    if nested:
        ops_ = [pb.RequestOp(request_txn=request)] * nested
        request = pb.TxnRequest(success=ops_, failure=ops_)
    return request


@pytest.mark.parametrize(
    "request_",
    [
        many(128),
        many(0, compares=128),
        many(100, compares=10, nested=5),
        many(0, compares=64, nested=8),
    ],
)
def test_transactions_that_are_small_enough_to_be_read(request_: pb.TxnRequest) -> None:
    assert transactions.parse_txn(request_.SerializeToString(), 128) == transactions.read_txn(request_)


def deep(depth: int, request: pb.TxnRequest) -> pb.TxnRequest:
    for _ in range(depth):
        request = pb.TxnRequest(success=[pb.RequestOp(request_txn=request)])
    return request


@pytest.mark.parametrize(
    ("depth", "size"),
    [
        (0, (129,)),
        (0, (100_000,)),
        (0, (0, 129)),
        (0, (127, 0, 2)),
        (0, (103, 0, 5)),
        (0, (0, 60, 9)),
        (0, (0, 0, 60_000)),
        (1, (128,)),
        (45, (100_000,)),
    ],
)
def test_a_transaction_that_is_too_large_is_refused_after_few_looks(
    depth: int, size: tuple[int, ...]
) -> None:
    message = deep(depth, many(*size)).SerializeToString()
    with profiled() as counted, pytest.raises(RefusedError, match="too many operations in txn request"):
        transactions.parse_txn(message, 128)
    assert counted["HasField"] <= 1_024
    assert counted["_parse_other"] + counted["_parse_compare"] <= 1_024


def read_by_protobuf(message: bytes) -> v3.Txn | Fault | type[DecodeError]:
    """What a transaction of few operations is, without looking at its bytes."""
    try:
        request = pb.TxnRequest.FromString(message)
        transactions.check_size(request, 3)
    except DecodeError:
        return DecodeError
    except RefusedError as refused:
        return refused.fault
    read = transactions.read_txn(request)
    return read if isinstance(read, Fault) else txn.check(read, 3) or read


def parsed(message: bytes) -> v3.Txn | Fault | type[DecodeError]:
    try:
        return transactions.parse_txn(message, 3)
    except DecodeError:
        return DecodeError
    except RefusedError as refused:
        return refused.fault


_LENGTHS = (0, 1, 2, 127, 128, 129, 16_383, 16_384)
numbers = st.sampled_from([0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)]) | st.integers(0, 2**63 - 1)
keys = st.sampled_from([b"a", b"b", b"a", b"b", b"c" * 127, b"d" * 128, b"e" * 20_000, b""])
values = st.sampled_from(_LENGTHS).map(lambda length: b"v" * length)
some_numbers = st.sampled_from(["version", "create_revision", "mod_revision", "lease"])
compares = st.builds(
    lambda fields, named, number: pb.Compare(**fields, **{named: number}),
    st.fixed_dictionaries(
        {"key": keys},
        optional={
            "target": st.integers(0, 4),
            "result": st.integers(0, 3),
            "range_end": st.sampled_from([b"", b"z"]),
        },
    ),
    some_numbers,
    numbers,
) | st.builds(pb.Compare, key=keys, target=st.just(3), value=values)
flags = st.sampled_from([False, False, False, True])
a_put = st.builds(pb.PutRequest, key=keys, value=values) | st.builds(
    pb.PutRequest,
    key=keys,
    value=values,
    lease=numbers,
    prev_kv=flags,
    ignore_value=flags,
    ignore_lease=flags,
)
a_range = st.builds(pb.RangeRequest, key=keys) | st.builds(
    pb.RangeRequest, key=keys, range_end=keys, limit=numbers, serializable=flags, keys_only=flags
)
a_deletion = st.builds(pb.DeleteRangeRequest, key=keys, range_end=keys, prev_kv=flags)
plain_ops = (
    st.builds(pb.RequestOp, request_put=a_put)
    | st.builds(pb.RequestOp, request_range=a_range)
    | st.builds(pb.RequestOp, request_delete_range=a_deletion)
    | st.just(pb.RequestOp())
)


def txn_requests(ops: st.SearchStrategy[pb.RequestOp]) -> st.SearchStrategy[pb.TxnRequest]:
    return st.builds(
        pb.TxnRequest,
        compare=st.lists(compares, max_size=4),
        success=st.lists(ops, max_size=4),
        failure=st.lists(ops, max_size=4),
    )


nested_ops = st.one_of(
    plain_ops, plain_ops, plain_ops, st.builds(pb.RequestOp, request_txn=txn_requests(plain_ops))
)


def test_a_number_in_the_place_of_a_value_is_unknown() -> None:
    message = b"\x0a\x07\x10\x03\x1a\x01a\x38\x01"
    assert parsed(message) == read_by_protobuf(message) == v3.Txn((v3.Compare(b"a", v3.VALUE, 0, 0),))


@settings(deadline=None, max_examples=300)
@given(txn_requests(plain_ops) | txn_requests(nested_ops))
def test_a_transaction_that_is_taken_apart_here_is_what_protobuf_and_the_checks_say(
    request_: pb.TxnRequest,
) -> None:
    message = request_.SerializeToString()
    assert parsed(message) == read_by_protobuf(message)


@settings(deadline=None, max_examples=300)
@given(txn_requests(nested_ops), st.data())
def test_whatever_the_bytes_of_a_transaction_are_they_mean_what_protobuf_says(
    request_: pb.TxnRequest, data: st.DataObject
) -> None:
    """Also where fields are cut off, repeated, unknown, or not in shortest form."""
    message = request_.SerializeToString()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(message), 300)))
        gone = data.draw(st.integers(0, 3))
        put_in = data.draw(st.binary(max_size=2) | st.sampled_from([b"\x80\x00", b"\x82\x00", b"\x0a\x01a"]))
        message = message[:at] + put_in + message[at + gone :]
    assert parsed(message) == read_by_protobuf(message)


@pytest.mark.parametrize(
    "message",
    [
        b"\x12\x06\x12\x04\x0a\x01a\x12",  # cut short within the put
        b"\x12\x0a\x12\x03\x0a\x01a\x12\x03\x0a\x01b",  # the same operation twice
        b"\x12\x08\x12\x03\x0a\x01a\x0a\x01b",  # two kinds of operation
        b"\x12\x00",
        b"\x12\x02\x12\x00",
        b"\x1a\x85\x00\x0a\x03\x0a\x01a",  # a length that is padded
        b"\x0a\x05\x1a\x01a\x30\x01",  # the number of another target
        b"\x0a\x07\x10\x02\x1a\x01a\x30\x01",
        b"\x0a\x07\x10\x09\x1a\x01a\x68\x01",  # no such target
        b"\x20\x01",
    ],
)
def test_bytes_of_transactions_that_no_client_sends(message: bytes) -> None:
    assert parsed(message) == read_by_protobuf(message)


@given(
    st.sampled_from(_LENGTHS),
    st.sampled_from(_LENGTHS),
    st.sampled_from([0, 0, 5, -1]),
    st.booleans(),
    st.booleans(),
)
def test_a_put_that_is_taken_apart_here_means_what_protobuf_says(
    key: int, value: int, lease: int, prev_kv: bool, ignores: bool
) -> None:
    request = pb.PutRequest(
        key=b"k" * key, value=b"v" * value, lease=lease, prev_kv=prev_kv, ignore_value=ignores
    )
    assert messages.parse_put(request.SerializeToString()) == messages.read_put(request)


@given(
    st.one_of(
        st.binary(max_size=12),
        st.lists(
            st.sampled_from(
                [
                    b"\x0a",
                    b"\x12",
                    b"\x00",
                    b"\x01",
                    b"\x02",
                    b"\x80\x00",
                    b"\x82\x00",
                    b"\xff",
                    b"a",
                    b"\x18",
                ]
            ),
            max_size=10,
        ).map(b"".join),
    )
)
def test_whatever_the_bytes_of_a_put_are_they_mean_what_protobuf_says(data: bytes) -> None:
    try:
        wanted = messages.read_put(pb.PutRequest.FromString(data))
    except DecodeError:
        with pytest.raises(DecodeError):
            messages.parse_put(data)
    else:
        assert messages.parse_put(data) == wanted
