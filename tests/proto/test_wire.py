"""Fields that are put together are, byte for byte, what protobuf writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import varint
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb
from netstore.proto.wire import MASK64, BadMessage, framed, parse, repeated

pairs = st.lists(st.binary(max_size=300).map(lambda value: kv_pb2.KeyValue(value=value)), max_size=5)


def test_what_is_no_message() -> None:
    with pytest.raises(BadMessage):
        parse(pb.PutRequest, b"\x0a\xff")
    unknown = parse(pb.PutRequest, b"\x0a\x01a\xf8\x07\x01")
    assert unknown.key == b"a", "fields nobody knows are ignored"


@given(st.binary(min_size=1, max_size=300))
def test_bytes_as_a_field(key: bytes) -> None:
    assert framed(b"\x0a", key) == pb.PutRequest(key=key).SerializeToString()


@given(pairs)
def test_messages_as_a_repeated_field(kvs: list[kv_pb2.KeyValue]) -> None:
    pieces = repeated(b"\x12", [each.SerializeToString() for each in kvs])
    assert b"".join(pieces) == pb.RangeResponse(kvs=kvs).SerializeToString()


@given(st.integers(-(2**63), 2**63 - 1).filter(bool))
def test_a_number_with_a_sign(lease: int) -> None:
    assert b"\x18" + varint(lease & MASK64) == pb.PutRequest(lease=lease).SerializeToString()
