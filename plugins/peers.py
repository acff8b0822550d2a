"""What the backends share: which options and leases they can use, and the BackendData that other nodes
published. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from netstore.agent.backend import Refused
from netstore.network.backends import problem

if TYPE_CHECKING:
    from netstore.agent.backend import SubnetLease

T = TypeVar("T", bound=msgspec.Struct)

MAX_DATA_BYTES: Final = 1024
"""Of a BackendData or BackendV6Data; those of flannel have less than a tenth of it."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def refuse_problem(kind: str, options: msgspec.Struct, *, ipv6: bool = False) -> None:
    """Refused if no node could use these options."""
    found = problem(options, ipv6=ipv6)
    if found is not None:
        raise Refused(f"{kind}: {found.option}: {found.text}; {found.fix}")


def other_type(peer: SubnetLease, lease_type: str) -> str | None:
    """The reason why a lease with another BackendType than this is refused; None if it has this one."""
    if peer.backend_type == lease_type:
        return None
    return f"its backend is {peer.backend_type or 'not named'}, not {lease_type}"


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


def bounded(data: bytes | None, field: str) -> bytes | None:
    """The data, for what keeps it in a cache. ValueError if it has more than `MAX_DATA_BYTES`."""
    if data is not None and len(data) > MAX_DATA_BYTES:
        raise ValueError(f"{field}: it has {len(data)} bytes, more than {MAX_DATA_BYTES}")
    return data


def own(what: str, file: str) -> str:
    """Why a lease is refused that publishes what this node has."""
    return (
        f"this node has the same {what}; remove {file} from the backend's folder of one of them and restart"
        " its agent"
    )
