"""Network config and subnet leases in the v2 API, as flannel up to 0.17 keeps them: `subnetstore` by files
with a TTL.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.client.faults import BadAnswer
from netstore.client.subnetstore import (
    Differs,
    Entry,
    History,
    HistoryLost,
    Listing,
    Missing,
    News,
    NoFolder,
    Past,
    Removed,
    RemovedTogether,
    Written,
)
from netstore.client.v2 import (
    COMPARE_FAILED,
    INDEX_CLEARED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    NOT_AUTHORIZED,
    V2Error,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from netstore.client.v2 import Answer, Node, V2Client

WINDOW: Final = 1000
"""Events that an etcd remembers."""

SOON_SECONDS: Final = 0.1
"""How long an event of the past is waited for before the store is asked whether there is none."""

PAST_SECONDS: Final = 2.0
"""Silence after which an event of the past is taken for absent where the store cannot prove it."""

MAX_RESTARTS: Final = 3
"""How often reading the past begins again because the store forgot what was to be read."""

_CLEARED: Final = re.compile(r"\[([0-9]{1,19})/[0-9]+\]")
"""In the cause of error 401: the first index that is left, and the one that was asked for."""

_REMOVALS: Final = frozenset({"delete", "expire", "compareAndDelete"})


class V2Subnets:
    """See `subnetstore.SubnetStore`."""

    api = "v2"
    names_ipv6 = False

    def __init__(self, client: V2Client, prefix: str, folder: str = "subnets") -> None:
        self.prefix = prefix
        self._client = client
        self._folder = f"{prefix}/{folder}"

    async def settle(self) -> None:
        """Writes leave nothing over."""

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
        if not answer.node.dir:
            raise NoFolder(self._folder)
        entries = [_entry(node) for node in answer.node.nodes]
        return Listing(entries, answer.etcd_index, answer.cluster_id)

    async def entry(self, name: str) -> Entry | Missing:
        found = await self._read(f"{self._folder}/{name}")
        if isinstance(found, Missing) or not found.ttl:
            return found
        return msgspec.structs.replace(found, ttl=found.ttl - 1)  # v2 rounds up to whole seconds

    async def create(self, name: str, value: str, ttl: int | None) -> Written | Differs:
        try:
            answer = await self._client.create(f"{self._folder}/{name}", value, ttl=ttl)
        except V2Error as error:
            if error.code != KEY_EXISTS:
                raise
            return Differs()
        return Written(answer.node.modified_index)

    async def replace(
        self,
        name: str,
        value: str,
        index: int,
        ttl: int | None,
        *,
        is_change: bool = False,  # noqa: ARG002 - every write is one
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

    async def write_config(self, value: str, index: int) -> Written | Missing | Differs:
        key = f"{self.prefix}/config"
        try:
            if index:
                answer = await self._client.compare_and_swap(key, value, prev_index=index)
            else:
                answer = await self._client.create(key, value)
        except V2Error as error:
            return Differs() if error.code == KEY_EXISTS else _not_written(error)
        return Written(answer.node.modified_index)

    async def timed(self, entries: Sequence[Entry]) -> list[Entry]:
        return list(entries)  # listings have it

    async def history(self, wanted: Callable[[Past], bool], limit: int) -> History:
        """From the window of past events, which is read by one long poll for each."""
        for _ in range(MAX_RESTARTS):
            try:
                return await self._window(wanted, limit)
            except HistoryLost:
                continue  # the window went on meanwhile
        raise HistoryLost("the store forgets its events faster than they can be read")

    async def _window(self, wanted: Callable[[Past], bool], limit: int) -> History:
        listing = await self.entries()
        first = index = await self._oldest()
        before = {entry.name: entry for entry in listing.entries if entry.modified < first}
        seen: set[str] = set()
        changes: deque[Past] = deque(maxlen=limit)
        proven = index - 1
        while proven < listing.index:
            try:
                answer, proven = await self._next(index, listing.index)
            except V2Error as error:
                if error.code == INDEX_CLEARED:
                    raise HistoryLost(str(error)) from None
                raise
            if answer is None:
                break
            if answer.node.modified_index < index:
                raise BadAnswer("the store", f"told an event of before the index {index} that was asked for")
            index = answer.node.modified_index + 1
            change = self._past(answer)
            if change is None or not wanted(change):
                continue
            if change.name not in seen and answer.prev_node is not None:
                before.setdefault(change.name, _entry(answer.prev_node))
            seen.add(change.name)
            if len(changes) == limit:
                first = changes[1].index if limit > 1 else change.index
            changes.append(change)
        last = max(listing.index, index - 1)
        return History(first, last, list(before.values()), list(changes), min(proven, last))

    async def _next(self, index: int, last: int) -> tuple[Answer | None, int]:
        """The first event from `index` on; None if there is none up to `last`. With it the index up to which
        it is proven that there is no other.

        A long poll answers with the first event of its folder in the window, and says nothing where there is
        none. One of the whole store answers then with the first event of all: none of the folder comes before
        it. No poll tells a refresh or a change of the store's own data, so what follows the last other event
        is not proven.
        """
        async with self._client.poll(self._folder, index=index, recursive=True) as poll:
            answer = await poll.event(SOON_SECONDS)
        if answer is None:
            answer, proven = await self._next_of_all(index, last)
            if answer is None and proven < last:
                async with self._client.poll(self._folder, index=proven + 1, recursive=True) as poll:
                    answer = await poll.event(PAST_SECONDS)
            if answer is None:
                return None, proven
        return answer, answer.node.modified_index

    async def _next_of_all(self, index: int, last: int) -> tuple[Answer | None, int]:
        """As `_next`, from the events of the whole store, as far as they are told to this user."""
        proven = index - 1
        try:
            while proven < last:
                async with self._client.poll("/", index=proven + 1, recursive=True) as poll:
                    answer = await poll.event(PAST_SECONDS)
                if answer is None:
                    break
                if answer.node.modified_index <= proven:
                    break
                proven = answer.node.modified_index
                if self._concerns(answer):
                    return answer, proven
        except V2Error as error:
            if error.code not in (INDEX_CLEARED, NOT_AUTHORIZED):
                raise
        except BadAnswer as error:
            if error.status not in (401, 403):
                raise
        return None, proven

    def _concerns(self, answer: Answer) -> bool:
        """Whether a poll of the folder tells this event: of what is in it, or the removal of it all."""
        key = answer.node.key
        return f"{key}/".startswith(f"{self._folder}/") or (
            answer.action in _REMOVALS and self._folder.startswith(f"{key}/")
        )

    async def _oldest(self) -> int:
        """The first index of which the store has the events."""
        try:
            async with self._client.poll(self._folder, index=1, recursive=True):
                return 1
        except V2Error as error:
            if error.code != INDEX_CLEARED:
                raise
            told = _CLEARED.search(error.cause)
            return int(told[1]) if told else max(1, error.index - WINDOW + 1)

    def _past(self, answer: Answer) -> Past | None:
        """A change of an entry, or of all; None for others."""
        node, previous = answer.node, answer.prev_node
        if not self._concerns(answer):  # the removal of a folder whose name begins that of a folder above
            return None
        removed = answer.action in _REMOVALS
        name = node.key[len(self._folder) + 1 :] if node.key.startswith(f"{self._folder}/") else ""
        if "/" in name or not (name or removed):
            return None
        expired = answer.action == "expire"
        time = None
        if expired and previous is not None:
            time = _seconds(previous.expiration)
        elif not removed and node.ttl is not None and (end := _seconds(node.expiration)) is not None:
            time = end - node.ttl
        value = None if removed else node.value
        old = None if previous is None else previous.value
        permanent = not removed and node.expiration is None
        return Past(name, node.modified_index, value, old, permanent, expired, time)

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
            polls = self._client.poll_for_each(self._folder, index=self._index + 1, recursive=True)
            async with polls as poll:
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
    ttl = node.ttl if node.expiration is None else node.ttl or 0  # a time of 0 is left out
    return Entry(name, None if node.dir else node.value, node.modified_index, ttl, node.created_index)


def _seconds(expiration: str | None) -> float | None:
    """A point of time as v2 writes it, in seconds since 1970."""
    if expiration is None:
        return None
    try:
        return datetime.fromisoformat(expiration).timestamp()
    except ValueError:
        return None


def _not_written(error: V2Error) -> Missing | Differs:
    if error.code == KEY_NOT_FOUND:
        return Missing(error.index)
    if error.code == COMPARE_FAILED:
        return Differs()
    raise error
