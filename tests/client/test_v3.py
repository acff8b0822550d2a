"""Tokens and watches of a client of the v3 API, at a store that asks for tokens as etcd does."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import Status
from netstore.client.v3 import V3Client
from netstore.proto import rpc_pb2 as pb
from tests.client.test_grpc import HEAD, Served, Server, channel

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Store(Server):
    """A store that accepts its newest token. `refusal` is how it refuses another one."""

    def __init__(self, refusal: tuple[int, str] = (16, "etcdserver: invalid auth token")) -> None:
        super().__init__(self.serve)
        self.tokens = 0
        self.is_enabled = True
        self.not_enabled = (9, "etcdserver: authentication is not enabled")
        self.asked = 0
        self.refusal = refusal

    async def serve(self, served: Served, number: int, _body: bytes) -> None:
        path = served.metadata[":path"]
        served.h2.send_headers(number, HEAD)
        if path.endswith("/Authenticate"):
            self.asked += 1
            if not self.is_enabled:
                return served.end(number, *self.not_enabled)
            self.tokens += 1
            return self.answer(served, number, pb.AuthenticateResponse(token=str(self.tokens)))
        is_refused = self.is_enabled and served.metadata.get("token") != str(self.tokens)
        if path.endswith("/Watch"):
            reason = self.refusal[1] if is_refused else ""
            created = pb.WatchResponse(created=True, canceled=is_refused, cancel_reason=reason)
            data = created.SerializeToString()
            return served.h2.send_data(number, struct.pack(">BI", 0, len(data)) + data)
        if is_refused:
            return served.end(number, *self.refusal)
        return self.answer(served, number, pb.RangeResponse())

    def answer(self, served: Served, number: int, message: Message) -> None:
        data = message.SerializeToString()
        served.h2.send_data(number, struct.pack(">BI", 0, len(data)) + data)
        served.end(number, 0)


STALE = [
    (16, "etcdserver: invalid auth token"),
    (3, "etcdserver: revision of auth store is old"),
    (3, "etcdserver: user name is empty"),
]


@pytest.mark.parametrize("token", ["a\r\nb", "a\nb", "\x7f", "ü"])
async def test_a_token_that_no_field_can_carry_is_refused(token: str) -> None:
    class Strange(Store):
        def answer(self, served: Served, number: int, message: Message) -> None:
            super().answer(served, number, pb.AuthenticateResponse(token=token))

    async with channel(Strange()) as calls:
        with pytest.raises(BadAnswer, match="gave a token with characters that no field of a call can carry"):
            await V3Client(calls, "agent", "x").range(pb.RangeRequest(key=b"a"))
        assert calls.metadata == {}


@pytest.mark.parametrize("refusal", STALE)
async def test_a_stale_token_is_replaced_once(refusal: tuple[int, str]) -> None:
    store = Store(refusal)
    async with channel(store) as calls:
        client = V3Client(calls, "agent", "x")
        await client.range(pb.RangeRequest(key=b"a"))
        store.tokens += 1
        await client.range(pb.RangeRequest(key=b"a"))
        assert store.asked == 2
        store.tokens += 1
        async with client.watch(pb.WatchCreateRequest(key=b"a")) as watch:
            assert not (await watch.answer()).canceled
        assert store.asked == 3


async def test_a_watch_that_is_not_permitted_is_not_opened_again() -> None:
    store = Store((7, "etcdserver: permission denied"))
    async with channel(store) as calls:
        client = V3Client(calls, "agent", "x")
        await client.range(pb.RangeRequest(key=b"a"))
        store.tokens += 1
        async with client.watch(pb.WatchCreateRequest(key=b"a")) as watch:
            assert (await watch.answer()).canceled
        assert store.asked == 1


@pytest.mark.parametrize("told", [(9, "etcdserver: authentication is not enabled"), (12, "unknown method")])
async def test_a_store_that_asks_for_no_token_is_asked_once_a_connection(told: tuple[int, str]) -> None:
    store = Store(STALE[2])
    store.is_enabled, store.not_enabled = False, told
    async with channel(store) as calls:
        client = V3Client(calls, "agent", "x")
        for _ in range(3):
            await client.range(pb.RangeRequest(key=b"a"))
        assert store.asked == 1
        store.is_enabled = True
        await client.range(pb.RangeRequest(key=b"a"))
        assert (store.asked, store.tokens) == (2, 1)


async def test_a_wrong_password_is_an_error() -> None:
    store = Store()
    store.is_enabled, store.not_enabled = False, (3, "etcdserver: authentication failed")
    async with channel(store) as calls:
        with pytest.raises(Status, match="authentication failed"):
            await V3Client(calls, "agent", "y").range(pb.RangeRequest(key=b"a"))


async def test_a_watch_leaves_a_member_that_was_lost() -> None:
    async def cut(served: Served, _number: int, _body: bytes) -> None:
        await served.stream.aclose()

    first, second = Server(cut), Store()
    second.is_enabled = False
    async with channel(first, second) as calls:
        client = V3Client(calls)
        async with client.watch(pb.WatchCreateRequest(key=b"a")) as watch:
            with pytest.raises(Unreachable) as caught:
                await watch.answer()
            assert caught.value.outcome_known, "a watch writes nothing"
        async with client.watch(pb.WatchCreateRequest(key=b"a")) as watch:
            assert (await watch.answer()).created
        assert (first.calls, second.calls) == (1, 1)
