"""Commands built from their own declarations, with the values at the edges of what each field admits.

A new command, or a new field, is met by every test that uses this, without anybody adding it.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st
from msgspec import inspect

from netstore.state import commands
from netstore.state.v2.commands import KeyCommand
from netstore.state.v3.commands import Compare, DeleteRange, Put, Range, Txn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.commands import Command

EDGES: Final = (
    *(0, 1, 2, 3, 4, 7, 300),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1),
    *(-1, -2, -(2**31), -(2**62), -(2**63) + 1, -(2**63)),
    *(9_000_000_000, 9_000_000_001),
)
"""Numbers at which arithmetic of some width ends, and small ones that meet each other."""

BYTES: Final = (
    b"",
    b"\0",
    b"a",
    b"a",
    b"b",
    b"\xff",
    b"a\0b",
    b"\xff\xfe\x80",
    b"k" * 511,
    b"k" * 512,
    b"v" * 60_000,
)
"""Keys and values: empty, no text, at the length of LMDB's keys, long."""

PATHS: Final = (
    *(b"/", b"/a", b"/a", b"/a/b", b"/_h", b"/a/_h/c", b"/\0", b"/\xff\xfe", b"/a\nb", b"/.", b"/../a"),
    *(b"/" + b"n" * 60_000, b"/d" * 300),
)
"""Canonical paths of the tree, all legal in the log."""

TEXTS: Final = ("", "x", "http://a:1", "http://b:2", "\0", "\ud7ff\U0010ffff", "n" * 70_000)

MAX_NESTING: Final = 2


def every_command() -> st.SearchStrategy[Command]:
    """Any command there is."""
    declared = inspect.type_info(commands.Command)
    assert isinstance(declared, inspect.UnionType)
    return st.one_of(*(_struct(each, MAX_NESTING) for each in declared.types))


def every_edge() -> Iterator[Command]:
    """Each command once for each value at the edge of each of its fields, the other fields being ordinary."""
    declared = inspect.type_info(commands.Command)
    assert isinstance(declared, inspect.UnionType)
    for kind in declared.types:
        yield from _edges(kind)


def _edges(kind: inspect.Type) -> Iterator[Any]:
    assert isinstance(kind, inspect.StructType)
    ordinary = {field.name: _ordinary(field) for field in kind.fields}
    for field in kind.fields:
        for value in _pool(kind, field):
            yield kind.cls(**{**ordinary, field.name: value})


def _pool(kind: inspect.StructType, field: inspect.Field) -> Iterator[Any]:
    if issubclass(kind.cls, KeyCommand) and field.name == "path":
        yield from PATHS
    elif kind.cls is Txn:
        yield ()
        if field.name == "compares":
            yield from ((each,) for each in _edges(inspect.type_info(Compare)))
        else:
            for of in (Put, DeleteRange, Range):
                yield from ((Put(b"first"), each) for each in _edges(inspect.type_info(of)))
    else:
        yield from _plain(field.type)


def _plain(kind: inspect.Type) -> Iterator[Any]:
    match kind:
        case inspect.IntType():
            yield from _numbers(kind)
        case inspect.BoolType():
            yield from (False, True)
        case inspect.StrType():
            yield from TEXTS
        case inspect.BytesType():
            yield from (each for each in BYTES if len(each) >= (kind.min_length or 0))
        case inspect.VarTupleType():
            yield ()
            yield from ((each,) for each in _plain(kind.item_type))
        case inspect.TupleType():
            yield from product(*(_plain(each) for each in kind.item_types))
        case _:
            raise AssertionError(f"a field of a kind that is not known here: {kind}")


def _ordinary(field: inspect.Field) -> Any:
    if field.name in {"range_end", "path"}:
        return {"range_end": b"\0", "path": b"/a"}[field.name]
    match field.type:
        case inspect.IntType():
            return max(field.type.ge or 0, 0)
        case inspect.BytesType():
            return b"a"
    return next(_plain(field.type))


def _numbers(kind: inspect.IntType) -> list[int]:
    low = -(2**63) if kind.ge is None else kind.ge
    high = 2**64 - 1 if kind.le is None else kind.le
    return [edge for edge in EDGES if low <= edge <= high]


def _struct(kind: inspect.Type, nesting: int) -> st.SearchStrategy[Any]:
    assert isinstance(kind, inspect.StructType)
    paths = issubclass(kind.cls, KeyCommand)
    parts = [
        st.sampled_from(PATHS) if paths and field.name == "path" else _value(field.type, nesting)
        for field in kind.fields
    ]
    return st.tuples(*parts).map(lambda values: kind.cls(*values))


def _value(kind: inspect.Type, nesting: int) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType():
            return st.sampled_from(_numbers(kind))
        case inspect.BoolType():
            return st.booleans()
        case inspect.StrType():
            return st.sampled_from(TEXTS)
        case inspect.BytesType():
            return st.sampled_from([each for each in BYTES if len(each) >= (kind.min_length or 0)])
        case inspect.VarTupleType():
            return st.lists(_value(kind.item_type, nesting), max_size=3).map(tuple)
        case inspect.TupleType():
            return st.tuples(*(_value(each, nesting) for each in kind.item_types))
        case inspect.StructType():
            return _struct(kind, nesting)
        case inspect.UnionType():
            of = [each for each in kind.types if nesting or getattr(each, "cls", None) is not Txn]
            return st.one_of(*(_value(each, nesting - 1) for each in of))
    raise AssertionError(f"a field of a kind that is not known here: {kind}")


def nested(depth: int, innermost: bytes) -> bytes:
    """The bytes of a transaction in so many others, around an operation in its byte form."""
    data = innermost
    for _ in range(depth):
        data = b"\x94\x43\x90\x91" + data + b"\x90"
    return data
