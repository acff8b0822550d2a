"""What the backends share: which options and leases they can use, and the BackendData that other nodes
published. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from netstore.agent.backend import Refused, show_ip
from netstore.network.backends import problem
from netstore.network.words import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from netstore.agent.backend import Subnet, SubnetLease

T = TypeVar("T", bound=msgspec.Struct)

MAX_DATA_BYTES: Final = 1024
"""Of a BackendData or BackendV6Data; those of flannel have less than a tenth of it."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def refuse_problem(kind: str, options: msgspec.Struct, *, ipv6: bool = False) -> None:
    """Refused if no node could use these options."""
    found = problem(options, ipv6=ipv6)
    if found is not None:
        raise Refused(f"{kind}: {found.option}: {found.text}; {found.fix}")


def of_type(peers: Iterable[SubnetLease], lease_type: str) -> tuple[Sequence[SubnetLease], dict[Subnet, str]]:
    """The leases with this BackendType, and the reason for each of the others."""
    mine = []
    refused = {}
    for peer in peers:
        if peer.backend_type == lease_type:
            mine.append(peer)
        else:
            refused[peer.subnet] = f"its backend is {peer.backend_type or 'not named'}, not {lease_type}"
    return mine, refused


@lru_cache
def _names(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The names of the fields in JSON, by their lower case."""
    return {field.encode_name.lower(): field.encode_name for field in msgspec.structs.fields(kind)}


def published(data: bytes | None, kind: type[T]) -> T:
    """The BackendData or BackendV6Data of a lease, decoded: names match case-insensitively and unknown fields
    are ignored, as in Go. ValueError says in words what is wrong.
    """
    if data is None:
        raise ValueError("it has none")
    names = _names(kind)
    try:
        given = {names[name.lower()]: raw for name, raw in _fields(data).items() if name.lower() in names}
        return msgspec.convert(
            {name: msgspec.json.decode(raw) for name, raw in given.items() if raw != b"null"}, kind
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(in_words(error)) from None


def bounded(data: bytes | None, field: str) -> bytes | None:
    """The data, for what keeps it in a cache. ValueError if it has more than `MAX_DATA_BYTES`."""
    if data is not None and len(data) > MAX_DATA_BYTES:
        raise ValueError(f"{field}: it has {len(data)} bytes, more than {MAX_DATA_BYTES}")
    return data


def holders(claims: Sequence[tuple[SubnetLease, bytes]]) -> Mapping[bytes, SubnetLease]:
    """Who has each MAC or key: the youngest lease of the node that has it, which says where the node is now.

    `claims` are leases and what they publish. A node is one PublicIP. It may have several leases, because one
    that moved to another subnet keeps its former lease for a while. Of several nodes that publish the same,
    as copies of one machine do, the one with the oldest lease has it, then the one with the lowest subnet.
    """
    oldest: dict[bytes, SubnetLease] = {}
    for lease, published_value in claims:
        if _age(lease) <= _age(oldest.setdefault(published_value, lease)):
            oldest[published_value] = lease
    youngest: dict[bytes, SubnetLease] = {}
    for lease, published_value in claims:
        if lease.public_ip == oldest[published_value].public_ip and _age(lease) >= _age(
            youngest.setdefault(published_value, lease)
        ):
            youngest[published_value] = lease
    return youngest


def _age(lease: SubnetLease) -> tuple[int, Subnet]:
    return lease.created, lease.subnet


def older(holder: SubnetLease, what: str, file: str) -> str:
    """Why a lease is refused that publishes what the node of an older one has; `file` is where it is kept."""
    return (
        f"{show_ip(holder.public_ip)}, whose lease is older, has the same {what}; remove {file} from the"
        " backend's folder of one of them and restart its agent, or delete the older lease if its node"
        " is gone"
    )


def own(what: str, file: str) -> str:
    """Why a lease is refused that publishes what this node has."""
    return (
        f"this node has the same {what}; remove {file} from the backend's folder of one of them and restart"
        " its agent"
    )
