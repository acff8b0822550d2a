"""Every replicated command and its byte form: a msgpack array whose first element is the number of the
command.

Numbers and fields are never changed (number 9 is retired): a command with another meaning or more fields gets
a new number, and the *feature level* that introduces it (`features`). So members of two releases can run in
one cluster. A field or number that this version does not know stops the member; it is never ignored, because
the member would diverge from the others. The rules: contrib/doc/format-entry.md.

The commands of the two APIs are in `v2.commands` and `v3.commands`; those that change members, the cluster
and its plugins are here. A command contains everything that its outcome depends on beside the state; time is
not part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, get_args

import msgspec

from netstore.errors import CorruptData, UnknownCommand
from netstore.state.features import LEVEL, MAX_LEVEL
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    ExpireNodes,
    InOrder,
    KeyCommand,
    QuorumGet,
    Set,
    TtlCheckpoint,
    Update,
    is_canonical,
)
from netstore.state.v3.commands import MAX_DEPTH, Txn, V3Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Level = Annotated[int, msgspec.Meta(ge=1, le=MAX_LEVEL)]
_Number = Annotated[int, msgspec.Meta(ge=0)]  # msgpack itself ends at 64 bits


class PublishMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=10):
    """A member has started and announces its name, URLs, and the highest feature level it knows.

    An unknown member is added to the list. One that does not know the cluster's level is refused.
    """

    id: _Number
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    level: _Level = LEVEL


class SetClusterVersion(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=11):
    """The cluster version: the highest that all members support, as decided by the leader."""

    text: str


class AddMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=12):
    """Add a member to the list; it has no name before its PublishMember.

    A `learner` has no vote yet; with `promote` the leader promotes it as soon as it has caught up.
    """

    id: _Number
    peer_urls: tuple[str, ...]
    learner: bool = False
    promote: bool = False


class RemoveMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=13):
    """Remove a member from the list: its id is remembered and never accepted again."""

    id: _Number


class UpdateMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=14):
    """Change the peer URLs of a member."""

    id: _Number
    peer_urls: tuple[str, ...]


class PromoteMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=15):
    """A learner has become a voting member."""

    id: _Number


class RefuseChange(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=16):
    """The leader refuses a change of members that another member asked for, with the reason: this completes
    the request and changes nothing.
    """

    why: str


class RaiseLevel(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=17):
    """Raise the feature level of the cluster to this one. Refused unless every member has announced that it
    knows it; without effect if the cluster is at this level or a higher one.
    """

    level: _Level


class JoinMember(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=18):
    """Add a member as a learner. It is to be promoted if fewer than `voters` members vote or are to be
    promoted when this is applied, so that simultaneous joins count each other.

    It replaces the member `replaces`, which is removed by the same entry; 0: none.
    """

    id: _Number
    peer_urls: tuple[str, ...]
    voters: _Number
    replaces: _Number = 0


class AdmitPlugin(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=22):
    """Admit a plugin, or replace what is said of it. `document` describes it (`network.plugins`); `digest`
    and `size` are those of its wheel, empty and 0 without one. Parts of the same wheel that are stored stay.
    """

    name: str
    document: bytes
    digest: bytes = b""
    size: _Number = 0


class PutWheelPart(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=23):
    """Append a part to the wheel of an admitted plugin, which must have this digest and end at `offset`."""

    name: str
    digest: bytes
    offset: _Number
    data: bytes


class RetirePlugin(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=24):
    """Remove an admitted plugin and its wheel."""

    name: str


Command: TypeAlias = (
    Set
    | Create
    | Update
    | CompareAndSwap
    | InOrder
    | Delete
    | CompareAndDelete
    | QuorumGet
    | ExpireNodes
    | TtlCheckpoint
    | PublishMember
    | SetClusterVersion
    | AddMember
    | RemoveMember
    | UpdateMember
    | PromoteMember
    | RefuseChange
    | RaiseLevel
    | JoinMember
    | AdmitPlugin
    | PutWheelPart
    | RetirePlugin
    | V3Command
)

_ARRAY_SIZES: Final = {0xDC: 2, 0xDD: 4}
"""First byte of a long msgpack array -> bytes of its length field."""

_NUMBER_SIZES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
"""First byte of a msgpack unsigned integer -> bytes of its value."""

_decode: Final = msgspec.msgpack.Decoder(Command).decode


_FIELDS: Final[dict[int, int]] = {
    kind.__struct_config__.tag: len(kind.__struct_fields__) for kind in get_args(Command)
}
"""Number of each command -> its number of fields."""

_TOO_DEEP: Final = f"not a command of this version: more than {MAX_DEPTH} transactions in one another"


encode: Final[Callable[[Command], bytes]] = msgspec.msgpack.Encoder().encode
"""The byte form of a command."""


def decode(data: bytes) -> Command:
    """The command that these bytes encode.

    Any bytes may be given. What `encode` cannot have made raises CorruptData with the same text on every
    member; UnknownCommand if a later version may have made it.
    """
    try:
        command: Command = _decode(data)
    except RecursionError:
        raise CorruptData(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        unknown = _what_is_unknown(data, _FIELDS)
        if unknown is not None:
            raise UnknownCommand(f"not a command of this version: {unknown}") from None
        raise CorruptData(f"not a command of this version: {error}") from None
    if isinstance(command, KeyCommand):
        if not is_canonical(command.path):
            raise CorruptData(f"not a command of this version: path {command.path!r} is not canonical")
    elif type(command) is Txn and _is_deep(command):
        raise CorruptData(_TOO_DEEP)
    return command


def head_of(data: bytes) -> tuple[int, int] | None:
    """The number of the command that these bytes begin with, and how many fields follow it; None if they
    begin with none. Any bytes may be given. (msgpack specification, array and int formats.)
    """
    first = data[0] if data else 0
    if first & 0xF0 == 0x90:
        count, at = first & 0x0F, 1
    elif first in _ARRAY_SIZES:
        at = 1 + _ARRAY_SIZES[first]
        count = int.from_bytes(data[1:at], "big")
    else:
        return None
    if count == 0 or len(data) <= at:
        return None
    if data[at] < 0x80:
        return data[at], count - 1
    size = _NUMBER_SIZES.get(data[at])
    if size is None or len(data) < at + 1 + size:
        return None
    return int.from_bytes(data[at + 1 : at + 1 + size], "big"), count - 1


def _what_is_unknown(data: bytes, fields: Mapping[int, int]) -> str | None:
    head = head_of(data)
    if head is None:
        return None
    number, count = head
    if number not in fields:
        return f"command {number} is not known"
    known = fields[number]
    return f"command {number} has {count} fields, and {known} are known" if count > known else None


def _is_deep(txn: Txn) -> bool:
    """Whether transactions are nested more than `MAX_DEPTH` deep. O(operations), no recursion."""
    if Txn not in map(type, txn.success) and Txn not in map(type, txn.failure):
        return False
    level: list[Txn] = [txn]
    for _ in range(MAX_DEPTH):
        level = [
            each
            for outer in level
            for branch in (outer.success, outer.failure)
            for each in branch
            if type(each) is Txn
        ]
        if not level:
            return False
    return True
