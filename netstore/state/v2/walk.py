"""A directory of the v2 tree as it was at one index, listed in pieces while the tree goes on changing.

The tree keeps nodes as they are now. A walk that has begun is told of every node before it changes (`keep`)
and remembers what it was; what it has not come to yet it then sees as it was when it began. So beginning a
walk costs nothing, going on costs what is listed, and each change meanwhile costs a dictionary entry for each
walk. A walk that would have to remember too much is `lost`.

What a walk holds is charged to its account (`limits`): names and nodes of the directories that it is in,
nodes that changed since it began, with their values, and the directories that it has been in. While all walks
together hold more than their budget, the one that holds most is lost; the last one may hold twice as much.
What it takes to list its first directory is charged when it is made, so that the tree refuses one that would
be lost at once, before anything is answered.
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
"""What all walks may hold where no budget is given."""

ALONE: Final = 2
"""Times the budget that the last walk may hold, so that a large directory can be listed at all."""

ROW_BYTES: Final = 16
"""What a node of a directory takes while the walk is in it, beside what the tree has of it anyway."""

KEPT_BYTES: Final = 200
"""What a node that changed takes, about, beside its path and its value."""

PASSED_BYTES: Final = 48
"""What a directory takes that the walk is done with."""

MOST_WALKS: Final = 64
"""Walks of one tree at once; each slows every change down. Whoever opens them sees that one client does not
have them all.
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
    """Why a walk cannot go on: the cause, the setting that bounds it, if one does, and what helps."""

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
    "a copy from the leader took the place of the state while a v2 list was under way",
    "",
    "list again: this member had fallen behind",
)


class WalkLost(Shed):
    """The walk cannot go on."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.cause)
        self.limit, self.fix = loss.limit, loss.fix


class Walk:
    """One listing under way; made by `Tree.look`. `rows` gives it, once."""

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
        """`nodes` and `children` are the tree's own, which go on changing. What is held is charged to
        `account`, which whoever made the walk closes when it is gone; `relieve` is called when that is over.
        """
        self.index = index
        """Index of the tree it shows."""
        self.lost: Loss | None = None
        """Why it cannot go on, once it cannot."""
        self.account = account
        self._relieve = relieve
        self._nodes = nodes
        self._children = children
        self._top = top
        self._recursive = recursive
        self._passed: set[bytes] = set()
        """Directories whose nodes are all known to the walk."""
        self._kept: dict[bytes, dict[bytes, NodeView | None]] = {}
        """What changed since, by directory and path; None is a node that there was not."""
        self._count = 0
        self._charges: dict[bytes, int] = {}
        """Bytes charged for each directory that the walk has not left."""
        self._inside: list[tuple[NodeView, Generator[NodeView | None]]] = []
        """The directories it is in, with what is left of them."""
        self._reserved = ROW_BYTES * len(children.get(top.key, ()))
        """What it takes to list the first directory, charged from the start: whoever comes next sees it."""
        self.account.charge(self._reserved)
        self._charges[top.key] = self._reserved
        self._below = top.key if top.key.endswith(b"/") else top.key + b"/"

    def keep(self, parent: bytes, path: bytes, node: NodeView | None) -> None:
        """The node at `path` in the directory `parent` is about to change; None: it is about to appear."""
        if self.lost or not (parent == self._top.key or (self._recursive and parent.startswith(self._below))):
            return
        size = KEPT_BYTES + len(path) + (len(node.value) if node is not None and node.value else 0)
        if parent in self._passed:
            # Among the rows of a directory it is in there is what was there when it began, nothing newer.
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
        """Let go of everything: whoever lists the rest is told WalkLost. O(rows that are held)."""
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
        """The visible nodes in order, each directory that is listed between `Opened` and `Closed`. A row that
        is None is a piece of work, about half a millisecond, without one. WalkLost when it cannot go on.
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
        """List a directory next. WalkLost when that is too much."""
        path = directory.key
        reserved, self._reserved = self._reserved, 0
        rows = len(self._children.get(path, ())) + len(self._kept.get(path, ()))
        self._charge(path, ROW_BYTES * rows - reserved)
        if self.lost is not None:
            raise WalkLost(self.lost)
        self._inside.append((directory, self._listed(directory)))

    def _leave(self, directory: bytes) -> None:
        """All of a directory was given."""
        self.account.release(self._charges.pop(directory, 0))
        self.account.charge(PASSED_BYTES)

    def _listed(self, directory: NodeView) -> Generator[NodeView | None]:
        """The visible children of a directory, sorted, as they were; fewer when it is lost meanwhile."""
        path = directory.key
        name_at = len(path) + (len(path) > 1)
        then = self._kept.setdefault(path, {})  # goes on to fill while names are taken and runs are made
        now: Children = self._children.get(path, {})
        names: list[list[bytes]] = []
        taken = 0
        for part in now.parts() if isinstance(now, Parted) else (now,):
            names.append(list(part))
            taken += len(part)
            if taken >= TAKEN_AT_ONCE:
                taken = 0
                yield None
        # What changed meanwhile may be in no part, or in two.
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
    """All names, each list let go of as soon as it was given: all at once would take long."""
    while names:
        yield from names.pop()


_path_of = attrgetter("key")
