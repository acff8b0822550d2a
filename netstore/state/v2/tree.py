"""The v2 tree (v2 API, sections 2, 4, 5 and 6): directories, files, in-order keys, hidden nodes, expiry.

Invariants:
 1. Every node but the root has a parent, and the parent is a directory.
 2. `index` is the number of changes so far; a change takes exactly one index, a refusal takes none.
 3. A stored node is an immutable value. A change replaces it, so that events can refer to the old and the new
    value without copying, and what a reader got never changes.
 4. The same commands in the same order give the same tree: it depends on no clock, random number or order of
    a set.

All nodes are in one table by full path, so that a look-up costs the same at every depth.
"""

from __future__ import annotations

from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault, Reason, refusal
from netstore.parted import Parted
from netstore.state.v2.nodes import ROOT, Children, add_child, parent_of, root
from netstore.state.v2.ttl import FOR_EVER, Life, Timed, TimedNodes
from netstore.state.v2.walk import Walk
from netstore.state.v2.walks import Walks
from netstore.types import EtcdIndex, Event, NodeView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.limits import Budget
    from netstore.state.v2.loading import Stored

SMALL_NODES: Final = 500
"""Nodes that are listed in one call: half a millisecond, and as much to encode them."""

SMALL_BYTES: Final = 512 * 1024
"""Bytes of values that are listed in one call."""

CLEAR_STEP: Final = 100
"""Nodes below a removed directory that `clear` removes in one call: 0.2 ms, and more with walks under way."""


class Tree:
    """The nodes. An operation returns the Event of its success or the Fault of its refusal, and never raises.

    Paths are canonical (`commands.is_canonical`). Reading, changing or removing one node is O(1), creating it
    O(its missing ancestors), listing a directory O(its contents).

    A removed directory is invisible at once, with all below it; the nodes below are removed in steps
    (`clear`). Nothing may be changed before the last of them.
    """

    __slots__ = (
        "_children",
        "_cleared",
        "_cleared_at",
        "_emptied",
        "_nodes",
        "_walks",
        "changed",
        "clear_step",
        "index",
        "listed",
        "listed_bytes",
        "timed",
    )

    def __init__(self, walks: Budget | None = None) -> None:
        """`walks` is the memory budget of all walks."""
        self.index = EtcdIndex(0)
        """Index of the last change."""
        self.changed: dict[bytes, NodeView | None] = {}
        """The nodes changed since `take_changes`, by path; None: removed."""
        self._nodes: Parted[bytes, NodeView] = Parted({ROOT: root()})
        self._children: Parted[bytes, Children] = Parted({ROOT: {}})
        self.timed = TimedNodes()
        self._walks = Walks(walks)
        self._cleared = b""
        """The prefix of the paths below a directory that was removed and is not cleared yet; empty: none."""
        self._cleared_at = EtcdIndex(0)
        """The index of its removal."""
        self._emptied: list[bytes] = []
        """The directories below it that are still to be emptied, innermost last."""
        self.clear_step = CLEAR_STEP
        """Nodes that `clear` removes by default."""
        self.listed = 0
        """Nodes read so far by `get` and `look`; for the units of work of a QuorumGet."""
        self.listed_bytes = 0
        """Bytes of their values."""

    def restore(self, index: EtcdIndex, stored: Stored) -> Iterator[None]:
        """Replace the tree by the stored one, which is as of `index`. Returns the steps that free the old
        one. O(walks).
        """
        self.index = index
        self._nodes, stored.nodes = stored.nodes, self._nodes
        self._children, stored.children = stored.children, self._children
        timed = self.timed.restore(stored.timed, stored.renewed)
        self._walks.abort()
        self._cleared = b""
        self._emptied = []
        self.changed = {}
        return chain(timed, stored.free_steps())

    def __len__(self) -> int:
        """The number of nodes, without the root."""
        return len(self._nodes) - 1

    def take_changes(self) -> dict[bytes, NodeView | None]:
        """The nodes changed since the last call, by path; None: removed."""
        changed, self.changed = self.changed, {}
        return changed

    # Reading

    def begun(self, view: NodeView) -> EtcdIndex:
        """The index at which the TTL that a view of a node shows began. It may differ from the view's
        modified index: the TTL of a directory can start anew without a change of that.
        """
        node, timed = self._nodes.get(view.key), self.timed.get(view.key)
        is_that = node is not None and timed is not None and node.expires == view.expires
        return timed.since if is_that and timed is not None else view.modified

    def get(self, path: bytes, recursive: bool = False) -> Event | Fault:
        """The node; if it is a directory, with its visible children, with `recursive` with all visible nodes
        below. However many these are.
        """
        found = self._get(path, recursive, inf, inf)
        assert not isinstance(found, Walk)  # noqa: S101 - there was no bound
        return found

    def look(self, path: bytes, recursive: bool = False) -> Event | Walk | Fault:
        """The same in bounded time: a `Walk` if there are more than `SMALL_NODES` nodes to list, or more than
        `SMALL_BYTES` of values. Fault 300 if there are too many walks, or too little memory for one.
        """
        node = self._nodes.get(path)
        if node is None or node.dir or self._cleared:
            return self._get(path, recursive, SMALL_NODES, SMALL_BYTES)
        self.listed += 1  # a file, without the calls for a directory
        self.listed_bytes += len(node.value or b"")
        return Event("get", self.index, node)

    def _get(self, path: bytes, recursive: bool, most: float, size: float) -> Event | Walk | Fault:
        node = self._find(path)
        if node is None:
            return self._unreachable(path)
        if not node.dir:
            self.listed += 1
            self.listed_bytes += len(node.value or b"")
        else:
            listing = self._listing(node, recursive, most, size)
            if listing is None:
                return self._walk(node, recursive)
            node = listing
        return Event("get", self.index, node)

    def fault(self, path: bytes) -> Fault | None:
        """The Fault of `get`, None if there is a node."""
        return self._unreachable(path) if self._find(path) is None else None

    def _find(self, path: bytes) -> NodeView | None:
        """The visible node at a path: none below a removed directory that is not cleared yet."""
        node = self._nodes.get(path)
        if node is not None and self._cleared and path.startswith(self._cleared):
            return None
        return node

    def _walk(self, top: NodeView, recursive: bool) -> Walk | Fault:
        walk = self._walks.begin(self._nodes, self._children, top, self.index, recursive=recursive)
        return refusal(Reason.TOO_MANY, self.index) if walk is None else walk

    def _listing(self, top: NodeView, recursive: bool, most: float, size: float) -> NodeView | None:
        """The directory with its children filled in; None if there are more than `most` nodes, or more than
        `size` bytes of values.

        Not recursive: a path may be thousands of names deep.
        """
        nodes = self._nodes
        # Parents come before their children in `order`, so that backwards every child is complete before its
        # parent is made.
        order: list[tuple[NodeView, list[NodeView]]] = []
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            most -= len(self._children[directory.key])
            if most < 0:
                return None
            children = [nodes[path] for path in sorted(self._visible(directory.key))]
            values = sum(len(child.value) for child in children if child.value)
            self.listed += len(self._children[directory.key])
            self.listed_bytes += values
            size -= values
            if size < 0:
                return None
            order.append((directory, children))
            if recursive:
                waiting.extend(child for child in children if child.dir)
        done: dict[bytes, NodeView] = {}
        for directory, children in reversed(order):
            listed = tuple(done.pop(child.key, child) for child in children) if recursive else tuple(children)
            done[directory.key] = NodeView(
                directory.key, directory.created, directory.modified, None, True, directory.expires, listed
            )
        return done[top.key]

    def _visible(self, path: bytes) -> Iterator[bytes]:
        """Children whose name does not begin with an underscore."""
        name_at = len(path) + (path != ROOT)
        return (child for child in self._children[path] if not child.startswith(b"_", name_at))

    # Writing

    def set(
        self, path: bytes, value: bytes, directory: bool, life: Life, refresh: bool = False
    ) -> Event | Fault:
        """Create a node or replace a file. A refresh needs the file to exist and keeps its value."""
        old = self._nodes.get(path)
        if old is None:
            fault = self._unreachable(path)
            if refresh or fault.code != 100:
                return fault
        elif old.dir:
            return self._root_or(102, path)
        elif refresh:
            value = old.value or b""
        return self._place("set", path, value, directory, life, old, refresh)

    def create(self, path: bytes, value: bytes, directory: bool, life: Life) -> Event | Fault:
        """Create a node that must not exist."""
        if path in self._nodes:
            return self._root_or(105, path)
        fault = self._unreachable(path)
        if fault.code != 100:
            return fault
        return self._place("create", path, value, directory, life, None, False)

    def create_in_order(self, path: bytes, value: bytes, directory: bool, life: Life) -> Event | Fault:
        """Create a node in `path`, named by the index of the change in decimal with 20 digits."""
        name = b"/%020d" % (self.index + 1)
        return self.create(name if path == ROOT else path + name, value, directory, life)

    def update(self, path: bytes, value: bytes, life: Life, refresh: bool = False) -> Event | Fault:
        """Change value and expiry of a node that must exist; a directory has no value to change."""
        if path == ROOT:
            return self._root_fault()
        old = self._nodes.get(path)
        if old is None:
            return self._unreachable(path)
        if not old.dir:
            return self._overwrite("update", old, (old.value or b"") if refresh else value, life, refresh)
        if value:
            return Fault(102, path, self.index)
        # The event shows the index of the change, the directory keeps its own (v2 API, update).
        index = self._next()
        self._store(NodeView(path, old.created, old.modified, None, True, life.expires), life, old)
        node = NodeView(path, old.created, index, None, True, life.expires)
        return Event("update", index, node, old, refresh=refresh)

    def compare_and_swap(  # noqa: PLR0917 - the fields of the command, in its order
        self,
        path: bytes,
        prev_value: bytes,
        prev_index: int,
        value: bytes,
        life: Life,
        refresh: bool = False,
    ) -> Event | Fault:
        """Update a file if it is as expected; an empty value and the index 0 match anything."""
        if path == ROOT:
            return self._root_fault()
        old = self._expected(path, prev_value, prev_index)
        if isinstance(old, Fault):
            return old
        return self._overwrite("compareAndSwap", old, (old.value or b"") if refresh else value, life, refresh)

    def delete(self, path: bytes, directory: bool, recursive: bool) -> Event | Fault:
        """Remove a file.

        With `directory` an empty directory; with `recursive` a directory and all below it (`clear`).
        """
        if path == ROOT:
            return self._root_fault()
        old = self._nodes.get(path)
        if old is None:
            return self._unreachable(path)
        if old.dir and not recursive:
            if not directory:
                return Fault(102, path, self.index)
            if self._children[path]:
                return Fault(108, path, self.index)
        return self._remove("delete", old)

    def compare_and_delete(self, path: bytes, prev_value: bytes, prev_index: int) -> Event | Fault:
        """Remove a file if it is as expected; an empty value and the index 0 match anything."""
        old = self._expected(path, prev_value, prev_index)
        if isinstance(old, Fault):
            return old
        return self._remove("compareAndDelete", old)

    def skip(self) -> EtcdIndex:
        """Take an index for a change outside of the tree, of the cluster's own data."""
        return self._next()

    # Expiry

    def expire(self, path: bytes, since: int) -> Event | None:
        """Remove a node whose TTL is over, with all below it (`clear`). None, with nothing changed, if the
        node does not exist or its TTL started anew after the index `since`.
        """
        timed = self.timed.get(path)
        if timed is None or timed.since != since:
            return None
        return self._remove("expire", self._nodes[path])

    def checkpoint_ttl(self, path: bytes, since: int, remaining: int) -> None:
        """Record what a node has left of its TTL, unless that started anew after the index `since`."""
        timed = self.timed.get(path)
        if timed is not None and timed.since == since:
            timed.remaining = min(remaining, timed.ttl)
            self.changed[path] = self._nodes[path]

    # Shared steps

    def _next(self) -> EtcdIndex:
        self.index = index = EtcdIndex(self.index + 1)
        return index

    def _root_fault(self) -> Fault:
        return Fault(107, ROOT, self.index)

    def _root_or(self, code: int, path: bytes) -> Fault:
        return self._root_fault() if path == ROOT else Fault(code, path, self.index)

    def _unreachable(self, path: bytes) -> Fault:
        """Why there is no node at `path`: 104 with the file that is an ancestor of it, else 100 with the
        topmost missing path.
        """
        missing = path
        while True:
            above = parent_of(missing)
            node = self._find(above)
            if node is not None:
                return Fault(100, missing, self.index) if node.dir else Fault(104, above, self.index)
            missing = above

    def _expected(self, path: bytes, prev_value: bytes, prev_index: int) -> NodeView | Fault:
        node = self._nodes.get(path)
        if node is None:
            return self._unreachable(path)
        if node.dir:
            # etcd shows the root by its internal path, which users never see; so nothing is shown.
            return Fault(102, b"" if path == ROOT else path, self.index)
        causes = []
        if prev_value and prev_value != node.value:
            causes.append(b"[%b != %b]" % (prev_value, node.value or b""))
        if prev_index and prev_index != node.modified:
            causes.append(b"[%d != %d]" % (prev_index, node.modified))
        return Fault(101, b" ".join(causes), self.index) if causes else node

    def _place(  # noqa: PLR0917 - all parts of a node and its event
        self,
        action: str,
        path: bytes,
        value: bytes,
        directory: bool,
        life: Life,
        old: NodeView | None,
        refresh: bool,
    ) -> Event:
        """Put a new node at `path`, replacing `old` if given. No ancestor is a file."""
        self.index += 1  # type: ignore[assignment]  # a call to `EtcdIndex` costs more
        index = self.index
        node = NodeView(path, index, index, None if directory else value, directory, life.expires)
        if old is None:
            self._adopt(path, index)
        if directory:
            self._children[path] = {}
        if self._walks.refs or life.expires or (old is not None and old.expires):
            self._store(node, life, old)
        else:
            self._nodes[path] = self.changed[path] = node  # all that is left of `_store`
        return Event(action, index, node, old, (), refresh)

    def _adopt(self, path: bytes, index: EtcdIndex) -> None:
        """Add `path` to its parent, creating missing ancestors as permanent directories."""
        while True:
            above = parent_of(path)
            children = self._children.get(above)
            if children is not None:
                joined = add_child(children, path)
                if joined is not children:
                    self._children[above] = joined
                return
            self._children[above] = {path: None}
            self._store(NodeView(above, index, index, None, True), FOR_EVER, None)
            path = above

    def _overwrite(self, action: str, old: NodeView, value: bytes, life: Life, refresh: bool) -> Event:
        """Give a file a new value and expiry; its created index stays."""
        index = self._next()
        node = NodeView(old.key, old.created, index, value, False, life.expires)
        self._store(node, life, old)
        return Event(action, index, node, old, (), refresh)

    def _store(self, node: NodeView, life: Life, old: NodeView | None) -> None:
        """Store a node, which replaces `old` if given."""
        path = node.key
        if self._walks.refs:
            self._walks.keep(parent_of(path), path, self._nodes.get(path))
        self._nodes[path] = self.changed[path] = node
        if life.expires:
            self.timed.put(path, Timed(life.ttl, self.index))
        elif old is not None and old.expires:
            self.timed.remove(path)

    def _remove(self, action: str, old: NodeView) -> Event:
        """Remove a node; if it is a directory, make all below it invisible. O(1)."""
        path = old.key
        index = self._next()
        children = self._children.get(path)
        if children:
            self._cleared = path + b"/"
            self._cleared_at = index
            self._emptied.append(path)
        elif children is not None:
            del self._children[path]
        self._forget(path, parent_of(path), self._walks.live() if self._walks.refs else ())
        del self._children[parent_of(path)][path]
        return Event(action, index, NodeView(path, old.created, index, None, old.dir), old)

    @property
    def clearing(self) -> bool:
        """Whether nodes below a removed directory are left for `clear`."""
        return bool(self._emptied)

    @property
    def walkers(self) -> int:
        """How many walks must be told of each node that `clear` removes."""
        return len(self._walks.before(self._cleared_at)) if self._walks.refs else 0

    def clear(self, most: int | None = None) -> list[bytes]:
        """Remove some of the nodes below the directory that was removed last, at most so many (default:
        `clear_step`). Returns their paths, a directory before its contents. About 2 us each.
        """
        most = most or self.clear_step
        walks = self._walks.before(self._cleared_at) if self._walks.refs else ()
        gone: list[bytes] = []
        while self._emptied and len(gone) < most:
            directory = self._emptied[-1]
            children = self._children[directory]
            if not children:
                del self._children[directory]
                self._emptied.pop()
                continue
            path, _ = children.popitem()
            self._forget(path, directory, walks)
            below = self._children.get(path)
            if below:
                self._emptied.append(path)
            elif below is not None:
                del self._children[path]
            gone.append(path)
        if not self._emptied:
            self._cleared = b""
        return gone

    def _forget(self, path: bytes, parent: bytes, walks: Iterable[Walk]) -> None:
        node = self._nodes.pop(path)
        for walk in walks:
            walk.keep(parent, path, node)
        self.changed[path] = None
        if node.expires:
            self.timed.remove(path)
