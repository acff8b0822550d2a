"""All walks of a tree: how many there may be, and what they may hold together."""

from __future__ import annotations

import pytest

from netstore.errors import Fault, Reason
from netstore.limits import Budget
from netstore.state.v2 import tree as trees
from netstore.state.v2 import walk as walks
from netstore.state.v2.loading import Stored
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import FOR_EVER
from netstore.state.v2.walk import Walk, WalkLost
from netstore.types import NodeView
from tests.state.v2.walking import LARGE, begun, full


def test_a_walk_nobody_holds_any_more_costs_nothing() -> None:
    tree = Tree()
    tree.set(b"/d/a", b"x" * (trees.SMALL_BYTES + 1), False, FOR_EVER)
    for _ in range(3 * walks.MOST_WALKS):
        assert isinstance(tree.look(b"/d"), Walk)
    held = [tree.look(b"/d") for _ in range(walks.MOST_WALKS)]
    assert all(isinstance(each, Walk) for each in held)
    refused = tree.look(b"/d")
    assert isinstance(refused, Fault)
    assert refused.cause == b"etcdserver: too many requests"
    del held
    assert isinstance(tree.look(b"/d"), Walk)


def test_a_state_that_is_replaced_loses_its_walks() -> None:
    tree = Tree()
    tree.set(b"/d/a", b"x" * (trees.SMALL_BYTES + 1), False, FOR_EVER)
    walk = tree.look(b"/d")
    assert isinstance(walk, Walk)
    tree.restore(tree.index, Stored())
    with pytest.raises(WalkLost, match="replaced the state") as lost:
        list(walk.rows())
    assert not lost.value.limit


def test_the_walk_that_holds_most_is_lost_and_the_others_go_on() -> None:
    tree, budget = full()
    for number in range(1_200):
        tree.set(b"/e/%06d" % number, b"v", False, FOR_EVER)
    tree.set(b"/f/a", LARGE, False, FOR_EVER)
    _, going = begun(tree)
    while next(going) is None:
        pass
    small, small_going = begun(tree, b"/f")
    next(small_going)
    budget.limit = budget.used + 1_000 * walks.ROW_BYTES
    _, other_going = begun(tree, b"/e")
    assert len([row for row in other_going if isinstance(row, NodeView)]) == 1_200
    with pytest.raises(WalkLost):
        next(going)
    assert not small.lost
    assert isinstance(next(small_going), NodeView)
    assert budget.used == walks.ROW_BYTES + walks.PASSED_BYTES


def test_at_the_bound_the_walk_that_holds_most_is_refused() -> None:
    tree, budget = full()
    tree.set(b"/f/a", LARGE, False, FOR_EVER)
    small, small_going = begun(tree, b"/f")
    next(small_going)
    budget.limit = 2_000 * walks.ROW_BYTES
    refused = tree.look(b"/d")
    assert isinstance(refused, Fault)
    assert refused.cause == Reason.TOO_MANY.cause
    assert not small.lost
    assert budget.used == walks.ROW_BYTES


def test_a_list_as_large_as_those_under_way_is_refused_and_they_go_on() -> None:
    tree, budget = full()
    budget.limit = 3_000 * walks.ROW_BYTES
    _, going = begun(tree)
    assert isinstance(tree.look(b"/d"), Fault)
    assert len([row for row in going if isinstance(row, NodeView)]) == 2_000


def test_the_last_walk_may_hold_twice_as_much_and_no_more() -> None:
    tree, budget = full()
    budget.limit = 1_800 * walks.ROW_BYTES
    walk, going = begun(tree)
    next(going)
    assert budget.over
    changed = 0
    while not walk.lost:
        assert budget.used <= walks.ALONE * budget.limit
        tree.set(b"/d/%06d" % changed, b"w", False, FOR_EVER)
        changed += 1
    assert changed * walks.KEPT_BYTES < walks.ALONE * budget.limit
    assert budget.used == 0
    with pytest.raises(WalkLost, match="hold more than they may") as lost:
        list(going)
    assert lost.value.limit == "memory_budget"


def test_memory_held_by_other_parts_ends_no_walk() -> None:
    """A walk would give back next to nothing of it."""
    whole = Budget(1 << 20)
    tree = Tree(whole.share(1 << 17))
    for number in range(4_000):
        tree.set(b"/%s/%06d" % (b"d" if number % 2 else b"e", number), b"v", False, FOR_EVER)
    tree.set(b"/f/a", LARGE, False, FOR_EVER)
    one, going = begun(tree)
    whole.share(1 << 19).account().charge(1 << 20)
    assert whole.over
    other, other_going = begun(tree, b"/e")
    for number in range(1, 4_000, 40):
        tree.set(b"/d/%06d" % number, b"w", False, FOR_EVER)
    assert not one.lost
    assert not other.lost
    for rows in (going, other_going):
        assert len([row for row in rows if isinstance(row, NodeView)]) == 2_000
