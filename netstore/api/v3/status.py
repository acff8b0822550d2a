"""How a call of the v3 API is refused: gRPC code and text, to the letter (v3 API, error table)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.net import grpc
from netstore.node import cluster
from netstore.state import member

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.net.grpc import Call

NOT_FOR_LEARNERS: Final = "etcdserver: rpc not supported for learner"
MEMBER_NOT_FOUND: Final = "etcdserver: member not found"
BAD_MEMBER_URLS: Final = "etcdserver: given member URLs are invalid"
REQUEST_TOO_LARGE: Final = "etcdserver: request is too large"
UNKNOWN_SERVICE: Final = "unknown service"
NOT_A_MESSAGE: Final = "grpc: error unmarshalling request: {}"

OF_MEMBERS: Final = {
    member.ID_EXISTS: (grpc.FAILED_PRECONDITION, "etcdserver: member ID already exist"),
    member.ID_REMOVED: (grpc.NOT_FOUND, MEMBER_NOT_FOUND),
    member.ID_NOT_FOUND: (grpc.NOT_FOUND, MEMBER_NOT_FOUND),
    member.PEER_URL_EXISTS: (grpc.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
    member.NOT_LEARNER: (grpc.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"),
    member.TOO_MANY_LEARNERS: (
        grpc.FAILED_PRECONDITION,
        "etcdserver: too many learner members in cluster",
    ),
    member.TOO_MANY_VOTERS: (
        grpc.FAILED_PRECONDITION,
        "etcdserver: too many voting members in cluster",
    ),
    member.LEARNER_NOT_READY: (grpc.FAILED_PRECONDITION, member.LEARNER_NOT_READY),
    member.NOT_ENOUGH_STARTED: (grpc.FAILED_PRECONDITION, member.NOT_ENOUGH_STARTED),
    member.UNHEALTHY: (grpc.UNAVAILABLE, member.UNHEALTHY),
    cluster.NOT_LEADER: (grpc.FAILED_PRECONDITION, cluster.NOT_LEADER),
    cluster.BAD_TRANSFEREE: (grpc.FAILED_PRECONDITION, cluster.BAD_TRANSFEREE),
    cluster.TRANSFER_TIMED_OUT: (grpc.UNAVAILABLE, cluster.TRANSFER_TIMED_OUT),
}
"""What is said of members elsewhere -> gRPC code and the words of the v3 API."""


def refuse(call: Call, fault: Fault) -> None:
    """End a call with what a fault says."""
    text = fault.cause.decode("utf-8", "replace")
    code, words = OF_MEMBERS.get(text, (fault.grpc_code, text))
    call.finish(code, words)
