"""An in-memory v2 store: the calls the agent makes and the failures of a real store, on Trio's clock."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import trio

from netstore.client.faults import BadAnswer, ClientError, Unreachable
from netstore.client.v2 import Answer, Node, V2Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PREFIX = "/coreos.com/network"
WINDOW = 1000


@dataclass
class Kept:
    """A file of the store."""

    value: str
    modified: int
    expires: float | None
    created: int


class FakePoll:
    """A long poll on the fake store (`client.v2.Poll`)."""

    def __init__(self, store: FakeStore, folder: str, index: int) -> None:
        self.etcd_index = store.index
        self.cluster_id = store.cluster_id
        self.timed_out = False
        self._store = store
        self._folder = folder
        self._index = index
        self._life = store.life
        self._told: Answer | None = None
        for answer in store.history:
            self.tell(answer)

    def tell(self, answer: Answer) -> None:
        """An event happened; the first one that matches is kept, even if the event window drops it."""
        if (
            self._told is None
            and answer.node.modified_index >= self._index
            and self._store.matches(answer, self._folder)
        ):
            self._told = answer

    async def event(self, limit: float) -> Answer | None:
        store = self._store
        with trio.move_on_after(limit):  # fixed: by the clock of the test
            while True:
                if self._told is not None:
                    await trio.lowlevel.checkpoint()
                    return self._told
                if store.life != self._life:
                    await trio.lowlevel.checkpoint()
                    return None  # cut off
                await store.changed.wait()
        self.timed_out = True
        return None


class FakeStore:
    """Keys and values. `down` fails every call, `cut` ends running polls, `rebuild` empties the store."""

    keeps_created: ClassVar[bool] = False
    """Whether a plain write of a key keeps the index of its creation."""

    def __init__(self) -> None:
        self.files: dict[str, Kept] = {}
        self.history: list[Answer] = []
        self.index = 3
        self.cluster_id = "c1"
        self.life = 0
        self.changed = trio.Event()
        self.waiting: set[FakePoll] = set()
        self.down = False
        self.refuses_writes = False
        """No write is done, and the writer is told so."""
        self.unheard_writes = 0
        """How many of the next writes are done without an answer."""
        self.answer_delay = 0.0
        """Seconds between a write and its answer."""
        self.gets = 0
        self.polls = 0
        self.error: ClientError | None = None
        """Raised by the next call that follows changes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()

    # What the agent calls

    async def get(self, key: str, *, recursive: bool = False, quorum: bool = False) -> Answer:
        await self._arrive()
        self.gets += 1
        if key in self.files:
            return self._answer("get", self._node(key))
        inside = [name for name in self.files if name.startswith(f"{key}/")]
        if not inside:
            raise V2Error(100, "Key not found", key, self.index, cluster_id=self.cluster_id)
        nodes = tuple(self._node(name) for name in inside)
        return self._answer("get", Node(key=key, dir=True, nodes=nodes))

    async def create(self, key: str, value: str, *, ttl: int | None = None) -> Answer:
        await self._arrive()
        self.refuse()
        if key in self.files:
            raise V2Error(105, "Key already exists", key, self.index, write=True)
        return await self._written(self.put(key, value, ttl, "create"))

    async def compare_and_swap(
        self, key: str, value: str, *, prev_index: int | None = None, ttl: int | None = None
    ) -> Answer:
        await self._arrive()
        self._compare(key, prev_index)
        return await self._written(self.put(key, value, ttl, "compareAndSwap"))

    async def compare_and_delete(self, key: str, *, prev_index: int | None = None) -> Answer:
        await self._arrive()
        self._compare(key, prev_index)
        return await self._written(self.remove(key, "compareAndDelete"))

    @asynccontextmanager
    async def poll_for_each(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[FakePoll]:
        await self._arrive()
        self.polls += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        wanted = index or self.index + 1
        if self.history and wanted < self.history[0].node.modified_index:
            raise V2Error(401, "The event in requested index is outdated and cleared", "", self.index)
        poll = FakePoll(self, key, wanted)
        self.waiting.add(poll)
        try:
            yield poll
        finally:
            self.waiting.remove(poll)

    # What others do

    def put(self, key: str, value: str, ttl: int | None = None, action: str = "set") -> Answer:
        """Write a file."""
        self.index += 1
        expires = None if ttl is None else trio.current_time() + ttl
        old = self.files.get(key)
        is_kept = old is not None and (action == "compareAndSwap" or self.keeps_created)
        created = old.created if old is not None and is_kept else self.index
        self.files[key] = Kept(value, self.index, expires, created)
        return self._happened(action, self._node(key))

    def time(self, key: str, expires: float) -> None:
        """Let a file have its end at this time, as if it had been written so."""
        self.files[key].expires = expires

    def lease(self, name: str, address: str, ttl: int | None = 86_400) -> Answer:
        """Write a usable lease."""
        value = f'{{"PublicIP":"{address}","BackendType":"host-gw"}}'
        return self.put(f"{PREFIX}/subnets/{name}", value, ttl)

    def remove(self, key: str, action: str = "delete") -> Answer:
        """Remove a file, or a folder with everything in it."""
        self.index += 1
        self.files = {
            name: kept for name, kept in self.files.items() if name != key and not name.startswith(f"{key}/")
        }
        return self._happened(action, Node(key=key, modified_index=self.index))

    def cut(self) -> None:
        """End every poll without an event, as when the store stops."""
        self.life += 1
        self._wake()

    def rebuild(self, *, cluster_id: str, index: int = 3) -> None:
        """An empty store at the same address."""
        self.files, self.history = {}, []
        self.cluster_id, self.index = cluster_id, index
        self.cut()

    async def expire(self) -> None:
        """Remove expired keys within half a second, forever (v2 API, "Expiring")."""
        while True:
            ends = [kept.expires for kept in self.files.values() if kept.expires is not None]
            with trio.move_on_at(min(ends, default=math.inf)):
                await self.changed.wait()
            await trio.sleep(0.5)  # fixed: by the clock of the test
            for name, kept in list(self.files.items()):
                if kept.expires is not None and kept.expires <= trio.current_time():
                    self.remove(name, "expire")

    @staticmethod
    def matches(answer: Answer, folder: str) -> bool:
        """Whether a recursive watch of the folder matches the event."""
        key = answer.node.key
        gone = answer.action in ("delete", "expire") and folder.startswith(f"{key}/")
        return key == folder or key.startswith(f"{folder}/") or gone

    def refuse(self) -> None:
        """Refuse a write, if they are to be refused."""
        if self.refuses_writes:
            raise BadAnswer("http://store", "answered 500: no space", status=500)

    async def _arrive(self) -> None:
        await trio.sleep(0.001)  # fixed: by the clock of the test
        if self.down:
            raise Unreachable([("http://store", "connection refused")], outcome_known=True)

    async def _written(self, answer: Answer) -> Answer:
        if self.answer_delay:
            await trio.sleep(self.answer_delay)  # fixed: by the clock of the test
        if self.unheard_writes:
            self.unheard_writes -= 1
            raise Unreachable([("http://store", "no answer")], outcome_known=False)
        return answer

    def _compare(self, key: str, prev_index: int | None) -> None:
        kept = self.files.get(key)
        if kept is None:
            raise V2Error(100, "Key not found", key, self.index, write=True)
        if kept.modified != prev_index:
            raise V2Error(101, "Compare failed", f"[{prev_index} != {kept.modified}]", self.index, write=True)

    def _node(self, key: str) -> Node:
        kept = self.files[key]
        ttl = None if kept.expires is None else int(kept.expires - trio.current_time() + 0.999)
        return Node(
            key=key, value=kept.value, ttl=ttl, modified_index=kept.modified, created_index=kept.created
        )

    def _answer(self, action: str, node: Node) -> Answer:
        return Answer(action, node, None, self.index, self.cluster_id)

    def _happened(self, action: str, node: Node) -> Answer:
        answer = self._answer(action, node)
        self.history = [*self.history, answer][-WINDOW:]
        for poll in self.waiting:
            poll.tell(answer)
        self._wake()
        return answer

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
