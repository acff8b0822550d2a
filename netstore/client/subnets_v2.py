"""Network config and subnet leases in the v2 API, as flannel up to 0.17 keeps them: `subnetstore` by files
with a TTL.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from netstore.client.subnetstore import (
    Differs,
    Entry,
    HistoryLost,
    Listing,
    Missing,
    News,
    Removed,
    RemovedTogether,
    Written,
)
from netstore.client.v2 import COMPARE_FAILED, INDEX_CLEARED, KEY_EXISTS, KEY_NOT_FOUND, V2Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from netstore.client.v2 import Answer, Node, V2Client

_REMOVALS: Final = frozenset({"delete", "expire", "compareAndDelete"})


class V2Subnets:
    """See `subnetstore.SubnetStore`."""

    api = "v2"
    names_ipv6 = False

    def __init__(self, client: V2Client, prefix: str, folder: str = "subnets") -> None:
        self.prefix = prefix
        self._client = client
        self._folder = f"{prefix}/{folder}"

    async def config(self) -> Entry | None:
        found = await self._read(f"{self.prefix}/config")
        return None if isinstance(found, Missing) else found

    async def entries(self) -> Listing:
        try:
            answer = await self._client.get(self._folder, recursive=True, quorum=True)
        except V2Error as error:
            if error.code != KEY_NOT_FOUND:
                raise
            return Listing((), error.index, error.cluster_id)
        entries = [_entry(node) for node in answer.node.nodes]
        return Listing(entries, answer.etcd_index, answer.cluster_id)

    async def entry(self, name: str) -> Entry | Missing:
        return await self._read(f"{self._folder}/{name}")

    async def create(self, name: str, value: str, ttl: int | None) -> Written | Differs:
        try:
            answer = await self._client.create(f"{self._folder}/{name}", value, ttl=ttl)
        except V2Error as error:
            if error.code != KEY_EXISTS:
                raise
            return Differs()
        return Written(answer.node.modified_index)

    async def replace(
        self, name: str, value: str, index: int, ttl: int | None
    ) -> Written | Missing | Differs:
        key = f"{self._folder}/{name}"
        try:
            answer = await self._client.compare_and_swap(key, value, prev_index=index, ttl=ttl)
        except V2Error as error:
            return _not_written(error)
        return Written(answer.node.modified_index)

    async def remove(self, name: str, index: int) -> Written | Missing | Differs:
        try:
            answer = await self._client.compare_and_delete(f"{self._folder}/{name}", prev_index=index)
        except V2Error as error:
            return _not_written(error)
        return Written(answer.node.modified_index)

    @asynccontextmanager
    async def follow(self, index: int, store_id: str) -> AsyncIterator[V2Feed]:
        yield V2Feed(self._client, self._folder, index, store_id)

    async def _read(self, key: str) -> Entry | Missing:
        try:
            answer = await self._client.get(key, quorum=True)
        except V2Error as error:
            if error.code != KEY_NOT_FOUND:
                raise
            return Missing(error.index)
        return _entry(answer.node)


class V2Feed:
    """See `subnetstore.Feed`. Each call is a long poll, which returns one event. A replaced store shows in
    the head of its answer: another cluster id, or an index below the one already seen.
    """

    def __init__(self, client: V2Client, folder: str, index: int, store_id: str) -> None:
        self._client = client
        self._folder = folder
        self._index = index
        self._store_id = store_id

    async def news(self, limit: float) -> News:
        try:
            async with self._client.poll(self._folder, index=self._index + 1, recursive=True) as poll:
                if poll.etcd_index < self._index or poll.cluster_id != self._store_id:
                    raise HistoryLost("the store was replaced, or restored to an earlier state")
                answer = await poll.event(limit)
        except V2Error as error:
            if error.code == INDEX_CLEARED:
                raise HistoryLost(str(error)) from None
            raise
        if answer is not None:
            self._index = max(self._index, answer.node.modified_index)
            return News(self._changes(answer), self._index, poll.etcd_index - answer.node.modified_index)
        if poll.timed_out:
            # The store searched everything up to its index at the start of the poll, and would have sent what
            # came later.
            self._index = max(self._index, poll.etcd_index)
        return News((), self._index, ended_early=not poll.timed_out)

    def _changes(self, answer: Answer) -> tuple[Entry | Removed | RemovedTogether, ...]:
        node = answer.node
        is_inside = node.key.startswith(f"{self._folder}/")
        if answer.action not in _REMOVALS:
            is_entry = is_inside and "/" not in node.key[len(self._folder) + 1 :]
            return (_entry(node),) if is_entry else ()
        if not is_inside:
            return (RemovedTogether(node.modified_index),)
        name = node.key[len(self._folder) + 1 :]
        return () if "/" in name else (Removed(name, node.modified_index),)


def _entry(node: Node) -> Entry:
    name = node.key.rpartition("/")[2]
    return Entry(name, None if node.dir else node.value, node.modified_index, node.ttl)


def _not_written(error: V2Error) -> Missing | Differs:
    if error.code == KEY_NOT_FOUND:
        return Missing(error.index)
    if error.code == COMPARE_FAILED:
        return Differs()
    raise error
