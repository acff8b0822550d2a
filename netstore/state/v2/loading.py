"""The nodes of a v2 tree that is being loaded from the engine, in bounded steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.parted import FREE_STEP, Parted
from netstore.state.countdown import KeyQueue
from netstore.state.v2.nodes import ROOT, Children, add_child, parent_of, root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.state.v2.ttl import Timed
    from netstore.types import NodeView


class Stored:
    """The tables of a tree under construction; the root is implied. `Tree.restore` takes them over."""

    __slots__ = ("_early", "children", "nodes", "renewed", "timed")

    def __init__(self) -> None:
        self._early: Parted[bytes, Children] = Parted()
        """Children of directories that were not read yet, by the path of the directory."""
        self.nodes: Parted[bytes, NodeView] = Parted({ROOT: root()})
        self.children: Parted[bytes, Children] = Parted({ROOT: {}})
        self.timed: Parted[bytes, Timed] = Parted()
        """The nodes with a TTL."""
        self.renewed: KeyQueue[bytes] = KeyQueue()
        """Their paths, as renewals to be counted from now on."""

    def add(self, nodes: Iterable[tuple[NodeView, Timed | None]]) -> None:
        """Add nodes, in any order."""
        for node, timed in nodes:
            path = node.key
            parent = parent_of(path)
            home = self.children
            siblings = home.get(parent)
            if siblings is None:
                home = self._early
                siblings = home.setdefault(parent, {})
            joined = add_child(siblings, path)
            if joined is not siblings:
                home[parent] = joined
            self.nodes[path] = node
            if node.dir:
                self.children[path] = self._early.pop(path, {})
            if timed is not None:
                self.timed[path] = timed
                self.renewed.add(path)

    @property
    def stray(self) -> bytes | None:
        """The path of a node whose parent is missing or a file, None if there is none. If there is one after
        the last nodes were added, the stored tree is damaged.
        """
        return next((path for children in self._early.values() for path in children), None)

    def free_steps(self) -> Iterator[None]:
        """Free the tables in steps of `FREE_STEP`: all at once would hold the loop too long."""
        yield from self.nodes.free_steps()
        while self.children:
            left = FREE_STEP
            while self.children and left > 0:
                _, children = self.children.popitem()
                left -= 1 + len(children)
                if isinstance(children, Parted):
                    yield from children.free_steps()
            yield
