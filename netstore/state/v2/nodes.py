"""Paths of the v2 tree, and the children of a directory: what the tree, its loading and listings share."""

from __future__ import annotations

from typing import Final, TypeAlias

from netstore.parted import FIRST, Parted
from netstore.types import EtcdIndex, NodeView

ROOT: Final = b"/"

Children: TypeAlias = dict[bytes, None] | Parted[bytes, None]
"""The paths of the nodes in a directory: a plain dictionary while there are few."""


def root() -> NodeView:
    """The root of a new tree."""
    return NodeView(ROOT, EtcdIndex(0), EtcdIndex(0), dir=True)


def parent_of(path: bytes) -> bytes:
    """The directory that contains a path; for the root, the root."""
    return path[: path.rfind(b"/")] or ROOT


def add_child(children: Children, path: bytes) -> Children:
    """Add a path. Returns what to store for the directory from now on: a `Parted` once it is large. O(1)."""
    children[path] = None
    if type(children) is dict and len(children) >= FIRST:
        return Parted(children)
    return children
