"""What the backends share: which leases are theirs, and the BackendData that other nodes published. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.agent.backend import Subnet, SubnetLease

T = TypeVar("T", bound=msgspec.Struct)

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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
        raise ValueError(str(error)) from None
