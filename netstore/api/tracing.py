"""Slow requests: one structured line in the log for each, with where the time went, and a span if spans are
exported.

Nothing is done for a request that is answered within `SLOW_SECONDS`. What a line says:

* `queue`: until the request was handed to the log, and whatever no other part has: at the socket, behind the
  requests of others, and the work of a read;
* `disk`: while this member's log was written and synced;
* `quorum`: until a majority had the entry; of a linearizable read until the leader confirmed its index;
* `apply`: until the entry was applied;
* `send`: from the first byte of an answer in pieces until the last one was handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.errors import CorruptData
from netstore.node.slowness import Spent
from netstore.state import envelope
from netstore.state.commands import decode
from netstore.traces import Span, parse_traceparent
from netstore.types import Nanos

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.grpc.call import GrpcCall
    from netstore.node.slowness import Slowness
    from netstore.seams import Clock, Log
    from netstore.traces import Exporter, Trace

LINES_A_SECOND: Final = 10
"""Slow requests in one second that are logged; the next line says how many were left out."""

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


class Tracer:
    """Tells of the slow requests of one member."""

    def __init__(
        self,
        slowness: Slowness,
        clock: Clock,
        log: Log,
        token: Callable[[int], bytes],
        exporter: Exporter | None = None,
    ) -> None:
        """`token` draws so many random bytes."""
        self._slowness = slowness
        self._clock = clock
        self._log = log
        self._token = token
        self._exporter = exporter
        self.slow = 0
        """Slow requests so far."""
        self._second = float("-inf")
        self._told = self._left_out = 0

    def call_ended(self, call: GrpcCall, seconds: float) -> None:
        """For `GrpcServer.slow`."""
        spent, self._slowness.spent = self._slowness.spent or Spent(), None
        sent = call.answering_since
        send = 0.0 if sent is None else max(0.0, call.server.rounds.now - sent)
        found = call.metadata(b"traceparent")
        trace = None if found is None else parse_traceparent(found)
        self._tell(
            call.path.decode("ascii", "replace")[1:], call.principal, seconds, spent, send=send, trace=trace
        )

    def write_ended(self, payload: bytes, spent: Spent) -> None:
        """For `Host.slow_write`: a request that came by the v2 API, or of the member itself."""
        found = self._slowness.traceparent
        trace = None if found is None else parse_traceparent(found)
        try:
            sealed = envelope.read(payload)
            name, principal = (
                type(decode(sealed.command)).__name__,
                sealed.principal.decode("utf-8", "replace"),
            )
        except CorruptData:
            name, principal = "unknown", ""
        self._tell(name, principal, spent.total, spent, trace=trace)

    def _tell(
        self,
        name: str,
        principal: str,
        seconds: float,
        spent: Spent,
        *,
        send: float = 0.0,
        trace: Trace | None,
    ) -> None:
        self.slow += 1
        queue = max(0.0, seconds - spent.disk - spent.quorum - spent.apply - send)
        stages = (
            ("queue", queue),
            ("disk", spent.disk),
            ("quorum", spent.quorum),
            ("apply", spent.apply),
            ("send", send),
        )
        trace_id = self._token(_TRACE_BYTES).hex() if trace is None else trace.trace_id
        if self._exporter is not None and (trace is None or trace.is_sampled):
            self._exporter.export(
                Span(
                    name,
                    trace_id,
                    self._token(_SPAN_BYTES).hex(),
                    "" if trace is None else trace.parent_id,
                    Nanos(self._clock.wall() - int(seconds * 1e9)),
                    seconds,
                    {"netstore.principal": principal},
                    stages,
                )
            )
        if self._may_tell():
            left_out, self._left_out = self._left_out, 0
            self._log.warning(
                "slow_request",
                request=name,
                principal=principal,
                milliseconds=_ms(seconds),
                **{f"{stage}_ms": _ms(took) for stage, took in stages},
                trace=trace_id,
                left_out=left_out,
            )

    def _may_tell(self) -> bool:
        now = self._clock.monotonic()
        if now - self._second >= 1.0:
            self._second, self._told = now, 0
        if self._told >= LINES_A_SECOND:
            self._left_out += 1
            return False
        self._told += 1
        return True


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
