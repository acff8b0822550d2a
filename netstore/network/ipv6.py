"""IPv6 addresses and subnets as integers, the twins of those in `addresses`. Pure.

An address is an int below 2**128. A `Subnet6` has no host bits: make one from untrusted numbers with
`Subnet6.exact`, which refuses host bits, or `Subnet6.around`, which drops them.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

_ALL = (1 << 128) - 1


def parse_ip6(text: str) -> int:
    """The address in any of its textual forms (RFC 4291, 2.2). ValueError for anything else, and for one with
    a zone.
    """
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ValueError(f"{text[:64]!r} is not an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError(f"{text[:64]!r} has a zone, which has no meaning on other nodes")
    return int(address)


def show_ip6(ip: int) -> str:
    """The address in its canonical form (RFC 5952), which flannel writes as well."""
    return str(IPv6Address(ip))


def parse_host_ip6(text: str) -> int:
    """The address, if a host can have it. ValueError for anything else."""
    ip = parse_ip6(text)
    if not is_unicast6(ip):
        raise ValueError(f"{text} is not an address of a host")
    return ip


def is_unicast6(ip: int) -> bool:
    """Whether a host can have the address: not unspecified, loopback, IPv4-mapped or multicast."""
    return ip >> 120 not in (0, 0xFF)


def is_link_local6(ip: int) -> bool:
    """Whether the address is in fe80::/10 (RFC 4291, 2.5.6)."""
    return ip >> 118 == 0xFE80 >> 6


def _mask(length: int) -> int:
    return _ALL << (128 - length) & _ALL


class Subnet6(NamedTuple):
    """The addresses that share the first `length` bits of `base`; its other bits are zero."""

    base: int
    length: int

    @classmethod
    def around(cls, ip: int, length: int) -> Subnet6:
        """The subnet of that length that contains the address."""
        return cls(ip & _mask(length), length)

    @classmethod
    def exact(cls, base: int, length: int) -> Subnet6:
        """The subnet of that length that starts at the address. ValueError if the address has host bits."""
        subnet = cls.around(base, length)
        if subnet.base != base:
            raise ValueError(f"the address has host bits; the subnet is {subnet}")
        return subnet

    @property
    def bits(self) -> int:
        """Bits of an address."""
        return 128

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (128 - self.length)

    @property
    def last(self) -> int:
        """Its highest address."""
        return self.base | (self.size - 1)

    def __str__(self) -> str:
        return f"{show_ip6(self.base)}/{self.length}"

    def holds(self, ip: int) -> bool:
        """Whether it contains the address."""
        return ip & _mask(self.length) == self.base

    def covers(self, other: Subnet6) -> bool:
        """Whether it contains every address of the other."""
        return self.length <= other.length and other.base & _mask(self.length) == self.base

    def overlaps(self, other: Subnet6) -> bool:
        """Whether the two share an address; then one of them covers the other."""
        return self.covers(other) or other.covers(self)


def parse_cidr6(text: str) -> tuple[int, int]:
    """Address (with its host bits) and prefix length of `ADDRESS/LEN`. ValueError for anything else."""
    address, slash, digits = text.partition("/")
    if not slash or not (digits.isascii() and digits.isdigit()) or len(digits) > 3 or int(digits) > 128:
        raise ValueError(f"{text[:64]!r} is not an IPv6 network such as fd00:10::/48")
    return parse_ip6(address), int(digits)


RESERVED6: Final = tuple(
    (Subnet6(parse_ip6(base), length), what)
    for base, length, what in (
        ("::", 8, "unspecified, loopback or IPv4-mapped addresses (RFC 4291, 2.5)"),
        ("100::", 64, "discard-only addresses (RFC 6666)"),
        ("fe80::", 10, "link-local addresses (RFC 4291, 2.5.6)"),
        ("ff00::", 8, "multicast addresses (RFC 4291, 2.7)"),
    )
)
"""Ranges that no pod network may overlap, with a description. 2001:db8::/32 is not one: nobody routes it, and
test networks use it.
"""


def reserved6(subnet: Subnet6) -> str | None:
    """The description of the first reserved range that the subnet overlaps, or None."""
    return next((what for each, what in RESERVED6 if each.overlaps(subnet)), None)
