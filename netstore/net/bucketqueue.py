"""An approximate priority queue: holders of memory ordered by how many bytes they hold, in buckets of an
eighth. The largest holder is known at any time, at O(1) for each change.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_H = TypeVar("_H")


class BucketQueue(Generic[_H]):
    """Holders by bytes held. `put` and `heaviest` are O(1)."""

    def __init__(self) -> None:
        self._bucket_of: dict[_H, int] = {}
        self._buckets: dict[int, OrderedDict[_H, None]] = {}
        """Bucket -> its holders. The first one of an OrderedDict is found in O(1), however many were
        removed before it; of a plain dict it is not.
        """
        self._occupied = 0
        """A bit for each bucket that is not empty."""

    def __len__(self) -> int:
        """How many hold anything."""
        return len(self._bucket_of)

    def __contains__(self, holder: _H) -> bool:
        """It holds anything."""
        return holder in self._bucket_of

    @property
    def heaviest(self) -> _H | None:
        """One of the highest bucket; None if nobody holds anything."""
        return next(iter(self._buckets[self._occupied.bit_length() - 1])) if self._occupied else None

    def put(self, holder: _H, size: int) -> bool:
        """Set how many bytes a holder has. Whether its bucket changed."""
        length = size.bit_length()
        bucket = 8 * length + (size << 4 >> length) if size > 0 else 0
        before = self._bucket_of.get(holder, 0)
        if bucket == before:
            return False
        if before:
            members = self._buckets[before]
            del members[holder]
            if not members:
                del self._buckets[before]
                self._occupied &= ~(1 << before)
        if bucket:
            self._bucket_of[holder] = bucket
            if bucket not in self._buckets:
                self._buckets[bucket] = OrderedDict()
            self._buckets[bucket][holder] = None
            self._occupied |= 1 << bucket
        else:
            del self._bucket_of[holder]
        return True

    def in_order(self) -> Iterator[_H]:
        """All holders, the largest first. `put` must not be called meanwhile."""
        occupied = self._occupied
        while occupied:
            bucket = occupied.bit_length() - 1
            occupied ^= 1 << bucket
            yield from self._buckets[bucket]
