"""Walks that have begun, and large directories for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netstore.limits import Budget
from netstore.state.v2 import tree as trees
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER
from netstore.state.v2.walk import Opened, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator


LARGE = b"x" * (trees.SMALL_BYTES + 1)


def begun(tree: Tree, path: bytes = b"/d", recursive: bool = False) -> tuple[Walk, Iterator[Any]]:
    """A walk that is in its first directory."""
    walk = tree.look(path, recursive)
    assert isinstance(walk, Walk)
    going = walk.rows()
    assert isinstance(next(going), Opened)
    return walk, going


def full(count: int = 2_000) -> tuple[Tree, Budget]:
    """A directory of so many nodes, and what walks may hold."""
    budget = Budget(1 << 20)
    tree = Tree(budget)
    for number in range(count):
        tree.set(b"/d/%06d" % number, b"v", False, FOR_EVER)
    return tree, budget
