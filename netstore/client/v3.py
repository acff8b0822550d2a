"""etcd's v3 API as the agent uses it: ranges, conditional writes, leases and watches.

A call returns the answer's protobuf message, or raises `Status` if the store refused, else `Unreachable` or
`BadAnswer` (`client.faults`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import (
    INVALID_ARGUMENT,
    OUT_OF_RANGE,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    Channel,
    Status,
)
from netstore.errors import Reason
from netstore.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from netstore.client.grpc import Call
    from netstore.client.storeapi import Connection

    Answer = TypeVar("Answer", bound=Message)

PAST_SECONDS: Final = 60.0
"""How long a watch of the past may tell nothing more of it."""

_SERVICE: Final = "/etcdserverpb."

# etcd's texts (api/v3rpc/rpctypes).
_INVALID_TOKEN: Final = "invalid auth token"  # noqa: S105 - a message
_STALE: Final = ("revision of auth store is old", "user name is empty")
_NOT_ENABLED: Final = "authentication is not enabled"
_MESSAGE_TOO_LARGE: Final = "received message larger than max"
"""gRPC's own limit for a message, before the store looks at it."""


class WatchCall:
    """A watch of one range of keys. The first answer says that it was created."""

    def __init__(self, client: V3Client, request: pb.WatchCreateRequest) -> None:
        """Made by `V3Client.watch`."""
        self._client = client
        self._request = request
        self._call: Call | None = None
        self._token: dict[bytes, bytes] = {}
        self._may_renew = True
        """A stale token leads to a new one, once."""

    async def answer(self) -> pb.WatchResponse:
        """The next answer. Waits without limit. After a failure the next call goes to another member."""
        while True:
            call = await self.opened()
            try:
                answer = _decoded(pb.WatchResponse, await call.receive(), call.endpoint)
            except Unreachable:
                self._client.channel.avoid(call.endpoint)
                raise
            except Status as status:
                if status.code == UNAVAILABLE:
                    self._client.channel.avoid(call.endpoint)
                if not (self._may_renew and self._client.is_stale_token(status.code, status.message)):
                    raise
            else:
                is_refused = answer.created and answer.canceled
                code = UNAUTHENTICATED if _INVALID_TOKEN in answer.cancel_reason else INVALID_ARGUMENT
                if not (
                    is_refused and self._may_renew and self._client.is_stale_token(code, answer.cancel_reason)
                ):
                    return answer
            self._may_renew = False
            self._client.forget_token(self._token)
            self.close()

    async def send(self, request: pb.WatchRequest) -> None:
        """Ask for more on the stream of the watch: progress, or another watch, whose answers come as well.
        To be called when the watch was created.
        """
        (await self.opened()).send(request.SerializeToString())

    async def opened(self) -> Call:
        """The call, opened if it is not."""
        if self._call is None:
            self._token = await self._client.authenticate()
            call = await self._client.channel.open(f"{_SERVICE}Watch/Watch", (b"hasleader", b"true"))
            self._call = call
            call.send(pb.WatchRequest(create_request=self._request).SerializeToString())
        return self._call

    def close(self) -> None:
        """Give the call up, if there is one."""
        if self._call is not None:
            self._call.close()
            self._call = None


class V3Client:
    """The v3 API behind the endpoints of a channel; tasks may share it. With a user name, calls carry a token
    of that user, which is requested when it is needed.
    """

    def __init__(self, channel: Channel, username: str | None = None, password: str | None = None) -> None:
        self.channel = channel
        self._username = username
        self._password = password or ""
        self._needs_none = 0
        """The connection, by its number, whose store asks for no token; 0 if that is not known of any."""

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """KV/Range."""
        return await self._call("KV/Range", request, pb.RangeResponse, write=False)

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """KV/Txn, as a write."""
        return await self._call("KV/Txn", request, pb.TxnResponse, write=True)

    async def compacted(self, key: bytes) -> int:
        """The revision up to which the history was compacted; 0 if none was. Only a watch tells it: one of
        `key`, any that may be read. BadAnswer if the store has not told it within `PAST_SECONDS`.
        """
        try:
            await self.range(pb.RangeRequest(key=key, revision=1, count_only=True))
        except Status as status:
            if status.code != OUT_OF_RANGE:
                raise
        else:
            return 0
        async with self.watch(pb.WatchCreateRequest(key=key, start_revision=1)) as watch:
            with trio.move_on_after(PAST_SECONDS):
                while not (answer := await watch.answer()).compact_revision:
                    pass
                return answer.compact_revision
        raise BadAnswer("the store", "does not tell up to which revision its history was compacted")

    async def version(self) -> str:
        """The version of etcd that a member says it is, or is like."""
        kind = pb.StatusResponse
        return (await self._call("Maintenance/Status", pb.StatusRequest(), kind, write=False)).version

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
        """Watch/Watch with one watch. It ends with `Status` when its member loses the leader."""
        watch = WatchCall(self, request)
        try:
            await watch.opened()
            yield watch
        finally:
            watch.close()

    async def open(self, path: str) -> Call:
        """Open a call that only reads, with the token that it needs."""
        await self.authenticate()
        return await self.channel.open(path)

    async def authenticate(self) -> dict[bytes, bytes]:
        """What calls carry: a token, requested if there is none. Nothing without a user name, and where the
        store asks for none.
        """
        channel = self.channel
        if self._username is None or channel.metadata or self._needs_none == channel.connections > 0:
            return channel.metadata
        request = pb.AuthenticateRequest(name=self._username, password=self._password)
        try:
            answer = await channel.unary(
                f"{_SERVICE}Auth/Authenticate", request.SerializeToString(), write=False
            )
        except Status as status:
            if status.code != UNIMPLEMENTED and _NOT_ENABLED not in status.message:
                raise
            self._needs_none = channel.connections
        else:
            token = _decoded(pb.AuthenticateResponse, answer, channel.endpoints.order()[0]).token
            if not (token.isascii() and token.isprintable()):
                raise BadAnswer(
                    channel.endpoints.order()[0],
                    "gave a token with characters that no field of a call can carry (gRPC over HTTP/2,"
                    " ASCII-Value); an etcd gives printable ones",
                )
            channel.metadata = {b"token": token.encode()}
        return channel.metadata

    def is_stale_token(self, code: int, message: str) -> bool:
        """Whether a refusal, of which nothing was done, asks for a new token."""
        is_stale = code == UNAUTHENTICATED or (
            code == INVALID_ARGUMENT and any(text in message for text in _STALE)
        )
        return is_stale and self._username is not None

    def forget_token(self, token: dict[bytes, bytes]) -> None:
        """This one was refused; another may have been requested meanwhile."""
        self._needs_none = 0
        if self.channel.metadata is token:
            self.channel.metadata = {}

    async def _call(self, method: str, request: Message, kind: type[Answer], *, write: bool) -> Answer:
        token = await self.authenticate()
        path, body = _SERVICE + method, request.SerializeToString()
        try:
            answer = await self.channel.unary(path, body, write=write)
        except Status as status:
            if not self.is_stale_token(status.code, status.message):
                raise
            self.forget_token(token)
            await self.authenticate()
            answer = await self.channel.unary(path, body, write=write)
        return _decoded(kind, answer, self.channel.endpoints.order()[0], write=write)


def open_client(nursery: trio.Nursery, to: Connection) -> V3Client:
    """A client whose connection is served in `nursery`."""
    channel = Channel(
        nursery,
        to.endpoints,
        ca_file=to.ca_file,
        cert_file=to.cert_file,
        key_file=to.key_file,
        timeout=to.timeout,
        shuffle=to.shuffle,
        tls_names=to.tls_names,
    )
    return V3Client(channel, to.username, to.password)


@asynccontextmanager
async def connect(to: Connection) -> AsyncIterator[V3Client]:
    """A client with a connection of its own. What is raised within comes out as it is."""
    fault: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield open_client(nursery, to)
        except BaseException as error:  # noqa: BLE001 - raised within, it would come out of the nursery in a group
            fault = error
        nursery.cancel_scope.cancel()
    if fault is not None:
        raise fault


def has_many(status: Status) -> bool:
    """Whether a transaction was refused because it has too many operations."""
    return Reason.TOO_MANY_OPS.text in status.message


def has_much(status: Status) -> bool:
    """Whether a request was refused because it has too many bytes."""
    return Reason.REQUEST_TOO_LARGE.text in status.message or (
        status.code == RESOURCE_EXHAUSTED and _MESSAGE_TOO_LARGE in status.message
    )


def least_request_bytes(size: int) -> int:
    """The `--max-request-bytes` of a store that takes a transaction of so many bytes, in whole KiB."""
    return (size // 1024 + 2) * 1024


def _decoded(kind: type[Answer], data: bytes, endpoint: str, *, write: bool = False) -> Answer:
    try:
        return kind.FromString(data)
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError has no common base in its implementations
        raise BadAnswer(
            endpoint, f"sent what is not an answer of this API: {error}", outcome_known=not write
        ) from None
