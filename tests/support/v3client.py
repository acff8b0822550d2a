"""A v3 client for tests: grpcio over the service descriptors of `netstore.proto`, nothing of the store's own.

Calls are plain and blocking, each with a time limit. Streams hand over what arrives in order; a test never
waits for silence, it makes something else happen that must come after.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf import message_factory

from netstore.proto import health_pb2, rpc_pb2
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

SECONDS: Final = 20.0
"""Bound of every call and of every wait for a message."""

_END: Final = object()


class Refused(AssertionError):  # noqa: N818 - named for what happened
    """A call ended with a status other than OK."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: str = error.code().name
        self.text: str = error.details() or ""
        super().__init__(f"{self.code}: {self.text}")


class Stub:
    """One service; its methods by their names. A method returns its answer, a `Stream`, or an iterator; with
    `wait=False` a unary one returns a future of grpcio.
    """

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor) -> None:
        self._channel = channel
        self._service = service

    def __getattr__(self, name: str) -> Any:
        method = self._service.methods_by_name[name]
        path = f"/{self._service.full_name}/{name}"
        decode = message_factory.GetMessageClass(method.output_type).FromString
        call = self._open(method)(path, lambda message: message.SerializeToString(), decode)
        if method.client_streaming:
            return lambda **options: Stream(call, **options)
        if method.server_streaming:
            return lambda request, **options: _messages(
                call(request, **{"timeout": seconds(SECONDS), **options})
            )
        return lambda request, **options: _answer(call, request, options)

    def _open(self, method: MethodDescriptor) -> Any:
        kinds = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }
        return kinds[method.client_streaming, method.server_streaming]


def _answer(call: Any, request: Message, options: dict[str, Any]) -> Any:
    if not options.pop("wait", True):
        return call.future(request, **{"timeout": seconds(SECONDS), **options})
    try:
        return call(request, **{"timeout": seconds(SECONDS), **options})
    except grpc.RpcError as error:
        raise Refused(error) from None


def _messages(call: Any) -> Iterator[Any]:
    try:
        yield from call
    except grpc.RpcError as error:
        raise Refused(error) from None


class Stream:
    """A bidirectional stream: `send` requests, `next` answers in order. Cancelled at the end of a `with`."""

    def __init__(self, call: Any, **options: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = call(iter(self._requests.get, _END), **{"timeout": seconds(60.0), **options})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
        except grpc.RpcError as error:
            self._answers.put(Refused(error))
        else:
            self._answers.put(_END)

    def send(self, request: Message) -> None:
        """Send one request."""
        self._requests.put(request)

    def half_close(self) -> None:
        """Say that no more requests follow."""
        self._requests.put(_END)

    def next(self, limit: float = SECONDS) -> Any:
        """The next answer. `Refused` when the stream ended with an error, EOFError when it ended well."""
        answer = self.next_if_any(limit)
        if answer is None:
            raise AssertionError(f"nothing arrived for {limit} s of a quiet machine")
        return answer

    def next_if_any(self, limit: float) -> Any:
        """The same, but None when none came in time."""
        try:
            answer = self._answers.get(timeout=seconds(limit))
        except queue.Empty:
            return None
        if isinstance(answer, Refused):
            raise answer
        if answer is _END:
            raise EOFError
        return answer

    def cancel(self) -> None:
        """End the call from this side and wait for its reader."""
        self._call.cancel()
        self._requests.put(_END)
        self._reader.join(seconds(SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class V3Client:
    """All services of one store, on one connection."""

    def __init__(self, url: str) -> None:
        options = (
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        )
        self.channel = grpc.insecure_channel(urlsplit(url).netloc, options=options)
        services = rpc_pb2.DESCRIPTOR.services_by_name
        self.kv = Stub(self.channel, services["KV"])
        self.watch = Stub(self.channel, services["Watch"])
        self.lease = Stub(self.channel, services["Lease"])
        self.cluster = Stub(self.channel, services["Cluster"])
        self.maintenance = Stub(self.channel, services["Maintenance"])
        self.health = Stub(self.channel, health_pb2.DESCRIPTOR.services_by_name["Health"])

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b"\0"
