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
