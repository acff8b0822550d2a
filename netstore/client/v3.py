"""etcd's v3 API as the agent uses it: ranges, conditional writes, leases and watches.

A call returns the answer's protobuf message, or raises `Status` if the store refused, else `Unreachable` or
`BadAnswer` (`client.faults`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from netstore.client.faults import BadAnswer
from netstore.client.grpc import UNAUTHENTICATED, UNAVAILABLE, Status
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from netstore.client.grpc import Call, Channel

    Answer = TypeVar("Answer", bound=Message)

_SERVICE: Final = "/etcdserverpb."


class WatchCall:
    """A watch of one range of keys. The first answer says that it was created."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def answer(self) -> pb.WatchResponse:
        """The next answer. Waits without limit."""
        return _decoded(pb.WatchResponse, await self._call.receive(), self._call.endpoint)


class V3Client:
    """The v3 API behind the endpoints of a channel; tasks may share it. With a user name, calls carry a token
    of that user, which is requested when it is needed.
    """

    def __init__(self, channel: Channel, username: str | None = None, password: str | None = None) -> None:
        self.channel = channel
        self._username = username
        self._password = password or ""

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """KV/Range."""
        return await self._call("KV/Range", request, pb.RangeResponse, write=False)

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """KV/Txn, as a write."""
        return await self._call("KV/Txn", request, pb.TxnResponse, write=True)

    async def grant(self, ttl: int) -> int:
        """Grant a lease of so many seconds; its id."""
        request = pb.LeaseGrantRequest(TTL=ttl)
        answer = await self._call("Lease/LeaseGrant", request, pb.LeaseGrantResponse, write=True)
        return answer.ID

    async def revoke(self, lease: int) -> None:
        """Revoke a lease, with all keys attached to it."""
        request = pb.LeaseRevokeRequest(ID=lease)
        await self._call("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse, write=True)

    async def remaining(self, lease: int) -> int:
        """Seconds until a lease expires; 0 or less if it has expired."""
        request = pb.LeaseTimeToLiveRequest(ID=lease)
        kind = pb.LeaseTimeToLiveResponse
        return (await self._call("Lease/LeaseTimeToLive", request, kind, write=False)).TTL

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; its new time in seconds, 0 if there is none. Repeating it does no harm, so it is
        sent like a read.
        """
        request = pb.LeaseKeepAliveRequest(ID=lease)
        kind = pb.LeaseKeepAliveResponse
        return (await self._call("Lease/LeaseKeepAlive", request, kind, write=False)).TTL

    @asynccontextmanager
    async def watch(self, request: pb.WatchCreateRequest) -> AsyncIterator[WatchCall]:
        """Watch/Watch with one watch. It ends with `Status` when the member that serves it loses its leader,
        and the next call goes to another member.
        """
        await self._authenticate()
        call = await self.channel.open(f"{_SERVICE}Watch/Watch", (b"hasleader", b"true"))
        try:
            call.send(pb.WatchRequest(create_request=request).SerializeToString())
            yield WatchCall(call)
        except Status as status:
            if status.code == UNAVAILABLE:
                self.channel.avoid(call.endpoint)
            raise
        finally:
            call.close()

    async def _call(self, method: str, request: Message, kind: type[Answer], *, write: bool) -> Answer:
        await self._authenticate()
        path, body = _SERVICE + method, request.SerializeToString()
        try:
            answer = await self.channel.unary(path, body, write=write)
        except Status as status:
            if status.code != UNAUTHENTICATED or self._username is None:
                raise
            self.channel.metadata = {}  # the token has expired; nothing was done
            await self._authenticate()
            answer = await self.channel.unary(path, body, write=write)
        return _decoded(kind, answer, self.channel.endpoints.order()[0], write=write)

    async def _authenticate(self) -> None:
        if self._username is None or self.channel.metadata:
            return
        request = pb.AuthenticateRequest(name=self._username, password=self._password)
        answer = await self.channel.unary(
            f"{_SERVICE}Auth/Authenticate", request.SerializeToString(), write=False
        )
        token = _decoded(pb.AuthenticateResponse, answer, self.channel.endpoints.order()[0]).token
        self.channel.metadata = {b"token": token.encode()}


def _decoded(kind: type[Answer], data: bytes, endpoint: str, *, write: bool = False) -> Answer:
    try:
        return kind.FromString(data)
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError has no common base in its implementations
        raise BadAnswer(
            endpoint, f"sent what is not an answer of this API: {error}", outcome_known=not write
        ) from None
