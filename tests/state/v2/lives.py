"""TTLs for tests of the v2 tree, and removals that are carried out to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from netstore.state.v2.ttl import FOR_EVER, Life
from netstore.types import Nanos
from tests.state.strategies import BASE

if TYPE_CHECKING:
    from netstore.state.v2.tree import Tree


def whole(tree: Tree, outcome: Any) -> Any:
    """The outcome of a removal with all that went with it."""
    removed = []
    while tree.clearing:
        removed += tree.clear(1)
    return msgspec.structs.replace(outcome, removed=tuple(sorted(removed))) if removed else outcome


def never() -> Life:
    return FOR_EVER


def life(ttl: int) -> Life:
    return Life(Nanos(BASE + ttl * 1_000_000_000), ttl)
