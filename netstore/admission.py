"""Fair admission to something bounded, such as watches, jobs or bytes: no client may take all of it.

For what has a bound for the whole member and is held for as long as a client likes: without shares the first
client could leave nothing to others.

A principal is the common name of a certificate, or an address, as it is logged. Shares are given to
households of principals (`household`): every table by principal uses that as its key.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

PARTS: Final = 8
"""Once half of the places are taken, a household may hold at most this fraction (1 / `PARTS`) of all."""

_REMEMBERED: Final = 4_096
"""IPv6 principals whose household is cached; others are computed, 6 us each."""


def household(principal: str) -> str:
    """The unit of fairness that a principal belongs to. One host may use every address of an IPv6 network of
    64 bits (RFC 4291, 2.5.4; RFC 8981), so all of them count as one. Other addresses and names are each their
    own household. The household of a household is itself.
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
    """At most `most` places, or bytes. While less than half of them are taken, a request is granted if it
    fits; from then on only if its household holds no more than its share (1 / `PARTS`) with it. So one
    household leaves half to the others. All calls are O(1); households that hold nothing are forgotten.
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
        """Take a place, or so many bytes, to be given back with `leave`. False where there is none; then
        nothing is taken. While nothing is held, any size is granted.
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
        """How much one principal can take in small steps while nobody else holds anything."""
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
    """Places that each hold bytes: an `Admission` for the places and one for the bytes, in one step. `owner`
    is the household, which callers have already.
    """

    __slots__ = (
        "_half",
        "_half_size",
        "_held",
        "_share",
        "_size_share",
        "most",
        "most_size",
        "size",
        "taken",
    )

    def __init__(self, most: int, most_size: int) -> None:
        self.most = most
        self.most_size = most_size
        self.taken = 0
        """Places that are held now."""
        self.size = 0
        """Bytes that are held now."""
        self._half = most // 2
        self._half_size = most_size // 2
        self._share = max(1, most // PARTS)
        self._size_share = max(1, most_size // PARTS)
        self._held: dict[str, tuple[int, int]] = {}

    def enter(self, owner: str, size: int, places: int = 1) -> bool:
        """Take a place of so many bytes (at least one), to be given back with `leave`. False where there is
        none; then nothing is taken. While nothing is held, any size is granted. With `places` 0 only the
        bytes count.
        """
        held, held_size = self._held.get(owner, _NOTHING)
        taken, taken_size = self.taken + places, self.size + size
        # Up to half of both, which is the common case, everything is granted.
        if taken > self._half or taken_size > self._half_size:
            is_half = 2 * self.taken >= self.most
            if places and self.taken and (taken > self.most or (is_half and held + places > self._share)):
                return False
            is_half = 2 * self.size >= self.most_size
            is_over = taken_size > self.most_size or (is_half and held_size + size > self._size_share)
            if self.size and is_over:
                return False
        self._held[owner] = held + places, held_size + size
        self.taken, self.size = taken, taken_size
        return True

    def hold(self, owner: str, size: int, places: int = 1) -> None:
        """Take a place of so many bytes in any case."""
        held, held_size = self._held.get(owner, _NOTHING)
        self._held[owner] = held + places, held_size + size
        self.taken += places
        self.size += size

    def size_of(self, owner: str) -> int:
        """Bytes that this household holds."""
        return self._held.get(owner, _NOTHING)[1]

    def leave(self, owner: str, size: int, places: int = 1) -> None:
        """Give back what was taken. KeyError when the household holds nothing."""
        held, held_size = self._held[owner]
        self.taken -= places
        self.size -= size
        if held_size == size:
            del self._held[owner]
        else:
            self._held[owner] = held - places, held_size - size


_NOTHING: Final = (0, 0)
