"""Pairs: the bytes are protobuf's own, and nothing else is taken for a pair."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.codec import Malformed
from netstore.proto.kv_pb2 import KeyValue as ProtobufKeyValue
from netstore.state.v3 import keyvalue
from netstore.state.v3.keyvalue import KeyValue

NUMBERS = st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1))
PAIRS = st.builds(
    KeyValue,
    st.binary(min_size=1, max_size=200),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.binary(max_size=200),
    st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1)),
)


def join(given: KeyValue) -> bytes:
    key, created, modified, version, value, lease = given
    return keyvalue.encode(key, created, modified, version, value=value, lease=lease)


@given(PAIRS)
def test_a_pair_is_what_protobuf_makes_of_it_and_comes_back(given: KeyValue) -> None:
    data = join(given)
    judge = ProtobufKeyValue(
        key=given.key,
        create_revision=given.created,
        mod_revision=given.modified,
        version=given.version,
        value=given.value,
        lease=given.lease,
    )
    assert data == judge.SerializeToString()
    assert keyvalue.decode(data) == given
    judge.value = b""
    assert keyvalue.without_value(data) == judge.SerializeToString()


@given(st.binary(min_size=1, max_size=200), NUMBERS)
def test_a_deletion_has_key_and_revision(key: bytes, revision: int) -> None:
    data = keyvalue.encode_deletion(key, revision)
    assert data == ProtobufKeyValue(key=key, mod_revision=revision).SerializeToString()
    assert keyvalue.decode(data) == KeyValue(key, 0, revision, 0, b"", 0)
    assert keyvalue.encode_key(key) == ProtobufKeyValue(key=key).SerializeToString()


@given(PAIRS, st.data())
def test_a_pair_cut_short_or_with_more_behind_it_is_refused(given: KeyValue, data: st.DataObject) -> None:
    """Unless what is left is a whole pair of fewer fields."""
    whole = join(given)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(Malformed):
        assert keyvalue.decode(cut).key == given.key
        assert ProtobufKeyValue.FromString(cut).SerializeToString() == cut
    with pytest.raises(Malformed):
        keyvalue.decode_fields(whole + b"\x00")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_pair_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        keyvalue.decode_fields(data)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\n\x00\x18\x01", b"\x18\x01", b"\n\x01a", b"\n\x01a\x10\x01", b"\n\x05a"]
)
def test_a_pair_has_a_key_and_a_revision(data: bytes) -> None:
    with pytest.raises(Malformed):
        keyvalue.decode_fields(data)
