"""The v3 keys of a range at any revision that can still be read: listings, comparisons, the past of a key,
and writes that bring an earlier state back. Works with every store that has the v3 API.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from netstore.client.faults import BadAnswer
from netstore.client.grpc import OUT_OF_RANGE, Status
from netstore.client.v3 import PAST_SECONDS
from netstore.errors import NetstoreError
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from netstore.client.v3 import V3Client

FIRST_PAGE: Final = 16
"""Keys of the first page of a listing: as many of the largest values as fit `PAGE_BYTES` about twice."""

MOST_PAGE: Final = 1_000
"""Keys of a page at most."""

PAGE_BYTES: Final = 2 << 20
"""Pages are made smaller above this, and larger below a quarter of it."""

BATCH_KEYS: Final = 64
"""Keys that one transaction writes: half of what a store takes unless it is told otherwise."""

BATCH_BYTES: Final = 512 * 1024
"""Bytes of values that one transaction writes, unless one value is larger."""


class Compacted(NetstoreError):  # noqa: N818 - named for what was found
    """The store has forgotten the revision that is asked for."""


class Later(NetstoreError):  # noqa: N818 - same
    """The revision that is asked for is later than the store's newest."""

    def __init__(self, revision: int, newest: int) -> None:
        super().__init__(f"revision {revision} is later than the store's newest, {newest}")


class Change(NamedTuple):
    """A key that differs between two revisions; None where it does not exist."""

    key: bytes
    before: kv_pb2.KeyValue | None
    after: kv_pb2.KeyValue | None


class Past(NamedTuple):
    """The states of a key, oldest first. A deletion has only key and mod_revision."""

    states: Sequence[kv_pb2.KeyValue]
    missed: int
    """Older states that can be read, and were left out."""
    since: int
    """The revision from which on the store remembers; 0: everything."""
    last: int
    """The revision up to which the past was read."""


class Step(NamedTuple):
    """One write of an undo, of the key as it was found at `found` (mod_revision; 0: it did not exist)."""

    key: bytes
    found: int
    wanted: kv_pb2.KeyValue | None
    """The state to write; None: the key is deleted."""
    lease: int = 0
    """The lease to attach it to."""


class Outcome(NamedTuple):
    """What became of a batch: the revision of the write, 0 if all keys had changed; and these."""

    revision: int
    changed: frozenset[bytes]


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`; one zero byte stands for no end."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b"\0"


class KeySpace:
    """Reads and writes of one client. Beside its own errors it raises those of `client.v3`."""

    def __init__(self, client: V3Client) -> None:
        self._client = client

    async def revision(self, prefix: bytes) -> int:
        """The newest revision, by a linearizable read of the first key that can begin with `prefix`: a store
        with users lets all read it who may list the prefix.
        """
        request = pb.RangeRequest(key=prefix or b"\0", count_only=True)
        return (await self._client.range(request)).header.revision

    async def listing(self, prefix: bytes, revision: int) -> AsyncIterator[kv_pb2.KeyValue]:
        """The pairs whose keys begin with `prefix`, at a revision, in key order, a page at a time."""
        start, end, most = prefix or b"\0", prefix_end(prefix), FIRST_PAGE
        while True:
            request = pb.RangeRequest(key=start, range_end=end, revision=revision, limit=most)
            answer = await self._read(request, revision)
            for each in answer.kvs:
                yield each
            if not answer.more or not answer.kvs:
                return
            start = answer.kvs[-1].key + b"\0"
            size = answer.ByteSize()
            if size > PAGE_BYTES:
                most = max(1, most // 2)
            elif size < PAGE_BYTES // 4:
                most = min(MOST_PAGE, most * 2)

    async def compare(self, prefix: bytes, first: int, second: int) -> AsyncIterator[Change]:
        """The keys below a prefix that were written or deleted between two revisions, in key order."""
        befores, afters = self.listing(prefix, first), self.listing(prefix, second)
        before, after = await anext(befores, None), await anext(afters, None)
        while before is not None or after is not None:
            if after is None or (before is not None and before.key < after.key):
                assert before is not None  # noqa: S101 - one of them is there; for the type checker
                yield Change(before.key, before, None)
                before = await anext(befores, None)
            elif before is None or after.key < before.key:
                yield Change(after.key, None, after)
                after = await anext(afters, None)
            else:
                if before.mod_revision != after.mod_revision:
                    yield Change(before.key, before, after)
                before, after = await anext(befores, None), await anext(afters, None)

    async def past(self, key: bytes, most: int) -> Past:
        """The newest `most` states of a key that can be read. A watch does not tell that nothing follows: of
        a key that does not exist now, a pause of `PAST_SECONDS` ends its past.
        """
        answer = await self._client.range(pb.RangeRequest(key=key, keys_only=True))
        last = answer.header.revision
        newest = answer.kvs[0].mod_revision if answer.kvs else 0
        since = await self._client.compacted(key)
        states: deque[kv_pb2.KeyValue] = deque(maxlen=most)
        seen = count = 0
        if since:
            held = (await self._read(pb.RangeRequest(key=key, revision=since), since)).kvs
            states.extend(held)
            count = len(held)
            seen = max((each.mod_revision for each in held), default=0)
        create = pb.WatchCreateRequest(key=key, start_revision=since + 1)
        async with self._client.watch(create) as watch:
            while not newest or seen < newest:
                told = None
                with trio.move_on_after(PAST_SECONDS):
                    told = await watch.answer()
                if told is None:
                    if newest:
                        raise BadAnswer("the store", f"has not told the past of the key after {seen} in time")
                    break
                if told.compact_revision:
                    raise Compacted(f"the store has compacted its history up to {told.compact_revision}")
                if told.canceled:
                    raise BadAnswer("the store", f"ended the watch: {told.cancel_reason or 'without reason'}")
                for event in told.events:
                    seen = event.kv.mod_revision
                    count += 1
                    states.append(event.kv)
        return Past(states, count - len(states), since, max(last, seen))

    async def is_alive(self, lease: int) -> bool:
        """Whether a lease can still be used."""
        return await self._client.remaining(lease) > 0

    async def write(self, batch: Sequence[Step]) -> Outcome:
        """Do these steps in one transaction, but for keys that were changed since they were found: those are
        left alone and returned.
        """
        changed: set[bytes] = set()
        while steps := [step for step in batch if step.key not in changed]:
            request = pb.TxnRequest(
                compare=[_as_found(step) for step in steps],
                success=[_operation(step) for step in steps],
                failure=[
                    pb.RequestOp(request_range=pb.RangeRequest(key=step.key, keys_only=True))
                    for step in steps
                ],
            )
            answer = await self._client.txn(request)
            if answer.succeeded:
                return Outcome(answer.header.revision, frozenset(changed))
            now = [each.response_range.kvs for each in answer.responses]
            others = {
                step.key
                for step, kvs in zip(steps, now, strict=False)
                if (kvs[0].mod_revision if kvs else 0) != step.found
            }
            if not others:
                raise BadAnswer("the store", "refused a write, and names no key that was changed")
            changed |= others
        return Outcome(0, frozenset(changed))

    async def _read(self, request: pb.RangeRequest, revision: int) -> pb.RangeResponse:
        try:
            return await self._client.range(request)
        except Status as status:
            if status.code != OUT_OF_RANGE:
                raise
            is_compacted = "compacted" in status.message
        if is_compacted:
            oldest = await self._client.compacted(request.key)
            raise Compacted(
                f"revision {revision}: the store has compacted its history; the oldest revision that it can"
                f" read is {oldest}"
            )
        raise Later(revision, await self.revision(request.key))


class Batches:
    """Gathers steps into batches that one transaction takes."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._size = 0

    def add(self, step: Step) -> list[Step]:
        """Take a step; the batch that is to be written before it, empty if there is none."""
        size = len(step.key) + (0 if step.wanted is None else len(step.wanted.value))
        full: list[Step] = []
        if self._steps and (len(self._steps) >= BATCH_KEYS or self._size + size > BATCH_BYTES):
            full = self.rest()
        self._steps.append(step)
        self._size += size
        return full

    def rest(self) -> list[Step]:
        """The steps that were not given yet."""
        rest, self._steps, self._size = self._steps, [], 0
        return rest


def _as_found(step: Step) -> pb.Compare:
    return pb.Compare(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=step.key, mod_revision=step.found)


def _operation(step: Step) -> pb.RequestOp:
    if step.wanted is None:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=step.key))
    put = pb.PutRequest(key=step.key, value=step.wanted.value, lease=step.lease)
    return pb.RequestOp(request_put=put)
