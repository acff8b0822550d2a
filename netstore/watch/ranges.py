"""Which of many key ranges hold a key.

Single keys lie in a dictionary, ranges without an end in a list sorted by start (all that start at or before
a key hold it), the others in a tree: balanced (AVL), ordered by start, where each node knows how far the
ranges below it reach, so that a search leaves out what ends before the key.

Invariant: a node's height and reach are right for what is below it, whenever no call is under way.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from sortedcontainers import SortedDict  # type: ignore[import-untyped]  # it has no annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_THE_END: Final = b"\0"
"""The `range_end` that stands for "every key from there on" (v3 API, key/range_end)."""

_REMEMBERED: Final = 4_096
"""Answers kept until a range comes or goes: keys that change often are few."""

_REMEMBERED_BYTES: Final = 1_024
"""Longer keys are not remembered."""

_REMEMBERED_MEMBERS: Final = 100_000
"""Members in all of them: to let go of these takes 0.3 ms."""

FOUND_AT_ONCE: Final = 500
"""Ranges found in one piece, 0.5 ms, and no more of them in an answer that is kept."""

_Place: TypeAlias = tuple[int, bytes, bytes]
"""How far a search has come: which kind of ranges, and the last of them."""

_EXACT, _OPEN, _BOUNDED = range(3)
_FIRST: Final = (_EXACT, b"", b"")

_T = TypeVar("_T")


class _Node(Generic[_T]):
    """One range and the ranges below it in the tree."""

    __slots__ = ("end", "height", "left", "members", "reach", "right", "start")

    def __init__(self, start: bytes, end: bytes) -> None:
        self.start = start
        self.end = end
        self.members: dict[_T, None] = {}
        self.left: _Node[_T] | None = None
        self.right: _Node[_T] | None = None
        self.height = 1
        self.reach = end


class Ranges(Generic[_T]):
    """Members by the range they stand for (v3 API, key/range_end). A member is in one range once.

    `add` and `remove` are O(log n) in the number of different ranges, `find` O(log n + found), and O(1) for a
    key it was asked for since the last `add` or `remove`.
    """

    def __init__(self) -> None:
        # Dicts serve as ordered sets.
        self._exact: dict[bytes, dict[_T, None]] = {}
        self._open = SortedDict()
        self._root: _Node[_T] | None = None
        self._remembered: dict[bytes, tuple[_T, ...]] = {}
        self._remembered_members = 0

    def __bool__(self) -> bool:
        return bool(self._exact or self._open or self._root)

    def add(self, key: bytes, range_end: bytes, member: _T) -> None:
        """Put a member to a range; one that holds no key is a ValueError."""
        self._forget()
        if not range_end:
            self._exact.setdefault(key, {})[member] = None
        elif range_end == TO_THE_END:
            self._open.setdefault(key, {})[member] = None
        elif range_end <= key:
            raise ValueError(f"no key is in the range from {key!r} to {range_end!r}")
        else:
            self._root = _add(self._root, key, range_end, member)

    def remove(self, key: bytes, range_end: bytes, member: _T) -> None:
        """Take a member from its range; KeyError when it is not there."""
        self._forget()
        if not range_end or range_end == TO_THE_END:
            ranges = self._open if range_end else self._exact
            members = ranges[key]
            del members[member]
            if not members:
                del ranges[key]
        else:
            self._root = _remove(self._root, key, range_end, member)

    def find(self, key: bytes) -> tuple[_T, ...]:
        """The members of all ranges that hold the key."""
        return tuple(chain.from_iterable(self.pieces(key)))

    def pieces(self, key: bytes) -> Iterator[tuple[_T, ...]]:
        """The same, of `FOUND_AT_ONCE` ranges at a time. Between two pieces ranges may come and go: what is
        there from the first piece to the last is found once.
        """
        found = self._remembered.get(key)
        if found is not None:
            yield found
            return
        after: _Place | None = _FIRST
        is_all = True
        while after is not None:
            members, after = self._some(key, after)
            if after is None and is_all:
                self._remember(key, members)
            is_all = False
            yield members

    def _remember(self, key: bytes, found: tuple[_T, ...]) -> None:
        if len(key) > _REMEMBERED_BYTES:
            return
        if len(self._remembered) >= _REMEMBERED or self._remembered_members >= _REMEMBERED_MEMBERS:
            self._forget()
        self._remembered[key] = found
        self._remembered_members += len(found)

    def _forget(self) -> None:
        self._remembered.clear()
        self._remembered_members = 0

    def _some(self, key: bytes, after: _Place) -> tuple[tuple[_T, ...], _Place | None]:
        """The next ranges behind one, and the last of these; None when they are all."""
        kind, start, end = after
        found: list[_T] = []
        left = FOUND_AT_ONCE
        if kind == _EXACT:
            found += self._exact.get(key, ())
            kind, start = _OPEN, b""
        if kind == _OPEN:
            starts = list(islice(self._open.irange(start, key, (False, True)), left))
            for each in starts:
                found += self._open[each]
            left -= len(starts)
            if not left:
                return tuple(found), (_OPEN, starts[-1], b"")
            start = b""  # which is before every key
        for node in islice(_covering(self._root, key, (start, end)), left):
            found += node.members
            left -= 1
            if not left:
                return tuple(found), (_BOUNDED, node.start, node.end)
        return tuple(found), None


def _covering(root: _Node[_T] | None, key: bytes, after: tuple[bytes, bytes]) -> Iterator[_Node[_T]]:
    """The nodes whose ranges hold the key, in order, behind one range. For as long as the tree stays."""
    waiting: list[tuple[_Node[_T] | None, bool]] = [(root, False)]
    while waiting:
        node, is_next = waiting.pop()
        if node is None or node.reach <= key:
            continue
        if is_next:
            if node.start <= key < node.end:
                yield node
            continue
        if node.start <= key:
            waiting.append((node.right, False))
        if (node.start, node.end) > after:
            waiting += ((node, True), (node.left, False))


def _add(node: _Node[_T] | None, start: bytes, end: bytes, member: _T) -> _Node[_T]:
    if node is None:
        node = _Node(start, end)
        node.members[member] = None
        return node
    if (start, end) == (node.start, node.end):
        node.members[member] = None
        return node
    if (start, end) < (node.start, node.end):
        node.left = _add(node.left, start, end, member)
    else:
        node.right = _add(node.right, start, end, member)
    return _balanced(node)


def _remove(node: _Node[_T] | None, start: bytes, end: bytes, member: _T) -> _Node[_T] | None:
    if node is None:
        raise KeyError(member)
    if (start, end) < (node.start, node.end):
        node.left = _remove(node.left, start, end, member)
    elif (start, end) > (node.start, node.end):
        node.right = _remove(node.right, start, end, member)
    else:
        del node.members[member]
        if not node.members:
            return _without(node)
    return _balanced(node)


def _without(node: _Node[_T]) -> _Node[_T] | None:
    """What is below the node: its place is taken by the next in order."""
    if node.left is None or node.right is None:
        return node.left or node.right
    rest, first = _split_first(node.right)
    first.left, first.right = node.left, rest
    return _balanced(first)


def _split_first(node: _Node[_T]) -> tuple[_Node[_T] | None, _Node[_T]]:
    """A tree without its first node, and that."""
    if node.left is None:
        return node.right, node
    node.left, first = _split_first(node.left)
    return _balanced(node), first


def _balanced(node: _Node[_T]) -> _Node[_T]:
    """The same tree with both sides equally high, give or take one, after one side changed by one."""
    lean = _height(node.left) - _height(node.right)
    if lean > 1:
        left = node.left
        assert left is not None  # noqa: S101 - it is the higher side
        if _height(left.left) < _height(left.right):
            node.left = _turned_left(left)
        return _turned_right(node)
    if lean < -1:
        right = node.right
        assert right is not None  # noqa: S101 - it is the higher side
        if _height(right.right) < _height(right.left):
            node.right = _turned_right(right)
        return _turned_left(node)
    _measure(node)
    return node


def _turned_right(node: _Node[_T]) -> _Node[_T]:
    top = node.left
    assert top is not None  # noqa: S101 - only the lower node of a higher side is turned up
    node.left, top.right = top.right, node
    _measure(node)
    _measure(top)
    return top


def _turned_left(node: _Node[_T]) -> _Node[_T]:
    top = node.right
    assert top is not None  # noqa: S101 - only the lower node of a higher side is turned up
    node.right, top.left = top.left, node
    _measure(node)
    _measure(top)
    return top


def _height(node: _Node[_T] | None) -> int:
    return 0 if node is None else node.height


def _measure(node: _Node[_T]) -> None:
    node.height = 1 + max(_height(node.left), _height(node.right))
    reach = node.end
    for side in (node.left, node.right):
        if side is not None and side.reach > reach:
            reach = side.reach
    node.reach = reach
