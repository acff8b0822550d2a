"""A subnet lease record: the entry `PREFIX/subnets/A.B.C.D-LEN` of the store. Pure.

Everything flannel writes is accepted: field names in any case, `null` fields, no BackendType, unknown fields,
dual-stack names. What is invalid becomes an `InvalidLease` with the reason; one bad record never affects the
others.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from netstore.network.addresses import Subnet, parse_host_ip, parse_ip, show_ip
from netstore.network.ipv6 import Subnet6  # noqa: TC001 - msgspec reads annotations

MAX_LEASE_LEN: Final = 31
"""flannel parses the length as a five-bit number, so a /32 name is not a lease for it."""

DEFAULT_TTL: Final = 86_400
"""Seconds that a lease lives without being renewed, unless the agent is configured otherwise (flannel)."""

MAX_VALUE_CHARACTERS: Final = 64 * 1024

_KEY: Final = re.compile(r"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})-(\d{1,2})(?:&[0-9a-f:]+-\d{1,3})?", re.ASCII)


class _Value(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    public_ip: str | None = msgspec.field(default=None, name="PublicIP")
    backend_type: str | None = None
    backend_data: msgspec.Raw = msgspec.Raw()


_FIELDS: Final = {"publicip": "PublicIP", "backendtype": "BackendType", "backenddata": "BackendData"}

_decode = msgspec.json.Decoder(_Value).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class SubnetLease(msgspec.Struct, frozen=True, gc=False):
    """The lease of a subnet by the node with this PublicIP. `backend_data` is the backend's JSON, None if
    absent or null. In a dual-stack network the node holds `subnet6` too, and is reached at `public_ip6`.
    """

    subnet: Subnet
    public_ip: int
    backend_type: str = ""
    backend_data: bytes | None = None
    subnet6: Subnet6 | None = None
    public_ip6: int | None = None
    backend_v6_data: bytes | None = None


class InvalidLease(msgspec.Struct, frozen=True, gc=False):
    """An entry under `subnets` that is not a valid lease, with the reason for the operator."""

    name: str
    reason: str


def parse_lease_name(name: str) -> Subnet:
    """The subnet a lease's name stands for. ValueError says what is wrong with the name."""
    match = _KEY.fullmatch(name)
    if match is None:
        raise ValueError("the name is not A.B.C.D-LEN")
    ip = parse_ip(match[1])
    length = int(match[2])
    if length > MAX_LEASE_LEN:
        raise ValueError(f"length {length} is above {MAX_LEASE_LEN}")
    return Subnet.exact(ip, length)


def parse_lease(key: str, value: str | None) -> SubnetLease | InvalidLease:
    """The lease in an entry of the store; `key` may be the whole key or only its last part, the name."""
    name = key.rpartition("/")[2]
    if value is None:
        return InvalidLease(name, "it is a directory")
    try:
        return _lease(parse_lease_name(name), value)
    except ValueError as error:
        return InvalidLease(name, str(error))


def _lease(subnet: Subnet, value: str) -> SubnetLease:
    if len(value) > MAX_VALUE_CHARACTERS:
        raise ValueError(f"the value has {len(value)} characters")
    try:
        given = _decode(value)
        if not _is_exact(given, value):
            given = _any_case(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the value is not a lease: {error}") from None
    if not given.public_ip:
        raise ValueError("the value has no PublicIP")
    try:
        public_ip = parse_host_ip(given.public_ip)
    except ValueError as error:
        raise ValueError(f"PublicIP: {error}") from None
    data = bytes(given.backend_data)
    return SubnetLease(subnet, public_ip, given.backend_type or "", None if data in (b"", b"null") else data)


def _is_exact(given: _Value, value: str) -> bool:
    """Whether all fields were found under their exact names: the usual case, five times as fast as
    `_any_case`.
    """
    if not given.public_ip or not given.backend_type:
        return False
    return bool(given.backend_data) or "backenddata" not in value.lower()


def _any_case(value: str) -> _Value:
    """The fields, with names matched case-insensitively as Go's JSON decoder does."""
    fields = {_FIELDS.get(name.lower()): raw for name, raw in _decode_any(value).items()}
    return _decode(_encode({name: raw for name, raw in fields.items() if name is not None}))


def encode_lease(
    public_ip: int, backend_type: str, backend_data: bytes | None = None, *, names_ipv6: bool = False
) -> str:
    """The value of a lease exactly as flannel writes it: field order, no blanks. `names_ipv6`: as the
    versions for etcd v3 do, with a PublicIPv6 that is null.
    """
    fields: dict[str, object] = {"PublicIP": show_ip(public_ip)}
    if names_ipv6:
        fields["PublicIPv6"] = None
    if backend_type:
        fields["BackendType"] = backend_type
    if backend_data is not None:
        fields["BackendData"] = msgspec.Raw(backend_data)
    return _encode(fields).decode()
