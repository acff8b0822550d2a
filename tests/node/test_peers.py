"""Streams between members over real sockets: who may talk, what is bounded, what is told once."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from netstore.disk.datadir import MemberIdentity
from netstore.net.call import DIAL_SECONDS, CallFailed, call
from netstore.net.peerwire import (
    PING,
    Application,
    Hello,
    Purpose,
    Roster,
    StateNote,
    Verdict,
    encode_batch,
    encode_document,
    frame,
)
from netstore.node import peers as module
from netstore.node.peers import Peers
from netstore.node.register import ask
from netstore.raft.entry import Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import Append, Heartbeat, InstallSnapshot, MessageRefused
from netstore.state.member import MemberInfo
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.links import Quiet, eventually, running_reactor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from netstore.net.link import Link
    from netstore.net.reactor import Reactor
    from netstore.raft.messages import Message

CLUSTER, A, B = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)


class HandClock:
    """Real time that a test can push forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def wall(self) -> Any:
        raise NotImplementedError


class Member:
    """One end: the peers under test, and everything that they hand on."""

    def __init__(self, reactor: Reactor, id_: NodeId, cluster: ClusterId = CLUSTER) -> None:
        self.got: list[Message] = []
        self.refuses = ""
        self.lost: list[NodeId] = []
        self.notes: list[tuple[NodeId, Index, bytes]] = []
        self.expelled: list[str] = []
        self.wanted: list[InstallSnapshot] = []
        self.addresses: dict[NodeId, Sequence[str]] = {}
        self.removed: set[NodeId] = set()
        self.applications: list[Application | None] = []
        self.listed: tuple[MemberInfo, ...] = (MemberInfo(id_, "", (), ()),)
        self.clock = HandClock()
        self.log = Quiet()
        self.peers = Peers(
            identity=MemberIdentity(cluster, id_, f"m{id_:x}"),
            reactor=reactor,
            credentials=None,
            directory=lambda: (self.addresses, self.removed),
            register=self._register,
            expelled=self.expelled.append,
            noted=lambda *note: self.notes.append(note),
            clock=self.clock,
            log=self.log,
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.peers.listen(sock, tls=False)

    def _register(self, application: Application | None, answer: Callable[[Roster], None]) -> None:
        self.applications.append(application)
        answer(Roster(CLUSTER, NodeId(5), self.listed))

    # A receiver, and copies.

    def receive(self, messages: Sequence[Message]) -> None:
        self.got += messages
        if self.refuses:
            raise MessageRefused(self.refuses)

    def unreachable(self, peer: NodeId) -> None:
        self.lost.append(peer)

    def request(self, message: InstallSnapshot) -> None:
        self.wanted.append(message)

    def incoming(self, _link: Link, _sender: NodeId) -> None:
        return None


@asynccontextmanager
async def members(*clusters: ClusterId) -> AsyncIterator[tuple[Member, Member]]:
    """A and B, who know each other's address."""
    async with running_reactor() as reactor:
        one, two = (
            Member(reactor, id_, cluster)
            for id_, cluster in zip((A, B), clusters or (CLUSTER, CLUSTER), strict=True)
        )
        for each in (one, two):
            each.addresses = {A: (one.url,), B: (two.url,)}
        async with trio.open_nursery() as nursery:
            for each in (one, two):
                nursery.start_soon(each.peers.run, each, each)
            yield one, two
            nursery.cancel_scope.cancel()


async def met(one: Member, two: Member) -> None:
    await eventually(lambda: one.peers.connected(B) and two.peers.connected(A), "both have called")


def beat(sender: NodeId, to: NodeId, commit: int = 0) -> Heartbeat:
    return Heartbeat(sender, to, Term(1), Index(commit), 0)


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


async def test_a_wish_for_a_state_copy_goes_another_way() -> None:
    async with members() as (one, two):
        await met(one, two)
        wish = InstallSnapshot(A, B, Term(1), SnapshotMeta())
        one.peers.send([wish, beat(A, B)])
        await eventually(lambda: two.got, "the other message arrives")
        assert (one.wanted, two.got) == ([wish], [beat(A, B)])


async def test_a_note_of_a_state_reaches_everybody_with_its_sender() -> None:
    async with members() as (one, two):
        await met(one, two)
        one.peers.tell(StateNote(Index(7), b"d" * 16))
        await eventually(lambda: two.notes, "it arrives")
        assert two.notes == [(A, 7, b"d" * 16)]


async def test_pings_measure_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    async with members() as (one, two):
        await met(one, two)
        way = one.peers.round_trip(B)
        await eventually(lambda: way.successes > 2, "pings come back")
        assert 0 < way.least <= way.average <= way.most
        assert one.peers.round_trip(NodeId(99)).successes == 0


async def test_a_peer_that_takes_nothing_costs_its_bound_and_raft_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OUTBOX_BYTES", 1 << 20)
    async with members() as (one, two):
        await met(one, two)
        [guest] = two.peers._guests
        guest.link.pause()
        entry = Entry(Index(1), Term(1), EntryKind.NORMAL, bytes(300_000))
        for _ in range(60):
            one.peers.send([Append(A, B, Term(1), Index(0), Term(0), Index(0), (entry,))])
        assert one.lost
        assert set(one.lost) == {B}
        stream = one.peers._peers[B]._call
        assert stream is not None
        assert stream.link.unsent <= 1 << 20
        guest.link.resume()


async def test_a_silent_peer_is_hung_up_on_and_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    async with members() as (one, two):
        await met(one, two)
        since = one.peers.connected_since(B)
        [guest] = two.peers._guests
        guest.link.pause()
        one.clock.ahead += module.SILENCE_SECONDS + 1
        await eventually(lambda: one.lost == [B], "Raft hears of it")
        assert "nothing was heard in time" in one.log.events("peer_lost")[0]
        await eventually(lambda: one.peers.connected_since(B) not in (None, since), "it is called again")


async def test_a_member_of_another_cluster_is_refused_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    async with members(CLUSTER, ClusterId(0xC2)) as (one, two):
        await eventually(lambda: one.peers.round_trip(B).failures > 3, "it is tried again and again")
        assert not one.peers.connected(B)
        [told] = one.log.events("peer_not_reached")
        assert "belongs to cluster c1, this member to c2" in told
        [refused] = two.log.events("peer_refused")
        assert "belongs to cluster c1" in refused


async def test_a_removed_member_is_refused_as_such() -> None:
    async with members() as (one, two):
        await met(one, two)
        two.removed.add(A)
        del two.addresses[A]
        await eventually(lambda: one.expelled, "it is told")
        assert "member a was removed from the cluster" in one.expelled[0]


async def test_a_member_that_moved_is_called_where_it_is() -> None:
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        one, two, moved = Member(reactor, A), Member(reactor, B), Member(reactor, B)
        one.addresses = {A: (one.url,), B: (two.url,)}
        for each in (one, two, moved):
            nursery.start_soon(each.peers.run, each, each)
        await eventually(lambda: one.peers.connected(B), "it is called")
        one.addresses = {A: (one.url,), B: (moved.url,)}

        def arrives() -> bool:
            one.peers.send([beat(A, B)])
            return bool(moved.got)

        await eventually(arrives, "messages go to the new address")
        nursery.cancel_scope.cancel()


async def test_who_forgets_an_address_hangs_up() -> None:
    async with members() as (one, two):
        await met(one, two)
        one.addresses = {}
        await eventually(lambda: not one.peers.connected(B) and not two.peers._guests, "the stream ends")


async def test_who_asks_who_is_there_gets_an_answer() -> None:
    async with members() as (one, _):
        application = Application("new", ("http://p:1",))
        assert (await ask(one.peers.reactor, [one.url], None, "test", application)).you == 5
        await ask(one.peers.reactor, ["http://127.0.0.1:1", one.url], None, "test")
        assert one.applications == [application, None]


async def test_who_has_no_list_yet_is_no_answer() -> None:
    async with members() as (one, two):
        one.listed = ()
        with pytest.raises(CallFailed, match="has no list of members yet"):
            await ask(one.peers.reactor, [one.url], None, "test")
        assert (await ask(one.peers.reactor, [one.url, two.url], None, "test")).members == two.listed


STRANGER = Hello(Purpose.MESSAGES, CLUSTER, NodeId(0x99), A, "test")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_batch([beat(B, A)]), "message of member b in the stream of 99"),
        (frame(b"nonsense"), "message claims"),
        (b"\xff" * 20, "frame claims"),
    ],
)
async def test_what_makes_no_sense_ends_the_stream(data: bytes, reason: str) -> None:
    async with members() as (one, _):
        made = await call(one.peers.reactor, one.url, STRANGER, lambda _: None, None)
        made.link.write(data)
        await made.over.wait()
        assert reason in one.log.events("peer_cut")[0]
        assert one.got == []


async def test_what_cannot_be_true_ends_the_stream_and_not_the_member() -> None:
    async with members() as (one, two):
        await met(one, two)
        since = one.peers.connected_since(B)
        two.refuses = "term 9 cannot be"
        one.peers.send([beat(A, B)])
        await eventually(lambda: one.lost, "the stream ends")
        assert "term 9 cannot be" in two.log.events("peer_cut")[0]
        await eventually(lambda: one.peers.connected_since(B) not in (None, since), "it is called again")


async def test_pings_whose_answers_nobody_takes_end_the_stream() -> None:
    async with members() as (one, _):
        made = await call(one.peers.reactor, one.url, STRANGER, lambda _: None, None)
        made.link.pause()
        [guest] = [each for each in one.peers._guests if each.sender == STRANGER.sender]
        guest.link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made.link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.fail_after(10):
            while made.link.open and not one.log.events("peer_cut"):
                made.link.write(PING * 10_000)
                await trio.lowlevel.checkpoint()
        assert "does not take the answers" in one.log.events("peer_cut")[0]
        made.link.cut("over")


async def test_a_second_copy_is_refused_as_busy() -> None:
    async with members() as (one, _):
        wish = msgspec.structs.replace(STRANGER, purpose=Purpose.IMAGE)
        with pytest.raises(CallFailed, match="another state copy is being received") as caught:
            await call(one.peers.reactor, one.url, wish, lambda _: None, None)
        assert caught.value.verdict == Verdict.BUSY


async def test_who_says_nothing_is_let_go() -> None:
    async with members() as (one, two):
        await met(one, two)
        with socket.create_connection(("127.0.0.1", int(one.url.rpartition(":")[2]))) as idle:
            await eventually(lambda: len(one.peers._guests) == 2, "it was accepted")
            one.clock.ahead += DIAL_SECONDS + 1
            await eventually(lambda: len(one.peers._guests) < 2, "it was let go")
            idle.settimeout(5)
            assert idle.recv(9) == b""


async def test_more_streams_than_allowed_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GUESTS", 1)
    async with members() as (one, two):
        await met(one, two)
        with socket.create_connection(("127.0.0.1", int(one.url.rpartition(":")[2]))) as late:
            await eventually(lambda: one.log.events("guest_refused"), "it is told")
            late.settimeout(5)
            assert late.recv(9) == b""


async def test_half_frames_of_many_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 1 << 20)
    half = frame(bytes(900_000))[:600_000]
    async with members() as (one, _):
        first = await call(one.peers.reactor, one.url, STRANGER, lambda _: None, None)
        first.link.write(half)
        await eventually(lambda: one.peers.held == len(half), "it is held")
        other = msgspec.structs.replace(STRANGER, sender=NodeId(0x98))
        second = await call(one.peers.reactor, one.url, other, lambda _: None, None)
        second.link.write(half)
        await second.over.wait()
        assert first.link.open
        assert one.peers.held == len(half)
        assert "not complete" in one.log.events("peer_cut")[0]
        first.link.cut("over")


async def test_without_descriptors_accepting_rests_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with members() as (one, two):
        await met(one, two)
        [listener] = one.peers._listeners
        refused = 0

        class Exhausted(socket.socket):
            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal refused
                refused += 1
                raise OSError(errno.EMFILE, "Too many open files")

            def fileno(self) -> int:
                return listener.fileno()

        with Exhausted() as exhausted:
            one.peers._accept(exhausted, tls=False)
        assert one.log.events("guest_refused") == ["{'reason': 'Too many open files'}"]
        assert one.peers._resting
        one.peers._resting[:] = [listener]
        made = await call(one.peers.reactor, one.url, STRANGER, lambda _: None, None)
        assert (refused, made.link.open) == (1, True)
        made.link.cut("over")


def test_round_trips_are_summed_up_without_keeping_them() -> None:
    way = module.RoundTrip()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        way.add(seconds)
    assert (way.successes, way.current, way.average, way.least, way.most) == (4, 4.0, 2.5, 1.0, 4.0)
    assert way.deviation == pytest.approx(1.25**0.5)
    assert module.RoundTrip().deviation == 0.0


def test_a_document_of_nobody_is_an_empty_payload() -> None:
    assert encode_document(None) == b""
