"""gRPC's health service: whether this program serves. `/health` tells whether the cluster has a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.api.v3 import operations
from netstore.api.v3.interceptor import Single
from netstore.api.v3.status import end, not_a_message, refuse
from netstore.errors import Reason
from netstore.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from netstore.proto.wire import BadMessage, parse

if TYPE_CHECKING:
    from netstore.api.gate import Gate
    from netstore.net.grpc.protocols import Call, Handler, Receiver, StreamHandler

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


def methods(gate: Gate) -> dict[bytes, Handler]:
    """Path -> handler of the unary method. Learners, and members without a leader, serve it, too."""

    def check(call: Call, message: bytes) -> None:
        try:
            request = parse(HealthCheckRequest, message)
        except BadMessage as error:
            call.finish(*not_a_message(error))
            return
        if gate.policy is not None:
            fault = gate.check(operations.health_check(request), call.principal)
            if fault is not None:
                refuse(call, fault)
                return
        if request.service:
            end(call, Reason.UNKNOWN_SERVICE)
        else:
            call.reply(_SERVING)

    return {operations.HEALTH_CHECK: check}


def streams(gate: Gate) -> dict[bytes, StreamHandler]:
    """Path -> handler of the stream."""

    def watch(call: Call) -> Receiver:
        return Single(
            call,
            gate,
            kind=HealthCheckRequest,
            method=_watch,
            operation=operations.health_watch,
        )

    return {operations.HEALTH_WATCH: watch}


def _watch(call: Call, request: HealthCheckRequest) -> None:
    """The status does not change while the program runs: one answer, then none until the client ends the
    call.
    """
    call.send(_UNKNOWN if request.service else _SERVING)
