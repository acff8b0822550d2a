"""A directory of the v2 tree as it was at one index, listed in pieces while the tree goes on changing.

The tree keeps nodes as they are now. A walk that has begun is told of every node before it changes (`keep`)
and remembers what it was; what it has not come to yet it then sees as it was when it began. So beginning a
walk costs nothing, going on costs what is listed, and each change meanwhile costs a dictionary entry for each
walk. A walk that would have to remember too much is `lost`.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from netstore.types import EtcdIndex, NodeView

MOST_KEPT: Final = 50_000
"""Nodes that may change under one walk: about 10 MiB of its memory. A walk of half a million nodes takes a
second or two.
"""

MOST_WALKS: Final = 64
"""Walks of one tree at once; each slows every change down. Whoever opens them sees that one client does not
have them all.
"""

SORTED_AT_ONCE: Final = 1_000
"""Names that are sorted in one piece of work: 0.3 ms."""


class Opened(NamedTuple):
    """A row of a walk: a directory whose children follow, until it is `Closed`."""

    directory: NodeView


class Closed(NamedTuple):
    """A row of a walk: the directory that was opened last is complete."""

    directory: NodeView


class WalkLost(Exception):  # noqa: N818 - named for what happened
    """Too much has changed since the walk began for it to go on."""


class Walk:
    """One listing under way; made by `Tree.open`. `rows` gives it, once."""

    def __init__(
        self,
        nodes: Mapping[bytes, NodeView],
        children: Mapping[bytes, Mapping[bytes, None]],
        top: NodeView,
        index: EtcdIndex,
        *,
        recursive: bool,
    ) -> None:
        """`nodes` and `children` are the tree's own, which go on changing."""
        self.index = index
        """Index of the tree it shows."""
        self.lost = False
        self._nodes = nodes
        self._children = children
        self._top = top
        self._recursive = recursive
        self._passed: set[bytes] = set()
        """Directories whose nodes are all known to the walk."""
        self._kept: dict[bytes, dict[bytes, NodeView | None]] = {}
        """What changed since, by directory and path; None is a node that there was not."""
        self._count = 0

    def keep(self, parent: bytes, path: bytes, node: NodeView | None) -> None:
        """The node at `path` in the directory `parent` is about to change; None: it is about to appear."""
        if self.lost or parent in self._passed:
            return
        kept = self._kept.setdefault(parent, {})
        if path not in kept:
            kept[path] = node
            self._count += 1
            if self._count > MOST_KEPT:
                self.lost = True
                self._kept = {}

    def rows(self) -> Iterator[NodeView | Opened | Closed | None]:
        """The visible nodes in order, each directory that is listed between `Opened` and `Closed`. A row that
        is None is a piece of work, about half a millisecond, without one. WalkLost when it cannot go on.
        """
        yield Opened(self._top)
        stack = [(self._top, self._listed(self._top))]
        while stack:
            directory, listed = stack[-1]
            for node in listed:
                if node is None or not (node.dir and self._recursive):
                    yield node
                    continue
                yield Opened(node)
                stack.append((node, self._listed(node)))
                break
            else:
                stack.pop()
                yield Closed(directory)

    def _listed(self, directory: NodeView) -> Iterator[NodeView | None]:
        """The visible children of a directory, sorted, as they were."""
        path = directory.key
        name_at = len(path) + (len(path) > 1)
        then = self._kept.setdefault(path, {})  # goes on to fill while the runs are made
        now = self._children.get(path, {})
        names = iter([*now, *(child for child in then if child not in now)])
        runs: list[list[tuple[bytes, NodeView]]] = []
        while piece := list(islice(names, SORTED_AT_ONCE)):
            if self.lost:
                raise WalkLost
            run = []
            for child in piece:
                node = then[child] if child in then else self._nodes.get(child)
                if node is not None and not child.startswith(b"_", name_at):
                    run.append((child, node))
            run.sort(key=_path_of)
            runs.append(run)
            yield None
        self._passed.add(path)
        self._count -= len(then)
        self._kept.pop(path, None)
        for _, node in merge(*runs, key=_path_of):
            yield node


def _path_of(entry: tuple[bytes, NodeView]) -> bytes:
    return entry[0]
