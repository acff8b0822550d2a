"""So many of a thing at once, and no principal takes them all.

For what is bounded for the whole member and held for as long as a client likes: without shares the first who
comes may leave nothing to anybody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

PARTS: Final = 8
"""A principal may hold one in so many of the places once more than half are taken."""


class Admission:
    """At most `most` places, or bytes. While half of them are free, whoever asks gets what it asks for; from
    then on only principals that hold no more than their share, one in `PARTS`. So a single one leaves half to
    the others. All calls are O(1); a principal that holds nothing is forgotten.
    """

    __slots__ = ("_held", "_share", "most", "taken")

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        """What is held now."""
        self._share = max(1, most // PARTS)
        self._held: dict[Hashable, int] = {}

    def enter(self, principal: Hashable, size: int = 1) -> bool:
        """Take a place, or so many bytes, to be given back with `leave`; False, and nothing is taken, where
        there is none. While nothing is held, any size is let in.
        """
        held = self._held.get(principal, 0) + size
        taken = self.taken
        if taken and (taken + size > self.most or (2 * taken >= self.most and held > self._share)):
            return False
        self._held[principal] = held
        self.taken = taken + size
        return True

    def leave(self, principal: Hashable, size: int = 1) -> None:
        """Give back what was taken. KeyError when the principal holds nothing."""
        held = self._held[principal] - size
        self.taken -= size
        if held:
            self._held[principal] = held
        else:
            del self._held[principal]


class WeighedAdmission:
    """Places that each hold bytes: both are shared out as by an `Admission` of each, in one step."""

    __slots__ = ("_held", "_share", "_size_share", "most", "most_size", "size", "taken")

    def __init__(self, most: int, most_size: int) -> None:
        self.most = most
        self.most_size = most_size
        self.taken = 0
        """Places that are held now."""
        self.size = 0
        """Bytes that are held now."""
        self._share = max(1, most // PARTS)
        self._size_share = max(1, most_size // PARTS)
        self._held: dict[Hashable, tuple[int, int]] = {}

    def enter(self, principal: Hashable, size: int, places: int = 1) -> bool:
        """Take a place of so many bytes (at least one), to be given back with `leave`; False, and nothing is
        taken, where there are none. While nothing is held, any size is let in. Without `places` only the
        bytes count.
        """
        held, held_size = self._held.get(principal, _NOTHING)
        held += places
        held_size += size
        taken, taken_size = self.taken + places, self.size + size
        # Below half of both, which is nearly always, nobody is refused.
        if 2 * taken > self.most or 2 * taken_size > self.most_size:
            is_half = 2 * self.taken >= self.most
            if places and self.taken and (taken > self.most or (is_half and held > self._share)):
                return False
            is_half = 2 * self.size >= self.most_size
            if self.size and (taken_size > self.most_size or (is_half and held_size > self._size_share)):
                return False
        self._held[principal] = held, held_size
        self.taken, self.size = taken, taken_size
        return True

    def leave(self, principal: Hashable, size: int, places: int = 1) -> None:
        """Give back what was taken. KeyError when the principal holds nothing."""
        held, held_size = self._held[principal]
        self.taken -= places
        self.size -= size
        if held_size == size:
            del self._held[principal]
        else:
            self._held[principal] = held - places, held_size - size


_NOTHING: Final = (0, 0)
