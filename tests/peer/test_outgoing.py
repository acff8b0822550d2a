"""The stream of messages to one member, over real sockets: its queue, pings, versions, and dialing again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from netstore.peer import dial as dialing
from netstore.peer import incoming
from netstore.peer import outgoing as module
from netstore.peer.outgoing import MAX_PONGS_PER_READ
from netstore.peer.wire import (
    PING,
    encode_batch,
)
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.messages import Append, AppendAccepted, ForwardRefused
from netstore.types import Index, NodeId, Term
from tests.support.links import eventually
from tests.support.peermembers import (
    A,
    B,
    beat,
    members,
    met,
    open_stream,
)

if TYPE_CHECKING:
    from tests.support.peermembers import Member


async def test_a_fault_with_one_member_ends_no_other_stream_and_it_is_dialed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = 0

    async def breaks(peer: Any) -> None:
        nonlocal faults
        if peer._id == 0xC:
            faults += 1
            raise RuntimeError("strange")
        await talk(peer)

    talk = module.PeerConnection._run_stream
    monkeypatch.setattr(module.PeerConnection, "_run_stream", breaks)
    async with members() as (one, two):
        one.addresses[NodeId(0xC)] = ("http://127.0.0.1:1",)
        await met(one, two)
        await eventually(lambda: faults > 2, "it was dialed again")
        assert len(one.log.events("peer_failed")) == 1


async def test_pings_measure_the_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    async with members() as (one, two):
        await met(one, two)
        way = one.peers.round_trip(B)
        await eventually(lambda: way.successes > 2, "pings come back")
        assert 0 < way.least <= way.average <= way.most
        assert one.peers.round_trip(NodeId(99)).successes == 0


async def test_the_queue_for_a_member_is_bounded_and_raft_is_told_of_drops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OUTBOX_BYTES", 1 << 20)
    async with members() as (one, two):
        await met(one, two)
        [stream] = two.incoming_streams
        stream.link.pause()
        entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(300_000))
        for _ in range(60):
            one.peers.send([Append(A, B, Term(1), Index(0), Term(0), Index(0), (entry,))])
        assert one.lost
        assert set(one.lost) == {B}
        outgoing = one.peers._peers[B]._stream
        assert outgoing is not None
        assert outgoing.link.unsent <= 1 << 20
        stream.link.resume()


async def test_a_silent_stream_is_ended_and_dialed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    async with members() as (one, two):
        await met(one, two)
        [stream] = two.incoming_streams
        stream.link.pause()
        one.clock.ahead += incoming.SILENCE_SECONDS + 1
        await eventually(lambda: one.lost == [B], "Raft hears of it")
        assert "nothing was heard in time" in one.log.events("peer_lost")[0]
        await eventually(lambda: one.connections == 2, "it is dialed again")


async def test_a_refused_message_ends_the_stream_and_not_the_member() -> None:
    async with members() as (one, two):
        await met(one, two)
        two.refuses = "term 9 cannot be"
        one.peers.send([beat(A, B)])
        await eventually(lambda: one.lost, "the stream ends")
        assert "term 9 cannot be" in two.log.events("peer_cut")[0]
        await eventually(lambda: one.connections == 2, "it is dialed again")


def has_dialed(member: Member, count: int) -> bool:
    return member.connections == count


async def test_a_member_that_cuts_each_stream_is_dialed_slowly_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    async with members() as (one, two):
        await met(one, two)
        peer = one.peers._peers[B]
        first = peer._pause
        two.refuses = "term 9 cannot be"
        for number in range(2, 5):
            one.peers.send([beat(A, B)])
            await eventually(partial(has_dialed, one, number), "it is dialed again")
        assert len(one.log.events("peer_connected")) == len(one.log.events("peer_lost")) == 1
        assert peer._pause == 8 * first
        two.refuses = ""
        one.clock.ahead += module.STEADY_SECONDS
        await eventually(lambda: len(one.log.events("peer_connected")) == 2, "one that lasts is logged")
        assert peer.is_connected
        [stream] = [each for each in two.incoming_streams if each.sender == A]
        stream.link.cut("enough")
        await eventually(lambda: one.connections == 5, "it is dialed again")
        assert peer._pause == 2 * first


async def test_replies_to_pings_that_were_not_sent_end_the_stream() -> None:
    async with members() as (one, two):
        await met(one, two)
        [stream] = [each for each in two.incoming_streams if each.sender == A]
        stream.link.write(PING * (MAX_PONGS_PER_READ + 1))
        await eventually(lambda: one.lost, "the stream ends")


async def test_the_highest_common_version_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with members() as (one, two):
        await met(one, two)
        monkeypatch.setattr(dialing, "HIGHEST_VERSION", 2)
        made = await open_stream(one)
        assert made.welcome is not None
        assert made.welcome.version == 2
        assert made.link._records is None
        made.link.write(encode_batch([beat(NodeId(0x99), A)]))
        await eventually(lambda: one.got, "it is decoded")


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_that_nobody_waits_is_said_only_in_versions_that_know_it(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(dialing, "HIGHEST_VERSION", version)
    async with members() as (one, two):
        await met(one, two)
        one.peers.send([AppendAccepted(A, B, Term(1), Index(3), waits=False)])
        await eventually(lambda: two.got, "it has arrived")
        assert two.got == [AppendAccepted(A, B, Term(1), Index(3), waits=version < 4)]


@pytest.mark.parametrize("version", [2, 3])
async def test_forward_refused_is_sent_only_in_versions_that_know_it(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(dialing, "HIGHEST_VERSION", version)
    async with members() as (one, two):
        await met(one, two)
        refused = ForwardRefused(A, B, Term(1), 1, (7, 8))
        one.peers.send([beat(A, B, 1), refused, beat(A, B, 2)])
        one.peers.send([refused])
        one.peers.send([beat(A, B, 3)])
        known = [refused] * (version == 3)
        expected = [beat(A, B, 1), *known, beat(A, B, 2), *known, beat(A, B, 3)]
        await eventually(lambda: len(two.got) == len(expected), "all has arrived")
        assert two.got == expected
        assert one.lost == []
