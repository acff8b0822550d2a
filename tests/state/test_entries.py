"""Entries that this release cannot apply."""

from __future__ import annotations

import pytest

from netstore.errors import CannotApply, CorruptData, Fault
from netstore.state.commands import PublishMember, RaiseLevel, encode
from netstore.state.digest import digest
from netstore.state.envelope import HEAD_BYTES, seal
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.types import Event, Index
from tests.support.local_member import memory_engine


def fresh() -> Machine:
    machine = Machine(memory_engine())
    machine.load()
    return machine


def test_an_entry_of_an_earlier_nowhere_is_refused_and_counted() -> None:
    machine = fresh()
    good = seal(encode(Set(b"/a", b"1")))
    for bad in (b"\x01", good[: HEAD_BYTES - 1], b"\x01\xff" + good[2:30], b"\x00" + good[1:]):
        outcome = machine.enter(Index(machine.applied + 1), bad)
        assert isinstance(outcome, Fault)
        assert machine.applied
    assert isinstance(machine.enter(Index(machine.applied + 1), good), Event)
    assert machine.enter(Index(machine.applied + 1), b"") is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (seal(b"\x92\x5a\xc4\x00"), "command 90 is not known"),
        (seal(b"\x92\xcc\xc8\xc4\x00", level=3), "command 200 of feature level 3, and 2 is known"),
        (seal(encode(Set(b"/a")), level=3), "command 1 of feature level 3, and 2 is known"),
        (b"\x02" + seal(encode(Set(b"/a")))[1:], "an entry of format 2, and 1 is known"),
        (seal(b"\x95\x06\xc4\x02/a\xc2\xc2\xc0"), "command 6 has 4 fields, and 3 are known"),
        (seal(b"\xdc\x00\x02\xcd\x01\x00\xc4\x00"), "command 256 is not known"),
    ],
)
def test_a_command_of_a_later_version_stops_the_member_before_anything_changes(
    payload: bytes, words: str
) -> None:
    machine = fresh()
    machine.enter(Index(1), seal(encode(Set(b"/a", b"1"))))
    before = digest(machine)
    with pytest.raises(
        CannotApply, match=f"entry 2 of the log: .*{words}.*older than the cluster: upgrade it"
    ):
        machine.enter(Index(2), payload)
    assert machine.applied == 1
    assert digest(machine) == before
    with pytest.raises(CorruptData, match=words):
        machine.understand(payload)


def test_a_level_beyond_this_version_stops_the_member_before_anything_changes() -> None:
    machine = fresh()
    level = machine.LEVEL + 1
    machine.enter(Index(1), seal(encode(PublishMember(7, "m", ("http://p:1",), (), level))))
    before = digest(machine)
    with pytest.raises(CannotApply, match=f"entry 2 of the log: feature level {level}"):
        machine.enter(Index(2), seal(encode(RaiseLevel(level))))
    assert machine.applied == 1
    assert digest(machine) == before
