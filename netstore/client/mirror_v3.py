"""Copies the v3 keys of one store into another and follows its changes: one way, live, resumable.

The target keeps in a key of its own, the checkpoint, up to which revision of the source it has everything.
Each write is a transaction that changes the checkpoint together with the keys, and only while nobody else has
changed it: so a mirror that was interrupted goes on where it was, a write whose outcome was not told is
neither lost nor done twice, and two mirrors do not write into each other. A run that begins writes it first,
so the one that has begun last goes on.

Values are kept, revisions are not: the target counts its own. Of several changes of a key that arrive
together the last one is written. Leases are not copied: that a key expired arrives as its deletion.

After each new connection the source first shows that it is the store that was copied (`client.mirror`): at
the revision of the witness, or where that is compacted still, its key is what was copied. A watch goes on
after the witness, not after the checkpoint, so what a source put back to a state between them has written
since is not missed; only where all keys were just compared it goes on from there.
"""

from __future__ import annotations

import re
import secrets
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import OUT_OF_RANGE, Status
from netstore.client.mirror import (
    PROBE_TTL,
    RETRY_DELAYS,
    Another,
    Checkpoint,
    NotMirrored,
    OneWay,
    Proof,
    TakenOver,
    Told,
    Witness,
    digest,
    parse_checkpoint,
    shown,
)
from netstore.client.v3 import has_many, has_much, least_request_bytes
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from netstore.client.v3 import V3Client
    from netstore.proto.kv_pb2 import KeyValue

    Changes = list[tuple[bytes, bytes | None]]
    """Keys without their prefix, and their new values; None deletes."""

MOST_OPERATIONS: Final = 100
"""Operations of a transaction, below the 128 that a store takes by default."""

MOST_BYTES: Final = 512 * 1024
"""Bytes of a transaction, unless one key has more; a store takes 1.5 MiB by default."""

FIRST_PAGE: Final = 200
LARGEST_PAGE: Final = 2_000

PAGE_BYTES: Final = 4 * 1024 * 1024
"""Keys of a page of a list: fewer when the page before was longer than this."""

SOME_KEYS: Final = 10
"""How many keys are read at once where one is looked for."""

PROBE_SUFFIX: Final = rb"-[0-9a-f]{16}"
"""What follows the checkpoint's key in the name of one that is to tell whether both stores are one."""

STANDBY_SECONDS: Final = 1.0
"""How long after the newest key was removed, and none was written, the newest of the others is looked for."""

LOOK_SHARE: Final = 20
"""That is done again after so many times as long as it took, at least."""


class Scope(NamedTuple):
    """Which keys are copied where to."""

    keys: bytes
    """The prefix of the keys in the source; empty for all."""
    target: bytes
    """What stands in its place in the target."""
    checkpoint: bytes
    """The key of the checkpoint, in the target."""


class Mirror(OneWay):
    """Makes the target a mirror of the source."""

    mark = "revision"

    def __init__(
        self,
        source: V3Client,
        target: V3Client,
        scope: Scope,
        told: Callable[[Told], object],
        trouble: Callable[[str], object],
        *,
        notice: Callable[[str], object],
        overwrite: bool = False,
    ) -> None:
        """See `client.mirror.OneWay`."""
        super().__init__(told, trouble, notice=notice, overwrite=overwrite)
        self._source = source
        self._target = target
        self._scope = scope
        self._cluster = ""
        self._page = FIRST_PAGE
        self._most_operations = MOST_OPERATIONS
        self._most_bytes = MOST_BYTES
        self._look_pause = STANDBY_SECONDS
        self._written = self._deleted = 0

    async def _claim_target(self) -> None:
        scope = self._scope
        target = await self._target.range(pb.RangeRequest(key=scope.checkpoint))
        # Afterwards, as another run may have raised what was seen before.
        answer = await self._source.range(pb.RangeRequest(key=scope.keys or b"\0", count_only=True))
        self._cluster = f"{answer.header.cluster_id:x}"
        before = target.kvs[0] if target.kvs else None
        if before is not None:
            self._modified = before.mod_revision
            self._resume(parse_checkpoint(before.value, shown(scope.checkpoint), self._cluster, scope.keys))
        else:
            self._modified = 0
            self._resume(Checkpoint(self._cluster, "", 0, self._writer, 0, seen=answer.header.revision))
            self._overwriting = not await self._is_bare()
        if target.header.cluster_id == answer.header.cluster_id and self._overlaps():
            await self._check_not_itself()
        if before is not None:
            self._check_forward(answer.header.revision)
            await self._save()
            return
        if not self._overwrite:
            some = await self._some()
            if some is not None:
                raise NotMirrored(
                    f"TARGET has keys already, such as {shown(some)}: name another place there by"
                    " --target-prefix, or let them be replaced and deleted by --overwrite"
                )
        await self._save()

    async def _check_not_itself(self) -> None:
        """Both have the same cluster id, as two that were begun with the same flags have too. NotMirrored if
        they are one store: a key that is written into the target for a moment, beside the checkpoint, is in
        the source. TakenOver if that has gone meanwhile, as by another mirror that compares.
        """
        key = self._scope.checkpoint + f"-{secrets.token_hex(8)}".encode()
        probe, removal = pb.TxnRequest(), pb.TxnRequest()
        lease = await self._target.grant(PROBE_TTL)
        put = probe.success.add().request_put
        put.key, put.lease = key, lease
        removal.success.add().request_delete_range.key = key
        await self._target.txn(probe)
        found = await self._source.range(pb.RangeRequest(key=key))
        answer = await self._target.txn(removal)
        await self._target.revoke(lease)
        if not answer.responses[0].response_delete_range.deleted:
            raise TakenOver(shown(key), None)
        if found.kvs:
            raise NotMirrored(
                "SOURCE and TARGET are the same store, and the keys would be copied to themselves: name"
                " prefixes of which none begins with the other by --keys and --target-prefix, and a"
                " --checkpoint outside of what is copied"
            )

    async def _save(self) -> None:
        await self._write(Proof(self._breaks), [], self.copied, self._witness)

    def _overlaps(self) -> bool:
        """Whether what is written, the checkpoint too, would be copied again if both are the same store."""
        keys, target, checkpoint = self._scope
        return keys.startswith(target) or target.startswith(keys) or checkpoint.startswith(keys)

    # --- is it the store that was copied?

    def _breaks(self) -> int:
        return self._source.channel.connections

    async def _is_proven(self, witness: Witness) -> bool:
        key, revision = bytes.fromhex(witness.key), witness.revision
        before = None
        try:
            now = await self._state(key, revision)
            if not witness.digest:
                before = await self._state(key, revision - 1)
        except Status as error:
            if error.code != OUT_OF_RANGE:
                raise
            now = await self._state(key, 0)
            if now is None or now.mod_revision > revision:
                return False
        if witness.digest:
            is_same = now is not None and _witness(now) == witness
        else:
            is_same = now is None and before is not None and _removal(before, revision) == witness
        if not is_same:
            raise Another(_difference(witness, now, before))
        return True

    async def _state(self, key: bytes, revision: int) -> KeyValue | None:
        """A key of the source at a revision, 0 for the newest. Status with OUT_OF_RANGE if compacted."""
        answer = await self._source.range(pb.RangeRequest(key=key, revision=revision))
        self._check_cluster(answer.header)
        return answer.kvs[0] if answer.kvs else None

    async def _is_bare(self) -> bool:
        return await self._some() is None

    async def _some(self) -> bytes | None:
        """A key of the target that could be lost: not the checkpoint, nor what a run has left that was to
        tell whether both are one store. None if there is none.
        """
        probe = re.compile(re.escape(self._scope.checkpoint) + PROBE_SUFFIX)

        async def read(request: pb.RangeRequest) -> pb.RangeResponse:
            request.limit, request.keys_only = SOME_KEYS, True
            return await self._of_target(request)

        async with aclosing(self._list(read, self._scope.target, 0)) as pairs:
            async for _, pair in pairs:
                if not (pair.lease and probe.fullmatch(pair.key)):
                    return pair.key
        return None

    async def _at_newest(self, work: Callable[[int], Awaitable[None]]) -> None:
        """List as of the newest revision. Begun anew while the source compacts what is read."""
        while True:
            try:
                await work(await self._newest())
            except Status as error:
                if error.code != OUT_OF_RANGE:
                    raise
                self._patience.failed(error)
                await trio.sleep(RETRY_DELAYS[0])
            else:
                self._patience.recovered()
                return

    # --- comparing

    async def _compare(self, proof: Proof) -> None:
        """See `OneWay`. When it is begun anew, less and less is left to write."""

        async def compare(revision: int) -> None:
            batch = _Batch()
            self._fresh = None
            async with aclosing(self._pairs(revision, proof)) as pairs:
                async for key, ours, theirs in pairs:
                    if ours is None:
                        await self._add(proof, batch, key, None)
                        continue
                    self._note(_witness(ours))
                    if ours.value != theirs:
                        await self._add(proof, batch, key, ours.value)
            self._standby = self._fresh
            await self._write(proof, batch.take(), revision, self._fresh, is_complete=True)
            self._is_behind = False

        await self._at_newest(compare)

    async def _pairs(
        self, revision: int, proof: Proof
    ) -> AsyncGenerator[tuple[bytes, KeyValue | None, bytes | None]]:
        """All keys of both, without their prefix, in order: what the source has at a revision, and the value
        that the target has; None for the one that has it not. Reconnected if the proof does not hold.
        """
        async with (
            aclosing(self._list(self._of_target, self._scope.target, 0)) as present,
            aclosing(self._list(partial(self._of_source, proof), self._scope.keys, revision)) as wanted,
        ):
            theirs = await anext(present, None)
            async for key, ours in wanted:
                while theirs is not None and theirs[0] < key:
                    yield theirs[0], None, theirs[1].value
                    theirs = await anext(present, None)
                if theirs is not None and theirs[0] == key:
                    yield key, ours, theirs[1].value
                    theirs = await anext(present, None)
                else:
                    yield key, ours, None
            while theirs is not None:
                yield theirs[0], None, theirs[1].value
                theirs = await anext(present, None)

    async def _newest(self) -> int:
        """The revision of the source, by a linearizable read. NotMirrored if it is another cluster, or went
        back and may not.
        """
        answer = await self._source.range(pb.RangeRequest(key=self._scope.keys or b"\0", count_only=True))
        self._check_cluster(answer.header)
        self._check_forward(answer.header.revision)
        self._seen = max(self._seen, answer.header.revision)
        return answer.header.revision

    def _check_cluster(self, header: pb.ResponseHeader) -> None:
        if header.cluster_id and f"{header.cluster_id:x}" != self._cluster:
            raise NotMirrored("another cluster answers at the address of the source; check it")

    async def _of_source(self, proof: Proof, request: pb.RangeRequest) -> pb.RangeResponse:
        answer = await self._source.range(request)
        proof.check()
        return answer

    async def _of_target(self, request: pb.RangeRequest) -> pb.RangeResponse:
        return await self._patience.persist(lambda: self._target.range(request))

    async def _list(
        self, read: Callable[[pb.RangeRequest], Awaitable[pb.RangeResponse]], prefix: bytes, revision: int
    ) -> AsyncGenerator[tuple[bytes, KeyValue]]:
        """The keys below a prefix, without it, and what is there, in order; not the checkpoint."""
        request = _range(prefix, limit=self._page)
        request.revision = revision
        while True:
            request.limit = self._page
            try:
                answer = await read(request)
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
                    yield key, pair
            if not answer.more or not answer.kvs:
                return
            request.key = answer.kvs[-1].key + b"\0"
            self._page = max(1, self._page // 2) if size > PAGE_BYTES else min(LARGEST_PAGE, self._page * 2)

    def _is_checkpoint(self, key: bytes) -> bool:
        """Whether a key, without its prefix, is that of the checkpoint in the target."""
        return self._scope.target + key == self._scope.checkpoint

    async def _add(self, proof: Proof, batch: _Batch, key: bytes, value: bytes | None) -> None:
        """Write a change together with others. Before the last of them the checkpoint stays as it is, but for
        the witness. NotMirrored if the key has no name in the target, and the source has it still.
        """
        if not self._scope.target + key:
            if value is None or await self._state(self._scope.keys, 0) is None:
                return  # it was refused, or has gone since
            raise NotMirrored(
                f"the key {shown(self._scope.keys)} of SOURCE is the prefix of --keys itself, and would have"
                " an empty name in TARGET: name a prefix there by --target-prefix"
            )
        if batch.is_full(key, value, self._most_operations, self._most_bytes):
            await self._write(proof, batch.take(), self.copied, self._witness)
        batch.add(key, value)

    # --- following

    async def _go_on(self, proof: Proof, *, is_compared: bool) -> None:
        """Follow the changes after the witness, or after a comparison, until the source ends the watch, or
        has compacted some that were not seen.
        """
        after = self.copied  # after a comparison: this source may have compacted what is after the witness
        if self._witness is not None and not is_compared:
            after = min(self._witness.revision, after)
        wanted = _range(self._scope.keys)
        request = pb.WatchCreateRequest(
            key=wanted.key,
            range_end=wanted.range_end,
            start_revision=after + 1,
            progress_notify=True,
            fragment=True,
        )
        is_quiet = False
        async with self._source.watch(request) as watch:
            look_at = trio.current_time()
            while not is_quiet:
                answer = None
                with trio.move_on_at(float("inf") if self._standby else look_at):
                    answer = await watch.answer()
                if answer is None:
                    look_at = await self._look_for_standby(proof)
                    continue
                self._patience.recovered()
                self._check_cluster(answer.header)
                proof.check()
                if answer.compact_revision:
                    is_quiet = after < self.copied  # perhaps nothing was changed between the two
                    self._is_behind = not is_quiet
                    if self._is_behind:
                        return
                    continue
                if answer.canceled:
                    raise Unreachable(
                        [("the source", answer.cancel_reason or "it ended the watch")], outcome_known=True
                    )
                if not answer.created:
                    had = self._standby
                    await self._take(proof, answer)
                    if had:
                        look_at = trio.current_time() + self._look_pause
        await self._go_on(proof, is_compared=True)

    async def _look_for_standby(self, proof: Proof) -> float:
        """Find the newest key that is there, by a list without values; when to look again, if there is none.
        Reconnected if the proof does not hold any more.
        """
        page, newest, began = self._page, None, trio.current_time()

        async def read(request: pb.RangeRequest) -> pb.RangeResponse:
            request.limit, request.keys_only = min(request.limit, page), True  # the source reads the values
            return await self._of_source(proof, request)

        async with aclosing(self._list(read, self._scope.keys, 0)) as pairs:
            async for _, pair in pairs:
                if newest is None or pair.mod_revision > newest.mod_revision:
                    newest = pair
        self._page = page
        self._look_pause = max(STANDBY_SECONDS, LOOK_SHARE * (trio.current_time() - began))
        if newest is None:
            return float("inf")
        now = await self._state(newest.key, 0)
        if now is not None and now.mod_revision == newest.mod_revision:  # else there is an event of it
            self._standby = _witness(now)
            await self._write(proof, [], self.copied, self._witness)
        return trio.current_time() + self._look_pause

    async def _take(self, proof: Proof, answer: pb.WatchResponse) -> None:
        """Carry out the changes of an answer. They may be some that a comparison has seen already. Of an
        answer in fragments the last one only tells that all up to its revision was there.
        """
        skip = len(self._scope.keys)
        last: dict[bytes, bytes | None] = {}
        for event in answer.events:
            key = event.kv.key[skip:]
            last.pop(key, None)
            last[key] = None if event.type else event.kv.value
        newest = answer.events[-1].kv.mod_revision if answer.events else answer.header.revision
        self._seen = max(self._seen, newest)
        revision, witness = self.copied, self._witness
        if not answer.fragment:
            revision = max(newest, revision)
            if answer.events:
                witness = await self._witness_of(answer) or witness
        for event in answer.events:
            was_standby = self._standby is not None and self._standby.key == event.kv.key.hex()
            now = None if event.type else _witness(event.kv)
            self._changed(event.kv.mod_revision, now, was_standby=was_standby)
        batch = _Batch()
        for key, value in last.items():
            if not self._is_checkpoint(key):
                await self._add(proof, batch, key, value)
        changes = batch.take()
        if changes or revision > self.copied or witness != self._witness:
            await self._write(proof, changes, revision, witness)

    async def _witness_of(self, answer: pb.WatchResponse) -> Witness | None:
        """A witness of the last revision in an answer. None if all that is known of it are deletions of keys
        whose state before is compacted.
        """
        revision = answer.events[-1].kv.mod_revision
        removed = b""
        for event in reversed(answer.events):
            if event.kv.mod_revision != revision:
                break
            if not event.type:
                return _witness(event.kv)
            removed = event.kv.key
        try:
            before = await self._state(removed, revision - 1)
        except Status as error:
            if error.code != OUT_OF_RANGE:
                raise
            return None
        return _removal(before, revision) if before else None

    # --- writing

    async def _write(
        self,
        proof: Proof,
        changes: Changes,
        revision: int,
        witness: Witness | None,
        *,
        is_complete: bool = False,
    ) -> None:
        """Write changes and the checkpoint in one transaction; in several if the target takes less in one.
        Before the last of them the checkpoint stays as it is. `is_complete`: with that all was compared.
        Reconnected if the proof does not hold any more.
        """
        proof.check()
        scope = self._scope
        self._sequence += 1
        self._seen = max(self._seen, revision)
        state = Checkpoint(
            self._cluster,
            scope.keys.hex(),
            revision,
            self._writer,
            self._sequence,
            witness=witness,
            standby=self._standby,
            seen=self._seen,
            behind=self._is_behind and not is_complete,
            overwriting=self._overwriting and not revision,
        )
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
        try:
            self._modified = await self._patience.persist(lambda: self._commit(request, value))
        except Status as error:
            if not self._is_reduced(error, changes, request.ByteSize()):
                raise
            half = len(changes) // 2
            await self._write(proof, changes[:half], self.copied, self._witness)
            await self._write(proof, changes[half:], revision, witness, is_complete=is_complete)
            return
        self.copied, self._witness = revision, witness
        self._deleted += sum(content is None for _, content in changes)
        self._written += sum(content is not None for _, content in changes)
        self._told(Told(revision, self._written, self._deleted))

    def _is_reduced(self, error: Status, changes: Changes, size: int) -> bool:
        """Whether the target refuses a transaction of so many bytes because it is too long, so that from now
        on less is put into one. NotMirrored if it cannot be less.
        """
        if not has_many(error) and not has_much(error):
            return False
        if len(changes) < 2:
            key = shown(self._scope.target + changes[0][0] if changes else self._scope.checkpoint)
            if has_many(error):
                flag = "two operations in a transaction: start its members with --max-txn-ops 2 or more"
            else:
                least = least_request_bytes(size)
                flag = f"a write of {size} bytes: start its members with --max-request-bytes {least} or more"
            raise NotMirrored(f"the key {key} does not get into TARGET, which refuses {flag} ({error})")
        if has_many(error):
            self._most_operations = len(changes) // 2
        else:
            self._most_bytes = size // 2
        return True

    async def _commit(self, request: pb.TxnRequest, value: bytes) -> int:
        """The revision in which the transaction was carried out, now or by an earlier attempt."""
        answer = await self._target.txn(request)
        if answer.succeeded:
            return answer.header.revision
        found = await self._target.range(pb.RangeRequest(key=self._scope.checkpoint))
        if found.kvs and found.kvs[0].value == value:
            return found.kvs[0].mod_revision
        raise TakenOver(shown(self._scope.checkpoint), found.kvs[0].value if found.kvs else None)


class _Batch:
    """Changes for one transaction."""

    def __init__(self) -> None:
        self._changes: Changes = []
        self._size = 0

    def is_full(self, key: bytes, value: bytes | None, most_operations: int, most_bytes: int) -> bool:
        """Whether this change is too much for a transaction of so many operations and bytes."""
        more = len(key) + len(value or b"")
        return bool(self._changes) and (
            len(self._changes) >= most_operations or self._size + more > most_bytes
        )

    def add(self, key: bytes, value: bytes | None) -> None:
        """Add a change; None deletes."""
        self._changes.append((key, value))
        self._size += len(key) + len(value or b"")

    def take(self) -> Changes:
        """What was added since the last call."""
        changes, self._changes, self._size = self._changes, [], 0
        return changes


def _witness(pair: KeyValue) -> Witness:
    """Of the change that a key was last written by."""
    return Witness(pair.key.hex(), pair.mod_revision, pair.create_revision, pair.version, digest(pair.value))


def _removal(before: KeyValue, revision: int) -> Witness:
    """Of the deletion of a key that was so before."""
    return Witness(before.key.hex(), revision, before.create_revision, before.version)


def _difference(witness: Witness, now: KeyValue | None, before: KeyValue | None) -> str:
    """How what a source has at the revision of a witness, and had before a deletion, differs from it."""
    key, revision = shown(bytes.fromhex(witness.key)), witness.revision
    if witness.digest:
        text = f"the key {key} was version {witness.version} at revision {revision}, created at"
        text += f" {witness.created}, and in SOURCE "
        if now is None:
            return f"{text}it was not there"
        found = now.mod_revision, now.create_revision, now.version
        if found == (revision, witness.created, witness.version):
            return f"{text}it had another value there"
        return f"{text}it is version {now.version} of revision {now.mod_revision}, created at {found[1]}"
    text = f"the key {key}, created at revision {witness.created}, was deleted at revision {revision}, and in"
    if now is not None:
        return f"{text} SOURCE it was still there"
    has = "was not there before" if before is None else f"was created at revision {before.create_revision}"
    return f"{text} SOURCE it {has}"


def _range(prefix: bytes, limit: int = 0) -> pb.RangeRequest:
    """The keys below a prefix."""
    end = bytes(prefix).rstrip(b"\xff")
    after = end[:-1] + bytes((end[-1] + 1,)) if end else b"\0"
    return pb.RangeRequest(key=prefix or b"\0", range_end=after, limit=limit)
