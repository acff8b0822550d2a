"""The envelope: what is sealed comes back, any bytes may be read, and it is as the document says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CannotApply, CorruptData, Fault
from netstore.state import envelope
from netstore.state.commands import PublishMember, RaiseLevel, encode
from netstore.state.digest import digest
from netstore.state.envelope import HEAD_BYTES, seal
from netstore.state.machine import Machine
from netstore.state.v2.commands import Set
from netstore.state.v3.commands import Put
from netstore.types import Event, Index
from tests.support.dump import dump, dumped
from tests.support.local_member import memory_engine

U64 = st.integers(0, 2**64 - 1)


def fresh() -> Machine:
    machine = Machine(memory_engine())
    machine.load()
    return machine


@given(st.binary(max_size=40), U64, st.integers(1, 2**16 - 1), U64, st.binary(max_size=300))
def test_what_is_sealed_comes_back(
    command: bytes, request: int, level: int, wall: int, principal: bytes
) -> None:
    payload = seal(command, request=request, level=level, wall=wall, principal=principal)
    assert envelope.read(payload) == (1, level, request, wall, principal[:255], command)
    assert envelope.request_of(payload) == request
    assert envelope.command_of(payload) == command
    assert envelope.is_bare(payload) is (not command)
    assert envelope.read(envelope.answering(payload, b"other"))[1:] == (
        *(level, request, wall, principal[:255]),
        b"other",
    )


@given(st.binary(max_size=20), st.binary(max_size=30), st.booleans())
def test_the_short_way_gives_what_the_long_one_gives(command: bytes, noise: bytes, sealed: bool) -> None:
    payload = seal(command, principal=noise) if sealed else b"\x01" + noise
    try:
        found = envelope.read(payload)
    except CorruptData:
        assert envelope.first_level_command(payload) is None
    else:
        expected = found.command if (found.format, found.level) == (1, 1) else None
        assert envelope.first_level_command(payload) == expected


@given(st.binary(max_size=30))
def test_any_bytes_are_an_envelope_or_corrupt(data: bytes) -> None:
    envelope.is_bare(data)
    try:
        found = envelope.read(data)
    except CorruptData:
        assert len(data) < HEAD_BYTES + (data[1] if len(data) > 1 else 0) or len(data) < HEAD_BYTES
    else:
        assert len(data) == HEAD_BYTES + len(found.principal) + len(found.command)


def test_an_entry_is_as_documented() -> None:
    written = seal(
        encode(Put(b"/registry/a", b"v")),
        request=0x0102030405060708,
        wall=1_795_000_000_000_000_000,
        principal=b"node1",
    )
    shown = dumped("format-entry.md", "## A worked dump")
    assert written == shown, f"it is\n{dump(written)}"


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
        (seal(b"\x92\xcc\xc8\xc4\x00", level=2), "command 200 of feature level 2, and 1 is known"),
        (seal(encode(Set(b"/a")), level=2), "command 1 of feature level 2, and 1 is known"),
        (b"\x02" + seal(encode(Set(b"/a")))[1:], "an entry of format 2, and 1 is known"),
        (seal(b"\x95\x06\xc4\x02/a\xc2\xc2\xc0"), "command 6 has 4 fields, and 3 are known"),
        (seal(b"\xdc\x00\x02\xcd\x01\x00\xc4\x00"), "command 256 is not known"),
    ],
)
def test_what_a_later_version_wrote_stops_the_member_before_anything_changes(
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
