"""The v2 tree, slow and obvious: nested nodes and the rules as written (v2 API, sections 4 to 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netstore.errors import Fault
from netstore.types import EtcdIndex, Event, Nanos, NodeView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.state.v2.ttl import Life


@dataclass
class Node:
    key: bytes
    created: int
    modified: int
    value: bytes | None
    expires: int
    since: int = 0
    """The index at which the TTL began."""
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def dir(self) -> bool:
        return self.value is None

    def view(self, nodes: tuple[NodeView, ...] | None = None) -> NodeView:
        return NodeView(
            self.key,
            EtcdIndex(self.created),
            EtcdIndex(self.modified),
            self.value,
            self.dir,
            Nanos(self.expires),
            nodes,
        )

    def descendants(self) -> Iterator[Node]:
        for child in self.children.values():
            yield child
            yield from child.descendants()


class Refused(Exception):  # noqa: N818
    def __init__(self, code: int, cause: bytes) -> None:
        self.code = code
        self.cause = cause


class TreeTwin:
    def __init__(self) -> None:
        self.root = Node(b"/", 0, 0, None, 0)
        self.index = 0

    # Every operation either changes something and counts, or is refused and counts nothing.

    def get(self, path: bytes, recursive: bool) -> Event:
        node = self.find(path)
        return Event("get", EtcdIndex(self.index), self.listed(node, recursive) if node.dir else node.view())

    def listed(self, node: Node, recursive: bool) -> NodeView:
        visible = [node.children[name] for name in sorted(node.children) if not name.startswith(b"_")]
        shown = [
            self.listed(child, recursive) if child.dir and recursive else child.view() for child in visible
        ]
        return node.view(tuple(shown))

    def set(self, path: bytes, value: bytes, directory: bool, life: Life, refresh: bool) -> Event:
        try:
            old = self.find(path)
        except Refused as refused:
            if refused.code != 100 or refresh:
                raise
            return self.put("set", path, value, directory, life, refresh)
        self.not_root(path)
        if old.dir:
            raise Refused(102, path)
        prev = old.view()
        event = self.put("set", path, old.value or b"" if refresh else value, directory, life, refresh)
        return Event("set", event.index, event.node, prev, refresh=refresh)

    def create(self, path: bytes, value: bytes, directory: bool, life: Life) -> Event:
        self.not_root(path)
        try:
            self.find(path)
        except Refused as refused:
            if refused.code != 100:
                raise
            return self.put("create", path, value, directory, life, False)
        raise Refused(105, path)

    def create_in_order(self, path: bytes, value: bytes, directory: bool, life: Life) -> Event:
        name = str(self.index + 1).zfill(20).encode()
        return self.create(path.rstrip(b"/") + b"/" + name, value, directory, life)

    def update(self, path: bytes, value: bytes, life: Life, refresh: bool) -> Event:
        self.not_root(path)
        node = self.find(path)
        if node.dir and value:
            raise Refused(102, path)
        return self.change("update", node, value, life, refresh)

    def compare_and_swap(  # noqa: PLR0917 - as the operation
        self, path: bytes, prev_value: bytes, prev_index: int, value: bytes, life: Life, refresh: bool
    ) -> Event:
        self.not_root(path)
        node = self.find(path)
        self.compare(node, prev_value, prev_index)
        return self.change("compareAndSwap", node, value, life, refresh)

    def delete(self, path: bytes, directory: bool, recursive: bool) -> Event:
        self.not_root(path)
        node = self.find(path)
        if node.dir and not (directory or recursive):
            raise Refused(102, path)
        if node.children and not recursive:
            raise Refused(108, path)
        return self.remove("delete", node)

    def compare_and_delete(self, path: bytes, prev_value: bytes, prev_index: int) -> Event:
        node = self.find(path)
        self.compare(node, prev_value, prev_index)
        return self.remove("compareAndDelete", node)

    def expire(self, path: bytes, since: int) -> Event | None:
        try:
            node = self.find(path)
        except Refused:
            return None
        return self.remove("expire", node) if node.expires and node.since == since else None

    # Steps

    def find(self, path: bytes) -> Node:
        node = self.root
        for name in path.split(b"/"):
            if not name:
                continue
            if not node.dir:
                raise Refused(104, node.key)
            if name not in node.children:
                raise Refused(100, node.key.rstrip(b"/") + b"/" + name)
            node = node.children[name]
        return node

    def not_root(self, path: bytes) -> None:
        if path == b"/":
            raise Refused(107, b"/")

    def compare(self, node: Node, prev_value: bytes, prev_index: int) -> None:
        if node.dir:
            raise Refused(102, b"" if node is self.root else node.key)
        wrong_value = prev_value not in (b"", node.value)
        wrong_index = prev_index not in (0, node.modified)
        about_value = b"[" + prev_value + b" != " + (node.value or b"") + b"]"
        about_index = b"[%d != %d]" % (prev_index, node.modified)
        if wrong_value and wrong_index:
            raise Refused(101, about_value + b" " + about_index)
        if wrong_value:
            raise Refused(101, about_value)
        if wrong_index:
            raise Refused(101, about_index)

    def put(  # noqa: PLR0917 - all a node is made of
        self, action: str, path: bytes, value: bytes, directory: bool, life: Life, refresh: bool
    ) -> Event:
        self.index += 1
        *above, name = path.strip(b"/").split(b"/")
        place = self.root
        for step in above:
            key = place.key.rstrip(b"/") + b"/" + step
            place = place.children.setdefault(step, Node(key, self.index, self.index, None, 0))
        node = Node(path, self.index, self.index, None if directory else value, life.expires, self.index)
        place.children[name] = node
        return Event(action, EtcdIndex(self.index), node.view(), refresh=refresh)

    def change(self, action: str, node: Node, value: bytes, life: Life, refresh: bool) -> Event:
        self.index += 1
        prev = node.view()
        node.expires, node.since = life.expires, self.index
        was = node.modified
        node.modified = self.index
        if not node.dir and not refresh:
            node.value = value
        event = Event(action, EtcdIndex(self.index), node.view(), prev, refresh=refresh)
        if node.dir:
            node.modified = was
        return event

    def remove(self, action: str, node: Node) -> Event:
        self.index += 1
        above, _, name = node.key.rpartition(b"/")
        del self.find(above or b"/").children[name]
        gone = Node(node.key, node.created, self.index, None, 0).view()
        if not node.dir:
            gone = NodeView(gone.key, gone.created, gone.modified)
        removed = tuple(sorted(child.key for child in node.descendants()))
        return Event(action, EtcdIndex(self.index), gone, node.view(), removed)


def outcome_of(twin: TreeTwin, operation: str, *arguments: object) -> object:
    """What the twin says, with a refusal as the Fault it stands for."""
    try:
        return getattr(twin, operation)(*arguments)
    except Refused as refused:
        return Fault(refused.code, refused.cause, twin.index)
