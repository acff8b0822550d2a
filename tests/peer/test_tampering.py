"""A man in the middle, who changes what two members send to each other."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
import trio

from netstore.peer.dial import StreamFailed, dial
from netstore.peer.handshake import (
    Challenge,
    Hello,
    Offer,
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
from tests.support.links import eventually
from tests.support.peermembers import (
    SECRET,
    STRANGER,
    A,
    Member,
    beat,
    members,
    who_is_there,
)

if TYPE_CHECKING:
    from collections.abc import Callable


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


class Proxy:
    """A proxy before a member: `alter` may change what it forwards."""

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
        between = Proxy()
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
        between = Proxy()
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
        between = Proxy(alter)
        await nursery.start(between.run, one)
        with pytest.raises(StreamFailed, match="does not know the join token"):
            await dial(
                one.peers.reactor, between.url, STRANGER, lambda _: None, credentials=None, secret=SECRET
            )
        nursery.cancel_scope.cancel()
