"""The tree against its twin, and the rules that a random walk would seldom meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore.errors import Fault
from netstore.state.v2.loading import Stored
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER, Life, Timed
from netstore.types import EtcdIndex, Event, Nanos, NodeView
from tests.state.strategies import EXPIRIES, FLAGS, INDEXES, PATHS, VALUES
from tests.state.v2.lives import never, whole
from tests.state.v2.tree_twin import TreeTwin, outcome_of
from tests.support.contents import nodes_of
from tests.support.tree import file_at

if TYPE_CHECKING:
    from random import Random

values = st.sampled_from(VALUES)


LIVES = EXPIRIES.map(lambda expires: Life(Nanos(expires), 5) if expires else FOR_EVER)


class AgainstTwin(RuleBasedStateMachine):
    """Every operation has the twin's outcome, and what a tree says has changed is enough to rebuild it."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.twin = TreeTwin()
        self.mirror: dict[bytes, NodeView] = {}

    def both(self, operation: str, *arguments: Any) -> None:
        outcome = whole(self.tree, getattr(self.tree, operation)(*arguments))
        assert outcome == outcome_of(self.twin, operation, *arguments)

    @rule(path=PATHS, recursive=FLAGS)
    def get(self, path: bytes, recursive: bool) -> None:
        self.both("get", path, recursive)

    @rule(path=PATHS, value=values, directory=FLAGS, life=LIVES, refresh=FLAGS)
    def set(self, path: bytes, value: bytes, directory: bool, life: Life, refresh: bool) -> None:
        self.both("set", path, value, directory, life, refresh)

    @rule(path=PATHS, value=values, life=LIVES)
    def write(self, path: bytes, value: bytes, life: Life) -> None:
        self.both("set", path, value, False, life, False)

    @rule(path=PATHS, value=values, directory=FLAGS, life=LIVES)
    def create(self, path: bytes, value: bytes, directory: bool, life: Life) -> None:
        self.both("create", path, value, directory, life)

    @rule(path=PATHS, value=values, directory=FLAGS, life=LIVES)
    def create_in_order(self, path: bytes, value: bytes, directory: bool, life: Life) -> None:
        self.both("create_in_order", path, value, directory, life)

    @rule(path=PATHS, value=values, life=LIVES, refresh=FLAGS)
    def update(self, path: bytes, value: bytes, life: Life, refresh: bool) -> None:
        self.both("update", path, value, life, refresh)

    @rule(path=PATHS, prev=values, index=INDEXES, value=values, life=LIVES, refresh=FLAGS)
    def compare_and_swap(  # noqa: PLR0917 - as the operation
        self, path: bytes, prev: bytes, index: int, value: bytes, life: Life, refresh: bool
    ) -> None:
        self.both("compare_and_swap", path, prev, index, value, life, refresh)

    @rule(path=PATHS, directory=FLAGS, recursive=FLAGS)
    def delete(self, path: bytes, directory: bool, recursive: bool) -> None:
        self.both("delete", path, directory, recursive)

    @rule(path=PATHS, prev=values, index=INDEXES)
    def compare_and_delete(self, path: bytes, prev: bytes, index: int) -> None:
        self.both("compare_and_delete", path, prev, index)

    @rule(path=PATHS, ago=st.integers(0, 2), data=st.data())
    def expire(self, path: bytes, ago: int, data: st.DataObject) -> None:
        timed = sorted(self.tree.timed.timed_keys())
        path = data.draw(st.sampled_from(timed)) if timed else path
        kept = self.tree.timed.get(path)
        self.both("expire", path, (self.tree.index if kept is None else kept.since) - ago)

    @rule(random=st.randoms())
    def rebuild_from_what_changed(self, random: Random) -> None:
        """In any order."""
        for path, node in self.tree.take_changes().items():
            if node is None:
                self.mirror.pop(path, None)
            else:
                self.mirror[path] = node
        copy = Tree()
        timed = {path: Timed(each.ttl, each.since) for path, each in self.timed()}
        stored = Stored()
        paths = sorted(self.mirror)
        random.shuffle(paths)
        for path in paths:
            stored.add([(self.mirror[path], timed.get(path))])
        assert stored.stray is None
        copy.restore(self.tree.index, stored)
        assert copy.get(b"/", True) == self.tree.get(b"/", True)
        assert {node.key: node for node in nodes_of(copy)} == {node.key: node for node in nodes_of(self.tree)}
        assert sorted(copy.timed.ttl_changes.take_renewed(1_000)) == sorted(timed)
        assert not copy.changed
        self.tree = copy

    def timed(self) -> list[tuple[bytes, Timed]]:
        found = []
        for path in sorted(self.tree.timed.timed_keys()):
            timed = self.tree.timed.get(path)
            assert timed is not None
            found.append((path, timed))
        return found

    @invariant()
    def what_has_a_ttl_is_known(self) -> None:
        kept = sorted((node.key, node.since) for node in self.twin.root.descendants() if node.expires)
        assert [(path, timed.since) for path, timed in self.timed()] == kept
        assert {timed.ttl for _, timed in self.timed()} <= {5}

    @invariant()
    def nodes_are_those_of_the_twin(self) -> None:
        assert {node.key for node in nodes_of(self.tree)} == {
            node.key for node in self.twin.root.descendants()
        }


TestAgainstTwin = AgainstTwin.TestCase
TestAgainstTwin.settings = settings(stateful_step_count=40, max_examples=100)


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
    gone = whole(tree, tree.delete(b"/a", False, True))
    assert isinstance(gone, Event)
    assert len(gone.removed) == 2_999
    assert list(nodes_of(tree)) == []


def test_nodes_of_a_removed_directory_are_out_of_reach_before_it_is_cleared() -> None:
    tree = Tree()
    for number in range(500):
        tree.set(b"/a/d/%03d/x" % number, b"1", False, never())
    tree.set(b"/a/dx", b"1", False, never())
    tree.set(b"/a/e", b"1", False, never())
    event = tree.delete(b"/a/d", False, True)
    assert isinstance(event, Event)
    gone = 0
    while tree.clearing:
        for path in (b"/a/d", b"/a/d/000", b"/a/d/499/x", b"/a/d/never/was"):
            assert tree.look(path) == Fault(100, b"/a/d", event.index)
            assert file_at(tree, path) is None
        listed = tree.look(b"/a", True)
        assert isinstance(listed, Event)
        assert [node.key for node in listed.node.nodes or ()] == [b"/a/dx", b"/a/e"]
        step = len(tree.clear(30))
        assert step <= 30
        gone += step
    assert gone == 1_000
    assert {node.key for node in nodes_of(tree)} == {b"/a", b"/a/dx", b"/a/e"}
    assert isinstance(tree.set(b"/a/d/000/x", b"2", False, never()), Event)
    assert file_at(tree, b"/a/d/000/x") is not None
