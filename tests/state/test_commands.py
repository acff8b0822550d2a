"""Commands: what is encoded comes back, and nothing else comes in."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.state import commands
from netstore.state.commands import Command, decode, encode
from netstore.state.v2 import commands as v2
from netstore.state.v2.commands import Set
from tests.state.strategies import all_commands


@given(all_commands())
def test_a_command_comes_back_as_it_was(command: Command) -> None:
    assert decode(encode(command)) == command


@given(st.binary(max_size=64))
def test_any_bytes_are_a_command_or_corrupt(data: bytes) -> None:
    try:
        command = decode(data)
    except CorruptData:
        return
    assert decode(encode(command)) == command


@given(all_commands(), st.data())
def test_a_flipped_byte_is_a_command_or_corrupt(command: Command, data: st.DataObject) -> None:
    encoded = bytearray(encode(command))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CorruptData):
        decode(bytes(encoded))


@given(all_commands(), st.integers(0, 200))
def test_a_command_cut_short_is_refused(command: Command, keep: int) -> None:
    encoded = encode(command)
    if keep < len(encoded):
        with pytest.raises(CorruptData):
            decode(encoded[:keep])


@pytest.mark.parametrize(
    "fields",
    [
        [1, b"/a", b"", False, 0, False, 0, 0],  # one field more than this version knows
        [99, b"/a"],  # a command of the future
        [1, "/a"],  # text is not bytes
        [1, b"/a", b"", False, -1],  # before time began
        [1, b"/a", b"", False, v2.LATEST + 1],
        [4, b"/a", b"", b"", -1],
        [9, 5],  # a number that is not used any more
        [20, [[b"/a", -1]]],
        [],
        {"path": b"/a"},
        [[[]]],
    ],
)
def test_unknown_commands_and_fields_are_refused(fields: object) -> None:
    with pytest.raises(CorruptData, match="not a command of this version"):
        decode(msgspec.msgpack.encode(fields))


def test_deep_nesting_is_refused_without_running_out_of_stack() -> None:
    with pytest.raises(CorruptData):
        decode(b"\x91" * 1_000_000)


FIRST_WRITTEN = [
    (v2.Set(b"/a", b"v", False, 5, True), "9601c4022f61c40176c205c3"),
    (v2.Create(b"/a", b"v", True, 5), "9502c4022f61c40176c305"),
    (v2.Update(b"/a", b"v", 5, True), "9503c4022f61c4017605c3"),
    (v2.CompareAndSwap(b"/a", b"v", b"p", 6, 5, True), "9704c4022f61c40176c401700605c3"),
    (v2.InOrder(b"/a", b"v", False, 5), "9505c4022f61c40176c205"),
    (v2.Delete(b"/a", False, True), "9406c4022f61c2c3"),
    (v2.CompareAndDelete(b"/a", b"p", 6), "9407c4022f61c4017006"),
    (v2.QuorumGet(b"/a", True), "9308c4022f61c3"),
    (v2.ExpireNodes(((b"/a", 5),)), "92149192c4022f6105"),
    (v2.TtlCheckpoint(((b"/a", 5, 7),)), "92159193c4022f610507"),
    (commands.PublishMember(1, "n", ("c",), ("p", "q")), "950a01a16e91a16392a170a171"),
    (commands.PublishMember(1, "n", ("c",), ("p", "q"), 3), "960a01a16e91a16392a170a17103"),
    (commands.SetClusterVersion("3"), "920ba133"),
    (commands.AddMember(1, ("p", "q"), True, True), "950c0192a170a171c3c3"),
    (commands.RemoveMember(1), "920d01"),
    (commands.UpdateMember(1, ("p",)), "930e0191a170"),
    (commands.PromoteMember(1), "920f01"),
    (commands.RefuseChange("no"), "9210a26e6f"),
    (commands.RaiseLevel(3), "921103"),
    (commands.JoinMember(1, ("p",), 3, 2), "95120191a1700302"),
]


@pytest.mark.parametrize(("command", "written"), FIRST_WRITTEN, ids=lambda value: str(value)[:20])
def test_commands_of_earlier_versions_are_still_decoded(command: Command, written: str) -> None:
    """The bytes of each command as they lie in logs; an example here may be added, never changed."""
    assert decode(bytes.fromhex(written)) == command


def test_fields_that_are_not_given_have_their_first_meaning() -> None:
    assert decode(bytes.fromhex("9201c4022f61")) == Set(b"/a")
