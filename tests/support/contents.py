"""What a state holds, one thing after another, as only tests ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.state.v2.nodes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.v2.tree import Tree
    from netstore.types import NodeView


def nodes_of(tree: Tree) -> Iterator[NodeView]:
    """Every node but the root, in no particular order."""
    return (node for path, node in tree._nodes.items() if path != ROOT)
