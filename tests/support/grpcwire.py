"""gRPC without a socket: a connection that is fed raw frames, with a service that records what it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.limits import Budget
from netstore.net import http2
from netstore.net.bodyadmission import BodyAdmission
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http2 import Http2Connection, Http2Server, frame
from netstore.node.timekeeper import Deadline
from tests.support.h2client import REQUEST, block, fields, frames
from tests.support.http import FakeOutput
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.grpc.protocols import Call


class Defective:
    """A receiver that raises in the callbacks named in `faults`, and records all of them in `told`."""

    def __init__(self, call: Call, faults: set[str], fault: Exception, told: list[str]) -> None:
        self._faults = faults
        self._fault = fault
        self._told = told
        call.on_cancelled(lambda: self._tell("on_cancelled"))

    def received(self, message: bytes) -> None:
        self._tell("received")

    def half_closed(self) -> None:
        self._tell("half_closed")

    def cancelled(self) -> None:
        self._tell("cancelled")

    def _tell(self, name: str) -> None:
        self._told.append(name)
        if name in self._faults:
            raise self._fault


class Keeper:
    """A receiver that records the messages and the end of a stream."""

    def __init__(self, kept: list[bytes]) -> None:
        self._kept = kept

    def received(self, message: bytes) -> None:
        self._kept.append(message)

    def half_closed(self) -> None:
        self._kept.append(b"end")

    def cancelled(self) -> None:
        self._kept.append(b"cancelled")


class GrpcWire:
    """A connection fed with raw frames. `time` is its clock, `due` the alarms that were set.

    Methods: `Ask` (unary) records its calls in `asked` and does not answer; `Keep` (a stream) records its
    messages in `kept`; `Defect` (a stream) raises `fault` in the callbacks named in `faults`.
    """

    def __init__(self) -> None:
        self.time = 100.0
        self.due: list[Deadline] = []
        self.asked: list[tuple[Call, bytes]] = []
        self.cancelled = 0
        self.fail_cancel = False
        self.log = KeptLog()
        self.kept: list[bytes] = []
        self.told: list[str] = []
        self.faults: set[str] = set()
        self.fault: Exception = ValueError("a defect")
        services = Services(
            {b"/a.A/Ask": self._ask},
            {
                b"/a.A/Keep": lambda _: Keeper(self.kept),
                b"/a.A/Defect": lambda call: Defective(call, self.faults, self.fault, self.told),
            },
        )
        self.server = server = GrpcServer(services, self._clock, self._after, self.log)
        self.output = FakeOutput()
        self.connection = Http2Connection(
            Http2Server(server, self._clock, varying=TIMEOUT_FIELD), self.output
        )
        self.feed(http2.PREFACE, frame(http2.SETTINGS, 0, 0))

    def _clock(self) -> float:
        return self.time

    def _after(self, seconds: float, call: Callable[[], None]) -> Deadline:
        deadline = Deadline(self.time + seconds, call)
        self.due.append(deadline)
        return deadline

    def _ask(self, call: Call, message: bytes) -> None:
        self.asked.append((call, message))
        call.on_cancelled(self._count)

    def _count(self) -> None:
        self.cancelled += 1
        if self.fail_cancel:
            raise ValueError("a defect")

    def run_due(self) -> None:
        """Run the alarms that are due."""
        alive = [each for each in self.due if not each.cancelled]
        self.due = [each for each in alive if each.when > self.time]
        for each in alive:
            if each.when <= self.time:
                each.run()

    def feed(self, *pieces: bytes) -> None:
        """Give these bytes to the connection, and let it work until it is done; `said` is what it sent since
        the last call.
        """
        for piece in pieces:
            self.connection.receive(piece)
            while self.output.run_turn():
                pass
        self.output.sent, self.said = b"", self.output.sent

    def call(
        self,
        number: int,
        body: bytes,
        *more: tuple[str, str],
        path: str = "/a.A/Ask",
        end: bool = True,
    ) -> bytes:
        """The frames of a call: HEADERS, and `body` in one DATA frame."""
        headers = [*REQUEST[:2], (":path", path), *REQUEST[3:], *more]
        asked = frame(http2.HEADERS, http2.END_HEADERS, number, block(headers))
        return asked + frame(http2.DATA, http2.END_STREAM if end else 0, number, body)

    def trailers(self, said: bytes) -> dict[str, str]:
        """The last header block in these bytes."""
        blocks = [each.payload for each in frames(said) if each.kind == http2.HEADERS]
        return dict(fields(blocks[-1]))


def message_of(size: int) -> bytes:
    """A message of so many zeros, with its prefix."""
    return b"\0" + size.to_bytes(4, "big") + bytes(size)


def data_frames(number: int, data: bytes) -> bytes:
    """DATA frames with this part of a request."""
    cuts = range(0, len(data), 16_384)
    return b"".join(frame(http2.DATA, 0, number, data[at : at + 16_384]) for at in cuts)


SIZE = 200_000
MESSAGE = message_of(SIZE)
"""What `send` sends: a message with its prefix."""


def wires_sharing_memory(count: int) -> list[GrpcWire]:
    """Connections that together have memory for one message of `SIZE` at a time."""
    memory = Budget(2 * SIZE + 100)
    admission = BodyAdmission(memory, KeptLog(), lambda: admission.step(0.0))
    wires = [GrpcWire() for _ in range(count)]
    for wire in wires:
        wire.output.admission = admission
        wire.output.account = memory.account()
    return wires


def allowed(wire: GrpcWire, stream: int) -> int:
    """Our window of a stream: bytes of DATA that the client may still send."""
    return wire.connection.streams[stream].allowed


def send(wire: GrpcWire, stream: int, start: int, stop: int, *, end: bool = False) -> None:
    """Send `MESSAGE[start:stop]` in DATA frames."""
    for at in range(start, stop, 16_384):
        piece = MESSAGE[at : min(at + 16_384, stop)]
        last = end and at + 16_384 >= stop
        wire.feed(frame(http2.DATA, http2.END_STREAM if last else 0, stream, piece))
