"""Many who hold bytes, in the order of how many they hold, an eighth more or less: who holds most is known at
once, whatever changes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_H = TypeVar("_H")


class BucketQueue(Generic[_H]):
    """Holders by what they hold. `put` and `heaviest` are O(1)."""

    def __init__(self) -> None:
        self._ranks: dict[_H, int] = {}
        self._lines: dict[int, OrderedDict[_H, None]] = {}
        """Who is first in one is found in O(1), however many went before; in a plain dictionary it is not."""
        self._taken = 0
        """A bit for each rank that somebody has."""

    def __len__(self) -> int:
        """How many hold anything."""
        return len(self._ranks)

    def __contains__(self, holder: _H) -> bool:
        """It holds anything."""
        return holder in self._ranks

    @property
    def heaviest(self) -> _H | None:
        """One of the highest rank; None where nobody holds anything."""
        return next(iter(self._lines[self._taken.bit_length() - 1])) if self._taken else None

    def put(self, holder: _H, size: int) -> bool:
        """It holds so many bytes now. Whether that is another rank than before."""
        length = size.bit_length()
        rank = 8 * length + (size << 4 >> length) if size > 0 else 0
        before = self._ranks.get(holder, 0)
        if rank == before:
            return False
        if before:
            line = self._lines[before]
            del line[holder]
            if not line:
                del self._lines[before]
                self._taken &= ~(1 << before)
        if rank:
            self._ranks[holder] = rank
            if rank not in self._lines:
                self._lines[rank] = OrderedDict()
            self._lines[rank][holder] = None
            self._taken |= 1 << rank
        else:
            del self._ranks[holder]
        return True

    def in_order(self) -> Iterator[_H]:
        """All of them, the heaviest first. Nobody may be `put` meanwhile."""
        taken = self._taken
        while taken:
            rank = taken.bit_length() - 1
            taken ^= 1 << rank
            yield from self._lines[rank]
