"""The nodes of the v2 tree that have a TTL: when it begins anew, and what is told of its end."""

from __future__ import annotations

from netstore.parted import Parted
from netstore.state.countdown import Countdown, KeyQueue
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import Life, Timed, TimedNodes
from netstore.types import EtcdIndex, Event, Nanos
from tests.state.v2.lives import life, never, whole
from tests.support.tree import file_at


def test_a_refresh_begins_the_ttl_anew_and_an_end_that_counts_from_before_is_void() -> None:
    tree = Tree()
    tree.set(b"/lease", b"1", False, life(5))
    tree.checkpoint_ttl(b"/lease", 1, 3)
    assert tree.timed.get(b"/lease") == Timed(5, EtcdIndex(1), 3)
    tree.update(b"/lease", b"", life(7), refresh=True)
    assert tree.expire(b"/lease", 1) is None
    tree.checkpoint_ttl(b"/lease", 1, 1)
    assert tree.timed.get(b"/lease") == Timed(7, EtcdIndex(2))
    event = tree.expire(b"/lease", 2)
    assert event is not None
    assert (event.action, event.index) == ("expire", 3)
    assert not tree.timed
    assert tree.expire(b"/lease", 2) is None


def test_a_directory_that_gets_a_ttl_counts_from_that_though_its_index_stays() -> None:
    tree = Tree()
    tree.set(b"/d", b"", True, never())
    tree.update(b"/d", b"", life(5))
    tree.update(b"/d", b"", life(9))
    assert tree.expire(b"/d", 2) is None
    event = tree.expire(b"/d", 3)
    assert event is not None
    assert event.node.dir


def test_the_time_of_a_directory_begins_anew_without_a_change_of_it() -> None:
    tree = Tree()
    tree.set(b"/d", b"", True, life(5))
    tree.set(b"/a", b"1", False, life(5))
    for number in (1, 2):
        event = tree.update(b"/d", b"", Life(Nanos(number), 9))
        assert isinstance(event, Event)
        found = tree.get(b"/d")
        assert isinstance(found, Event)
        assert found.node.modified == 1
        assert tree.begun(found.node) == event.index == 2 + number
    file = file_at(tree, b"/a")
    assert file is not None
    assert tree.begun(file) == 2


def test_a_node_that_is_also_in_the_new_state_is_not_reported_as_removed() -> None:
    """Its time, which begins with that state, would not be counted."""
    nodes = TimedNodes()
    clock: Countdown[bytes] = Countdown(nodes)
    for path in (b"/kept", b"/gone"):
        nodes.put(path, Timed(5, EtcdIndex(1)))
    clock.count(0.0)
    renewed: KeyQueue[bytes] = KeyQueue()
    renewed.add(b"/kept")
    for _ in nodes.restore(Parted({b"/kept": Timed(5, EtcdIndex(9))}), renewed):
        pass
    assert not clock.count(100.0)
    assert len(clock) == 1
    assert clock.due(104.9) == []
    assert clock.due(105.0) == [(b"/kept", 9)]
    assert nodes.ttl_changes.take_removed(9) == []


def test_a_node_without_a_ttl_any_more_never_expires() -> None:
    tree = Tree()
    tree.set(b"/a", b"1", False, life(5))
    tree.set(b"/a", b"1", False, never())
    tree.set(b"/b/c", b"1", False, life(5))
    whole(tree, tree.delete(b"/b", False, True))
    assert not tree.timed
    assert list(tree.timed.ttl_changes.take_renewed(1_000)) == []
    assert set(tree.timed.ttl_changes.take_removed(1_000)) == {b"/a", b"/b/c"}
    assert tree.expire(b"/a", 1) is None
