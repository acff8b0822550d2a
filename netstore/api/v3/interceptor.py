"""The interceptor of the v3 API: checks that every call passes before a service handles it.

A learner serves only methods that need no more than its own state. A client that sends `hasleader` requires a
leader: its calls are refused while this member knows none, and its streams end after three election timeouts
without one, so that it tries another member (v3 API, request metadata). Then the request is decoded, and the
gate is asked (`api.gate`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from netstore.api.v3.status import RefusedError, end, not_a_message, refuse
from netstore.errors import Reason
from netstore.guard import guarded
from netstore.proto.wire import BadMessage, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from google.protobuf.message import Message

    from netstore.api.gate import Gate, Operation
    from netstore.net.grpc.protocols import Call, Handler, Receiver, StreamHandler
    from netstore.node.member import Member
    from netstore.seams import After

    _M = TypeVar("_M", bound=Message)
    _R = TypeVar("_R")

LOST_ELECTIONS: Final = 3
"""Election timeouts without a leader after which a stream that requires one ends."""

ENDED_AT_ONCE: Final = 256
"""Streams ended in one piece of work for lack of a leader, at 18 us each; and streams checked in one piece of
work for whether they have ended by themselves.
"""

_CHECKED_FOR_EACH: Final = 2
"""Streams checked for each that opens, so that about half of those that are kept are open at least."""


class Interceptor:
    """Wraps the methods of all services. `election_seconds` is the election timeout."""

    def __init__(self, member: Member, gate: Gate, after: After, election_seconds: float) -> None:
        self._member = member
        self._gate = gate
        self._after = after
        self._election_seconds = election_seconds
        self._needing_leader: OrderedDict[Call, Receiver] = OrderedDict()
        """Streams that require a leader, and some that have ended. The one checked last is at the end."""
        self._scheduled = False
        """`_check` is scheduled."""
        self._missed = 0
        """Checks in a row without a leader."""

    def unary(
        self,
        kind: type[_M],
        method: Callable[[Call, _M], None],
        operation: Callable[[_M], Operation],
        *,
        learner: bool = False,
    ) -> Handler:
        """A unary method. `operation` is what a request is going to do, for the gate; `learner`: learners
        serve the method, too.
        """
        return self.unary_of(kind.FromString, method, operation, learner=learner)

    def unary_of(
        self,
        read: Callable[[bytes], _R],
        method: Callable[[Call, _R], None],
        operation: Callable[[_R], Operation],
        *,
        learner: bool = False,
    ) -> Handler:
        """The same for a request that `read` decodes from the message. It raises DecodeError if it cannot,
        and RefusedError for one that is refused whatever the gate says.
        """
        admits, gate, member, own = self._admits, self._gate, self._member, self._member.id

        def handle(call: Call, message: bytes) -> None:
            # The leader is no learner, and knows a leader.
            if member.leader != own and not admits(call, learner):
                return
            try:
                request = read(message)
            except DecodeError as error:
                call.finish(*not_a_message(error))
                return
            except RefusedError as refused:
                refuse(call, refused.fault)
                return
            if gate.policy is not None:
                fault = gate.check(operation(request), call.principal)
                if fault is not None:
                    refuse(call, fault)
                    return
            method(call, request)

        return handle

    def stream(self, method: Callable[[Call, Gate], Receiver], *, learner: bool = False) -> StreamHandler:
        """A method with a stream of requests or of answers. `method` gets the gate, which its receiver asks
        for each request.
        """

        admits, member, own = self._admits, self._member, self._member.id

        def handle(call: Call) -> Receiver:
            if member.leader != own and not admits(call, learner):
                return NULL_RECEIVER
            receiver = method(call, self._gate)
            if call.metadata(b"hasleader") == b"true":
                self._forget_ended(_CHECKED_FOR_EACH)
                self._needing_leader[call] = receiver
                self._schedule(self._election_seconds)
            return receiver

        return handle

    def _admits(self, call: Call, learner: bool) -> bool:
        member = self._member
        if not learner:
            own = member.machine.members.get(member.id)
            if own is not None and own.learner:
                end(call, Reason.NOT_FOR_LEARNERS)
                return False
        if not member.leader and call.metadata(b"hasleader") == b"true":
            end(call, Reason.NO_LEADER)
            return False
        return True

    def _schedule(self, seconds: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._after(seconds, self._check)

    def _check(self) -> None:
        """Runs once in an election timeout, or at once while there are streams to end. O(`ENDED_AT_ONCE`)."""
        self._scheduled = False
        self._missed = 0 if self._member.leader else self._missed + 1
        faults: list[Exception] = []
        seconds = self._election_seconds
        if self._missed >= LOST_ELECTIONS:
            seconds = 0
            for _ in range(min(len(self._needing_leader), ENDED_AT_ONCE)):
                call, receiver = self._needing_leader.popitem(last=False)
                if call.open:
                    guarded(faults.append, _leaderless, call, receiver)
        else:
            self._forget_ended(ENDED_AT_ONCE)
        if self._needing_leader:
            self._schedule(seconds)
        if faults:
            try:
                raise faults[0]  # reported once; the other streams were ended nevertheless
            finally:
                faults.clear()  # breaks the reference cycle of list, traceback and frame

    def _forget_ended(self, checked: int) -> None:
        needing = self._needing_leader
        for _ in range(min(checked, len(needing))):
            call = next(iter(needing))
            if call.open:
                needing.move_to_end(call)
            else:
                del needing[call]


def _leaderless(call: Call, receiver: Receiver) -> None:
    end(call, Reason.NO_LEADER)
    receiver.cancelled()


class _NullReceiver:
    """A `Receiver` for a stream that was refused."""

    def received(self, message: bytes) -> None: ...
    def half_closed(self) -> None: ...
    def cancelled(self) -> None: ...


NULL_RECEIVER: Final = _NullReceiver()


class Single:
    """A `Receiver` for a method with one request and a stream of answers: of `net.grpc.protocols`.

    `method` gets the request, if the gate admits it, and returns what is called when the client goes away, or
    None.
    """

    def __init__(
        self,
        call: Call,
        gate: Gate,
        *,
        kind: type[_M],
        method: Callable[[Call, _M], Callable[[], None] | None],
        operation: Callable[[_M], Operation],
    ) -> None:
        self._call = call
        self._gate = gate
        self._kind = kind
        self._method = method
        self._operation = operation
        self._gone: Callable[[], None] | None = None
        self._asked = False

    def received(self, message: bytes) -> None:
        """The request."""
        if self._asked:
            self._call.finish(*not_a_message("one request was expected"))
            self.cancelled()
            return
        self._asked = True
        try:
            request = parse(self._kind, message)
        except BadMessage as error:
            self._call.finish(*not_a_message(error))
            return
        if self._gate.policy is not None:
            fault = self._gate.check(self._operation(request), self._call.principal)
            if fault is not None:
                refuse(self._call, fault)
                return
        self._gone = self._method(self._call, request)

    def half_closed(self) -> None:
        """No request comes any more."""
        if not self._asked:
            self._call.finish(*not_a_message("a request was expected"))

    def cancelled(self) -> None:
        """The client went away."""
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()
