"""The Lease service. Grants, revocations and renewals go through the log; the time that a lease has left is
this member's count (`node.lessor`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.api.v3 import messages, operations
from netstore.api.v3.answers import fits
from netstore.api.v3.keepalive import KeepAliveStream
from netstore.api.v3.leaselists import LeaseLists, leases_response
from netstore.api.v3.sortedruns import STEP_BYTES, STEP_KEYS
from netstore.api.v3.status import refuse
from netstore.errors import Fault
from netstore.proto import rpc_pb2 as pb
from netstore.state.applying import UNIT_BYTES
from netstore.state.commands import encode
from netstore.state.v3.commands import Done, LeaseGrant, LeaseGranted, LeaseRevoke
from netstore.state.v3.lease import granted_ttl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.api.gate import Gate
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.lessor import Lessor
    from netstore.api.v3.messages import Headers
    from netstore.api.v3.shared import SharedAnswers
    from netstore.net.grpc.protocols import Call, Handler, StreamHandler
    from netstore.node.member import Member
    from netstore.node.quota import Quota
    from netstore.state.machine import Outcome
    from netstore.state.v3.lease import Lease
    from netstore.types import LeaseId

FEW_LEASES: Final = 100
"""Leases that are listed in one call; a request counts for less load than listing many takes."""

KEYS_PER_UNIT: Final = 8
"""Keys listed for one of the units of `Mvcc.read_units`."""

_ID_BITS: Final = 62


class LeaseService:
    """`etcdserverpb.Lease`."""

    def __init__(
        self,
        member: Member,
        headers: Headers,
        quota: Quota,
        lessor: Lessor,
        shared: SharedAnswers,
        *,
        below: Callable[[int], int],
        minimum_ttl: int,
    ) -> None:
        """`below` draws a random number below a bound; `minimum_ttl` is in seconds."""
        self._member = member
        self._headers = headers
        self._kept_alive = messages.KeptAlive(headers)
        self._quota = quota
        self._lessor = lessor
        self._below = below
        self._minimum_ttl = minimum_ttl
        self._lists = LeaseLists(member, headers, shared, self._answer_ended)

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler of the unary methods."""
        unary = interceptor.unary
        return {
            operations.LEASE_GRANT: unary(pb.LeaseGrantRequest, self._grant, operations.lease_grant),
            operations.LEASE_REVOKE: unary(pb.LeaseRevokeRequest, self._revoke, operations.lease_revoke),
            operations.LEASE_TIME_TO_LIVE: unary(
                pb.LeaseTimeToLiveRequest, self._time_to_live, operations.lease_time_to_live
            ),
            operations.LEASE_LEASES: unary(pb.LeaseLeasesRequest, self._list, operations.lease_leases),
        }

    def streams(self, interceptor: Interceptor) -> dict[bytes, StreamHandler]:
        """Path -> handler of the streams."""
        return {operations.LEASE_KEEP_ALIVE: interceptor.stream(self._keep_alive)}

    def _grant(self, call: Call, request: pb.LeaseGrantRequest) -> None:
        ttl = granted_ttl(request.TTL, self._minimum_ttl)
        if isinstance(ttl, Fault):
            refuse(call, ttl)
            return
        command = LeaseGrant(request.ID or self._free_id(), ttl)
        fault = self._quota.refuse(command)
        if fault is not None:
            refuse(call, fault)
        else:
            self._member.propose(encode(command), partial(self._granted, call), call.principal.encode())

    def _free_id(self) -> int:
        leases = self._member.machine.leases
        while True:
            id_ = 1 + self._below(1 << _ID_BITS)
            if leases.get(id_) is None:
                return id_

    def _granted(self, call: Call, outcome: Outcome | Fault) -> None:
        if isinstance(outcome, LeaseGranted):
            answer = pb.LeaseGrantResponse(ID=outcome.id, TTL=outcome.ttl)
            call.reply(messages.write(self._headers(outcome.revision), answer))
        elif isinstance(outcome, Fault):
            refuse(call, outcome)

    def _revoke(self, call: Call, request: pb.LeaseRevokeRequest) -> None:
        self._member.propose(
            encode(LeaseRevoke(request.ID)), partial(self._revoked, call), call.principal.encode()
        )

    def _revoked(self, call: Call, outcome: Outcome | Fault) -> None:
        if isinstance(outcome, Done):
            call.reply(self._headers(outcome.revision))
        elif isinstance(outcome, Fault):
            refuse(call, outcome)

    def _time_to_live(self, call: Call, request: pb.LeaseTimeToLiveRequest) -> None:
        self._lessor.time_to_live(
            request.ID, partial(self._time_left, call, request.ID, request.keys), call.principal
        )

    def _time_left(self, call: Call, id_: int, keys: bool, left: int | Fault) -> None:
        machine = self._member.machine
        if isinstance(left, Fault):
            refuse(call, left)
            return
        lease = machine.leases.get(id_)
        if left < 0 or lease is None:
            answer = pb.LeaseTimeToLiveResponse(ID=id_, TTL=-1)
        else:
            held = self._few_keys(call, lease) if keys else ()
            if held is None:
                self._lists.send_keys(call, lease, left)
                return
            answer = pb.LeaseTimeToLiveResponse(ID=id_, TTL=left, grantedTTL=lease.ttl, keys=held)
        call.reply(messages.write(self._headers(machine.mvcc.revision), answer))

    def _few_keys(self, call: Call, lease: Lease) -> Iterable[bytes] | None:
        """The keys of a lease, sorted, if they are no more than one step of a list handles. What is looked at
        is counted as units of reading.
        """
        machine = self._member.machine
        if machine.leases.looked_at(lease) > STEP_KEYS:
            return None
        held = machine.leases.keys_of(lease)
        size = sum(map(len, held))
        machine.mvcc.read_units += len(held) // KEYS_PER_UNIT
        if size > STEP_BYTES or not fits(call, size):
            return None
        machine.mvcc.read_units += size // UNIT_BYTES
        return sorted(held)

    def _answer_ended(self, call: Call, id_: LeaseId) -> None:
        """Answer a call that waited for the keys of a lease that has ended: that there is none or, if another
        has its id now, with the time that one has left.
        """
        if self._member.machine.leases.get(id_) is None:
            self._time_left(call, id_, False, -1)
        else:
            self._lessor.time_to_live(id_, partial(self._time_left, call, id_, True), call.principal)

    def _list(self, call: Call, _: pb.LeaseLeasesRequest) -> None:
        machine = self._member.machine
        if machine.leases.places > FEW_LEASES:
            self._lists.send_ids(call)
            return
        answer = leases_response(sorted(machine.leases.timed_keys()))
        call.reply(messages.write(self._headers(machine.mvcc.revision), answer))

    def _keep_alive(self, call: Call, gate: Gate) -> KeepAliveStream:
        return KeepAliveStream(call, gate, self._member, self._kept_alive, self._lessor)
