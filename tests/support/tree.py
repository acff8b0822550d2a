"""Looks into the v2 tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import Fault

if TYPE_CHECKING:
    from netstore.state.v2.tree import Tree
    from netstore.types import NodeView


def file_at(tree: Tree, path: bytes) -> NodeView | None:
    """The file at `path`, None when there is none or it is a directory."""
    found = tree.get(path)
    return None if isinstance(found, Fault) or found.node.dir else found.node
