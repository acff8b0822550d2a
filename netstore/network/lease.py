"""A subnet lease record: the entry `PREFIX/subnets/A.B.C.D-LEN` of the store, or in a dual-stack network
`PREFIX/subnets/A.B.C.D-LEN&IPV6-LEN`. Pure.

Everything flannel writes is accepted: field names in any case, `null` fields, no BackendType, unknown fields,
both forms of the name in both kinds of network. What is invalid becomes an `InvalidLease` with the reason;
one bad record never affects the others.

A name in another spelling, such as `-08` or `fd00:0::`, is invalid: a lease has one key, so that two nodes
cannot create one lease.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.network.addresses import Subnet, parse_host_ip, parse_ip, show_ip
from netstore.network.ipv6 import Subnet6, parse_host_ip6, parse_ip6, show_ip6
from netstore.network.words import in_words

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SUBNETS: Final = "subnets"
"""The folder of the leases, under the network's prefix."""

DRAINED: Final = "drained"
"""The folder, under the network's prefix, of the nodes that may take no subnet: an entry for each PublicIP
and name of one (`encode_mark`).
"""

MAX_LEASE_LEN: Final = 31
"""flannel parses the length as a five-bit number, so a /32 name is not a lease for it."""

MAX_LEASE_LEN6: Final = 127
"""It parses the length of an IPv6 subnet as a seven-bit number."""

DEFAULT_TTL: Final = 86_400
"""Seconds that a lease lives without being renewed, unless the agent is configured otherwise (flannel)."""

MAX_VALUE_CHARACTERS: Final = 64 * 1024

NODE_NAME: Final = r"[0-9A-Za-z._-]{1,253}"
"""Names that a node can have in its lease."""

_KEY: Final = re.compile(
    r"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})-(\d{1,2})(?:&([0-9a-f:]{2,39})-(\d{1,3}))?", re.ASCII
)


class _Value(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    public_ip: str | None = msgspec.field(default=None, name="PublicIP")
    public_ip6: str | None = msgspec.field(default=None, name="PublicIPv6")
    backend_type: str | None = None
    backend_data: msgspec.Raw = msgspec.Raw()
    backend_v6_data: msgspec.Raw = msgspec.Raw()
    node_name: msgspec.Raw = msgspec.Raw()


_FIELDS: Final = {
    name.lower(): name
    for name in ("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "NodeName")
}

_decode = msgspec.json.Decoder(_Value).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Mark(msgspec.Struct, frozen=True):
    since: str
    also: tuple[str, ...] = ()


_decode_mark = msgspec.json.Decoder(_Mark).decode


def encode_mark(since: str, names: Sequence[str]) -> str:
    """The entry of a drained node: the time in UTC, and the names of all entries that are of this node."""
    return _encode(_Mark(since, tuple(names))).decode()


def parse_mark(value: str | None) -> tuple[str, ...]:
    """The names of all entries that are of the drained node, as far as its entry tells them."""
    try:
        return _decode_mark(value or "").also
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()


def is_node_name(word: str) -> bool:
    """Whether a node can have this name in its lease, and the word can be the last part of a key."""
    return re.fullmatch(NODE_NAME, word) is not None and word not in {".", ".."}


class NodeSubnets(NamedTuple):
    """What one lease is for: a subnet, and in a dual-stack network one of IPv6."""

    subnet: Subnet
    subnet6: Subnet6 | None = None

    @property
    def lease_name(self) -> str:
        """The last part of its key in the store: `A.B.C.D-LEN` or `A.B.C.D-LEN&IPV6-LEN` (flannel)."""
        if self.subnet6 is None:
            return self.subnet.lease_name
        return f"{self.subnet.lease_name}&{show_ip6(self.subnet6.base)}-{self.subnet6.length}"

    def __str__(self) -> str:
        return str(self.subnet) if self.subnet6 is None else f"{self.subnet}, {self.subnet6}"


class SubnetLease(msgspec.Struct, frozen=True, gc=False):
    """The lease of a subnet by the node with this PublicIP. `backend_data` is the backend's JSON, None if
    absent or null. In a dual-stack network the node holds `subnet6` too, and is reached at `public_ip6`.
    `created` is the index of the store at which the lease was made, 0 where that is not known.

    `node_name` is NodeName, a field of netstore-agent's that flannel ignores; "" if it is absent or no name.
    """

    subnet: Subnet
    public_ip: int
    backend_type: str = ""
    backend_data: bytes | None = None
    subnet6: Subnet6 | None = None
    public_ip6: int | None = None
    backend_v6_data: bytes | None = None
    created: int = 0
    node_name: str = ""

    @property
    def subnets(self) -> NodeSubnets:
        """What it is for."""
        return NodeSubnets(self.subnet, self.subnet6)

    def ipv4_only(self) -> SubnetLease:
        """The lease without what it says of IPv6."""
        if self.subnet6 is None and self.public_ip6 is None and self.backend_v6_data is None:
            return self
        return SubnetLease(
            self.subnet, self.public_ip, self.backend_type, self.backend_data, created=self.created
        )


def is_of(lease: SubnetLease, ips: Collection[int], name: str) -> bool:
    """Whether a lease is that of the node with this name, "" for none, and these PublicIPs: where both have
    a name, it decides.
    """
    return lease.node_name == name if lease.node_name and name else lease.public_ip in ips


class InvalidLease(msgspec.Struct, frozen=True, gc=False):
    """An entry under `subnets` that is not a valid lease, with the reason for the operator."""

    name: str
    reason: str


def parse_lease_name(name: str) -> NodeSubnets:
    """The subnets a lease's name stands for. ValueError says what is wrong with the name."""
    match = _KEY.fullmatch(name)
    if match is None:
        raise ValueError("the name is not A.B.C.D-LEN or A.B.C.D-LEN&IPV6-LEN")
    base, length, base6, length6 = match.groups()
    if int(length) > MAX_LEASE_LEN:
        raise ValueError(f"length {length} is above {MAX_LEASE_LEN}")
    subnets = NodeSubnets(Subnet.exact(parse_ip(base), int(length)))
    if base6 is not None:
        if int(length6) > MAX_LEASE_LEN6:
            raise ValueError(f"length {length6} is above {MAX_LEASE_LEN6}")
        subnets = NodeSubnets(subnets.subnet, Subnet6.exact(parse_ip6(base6), int(length6)))
    if subnets.lease_name != name:
        raise ValueError(f"the name is not in its usual form, {subnets.lease_name}")
    return subnets


def parse_lease(key: str, value: str | None, created: int = 0) -> SubnetLease | InvalidLease:
    """The lease in an entry of the store; `key` may be the whole key or only its last part, the name.
    `created` is the index at which the key was created.
    """
    name = key.rpartition("/")[2]
    if value is None:
        return InvalidLease(name, "it is a directory")
    try:
        return _lease(parse_lease_name(name), value, created)
    except ValueError as error:
        return InvalidLease(name, str(error))


def _lease(subnets: NodeSubnets, value: str, created: int) -> SubnetLease:
    if len(value) > MAX_VALUE_CHARACTERS:
        raise ValueError(f"the value has {len(value)} characters")
    try:
        given = _decode(value)
        if not _is_exact(given, value):
            given = _any_case(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the value is not a lease: {in_words(error)}") from None
    if not given.public_ip:
        raise ValueError("the value has no PublicIP")
    try:
        public_ip = parse_host_ip(given.public_ip)
    except ValueError as error:
        raise ValueError(f"PublicIP: {error}") from None
    try:
        public_ip6 = parse_host_ip6(given.public_ip6) if given.public_ip6 else None
    except ValueError as error:
        raise ValueError(f"PublicIPv6: {error}") from None
    return SubnetLease(
        subnets.subnet,
        public_ip,
        sys.intern(given.backend_type or ""),  # thousands of leases have the same
        _present(given.backend_data),
        subnets.subnet6,
        public_ip6,
        _present(given.backend_v6_data),
        created=created,
        node_name=_name(given.node_name) if given.node_name else "",
    )


def _present(raw: msgspec.Raw) -> bytes | None:
    data = bytes(raw)
    return None if data in (b"", b"null") else data


def _name(raw: msgspec.Raw) -> str:
    """A name of a node. Anything else is none: to others than netstore the field means nothing."""
    try:
        name = _decode_text(raw)
    except msgspec.MsgspecError:
        return ""
    return name if re.fullmatch(NODE_NAME, name) else ""


def _is_exact(given: _Value, value: str) -> bool:
    """Whether all fields were found under their exact names: the usual case, five times as fast as
    `_any_case`.
    """
    if not given.public_ip or not given.backend_type:
        return False
    if given.backend_data and given.public_ip6 and given.backend_v6_data:
        return True
    lower = value.lower()
    return (
        (bool(given.backend_data) or "backenddata" not in lower)
        and (bool(given.public_ip6) or "publicipv6" not in lower or '"PublicIPv6":null' in value)
        and (bool(given.backend_v6_data) or "backendv6data" not in lower)
        and (bool(given.node_name) or "nodename" not in lower)
    )


def _any_case(value: str) -> _Value:
    """The fields, with names matched case-insensitively as Go's JSON decoder does."""
    fields = {_FIELDS.get(name.lower()): raw for name, raw in _decode_any(value).items()}
    return _decode(_encode({name: raw for name, raw in fields.items() if name is not None}))


def encode_lease(
    public_ip: int,
    backend_type: str,
    backend_data: bytes | None = None,
    *,
    public_ip6: int | None = None,
    backend_v6_data: bytes | None = None,
    names_ipv6: bool = False,
    node_name: str = "",
) -> str:
    """The value of a lease exactly as flannel writes it: field order, no blanks. `names_ipv6`: as the
    versions for etcd v3 do, with a PublicIPv6 that is null if there is none. `node_name` comes after that.
    """
    fields: dict[str, object] = {"PublicIP": show_ip(public_ip)}
    if public_ip6 is not None:
        fields["PublicIPv6"] = show_ip6(public_ip6)
    elif names_ipv6:
        fields["PublicIPv6"] = None
    if backend_type:
        fields["BackendType"] = backend_type
    if backend_data is not None:
        fields["BackendData"] = msgspec.Raw(backend_data)
    if backend_v6_data is not None:
        fields["BackendV6Data"] = msgspec.Raw(backend_v6_data)
    if node_name:
        fields["NodeName"] = node_name
    return _encode(fields).decode()
