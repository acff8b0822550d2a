"""Callers over real sockets: who is let in, what is bounded, what is logged."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import msgspec
import pytest
import trio

from netstore.peer import incoming, listener
from netstore.peer import peers as peers_module
from netstore.peer.dial import DIAL_SECONDS, StreamFailed
from netstore.peer.handshake import (
    MAX_GREETING_BYTES,
    Challenge,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
    read_answer,
)
from netstore.peer.wire import (
    PING,
    encode_batch,
    encode_document,
    frame,
)
from netstore.types import NodeId
from tests.support.links import eventually, running_reactor
from tests.support.patience import seconds
from tests.support.peermembers import (
    FAKE,
    SECRET,
    STRANGER,
    A,
    B,
    Member,
    beat,
    is_closed,
    knock,
    members,
    met,
    open_stream,
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


async def test_a_silent_caller_is_closed() -> None:
    async with members() as (one, two):
        await met(one, two)
        with socket.create_connection(("127.0.0.1", int(one.url.rpartition(":")[2]))) as idle:
            await eventually(lambda: one.unverified, "it was accepted")
            one.clock.ahead += DIAL_SECONDS + 1
            await eventually(lambda: not one.unverified, "it was closed")
            idle.settimeout(seconds(5))
            assert idle.recv(9) == b""


def is_there(member: Member, address: str) -> bool:
    return any(each.address == address for each in member.unverified)


async def test_unverified_callers_displace_each_other_and_never_a_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "AUTHENTICATION_SECONDS", 3600.0)
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
        assert one.log.events("stream_refused") == ["{'reason': 'Too many open files'}"]
        assert one.peers.listener._not_watched
        one.peers.listener._not_watched[:] = [listener]
        made = await open_stream(one)
        assert (refused, made.link.open) == (1, True)
        made.link.cut("over")
