"""Refusing a call of the v3 API: with etcd's gRPC codes and texts, to the letter (v3 API, error table)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore import codes

if TYPE_CHECKING:
    from netstore.errors import Fault, Reason
    from netstore.net.grpc.protocols import Call

_NOT_A_MESSAGE: Final = "grpc: error unmarshalling request: {}"


class RefusedError(Exception):
    """Raised by the decoder of a request that is refused whatever the state and the gate say."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.v3_text)
        self.fault = fault


def refuse(call: Call, fault: Fault) -> None:
    """End a call with the status of a fault."""
    call.finish(fault.grpc_code, fault.v3_text)


def end(call: Call, reason: Reason) -> None:
    """End a call with the status of a reason."""
    call.finish(reason.grpc_code, reason.v3_text)


def not_a_message(error: object) -> tuple[int, str]:
    """The status of a call whose message cannot be decoded."""
    return codes.INTERNAL, _NOT_A_MESSAGE.format(error)
