"""Messages are read field by field, and what is none is told."""

from __future__ import annotations

import pytest

from netstore.codec import Malformed
from netstore.etcdfile.protofields import MOST_FIELDS, Message, fields
from netstore.proto.rpc_pb2 import LeaseTimeToLiveResponse


def test_fields_of_a_message_that_protobuf_made() -> None:
    made = LeaseTimeToLiveResponse(ID=-5, TTL=300, keys=[b"a", b"b"]).SerializeToString()
    assert list(fields(made)) == [(2, 2**64 - 5), (3, 300), (5, b"a"), (5, b"b")]
    message = Message(made)
    assert message.signed(2) == -5
    assert (message.number(3), message.number(4), message.data(5), message.data(1)) == (300, 0, b"b", b"")
    assert 3 in message
    assert 4 not in message


@pytest.mark.parametrize(
    "data", [b"\x08", b"\x0a\x05abc", b"\x09" + bytes(8), b"\x0f", b"\xff" * 11, b"\0\0"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Message(data)


def test_a_field_of_another_type_is_refused() -> None:
    message = Message(b"\x08\x01\x12\x01a")
    with pytest.raises(Malformed, match="field 2 is no number"):
        message.number(2)
    with pytest.raises(Malformed, match="field 1 is a number"):
        message.data(1)


def test_a_message_of_too_many_fields_is_refused() -> None:
    """The records of a log have up to 256 MiB, which would be kept as so many values."""
    assert Message(b"\x08\x01" * MOST_FIELDS).number(1) == 1
    with pytest.raises(Malformed, match=f"more than {MOST_FIELDS} fields"):
        Message(b"\x08\x01" * (MOST_FIELDS + 1))
