"""The Watch service: a stream of requests in, a stream of changes out.

Which watch is sent what, and when, is decided in `watch`; here requests are decoded, and encoded events are
put into responses. A stream whose client does not read buffers `watch.streams.MAX_BACKLOG` bytes, and all
streams of a connection whose windows are closed `net.http2.EVENTS_LIMIT` bytes, each and one response more;
beyond that its watches wait, and read the history later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore import codes
from netstore.api.v3 import operations
from netstore.api.v3.status import not_a_message
from netstore.errors import Reason
from netstore.proto import rpc_pb2 as pb
from netstore.proto.wire import BadMessage, parse
from netstore.watch.streams import MAX_BACKLOG, RESUME_BACKLOG, Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.gate import Gate
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import WatchAnswers
    from netstore.net.grpc.protocols import Call, StreamHandler
    from netstore.seams import After, Alarm
    from netstore.watch.watches import Watches

MOST_UNREAD: Final = 4 * MAX_BACKLOG
"""Bytes of responses that a client may leave unread while it sends requests; more end its stream."""

SHARED_FROM: Final = 4096
"""Events of at least this size are sent without copying them behind the header of each watch."""

JITTER: Final = 10
"""Progress notifications are delayed by up to one in this many parts of the interval, randomly by stream."""

_NOPUT: Final = pb.WatchCreateRequest.NOPUT
_NODELETE: Final = pb.WatchCreateRequest.NODELETE


class WatchService:
    """`etcdserverpb.Watch`."""

    def __init__(
        self,
        watches: Watches,
        answers: WatchAnswers,
        after: After,
        below: Callable[[int], int],
        progress_seconds: float,
    ) -> None:
        """`below` draws a random number below a bound; `progress_seconds` is the interval of progress
        notifications for idle watches that request them.
        """
        self._watches = watches
        self._answers = answers
        self._after = after
        self._below = below
        self._progress_seconds = progress_seconds

    def streams(self, interceptor: Interceptor) -> dict[bytes, StreamHandler]:
        """Path -> handler."""
        return {operations.WATCH: interceptor.stream(self._open)}

    def _open(self, call: Call, gate: Gate) -> _WatchCall:
        return _WatchCall(call, gate, self._watches, self._answers, self._tick_later)

    def _tick_later(self, call: Callable[[], None]) -> Alarm:
        late = self._below(1000) / 1000 / JITTER
        return self._after(self._progress_seconds * (1 + late), call)


class _WatchCall:
    """One call: a `Receiver` of requests, and the `Sink` of the responses of its watches."""

    __slots__ = ("_answers", "_call", "_full", "_gate", "_stream", "_tick", "_tick_later")

    def __init__(
        self,
        call: Call,
        gate: Gate,
        watches: Watches,
        answers: WatchAnswers,
        tick_later: Callable[[Callable[[], None]], Alarm],
    ) -> None:
        self._call = call
        self._gate = gate
        self._answers = answers
        self._tick_later = tick_later
        self._tick: Alarm | None = None
        """The next progress notification; set once a watch requests them."""
        self._full = False
        self._stream = watches.open(self, call.principal)

    # --- Receiver

    def received(self, message: bytes) -> None:
        try:
            request = parse(pb.WatchRequest, message)
        except BadMessage as error:
            self._end(*not_a_message(error))
            return
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._stream.cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._stream.progress()
        if self._call.backlog > MOST_UNREAD:
            self._end(codes.RESOURCE_EXHAUSTED, "too many answers wait; read them before asking for more")

    def half_closed(self) -> None:
        """The watches go on."""

    def cancelled(self) -> None:
        self._close()

    def _create(self, request: pb.WatchCreateRequest) -> None:
        if self._gate.policy is not None:
            fault = self._gate.check(operations.watch(request), self._call.principal)
            if fault is not None:
                self._stream.refuse(fault.v3_text)
                return
        filters = request.filters
        selection = Selection(
            request.key, request.range_end, request.prev_kv, _NOPUT in filters, _NODELETE in filters
        )
        self._stream.create(
            selection,
            request.start_revision,
            request.watch_id,
            progress_notify=request.progress_notify,
            fragment=request.fragment,
        )
        if request.progress_notify and self._tick is None:
            self._tick = self._tick_later(self._ticked)

    def _ticked(self) -> None:
        if self._call.open:
            self._stream.tick()
            self._tick = self._tick_later(self._ticked)

    def _end(self, status: int, text: str) -> None:
        self._call.finish(status, text)
        self._close()

    def _close(self) -> None:
        self._stream.close()
        if self._tick is not None:
            self._tick.cancel()  # it would keep this object in memory for minutes

    # --- Sink

    @property
    def backlog(self) -> int:
        """Unsent bytes of this call and of the connection; more than `MAX_BACKLOG` if the connection is
        congested. If it is more, `Stream.drained` will be called when there is room.
        """
        call = self._call
        backlog = call.backlog
        if backlog > MAX_BACKLOG:
            if not self._full:
                self._full = True
                call.on_drained(self._drained)
        elif call.congested:
            backlog = MAX_BACKLOG + 1
            if not self._full:
                self._full = True
                call.on_room(self._drained)
        return backlog

    def send(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> None:
        if created or canceled or fragment:
            answer = self._answers.special(
                watch_id,
                revision,
                events,
                created=created,
                canceled=canceled,
                compact_revision=compact_revision,
                reason=reason,
                fragment=fragment,
            )
        elif len(events) >= SHARED_FROM:
            self._call.send(self._answers.head(watch_id, revision), events)
            return
        else:
            answer = self._answers.plain(watch_id, revision, events)
        self._call.send(answer)

    def broken(self) -> None:
        self._end(codes.INTERNAL, Reason.FAILED.text)

    def _drained(self) -> None:
        self._full = self._call.backlog >= RESUME_BACKLOG
        if self._full:
            self._call.on_drained(self._drained)  # there is room, but much is still unsent
        else:
            self._stream.drained()
