"""Notifications of nftables: what names a table, and real ones in a namespace."""

from __future__ import annotations

import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.nftevents import NftEvents, names_table
from tests.support.inside import inside
from tests.support.netns import ip
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = {"netstore", "filter"}


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(*attributes: bytes, subsystem: int = 10, kind: int = 6) -> bytes:
    body = struct.pack("=BBH", 2, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), subsystem << 8 | kind, 0, 0, 0) + body


def test_a_message_about_a_table_is_found_behind_others() -> None:
    ours = message(attribute(2, b"chain\0"), attribute(1, b"netstore\0"))
    other = message(attribute(1, b"kube-proxy\0"), attribute(2, b"netstore\0"))
    assert names_table(ours, TABLES)
    assert not names_table(other, TABLES)
    assert names_table(other + ours, TABLES)
    assert names_table(message(attribute(1, b"filter\0")), TABLES)
    assert not names_table(message(attribute(1, b"netstore\0"), subsystem=1), TABLES)


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    names_table(data, TABLES)
    names_table(message(data), TABLES)
    names_table(message(attribute(1, data)), TABLES)


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nftevents{os.getpid()}"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "delete", name)


def nft(netns: str, words: str) -> None:
    subprocess.run(("ip", "netns", "exec", netns, "nft", words), check=True, timeout=seconds(20))


@pytest.mark.root
@pytest.mark.peer("ip", "nft")
@pytest.mark.trio
async def test_changes_of_a_table_are_told_and_those_of_others_not(netns: str) -> None:
    changes = 0
    with inside(netns, NftEvents) as events:

        async def listen() -> None:
            nonlocal changes
            while True:
                await events.changed({"netstore"})
                changes += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nft(netns, "add table ip other; add chain ip other netstore; flush table ip other")
            await trio.testing.wait_all_tasks_blocked()
            assert changes == 0
            for number, words in enumerate(("add table ip netstore", "flush ruleset"), 1):
                nft(netns, words)
                with trio.fail_after(seconds(10)):
                    while changes < number:
                        await trio.testing.wait_all_tasks_blocked()
            nft(netns, "add table ip netstore")
            events.discard()
            await trio.testing.wait_all_tasks_blocked()
            assert changes == 2, "what was discarded is not told"
            nursery.cancel_scope.cancel()
