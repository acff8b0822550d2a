"""Every field of every request, with the values at the edges of its type, is answered or refused.

Built from the descriptors of the API: a new method or field is looked at without anybody adding it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from netstore import codes
from netstore.proto import rpc_pb2 as pb
from netstore.state.tables import TABLES
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

SIGNED: Final = (0, 1, 2, 2**31 - 1, 2**31, 2**62, 2**63 - 2, 2**63 - 1, -1, -(2**31), -(2**63) + 1, -(2**63))
UNSIGNED: Final = (0, 1, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
SHORT: Final = {True: (0, 1, 4, 2**31 - 1, -1, -(2**31)), False: (0, 1, 2**32 - 1)}
BYTES: Final = (b"", b"\0", b"a", b"b", b"\xff" * 40, b"a\0b", b"k" * 70_000)
TEXTS: Final = ("", "x", "\0", "http://a:1", "\U0010ffff" * 20_000)

NESTING: Final = 3
"""How deep requests in requests are gone into."""

METHODS: Final = [
    (f"/etcdserverpb.{service}/{method.name}", method.input_type)
    for service, declared in pb.DESCRIPTOR.services_by_name.items()
    for method in declared.methods
]


def edges(kind: Descriptor, nesting: int = NESTING) -> Iterator[Message]:
    """Each field with each of its edges, the others ordinary."""
    for field in kind.fields:
        for value in _values(field, nesting):
            message = _ordinary(kind)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, value)
            yield message


def _ordinary(kind: Descriptor) -> Any:
    message: Any = GetMessageClass(kind)()
    for field in kind.fields:
        if field.name == "key" and field.type == FieldDescriptor.TYPE_BYTES:
            message.key = b"a"
        if field.name == "range_end":
            message.range_end = b"\0"
    return message


def _values(field: FieldDescriptor, nesting: int) -> Iterator[Any]:
    match field.type:
        case FieldDescriptor.TYPE_INT64:
            yield from SIGNED
        case FieldDescriptor.TYPE_UINT64:
            yield from UNSIGNED
        case FieldDescriptor.TYPE_INT32 | FieldDescriptor.TYPE_ENUM:
            yield from SHORT[True]
        case FieldDescriptor.TYPE_UINT32:
            yield from SHORT[False]
        case FieldDescriptor.TYPE_BOOL:
            yield from (False, True)
        case FieldDescriptor.TYPE_BYTES:
            yield from BYTES
        case FieldDescriptor.TYPE_STRING:
            yield from TEXTS
        case FieldDescriptor.TYPE_MESSAGE:
            inner = field.message_type
            assert inner is not None
            yield _ordinary(inner)
            if nesting:
                yield from edges(inner, nesting - 1)
        case _:
            raise AssertionError(f"{field.full_name} has a type that is not known here")


def prepared() -> Served:
    served = Served()
    served.draws = list(range(1_000, 5_000))
    for key in (b"a", b"b"):
        served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=key, value=b"v"))
    served.call("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(ID=1, TTL=60))
    return served


@pytest.mark.parametrize(("path", "kind"), METHODS, ids=[path for path, _ in METHODS])
def test_each_edge_of_each_field_of_each_request_is_answered(path: str, kind: Descriptor) -> None:
    served = prepared()
    asked = 0
    for request in edges(kind):
        asked += 1
        if asked % 50 == 0:
            served = prepared()
        if path.encode() in served.services.unary:
            call = served.call(path, request)
        else:
            call, receiver = served.open(path)
            receiver.received(request.SerializeToString())
            receiver.half_closed()
            served.member.settle()
            call.drain()
            served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a", value=b"w"))
            receiver.cancelled()
        assert call.status is not None or call.messages or path.endswith("/Watch"), request
        assert call.status not in {codes.INTERNAL, codes.UNKNOWN} or call.text, request
    assert asked or not kind.fields


def test_the_state_after_it_can_be_loaded() -> None:
    served = prepared()
    for path, kind in METHODS:
        if path.encode() in served.services.unary and "Alarm" not in path:
            for request in edges(kind, 1):
                served.call(path, request)
    machine = served.member.machine
    machine.save()
    before = {table: len(list(machine._engine.scan(table, b"", None))) for table in TABLES}
    machine.load()
    machine.save()
    assert {table: len(list(machine._engine.scan(table, b"", None))) for table in TABLES} == before
