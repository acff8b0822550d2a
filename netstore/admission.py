"""So many of a thing at once, and no principal takes them all.

For what is bounded for the whole member and held for as long as a client likes: without shares the first who
comes may leave nothing to anybody else.
"""

from __future__ import annotations

from typing import Final

PARTS: Final = 8
"""A principal may hold one in so many of the places once more than half are taken."""


class Admission:
    """At most `most` places. While half of them are free, whoever asks gets one; from then on only principals
    that hold less than their share, one in `PARTS`. So a single one leaves half to the others. All calls are
    O(1); a principal that holds nothing is forgotten.
    """

    __slots__ = ("_held", "most", "taken")

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        """Places that are held now."""
        self._held: dict[str, int] = {}

    def enter(self, principal: str) -> bool:
        """Take a place, to be given back with `leave`; False, and nothing is taken, where there is none."""
        held = self._held.get(principal, 0)
        if self.taken >= self.most or (2 * self.taken >= self.most and held >= max(1, self.most // PARTS)):
            return False
        self._held[principal] = held + 1
        self.taken += 1
        return True

    def leave(self, principal: str) -> None:
        """Give a place back. KeyError when the principal holds none."""
        held = self._held[principal] - 1
        self.taken -= 1
        if held:
            self._held[principal] = held
        else:
            del self._held[principal]
