"""A lease as it lies in the store: its key, its value, and which ones this node will use.

Everything flannel writes is read: names in any case, `null` fields, missing BackendType, unknown fields,
dual-stack keys. Whatever cannot be used becomes a `Skipped` with the reason; one bad lease never stands in
the way of the others.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from netstore.network.addresses import Subnet, parse_host_ip, parse_ip, show_ip

LONGEST_LEASE: Final = 31
"""flannel reads the length into five bits: for it, a /32 key is no lease at all."""

DEFAULT_TTL: Final = 86_400
"""Seconds that a lease lives without being renewed, unless the agent is configured otherwise (flannel)."""

MAX_VALUE_BYTES: Final = 64 * 1024

_KEY: Final = re.compile(r"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})-(\d{1,2})(?:&[0-9a-f:]+-\d{1,3})?", re.ASCII)


class _Value(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    public_ip: str | None = msgspec.field(default=None, name="PublicIP")
    backend_type: str | None = None
    backend_data: msgspec.Raw = msgspec.Raw()


_FIELDS: Final = {"publicip": "PublicIP", "backendtype": "BackendType", "backenddata": "BackendData"}

_decode = msgspec.json.Decoder(_Value).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Lease(msgspec.Struct, frozen=True, gc=False):
    """Who holds which subnet. `backend_data` is the backend's own JSON, None when absent or null."""

    subnet: Subnet
    public_ip: int
    backend_type: str = ""
    backend_data: bytes | None = None


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """An entry under `subnets` that is not used, and why, in words for the operator."""

    key: str
    reason: str


def parse_key(name: str) -> Subnet:
    """The subnet a lease's name stands for. ValueError says what is wrong with it."""
    match = _KEY.fullmatch(name)
    if match is None:
        raise ValueError("the name is not A.B.C.D-LEN")
    ip = parse_ip(match[1])
    length = int(match[2])
    if length > LONGEST_LEASE:
        raise ValueError(f"length {length} is above {LONGEST_LEASE}")
    return Subnet.exact(ip, length)


def parse(key: str, value: str | None) -> Lease | Skipped:
    """The lease in one entry of the store; `key` is the whole key, of which the last part is the name."""
    name = key.rpartition("/")[2]
    if value is None:
        return Skipped(name, "it is a directory")
    try:
        return _lease(parse_key(name), value)
    except ValueError as error:
        return Skipped(name, str(error))


def _lease(subnet: Subnet, value: str) -> Lease:
    if len(value) > MAX_VALUE_BYTES:
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
    return Lease(subnet, public_ip, given.backend_type or "", None if data in (b"", b"null") else data)


def _is_exact(given: _Value, value: str) -> bool:
    """Whether every field that matters was found under its exact name: the usual case, and five times as
    fast.
    """
    if not given.public_ip or not given.backend_type:
        return False
    return bool(given.backend_data) or "backenddata" not in value.lower()


def _any_case(value: str) -> _Value:
    """The same fields under names in any case (Go's JSON decoder)."""
    fields = {_FIELDS.get(name.lower()): raw for name, raw in _decode_any(value).items()}
    return _decode(_encode({name: raw for name, raw in fields.items() if name is not None}))


def show_value(public_ip: int, backend_type: str, backend_data: bytes | None = None) -> str:
    """The value of a lease in flannel's form of the v2 era: field order, no blanks."""
    fields: dict[str, object] = {"PublicIP": show_ip(public_ip)}
    if backend_type:
        fields["BackendType"] = backend_type
    if backend_data is not None:
        fields["BackendData"] = msgspec.Raw(backend_data)
    return _encode(fields).decode()
