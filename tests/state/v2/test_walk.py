"""A listing in pieces shows the tree as it was when it began, whatever happens meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore import parted
from netstore.errors import Fault
from netstore.state.v2 import nodes
from netstore.state.v2 import tree as trees
from netstore.state.v2 import walk as walks
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER
from netstore.state.v2.walk import Closed, Opened, Walk, WalkLost
from netstore.types import Event, NodeView
from tests.state.v2.walking import LARGE, begun, full

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = st.sampled_from(
    [b"/a", b"/a/b", b"/a/b/c", b"/a/_h", b"/a/_h/x", b"/a/d", b"/a/d/e", b"/f", b"/a/b/g", b"/a/z"]
)
CHANGES = st.lists(st.tuples(st.sampled_from(("set", "dir", "delete")), PATHS), max_size=30)


def change(tree: Tree, kind: str, path: bytes) -> None:
    if kind == "delete":
        tree.delete(path, True, True)
        while tree.clearing:
            tree.clear(1)
    else:
        tree.set(path, b"%d" % tree.index, kind == "dir", FOR_EVER)


def flat(view: NodeView, recursive: bool) -> Iterator[tuple[str, NodeView]]:
    """The rows of a listing made at once."""
    yield "opened", view
    for child in view.nodes or ():
        if child.dir and recursive:
            yield from flat(child, recursive)
        else:
            yield "row", child
    yield "closed", view


def rows(walk: Walk, between: Iterator[Any]) -> Iterator[tuple[str, NodeView]]:
    for row in walk.rows():
        if isinstance(row, Opened):
            yield "opened", row.directory
        elif isinstance(row, Closed):
            yield "closed", row.directory
        elif row is not None:
            yield "row", row
        next(between, None)


def plain(found: list[tuple[str, NodeView]]) -> list[tuple[str, bytes, bytes | None, int]]:
    return [(kind, view.key, view.value, view.modified) for kind, view in found]


@given(
    CHANGES, CHANGES, st.sampled_from([b"/", b"/a", b"/a/b"]), st.booleans(), st.integers(0, 2), st.booleans()
)
def test_it_shows_the_tree_as_it_was(  # noqa: PLR0917 - what is drawn
    before: list[tuple[str, bytes]],
    meanwhile: list[tuple[str, bytes]],
    path: bytes,
    recursive: bool,
    at: int,
    is_large: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "SMALL_NODES", -1)
        patch.setattr(walks, "SORTED_AT_ONCE", 1 + at)
        if is_large:
            patch.setattr(parted, "FIRST", 1)
            patch.setattr(nodes, "FIRST", 1)
            patch.setattr(walks, "TAKEN_AT_ONCE", 1)
        tree = Tree()
        for kind, where in before:
            change(tree, kind, where)
        then = tree.get(path, recursive)
        walk = tree.look(path, recursive)
        if isinstance(then, Fault) or not then.node.dir:
            assert walk == then
            return
        assert isinstance(walk, Walk)
        assert walk.index == tree.index
        changes = iter(meanwhile)

        def between() -> Iterator[None]:
            for kind, where in changes:
                change(tree, kind, where)
                yield

        assert plain(list(rows(walk, between()))) == plain(list(flat(then.node, recursive)))


def test_a_small_listing_is_given_at_once_and_a_large_one_is_not() -> None:
    tree = Tree()
    for number in range(trees.SMALL_NODES):
        tree.set(b"/d/%d" % number, b"", False, FOR_EVER)
    assert isinstance(tree.look(b"/d"), Event)
    assert isinstance(tree.look(b"/", True), Walk), "the directory counts too"
    tree.set(b"/d/more", b"", False, FOR_EVER)
    assert isinstance(tree.look(b"/d"), Walk)
    tree.delete(b"/d/more", False, False)
    tree.set(b"/d/0", b"x" * (trees.SMALL_BYTES + 1), False, FOR_EVER)
    assert isinstance(tree.look(b"/d"), Walk)
    assert isinstance(tree.get(b"/", True), Event)


def test_no_piece_of_work_looks_at_more_than_its_share() -> None:
    tree = Tree()
    for number in range(5_000):
        tree.set(b"/d/%06d" % (number * 7_919 % 5_000), b"", False, FOR_EVER)
    walk = tree.look(b"/d")
    assert isinstance(walk, Walk)
    found = list(walk.rows())
    assert [row is None for row in found[1:6]] == [True] * 5, "five runs of a thousand"
    names = [row.key for row in found if isinstance(row, NodeView)]
    assert names == sorted(names)
    assert len(names) == 5_000


def test_a_walk_under_which_too_much_changes_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "MOST_KEPT", 10)
    tree = Tree()
    tree.set(b"/d/a", b"x" * (trees.SMALL_BYTES + 1), False, FOR_EVER)
    tree.set(b"/d/b/c", b"1", False, FOR_EVER)
    walk = tree.look(b"/d", True)
    assert isinstance(walk, Walk)
    going = walk.rows()
    next(going)
    for number in range(11):
        tree.set(b"/d/b/%d" % number, b"1", False, FOR_EVER)
    with pytest.raises(WalkLost, match="changed under a v2 list") as lost:
        list(going)
    assert not lost.value.limit, "no setting bounds that"


def test_a_walk_is_told_nothing_of_what_was_removed_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "SMALL_NODES", 3)
    monkeypatch.setattr(walks, "MOST_KEPT", 10)
    tree = Tree()
    for directory in (b"/d", b"/k"):
        for name in range(30):
            tree.set(b"%b/%02d" % (directory, name), b"", False, FOR_EVER)
    tree.delete(b"/d", True, True)
    tree.clear(1)
    assert tree.walkers == 0
    walk = tree.look(b"/", True)
    assert isinstance(walk, Walk)
    assert tree.walkers == 0
    found = []
    for row in walk.rows():
        if isinstance(row, NodeView):
            found.append(row.key)
        tree.clear(1)
    assert found == [b"/k/%02d" % name for name in range(30)]
    assert not tree.clearing


def test_a_directory_that_was_listed_is_remembered_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "MOST_KEPT", 10)
    tree = Tree()
    tree.set(b"/d/a", b"x" * (trees.SMALL_BYTES + 1), False, FOR_EVER)
    walk = tree.look(b"/d")
    assert isinstance(walk, Walk)
    going = walk.rows()
    assert isinstance(next(going), Opened)
    assert next(going) is None
    first = next(going)
    assert isinstance(first, NodeView)
    for number in range(100):
        tree.set(b"/d/%d" % number, b"1", False, FOR_EVER)
    assert isinstance(next(going), Closed)


def test_the_memory_of_a_walk_is_charged_and_given_back() -> None:
    tree, budget = full()
    tree.set(b"/e", LARGE, False, FOR_EVER)
    walk, going = begun(tree)
    assert budget.used == walks.ROW_BYTES * 2_000, "who comes next sees it"
    assert next(going) is None
    rows = walks.ROW_BYTES * 2_000
    assert budget.used == rows
    tree.set(b"/d/001500", LARGE, False, FOR_EVER)
    first = budget.used - rows
    assert walks.KEPT_BYTES < first < walks.KEPT_BYTES + 100, "what was there, not what came"
    tree.set(b"/d/001500", b"w", False, FOR_EVER)
    assert budget.used == rows + first, "once for each node"
    tree.set(b"/e", b"", False, FOR_EVER)
    tree.delete(b"/d/000001", False, False)
    tree.set(b"/d/new", b"", False, FOR_EVER)
    assert budget.used < rows + 4 * first, "what is not listed costs nothing"
    for _ in range(3):
        next(going)
    before = budget.used
    tree.set(b"/d/001500", b"", False, FOR_EVER)
    tree.set(b"/d/newer", b"", False, FOR_EVER)
    assert budget.used == before
    tree.set(b"/d/001501", b"", False, FOR_EVER)
    assert budget.used == before + first, "it is among the rows that are still to be given"
    assert len([row for row in going if isinstance(row, NodeView)]) > 1_990
    assert budget.used == walk.account.held == walks.PASSED_BYTES
    del walk, going
    assert budget.used == 0


def test_names_of_a_large_directory_are_taken_in_pieces() -> None:
    """Whatever comes and goes between two of them."""
    count = walks.TAKEN_AT_ONCE + 10_000
    tree = Tree()
    for number in range(count):
        tree.set(b"/d/%06d" % number, b"", False, FOR_EVER)
    _, going = begun(tree)
    assert next(going) is None
    for number in range(0, count, 100):
        tree.delete(b"/d/%06d" % number, False, False)
        tree.set(b"/d/%06d" % number, b"again", False, FOR_EVER)
        tree.set(b"/d/%06d new" % number, b"", False, FOR_EVER)
    for number in range(1, count, 100):
        tree.delete(b"/d/%06d" % number, False, False)
    pieces = 1
    names: list[bytes] = []
    for row in going:
        pieces += row is None
        if isinstance(row, NodeView):
            names.append(row.key)
            assert row.value == b""
    assert names == [b"/d/%06d" % number for number in range(count)]
    assert pieces > count // walks.SORTED_AT_ONCE, "and one more for each so many names"
