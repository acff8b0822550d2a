"""The network config document at PREFIX/config: parse it, validate it, say what is wrong and how to correct
it. Pure.

What flannel accepts is accepted: names in any case, unknown fields, host bits in Network, `null` for an
absent field. The checks are those of flannel 0.10 and later; `Network.warnings` says where older daemons read
the same document differently.
"""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - dataclasses with slots read annotations
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_cidr, parse_ip, reserved, show_ip
from netstore.network.ipv6 import Subnet6, parse_cidr6, parse_ip6, reserved6, show_ip6
from netstore.network.words import in_words

S = TypeVar("S", Subnet, Subnet6)
S_co = TypeVar("S_co", Subnet, Subnet6, covariant=True)

MAX_NETWORK_LEN: Final = 28
MAX_SUBNET_LEN: Final = 30
MAX_NETWORK_LEN6: Final = 124
MAX_SUBNET_LEN6: Final = 126
MIN_SUBNET_BITS: Final = 2
"""SubnetLen is at least Network's prefix length plus this, so there are at least four subnets (flannel 0.10).
"""

MAX_DOCUMENT_BYTES: Final = 256 * 1024

DEFAULT_PREFIX: Final = "/coreos.com/network"
"""The key under which flannel keeps a network: the document at `config`, the leases in folder `subnets`."""

KNOWN_PREFIXES: Final = (DEFAULT_PREFIX, "/kube-centos/network", "/atomic.io/network", "/flannel/network")
"""Keys under which networks are usually kept."""

DEFAULT_BACKEND: Final = "udp"
"""The backend flannel uses if the document has no Backend section (its manual says otherwise)."""

_KNOWN: Final = (
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "Backend",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "IPv6Network",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Networks",
    "IPv6Networks",
)
_NAMES: Final = {name.lower(): name for name in _KNOWN}

_document = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_any = msgspec.json.Decoder()


class NetworkConfigError(NetstoreError):
    """The document is invalid: the field, the problem, and how to correct it."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(field, problem, fix)
        self.field = field
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}; {self.fix}"


class Range(Protocol[S_co]):
    """What a network config says of one family: `Network` of IPv4, `Network6` of IPv6."""

    @property
    def network(self) -> S_co: ...

    @property
    def subnet_len(self) -> int: ...

    @property
    def subnet_min(self) -> int: ...

    @property
    def subnet_max(self) -> int: ...


class Network6(msgspec.Struct, frozen=True):
    """The IPv6 part of a dual-stack network config: subnets of length `subnet_len` from `subnet_min` to
    `subnet_max` inclusive.
    """

    network: Subnet6
    subnet_len: int
    subnet_min: int
    subnet_max: int

    def fits(self, subnet: Subnet6) -> bool:
        """Whether a node may hold this subnet under this config."""
        return subnet.length == self.subnet_len and self.subnet_min <= subnet.base <= self.subnet_max

    def misfit(self, subnet: Subnet6) -> str | None:
        """Why the subnet does not fit, or None if it does."""
        if not self.network.covers(subnet):
            return f"not in the network {self.network}"
        if subnet.length != self.subnet_len:
            return f"IPv6SubnetLen is {self.subnet_len}"
        if not self.fits(subnet):
            return f"not between {show_ip6(self.subnet_min)} and {show_ip6(self.subnet_max)}"
        return None


class Network(msgspec.Struct, frozen=True):
    """A validated network config: leases are subnets of length `subnet_len` from `subnet_min` to `subnet_max`
    inclusive.

    `backend` is the raw JSON of the Backend section, for the backend's own schema; `backend_type` is its Type
    in lower case. `warnings` says what an operator should know before writing this document: fields that are
    ignored, and where other daemons differ. `ipv6` is None unless the network is dual-stack.
    """

    network: Subnet
    subnet_len: int
    subnet_min: int
    subnet_max: int
    backend_type: str
    backend: bytes
    warnings: tuple[str, ...] = ()
    ipv6: Network6 | None = None

    @property
    def ranges(self) -> tuple[Subnet | Subnet6, ...]:
        """The range of each family."""
        return (self.network,) if self.ipv6 is None else (self.network, self.ipv6.network)

    def fits(self, subnet: Subnet) -> bool:
        """Whether a node may hold this subnet under this config (flannel's isSubnetConfigCompat)."""
        return subnet.length == self.subnet_len and self.subnet_min <= subnet.base <= self.subnet_max

    def misfit(self, subnet: Subnet) -> str | None:
        """Why the subnet does not fit, or None if it does."""
        if not self.network.covers(subnet):
            return f"not in the network {self.network}"
        if subnet.length != self.subnet_len:
            return f"SubnetLen is {self.subnet_len}"
        if not self.fits(subnet):
            return f"not between {show_ip(self.subnet_min)} and {show_ip(self.subnet_max)}"
        return None


def parse_network(text: bytes) -> Network:
    """The network that a document describes. NetworkConfigError names the first field that is invalid."""
    fields, warnings = _fields(text)
    has_ipv6 = _has_ipv6(fields, warnings)
    network, subnet_len, low, high = _divided(fields, _IPV4, warnings)
    ipv6 = Network6(*_divided(fields, _IPV6, warnings)) if has_ipv6 else None
    backend_type, backend = _backend(fields, warnings)
    return Network(network, subnet_len, low, high, backend_type, backend, tuple(warnings), ipv6)


def _fields(text: bytes) -> tuple[dict[str, msgspec.Raw], list[str]]:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise NetworkConfigError(
            "document", f"{len(text)} bytes long", f"a network needs no more than {MAX_DOCUMENT_BYTES} bytes"
        )
    if not text.strip():
        raise NetworkConfigError("document", "is empty", 'write an object such as {"Network":"10.1.0.0/16"}')
    try:
        document = _document.decode(text) or {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkConfigError(
            "document",
            f"not a JSON object ({in_words(error)})",
            'write an object such as {"Network":"10.1.0.0/16"}',
        ) from None
    fields: dict[str, msgspec.Raw] = {}
    warnings: list[str] = []
    for given, raw in document.items():
        name = _NAMES.get(given.lower())
        if name is None:
            warnings.append(f"{given}: unknown field, ignored by all daemons")
        elif bytes(raw).strip() != b"null":
            fields[name] = raw
    return fields, warnings


def _value(fields: dict[str, msgspec.Raw], name: str, kind: type, example: str) -> object | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        value: object = _any.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkConfigError(name, f"not JSON ({in_words(error)})", f"write {example}") from None
    if type(value) is not kind:
        text = bytes(raw)[:60].decode("utf-8", "replace")
        raise NetworkConfigError(name, f"{text} has the wrong type", f"write {example}")
    return value


def _has_ipv6(fields: dict[str, msgspec.Raw], warnings: list[str]) -> bool:
    """Whether the network is dual-stack."""
    if _value(fields, "EnableIPv4", bool, "true") is False:
        raise NetworkConfigError(
            "EnableIPv4", "false, but a lease in the store always needs an IPv4 subnet", "leave it out"
        )
    warnings.extend(
        f"{name}: only flannel 0.20 to 0.24 reads it, for firewall rules; subnets are taken from"
        f" {name.removesuffix('s')}"
        for name in ("Networks", "IPv6Networks")
        if name in fields
    )
    has_ipv6 = _value(fields, "EnableIPv6", bool, "true") is True
    if has_ipv6:
        warnings.append(
            "EnableIPv6: flannel before 0.15 serves IPv4 only; later versions end with an error while any"
            " node's lease has no IPv6 subnet"
        )
    else:
        warnings.extend(
            f'{name}: ignored without "EnableIPv6":true'
            for name in ("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax")
            if name in fields
        )
    return has_ipv6


@dataclass(frozen=True, slots=True)
class _Family(Generic[S]):
    """What differs between the address families. `prefix` begins its fields' names; `usual_len` is the
    default of SubnetLen in a network that is large enough.
    """

    name: str
    prefix: str
    bits: int
    max_network_len: int
    max_subnet_len: int
    usual_len: int
    example: str
    around: Callable[[int, int], S]
    parse_cidr: Callable[[str], tuple[int, int]]
    parse_ip: Callable[[str], int]
    show_ip: Callable[[int], str]
    reserved: Callable[[S], str | None]


_IPV4: Final = _Family(
    name="IPv4",
    prefix="",
    bits=32,
    max_network_len=MAX_NETWORK_LEN,
    max_subnet_len=MAX_SUBNET_LEN,
    usual_len=24,
    example="10.1.0.0/16",
    around=Subnet.around,
    parse_cidr=parse_cidr,
    parse_ip=parse_ip,
    show_ip=show_ip,
    reserved=reserved,
)
_IPV6: Final = _Family(
    name="IPv6",
    prefix="IPv6",
    bits=128,
    max_network_len=MAX_NETWORK_LEN6,
    max_subnet_len=MAX_SUBNET_LEN6,
    usual_len=64,
    example="fd00:10::/48",
    around=Subnet6.around,
    parse_cidr=parse_cidr6,
    parse_ip=parse_ip6,
    show_ip=show_ip6,
    reserved=reserved6,
)


def _divided(
    fields: dict[str, msgspec.Raw], family: _Family[S], warnings: list[str]
) -> tuple[S, int, int, int]:
    """One family's network, the length of its subnets, and the first and last of them."""
    network = _network(fields, family, warnings)
    subnet_len = _subnet_len(fields, family, network, warnings)
    second = family.around(network.base + (1 << (family.bits - subnet_len)), subnet_len)
    low = _bound(fields, "SubnetMin", family, network, second)
    high = _bound(fields, "SubnetMax", family, network, family.around(network.last, subnet_len))
    if low > high:
        raise NetworkConfigError(
            f"{family.prefix}SubnetMin",
            f"{family.show_ip(low)} is above {family.prefix}SubnetMax {family.show_ip(high)}",
            "swap the two, or leave both out to use the whole network",
        )
    return network, subnet_len, low, high


def _network(fields: dict[str, msgspec.Raw], family: _Family[S], warnings: list[str]) -> S:
    name = f"{family.prefix}Network"
    example = f'"{name}":"{family.example}"'
    text = _value(fields, name, str, example)
    if text is None:
        raise NetworkConfigError(name, "missing", f"write the range to divide, such as {example}")
    try:
        address, length = family.parse_cidr(str(text))
    except ValueError as error:
        raise NetworkConfigError(
            name, str(error), f'write an {family.name} range such as "{family.example}"'
        ) from None
    network = family.around(address, length)
    if (what := family.reserved(network)) is not None:
        raise NetworkConfigError(
            name, f"{network} contains {what}", "choose a range of unicast addresses for pods"
        )
    if length > family.max_network_len:
        raise NetworkConfigError(
            name, f"/{length} is too small to divide", f"use a prefix of /{family.max_network_len} or shorter"
        )
    if address != network.base:
        warnings.append(f"{name}: {text} has host bits; {network} is used")
    return network


def _subnet_len(fields: dict[str, msgspec.Raw], family: _Family[S], network: S, warnings: list[str]) -> int:
    name = f"{family.prefix}SubnetLen"
    given = _value(fields, name, int, f'"{name}":{family.usual_len}, a number without quotes')
    least = network.length + MIN_SUBNET_BITS
    if given is None:
        if least <= family.usual_len:
            return family.usual_len
        if family is _IPV4:
            older = 24 if network.length < 24 else network.length + 1
            warnings.append(f"{name}: not given; flannel before 0.10 takes {older} here, later ones {least}")
        return least
    length = int(str(given))
    if not least <= length <= family.max_subnet_len:
        raise NetworkConfigError(
            name,
            f"{length} does not divide {network} into at least four subnets of four addresses",
            f"choose {least} to {family.max_subnet_len}",
        )
    return length


def _bound(fields: dict[str, msgspec.Raw], which: str, family: _Family[S], network: S, default: S) -> int:
    """The start of the first or last subnet that nodes may hold; `default` has the length of all."""
    name = f"{family.prefix}{which}"
    example = family.show_ip(default.base)
    text = _value(fields, name, str, f'"{name}":"{example}"')
    if text is None:
        return default.base
    try:
        ip = family.parse_ip(str(text))
    except ValueError as error:
        raise NetworkConfigError(name, str(error), f"write an address such as {example}") from None
    if not network.holds(ip):
        raise NetworkConfigError(name, f"{text} is outside {network}", f"choose an address in {network}")
    start = family.around(ip, default.length).base
    if ip != start:
        raise NetworkConfigError(
            name, f"{text} is not the start of a /{default.length} subnet", f"write {family.show_ip(start)}"
        )
    return ip


def _backend(fields: dict[str, msgspec.Raw], warnings: list[str]) -> tuple[str, bytes]:
    section = _value(fields, "Backend", dict, '"Backend":{"Type":"host-gw"}')
    if section is None:
        warnings.append(
            f'Backend: not given, which means {DEFAULT_BACKEND}; write "Backend":{{"Type":"host-gw"}}'
        )
        return DEFAULT_BACKEND, b"{}"
    assert isinstance(section, dict)  # noqa: S101 - _value checked it; this is for the type checker
    named = [value for name, value in section.items() if name.lower() == "type" and value is not None]
    if not named or named[-1] == "":
        raise NetworkConfigError("Backend.Type", "missing", 'name the backend, such as "Type":"host-gw"')
    if not isinstance(named[-1], str):
        raise NetworkConfigError(
            "Backend.Type", f"{named[-1]!r} is not text", 'write a name such as "host-gw"'
        )
    return named[-1].lower(), bytes(fields["Backend"])
