"""The two v2 trees of a mirror: what is read of either, what is written into the target, and the nodes with a
TTL that are to be looked at again.

A read is never older than what was read or written before. A write of a file replaces what was found by its
index; a folder has none to compare, nor has a refresh. Each write takes the proof that what is written was
said by the store that is copied.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import trio

from netstore.client.faults import MAX_ANSWER_BYTES, TooLong
from netstore.client.mirror import NotMirrored, went_back
from netstore.client.v2 import (
    COMPARE_FAILED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    NOT_A_FILE,
    NOT_A_FOLDER,
    NOT_EMPTY,
    Node,
    V2Error,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from netstore.client.mirror import Patience, Proof
    from netstore.client.v2 import Poll, V2Client

TTL_SLACK: Final = 2
"""Seconds by which TTLs may differ before one is written again, but for short ones: both are rounded, at
different moments.
"""

SHORT_TTL: Final = 2
"""Seconds of a TTL up to which it is written again in any case."""

MOST_TIMED: Final = 100_000
"""Nodes with a TTL whose refreshes are followed: some 20 MB."""

MOST_ATTEMPTS: Final = 10
"""How often a write is tried again whose node was changed by somebody else meanwhile."""

CHANGED: Final = (KEY_NOT_FOUND, COMPARE_FAILED, NOT_A_FILE, NOT_A_FOLDER, KEY_EXISTS, NOT_EMPTY)
"""Refusals of a write because the node is another than was found."""


class Scope(NamedTuple):
    """Which folder is copied where to: paths that begin with a slash and do not end with one, but for the
    root, which is `/`.
    """

    source: str
    target: str
    checkpoint: str
    """The key of the checkpoint, in the target."""


class Wanted(NamedTuple):
    """What a node of the target is to be."""

    value: str | None
    """None: a folder."""
    ttl: int | None


class LongFolder(NotMirrored):
    """The listing of a folder is longer than what is read at once."""


class Side:
    """A store, of which nothing is read that is older than what was read or written before."""

    name: ClassVar[str]

    def __init__(self, client: V2Client, *, may_go_back: bool) -> None:
        self.client = client
        self.cluster = ""
        self.index = 0
        """The highest one that the store is known to have come to."""
        self.heard = float("-inf")
        """When it has answered last."""
        self._may_go_back = may_go_back

    def saw(self, index: int) -> None:
        """The store has come to this index."""
        self.index = max(self.index, index)

    def check(self, cluster: str) -> None:
        """An answer of this cluster has come. NotMirrored if it is another one."""
        self.heard = trio.current_time()
        self.cluster = self.cluster or cluster
        if cluster and cluster != self.cluster:
            raise NotMirrored("another cluster answers at the address of a store; check it")

    async def node(self, key: str, *, quorum: bool = False) -> Node | None:
        """The node, with its children if it is a folder; None if there is none. NotMirrored if the store went
        back, and may not; LongFolder if they are too long to be listed.
        """
        node, index = await self._read(key, quorum=quorum)
        if index < self.index and not quorum:  # from a member that lags behind
            node, index = await self._read(key, quorum=True)
        if index < self.index and not self._may_go_back:
            raise went_back("index", self.index, index)
        self.saw(index)
        return node

    async def newest(self, folder: str) -> int:
        """The index of the store, by a linearizable read of a key in this folder that is not likely to be
        there.
        """
        self.index = (await self._read(join(folder, "/_"), quorum=True))[1]
        return self.index

    async def _read(self, key: str, *, quorum: bool) -> tuple[Node | None, int]:
        try:
            answer = await self.client.get(key, quorum=quorum)
        except TooLong:
            raise LongFolder(
                f"{key}: the keys of this folder of {self.name}, with their values, are longer than the"
                f" {MAX_ANSWER_BYTES // 2**20} MiB that are read at once: copy what is in it by several runs,"
                " each with --keys of one folder or key of it, and with its own --checkpoint"
            ) from None
        except V2Error as error:
            if error.code not in {KEY_NOT_FOUND, NOT_A_FOLDER}:
                raise
            self.check(error.cluster_id)
            return None, error.index
        self.check(answer.cluster_id)
        return answer.node, answer.etcd_index


class Source(Side):
    """The store that is copied."""

    name = "SOURCE"

    @asynccontextmanager
    async def poll(self, key: str, after: int, *, recursive: bool = False) -> AsyncIterator[Poll]:
        """A long poll for the next event after an index. V2Error 401 if it is forgotten."""
        async with AsyncExitStack() as stack:
            polls = self.client.poll(key, index=after + 1, recursive=recursive)
            try:
                poll = await stack.enter_async_context(polls)
            except V2Error as error:
                self.check(error.cluster_id)
                raise
            self.check(poll.cluster_id)
            yield poll


class Target(Side):
    """The store that is to become equal."""

    name = "TARGET"

    def __init__(
        self,
        client: V2Client,
        scope: Scope,
        patience: Patience,
        claim: Callable[[bool], Awaitable[None]],
        notice: Callable[[str], object],
        *,
        lost: Callable[[str], object],
    ) -> None:
        """`claim` is called before each write, after what it replaces was read; with True if it was refused
        because somebody else has changed that meanwhile. `lost` is called, with its path, before a folder is
        made in the place of one that was written before, and has gone with what was in it: for one folder
        perhaps several times.
        """
        super().__init__(client, may_go_back=True)
        self.written = self.deleted = 0
        """How many nodes were; of a folder that is deleted with what is in it, one."""
        self._scope = scope
        self._patience = patience
        self._claim = claim
        self._lost = lost
        self._notice = notice
        self._is_strange = False
        """A name that is not UTF-8 was told of, or a value."""
        self._is_loss_told = False
        """It was told that a folder has ended too early."""

    async def at(self, path: str) -> Node | None:
        """The node of a path, which is relative to the folder that is copied."""
        key = join(self._scope.target, path)
        return await self._patience.persist(lambda: self.node(key))

    async def alone(self, path: str) -> Node | None:
        """The same, but a folder that is too long to be listed is without its children, unless it is the one
        that is the mirror's: of that only what is listed may go.
        """
        return await self._patience.persist(lambda: self._alone(join(self._scope.target, path)))

    async def _alone(self, key: str, *, quorum: bool = False) -> Node | None:
        try:
            return await self.node(key, quorum=quorum)
        except LongFolder:  # a file is not so long
            if key == self._scope.target:
                raise
            return Node(key, dir=True)

    async def ensure(
        self,
        proof: Proof,
        path: str,
        wanted: Wanted,
        there: Node | None,
        *,
        is_event: bool = False,
        had_ttl: bool = False,
    ) -> None:
        """Make a node as it is wanted; it was found as `there`. An event is written in any case, for the
        watchers of the target. `had_ttl`: it was written with a TTL before, so a folder without one is
        another, that was made for a key below it. Reconnected if the proof does not hold any more.
        """
        proof.check()
        key = join(self._scope.target, path)
        self._look_for_strange(key, wanted)
        found = [there]

        async def attempt() -> None:
            for number in range(MOST_ATTEMPTS):
                if had_ttl and wanted.value is None and not _has_ttl(found[0]):
                    if found[0] is None or found[0].dir:  # else a file gives way, which is told
                        self._tell_lost(key)
                    self._lost(path)
                try:
                    if self._is_wanted(key, wanted, found[0], is_event=is_event):
                        return
                    await self._may_write(proof, is_again=number > 0)
                    await self._write(key, wanted, found[0], is_event=is_event)
                except V2Error as error:
                    if error.code not in CHANGED:
                        raise
                    code = error.code
                else:
                    return
                if code == NOT_A_FOLDER:
                    await self.make_way(key)
                found[0] = await self._alone(key, quorum=True)
                if code == NOT_EMPTY and found[0] is not None and found[0].dir and not found[0].nodes:
                    raise NotMirrored(
                        f"{key}: is a folder of TARGET with hidden nodes, and of SOURCE a file: remove the"
                        " folder, or name another place by --target-prefix"
                    )
            raise NotMirrored(f"{key}: somebody else changes it in TARGET all the time; find out who")

        await self._patience.persist(attempt)

    def _is_wanted(self, key: str, wanted: Wanted, there: Node | None, *, is_event: bool) -> bool:
        """Whether there is nothing to write."""
        if there is None or there.dir != (wanted.value is None):
            return False
        is_equal = there.value == wanted.value and _is_near(ttl_of(there), wanted.ttl)
        return key == "/" or (is_equal and not is_event)

    async def _may_write(self, proof: Proof, *, is_again: bool) -> None:
        await self._claim(is_again)
        proof.check()

    async def _write(self, key: str, wanted: Wanted, there: Node | None, *, is_event: bool) -> None:
        """Write a node. V2Error if it is not as it was found."""
        client, value, ttl = self.client, wanted.value, wanted.ttl
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
        elif not is_event and there.value == value and ttl is not None:
            answer = await client.refresh(key, ttl)
        elif value is None:
            answer = await client.update_folder(key, ttl=ttl)
        else:
            answer = await client.compare_and_swap(key, value, prev_index=there.modified_index, ttl=ttl)
        self.saw(answer.etcd_index)
        self.written += 1

    async def make_way(self, key: str) -> None:
        """Remove a file where `key` needs a folder. NotMirrored if it is outside of the folder that is the
        mirror's.
        """
        names = key.split("/")
        for depth in range(2, len(names)):
            above = "/".join(names[:depth])
            node = await self.node(above, quorum=True)
            if node is not None and not node.dir:
                if not is_within(above, self._scope.target):
                    raise NotMirrored(
                        f"{self._scope.target}: cannot be a folder of TARGET, as {above} is a file there:"
                        " remove that file, or name another folder by --target-prefix"
                    )
                self._notice(f"{above}: the file of the target gives way to a folder of the source")
                self._lost(above[len(self._scope.target.rstrip("/")) :])
                await self._delete(above, node)
                return

    async def remove(self, proof: Proof, path: str) -> None:
        """Remove a node, with everything below it. Reconnected if the proof does not hold any more."""
        proof.check()
        key = join(self._scope.target, path)

        async def attempt() -> None:
            is_kept = False  # it has hidden nodes
            for number in range(MOST_ATTEMPTS):
                there = await self._alone(key, quorum=number > 0)
                if there is None or (is_kept and there.dir and not there.nodes):
                    return
                # A folder has no index to compare: a run that was taken over must not delete what is new.
                await self._may_write(proof, is_again=number > 0 or there.dir)
                try:
                    await self._delete(key, there)
                except V2Error as error:
                    if error.code not in CHANGED:
                        raise
                    is_kept = error.code == NOT_EMPTY
                else:
                    return
            raise NotMirrored(f"{key}: somebody else changes it in TARGET all the time; find out who")

        await self._patience.persist(attempt)

    async def _delete(self, key: str, there: Node) -> None:
        """Delete a node. V2Error if it is not as it was found, or is the folder that is the mirror's and has
        hidden nodes: they are of somebody else, and stay, so what is listed in it goes alone.
        """
        if not there.dir:
            answer = await self.client.compare_and_delete(key, prev_index=there.modified_index)
        elif key != self._scope.target:
            answer = await self.client.delete(key, recursive=True)
        else:
            for node in there.nodes:
                await self._delete(node.key, node)
            if key == "/":
                return
            answer = await self.client.delete(key, dir=True)
        self.saw(answer.etcd_index)
        self.deleted += 1

    def _tell_lost(self, key: str) -> None:
        if not self._is_loss_told:
            self._is_loss_told = True
            self._notice(
                f"{key}: this folder with a TTL has ended in TARGET before its next refresh came, as where"
                " TARGET is down or slow for so long: what was in it is copied again, then and later"
            )

    def _look_for_strange(self, key: str, wanted: Wanted) -> None:
        if not self._is_strange and ("\ufffd" in key or "\ufffd" in (wanted.value or "")):
            self._is_strange = True
            text = f"{key}: has bytes that are not UTF-8, which the v2 API replaces by U+FFFD: so here"
            if "\ufffd" in key:
                text += "; several such names may become one, and the removal of one of them removes that"
            self._notice(text)


class Timed:
    """Paths with a TTL, and when each is to be looked at again; at most `MOST_TIMED`. That there are more is
    told once.
    """

    def __init__(self, notice: Callable[[str], object]) -> None:
        self._notice = notice
        self._when: dict[str, float] = {}
        self._paths: list[str] = []
        """Those of `_when`, in order: so those below a path are found without a look at all others."""
        self._heap: list[tuple[float, str]] = []
        """Has outdated entries too, at most as many as there are paths, and a few."""
        self._is_full = False

    def __contains__(self, path: str) -> bool:
        return path in self._when

    def __len__(self) -> int:
        return len(self._when)

    def put(self, path: str, when: float) -> None:
        """Look at a path then."""
        if path not in self._when and len(self._when) >= MOST_TIMED:
            if not self._is_full:
                self._is_full = True
                self._notice(
                    f"more than {MOST_TIMED} nodes have a TTL: where others are refreshed by refresh=true,"
                    " they end in the target by the TTL that they had"
                )
            return
        if path not in self._when:
            insort(self._paths, path)
        self._when[path] = when
        if len(self._heap) > 2 * len(self._when) + 100:
            self._heap = [(each, path) for path, each in self._when.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (when, path))

    def discard(self, path: str) -> None:
        """Do not look at a path any more."""
        if self._when.pop(path, None) is not None:
            del self._paths[bisect_left(self._paths, path)]

    def discard_all(self, path: str) -> None:
        """Nor at what is below it. The cost grows with what is there to discard."""
        self.discard(path)
        first, end = (bisect_left(self._paths, path + mark) for mark in ("/", chr(ord("/") + 1)))
        for each in self._paths[first:end]:
            del self._when[each]
        del self._paths[first:end]

    def next(self) -> float:
        """When to look at the first one."""
        while self._heap and self._when.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def first(self) -> str:
        """Which is to be looked at `next`; it is to be `put` or to be `discard`ed then."""
        return self._heap[0][1]


def _has_ttl(node: Node | None) -> bool:
    """Whether it is a folder with a TTL."""
    return node is not None and node.dir and node.expiration is not None


def join(folder: str, path: str) -> str:
    """The key of a path, empty or with a slash in front, in a folder."""
    return folder.rstrip("/") + path or "/"


def is_within(key: str, folder: str) -> bool:
    """Whether a key is a folder, or below it."""
    return key == folder or key.startswith(join(folder, "/"))


def name_of(node: Node) -> str:
    """The last part of its key."""
    return node.key.rpartition("/")[2]


def children(node: Node | None) -> dict[str, Node]:
    """What is in a folder, by name."""
    return {} if node is None else {name_of(each): each for each in node.nodes}


def ttl_of(node: Node) -> int | None:
    """What is left; a node whose time is up is there until the store removes it."""
    return None if node.expiration is None else max(node.ttl or 0, 1)


def wanted_of(node: Node) -> Wanted:
    """What a node of the target is to be for this one of the source."""
    return Wanted(None if node.dir else node.value or "", ttl_of(node))


def _is_near(one: int | None, other: int | None) -> bool:
    """Whether a TTL of the target need not be written again. A short one is in any case: of two that are told
    as equal the target's may be the one that ends first.
    """
    if one is None or other is None:
        return one is other
    if min(one, other) <= SHORT_TTL:
        return False
    return abs(one - other) <= min(TTL_SLACK, one // 4, other // 4)
