"""Commands and log entries as text for operators."""

from __future__ import annotations

from netstore.state import display
from netstore.state.commands import AddMember, encode
from netstore.state.v3.commands import Put, Range, Txn


def test_long_values_are_displayed_by_their_size() -> None:
    deep = Txn((), (Txn((), (Txn((), (Range(b"k"),)),)),))
    many = Txn((), tuple(Put(b"%d" % number) for number in range(9)))
    assert display.describe(encode(deep)) == "Txn(success=[Txn(success=[Txn(success=[Range])])])"
    assert display.describe(encode(many)).endswith("Put(key='3'), and 5 more])")
    assert display.describe(encode(Put(b"k" * 900))) == f"Put(key='{'k' * 60}'... (900 bytes))"
    assert display.describe(b"\xff").startswith("1 bytes: not a command")
    assert (
        display.describe_entry(b"\x09" * 30) == "- - 30 bytes of format 9, which this release does not know"
    )
    assert display.format_time(2**64 - 1) in {"-", "2554-07-21T23:34:33.709Z"}
    for milliseconds in range(1000):
        exact = 1_796_047_500 * 10**9 + milliseconds * 10**6
        shown = f"2026-11-30T14:05:00.{milliseconds:03}Z"
        assert (display.format_time(exact), display.format_time(exact, up=True)) == (shown, shown)
    assert display.format_time(1_796_047_500_123_000_001, up=True) == "2026-11-30T14:05:00.124Z"
    assert display.format_time(0) == display.format_time(0, up=True) == "-"


def test_ids_are_hexadecimal_as_elsewhere() -> None:
    added = AddMember(0xB51C0DE, ("http://p:1",))
    assert display.describe(encode(added)) == "AddMember(id=b51c0de, peer_urls=['http://p:1'])"
    put = Put(b"k", lease=0x7FFF)
    assert display.describe(encode(put)) == "Put(key='k', lease=7fff)"
    assert display.describe(encode(Put(b"k", lease=-1))) == f"Put(key='k', lease={'f' * 16})"
