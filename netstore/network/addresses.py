"""IPv4 addresses and subnets as integers, which is cheap enough for thousands of leases. Pure.

An address is an int below 2**32. A `Subnet` has no host bits: make one from untrusted numbers with
`Subnet.exact`, which refuses host bits, or `Subnet.around`, which drops them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_MASKS = tuple((0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF for length in range(33))
_OCTETS = {str(number): number for number in range(256)}


def parse_ip(text: str) -> int:
    """The address of a dotted quad. ValueError for anything else, including leading zeros and blanks."""
    octets = text.split(".")
    if len(octets) != 4:
        raise ValueError(f"{text!r} is not an IPv4 address")
    try:
        a, b, c, d = [_OCTETS[octet] for octet in octets]
    except KeyError:
        raise ValueError(f"{text!r} is not an IPv4 address") from None
    return a << 24 | b << 16 | c << 8 | d


def parse_host_ip(text: str) -> int:
    """The address of a dotted quad, if a host can have it. ValueError for anything else."""
    ip = parse_ip(text)
    if not is_unicast(ip):
        raise ValueError(f"{text} is not an address of a host")
    return ip


def show_ip(ip: int) -> str:
    """The dotted quad of an address."""
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}"


def is_unicast(ip: int) -> bool:
    """Whether a host can have the address: not in 0.0.0.0/8, loopback, multicast or reserved."""
    return ip >> 24 not in (0, 127) and ip >> 28 < 14


def is_link_local(ip: int) -> bool:
    """Whether the address is in 169.254.0.0/16 (RFC 3927)."""
    return ip >> 16 == 0xA9FE


class Subnet(NamedTuple):
    """The addresses that share the first `length` bits of `base`; its other bits are zero."""

    base: int
    length: int

    @classmethod
    def around(cls, ip: int, length: int) -> Subnet:
        """The subnet of that length that contains the address."""
        return cls(ip & _MASKS[length], length)

    @classmethod
    def exact(cls, base: int, length: int) -> Subnet:
        """The subnet of that length that starts at the address. ValueError if the address has host bits."""
        subnet = cls.around(base, length)
        if subnet.base != base:
            raise ValueError(f"the address has host bits; the subnet is {subnet}")
        return subnet

    @property
    def bits(self) -> int:
        """Bits of an address."""
        return 32

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (32 - self.length)

    @property
    def last(self) -> int:
        """Its highest address."""
        return self.base | (self.size - 1)

    @property
    def lease_name(self) -> str:
        """The last part of its lease's key in the store: `A.B.C.D-LEN` (flannel)."""
        return f"{show_ip(self.base)}-{self.length}"

    def __str__(self) -> str:
        return f"{show_ip(self.base)}/{self.length}"

    def holds(self, ip: int) -> bool:
        """Whether it contains the address."""
        return ip & _MASKS[self.length] == self.base

    def covers(self, other: Subnet) -> bool:
        """Whether it contains every address of the other."""
        return self.length <= other.length and other.base & _MASKS[self.length] == self.base

    def overlaps(self, other: Subnet) -> bool:
        """Whether the two share an address; then one of them covers the other."""
        return self.covers(other) or other.covers(self)


def parse_cidr(text: str) -> tuple[int, int]:
    """Address (with its host bits) and prefix length of `A.B.C.D/LEN`. ValueError for anything else."""
    address, slash, digits = text.partition("/")
    if not slash or not (digits.isascii() and digits.isdigit()) or len(digits) > 2 or int(digits) > 32:
        raise ValueError(f"{text!r} is not an IPv4 network such as 10.1.0.0/16")
    return parse_ip(address), int(digits)


RESERVED: Final = tuple(
    (Subnet(parse_ip(base), length), what)
    for base, length, what in (
        ("0.0.0.0", 8, "'this network' addresses (RFC 1122, 3.2.1.3)"),
        ("127.0.0.0", 8, "loopback addresses (RFC 1122, 3.2.1.3)"),
        ("169.254.0.0", 16, "link-local addresses (RFC 3927)"),
        ("224.0.0.0", 4, "multicast addresses (RFC 5771)"),
        ("240.0.0.0", 4, "reserved addresses (RFC 1112, 4)"),
    )
)
"""Ranges that no pod network may overlap, with a description."""

_RESERVED_SPANS: Final = tuple((each.base, each.last, what) for each, what in RESERVED)


def reserved(subnet: Subnet) -> str | None:
    """The description of the first reserved range that the subnet overlaps, or None."""
    first, last = subnet.base, subnet.last
    for base, end, what in _RESERVED_SPANS:
        if base <= last and first <= end:
            return what
    return None
