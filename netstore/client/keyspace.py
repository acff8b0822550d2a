"""The v3 keys of a range at any revision that can still be read: listings, comparisons, the past of a key,
and writes that bring an earlier state back. Works with every store that has the v3 API.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.client.faults import BadAnswer
from netstore.client.grpc import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OUT_OF_RANGE,
    PERMISSION_DENIED,
    Status,
)
from netstore.client.past import told
from netstore.client.v3 import has_much, least_request_bytes
from netstore.errors import NetstoreError
from netstore.proto import kv_pb2
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

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

_OF_CONTENT: Final = (INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION)
"""Codes of a refusal that may be about one operation of a transaction, such as a lease that has ended, or
about their number or size; nothing of it was done. Other refusals are about the state of the store.
"""


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
    """What became of some steps."""

    steps: Sequence[Step]
    revision: int = 0
    """The revision of the write; 0 if nothing was written."""
    changed: frozenset[bytes] = frozenset()
    """Keys that were changed since they were found, and left alone."""
    refusal: str = ""
    """Why the store does not write the one step, which was left alone."""


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

    async def deletions(
        self, prefix: bytes, keys: Collection[bytes], first: int, second: int
    ) -> dict[bytes, int]:
        """The revision at which each of these keys, which begin with `prefix`, was last deleted after `first`
        and up to `second`, as far as there is one. BadAnswer if the store does not tell all of them
        (`client.past`).
        """
        found: dict[bytes, int] = {}
        create = pb.WatchCreateRequest(
            key=prefix or b"\0",
            range_end=prefix_end(prefix),
            start_revision=first + 1,
            filters=[pb.WatchCreateRequest.NOPUT],
        )
        async with aclosing(told(self._client, create, second)) as answers:
            async for part in answers:
                if part.compact_revision:
                    raise Compacted(f"the store has compacted its history up to {part.compact_revision}")
                for event in part.events:
                    if event.kv.mod_revision <= second and event.kv.key in keys:
                        found[event.kv.key] = event.kv.mod_revision
        return found

    async def past(self, key: bytes, most: int) -> Past:
        """The newest `most` states of a key that can be read. BadAnswer if the store does not tell all of
        them (`client.past`).
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
        if not newest or seen < newest:
            async with aclosing(told(self._client, create, newest or last)) as answers:
                async for part in answers:
                    if part.compact_revision:
                        raise Compacted(f"the store has compacted its history up to {part.compact_revision}")
                    for event in part.events:
                        seen = event.kv.mod_revision
                        count += 1
                        states.append(event.kv)
        return Past(states, count - len(states), since, max(last, seen))

    async def is_alive(self, lease: int) -> bool:
        """Whether a lease can still be used."""
        return await self._client.remaining(lease) > 0

    async def write(self, batch: Sequence[Step]) -> AsyncIterator[Outcome]:
        """Do these steps in one transaction, or in several where the store refuses one of so many, or some
        of the steps. Each step is in one outcome, in order, given as soon as it is known.
        """
        parts = [batch]
        while parts:
            part = parts.pop()
            outcome = await self._write(part)
            if outcome is None:
                middle = len(part) // 2
                parts += part[middle:], part[:middle]
            else:
                yield outcome

    async def _write(self, batch: Sequence[Step]) -> Outcome | None:
        """Do these steps in one transaction, but for keys that were changed since they were found. None if
        the store refuses them together.
        """
        changed: set[bytes] = set()
        while steps := [step for step in batch if step.key not in changed]:
            request = pb.TxnRequest(
                compare=[_as_found(step) for step in steps],
                success=[_operation(step) for step in steps],
            )
            if len(steps) > 1:  # of a single one, it is known which was changed: a key less to send
                request.failure.extend(_look(step) for step in steps)
            try:
                answer = await self._client.txn(request)
            except Status as status:
                if status.code not in _OF_CONTENT and not has_much(status):
                    raise
                if len(batch) > 1:
                    return None
                return Outcome(batch, refusal=_refusal(status, request.ByteSize()))
            if answer.succeeded:
                return Outcome(batch, answer.header.revision, frozenset(changed))
            changed |= {steps[0].key} if len(steps) == 1 else _changed(steps, answer)
        return Outcome(batch, changed=frozenset(changed))

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


def _look(step: Step) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=step.key, keys_only=True))


def _changed(steps: Sequence[Step], answer: pb.TxnResponse) -> set[bytes]:
    """The keys that are not as they were found, of a transaction that looked at each for that reason."""
    now = [each.response_range.kvs for each in answer.responses]
    others = {
        step.key
        for step, kvs in zip(steps, now, strict=False)
        if (kvs[0].mod_revision if kvs else 0) != step.found
    }
    if not others:
        raise BadAnswer("the store", "refused a write, and names no key that was changed")
    return others


def _refusal(status: Status, size: int) -> str:
    """Why a transaction of so many bytes with one step is refused, and what would change that."""
    if not has_much(status):
        return str(status)
    least = least_request_bytes(size)
    return f"{status}: a write of {size} bytes; start its members with --max-request-bytes {least} or more"
