"""The index of the keys after loading is the one before, and damage is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.codes import UNAVAILABLE
from netstore.errors import CorruptData, Fault
from netstore.state.tables import RECORDS
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Found, Put, Range, Txn, V3Command
from netstore.types import Index
from tests.state.machines import machine_on
from tests.state.v3.both import LEASES, Both, hash_kv
from tests.state.v3.strategies import v3_commands
from tests.support.local_member import memory_engine


@settings(max_examples=30, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=3, max_size=25))
def test_the_loaded_state_is_the_state_that_was_saved(commands: list[V3Command]) -> None:
    """The whole inner state, so that nothing that matters later can differ."""
    both = Both(*LEASES)
    for command in commands:
        both.apply(command)
        if both.machine.sweeping:
            both.machine.sweep()
    both.save()
    before = both.machine.mvcc
    after = both.load().mvcc
    for name in ("revision", "compacted", "swept", "size"):
        assert getattr(after, name) == getattr(before, name), name
    index, was = after._index, before._index
    assert index.items == was.items
    assert list(index.live) == list(was.live)
    assert list(index.dead) == list(was.dead)
    for start in range(max(0, after.compacted), after.revision + 2):
        assert index.log.find(start) - index.log.end == was.log.find(start) - was.log.end


@pytest.mark.parametrize(
    ("stored", "record", "what"),
    [
        ((2 << 32).to_bytes(12, "big"), keyvalue.encode_deletion(b"a", 2), "it says revision 2, version 0"),
        (
            (2 << 32).to_bytes(12, "big"),
            keyvalue.encode(b"a", 3, 3, 1, value=b"", lease=0),
            "it says revision 3",
        ),
        (
            (9 << 32).to_bytes(12, "big"),
            keyvalue.encode(b"a", 9, 9, 1, value=b"", lease=0),
            "is at revision 1",
        ),
    ],
)
def test_a_record_in_the_wrong_place_is_named(stored: bytes, record: bytes, what: str) -> None:
    engine = memory_engine()
    engine.write(Index(1), {(RECORDS, stored): record})
    with pytest.raises(CorruptData, match=what) as caught:
        machine_on(engine)
    assert repr(stored) in str(caught.value)


def test_no_read_is_answered_while_the_state_is_replaced() -> None:
    """What the index in memory points at may be another's record already."""
    both = Both(Put(b"a", b"1"))
    both.save()
    both.machine.mvcc.suspended = True
    for answer in (
        both.machine.mvcc.range(Range(b"a")),
        both.machine.mvcc.range(Range(b"a", b"\0")),
        hash_kv(both.machine.mvcc, 0),
        both.machine.v3.read_txn(Txn((), (Range(b"a"),))),
    ):
        assert isinstance(answer, Fault)
        assert answer.grpc_code == UNAVAILABLE
    both.load()
    assert isinstance(both.machine.mvcc.range(Range(b"a")), Found)
