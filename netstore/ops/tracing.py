"""Exports spans by OpenTelemetry, if that is asked for by its own environment variables and installed (the
extra `otel`). Nothing of it is imported otherwise.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from netstore import __version__
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from netstore.traces import Span

VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""One of these asks for the export, and names the collector (OpenTelemetry specification, OTLP exporter)."""

MOST_WAITING: Final = 2_048
"""Spans that wait for the collector; further ones are dropped."""

CLOSE_SECONDS: Final = 3.0
"""How long the end of the member waits for a collector that does not answer."""


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a collector."""
    return any(environment.get(name) for name in VARIABLES) and environment.get("OTEL_SDK_DISABLED") != "true"


class OtelExporter:
    """Hands spans to a thread of the OpenTelemetry SDK, which sends them in batches. Implements
    `traces.Exporter`.
    """

    def __init__(self, member: str, to: SpanExporter | None = None) -> None:
        """`member` is the name of this member. Without `to`, spans are sent by OTLP over HTTP to the
        collector that the environment names. NetstoreError if the packages are not installed.
        """
        try:
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - only where it is asked for
            from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - same
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - same
            from opentelemetry.trace import SpanContext, SpanKind, TraceFlags  # noqa: PLC0415 - same

            if to is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - same
                    OTLPSpanExporter,
                )

                to = OTLPSpanExporter()
        except ImportError as error:
            raise NetstoreError(
                f"{VARIABLES[-1]} asks for spans to be exported, which needs packages that are not installed"
                f" ({error.name}): install netstore[otel], or unset the variable"
            ) from None
        self._span, self._context, self._kind = ReadableSpan, SpanContext, SpanKind
        self._sampled = TraceFlags(TraceFlags.SAMPLED)
        self._resource = Resource.create(
            {
                "service.name": "netstored",
                "service.version": __version__,
                "service.instance.id": member,
            }
        )
        self._processor = BatchSpanProcessor(to, max_queue_size=MOST_WAITING)

    def export(self, span: Span) -> None:
        """See `traces.Exporter`: the request as a span of the server, and a child for each of its parts."""
        trace_id = int(span.trace_id, 16)
        own = self._context(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=self._sampled)
        parent = None
        if span.parent_id:
            parent = self._context(
                trace_id, int(span.parent_id, 16), is_remote=True, trace_flags=self._sampled
            )
        begin = span.started
        self._processor.on_end(
            self._span(
                span.name,
                context=own,
                parent=parent,
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=self._kind.SERVER,
                start_time=begin,
                end_time=begin + int(span.seconds * 1e9),
            )
        )
        at: int = begin
        for number, (name, seconds) in enumerate(span.stages, 1):
            ended = at + int(seconds * 1e9)
            if seconds > 0:
                child = self._context(
                    trace_id, own.span_id ^ number, is_remote=False, trace_flags=self._sampled
                )
                self._processor.on_end(
                    self._span(
                        name,
                        context=child,
                        parent=own,
                        resource=self._resource,
                        start_time=at,
                        end_time=ended,
                    )
                )
            at = ended

    def close(self) -> None:
        """Send what waits, for `CLOSE_SECONDS` at most: the SDK itself tries for 30 s."""
        ending = threading.Thread(target=self._processor.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)
