"""Network config and subnet leases in the v3 API, as flannel from 0.18 on keeps them: `subnetstore` by keys
that are attached to a lease each.

A lease whose value stays the same is renewed by a keepalive, which the other nodes do not see; flannel writes
the key again with a new lease.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.client.faults import BadAnswer, ClientError
from netstore.client.past import told
from netstore.client.subnetstore import (
    Differs,
    Entry,
    History,
    HistoryLost,
    Listing,
    Missing,
    News,
    Past,
    Removed,
    RemovedTogether,
    Written,
)
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from netstore.client.v3 import V3Client, WatchCall

MAX_UNUSED: Final = 16
"""Leases without a key that are remembered until `settle`; the oldest beyond that end with their time."""

MAX_UNSURE: Final = 16
"""Names with a lease that may be used; of more, the oldest is left to end with its time."""

MAX_TIME_CALLS: Final = 32
"""Calls at a time that ask for the remaining time of a lease."""

_REPLACED: Final = "the store was replaced, or restored to an earlier state"


class _Own(msgspec.Struct, frozen=True):
    """An entry that was written here, and the lease that was granted for it."""

    value: str
    index: int
    ttl: int
    lease: int


class V3Subnets:
    """See `subnetstore.SubnetStore`.

    A lease that was granted here is used by a key, kept for the next write of that key, or revoked by
    `settle`, so that the caller hears of a write's outcome first. One that
    another client was granted, such as an earlier run of the agent, is not known: when its key is written
    again with another lease, it holds nothing, and ends with its time.
    """

    api = "v3"
    names_ipv6 = True

    def __init__(self, client: V3Client, prefix: str, folder: str = "subnets") -> None:
        self.prefix = prefix
        self._client = client
        self._folder = f"{prefix}/{folder}/"
        self._own: dict[str, _Own] = {}
        self._unsure: dict[str, tuple[int, int]] = {}
        """TTL and lease of a write whose outcome is unknown, by name. The next write of the name uses it; to
        revoke it could remove the key.
        """
        self._unused: deque[int] = deque(maxlen=MAX_UNUSED)
        """Leases that no key is attached to, for `settle`."""

    async def settle(self) -> None:
        try:
            while self._unused:
                await self._client.revoke(self._unused.popleft())
        except ClientError:
            self._unused.clear()  # they end with their time

    async def config(self) -> Entry | None:
        answer = await self._client.range(pb.RangeRequest(key=f"{self.prefix}/config".encode()))
        return _entry("config", answer.kvs[0]) if answer.kvs else None

    async def entries(self) -> Listing:
        start, end = self._range()
        answer = await self._client.range(pb.RangeRequest(key=start, range_end=end))
        skip = len(start)
        found = [_entry(_text(each.key[skip:]), each) for each in answer.kvs if b"/" not in each.key[skip:]]
        return Listing(found, answer.header.revision, f"{answer.header.cluster_id:x}")

    async def entry(self, name: str) -> Entry | Missing:
        answer = await self._client.range(pb.RangeRequest(key=self._key(name)))
        if not answer.kvs:
            return Missing(answer.header.revision)
        found = answer.kvs[0]
        ttl = max(0, await self._client.remaining(found.lease)) if found.lease else None
        return Entry(name, _text(found.value), found.mod_revision, ttl, found.create_revision, found.lease)

    async def create(self, name: str, value: str, ttl: int | None) -> Written | Differs:
        compare = pb.Compare(
            target=pb.Compare.VERSION, result=pb.Compare.EQUAL, key=self._key(name), version=0
        )
        found = await self._put(name, value, compare, ttl)
        return Differs() if isinstance(found, Missing) else found

    async def replace(
        self, name: str, value: str, index: int, ttl: int | None, *, is_change: bool = False
    ) -> Written | Missing | Differs:
        own = self._own.get(name)
        if not is_change and own is not None and (own.value, own.index, own.ttl) == (value, index, ttl):
            if await self._client.keep_alive(own.lease) > 0:
                return await self._unchanged(name, index)
            del self._own[name]
        return await self._put(name, value, self._is_at(name, index), ttl)

    async def remove(self, name: str, index: int) -> Written | Missing | Differs:
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=self._key(name)))
        found = await self._write(self._key(name), self._is_at(name, index), delete)
        if isinstance(found, Written):
            self._forget(name)
        return found

    async def write_config(self, value: str, index: int) -> Written | Missing | Differs:
        key = f"{self.prefix}/config".encode()
        if index:
            compare = pb.Compare(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=key, mod_revision=index)
        else:
            compare = pb.Compare(target=pb.Compare.VERSION, result=pb.Compare.EQUAL, key=key, version=0)
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value.encode()))
        found = await self._write(key, compare, put)
        return Differs() if isinstance(found, Missing) and not index else found

    async def timed(self, entries: Sequence[Entry]) -> list[Entry]:
        """One call for each lease."""
        leases = list({entry.lease for entry in entries if entry.lease})
        times: dict[int, int] = {}
        failed: list[ClientError] = []

        async def ask(mine: Sequence[int]) -> None:
            try:
                for lease in mine:
                    times[lease] = await self._client.remaining(lease)
            except ClientError as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for first in range(min(MAX_TIME_CALLS, len(leases))):
                nursery.start_soon(ask, leases[first::MAX_TIME_CALLS])
        if failed:
            raise failed[0]
        return [
            msgspec.structs.replace(entry, ttl=times[entry.lease]) if entry.lease else entry
            for entry in entries
        ]

    async def history(self, wanted: Callable[[Past], bool], limit: int) -> History:
        """From the revisions that were not compacted. BadAnswer if the store does not tell all of them
        (`client.past`).
        """
        start, end = self._range()
        skip = len(start)
        last = (await self._head()).revision
        first = await self._compacted()
        before: list[Entry] = []
        if first:
            request = pb.RangeRequest(key=start, range_end=end, revision=first)
            found = (await self._client.range(request)).kvs
            before = [_entry(_text(each.key[skip:]), each) for each in found if b"/" not in each.key[skip:]]
        first += 1
        changes: deque[Past] = deque(maxlen=limit)
        create = pb.WatchCreateRequest(key=start, range_end=end, start_revision=first, prev_kv=True)
        seen = last
        async with aclosing(told(self._client, create, last)) as answers:
            async for answer in answers:
                if answer.compact_revision:
                    raise HistoryLost(f"the store has compacted its history up to {answer.compact_revision}")
                seen = max(last, answer.events[-1].kv.mod_revision)
                for change in _past(answer.events, skip):
                    if not wanted(change):
                        continue
                    if len(changes) == limit:
                        first = changes[1].index if limit > 1 else change.index
                    changes.append(change)
        return History(first, seen, before, list(changes), seen)

    async def _compacted(self) -> int:
        """The revision up to which the history was compacted; 0 if none was."""
        return await self._client.compacted(f"{self.prefix}/config".encode())

    @asynccontextmanager
    async def follow(self, index: int, store_id: str) -> AsyncIterator[V3Feed]:
        start, end = self._range()
        request = pb.WatchCreateRequest(key=start, range_end=end, start_revision=index + 1)
        async with self._client.watch(request) as watch:
            yield V3Feed(watch, self._head, len(start), index, store_id)

    async def _head(self) -> pb.ResponseHeader:
        """The store's cluster and revision, by a linearizable read."""
        request = pb.RangeRequest(key=f"{self.prefix}/config".encode(), count_only=True)
        return (await self._client.range(request)).header

    async def _put(
        self, name: str, value: str, compare: pb.Compare, ttl: int | None
    ) -> Written | Missing | Differs:
        lease = 0 if ttl is None else await self._lease(name, ttl)
        put = pb.PutRequest(key=self._key(name), value=value.encode(), lease=lease)
        try:
            found = await self._write(put.key, compare, pb.RequestOp(request_put=put))
        except ClientError as error:
            if ttl is not None:
                self._not_written(name, ttl, lease, error)
            raise
        is_unsure = self._unsure.get(name) == (ttl, lease)
        if isinstance(found, Written):
            if is_unsure:
                del self._unsure[name]
            self._forget(name)
            if ttl is not None:
                self._own[name] = _Own(value, found.index, ttl, lease)
        elif lease and not is_unsure:
            self._unused.append(lease)
        return found

    async def _lease(self, name: str, ttl: int) -> int:
        """A lease for a write: the one that an earlier write may have used, if it has the same TTL."""
        kept_ttl, lease = self._unsure.get(name, (0, 0))
        if kept_ttl == ttl and await self._client.keep_alive(lease) > 0:
            return lease
        return await self._client.grant(ttl)

    def _not_written(self, name: str, ttl: int, lease: int, error: ClientError) -> None:
        """A write with this lease failed: keep the lease if the key may use it, else revoke it later."""
        if self._unsure.get(name) == (ttl, lease):
            return
        if error.outcome_known:
            self._unused.append(lease)
            return
        self._unsure.pop(name, None)
        self._unsure[name] = ttl, lease
        if len(self._unsure) > MAX_UNSURE:
            del self._unsure[next(iter(self._unsure))]

    async def _write(
        self, key: bytes, compare: pb.Compare, operation: pb.RequestOp
    ) -> Written | Missing | Differs:
        look = pb.RequestOp(request_range=pb.RangeRequest(key=key, count_only=True))
        answer = await self._client.txn(pb.TxnRequest(compare=[compare], success=[operation], failure=[look]))
        if answer.succeeded:
            return Written(answer.header.revision)
        is_there = bool(answer.responses) and answer.responses[0].response_range.count > 0
        return Differs() if is_there else Missing(answer.header.revision)

    async def _unchanged(self, name: str, index: int) -> Written | Missing | Differs:
        """What became of an entry whose lease was renewed."""
        answer = await self._client.range(pb.RangeRequest(key=self._key(name), keys_only=True))
        if not answer.kvs:
            return Missing(answer.header.revision)
        return Written(index) if answer.kvs[0].mod_revision == index else Differs()

    def _forget(self, name: str) -> None:
        """The leases that were granted for earlier forms of the entry have no key any more."""
        own = self._own.pop(name, None)
        if own is not None:
            self._unused.append(own.lease)
        _, unsure = self._unsure.pop(name, (0, 0))
        if unsure:
            self._unused.append(unsure)

    def _is_at(self, name: str, index: int) -> pb.Compare:
        return pb.Compare(
            target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=self._key(name), mod_revision=index
        )

    def _key(self, name: str) -> bytes:
        return f"{self._folder}{name}".encode()

    def _range(self) -> tuple[bytes, bytes]:
        """All keys that begin with the folder, which ends in a slash; 0 is the character after it."""
        start = self._folder.encode()
        return start, start[:-1] + b"0"


class V3Feed:
    """See `subnetstore.Feed`. One watch serves all calls. Its first answer tells the store's cluster and
    revision: another cluster is a replaced store. So is a revision below the one already seen, unless the
    member that serves the watch is only behind: a linearizable read tells.
    """

    def __init__(
        self,
        watch: WatchCall,
        head: Callable[[], Awaitable[pb.ResponseHeader]],
        skip: int,
        index: int,
        store_id: str,
    ) -> None:
        """`head` is that read; `skip` is the length of what all keys begin with."""
        self._watch = watch
        self._head = head
        self._is_behind = False
        """The read is due; kept, because the wait may be cut short."""
        self._skip = skip
        self._index = index
        self._store_id = store_id

    async def news(self, limit: float) -> News:
        with trio.move_on_after(limit):
            while True:
                if self._is_behind:
                    self._compare(await self._head())
                    self._is_behind = False
                answer = await self._watch.answer()
                self._check(answer)
                if answer.events:
                    changes = self._changes(answer.events)
                    self._index = max(self._index, answer.events[-1].kv.mod_revision)
                    return News(changes, self._index)
        return News((), self._index)

    def _check(self, answer: pb.WatchResponse) -> None:
        if answer.created and f"{answer.header.cluster_id:x}" != self._store_id:
            raise HistoryLost(_REPLACED)
        if answer.compact_revision:
            raise HistoryLost(f"the store has compacted its history up to {answer.compact_revision}")
        if answer.canceled:
            raise BadAnswer("the store", f"ended the watch: {answer.cancel_reason or 'it gave no reason'}")
        self._is_behind = answer.created and answer.header.revision < self._index

    def _compare(self, header: pb.ResponseHeader) -> None:
        if header.revision < self._index or f"{header.cluster_id:x}" != self._store_id:
            raise HistoryLost(_REPLACED)

    def _changes(self, events: Sequence[kv_pb2.Event]) -> list[Entry | Removed | RemovedTogether]:
        changes: list[Entry | Removed | RemovedTogether] = []
        for event in events:
            index, name = event.kv.mod_revision, event.kv.key[self._skip :]
            if b"/" in name:
                continue
            if event.type == kv_pb2.Event.PUT:
                changes.append(_entry(_text(name), event.kv))
                continue
            last = changes[-1] if changes else None
            if isinstance(last, Removed | RemovedTogether) and last.index == index:
                changes[-1] = RemovedTogether(index)
            else:
                changes.append(Removed(_text(name), index))
        return changes


def _past(events: Iterable[kv_pb2.Event], skip: int) -> Iterator[Past]:
    for event in events:
        name, previous = event.kv.key[skip:], event.prev_kv
        if b"/" in name:
            continue
        is_put = event.type == kv_pb2.Event.PUT
        yield Past(
            _text(name),
            event.kv.mod_revision,
            _text(event.kv.value) if is_put else None,
            _text(previous.value) if previous.mod_revision else None,
            permanent=is_put and not event.kv.lease,
        )


def _entry(name: str, found: kv_pb2.KeyValue) -> Entry:
    ttl = 0 if found.lease else None
    return Entry(name, _text(found.value), found.mod_revision, ttl, found.create_revision, found.lease)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
