"""The Auth service, as far as it says that there are no users and roles. A client that has a name and a
password goes on without a token when it is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.v3 import messages, operations
from netstore.api.v3.status import end
from netstore.errors import Reason
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import Headers
    from netstore.net.grpc.protocols import Call, Handler
    from netstore.node.member import Member

FIRST_REVISION: Final = 1
"""The revision of users and roles as long as none was ever made, as in etcd."""


class AuthService:
    """`etcdserverpb.Auth`; its other methods are not served."""

    def __init__(self, member: Member, headers: Headers) -> None:
        self._member = member
        self._headers = headers

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler."""
        return {
            operations.AUTH_STATUS: interceptor.unary(
                pb.AuthStatusRequest, self._status, operations.auth_status
            ),
            operations.AUTHENTICATE: interceptor.unary(
                pb.AuthenticateRequest, self._authenticate, operations.authenticate
            ),
        }

    @staticmethod
    def _authenticate(call: Call, _: pb.AuthenticateRequest) -> None:
        end(call, Reason.NO_USERS)

    def _status(self, call: Call, _: pb.AuthStatusRequest) -> None:
        revision = self._member.machine.mvcc.revision
        answer = pb.AuthStatusResponse(enabled=False, authRevision=FIRST_REVISION)
        call.reply(messages.write(self._headers(revision), answer))
