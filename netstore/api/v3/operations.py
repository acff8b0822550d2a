"""What requests of the v3 API are going to do, for the gate (`api.gate`).

A request whose answer has the previous pairs (`prev_kv`) reads them, too. A transaction needs access to
everything that any of its branches, at any depth, may do, whichever of them is carried out. A put that
attaches its key to a lease uses that lease. Revoking a lease deletes the keys attached to it.

Each function but `txn` makes at most three accesses. A key or range end is copied once for each access that
it is in at most, so the bytes copied are no more than twice those of the request.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from netstore.api.gate import Access, Api, Kind, Operation
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3 import commands as v3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.state.v3.commands import Range, Txn

_KV: Final = b"/etcdserverpb.KV/"
_LEASE: Final = b"/etcdserverpb.Lease/"
_CLUSTER: Final = b"/etcdserverpb.Cluster/"
_MAINTENANCE: Final = b"/etcdserverpb.Maintenance/"
_AUTH: Final = b"/etcdserverpb.Auth/"
_HEALTH: Final = b"/grpc.health.v1.Health/"

RANGE: Final = _KV + b"Range"
PUT: Final = _KV + b"Put"
DELETE_RANGE: Final = _KV + b"DeleteRange"
TXN: Final = _KV + b"Txn"
COMPACT: Final = _KV + b"Compact"
WATCH: Final = b"/etcdserverpb.Watch/Watch"
LEASE_GRANT: Final = _LEASE + b"LeaseGrant"
LEASE_REVOKE: Final = _LEASE + b"LeaseRevoke"
LEASE_TIME_TO_LIVE: Final = _LEASE + b"LeaseTimeToLive"
LEASE_LEASES: Final = _LEASE + b"LeaseLeases"
LEASE_KEEP_ALIVE: Final = _LEASE + b"LeaseKeepAlive"
MEMBER_ADD: Final = _CLUSTER + b"MemberAdd"
MEMBER_REMOVE: Final = _CLUSTER + b"MemberRemove"
MEMBER_UPDATE: Final = _CLUSTER + b"MemberUpdate"
MEMBER_LIST: Final = _CLUSTER + b"MemberList"
MEMBER_PROMOTE: Final = _CLUSTER + b"MemberPromote"
STATUS: Final = _MAINTENANCE + b"Status"
ALARM: Final = _MAINTENANCE + b"Alarm"
DEFRAGMENT: Final = _MAINTENANCE + b"Defragment"
HASH: Final = _MAINTENANCE + b"Hash"
HASH_KV: Final = _MAINTENANCE + b"HashKV"
MOVE_LEADER: Final = _MAINTENANCE + b"MoveLeader"
SNAPSHOT: Final = _MAINTENANCE + b"Snapshot"
DOWNGRADE: Final = _MAINTENANCE + b"Downgrade"
AUTH_STATUS: Final = _AUTH + b"AuthStatus"
AUTHENTICATE: Final = _AUTH + b"Authenticate"
HEALTH_CHECK: Final = _HEALTH + b"Check"
HEALTH_WATCH: Final = _HEALTH + b"Watch"


def _fixed(name: bytes, kind: Kind, *, may_write: bool = False) -> Callable[[object], Operation]:
    """For a method whose requests are all alike, and access no keys in particular."""
    operation = Operation(Api.V3, name, (Access(kind),), may_write)
    return lambda _: operation


compact = _fixed(COMPACT, Kind.MAINTENANCE, may_write=True)
lease_leases = _fixed(LEASE_LEASES, Kind.LEASE)
member_add = _fixed(MEMBER_ADD, Kind.MEMBER, may_write=True)
member_remove = _fixed(MEMBER_REMOVE, Kind.MEMBER, may_write=True)
member_update = _fixed(MEMBER_UPDATE, Kind.MEMBER, may_write=True)
member_list = _fixed(MEMBER_LIST, Kind.MEMBER)
member_promote = _fixed(MEMBER_PROMOTE, Kind.MEMBER, may_write=True)
status = _fixed(STATUS, Kind.MAINTENANCE)
defragment = _fixed(DEFRAGMENT, Kind.MAINTENANCE, may_write=True)
hash_ = _fixed(HASH, Kind.MAINTENANCE)
hash_kv = _fixed(HASH_KV, Kind.MAINTENANCE)
move_leader = _fixed(MOVE_LEADER, Kind.MAINTENANCE, may_write=True)
snapshot = _fixed(SNAPSHOT, Kind.MAINTENANCE)
downgrade = _fixed(DOWNGRADE, Kind.MAINTENANCE)
auth_status = _fixed(AUTH_STATUS, Kind.PUBLIC)
authenticate = _fixed(AUTHENTICATE, Kind.PUBLIC)
health_check = _fixed(HEALTH_CHECK, Kind.PUBLIC)
health_watch = _fixed(HEALTH_WATCH, Kind.PUBLIC)


def put(command: v3.Put) -> Operation:
    """A Put, once it is decoded."""
    return Operation(Api.V3, PUT, tuple(_put(command)), may_write=True)


def range_(request: pb.RangeRequest | Range) -> Operation:
    """A Range."""
    return Operation(Api.V3, RANGE, (Access(Kind.READ, request.key, request.range_end),))


def delete_range(request: pb.DeleteRangeRequest) -> Operation:
    """A DeleteRange."""
    return Operation(Api.V3, DELETE_RANGE, tuple(_delete(request)), may_write=True)


def txn(command: Txn) -> Operation:
    """A Txn, once it is decoded. O(its compares and operations), at any depth; how many there are is limited
    by `transactions.parse_txn`.
    """
    accesses = [Access(Kind.READ, each.key, each.range_end) for each in command.compares]
    unread = [chain(command.success, command.failure)]
    while unread:
        operation = next(unread[-1], None)
        if operation is None:
            unread.pop()
        elif isinstance(operation, v3.Put):
            accesses += _put(operation)
        elif isinstance(operation, v3.Range):
            accesses.append(Access(Kind.READ, operation.key, operation.range_end))
        elif isinstance(operation, v3.DeleteRange):
            accesses += _delete(operation)
        else:
            accesses += [Access(Kind.READ, each.key, each.range_end) for each in operation.compares]
            unread.append(chain(operation.success, operation.failure))
    may_write = any(each.kind is not Kind.READ for each in accesses)
    return Operation(Api.V3, TXN, tuple(accesses), may_write)


def watch(request: pb.WatchCreateRequest) -> Operation:
    """A request to create a watch, on a Watch stream. An empty key is the first of all."""
    return Operation(Api.V3, WATCH, (Access(Kind.WATCH, request.key or b"\0", request.range_end),))


def lease_grant(request: pb.LeaseGrantRequest) -> Operation:
    """A LeaseGrant; its lease is 0 where the member chooses the id."""
    return _lease(LEASE_GRANT, request.ID, may_write=True)


def lease_revoke(request: pb.LeaseRevokeRequest) -> Operation:
    """A LeaseRevoke, which deletes the keys of the lease."""
    accesses = Access(Kind.LEASE, lease=request.ID), Access(Kind.DELETE, lease=request.ID)
    return Operation(Api.V3, LEASE_REVOKE, accesses, may_write=True)


def lease_time_to_live(request: pb.LeaseTimeToLiveRequest) -> Operation:
    """A LeaseTimeToLive; with `keys` it lists the keys of the lease."""
    own = Access(Kind.LEASE, lease=request.ID)
    accesses = (own, Access(Kind.READ, lease=request.ID)) if request.keys else (own,)
    return Operation(Api.V3, LEASE_TIME_TO_LIVE, accesses)


def lease_keep_alive(id_: int) -> Operation:
    """One renewal on a LeaseKeepAlive stream."""
    return _lease(LEASE_KEEP_ALIVE, id_, may_write=True)


def alarm(request: pb.AlarmRequest) -> Operation:
    """An Alarm: alarms are listed, raised or cleared."""
    may_write = request.action != pb.AlarmRequest.GET
    return Operation(Api.V3, ALARM, (Access(Kind.MAINTENANCE),), may_write)


def _lease(name: bytes, id_: int, *, may_write: bool) -> Operation:
    return Operation(Api.V3, name, (Access(Kind.LEASE, lease=id_),), may_write)


def _put(request: v3.Put) -> Iterator[Access]:
    yield Access(Kind.WRITE, request.key)
    if request.prev_kv:
        yield Access(Kind.READ, request.key)
    if request.lease:
        yield Access(Kind.LEASE, lease=request.lease)


def _delete(request: v3.DeleteRange | pb.DeleteRangeRequest) -> Iterator[Access]:
    yield Access(Kind.DELETE, request.key, request.range_end)
    if request.prev_kv:
        yield Access(Kind.READ, request.key, request.range_end)
