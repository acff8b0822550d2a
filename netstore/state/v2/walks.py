"""All walks of the v2 tree that are under way, and the memory that they may hold together."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from netstore.limits import Budget
from netstore.state.v2.walk import ALONE, HELD, MOST_WALKS, REPLACED, ROW_BYTES, WALK_BYTES, Walk

if TYPE_CHECKING:
    from netstore.parted import Parted
    from netstore.state.v2.nodes import Children
    from netstore.types import EtcdIndex, NodeView


class Walks:
    """The walks of one tree, by weak references: the requests that list own them."""

    __slots__ = ("_budget", "refs")

    def __init__(self, budget: Budget | None = None) -> None:
        """`budget` is what all walks together may hold."""
        self._budget = budget or Budget(WALK_BYTES)
        self.refs: list[ref[Walk]] = []
        """Empty if there is no walk: changes check this before they call `keep`. Some may be dead."""

    def begin(
        self,
        nodes: Parted[bytes, NodeView],
        children: Parted[bytes, Children],
        top: NodeView,
        index: EtcdIndex,
        *,
        recursive: bool,
    ) -> Walk | None:
        """A walk of the directory `top`; None if there are too many, or if it would be aborted at once for
        the memory that it needs.
        """
        self.refs = [each for each in self.refs if each() is not None]
        size = ROW_BYTES * len(children.get(top.key, ()))
        if len(self.refs) >= MOST_WALKS or not self._has_room_for(size):
            return None
        account = self._budget.account()
        walk = Walk(nodes, children, top, index, recursive=recursive, account=account, relieve=self._relieve)
        self.refs.append(ref(walk, lambda _: account.close()))
        self._relieve()
        return walk

    def abort(self) -> None:
        """The tree was replaced: end all walks."""
        for walk in self.live():
            walk.lose(REPLACED)
        self.refs = []

    def keep(self, parent: bytes, path: bytes, node: NodeView | None) -> None:
        """A node is about to change: tell every walk, so that it can list the tree as it was."""
        for walk in self.live():
            walk.keep(parent, path, node)

    def live(self) -> list[Walk]:
        """The walks that still exist."""
        return [walk for each in self.refs if (walk := each()) is not None]

    def before(self, index: EtcdIndex) -> list[Walk]:
        """Those that began before the change with this index."""
        return [walk for walk in self.live() if walk.index < index]

    def _has_room_for(self, size: int) -> bool:
        """Whether a new walk that holds so many bytes would not be the one that `_relieve` aborts."""
        holding = self._holding()
        room = self._room_of(len(holding) + 1)
        return self._budget.used + size <= room or size < max(map(_held, holding), default=0)

    def _relieve(self) -> None:
        """While all walks together hold more than they may, abort the one that holds most."""
        while (walks := self._holding()) and self._budget.used > self._room_of(len(walks)):
            max(walks, key=_held).lose(HELD)

    def _room_of(self, walks: int) -> int:
        """What so many walks may hold together, whatever other users of the memory budget hold."""
        return self._budget.limit * (ALONE if walks == 1 else 1)

    def _holding(self) -> list[Walk]:
        return [walk for walk in self.live() if walk.account.held]


def _held(walk: Walk) -> int:
    return walk.account.held
