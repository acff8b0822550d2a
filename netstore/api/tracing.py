"""Slow requests: one structured line in the log for each, with where the time went, and a span if spans are
exported.

Nothing is done for a request that is answered within `SLOW_SECONDS`. What a line says:

* `other`: what no other part has: at the socket, behind the requests of others, the work of a read; all of a
  call whose own deadline has ended it, for what it asked for goes on, and is told when that is over;
* `queue`: until the request was handed to the log, or to the leader;
* `disk`: while this member's log was written and synced;
* `quorum`: until a majority had the entry, or the write was given up; of a linearizable read until the leader
  confirmed its index, or it was given up;
* `apply`: until the entry was applied;
* `send`: from the first byte of an answer in pieces until the last one was handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore import codes
from netstore.errors import CorruptData, Fault
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
    from netstore.state.machine import Outcome
    from netstore.traces import Exporter, Trace

LINES_A_SECOND: Final = 10
"""Slow requests in one second that are logged; the next line says how many were left out."""

SPANS_A_SECOND: Final = 50
"""Slow requests in one second that are exported, each as up to seven spans; further ones are left out."""

_NAMES: Final = {number: name for name, number in vars(codes).items() if name.isupper()}

_SERVER_ERRORS: Final = frozenset(
    (
        codes.UNKNOWN,
        codes.DEADLINE_EXCEEDED,
        codes.UNIMPLEMENTED,
        codes.INTERNAL,
        codes.UNAVAILABLE,
        codes.DATA_LOSS,
    )
)
"""Codes with which a server's span is an error (OpenTelemetry semantic conventions, gRPC)."""

_SERVER_ERROR: Final = 500
"""The same of HTTP, and above."""

_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8


class _Ended(NamedTuple):
    """What a slow request was, and how it ended."""

    name: str
    principal: str
    seconds: float
    error: str
    """Empty if it was done."""
    is_server_error: bool


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

    def call_ended(self, call: GrpcCall, seconds: float, status: int) -> None:
        """For `GrpcServer.slow`."""
        spent, self._slowness.spent = self._slowness.spent or Spent(), None
        wanted = self._wanted(call.metadata(b"traceparent"))
        if wanted is None:
            return
        sent = call.answering_since
        send = 0.0 if sent is None else max(0.0, call.server.rounds.now - sent)
        name = call.path.decode("ascii", "replace")[1:]
        error = _NAMES.get(status, str(status)) if status else ""
        self._tell(
            wanted, _Ended(name, call.principal, seconds, error, status in _SERVER_ERRORS), spent, send
        )

    def write_ended(self, payload: bytes, spent: Spent, outcome: Outcome | Fault) -> None:
        """For `Host.slow_write`: a request that came by the v2 API, or of the member itself, or whose call
        has ended already.
        """
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
        error, is_server_error = "", False
        if isinstance(outcome, Fault):
            error = outcome.message if outcome.reason is None else outcome.reason.text
            is_server_error = outcome.http_status >= _SERVER_ERROR
        self._tell(wanted, _Ended(name, principal, spent.total, error, is_server_error), spent)

    def _tell(self, wanted: _Wanted, ended: _Ended, spent: Spent, send: float = 0.0) -> None:
        trace, seconds = wanted.trace, ended.seconds
        stages = (
            ("other", max(0.0, seconds - spent.total - send)),
            ("queue", spent.queue),
            ("disk", spent.disk),
            ("quorum", spent.quorum),
            ("apply", spent.apply),
            ("send", send),
        )
        trace_id = self._token(_TRACE_BYTES).hex() if trace is None else trace.trace_id
        if wanted.has_span and self._exporter is not None:
            self._exporter.export(
                Span(
                    ended.name,
                    trace_id,
                    self._token(_SPAN_BYTES).hex(),
                    "" if trace is None else trace.parent_id,
                    Nanos(self._clock.wall() - int(seconds * 1e9)),
                    seconds,
                    {"netstore.principal": ended.principal},
                    stages,
                    ended.error if ended.is_server_error else "",
                )
            )
        if wanted.has_line:
            left_out, self._left_out = self._left_out, 0
            self._log.warning(
                "slow_request",
                request=ended.name,
                principal=ended.principal,
                error=ended.error,
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
