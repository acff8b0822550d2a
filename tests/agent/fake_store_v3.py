"""An in-memory v3 store: the calls the agent makes, with the keys, failures and clock of `fake_store`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from netstore.client.faults import Unreachable
from netstore.client.v2 import Answer, Node
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb
from tests.agent.fake_store import FakeStore, Kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from netstore.client.faults import ClientError

GONE = "delete"


class FakeWatch:
    """One watch on the fake store (`client.v3.WatchCall`)."""

    def __init__(self, store: FakeV3Store, request: pb.WatchCreateRequest) -> None:
        self._store = store
        self._request = request
        self._next = request.start_revision
        self._life = store.life
        self._created = False
        self._is_asked = False
        """For progress."""

    async def send(self, request: pb.WatchRequest) -> None:
        self._is_asked = request.HasField("progress_request")

    async def answer(self) -> pb.WatchResponse:
        await trio.lowlevel.checkpoint()
        store = self._store
        if not self._created:
            self._created = True
            header = store.header()
            header.revision -= store.lag
            return pb.WatchResponse(header=header, created=True)
        while True:
            if store.life != self._life:
                raise Unreachable([("http://store", "it closed the connection")], outcome_known=False)
            if store.history and self._next < store.history[0].node.modified_index:
                first = store.history[0].node.modified_index
                return pb.WatchResponse(header=store.header(), canceled=True, compact_revision=first)
            events = [
                event(answer)
                for answer in store.history
                if answer.node.modified_index >= self._next
                and self._request.key <= answer.node.key.encode() < self._request.range_end
            ]
            if events:
                self._next = events[-1].kv.mod_revision + 1
                return pb.WatchResponse(header=store.header(), events=events)
            if self._is_asked:
                self._is_asked = False
                return pb.WatchResponse(header=store.header(), watch_id=-1)
            await store.changed.wait()


def event(answer: Answer) -> kv_pb2.Event:
    """An event as v3 has it."""
    node = answer.node
    kind = kv_pb2.Event.DELETE if answer.action == GONE else kv_pb2.Event.PUT
    value = (node.value or "").encode()
    found = kv_pb2.KeyValue(
        key=node.key.encode(),
        value=value,
        mod_revision=node.modified_index,
        create_revision=node.created_index,
    )
    if kind == kv_pb2.Event.PUT and node.ttl is not None:
        found.lease = 1
    return kv_pb2.Event(type=kind, kv=found)


class FakeV3Store(FakeStore):
    """Implements what `client.subnets_v3` uses of `client.v3.V3Client`. A lease is a TTL, by its number."""

    keeps_created = True

    def __init__(self) -> None:
        super().__init__()
        self.granted: dict[int, int] = {}
        """The leases that there are, with their TTL."""
        self.last_lease = 0
        self.lag = 0
        """Revisions that the member that serves watches is behind."""
        self.attached: dict[str, int] = {}
        self.write_error: ClientError | None = None
        """Raised by each transaction, which does nothing then."""

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        await self._arrive()
        self.gets += 1
        return self.found(request)

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        await self._arrive()
        self.refuse()
        if self.write_error is not None:
            raise self.write_error
        [compare] = request.compare
        key = compare.key.decode()
        kept = self.files.get(key)
        if compare.target == pb.Compare.VERSION:
            holds = kept is None
        else:
            holds = kept is not None and kept.modified == compare.mod_revision
        if not holds:
            told = self.found(request.failure[0].request_range)
            response = pb.ResponseOp(response_range=told)
            return pb.TxnResponse(header=self.header(), succeeded=False, responses=[response])
        [operation] = request.success
        if operation.HasField("request_put"):
            put = operation.request_put
            self.attached.pop(key, None)
            answer = super().put(key, put.value.decode(), self.granted.get(put.lease))
            if put.lease:
                self.attached[key] = put.lease
            await self._written(answer)
        else:
            await self._written(self.remove(key))
        return pb.TxnResponse(header=self.header(), succeeded=True)

    async def grant(self, ttl: int) -> int:
        await self._arrive()
        self.last_lease += 1
        self.granted[self.last_lease] = ttl
        return self.last_lease

    async def revoke(self, lease: int) -> None:
        await self._arrive()
        self.granted.pop(lease, None)
        for key in [key for key, each in self.attached.items() if each == lease]:
            self.remove(key)

    async def remaining(self, lease: int) -> int:
        await self._arrive()
        for key, each in self.attached.items():
            kept = self.files[key]
            if each == lease and kept.expires is not None:
                return int(kept.expires - trio.current_time())
        return self.granted.get(lease, -1)

    async def keep_alive(self, lease: int) -> int:
        await self._arrive()
        ttl = self.granted.get(lease, 0)
        for key, each in self.attached.items():
            if each == lease:
                kept = self.files[key]
                self.files[key] = Kept(kept.value, kept.modified, trio.current_time() + ttl, kept.created)
        return ttl

    async def version(self) -> str:
        return "3.5.30"

    @asynccontextmanager
    async def watch(self, request: pb.WatchCreateRequest) -> AsyncIterator[FakeWatch]:
        await self._arrive()
        self.polls += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        yield FakeWatch(self, request)

    def put(self, key: str, value: str, ttl: int | None = None, action: str = "set") -> Answer:
        """Write a key, with a lease of its own if there is a TTL."""
        self.attached.pop(key, None)
        if ttl is not None:
            self.last_lease += 1
            self.granted[self.last_lease] = ttl
            self.attached[key] = self.last_lease
        return super().put(key, value, ttl, action)

    def time(self, key: str, expires: float) -> None:
        super().time(key, expires)
        self.last_lease += 1
        self.granted[self.last_lease] = int(expires)
        self.attached[key] = self.last_lease

    def remove(self, key: str, action: str = "delete") -> Answer:
        """Remove a key, or all keys in a folder by one change."""
        names = [name for name in self.files if name == key or name.startswith(f"{key}/")]
        self.index += 1
        answer = self._answer(GONE, Node(key=key, modified_index=self.index))
        for name in names:
            del self.files[name]
            self.attached.pop(name, None)
            answer = self._happened(GONE, Node(key=name, modified_index=self.index))
        return answer

    def rebuild(self, *, cluster_id: str, index: int = 3) -> None:
        self.granted, self.attached = {}, {}
        super().rebuild(cluster_id=cluster_id, index=index)

    def header(self) -> pb.ResponseHeader:
        """The header of an answer now."""
        return pb.ResponseHeader(cluster_id=int.from_bytes(self.cluster_id.encode()), revision=self.index)

    def found(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """What a range finds."""
        start, end = request.key.decode(), request.range_end.decode()
        names = sorted(
            name
            for name, kept in self.files.items()
            if (name == start or start <= name < end) and kept.modified >= request.min_mod_revision
        )
        found = [event(self._answer("get", self._node(name))).kv for name in names]
        for name, each in zip(names, found, strict=True):
            each.lease = self.attached.get(name, 0)
        return pb.RangeResponse(header=self.header(), kvs=found, count=len(names))
