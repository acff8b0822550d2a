"""So many of a thing at once, and no principal takes them all.

For what is bounded for the whole member and held for as long as a client likes: without shares the first who
comes may leave nothing to anybody else.

A principal is the common name of a certificate, or an address, as it is noted for the record. Everything that
is shared out by principals is shared out by their households: who keeps a table by principal asks `household`
for its key.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

PARTS: Final = 8
"""A principal may hold one in so many of the places once more than half are taken."""

_REMEMBERED: Final = 4_096
"""IPv6 principals whose household is remembered; others are worked out anew, 6 us each."""


def household(principal: str) -> str:
    """Whom a principal counts with: every address of an IPv6 network of 64 bits is one host's to take (RFC
    4291, 2.5.4; RFC 8981), so all of them count as one. Other addresses and names are each their own. A
    household counts with itself.
    """
    return principal if ":" not in principal else _network(principal)


@lru_cache(_REMEMBERED)
def _network(principal: str) -> str:
    try:
        address = IPv6Address(principal.partition("%")[0])
    except ValueError:
        return principal
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else f"{IPv6Address(int(address) >> 64 << 64)}/64"


class Admission:
    """At most `most` places, or bytes. While half of them are free, whoever asks gets what it asks for; from
    then on only principals that hold no more than their share, one in `PARTS`. So a single one leaves half to
    the others. Principals of one household have one share. All calls are O(1); who holds nothing is
    forgotten.
    """

    __slots__ = ("_held", "_share", "most", "taken")

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        """What is held now."""
        self._share = max(1, most // PARTS)
        self._held: dict[str, int] = {}
        """By household."""

    def enter(self, principal: str, size: int = 1) -> bool:
        """Take a place, or so many bytes, to be given back with `leave`; False, and nothing is taken, where
        there is none. While nothing is held, any size is let in.
        """
        owner = household(principal)
        held = self._held.get(owner, 0) + size
        taken = self.taken
        if taken and (taken + size > self.most or (2 * taken >= self.most and held > self._share)):
            return False
        self._held[owner] = held
        self.taken = taken + size
        return True

    @property
    def most_of_one(self) -> int:
        """How much a principal can hold, taken little by little, while nobody else holds anything."""
        return -(-self.most // 2)

    def leave(self, principal: str, size: int = 1) -> None:
        """Give back what was taken. KeyError when the principal holds nothing."""
        owner = household(principal)
        held = self._held[owner] - size
        self.taken -= size
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]


class WeighedAdmission:
    """Places that each hold bytes: both are shared out as by an `Admission` of each, in one step. Who enters
    is named by the household, which its caller needs too.
    """

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
        self._held: dict[str, tuple[int, int]] = {}

    def enter(self, owner: str, size: int, places: int = 1) -> bool:
        """Take a place of so many bytes (at least one), to be given back with `leave`; False, and nothing is
        taken, where there are none. While nothing is held, any size is let in. Without `places` only the
        bytes count.
        """
        held, held_size = self._held.get(owner, _NOTHING)
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
        self._held[owner] = held, held_size
        self.taken, self.size = taken, taken_size
        return True

    def size_of(self, owner: str) -> int:
        """Bytes that this household holds."""
        return self._held.get(owner, _NOTHING)[1]

    def leave(self, owner: str, size: int, places: int = 1) -> None:
        """Give back what was taken. KeyError when the principal holds nothing."""
        held, held_size = self._held[owner]
        self.taken -= places
        self.size -= size
        if held_size == size:
            del self._held[owner]
        else:
            self._held[owner] = held - places, held_size - size


_NOTHING: Final = (0, 0)
