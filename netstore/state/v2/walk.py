"""A directory of the v2 tree as it was at one index, listed in pieces while the tree goes on changing.

A walk is a snapshot read by copy on write. The tree has only the current nodes; it tells every walk of a node
before it changes that (`keep`), and the walk remembers the old node if it has not listed it yet. So starting
a walk costs nothing, continuing it costs what is listed, and each change meanwhile costs a dictionary entry
for each walk. A walk that would have to remember too much is aborted (`lose`).

What a walk holds is charged to its account (`limits`): names and nodes of the directories that it is in,
nodes that changed since it began, with their values, and the directories that it has finished. While all
walks together hold more than their budget, the one that holds most is aborted; the last one may hold twice
as much. The memory for its first directory is charged at the start, so that a walk that would be aborted at
once is refused before anything is sent (`walks`).
"""

from __future__ import annotations

from heapq import merge
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.errors import Shed
from netstore.parted import Parted, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from netstore.limits import Account
    from netstore.state.v2.nodes import Children
    from netstore.types import EtcdIndex, NodeView

MOST_KEPT: Final = 50_000
"""Nodes that may change under one walk: about 10 MiB of its memory and their values. A walk of half a million
nodes takes a second or two.
"""

WALK_BYTES: Final = 16 * 1024 * 1024
"""What all walks may hold if no budget is given."""

ALONE: Final = 2
"""The only walk may hold so many times the budget, so that a large directory can be listed at all."""

ROW_BYTES: Final = 16
"""What a node of a directory takes while the walk is in it, beside the node itself."""

KEPT_BYTES: Final = 200
"""What a remembered node takes, about, beside its path and its value."""

PASSED_BYTES: Final = 48
"""What a directory takes that the walk has finished."""

MOST_WALKS: Final = 64
"""Walks of one tree at once, because each slows down every change. The API sees to it that one client does
not use them all.
"""

SORTED_AT_ONCE: Final = 1_000
"""Names that are sorted in one piece of work: 0.3 ms."""

TAKEN_AT_ONCE: Final = 20_000
"""Names that are copied in one piece of work: 0.3 ms."""


class Opened(NamedTuple):
    """A row of a walk: a directory whose children follow, until it is `Closed`."""

    directory: NodeView


class Closed(NamedTuple):
    """A row of a walk: the directory that was opened last is complete."""

    directory: NodeView


class Loss(NamedTuple):
    """Why a walk was aborted: the cause, the setting that limits it if there is one, and what helps."""

    cause: str
    limit: str
    fix: str


HELD: Final = Loss(
    "v2 lists under way hold more than they may",
    "memory_budget",
    "list less at once, or raise memory_budget: a thirty-second of it is for v2 lists",
)

CHANGED: Final = Loss(
    f"more than {MOST_KEPT} nodes changed under a v2 list, which no setting bounds",
    "",
    "list a smaller directory, or while less of it is written",
)

REPLACED: Final = Loss(
    "a snapshot from the leader replaced the state while a v2 list was under way",
    "",
    "list again: this member had fallen behind",
)


class WalkLost(Shed):
    """The walk was aborted."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.cause)
        self.limit, self.fix = loss.limit, loss.fix


class Walk:
    """One listing under way; made by `Walks.begin`. `rows` returns its rows, once."""

    def __init__(
        self,
        nodes: Parted[bytes, NodeView],
        children: Parted[bytes, Children],
        top: NodeView,
        index: EtcdIndex,
        *,
        recursive: bool,
        account: Account,
        relieve: Callable[[], None],
    ) -> None:
        """`nodes` and `children` are the tables of the tree, which continue to change. What is held is
        charged to `account`, which its owner closes after the walk; `relieve` is called when the budget is
        exceeded.
        """
        self.index = index
        """The index as of which it shows the tree."""
        self.lost: Loss | None = None
        """Why it was aborted, None if it was not."""
        self.account = account
        self._relieve = relieve
        self._nodes = nodes
        self._children = children
        self._top = top
        self._recursive = recursive
        self._passed: set[bytes] = set()
        """Directories whose nodes were all collected: later changes are not needed."""
        self._kept: dict[bytes, dict[bytes, NodeView | None]] = {}
        """The old nodes of what changed since, by directory and path; None: there was no node."""
        self._count = 0
        self._charges: dict[bytes, int] = {}
        """Bytes charged for each directory that is not finished."""
        self._inside: list[tuple[NodeView, Generator[NodeView | None]]] = []
        """The directories it is in, with the rest of their rows."""
        self._reserved = ROW_BYTES * len(children.get(top.key, ()))
        """Bytes for the first directory, charged from the start so that the next walk takes them into
        account.
        """
        self.account.charge(self._reserved)
        self._charges[top.key] = self._reserved
        self._below = top.key if top.key.endswith(b"/") else top.key + b"/"

    def keep(self, parent: bytes, path: bytes, node: NodeView | None) -> None:
        """The node at `path` in the directory `parent` is about to change; None: it is about to appear."""
        if self.lost or not (parent == self._top.key or (self._recursive and parent.startswith(self._below))):
            return
        size = KEPT_BYTES + len(path) + (len(node.value) if node is not None and node.value else 0)
        if parent in self._passed:
            # The rows of this directory may still refer to the old node, unless it is newer than the walk.
            if parent in self._charges and node is not None and node.modified <= self.index:
                self._charge(parent, size)
            return
        kept = self._kept.setdefault(parent, {})
        if path not in kept:
            kept[path] = node
            self._count += 1
            if self._count > MOST_KEPT:
                self.lose(CHANGED)
            else:
                self._charge(parent, size)

    def lose(self, loss: Loss) -> None:
        """Abort: free everything; `rows` raises WalkLost. O(rows held)."""
        self.lost = loss
        self.account.close()
        self._kept = {}
        self._charges = {}
        for _, listed in self._inside:
            listed.close()

    def _charge(self, directory: bytes, size: int) -> None:
        self._charges[directory] = self._charges.get(directory, 0) + size
        self.account.charge(size)
        if self.account.spent:
            self._relieve()

    def rows(self) -> Iterator[NodeView | Opened | Closed | None]:
        """The visible nodes in order; the contents of a directory stand between `Opened` and `Closed`. None
        in place of a row ends a piece of work, about half a millisecond, without a row. WalkLost if aborted.
        """
        yield Opened(self._top)
        self._enter(self._top)
        inside = self._inside
        while inside:
            directory, listed = inside[-1]
            for node in listed:
                if node is None or not (node.dir and self._recursive):
                    yield node
                    continue
                yield Opened(node)
                self._enter(node)
                break
            else:
                if self.lost is not None:
                    raise WalkLost(self.lost)
                inside.pop()
                self._leave(directory.key)
                yield Closed(directory)

    def _enter(self, directory: NodeView) -> None:
        """Start to list a directory. WalkLost if that takes too much memory."""
        path = directory.key
        reserved, self._reserved = self._reserved, 0
        rows = len(self._children.get(path, ())) + len(self._kept.get(path, ()))
        self._charge(path, ROW_BYTES * rows - reserved)
        if self.lost is not None:
            raise WalkLost(self.lost)
        self._inside.append((directory, self._listed(directory)))

    def _leave(self, directory: bytes) -> None:
        """A directory is finished."""
        self.account.release(self._charges.pop(directory, 0))
        self.account.charge(PASSED_BYTES)

    def _listed(self, directory: NodeView) -> Generator[NodeView | None]:
        """The visible children of a directory as of `index`, sorted; ends early if the walk is aborted."""
        path = directory.key
        name_at = len(path) + (len(path) > 1)
        then = self._kept.setdefault(path, {})  # `keep` adds to it while this runs
        now: Children = self._children.get(path, {})
        names: list[list[bytes]] = []
        taken = 0
        for part in now.parts() if isinstance(now, Parted) else (now,):
            names.append(list(part))
            taken += len(part)
            if taken >= TAKEN_AT_ONCE:
                taken = 0
                yield None
        # A child that changed meanwhile may be in none of the copied parts, or in two.
        changed = dict.fromkeys(then)
        others = (child for child in _drained(names) if child not in changed)
        runs: list[list[NodeView]] = []
        for piece in batches(chain(others, changed), SORTED_AT_ONCE):
            run = []
            for child in piece:
                node = then[child] if child in then else self._nodes.get(child)
                if node is not None and not child.startswith(b"_", name_at):
                    run.append(node)
            run.sort(key=_path_of)
            runs.append(run)
            yield None
        self._passed.add(path)
        self._count -= len(then)
        self._kept.pop(path, None)
        yield from merge(*runs, key=_path_of)


def _drained(names: list[list[bytes]]) -> Iterator[bytes]:
    """All names; each list is freed when it was returned: freeing all at once would take long."""
    while names:
        yield from names.pop()


_path_of = attrgetter("key")
