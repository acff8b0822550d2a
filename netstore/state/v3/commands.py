"""The replicated commands of the v3 API and their outcomes.

Commands are numbered from 64; the rules of `commands` apply (numbers never change, unknown fields are
refused). What the API must refuse before it proposes a command is in `txn.check`; what can only be decided
when it is applied is a `Fault` in place of the outcome.

The `revision` of an outcome is that in the header of its answer (v3 API, ResponseHeader). Pairs are encoded
`mvccpb.KeyValue` messages (`keyvalue`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

from netstore.errors import Fault

if TYPE_CHECKING:
    from netstore.types import LeaseId, NodeId, Revision

ASCEND: Final = 1
DESCEND: Final = 2
"""`Range.sort_order`, as on the wire; 0 is none."""

BY_KEY: Final = 0
BY_VERSION: Final = 1
BY_CREATE: Final = 2
BY_MOD: Final = 3
BY_VALUE: Final = 4
"""`Range.sort_target`, as on the wire."""

EQUAL: Final = 0
GREATER: Final = 1
LESS: Final = 2
NOT_EQUAL: Final = 3
"""`Compare.result`, as on the wire."""

VERSION: Final = 0
CREATE: Final = 1
MOD: Final = 2
VALUE: Final = 3
LEASE: Final = 4
"""`Compare.target`, as on the wire."""

NOSPACE: Final = 1
CORRUPT: Final = 2
"""`SetAlarm.kind`, as on the wire."""

MAX_DEPTH: Final = 128
"""Nesting of transactions, the outermost included. Anything deeper is no command: whether it could be decoded
would depend on the stack size, which differs between members.
"""

_Key = Annotated[bytes, msgspec.Meta(min_length=1)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Member = Annotated[int, msgspec.Meta(ge=0)]


class V3Struct(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """The base of the commands of the v3 API: encoded as an array, the number first."""


class Put(V3Struct, frozen=True, tag=64):
    """Write one pair (v3 API, Put). Gives `PutDone`."""

    key: _Key
    value: bytes = b""
    lease: _Int64 = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class DeleteRange(V3Struct, frozen=True, tag=65):
    """Delete a key, or with `range_end` a range of keys (v3 API, DeleteRange). Gives `Deleted`."""

    key: _Key
    range_end: bytes = b""
    prev_kv: bool = False


class Range(V3Struct, frozen=True, tag=66):
    """A read (v3 API, Range). Gives `Found`, or `Later` if applied; the API proposes it only inside a
    transaction.
    """

    key: _Key
    range_end: bytes = b""
    limit: _Int64 = 0
    revision: _Int64 = 0
    sort_order: Annotated[int, msgspec.Meta(ge=0, le=DESCEND)] = 0
    sort_target: Annotated[int, msgspec.Meta(ge=0, le=BY_VALUE)] = BY_KEY
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: _Int64 = 0
    max_mod_revision: _Int64 = 0
    min_create_revision: _Int64 = 0
    max_create_revision: _Int64 = 0


class Compare(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """One condition of a transaction (v3 API, Compare). `value` is the operand for the target `VALUE`,
    `number` for all others; an operand that was not given is 0 or empty.
    """

    key: _Key
    target: Annotated[int, msgspec.Meta(ge=0, le=LEASE)] = VERSION
    result: Annotated[int, msgspec.Meta(ge=0, le=NOT_EQUAL)] = EQUAL
    number: _Int64 = 0
    value: bytes = b""
    range_end: bytes = b""


class Txn(V3Struct, frozen=True, tag=67):
    """If all compares hold, run `success`, else `failure` (v3 API, Txn). Gives `TxnDone`."""

    compares: tuple[Compare, ...] = ()
    success: tuple[Range | Put | DeleteRange | Txn, ...] = ()
    failure: tuple[Range | Put | DeleteRange | Txn, ...] = ()


class Compact(V3Struct, frozen=True, tag=68):
    """Forget the history before `revision` (v3 API, Compact). Gives `Done`."""

    revision: _Int64


class LeaseGrant(V3Struct, frozen=True, tag=69):
    """Create a lease. The member that took the request has chosen the id, unless the client did, and raised
    the TTL to the minimum (`lease.granted_ttl`). Gives `LeaseGranted`.
    """

    id: _Int64
    ttl: _Count
    """Seconds."""


class LeaseRevoke(V3Struct, frozen=True, tag=70):
    """End a lease and delete its keys. Gives `Done`."""

    id: _Int64


class LeaseRenew(V3Struct, frozen=True, tag=71):
    """Start a lease's TTL anew (v3 API, LeaseKeepAlive). Gives `LeaseGranted`."""

    id: _Int64


class LeaseExpire(V3Struct, frozen=True, tag=72):
    """End leases whose TTL is over by the leader's clock: each as (id, since), unless it was renewed after
    the index `since` (`Lease.since`). Each that has keys makes a revision. Gives `Done`.
    """

    leases: tuple[tuple[_Int64, _Count], ...]


class LeaseCheckpoint(V3Struct, frozen=True, tag=73):
    """A checkpoint of what leases have left, as (id, since, seconds), for restarts. Gives `Done`."""

    leases: tuple[tuple[_Int64, _Count, _Count], ...]


class SetAlarm(V3Struct, frozen=True, tag=74):
    """Raise or clear an alarm of a member. Gives `AlarmChanged`."""

    member: _Member
    kind: Annotated[int, msgspec.Meta(ge=NOSPACE, le=CORRUPT)]
    active: bool


Operation: TypeAlias = Range | Put | DeleteRange | Txn
"""An operation of a transaction."""

V3Command: TypeAlias = (
    Put
    | DeleteRange
    | Range
    | Txn
    | Compact
    | LeaseGrant
    | LeaseRevoke
    | LeaseRenew
    | LeaseExpire
    | LeaseCheckpoint
    | SetAlarm
)


class Later(msgspec.Struct, frozen=True, gc=False):
    """A deferred read: the outcome of a read inside a command. Applying a command reads nothing for answers;
    only the member that answers the request reads, at a bound (`index`) that is the state between two
    operations (`txn.settle`).
    """

    revision: Revision
    query: Range
    bound: int


class PutDone(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a put. `prev_kv` is the previous pair, if it was asked for and existed."""

    revision: Revision
    prev_kv: bytes | Later | None = None


class Deleted(msgspec.Struct, frozen=True, gc=False):
    """The number of deleted keys, and their pairs in key order, if they were asked for."""

    revision: Revision
    deleted: int
    prev_kvs: list[bytes] | Later


class Found(msgspec.Struct, frozen=True, gc=False):
    """The answer to a read. `count` is the number of keys in the range, ignoring limit and filters."""

    revision: Revision
    kvs: list[bytes]
    count: int
    more: bool = False


class TxnDone(msgspec.Struct, frozen=True):
    """One response for each operation of the branch taken, in order.

    The header of a nested transaction is present but empty: its `revision` is 0.
    """

    revision: Revision
    succeeded: bool
    responses: list[PutDone | Deleted | Found | Later | TxnDone]


class Done(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a command that has nothing to report but the store's revision."""

    revision: Revision


class LeaseGranted(msgspec.Struct, frozen=True, gc=False):
    """The lease was granted or renewed; `ttl` is its full TTL in seconds."""

    revision: Revision
    id: LeaseId
    ttl: int


class AlarmChanged(msgspec.Struct, frozen=True, gc=False):
    """The alarms that changed, as (member, kind): one or none."""

    revision: Revision
    alarms: list[tuple[NodeId, int]]


V3Outcome: TypeAlias = (
    PutDone | Deleted | Found | Later | TxnDone | Done | LeaseGranted | AlarmChanged | Fault
)
"""The result of applying a command of the v3 API."""
