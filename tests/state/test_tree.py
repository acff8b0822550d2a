"""The tree against its twin, and the rules that a random walk would seldom meet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore.errors import Fault
from netstore.state.tree import Tree
from netstore.types import EtcdIndex, Event, Nanos, NodeView
from tests.state.strategies import BASE, EXPIRIES, FLAGS, INDEXES, PATHS, VALUES
from tests.state.tree_twin import TreeTwin, outcome_of

values = st.sampled_from(VALUES)


class AgainstTwin(RuleBasedStateMachine):
    """Every operation has the twin's outcome, and what a tree says has changed is enough to rebuild it."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.twin = TreeTwin()
        self.mirror: dict[bytes, NodeView] = {}

    def both(self, operation: str, *arguments: Any) -> None:
        outcome = getattr(self.tree, operation)(*arguments)
        assert outcome == outcome_of(self.twin, operation, *arguments)

    @rule(path=PATHS, recursive=FLAGS)
    def get(self, path: bytes, recursive: bool) -> None:
        self.both("get", path, recursive)

    @rule(path=PATHS, value=values, directory=FLAGS, expires=EXPIRIES, refresh=FLAGS)
    def set(self, path: bytes, value: bytes, directory: bool, expires: int, refresh: bool) -> None:
        self.both("set", path, value, directory, expires, refresh)

    @rule(path=PATHS, value=values, expires=EXPIRIES)
    def write(self, path: bytes, value: bytes, expires: int) -> None:
        self.both("set", path, value, False, expires, False)

    @rule(path=PATHS, value=values, directory=FLAGS, expires=EXPIRIES)
    def create(self, path: bytes, value: bytes, directory: bool, expires: int) -> None:
        self.both("create", path, value, directory, expires)

    @rule(path=PATHS, value=values, directory=FLAGS, expires=EXPIRIES)
    def create_in_order(self, path: bytes, value: bytes, directory: bool, expires: int) -> None:
        self.both("create_in_order", path, value, directory, expires)

    @rule(path=PATHS, value=values, expires=EXPIRIES, refresh=FLAGS)
    def update(self, path: bytes, value: bytes, expires: int, refresh: bool) -> None:
        self.both("update", path, value, expires, refresh)

    @rule(path=PATHS, prev=values, index=INDEXES, value=values, expires=EXPIRIES, refresh=FLAGS)
    def compare_and_swap(  # noqa: PLR0917 - as the operation
        self, path: bytes, prev: bytes, index: int, value: bytes, expires: int, refresh: bool
    ) -> None:
        self.both("compare_and_swap", path, prev, index, value, expires, refresh)

    @rule(path=PATHS, directory=FLAGS, recursive=FLAGS)
    def delete(self, path: bytes, directory: bool, recursive: bool) -> None:
        self.both("delete", path, directory, recursive)

    @rule(path=PATHS, prev=values, index=INDEXES)
    def compare_and_delete(self, path: bytes, prev: bytes, index: int) -> None:
        self.both("compare_and_delete", path, prev, index)

    @rule(now=st.integers(BASE - 1, BASE + 5))
    def expire(self, now: int) -> None:
        self.both("expire", now)

    @rule()
    def rebuild_from_what_changed(self) -> None:
        for path, node in self.tree.take_changes().items():
            if node is None:
                self.mirror.pop(path, None)
            else:
                self.mirror[path] = node
        copy = Tree()
        copy.restore(self.tree.index, self.mirror.values())
        assert copy.get(b"/", True) == self.tree.get(b"/", True)
        assert {node.key: node for node in copy.nodes()} == {node.key: node for node in self.tree.nodes()}
        assert copy.next_expiry() == self.tree.next_expiry()
        assert not copy.changed
        self.tree = copy

    @invariant()
    def the_first_expiry_is_known(self) -> None:
        due = [node.expires for node in self.twin.root.descendants() if node.expires]
        assert self.tree.next_expiry() == min(due, default=None)

    @invariant()
    def nodes_are_those_of_the_twin(self) -> None:
        assert {node.key for node in self.tree.nodes()} == {node.key for node in self.twin.root.descendants()}


TestAgainstTwin = AgainstTwin.TestCase
TestAgainstTwin.settings = settings(stateful_step_count=40, max_examples=100)


def never() -> Nanos:
    return Nanos(0)


def test_the_root_is_there_and_cannot_be_changed() -> None:
    tree = Tree()
    root = tree.get(b"/")
    assert isinstance(root, Event)
    assert root.node == NodeView(b"/", EtcdIndex(0), EtcdIndex(0), dir=True, nodes=())
    for outcome in (
        tree.set(b"/", b"", False, never()),
        tree.create(b"/", b"", True, never()),
        tree.update(b"/", b"", never()),
        tree.compare_and_swap(b"/", b"", 1, b"", never()),
        tree.delete(b"/", True, True),
    ):
        assert outcome == Fault(107, b"/", 0)
    assert tree.compare_and_delete(b"/", b"x", 0) == Fault(102, b"", 0)


def test_a_reader_keeps_what_it_got() -> None:
    tree = Tree()
    tree.set(b"/d/a", b"1", False, never())
    before = tree.get(b"/d")
    tree.set(b"/d/a", b"2", False, never())
    tree.set(b"/d/b", b"3", False, never())
    assert isinstance(before, Event)
    assert before.node.nodes is not None
    assert [node.value for node in before.node.nodes] == [b"1"]


@pytest.mark.parametrize("recursive", [False, True])
def test_a_path_of_many_thousand_names_needs_no_stack(recursive: bool) -> None:
    tree = Tree()
    deep = b"/a" * 3_000
    assert isinstance(tree.set(deep, b"1", False, never()), Event)
    listing = tree.get(b"/", recursive)
    assert isinstance(listing, Event)
    depth, node = 0, listing.node
    while node.nodes:
        depth, node = depth + 1, node.nodes[0]
    assert depth == (3_000 if recursive else 1)
    gone = tree.delete(b"/a", False, True)
    assert isinstance(gone, Event)
    assert len(gone.removed) == 2_999
    assert list(tree.nodes()) == []


def test_refreshing_a_node_for_ever_keeps_the_heap_small() -> None:
    tree = Tree()
    tree.set(b"/lease", b"1", False, Nanos(BASE))
    for step in range(10_000):
        tree.update(b"/lease", b"", Nanos(BASE + step), refresh=True)
    assert len(tree._deadlines) < 100
    assert tree.next_expiry() == BASE + 9_999


def test_what_expires_at_one_instant_goes_in_the_order_of_the_paths() -> None:
    tree = Tree()
    for path in (b"/b", b"/a", b"/c/d", b"/0"):
        tree.set(path, b"", False, Nanos(BASE + (path == b"/0")))
    tree.update(b"/c", b"", Nanos(BASE))
    gone = [(event.node.key, event.removed) for event in tree.expire(Nanos(BASE + 1))]
    assert gone == [(b"/a", ()), (b"/b", ()), (b"/c", (b"/c/d",)), (b"/0", ())]
    assert tree.next_expiry() is None
