"""Copies a folder of one store's v2 tree into another and follows its changes: one way, live, resumable.

The listing of the source is compared folder by folder, from an index that is read before it, and all events
after that index are carried out in their order: so the target is equal to the source at the index of the last
event, though folders were read at different moments. The checkpoint, a hidden key of the target, has the
index up to which that was done. It is written from time to time: events after it are carried out once more by
the next run, which ends in the same state. Only the run that has written it last may write it again, so two
mirrors do not write into each other for long.

Values, folders and TTLs are kept; indexes are not. A write replaces what was found by its index, so a write
that a store carries out late does not undo a later one. A refresh of a TTL is no event: the source is asked
again for a node with a TTL when half of its time is over, while the next event is waited for.

After each break, and before a comparison, the source shows that it is the store that was copied
(`client.mirror`): by the node that was changed last, or by the event of that change.
"""

from __future__ import annotations

import heapq
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from netstore.client.mirror import (
    RETRY_DELAYS,
    Another,
    Checkpoint,
    NotMirrored,
    Patience,
    Told,
    Witness,
    digest,
    no_proof,
    parse_checkpoint,
    shown,
    together,
    unlike,
    went_back,
)
from netstore.client.v2 import (
    COMPARE_FAILED,
    INDEX_CLEARED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    NOT_A_FILE,
    NOT_A_FOLDER,
    V2Error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.client.v2 import Answer, Node, Poll, V2Client

POLL_SECONDS: Final = 5.0
"""A poll without an event is sent again after so long, from the index that the store had meanwhile: a store
forgets its events after the next 1,000, of whatever keys.
"""

SURE_SECONDS: Final = 2.0
"""A poll that was shorter does not tell that the past has no event: it may have been on its way."""

BREAK_SECONDS: Final = 0.2
"""A source that was not asked for an event for so long is first asked whether it is still the same: a store
that is begun anew takes longer to start.
"""

SAVE_SECONDS: Final = 1.0
"""The checkpoint is written at most this long after an event."""

TTL_SLACK: Final = 2
"""Seconds by which TTLs may differ before one is written again, but for short ones: both are rounded, at
different moments.
"""

SHORTEST_LOOK: Final = 0.5
"""Seconds between two looks at the source for one node with a TTL, at least."""

LATE_SECONDS: Final = 5.0
"""That looks are later than this is told."""

MOST_TIMED: Final = 100_000
"""Nodes with a TTL whose refreshes are followed: some 20 MB."""

MOST_ATTEMPTS: Final = 10
"""How often a write is tried again whose node was changed by somebody else meanwhile."""

_REMOVALS: Final = ("delete", "compareAndDelete", "expire")
_CHANGED: Final = (KEY_NOT_FOUND, COMPARE_FAILED, NOT_A_FILE, NOT_A_FOLDER, KEY_EXISTS)
"""Refusals of a write because the node is another than was found."""


class Scope(NamedTuple):
    """Which folder is copied where to: paths that begin with a slash and do not end with one, but for the
    root, which is `/`.
    """

    source: str
    target: str
    checkpoint: str
    """The key of the checkpoint, in the target."""


class _Wanted(NamedTuple):
    """What a node of the target is to be."""

    value: str | None
    """None: a folder."""
    ttl: int | None


class Mirror:
    """Makes a folder of the target a mirror of one of the source."""

    def __init__(
        self,
        source: V2Client,
        target: V2Client,
        scope: Scope,
        told: Callable[[Told], object],
        trouble: Callable[[str], object],
        *,
        notice: Callable[[str], object],
        overwrite: bool = False,
    ) -> None:
        """`told` is called when an event was carried out, and when all was compared; for `trouble` see
        `client.mirror.Patience`; `notice` with what somebody should know, such as a file in the target that
        gives way to a folder. `overwrite`: a first copy may replace and delete what the target has, and the
        target may become equal to a source that went back, or is another than was copied.
        """
        self._source = _Side(source, may_go_back=overwrite)
        self._target = _Side(target, may_go_back=True)
        self._scope = scope
        self._told = told
        self._patience = Patience(trouble)
        self._notice = notice
        self._overwrite = overwrite
        self._writer = secrets.token_hex(8)
        self._sequence = 0
        self._modified = 0
        """The index of the checkpoint in the target."""
        self._saved = 0
        """The index that the checkpoint has."""
        self._save_at = 0.0
        self._silent = 0
        """Up to which index the last poll has found no event. If the next one, by a member that has come as
        far, finds none either, none was.
        """
        self._witness: Witness | None = None
        self._listed: Witness | None = None
        """The witness of a comparison that is under way."""
        self._is_behind = False
        """What the source has changed since the checkpoint is not all known by its events: it has forgotten
        some, or refreshed nodes while no mirror ran.
        """
        self._timed = _Timed()
        self._is_strange = False
        """A name or value that is not UTF-8 was told of."""
        self._is_late = False
        """It was told that looks are late."""
        self._written = self._deleted = 0
        self.index = 0
        """See `client.mirror.Checkpoint.revision`."""

    async def copy(self) -> None:
        """Make the target equal to the source, once.

        NotMirrored if it cannot be; ClientError if a store cannot be asked.
        """
        await self._begin()
        await self._compare()

    async def follow(self) -> None:
        """Make the target equal, or go on where the last run was, and follow the source without end. Calls
        that fail are repeated. NotMirrored as in `copy`.
        """
        self._patience.is_endless = True
        await self._patience.persist(self._begin)
        while True:
            await self._patience.persist(self._follow)

    # --- the checkpoint

    async def _begin(self) -> None:
        """Read the checkpoint, or write the first one."""
        scope = self._scope
        newest = await self._source.newest(scope.source)
        found = await self._target.node(scope.checkpoint, quorum=True)
        if self._source.cluster == self._target.cluster and (
            _is_within(scope.source, scope.target) or _is_within(scope.target, scope.source)
        ):
            raise NotMirrored(
                "SOURCE and TARGET are the same store, and the v2 keys would be copied to themselves: name"
                " folders of which none is in the other by --keys and --target-prefix"
            )
        there = await self._target.node(scope.target, quorum=True)
        if there is None:
            await self._make_way(scope.target)
        if found is not None:
            checkpoint = parse_checkpoint(
                (found.value or "").encode(), scope.checkpoint, self._source.cluster, scope.source.encode()
            )
            self._source.check_forward(newest, checkpoint.revision)
            self._modified, self._is_behind = found.modified_index, checkpoint.timed
            self.index = self._saved = checkpoint.revision
            self._witness = checkpoint.witness
            return
        if there is not None and not self._overwrite and (there.nodes or not there.dir):
            some = there.nodes[0].key if there.nodes else there.key
            raise NotMirrored(
                f"TARGET has v2 keys already, such as {shown(some.encode())}: name another folder there by"
                " --target-prefix, or let them be replaced and deleted by --overwrite"
            )
        await self._save()

    async def _save(self) -> None:
        """Write the checkpoint."""
        self._sequence += 1
        state = Checkpoint(
            self._source.cluster,
            self._scope.source.encode().hex(),
            self.index,
            self._writer,
            self._sequence,
            timed=bool(self._timed),
            witness=self._witness,
        )
        value = msgspec.json.encode(state).decode()
        self._modified = await self._patience.persist(lambda: self._commit(value))
        self._saved = self.index
        self._told(Told(self.index, self._written, self._deleted))

    async def _commit(self, value: str) -> int:
        """The index of the checkpoint with this value, written now or by an earlier attempt."""
        key, client = self._scope.checkpoint, self._target.client
        try:
            if self._modified:
                answer = await client.compare_and_swap(key, value, prev_index=self._modified)
            else:
                answer = await client.create(key, value)
        except V2Error as error:
            if error.code not in _CHANGED:
                raise
            if error.code in {NOT_A_FILE, NOT_A_FOLDER}:
                raise NotMirrored(
                    f"checkpoint {key}: {error.cause} is in its way: name another key by --checkpoint"
                ) from None
        else:
            return answer.node.modified_index
        found = await self._target.node(key, quorum=True)
        if found is not None and found.value == value:
            return found.modified_index
        raise NotMirrored(
            f"checkpoint {key}: another mirror writes into TARGET by it, or the key was removed; stop one of"
            " them, or name another key by --checkpoint"
        )

    # --- is it the store that was copied?

    async def _is_proven(self) -> bool:
        """Whether the source shows the last change that was copied. False if that cannot be told: no change
        is known, or it is forgotten and its node was changed since. Another if it shows something else.
        """
        source, witness = self._source, self._witness
        if witness is None:
            return False
        key = bytes.fromhex(witness.key).decode(errors="replace")
        node = await source.node(key, quorum=True)
        found = None if node is None or node.dir else _witness(node)  # folders keep no index of updates
        if found is None or found.revision > witness.revision:
            try:
                async with source.client.poll(key, index=witness.revision) as poll:
                    source.check(poll.cluster_id)
                    answer = await poll.event(SURE_SECONDS)
            except V2Error as error:
                if error.code != INDEX_CLEARED:
                    raise
                return False
            if answer is None:
                return False  # perhaps it is on its way
            found = _witness(answer.node, is_removal=answer.action in _REMOVALS)
        if found != witness:
            was = "changed" if witness.digest else "removed"
            raise Another(
                f"{key}, created at index {witness.created}, was {was} at index {witness.revision}, and in"
                f" SOURCE it has another history: index {found.revision}, created at {found.created}"
            )
        return True

    async def _check_copied(self) -> None:
        """Another unless all files that the source has not changed since the checkpoint are in the target as
        they are, and one such file at least. One with a TTL may have ended in the target before.
        """
        is_empty, is_shown = True, False
        waiting = [""]
        while waiting:
            path = waiting.pop()
            ours, theirs = await self._both(path)
            wanted, present = (
                {"": node} if node is not None and not node.dir else _children(node)
                for node in (ours, theirs)
            )
            if any(not node.dir or name not in wanted for name, node in present.items()):
                is_empty = False
            for name, node in wanted.items():
                there = present.get(name)
                if node.dir:
                    waiting.append(f"{path}/{name}")
                elif there is not None and there.value == node.value and node.created_index <= self.index:
                    is_shown = True
                elif node.modified_index <= self.index and (node.expiration is None or there is not None):
                    raise unlike(shown(node.key.encode()), "index", node.modified_index, self.index)
        if not is_empty and not is_shown:
            raise no_proof("index", self.index)

    async def _both(self, path: str) -> tuple[Node | None, Node | None]:
        """What the source and the target have of a path, which is relative to the folder that is copied."""
        ours = await self._source.node(_join(self._scope.source, path))
        theirs = await self._target.node(_join(self._scope.target, path))
        self._patience.recovered()
        return ours, theirs

    # --- comparing

    async def _compare(self) -> None:
        """Compare all nodes, and write what differs."""
        index = await self._source.newest(self._scope.source, self.index)
        if self.index and not self._overwrite and not await self._is_proven():
            await self._check_copied()
        self._timed.clear()
        self._listed = None
        waiting = [""]
        while waiting:
            waiting += reversed(await self._compare_node(waiting.pop()))
        self.index, self._witness, self._is_behind = index, self._listed, False
        await self._save()

    async def _compare_node(self, path: str) -> list[str]:
        """Make a node of the target equal, with the files below it; the folders below it are returned."""
        ours, theirs = await self._both(path)
        if ours is None:
            await self._remove(path)
            return []
        await self._ensure(path, _wanted(ours), theirs)
        if not ours.dir:
            return []
        present = _children(theirs)
        folders = []
        for node in sorted(ours.nodes, key=_name):
            name = _name(node)
            below = f"{path}/{name}"
            there = present.pop(name, None)
            if node.dir:
                folders.append(below)
            else:
                self._list(node)
                await self._ensure(below, _wanted(node), there)
        for name in present:
            await self._remove(f"{path}/{name}")
        return folders

    def _list(self, node: Node) -> None:
        """A file of the source was seen. With a TTL it is no witness: perhaps it was refreshed, and there is
        no event of that.
        """
        if node.expiration is None and (self._listed is None or node.modified_index > self._listed.revision):
            self._listed = _witness(node)

    # --- following

    async def _follow(self) -> None:
        """Carry out the events after `index`, until a poll breaks. Compare all before, where that is needed.

        The first poll is for the events after the witness, if the source still has them: those up to `index`
        were copied, or are of a source that was put back to a state between the two.
        """
        source, scope = self._source, self._scope
        after = self.index if self._witness is None else min(self._witness.revision, self.index)
        if await self._must_compare():
            await self._compare()
            after = self.index
        self._silent = 0
        heard = trio.current_time()
        while True:
            if self.index > self._saved and trio.current_time() >= self._save_at:
                await self._save()
            if trio.current_time() > heard + BREAK_SECONDS:
                return
            try:
                async with source.client.poll(scope.source, index=after + 1, recursive=True) as poll:
                    self._patience.recovered()
                    source.check(poll.cluster_id)
                    limit = self._limit()
                    answer = await self._event(poll, limit)
            except V2Error as error:
                if error.code != INDEX_CLEARED:
                    raise
                self._is_behind = after == self.index
                after = self.index
                if self._is_behind:
                    return
                continue
            heard = trio.current_time()
            if poll.etcd_index < self.index and await self._must_compare():
                return
            if answer is not None:
                self._silent = 0
                if answer.node.modified_index <= self.index and self._path_of(answer.node) is not None:
                    self._is_behind = True
                    return
                await self._carry_out(answer, is_past=answer.node.modified_index <= poll.etcd_index)
                after = answer.node.modified_index
                self._reach(after)
                self._told(Told(self.index, self._written, self._deleted))
            elif not poll.timed_out:
                await trio.sleep(RETRY_DELAYS[0])
                return
            elif limit >= SURE_SECONDS and poll.etcd_index >= self._silent:  # else by one that lags behind
                self._reach(self._silent)
                after = max(after, self.index)
                self._silent = poll.etcd_index

    def _reach(self, index: int) -> None:
        if index > self.index:
            if self.index == self._saved:
                self._save_at = trio.current_time() + SAVE_SECONDS
            self.index = index

    def _limit(self) -> float:
        """How long to wait for the next event."""
        if self.index == self._saved:
            return POLL_SECONDS
        return max(min(POLL_SECONDS, self._save_at - trio.current_time()), 0.0)

    async def _must_compare(self) -> bool:
        """Whether the events after the checkpoint are not enough. NotMirrored if the source went back or is
        another, and the target may not become equal to it.
        """
        newest = await self._source.newest(self._scope.source, self.index)
        if newest < self.index:
            found = f"SOURCE is at index {newest}, and was at {self.index} before"
        elif not self.index or self._is_behind:
            return True
        else:
            try:
                return not await self._is_proven()
            except Another as error:
                if not self._overwrite:
                    raise
                found = error.found
        self._notice(f"{found}: TARGET is made equal to it all the same")
        return True

    async def _carry_out(self, event: Answer, *, is_past: bool) -> None:
        """Do in the target what was done in the source."""
        node, removed = event.node, event.action in _REMOVALS
        if not _is_within(node.key, self._scope.source):
            # A folder around the one that is copied; an event of the past may also be of one beside it.
            if removed and _is_within(self._scope.source, node.key):
                await self._remove("")
            return
        self._witness = _witness(node, is_removal=removed)
        path = self._path_of(node)
        if path is None:
            return
        if removed:
            await self._remove(path)
            return
        there = await self._target.node(_join(self._scope.target, path))
        await self._ensure(path, _wanted(node), there, is_event=True)
        if is_past and node.expiration is not None:
            self._timed.put(path, trio.current_time())  # the TTL is the one of that time

    def _path_of(self, node: Node) -> str | None:
        """The path of a node in the folder that is copied. None if it is hidden: a listing does not have it
        either; or if it is elsewhere.
        """
        path = node.key[len(self._scope.source.rstrip("/")) :]
        return None if "/_" in path or not _is_within(node.key, self._scope.source) else path

    async def _event(self, poll: Poll, limit: float) -> Answer | None:
        """What `Poll.event` has. Nodes with a TTL are looked at meanwhile: one that is due in any case, and
        no more once the event is there. So however many events or nodes there are, both go on.
        """
        answers: list[Answer | None] = []
        ended = trio.Event()

        async def wait() -> None:
            answers.append(await poll.event(limit))
            ended.set()

        await together((partial(self._look_until, ended), wait))
        return answers[0]

    async def _look_until(self, ended: trio.Event) -> None:
        is_due = await self._look()
        while not ended.is_set():
            if not is_due:
                with trio.move_on_at(self._timed.next()):
                    await ended.wait()
                    return
            is_due = await self._look()

    async def _look(self) -> bool:
        """Ask the source again for a node with a TTL, half of whose time is over. False if there is none."""
        late = trio.current_time() - self._timed.next()
        if late < 0:
            return False
        if late > LATE_SECONDS and not self._is_late:
            self._is_late = True
            self._notice(
                f"of {len(self._timed)} nodes with a TTL some are looked at {late:.0f} s late: where they are"
                " refreshed by refresh=true, they may end in the target, and come back with the next look"
            )
        path = self._timed.first()
        node = await self._source.node(_join(self._scope.source, path))
        if node is None or node.expiration is None:
            self._timed.discard(path)  # there is an event of it
            return True
        there = await self._target.node(_join(self._scope.target, path))
        await self._ensure(path, _wanted(node), there)
        return True

    # --- writing

    async def _ensure(
        self, path: str, wanted: _Wanted, there: Node | None, *, is_event: bool = False
    ) -> None:
        """Make the node of the target as it is wanted; it was found as `there`. An event is written in any
        case, for the watchers of the target.
        """
        key = _join(self._scope.target, path)
        if key == self._scope.checkpoint:
            return
        self._look_for_strange(key, wanted)
        found = [there]

        async def attempt() -> None:
            for _ in range(MOST_ATTEMPTS):
                try:
                    self._written += await self._write(key, wanted, found[0], is_event=is_event)
                except V2Error as error:
                    if error.code not in _CHANGED:
                        raise
                    if error.code == NOT_A_FOLDER:
                        await self._make_way(key)
                else:
                    return
                found[0] = await self._target.node(key, quorum=True)
            raise NotMirrored(f"{key}: somebody else changes it in TARGET all the time; find out who")

        await self._patience.persist(attempt)
        if wanted.ttl is None:
            self._timed.discard(path)
        elif not self._timed.put(path, _next_look(trio.current_time(), wanted.ttl)):
            self._notice(
                f"more than {MOST_TIMED} nodes have a TTL: where others are refreshed by refresh=true, they"
                " end in the target by the TTL that they had"
            )

    async def _write(self, key: str, wanted: _Wanted, there: Node | None, *, is_event: bool) -> int:
        """Write a node, if it has to be; how many were. V2Error if it is not as it was found."""
        client, value, ttl = self._target.client, wanted.value, wanted.ttl
        if there is not None and there.dir != (value is None):
            if key == "/":
                raise NotMirrored(
                    f"{self._scope.source}: is a file of SOURCE, and the root of TARGET cannot be one: name a"
                    " key there by --target-prefix"
                )
            kinds = ("folder", "file") if there.dir else ("file", "folder")
            self._notice(f"{key}: the {kinds[0]} of the target gives way to a {kinds[1]} of the source")
            await self._delete(key, there)
            there = None
        if there is None:
            if value is None:
                answer = await client.mkdir(key, ttl=ttl)
            else:
                answer = await client.create(key, value, ttl=ttl)
        elif key == "/" or (not is_event and there.value == value and _is_near(_ttl(there), ttl)):
            return 0
        elif not is_event and there.value == value and ttl is not None:
            answer = await client.refresh(key, ttl)
        elif value is None:
            answer = await client.update_folder(key, ttl=ttl)
        else:
            answer = await client.compare_and_swap(key, value, prev_index=there.modified_index, ttl=ttl)
        self._target.saw(answer.etcd_index)
        return 1

    async def _make_way(self, key: str) -> None:
        """Remove a file of the target where `key` needs a folder. NotMirrored if it is outside of the folder
        that is the mirror's.
        """
        names = key.split("/")
        for depth in range(2, len(names)):
            above = "/".join(names[:depth])
            node = await self._target.node(above, quorum=True)
            if node is not None and not node.dir:
                if not _is_within(above, self._scope.target):
                    raise NotMirrored(
                        f"{self._scope.target}: cannot be a folder of TARGET, as {above} is a file there:"
                        " remove that file, or name another folder by --target-prefix"
                    )
                self._notice(f"{above}: the file of the target gives way to a folder of the source")
                await self._delete(above, node)
                return

    async def _remove(self, path: str) -> None:
        """Remove a node of the target, with everything below it."""
        key = _join(self._scope.target, path)
        self._timed.discard(path)
        if key == self._scope.checkpoint:
            return

        async def attempt() -> None:
            quorum = False
            for _ in range(MOST_ATTEMPTS):
                there = await self._target.node(key, quorum=quorum)
                if there is None:
                    return
                try:
                    if key == "/":
                        for node in there.nodes:
                            await self._delete(node.key, node)
                        return
                    await self._delete(key, there)
                except V2Error as error:
                    if error.code not in _CHANGED:
                        raise
                    quorum = True
                else:
                    return
            raise NotMirrored(f"{key}: somebody else changes it in TARGET all the time; find out who")

        await self._patience.persist(attempt)

    async def _delete(self, key: str, there: Node) -> None:
        client = self._target.client
        if there.dir:
            answer = await client.delete(key, recursive=True)
        else:
            answer = await client.compare_and_delete(key, prev_index=there.modified_index)
        self._target.saw(answer.etcd_index)
        self._deleted += 1

    def _look_for_strange(self, key: str, wanted: _Wanted) -> None:
        if not self._is_strange and ("\ufffd" in key or "\ufffd" in (wanted.value or "")):
            self._is_strange = True
            self._notice(f"{key}: has bytes that are not UTF-8, which the v2 API replaces by U+FFFD: so here")


class _Side:
    """A store, of which nothing is read that is older than what was read or written before."""

    def __init__(self, client: V2Client, *, may_go_back: bool) -> None:
        self.client = client
        self.cluster = ""
        self._may_go_back = may_go_back
        self._floor = 0

    def saw(self, index: int) -> None:
        """The store has come to this index."""
        self._floor = max(self._floor, index)

    def check(self, cluster: str) -> None:
        """NotMirrored if an answer is of another cluster."""
        self.cluster = self.cluster or cluster
        if cluster and cluster != self.cluster:
            raise NotMirrored("another cluster answers at the address of a store; check it")

    def check_forward(self, newest: int, before: int) -> None:
        """NotMirrored if the store is at `newest` and was at a later index before, and may not go back."""
        if newest < before and not self._may_go_back:
            raise went_back("index", before, newest)

    async def node(self, key: str, *, quorum: bool = False) -> Node | None:
        """The node, with its children if it is a folder; None if there is none."""
        node, index = await self._read(key, quorum=quorum)
        if index < self._floor and not quorum:  # from a member that lags behind
            node, index = await self._read(key, quorum=True)
            self.check_forward(index, self._floor)
        self.saw(index)
        return node

    async def newest(self, folder: str, before: int = 0) -> int:
        """The index of the store, which was at `before`, by a linearizable read of a key in this folder that
        is not likely to be there.
        """
        newest = (await self._read(_join(folder, "/_"), quorum=True))[1]
        self.check_forward(newest, max(before, self._floor))
        self._floor = newest
        return newest

    async def _read(self, key: str, *, quorum: bool) -> tuple[Node | None, int]:
        try:
            answer = await self.client.get(key, quorum=quorum)
        except V2Error as error:
            if error.code not in {KEY_NOT_FOUND, NOT_A_FOLDER}:
                raise
            self.check(error.cluster_id)
            return None, error.index
        self.check(answer.cluster_id)
        return answer.node, answer.etcd_index


class _Timed:
    """Paths with a TTL, and when each is to be looked at again; at most `MOST_TIMED`."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        """Has outdated entries too, at most as many as there are paths, and a few."""
        self._is_full = False

    def __len__(self) -> int:
        return len(self._when)

    def clear(self) -> None:
        """Forget all."""
        self._when.clear()
        self._heap.clear()

    def put(self, path: str, when: float) -> bool:
        """Look at a path then. False if it is one too many, the first time."""
        if path not in self._when and len(self._when) >= MOST_TIMED:
            is_first, self._is_full = not self._is_full, True
            return not is_first
        self._when[path] = when
        if len(self._heap) > 2 * len(self._when) + 100:
            self._heap = [(each, path) for path, each in self._when.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (when, path))
        return True

    def discard(self, path: str) -> None:
        """Do not look at a path any more."""
        self._when.pop(path, None)

    def next(self) -> float:
        """When to look at the first one."""
        while self._heap and self._when.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def first(self) -> str:
        """Which is to be looked at `next`; it is to be `put` or to be `discard`ed then."""
        return self._heap[0][1]


def _next_look(now: float, ttl: int) -> float:
    """When half of what is left of a TTL is over."""
    return now + max(SHORTEST_LOOK, ttl / 2)


def _join(folder: str, path: str) -> str:
    """The key of a path, empty or with a slash in front, in a folder."""
    return folder.rstrip("/") + path or "/"


def _is_within(key: str, folder: str) -> bool:
    """Whether a key is a folder, or below it."""
    return key == folder or key.startswith(_join(folder, "/"))


def _name(node: Node) -> str:
    return node.key.rpartition("/")[2]


def _children(node: Node | None) -> dict[str, Node]:
    """What is in a folder, by name."""
    return {} if node is None else {_name(each): each for each in node.nodes}


def _witness(node: Node, *, is_removal: bool = False) -> Witness:
    """Of the change that a node has its index of."""
    value = "" if is_removal else digest(repr((node.dir, node.value)).encode())
    return Witness(node.key.encode().hex(), node.modified_index, node.created_index, digest=value)


def _ttl(node: Node) -> int | None:
    """What is left; a node whose time is up is there until the store removes it."""
    return None if node.expiration is None else max(node.ttl or 0, 1)


def _wanted(node: Node) -> _Wanted:
    return _Wanted(None if node.dir else node.value or "", _ttl(node))


def _is_near(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= min(TTL_SLACK, one // 4, other // 4)
