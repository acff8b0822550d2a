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

from typing import TYPE_CHECKING, Final, NamedTuple

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

SPANS_A_SECOND: Final = 50
"""Slow requests in one second that are exported, each as up to six spans; further ones are left out."""

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


class _Wanted(NamedTuple):
    """What is made of a slow request."""

    trace: Trace | None
    has_line: bool
    has_span: bool


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
        self._told = self._left_out = self._exported = 0

    def call_ended(self, call: GrpcCall, seconds: float) -> None:
        """For `GrpcServer.slow`."""
        spent, self._slowness.spent = self._slowness.spent or Spent(), None
        wanted = self._wanted(call.metadata(b"traceparent"))
        if wanted is None:
            return
        sent = call.answering_since
        send = 0.0 if sent is None else max(0.0, call.server.rounds.now - sent)
        name = call.path.decode("ascii", "replace")[1:]
        self._tell(wanted, name, call.principal, seconds, spent, send=send)

    def write_ended(self, payload: bytes, spent: Spent) -> None:
        """For `Host.slow_write`: a request that came by the v2 API, or of the member itself."""
        wanted = self._wanted(self._slowness.traceparent)
        if wanted is None:
            return
        try:
            sealed = envelope.read(payload)
            name, principal = (
                type(decode(sealed.command)).__name__,
                sealed.principal.decode("utf-8", "replace"),
            )
        except CorruptData:
            name, principal = "unknown", ""
        self._tell(wanted, name, principal, spent.total, spent)

    def _tell(
        self,
        wanted: _Wanted,
        name: str,
        principal: str,
        seconds: float,
        spent: Spent,
        *,
        send: float = 0.0,
    ) -> None:
        trace = wanted.trace
        queue = max(0.0, seconds - spent.disk - spent.quorum - spent.apply - send)
        stages = (
            ("queue", queue),
            ("disk", spent.disk),
            ("quorum", spent.quorum),
            ("apply", spent.apply),
            ("send", send),
        )
        trace_id = self._token(_TRACE_BYTES).hex() if trace is None else trace.trace_id
        if wanted.has_span and self._exporter is not None:
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
        if wanted.has_line:
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

    def _wanted(self, traceparent: bytes | None) -> _Wanted | None:
        """Count a slow request; None if it is neither logged nor exported."""
        self.slow += 1
        now = self._clock.monotonic()
        if now - self._second >= 1.0:
            self._second, self._told, self._exported = now, 0, 0
        has_line = self._told < LINES_A_SECOND
        has_span = self._exporter is not None and self._exported < SPANS_A_SECOND
        if not has_line:
            self._left_out += 1
            if not has_span:
                return None
        trace = None if traceparent is None else parse_traceparent(traceparent)
        has_span = has_span and (trace is None or trace.is_sampled)
        self._told += has_line
        self._exported += has_span
        return _Wanted(trace, has_line, has_span)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
