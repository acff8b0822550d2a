"""Streams between members over real sockets: what is sent and received, and whom a member dials."""

from __future__ import annotations

import msgspec
import pytest
import trio

from netstore.peer import outgoing as module
from netstore.peer.dial import StreamFailed
from netstore.peer.handshake import (
    Purpose,
    Secret,
    Verdict,
)
from netstore.peer.wire import (
    DigestMessage,
    JoinRequest,
    encode_document,
)
from netstore.raft.entry import SnapshotMeta
from netstore.raft.messages import InstallSnapshot
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.links import eventually, running_reactor
from tests.support.peermembers import (
    CLUSTER,
    SECRET,
    STRANGER,
    A,
    B,
    Member,
    beat,
    members,
    met,
    open_stream,
    who_is_there,
)


async def test_messages_arrive_in_order_and_are_counted() -> None:
    async with members() as (one, two):
        await met(one, two)
        sent = [beat(A, B, number) for number in range(50)]
        for start in range(0, 50, 5):
            one.peers.send(sent[start : start + 5])
        two.peers.send([beat(B, A)])
        await eventually(lambda: len(two.got) == 50 and one.got, "all has arrived")
        assert two.got == sent
        assert one.peers.traffic.messages_sent == two.peers.traffic.messages_received == 50
        assert 0 < one.peers.traffic.bytes_sent <= two.peers.traffic.bytes_received
        assert (one.peers.traffic.appends_sent, one.lost) == (0, [])


@pytest.mark.parametrize("url", ["http://a..b:1", "http://[1]:1", "http://h:99999999", "", "http://[:::]:1"])
async def test_an_invalid_url_of_one_member_does_not_affect_others(url: str) -> None:
    async with members() as (one, two):
        one.addresses[NodeId(0xC)] = (url,)
        await eventually(lambda: one.log.events("peer_not_reached"), "the address was tried")
        await met(one, two)


async def test_install_snapshot_starts_a_transfer() -> None:
    async with members() as (one, two):
        await met(one, two)
        wish = InstallSnapshot(A, B, Term(1), SnapshotMeta())
        one.peers.send([wish, beat(A, B)])
        await eventually(lambda: two.got, "the other message arrives")
        assert (one.wanted, two.got) == ([wish], [beat(A, B)])


async def test_a_state_digest_reaches_all_members() -> None:
    async with members() as (one, two):
        await met(one, two)
        one.peers.broadcast(DigestMessage(Index(7), b"d" * 16))
        await eventually(lambda: two.notes, "it arrives")
        assert two.notes == [(A, 7, b"d" * 16)]


async def test_a_member_of_another_cluster_is_refused_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    async with members(CLUSTER, ClusterId(0xC2)) as (one, two):
        await eventually(lambda: one.peers.round_trip(B).failures > 3, "it is tried again and again")
        assert one.connections == 0
        [told] = one.log.events("peer_not_reached")
        assert "belongs to cluster c1, this member to c2" in told
        await eventually(lambda: one.peers.estranged() is not None, "it is kept for the status")
        assert (found := one.peers.estranged()) is not None
        assert found[0].startswith(f"{B:x} at http://127.0.0.1:")
        assert found[0].endswith(" says: refused: belongs to cluster c1, this member to c2")
        assert "restore or import all members from the same file" in found[1]
        [refused] = two.log.events("peer_refused")
        assert "belongs to cluster c1" in refused


async def test_a_removed_member_is_refused_as_such() -> None:
    async with members() as (one, two):
        await met(one, two)
        two.removed.add(A)
        del two.addresses[A]
        await eventually(lambda: one.expelled, "it is told")
        assert "member a was removed from the cluster" in one.expelled[0]


async def test_a_member_with_new_urls_is_dialed_there() -> None:
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        one, two, moved = Member(reactor, A), Member(reactor, B), Member(reactor, B)
        one.addresses = {A: (one.url,), B: (two.url,)}
        for each in (one, two, moved):
            nursery.start_soon(each.peers.run, each, each)
        await eventually(lambda: one.connections, "it is called")
        one.addresses = {A: (one.url,), B: (moved.url,)}

        def arrives() -> bool:
            one.peers.send([beat(A, B)])
            return bool(moved.got)

        await eventually(arrives, "messages go to the new address")
        nursery.cancel_scope.cancel()


async def test_the_stream_to_a_member_that_left_the_list_is_ended() -> None:
    async with members() as (one, two):
        await met(one, two)
        one.addresses = {}
        await eventually(lambda: not two.incoming_streams, "the stream ends")


async def test_a_request_for_the_member_list_is_answered() -> None:
    async with members() as (one, _):
        request = JoinRequest("new", ("http://p:1",))
        assert (await who_is_there(one, one.url, request=request)).you == 5
        await who_is_there(one, "http://127.0.0.1:1", one.url)
        assert one.requests == [request, None]


async def test_an_empty_member_list_is_not_an_answer() -> None:
    async with members() as (one, two):
        one.listed = ()
        with pytest.raises(StreamFailed, match="has no list of members yet"):
            await who_is_there(one, one.url)
        assert (await who_is_there(one, one.url, two.url)).members == two.listed


async def test_of_several_failures_the_most_telling_is_raised() -> None:
    nobody = "http://127.0.0.1:1"
    async with members() as (one, two):
        one.listed = ()
        for urls, secret, verdict in (
            ([], SECRET, None),
            ([nobody], SECRET, None),
            ([one.url, nobody], SECRET, Verdict.FAILED),
            ([nobody, one.url], SECRET, Verdict.FAILED),
            ([two.url, one.url, nobody], Secret("another"), Verdict.NOT_PROVED),
        ):
            with pytest.raises(StreamFailed) as caught:
                await who_is_there(one, *urls, secret=secret)
            assert caught.value.verdict == verdict


async def test_a_second_snapshot_is_refused_as_busy() -> None:
    async with members() as (one, _):
        wish = msgspec.structs.replace(STRANGER, purpose=Purpose.SNAPSHOT)
        with pytest.raises(StreamFailed, match="another snapshot is being received") as caught:
            await open_stream(one, wish)
        assert caught.value.verdict == Verdict.BUSY


def test_no_document_is_an_empty_payload() -> None:
    assert encode_document(None) == b""
