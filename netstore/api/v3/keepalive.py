"""A LeaseKeepAlive stream: renewals of leases, answered in the order in which they were requested."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from netstore import codes
from netstore.api.v3 import operations
from netstore.api.v3.status import not_a_message, refuse
from netstore.errors import Fault
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from netstore.api.gate import Gate
    from netstore.api.v3.lessor import Lessor
    from netstore.api.v3.messages import KeptAlive
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Member

MOST_WAITING: Final = 4_096
"""Renewals of one stream that may wait for the leader; more end the stream."""

MOST_UNREAD: Final = 1 << 20
"""Bytes of answers that a client may leave unread before its stream ends."""


_decode: Final = pb.LeaseKeepAliveRequest.FromString


class KeepAliveStream:
    """One such stream, a `Receiver`."""

    __slots__ = ("_answers", "_call", "_closing", "_gate", "_lessor", "_member", "_waiting")

    def __init__(self, call: Call, gate: Gate, member: Member, answers: KeptAlive, lessor: Lessor) -> None:
        self._call = call
        self._gate = gate
        self._member = member
        self._answers = answers
        self._lessor = lessor
        self._waiting: deque[_Renewal] = deque()
        """Renewals that are not answered, in the order of the requests."""
        self._closing = False
        """The client sends no more requests."""

    def received(self, message: bytes) -> None:
        """A request to renew a lease."""
        try:
            id_ = _decode(message).ID
        except DecodeError as error:
            self._call.finish(*not_a_message(error))
            return
        if len(self._waiting) >= MOST_WAITING or self._call.backlog > MOST_UNREAD:
            self._call.finish(codes.RESOURCE_EXHAUSTED, "too many renewals wait; read their answers first")
            self.cancelled()
            return
        if self._gate.policy is not None:
            fault = self._gate.check(operations.lease_keep_alive(id_), self._call.principal)
            if fault is not None:
                refuse(self._call, fault)
                self.cancelled()
                return
        renewal = _Renewal(self, id_, self._member.machine.mvcc.revision)
        self._waiting.append(renewal)
        self._lessor.keep_alive(id_, renewal.done, self._call.principal)

    def half_closed(self) -> None:
        """The client sends no more requests: the stream ends once all renewals are answered."""
        self._closing = True
        if not self._waiting:
            self._call.finish()

    def cancelled(self) -> None:
        """The call is over: nothing more is answered."""
        self._waiting.clear()

    def advance(self) -> None:
        """Answer the renewals that are done and have none before them that is not."""
        waiting = self._waiting
        while waiting and (ttl := waiting[0].ttl) is not None:
            renewal = waiting.popleft()
            if isinstance(ttl, Fault):
                waiting.clear()
                refuse(self._call, ttl)
                return
            answer = self._answers.write(renewal.revision, renewal.id, ttl)
            if self._closing and not waiting:
                self._call.reply(answer)
                return
            self._call.send(answer)
        if self._closing and not waiting:
            self._call.finish()


class _Renewal:
    """One renewal. The header of its answer has the revision at the time of the request, and no later one."""

    __slots__ = ("_stream", "id", "revision", "ttl")

    def __init__(self, stream: KeepAliveStream, id_: int, revision: int) -> None:
        self._stream = stream
        self.id = id_
        self.revision = revision
        self.ttl: int | Fault | None = None

    def done(self, ttl: int | Fault) -> None:
        self.ttl = ttl
        self._stream.advance()
