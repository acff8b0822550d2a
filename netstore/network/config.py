"""The network config document at PREFIX/config: parse it, validate it, say what is wrong and how to correct
it. Pure.

What flannel accepts is accepted: names in any case, unknown fields, host bits in Network, `null` for an
absent field. The checks are those of flannel 0.10 and later; `Network.warnings` says where older daemons read
the same document differently.
"""

from __future__ import annotations

from typing import Final

import msgspec

from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_cidr, parse_ip, reserved, show_ip
from netstore.network.ipv6 import Subnet6  # noqa: TC001 - msgspec reads annotations

MAX_NETWORK_LEN: Final = 28
MAX_SUBNET_LEN: Final = 30
MIN_SUBNET_BITS: Final = 2
"""SubnetLen is at least Network's prefix length plus this, so there are at least four subnets (flannel 0.10).
"""

MAX_DOCUMENT_BYTES: Final = 256 * 1024

DEFAULT_PREFIX: Final = "/coreos.com/network"
"""The key under which flannel keeps a network: the document at `config`, the leases in folder `subnets`."""

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


class Network(msgspec.Struct, frozen=True):
    """A validated network config: leases are subnets of length `subnet_len` from `subnet_min` to `subnet_max`
    inclusive.

    `backend` is the raw JSON of the Backend section, for the backend's own schema; `backend_type` is its Type
    in lower case. `warnings` says what an operator should know before writing this document: fields that are
    ignored, and where older daemons differ.
    """

    network: Subnet
    subnet_len: int
    subnet_min: int
    subnet_max: int
    backend_type: str
    backend: bytes
    warnings: tuple[str, ...] = ()
    ipv6: Network6 | None = None

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
    _families(fields)
    network = _network(fields, warnings)
    subnet_len = _subnet_len(fields, network, warnings)
    step = 1 << (32 - subnet_len)
    low = _bound(fields, "SubnetMin", network, subnet_len, network.base + step)
    high = _bound(fields, "SubnetMax", network, subnet_len, network.last + 1 - step)
    if low > high:
        raise NetworkConfigError(
            "SubnetMin",
            f"{show_ip(low)} is above SubnetMax {show_ip(high)}",
            "swap the two, or leave both out to use the whole network",
        )
    backend_type, backend = _backend(fields, warnings)
    return Network(network, subnet_len, low, high, backend_type, backend, tuple(warnings))


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
            "document", f"not a JSON object ({error})", 'write an object such as {"Network":"10.1.0.0/16"}'
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
        raise NetworkConfigError(name, f"not JSON ({error})", f"write {example}") from None
    if type(value) is not kind:
        text = bytes(raw)[:60].decode("utf-8", "replace")
        raise NetworkConfigError(name, f"{text} has the wrong type", f"write {example}")
    return value


def _families(fields: dict[str, msgspec.Raw]) -> None:
    if _value(fields, "EnableIPv4", bool, "true") is False:
        raise NetworkConfigError(
            "EnableIPv4", "false, but a lease in the store always needs an IPv4 subnet", "leave it out"
        )
    if _value(fields, "EnableIPv6", bool, "false") is True:
        raise NetworkConfigError("EnableIPv6", "true, but this agent supports IPv4 only", "leave it out")


def _network(fields: dict[str, msgspec.Raw], warnings: list[str]) -> Subnet:
    text = _value(fields, "Network", str, '"Network":"10.1.0.0/16"')
    if text is None:
        raise NetworkConfigError(
            "Network", "missing", 'write the range to divide, such as "Network":"10.1.0.0/16"'
        )
    try:
        address, length = parse_cidr(str(text))
    except ValueError as error:
        raise NetworkConfigError("Network", str(error), 'write an IPv4 range such as "10.1.0.0/16"') from None
    network = Subnet.around(address, length)
    if (what := reserved(network)) is not None:
        raise NetworkConfigError(
            "Network", f"{network} contains {what}", "choose a range of unicast addresses for pods"
        )
    if length > MAX_NETWORK_LEN:
        raise NetworkConfigError(
            "Network", f"/{length} is too small to divide", f"use a prefix of /{MAX_NETWORK_LEN} or shorter"
        )
    if address != network.base:
        warnings.append(f"Network: {text} has host bits; {network} is used")
    return network


def _subnet_len(fields: dict[str, msgspec.Raw], network: Subnet, warnings: list[str]) -> int:
    given = _value(fields, "SubnetLen", int, '"SubnetLen":24, a number without quotes')
    least = network.length + MIN_SUBNET_BITS
    if given is None:
        if network.length <= 22:
            return 24
        older = 24 if network.length < 24 else network.length + 1
        warnings.append(f"SubnetLen: not given; flannel before 0.10 takes {older} here, later ones {least}")
        return least
    length = int(str(given))
    if not least <= length <= MAX_SUBNET_LEN:
        raise NetworkConfigError(
            "SubnetLen",
            f"{length} does not divide {network} into at least four subnets of four addresses",
            f"choose {least} to {MAX_SUBNET_LEN}",
        )
    return length


def _bound(fields: dict[str, msgspec.Raw], name: str, network: Subnet, subnet_len: int, default: int) -> int:
    text = _value(fields, name, str, f'"{name}":"{show_ip(default)}"')
    if text is None:
        return default
    try:
        ip = parse_ip(str(text))
    except ValueError as error:
        raise NetworkConfigError(name, str(error), f"write an address such as {show_ip(default)}") from None
    if not network.holds(ip):
        raise NetworkConfigError(name, f"{text} is outside {network}", f"choose an address in {network}")
    start = Subnet.around(ip, subnet_len).base
    if ip != start:
        raise NetworkConfigError(
            name, f"{text} is not the start of a /{subnet_len} subnet", f"write {show_ip(start)}"
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
