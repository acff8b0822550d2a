"""Streams between members over real sockets: who is let in, what is bounded, what is logged."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest
import trio

from netstore.disk.datadir import MemberIdentity
from netstore.limits import Budget
from netstore.peer import dial as dialing
from netstore.peer import incoming, listener
from netstore.peer import outgoing as module
from netstore.peer import peers as peers_module
from netstore.peer.dial import DIAL_SECONDS, OutgoingStream, StreamFailed, dial
from netstore.peer.handshake import (
    MAX_GREETING_BYTES,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
    read_answer,
)
from netstore.peer.join import request_member_list
from netstore.peer.outgoing import MAX_PONGS_PER_READ
from netstore.peer.peers import Peers
from netstore.peer.wire import (
    PING,
    DigestMessage,
    JoinRequest,
    MemberList,
    encode_batch,
    encode_document,
    frame,
)
from netstore.raft.entry import Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import Append, ForwardRefused, Heartbeat, InstallSnapshot, MessageRefused
from netstore.state.members import MemberInfo
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.links import Quiet, eventually, running_reactor
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.incoming import IncomingStream
    from netstore.peer.link import Link
    from netstore.raft.messages import Message

CLUSTER, A, B = ClusterId(0xC1), NodeId(0xA), NodeId(0xB)
SECRET = Secret("a token")


class HandClock:
    """Real time, which a test can advance."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead  # fixed: a clock

    def wall(self) -> Any:
        raise NotImplementedError


class Member:
    """One end: the peers under test, recording everything that they pass on."""

    def __init__(
        self,
        reactor: Reactor,
        id_: NodeId,
        cluster: ClusterId = CLUSTER,
        *,
        secret: Secret | None = SECRET,
        credentials: Credentials | None = None,
    ) -> None:
        self.got: list[Message] = []
        self.refuses = ""
        self.lost: list[NodeId] = []
        self.notes: list[tuple[NodeId, Index, bytes]] = []
        self.expelled: list[str] = []
        self.wanted: list[InstallSnapshot] = []
        self.addresses: dict[NodeId, Sequence[str]] = {}
        self.removed: set[NodeId] = set()
        self.requests: list[JoinRequest | None] = []
        self.listed: tuple[MemberInfo, ...] = (MemberInfo(id_, "", (), ()),)
        self.clock = HandClock()
        self.log = Quiet()
        self.peers = Peers(
            identity=MemberIdentity(cluster, id_, f"m{id_:x}"),
            reactor=reactor,
            credentials=credentials,
            directory=lambda: (self.addresses, self.removed),
            join=self._handle_join,
            on_removed=self.expelled.append,
            on_digest=lambda *note: self.notes.append(note),
            clock=self.clock,
            log=self.log,
            secret=secret,
            budget=Budget(1 << 30),
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        scheme = "http" if credentials is None else "https"
        self.port = sock.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peers.listen(sock, tls=credentials is not None)

    @property
    def incoming_streams(self) -> list[IncomingStream]:
        """Incoming streams of authenticated callers."""
        return list(self.peers.listener.verified)

    @property
    def connections(self) -> int:
        """How many streams to another member were opened so far, by the log."""
        return len(self.log.events("peer_connected"))

    @property
    def unverified(self) -> list[IncomingStream]:
        """Incoming streams of unverified callers."""
        return list(self.peers.listener.unverified)

    def _handle_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.requests.append(request)
        answer(MemberList(CLUSTER, NodeId(5), self.listed))

    # A receiver, and copies.

    def receive(self, messages: Sequence[Message]) -> None:
        self.got += messages
        if self.refuses:
            raise MessageRefused(self.refuses)

    def unreachable(self, peer: NodeId) -> None:
        self.lost.append(peer)

    def request(self, message: InstallSnapshot) -> None:
        self.wanted.append(message)

    def accept(self, _link: Link, _sender: NodeId) -> None:
        return None


@asynccontextmanager
async def members(*clusters: ClusterId) -> AsyncIterator[tuple[Member, Member]]:
    """A and B, which know each other's URL."""
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
    await eventually(lambda: one.connections and two.connections, "both have called")


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


@pytest.mark.parametrize("url", ["http://a..b:1", "http://[1]:1", "http://h:99999999", "", "http://[:::]:1"])
async def test_an_invalid_url_of_one_member_does_not_affect_others(url: str) -> None:
    async with members() as (one, two):
        one.addresses[NodeId(0xC)] = (url,)
        await eventually(lambda: one.log.events("peer_not_reached"), "the address was tried")
        await met(one, two)


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


async def who_is_there(
    member: Member, *urls: str, request: JoinRequest | None = None, secret: Secret | None = SECRET
) -> MemberList:
    return await request_member_list(
        member.peers.reactor, urls, request, program="test", credentials=None, secret=secret
    )


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


STRANGER = Hello(Purpose.MESSAGES, CLUSTER, NodeId(0x99), A, "test")


async def open_stream(
    member: Member, hello: Hello = STRANGER, secret: Secret | None = SECRET
) -> OutgoingStream:
    """Dial as a member that is not in the called one's list, but knows the token."""
    return await dial(
        member.peers.reactor, member.url, hello, lambda _: None, credentials=None, secret=secret
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_batch([beat(B, A)]), "message of member b in the stream of 99"),
        (frame(b"nonsense"), "message claims"),
        (b"\xff" * 20, "frame claims"),
    ],
)
async def test_invalid_frames_end_the_stream(data: bytes, reason: str) -> None:
    async with members() as (one, _):
        made = await open_stream(one)
        made.link.write(data)
        await made.over.wait()
        assert reason in one.log.events("peer_cut")[0]
        assert one.got == []


async def test_a_refused_message_ends_the_stream_and_not_the_member() -> None:
    async with members() as (one, two):
        await met(one, two)
        two.refuses = "term 9 cannot be"
        one.peers.send([beat(A, B)])
        await eventually(lambda: one.lost, "the stream ends")
        assert "term 9 cannot be" in two.log.events("peer_cut")[0]
        await eventually(lambda: one.connections == 2, "it is dialed again")


async def test_replies_to_pings_that_were_not_sent_end_the_stream() -> None:
    async with members() as (one, two):
        await met(one, two)
        [stream] = [each for each in two.incoming_streams if each.sender == A]
        stream.link.write(PING * (MAX_PONGS_PER_READ + 1))
        await eventually(lambda: one.lost, "the stream ends")


async def test_pings_whose_replies_are_not_read_end_the_stream() -> None:
    async with members() as (one, _):
        made = await open_stream(one)
        made.link.pause()
        [stream] = [each for each in one.incoming_streams if each.sender == STRANGER.sender]
        stream.link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made.link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.fail_after(seconds(10)):
            while made.link.open and not one.log.events("peer_cut"):
                made.link.write(PING * 10_000)
                await trio.lowlevel.checkpoint()
        assert "does not take the answers" in one.log.events("peer_cut")[0]
        made.link.cut("over")


async def test_a_second_snapshot_is_refused_as_busy() -> None:
    async with members() as (one, _):
        wish = msgspec.structs.replace(STRANGER, purpose=Purpose.SNAPSHOT)
        with pytest.raises(StreamFailed, match="another snapshot is being received") as caught:
            await open_stream(one, wish)
        assert caught.value.verdict == Verdict.BUSY


async def test_a_silent_caller_is_closed() -> None:
    async with members() as (one, two):
        await met(one, two)
        with socket.create_connection(("127.0.0.1", int(one.url.rpartition(":")[2]))) as idle:
            await eventually(lambda: one.unverified, "it was accepted")
            one.clock.ahead += DIAL_SECONDS + 1
            await eventually(lambda: not one.unverified, "it was closed")
            idle.settimeout(seconds(5))
            assert idle.recv(9) == b""


def knock(member: Member, *, at: str = "127.0.0.2", says: bytes = b"") -> socket.socket:
    """A connection from another address of this machine, without a proof."""
    sock = socket.create_connection(("127.0.0.1", member.port), seconds(5), (at, 0))
    sock.sendall(says)
    return sock


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def is_there(member: Member, address: str) -> bool:
    return any(each.address == address for each in member.unverified)


async def test_unverified_callers_displace_each_other_and_never_a_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "MAX_UNVERIFIED", 6)
    monkeypatch.setattr(listener, "MAX_UNVERIFIED_PER_NETWORK", 3)
    async with members() as (one, two):
        await met(one, two)
        with ExitStack() as open_:
            quiet: list[socket.socket] = []
            while len(quiet) < 40:
                quiet.append(open_.enter_context(knock(one)))
                await eventually(lambda: len(one.unverified) >= min(3, len(quiet)), "it is there")
                assert len(one.unverified) <= 3
            await eventually(lambda: sum(map(is_closed, quiet)) == 37, "the older ones are gone")
            assert not any(map(is_closed, quiet[-3:]))
            for number in range(6):
                open_.enter_context(knock(one, at=f"127.0.0.{10 + number}"))
                await eventually(
                    partial(is_there, one, f"127.0.0.{10 + number}"),
                    "a caller from another address is accepted",
                )
            assert len(one.unverified) == 6
            made = await open_stream(one)
            assert made.link.open
            made.link.cut("over")
        assert (two.connections, two.lost) == (1, []), "no stream of a member was touched"


FAKE = Hello(Purpose.MESSAGES, CLUSTER, B, A, "test", offer=Offer.TOKEN)


async def test_known_ids_without_a_proof_open_and_end_no_stream() -> None:
    """Everything in a hello can be observed on the wire, or requested."""
    async with members() as (one, two):
        await met(one, two)
        streams = one.incoming_streams
        for purpose in (Purpose.MESSAGES, Purpose.SNAPSHOT, Purpose.MEMBER_LIST):
            for secret in (None, Secret("etcd-cluster"), Secret("")):
                with pytest.raises(StreamFailed):
                    await open_stream(one, msgspec.structs.replace(FAKE, purpose=purpose), secret)
        for more in (encode_batch([beat(B, A)]), frame(encode_document(None)), Proof(bytes(32)).encode()):
            for offer in Offer:
                hello = msgspec.structs.replace(FAKE, offer=offer).encode()
                with knock(one, says=hello + more) as sock:
                    await eventually(partial(is_closed, sock), "it is closed")
        await eventually(lambda: not one.unverified, "nothing of them is left")
        assert (one.got, one.requests) == ([], [])
        assert one.incoming_streams == streams
        assert (two.connections, two.lost) == (1, [])


async def test_a_man_in_the_middle_cannot_avoid_proofs() -> None:
    """The hello is changed to one that offers no proof, which a member answers at once."""
    async with members() as (one, _):
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        heard = bytearray()

        async def between() -> None:
            near = await listener[0].accept()
            far = await trio.open_tcp_stream("127.0.0.1", urlsplit(one.url).port or 0)
            async with near, far:
                found = Hello.read(await near.receive_some())
                assert found is not None
                asked = msgspec.structs.replace(found[0], offer=Offer.NOTHING).encode()
                await far.send_all(asked + frame(encode_document(None)))
                async for data in far:
                    heard.extend(data)
                await near.send_all(bytes(heard))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(between)
            with pytest.raises(StreamFailed, match="does not prove that it is a member"):
                await who_is_there(one, f"http://127.0.0.1:{listener[0].socket.getsockname()[1]}")
        answer = read_answer(bytes(heard))
        assert answer is not None
        assert isinstance(answer[0], Welcome)
        assert answer[0].verdict == Verdict.ACCEPTED
        assert one.requests == [None]
        await listener[0].aclose()


class Between:
    """A proxy before a member that passes everything on after `alter` changed it."""

    def __init__(self, alter: Callable[[bool, bytes], bytes] = lambda _, data: data) -> None:
        self.alter = alter
        self.near: trio.SocketStream
        self.far: trio.SocketStream
        self.url = ""

    async def run(self, member: Member, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        self.near = await listener.accept()
        self.far = await trio.open_tcp_stream("127.0.0.1", member.port)
        async with self.near, self.far, listener, trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._pass_on, self.near, self.far, from_caller=True))
            await self._pass_on(self.far, self.near, from_caller=False)
            nursery.cancel_scope.cancel()

    async def _pass_on(self, one: trio.SocketStream, other: trio.SocketStream, *, from_caller: bool) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in one:
                await other.send_all(self.alter(from_caller, bytes(data)))


async def test_a_man_in_the_middle_cannot_add_messages() -> None:
    async with members() as (one, _), trio.open_nursery() as nursery:
        between = Between()
        await nursery.start(between.run, one)
        heard: list[bytes] = []
        made = await dial(
            one.peers.reactor, between.url, STRANGER, heard.append, credentials=None, secret=SECRET
        )
        made.link.write(encode_batch([beat(NodeId(0x99), A)]))
        made.link.write(PING)
        await eventually(lambda: one.got, "the member's messages arrive")
        await eventually(lambda: heard == [PING], "and it is answered")
        await between.far.send_all(encode_batch([beat(NodeId(0x99), A, 7)]) * 2)
        await made.over.wait()
        assert "changed on the way: " in one.log.events("peer_cut")[0]
        assert one.got == [beat(NodeId(0x99), A)]
        nursery.cancel_scope.cancel()


async def test_a_man_in_the_middle_cannot_add_replies() -> None:
    async with members() as (one, _), trio.open_nursery() as nursery:
        between = Between()
        await nursery.start(between.run, one)
        heard: list[bytes] = []
        made = await dial(
            one.peers.reactor, between.url, STRANGER, heard.append, credentials=None, secret=SECRET
        )
        await between.near.send_all(PING * 10)
        await made.over.wait()
        assert made.reason.startswith("changed on the way: ")
        assert heard == []
        nursery.cancel_scope.cancel()


def earlier_hello(from_caller: bool, data: bytes) -> bytes:
    found = Hello.read(data) if from_caller and data[8] == 1 else None
    return data if found is None else msgspec.structs.replace(found[0], highest=2).encode()


def earlier_challenge(from_caller: bool, data: bytes) -> bytes:
    found = None if from_caller else read_answer(data)
    if found is None or not isinstance(found[0], Challenge):
        return data
    return msgspec.structs.replace(found[0], version=2).encode()


@pytest.mark.parametrize("alter", [earlier_hello, earlier_challenge])
async def test_a_man_in_the_middle_cannot_cause_a_downgrade(
    alter: Callable[[bool, bytes], bytes],
) -> None:
    async with members() as (one, _), trio.open_nursery() as nursery:
        between = Between(alter)
        await nursery.start(between.run, one)
        with pytest.raises(StreamFailed, match="does not know the join token"):
            await dial(
                one.peers.reactor, between.url, STRANGER, lambda _: None, credentials=None, secret=SECRET
            )
        nursery.cancel_scope.cancel()


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


async def test_recorded_greetings_cannot_be_replayed() -> None:
    async with members() as (one, two):
        await met(one, two)
        hello = FAKE.encode()
        with knock(one, says=hello) as first:
            first.settimeout(seconds(5))
            found = read_answer(await trio.to_thread.run_sync(first.recv, 1000))
            assert found is not None
            assert isinstance(found[0], Challenge)
            proof = Proof(SECRET.caller_proof(hello, found[0].encode())).encode()
            with knock(one, says=hello) as second:
                second.settimeout(seconds(5))
                await trio.to_thread.run_sync(second.recv, 1000)
                second.sendall(proof)
                answer = read_answer(await trio.to_thread.run_sync(second.recv, 1000))
                assert answer is not None
                assert isinstance(answer[0], Welcome)
                assert answer[0].verdict == Verdict.NOT_PROVED


async def test_an_authenticated_stream_replaces_the_one_before() -> None:
    async with members() as (one, two):
        await met(one, two)
        [old] = one.incoming_streams
        made = await open_stream(one, FAKE)
        await eventually(lambda: not old.link.open, "the old one ends")
        assert made.link.open
        made.link.cut("over")


async def test_an_unverified_caller_makes_a_member_hold_one_greeting_at_most() -> None:
    async with members() as (one, _):
        for says in (STRANGER.encode()[:-1], b"nstpeer\n\x01"):
            with knock(one, says=says):
                await eventually(lambda: any(each.spoke for each in one.unverified), "it spoke")
                assert sum(len(each._read) for each in one.unverified) <= MAX_GREETING_BYTES
            await eventually(lambda: not one.unverified, "it is gone")
        flood = b"nstpeer\n\x01" + (1024).to_bytes(2, "little") + bytes(1 << 20)
        with knock(one) as sock:
            sock.setblocking(False)
            with suppress(OSError):
                while not is_closed(sock):
                    with suppress(BlockingIOError):
                        sock.send(flood)
                    await trio.lowlevel.checkpoint()
        await eventually(lambda: not one.unverified, "it is gone")


async def test_a_member_without_a_token_refuses_every_caller() -> None:
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        one = Member(reactor, A, secret=None)
        nursery.start_soon(one.peers.run, one, one)
        with pytest.raises(StreamFailed, match="has no join token to compare with"):
            await open_stream(one)
        nursery.cancel_scope.cancel()


async def test_streams_of_unlisted_members_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_UNLISTED", 2)
    async with members() as (one, two):
        await met(one, two)
        made = [
            await open_stream(one, msgspec.structs.replace(STRANGER, sender=NodeId(0x90 + each)))
            for each in range(2)
        ]
        with pytest.raises(StreamFailed, match="in no list here"):
            await open_stream(one)
        for each in made:
            each.link.cut("over")


async def test_log_lines_about_callers_are_limited() -> None:
    async with members() as (one, _):
        for number in range(100):
            with pytest.raises(StreamFailed):
                await open_stream(
                    one, msgspec.structs.replace(FAKE, sender=NodeId(1000 + number)), Secret("x")
                )
        assert 0 < len(one.log.events("peer_refused")) < 60


async def test_incomplete_frames_of_all_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "MAX_INCOMPLETE_BYTES", 1_000_000)
    half = frame(bytes(900_000))[:600_000]
    async with members() as (one, _):
        first = await open_stream(one)
        first.link.write(half)
        await eventually(lambda: one.peers.listener.budget.used == len(half), "it is held")
        other = msgspec.structs.replace(STRANGER, sender=NodeId(0x98))
        second = await open_stream(one, other)
        second.link.write(half)
        await second.over.wait()
        assert first.link.open
        assert one.peers.listener.budget.used == len(half)
        assert "not complete" in one.log.events("peer_cut")[0]
        first.link.cut("over")


async def test_without_descriptors_accepting_stops_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with members() as (one, two):
        await met(one, two)
        [listener] = one.peers.listener._sockets
        refused = 0

        class Exhausted(socket.socket):
            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal refused
                refused += 1
                raise OSError(errno.EMFILE, "Too many open files")

            def fileno(self) -> int:
                return listener.fileno()

        with Exhausted() as exhausted:
            one.peers.listener._accept(exhausted, tls=False)
        assert one.log.events("guest_refused") == ["{'reason': 'Too many open files'}"]
        assert one.peers.listener._not_watched
        one.peers.listener._not_watched[:] = [listener]
        made = await open_stream(one)
        assert (refused, made.link.open) == (1, True)
        made.link.cut("over")


def test_no_document_is_an_empty_payload() -> None:
    assert encode_document(None) == b""
