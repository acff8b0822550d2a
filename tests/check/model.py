"""The v2 tree as a client may think of it: a map of paths, folded from the changes one by one. Slow and
obvious, and written without a look at `state.v2.tree`: what it says of an answer is a second opinion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    InOrder,
    QuorumGet,
    Set,
    Update,
)
from netstore.types import EtcdIndex, Event, NodeView
from tests.check.history import Wrong

if TYPE_CHECKING:
    from netstore.state.commands import Command

REMOVALS = frozenset({"delete", "compareAndDelete", "expire"})


class Model:
    """The nodes after some changes."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, NodeView] = {b"/": NodeView(b"/", EtcdIndex(0), EtcdIndex(0), dir=True)}
        self.index = 0

    def fold(self, event: Event) -> None:
        """Take the next change. Wrong when it cannot follow what was before."""
        if event.index != self.index + 1:
            raise Wrong(f"change {event.index} follows change {self.index}")
        self.index = event.index
        if event.internal:
            return
        node = event.node
        old = self.nodes.get(node.key)
        if old != event.prev:
            raise Wrong(f"change {event} replaces something else: {old}")
        if event.action in REMOVALS:
            if old is None:
                raise Wrong(f"removed what was not there: {event}")
            for path in [path for path in self.nodes if path.startswith(node.key + b"/")]:
                del self.nodes[path]
            del self.nodes[node.key]
            return
        if event.action == "create" and old is not None:
            raise Wrong(f"created what was there: {event}")
        if event.action in {"update", "compareAndSwap"}:
            if old is None or node.created != old.created:
                raise Wrong(f"changed what was not there, or made it anew: {event}")
        elif node.created != event.index:
            raise Wrong(f"a new node with an old index: {event}")
        if node.modified != event.index or (event.refresh and old is not None and node.value != old.value):
            raise Wrong(f"a changed node with an old index, or a refresh that changed a value: {event}")
        self._parents(node.key)
        self.nodes[node.key] = node

    def refusal(self, command: Command) -> int:
        """The code with which this command is refused now; 0 when it is not (v2 API, errors)."""
        if isinstance(command, InOrder):
            return self._way(command.path + b"/x")
        assert isinstance(
            command, Set | Create | Update | CompareAndSwap | Delete | CompareAndDelete | QuorumGet
        )
        node = self.nodes.get(command.path)
        if isinstance(command, Create):
            return 105 if node is not None else self._way(command.path)
        if isinstance(command, Set):
            if node is None:
                return self._way(command.path) or (100 if command.refresh else 0)
            return 102 if node.dir else 0
        if node is None:
            return self._way(command.path) or 100
        if isinstance(command, QuorumGet):
            return 0
        if isinstance(command, Update):
            return 102 if node.dir and command.value else 0
        if isinstance(command, Delete):
            if not node.dir or command.recursive:
                return 0
            return (108 if self.children(command.path) else 0) if command.dir else 102
        if node.dir:
            return 102
        wanted = command.prev_value in {b"", node.value} and command.prev_index in {0, node.modified}
        return 0 if wanted else 101

    def view(self, path: bytes, recursive: bool) -> NodeView | None:
        """What a read shows."""
        node = self.nodes.get(path)
        if node is None or not node.dir:
            return node
        nodes = []
        for child in self.children(path):
            shown = self.view(child, True) if recursive else self.nodes[child]
            assert shown is not None
            nodes.append(shown)
        return NodeView(path, node.created, node.modified, None, True, node.expires, tuple(nodes))

    def children(self, path: bytes) -> list[bytes]:
        """Visible nodes right below, in order."""
        below = path if path == b"/" else path + b"/"
        return sorted(
            each
            for each in self.nodes
            if each.startswith(below)
            and each != b"/"
            and b"/" not in each[len(below) :]
            and each[len(below)] != ord("_")
        )

    def _way(self, path: bytes) -> int:
        """104 when a file is above this path."""
        while path != b"/":
            path = path[: path.rfind(b"/")] or b"/"
            node = self.nodes.get(path)
            if node is not None:
                return 0 if node.dir else 104
        return 0

    def _parents(self, path: bytes) -> None:
        path = path[: path.rfind(b"/")] or b"/"
        node = self.nodes.get(path)
        if node is None:
            index = EtcdIndex(self.index)
            self.nodes[path] = NodeView(path, index, index, dir=True)
            self._parents(path)
        elif not node.dir:
            raise Wrong(f"change {self.index} lies below the file {path!r}")
