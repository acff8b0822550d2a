"""Which of many key ranges contain a key.

Single keys are in a dictionary, ranges with an open end in a list sorted by start (a key is in all of them
that start at or before it), the others in an interval tree: an AVL tree ordered by start, in which each node
has the largest end in its subtree, so that a search skips subtrees that end before the key.

Invariant: between two calls, height and largest end of each node are right for its subtree.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from sortedcontainers import SortedDict  # type: ignore[import-untyped]  # it has no annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_THE_END: Final = b"\0"
"""The `range_end` of a range with an open end: every key from its start on (v3 API, key/range_end)."""

_CACHE_KEYS: Final = 4_096
"""Results cached until a range is added or removed: few keys change often."""

_CACHE_KEY_BYTES: Final = 1_024
"""The results of longer keys are not cached."""

_CACHE_MEMBERS: Final = 100_000
"""Members in all cached results together: freeing them takes 0.3 ms."""

PIECE_RANGES: Final = 500
"""Ranges found in one piece, which takes 0.5 ms; a result of more than one piece is not cached."""

_Position: TypeAlias = tuple[int, bytes, bytes]
"""How far a search has come: the kind of ranges, start and end of the last one found."""

_EXACT, _OPEN, _BOUNDED = range(3)
_FIRST: Final = (_EXACT, b"", b"")

_T = TypeVar("_T")


class _Node(Generic[_T]):
    """One range, with the subtree below it."""

    __slots__ = ("end", "height", "left", "max_end", "members", "right", "start")

    def __init__(self, start: bytes, end: bytes) -> None:
        self.start = start
        self.end = end
        self.members: dict[_T, None] = {}
        self.left: _Node[_T] | None = None
        self.right: _Node[_T] | None = None
        self.height = 1
        self.max_end = end


class IntervalIndex(Generic[_T]):
    """Members, each registered for one or more key ranges (v3 API, key/range_end), for a range at most once.

    `add` and `remove` are O(log n) in the number of different ranges, `find` O(log n + found), and O(1) for a
    key that was looked up since the last `add` or `remove`.
    """

    def __init__(self) -> None:
        # Dicts are used as ordered sets.
        self._exact: dict[bytes, dict[_T, None]] = {}
        self._open = SortedDict()
        self._root: _Node[_T] | None = None
        self._cache: dict[bytes, tuple[_T, ...]] = {}
        self._cached_members = 0

    def __bool__(self) -> bool:
        return bool(self._exact or self._open or self._root)

    def add(self, key: bytes, range_end: bytes, member: _T) -> None:
        """Register a member for a range; ValueError if the range is empty."""
        self._clear_cache()
        if not range_end:
            self._exact.setdefault(key, {})[member] = None
        elif range_end == TO_THE_END:
            self._open.setdefault(key, {})[member] = None
        elif range_end <= key:
            raise ValueError(f"no key is in the range from {key!r} to {range_end!r}")
        else:
            self._root = _insert(self._root, key, range_end, member)

    def remove(self, key: bytes, range_end: bytes, member: _T) -> None:
        """Remove a member from a range; KeyError if it is not registered for it."""
        self._clear_cache()
        if not range_end or range_end == TO_THE_END:
            ranges = self._open if range_end else self._exact
            members = ranges[key]
            del members[member]
            if not members:
                del ranges[key]
        else:
            self._root = _delete(self._root, key, range_end, member)

    def find(self, key: bytes) -> tuple[_T, ...]:
        """The members of all ranges that contain the key."""
        return tuple(chain.from_iterable(self.pieces(key)))

    def pieces(self, key: bytes) -> Iterator[tuple[_T, ...]]:
        """What `find` gives, in pieces of at most `PIECE_RANGES` ranges. Ranges may be added and removed
        between two pieces: what is registered from the first piece to the last is found exactly once.
        """
        found = self._cache.get(key)
        if found is not None:
            yield found
            return
        after: _Position | None = _FIRST
        is_first = True
        while after is not None:
            members, after = self._next_piece(key, after)
            if after is None and is_first:
                self._store(key, members)
            is_first = False
            yield members

    def _store(self, key: bytes, found: tuple[_T, ...]) -> None:
        if len(key) > _CACHE_KEY_BYTES:
            return
        if len(self._cache) >= _CACHE_KEYS or self._cached_members >= _CACHE_MEMBERS:
            self._clear_cache()
        self._cache[key] = found
        self._cached_members += len(found)

    def _clear_cache(self) -> None:
        self._cache.clear()
        self._cached_members = 0

    def _next_piece(self, key: bytes, after: _Position) -> tuple[tuple[_T, ...], _Position | None]:
        """The members of the next ranges after a position, and the position reached; None if there are no
        more."""
        kind, start, end = after
        found: list[_T] = []
        left = PIECE_RANGES
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
            start = b""  # sorts before every key
        for node in islice(_covering(self._root, key, (start, end)), left):
            found += node.members
            left -= 1
            if not left:
                return tuple(found), (_BOUNDED, node.start, node.end)
        return tuple(found), None


def _covering(root: _Node[_T] | None, key: bytes, after: tuple[bytes, bytes]) -> Iterator[_Node[_T]]:
    """The nodes whose ranges contain the key, in order, after the range `after`. The tree must not change
    meanwhile."""
    stack: list[tuple[_Node[_T] | None, bool]] = [(root, False)]
    while stack:
        node, is_due = stack.pop()
        if node is None or node.max_end <= key:
            continue
        if is_due:
            if node.start <= key < node.end:
                yield node
            continue
        if node.start <= key:
            stack.append((node.right, False))
        if (node.start, node.end) > after:
            stack += ((node, True), (node.left, False))


def _insert(node: _Node[_T] | None, start: bytes, end: bytes, member: _T) -> _Node[_T]:
    if node is None:
        node = _Node(start, end)
        node.members[member] = None
        return node
    if (start, end) == (node.start, node.end):
        node.members[member] = None
        return node
    if (start, end) < (node.start, node.end):
        node.left = _insert(node.left, start, end, member)
    else:
        node.right = _insert(node.right, start, end, member)
    return _balanced(node)


def _delete(node: _Node[_T] | None, start: bytes, end: bytes, member: _T) -> _Node[_T] | None:
    if node is None:
        raise KeyError(member)
    if (start, end) < (node.start, node.end):
        node.left = _delete(node.left, start, end, member)
    elif (start, end) > (node.start, node.end):
        node.right = _delete(node.right, start, end, member)
    else:
        del node.members[member]
        if not node.members:
            return _unlinked(node)
    return _balanced(node)


def _unlinked(node: _Node[_T]) -> _Node[_T] | None:
    """The subtree of the node without the node, whose place the next one in order takes."""
    if node.left is None or node.right is None:
        return node.left or node.right
    rest, first = _pop_first(node.right)
    first.left, first.right = node.left, rest
    return _balanced(first)


def _pop_first(node: _Node[_T]) -> tuple[_Node[_T] | None, _Node[_T]]:
    """The subtree without its first node, and that node."""
    if node.left is None:
        return node.right, node
    node.left, first = _pop_first(node.left)
    return _balanced(node), first


def _balanced(node: _Node[_T]) -> _Node[_T]:
    """Restore the AVL balance after the height of one side changed by one; the new top of the subtree."""
    lean = _height(node.left) - _height(node.right)
    if lean > 1:
        left = node.left
        assert left is not None  # noqa: S101 - it is the higher side
        if _height(left.left) < _height(left.right):
            node.left = _rotated_left(left)
        return _rotated_right(node)
    if lean < -1:
        right = node.right
        assert right is not None  # noqa: S101 - it is the higher side
        if _height(right.right) < _height(right.left):
            node.right = _rotated_right(right)
        return _rotated_left(node)
    _update(node)
    return node


def _rotated_right(node: _Node[_T]) -> _Node[_T]:
    top = node.left
    assert top is not None  # noqa: S101 - the side that rises is the higher one
    node.left, top.right = top.right, node
    _update(node)
    _update(top)
    return top


def _rotated_left(node: _Node[_T]) -> _Node[_T]:
    top = node.right
    assert top is not None  # noqa: S101 - the side that rises is the higher one
    node.right, top.left = top.left, node
    _update(node)
    _update(top)
    return top


def _height(node: _Node[_T] | None) -> int:
    return 0 if node is None else node.height


def _update(node: _Node[_T]) -> None:
    node.height = 1 + max(_height(node.left), _height(node.right))
    max_end = node.end
    for side in (node.left, node.right):
        if side is not None and side.max_end > max_end:
            max_end = side.max_end
    node.max_end = max_end
