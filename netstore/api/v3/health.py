"""gRPC's health service: this program serves. Whether the cluster has a leader is `/health`'s to tell."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from netstore.api.v3.interceptor import Single
from netstore.api.v3.status import end, not_a_message
from netstore.errors import Reason
from netstore.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from netstore.proto.wire import BadMessage, parse

if TYPE_CHECKING:
    from netstore.net.grpc.protocols import Call, Handler, StreamHandler

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


def methods() -> dict[bytes, Handler]:
    """Path -> handler of the unary method. Learners and members without a leader serve it, too."""
    return {b"/grpc.health.v1.Health/Check": _check}


def streams() -> dict[bytes, StreamHandler]:
    """Path -> handler of the stream."""
    return {b"/grpc.health.v1.Health/Watch": partial(Single, kind=HealthCheckRequest, method=_watch)}


def _check(call: Call, message: bytes) -> None:
    try:
        request = parse(HealthCheckRequest, message)
    except BadMessage as error:
        call.finish(*not_a_message(error))
        return
    if request.service:
        end(call, Reason.UNKNOWN_SERVICE)
    else:
        call.reply(_SERVING)


def _watch(call: Call, request: HealthCheckRequest) -> None:
    """The status never changes while the program runs: one answer, then silence until the client goes."""
    call.send(_UNKNOWN if request.service else _SERVING)
