"""The v2 tree and its window are loaded as they were, and damage is named."""

from __future__ import annotations

import msgspec
import pytest

from netstore.errors import CorruptData
from netstore.state import tables
from netstore.state.machine import Machine
from netstore.state.v2 import commands as v2
from netstore.state.v2 import records
from netstore.state.v2.ttl import Timed
from netstore.types import EtcdIndex, Index
from tests.state.machines import apply, machine_on, refusal
from tests.state.strategies import BASE
from tests.support.contents import nodes_of
from tests.support.local_member import memory_engine


def test_a_ttl_checkpoint_is_stored_and_loaded() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a", b"", expires=BASE, ttl=50))
    timed = machine.tree.timed.get(b"/a")
    assert timed is not None
    apply(machine, v2.TtlCheckpoint(((b"/a", timed.since, 20), (b"/a", timed.since + 1, 7))))
    machine.save()
    engine.commit()
    other = machine_on(engine)
    assert other.tree.timed.get(b"/a") == Timed(50, timed.since, 20)
    assert list(other.tree.timed.ttl_changes.take_renewed(10)) == [b"/a"]


def test_a_path_of_any_length_is_kept() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    paths = {b"/" + b"x" * 4_000 + tail for tail in (b"1", b"2", b"2/3")}
    for path in paths:
        apply(machine, v2.Set(path, b"1", dir=True))
    machine.save()
    assert {node.key for node in nodes_of(machine_on(engine).tree)} == paths


def test_a_node_without_its_directory_is_named() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a/b", b"1"))
    machine.save()
    engine.write(Index(1), {(tables.NODES, b"/a"): None})
    assert "key b'/a/b' lies in no directory" in refusal(engine)
    with pytest.raises(CorruptData, match="lies in no directory"):
        list(Machine(engine).load_steps())


def test_a_window_that_does_not_end_at_the_state_is_named() -> None:
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/a", b"1"))
    machine.save()
    engine.write(Index(1), {(tables.WINDOW, records.window_key(EtcdIndex(1))): None})
    assert "ends at 0, the state is at 1" in refusal(engine)


def test_fields_that_an_earlier_build_left_out_are_not_guessed() -> None:
    """A node without a TTL would end at once; a missing checksum would not be the same on all members."""
    engine = memory_engine()
    machine = machine_on(engine)
    apply(machine, v2.Set(b"/held", b"1", expires=v2.LATEST, ttl=5))
    machine.save()
    record = msgspec.msgpack.decode(engine.get(tables.NODES, b"/held") or b"")
    engine.write(Index(2), {(tables.NODES, b"/held"): tables.encode(record[:5])})
    with pytest.raises(CorruptData, match="table v2, key b'/held': it ends at an instant, and has no TTL"):
        machine_on(engine)
    engine = memory_engine()
    engine.write(Index(1), {(tables.V3_STATE, tables.STATE_KEY): tables.encode((1, 0, 0))})
    with pytest.raises(CorruptData, match="table v3_state"):
        machine_on(engine)
