"""Copies the v3 keys of one store into another and follows its changes: one way, live, resumable.

The target keeps in a key of its own, the checkpoint, up to which revision of the source it has everything.
Each write is a transaction that changes the checkpoint together with the keys, and only while nobody else has
changed it: so a mirror that was interrupted goes on where it was, a write whose outcome was not told is
neither lost nor done twice, and two mirrors do not write into each other.

Values are kept, revisions are not: the target counts its own. Of several changes of a key that arrive
together the last one is written. Leases are not copied: that a key expired arrives as its deletion.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import OUT_OF_RANGE, Status
from netstore.client.mirror import (
    RETRY_DELAYS,
    Checkpoint,
    NotMirrored,
    Patience,
    Told,
    parse_checkpoint,
    shown,
    went_back,
)
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netstore.client.v3 import V3Client

    Pair = tuple[bytes, bytes]

MOST_OPERATIONS: Final = 100
"""Operations of a transaction, below the 128 that a store takes by default."""

MOST_BYTES: Final = 512 * 1024
"""Bytes of a transaction, unless one key has more; a store takes 1.5 MiB by default."""

FIRST_PAGE: Final = 200
LARGEST_PAGE: Final = 2_000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Keys of a page of a list: fewer when the page before was longer than this."""


class Scope(NamedTuple):
    """Which keys are copied where to."""

    keys: bytes
    """The prefix of the keys in the source; empty for all."""
    target: bytes
    """What stands in its place in the target."""
    checkpoint: bytes
    """The key of the checkpoint, in the target."""


class Mirror:
    """Makes the target a mirror of the source."""

    def __init__(
        self,
        source: V3Client,
        target: V3Client,
        scope: Scope,
        told: Callable[[Told], object],
        trouble: Callable[[str], object],
        *,
        overwrite: bool = False,
    ) -> None:
        """`told` is called after each transaction; for `trouble` see `client.mirror.Patience`. `overwrite`: a
        first copy may replace and delete what the target has, and the target may go back with a source
        whose revision is lower than it was.
        """
        self._source = source
        self._target = target
        self._scope = scope
        self._told = told
        self._patience = Patience(trouble)
        self._overwrite = overwrite
        self._writer = secrets.token_hex(8)
        self._sequence = 0
        self._modified = 0
        """The revision of the checkpoint in the target."""
        self._cluster = ""
        self._seen = 0
        """The highest revision that the source is known to have had."""
        self._page = FIRST_PAGE
        self._written = self._deleted = 0
        self.revision = 0
        """See `client.mirror.Checkpoint.revision`."""

    async def copy(self) -> None:
        """Make the target equal to the source, once.

        NotMirrored if it cannot be; ClientError if a store cannot be asked.
        """
        await self._begin()
        await self._copy()

    async def follow(self) -> None:
        """Make the target equal, or go on where the last run was, and follow the source without end. Calls
        that fail are repeated. NotMirrored as in `copy`.
        """
        self._patience.is_endless = True
        await self._patience.persist(self._begin)
        if not self.revision:
            await self._patience.persist(self._copy)
        while True:
            if await self._patience.persist(self._follow):
                await self._patience.persist(self._copy)

    async def _begin(self) -> None:
        """Read the checkpoint, or write the first one."""
        scope = self._scope
        answer = await self._source.range(pb.RangeRequest(key=scope.keys or b"\0", count_only=True))
        self._cluster, self._seen = f"{answer.header.cluster_id:x}", answer.header.revision
        target = await self._target.range(pb.RangeRequest(key=scope.checkpoint))
        if target.header.cluster_id == answer.header.cluster_id and self._overlaps():
            raise NotMirrored(
                "source and target are the same store, and the keys would be copied to themselves"
            )
        if target.kvs:
            found = parse_checkpoint(target.kvs[0].value, shown(scope.checkpoint), self._cluster, scope.keys)
            self._modified, self.revision = target.kvs[0].mod_revision, found.revision
            self._check_forward(answer.header.revision)
            return
        if not self._overwrite:
            some = await self._target.range(_range(scope.target, limit=1))
            if some.kvs:
                raise NotMirrored(
                    f"the target has keys already, such as {shown(some.kvs[0].key)}: choose another prefix"
                    " there, or allow to replace and delete them"
                )
        await self._write([], 0)

    def _overlaps(self) -> bool:
        """Whether what is written, the checkpoint too, would be copied again if both are the same store."""
        keys, target, checkpoint = self._scope
        return keys.startswith(target) or target.startswith(keys) or checkpoint.startswith(keys)

    # --- comparing

    async def _copy(self) -> None:
        """Compare all keys, and write what differs. Begun anew while the source compacts what is read; less
        and less is left to write.
        """
        while True:
            try:
                await self._copy_once()
            except Status as error:
                if error.code != OUT_OF_RANGE:
                    raise
                self._patience.failed(error)
                await trio.sleep(RETRY_DELAYS[0])
            else:
                self._patience.recovered()
                return

    async def _copy_once(self) -> None:
        """As of one revision of the source. Status with OUT_OF_RANGE if that is compacted meanwhile."""
        scope = self._scope
        revision = await self._newest()
        batch = _Batch()
        wanted = self._list(self._source, scope.keys, revision)
        present = self._list(self._target, scope.target, 0)
        theirs = await anext(present, None)
        async for key, value in wanted:
            while theirs is not None and theirs[0] < key:
                await self._add(batch, theirs[0], None)
                theirs = await anext(present, None)
            if theirs is None or theirs[0] != key or theirs[1] != value:
                await self._add(batch, key, value)
            if theirs is not None and theirs[0] == key:
                theirs = await anext(present, None)
        while theirs is not None:
            await self._add(batch, theirs[0], None)
            theirs = await anext(present, None)
        await self._write(batch.take(), revision)

    async def _newest(self) -> int:
        """The revision of the source, by a linearizable read. NotMirrored if it is another cluster, or went
        back and may not.
        """
        answer = await self._source.range(pb.RangeRequest(key=self._scope.keys or b"\0", count_only=True))
        self._check_cluster(answer.header)
        self._check_forward(answer.header.revision)
        return answer.header.revision

    def _check_forward(self, newest: int) -> None:
        """NotMirrored if the source was at a later revision than this, and the target may not go back too."""
        before = max(self._seen, self.revision)
        if newest < before and not self._overwrite:
            raise went_back("revision", before, newest)
        self._seen = newest

    def _check_cluster(self, header: pb.ResponseHeader) -> None:
        if header.cluster_id and f"{header.cluster_id:x}" != self._cluster:
            raise NotMirrored("another cluster answers at the address of the source; check it")

    async def _list(self, client: V3Client, prefix: bytes, revision: int) -> AsyncIterator[Pair]:
        """The pairs below a prefix, without it, in order; not the checkpoint."""
        request = _range(prefix, limit=self._page)
        request.revision = revision
        while True:
            request.limit = self._page
            try:
                answer = await client.range(request)
            except BadAnswer:
                if self._page == 1:
                    raise
                self._page = max(1, self._page // 4)
                continue
            size = 0
            for pair in answer.kvs:
                size += len(pair.key) + len(pair.value)
                key = pair.key[len(prefix) :]
                if not self._is_checkpoint(key):
                    yield key, pair.value
            if not answer.more or not answer.kvs:
                return
            request.key = answer.kvs[-1].key + b"\0"
            self._page = max(1, self._page // 2) if size > PAGE_BYTES else min(LARGEST_PAGE, self._page * 2)

    def _is_checkpoint(self, key: bytes) -> bool:
        """Whether a key, without its prefix, is that of the checkpoint in the target."""
        return self._scope.target + key == self._scope.checkpoint

    async def _add(self, batch: _Batch, key: bytes, value: bytes | None) -> None:
        """Write a change together with others. Before the last of them the checkpoint stays as it is."""
        if batch.is_full(key, value):
            await self._write(batch.take(), self.revision)
        batch.add(key, value)

    # --- following

    async def _follow(self) -> bool:
        """Follow the changes after the checkpoint until the source ends the watch. Whether all must be
        compared: the source has compacted some changes that were not seen, or was put back to an earlier
        state, and the target may go back too; a watch from the checkpoint on would wait without a word.
        """
        newest = await self._newest()
        if newest < self.revision:
            self._patience.failed(
                NotMirrored(
                    f"the source is at revision {newest}, and was at {self.revision} before: it was put back"
                    " to an earlier state, so all is compared"
                )
            )
            return True
        wanted = _range(self._scope.keys)
        request = pb.WatchCreateRequest(
            key=wanted.key,
            range_end=wanted.range_end,
            start_revision=self.revision + 1,
            progress_notify=True,
        )
        async with self._source.watch(request) as watch:
            while True:
                answer = await watch.answer()
                self._patience.recovered()
                self._check_cluster(answer.header)
                if answer.compact_revision:
                    return True
                if answer.canceled:
                    raise Unreachable(
                        [("the source", answer.cancel_reason or "it ended the watch")], outcome_known=True
                    )
                if answer.created:
                    continue
                await self._take(answer)

    async def _take(self, answer: pb.WatchResponse) -> None:
        skip = len(self._scope.keys)
        last: dict[bytes, bytes | None] = {}
        for event in answer.events:
            key = event.kv.key[skip:]
            last.pop(key, None)
            last[key] = None if event.type else event.kv.value
        revision = answer.events[-1].kv.mod_revision if answer.events else answer.header.revision
        batch = _Batch()
        for key, value in last.items():
            if self._is_checkpoint(key):
                continue
            await self._add(batch, key, value)
        if revision > self.revision:
            await self._write(batch.take(), revision)

    # --- writing

    async def _write(self, changes: list[tuple[bytes, bytes | None]], revision: int) -> None:
        """Write changes and the checkpoint in one transaction."""
        scope = self._scope
        self._sequence += 1
        state = Checkpoint(self._cluster, scope.keys.hex(), revision, self._writer, self._sequence)
        value = msgspec.json.encode(state)
        compare = pb.Compare(key=scope.checkpoint, target=pb.Compare.MOD, mod_revision=self._modified)
        request = pb.TxnRequest(compare=[compare])
        for key, content in changes:
            operation = request.success.add()
            if content is None:
                operation.request_delete_range.key = scope.target + key
            else:
                operation.request_put.key = scope.target + key
                operation.request_put.value = content
        put = request.success.add().request_put
        put.key, put.value = scope.checkpoint, value
        self._modified = await self._patience.persist(lambda: self._commit(request, value))
        self.revision = revision
        self._deleted += sum(content is None for _, content in changes)
        self._written += sum(content is not None for _, content in changes)
        self._told(Told(revision, self._written, self._deleted))

    async def _commit(self, request: pb.TxnRequest, value: bytes) -> int:
        """The revision in which the transaction was carried out, now or by an earlier attempt."""
        answer = await self._target.txn(request)
        if answer.succeeded:
            return answer.header.revision
        found = await self._target.range(pb.RangeRequest(key=self._scope.checkpoint))
        if found.kvs and found.kvs[0].value == value:
            return found.kvs[0].mod_revision
        raise NotMirrored(
            f"checkpoint {shown(self._scope.checkpoint)}: another mirror writes into this target; stop one"
            " of them, or name another checkpoint"
        )


class _Batch:
    """Changes for one transaction."""

    def __init__(self) -> None:
        self._changes: list[tuple[bytes, bytes | None]] = []
        self._size = 0

    def is_full(self, key: bytes, value: bytes | None) -> bool:
        """Whether this change is too much for the transaction."""
        more = len(key) + len(value or b"")
        return bool(self._changes) and (
            len(self._changes) >= MOST_OPERATIONS or self._size + more > MOST_BYTES
        )

    def add(self, key: bytes, value: bytes | None) -> None:
        """Add a change; None deletes."""
        self._changes.append((key, value))
        self._size += len(key) + len(value or b"")

    def take(self) -> list[tuple[bytes, bytes | None]]:
        """What was added since the last call."""
        changes, self._changes, self._size = self._changes, [], 0
        return changes


def _range(prefix: bytes, limit: int = 0) -> pb.RangeRequest:
    """The keys below a prefix."""
    end = bytes(prefix).rstrip(b"\xff")
    after = end[:-1] + bytes((end[-1] + 1,)) if end else b"\0"
    return pb.RangeRequest(key=prefix or b"\0", range_end=after, limit=limit)
