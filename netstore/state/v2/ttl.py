"""The nodes of the v2 tree that have a TTL."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.parted import FREE_STEP, Parted
from netstore.state.countdown import KeyQueue, TtlChanges
from netstore.types import EtcdIndex, Nanos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Life(NamedTuple):
    """How long a node lives: `ttl` seconds. `expires` is the instant at which they end by the wall clock of
    the member that took the request, for display only; 0 for a permanent node.
    """

    expires: Nanos = Nanos(0)
    ttl: int = 0


FOR_EVER: Final = Life()


class Timed(msgspec.Struct, gc=False):
    """The TTL of a node (`countdown.Timed`). `since` is the index of the change that set it."""

    ttl: int
    since: EtcdIndex
    remaining: int = 0


class TimedNodes:
    """The nodes that have a TTL, by path: the `countdown.Table` of the v2 tree."""

    __slots__ = ("_nodes", "get", "ttl_changes")

    def __init__(self) -> None:
        self._nodes: Parted[bytes, Timed] = Parted()
        self.get: Callable[[bytes], Timed | None] = self._nodes.get
        """The TTL of the node at a path; None if it has none. Asked for at each write."""
        self.ttl_changes: TtlChanges[bytes] = TtlChanges()
        """See `countdown.Table`."""

    def __len__(self) -> int:
        return len(self._nodes)

    def timed_keys(self) -> Iterable[bytes]:
        """The paths."""
        return self._nodes

    def restore(self, timed: Parted[bytes, Timed], renewed: KeyQueue[bytes]) -> Iterator[None]:
        """Replace the contents by `timed`, whose paths are in `renewed`. Returns the steps that free the
        previous contents.
        """
        gone, self._nodes = self._nodes, timed
        self.get = timed.get
        return chain(self.ttl_changes.restart(renewed), self._free_steps(gone))

    def _free_steps(self, gone: Parted[bytes, Timed]) -> Iterator[None]:
        """Free entries, and report those that do not exist any more as removed."""
        while some := gone.take(FREE_STEP):
            for path in some:
                if path not in self._nodes:
                    self.ttl_changes.remove(path)
            yield

    def put(self, path: bytes, timed: Timed) -> None:
        """Start the TTL of the node at this path."""
        self._nodes[path] = timed
        self.ttl_changes.renew(path)

    def remove(self, path: bytes) -> None:
        """The node at this path has no TTL any more."""
        if self._nodes.pop(path, None) is not None:
            self.ttl_changes.remove(path)
