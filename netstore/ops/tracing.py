"""Exports spans by OpenTelemetry, if that is asked for by its own environment variables and installed (the
extra `otel`). Nothing of it is imported otherwise.

The variables are those of the OpenTelemetry specification (general and OTLP exporter configuration); an empty
one counts as unset. What this module does not look at, the SDK does: resource attributes, headers, files for
TLS, compression, time limits.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from netstore import __version__
from netstore.errors import NoRestart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from netstore.traces import Span

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Each names the collector; the first one that is set counts, as of the next ones."""

PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

PROTOCOL: Final = "http/protobuf"

EXPORTER: Final = "OTEL_TRACES_EXPORTER"

CLOSE_SECONDS: Final = 3.0
"""How long the end of the member waits for a collector that does not answer."""

_LONGEST: Final = 9
"""Digits of a number in a variable."""


def exporter_of(member: str, environment: Mapping[str, str]) -> OtelExporter | None:
    """What exports the spans of the member of this name; None if the environment does not ask for it.
    NoRestart if it asks for what cannot be done.
    """
    if not is_asked_for(environment):
        return None
    name, protocol = _first(environment, PROTOCOLS)
    if protocol and protocol != PROTOCOL:
        raise NoRestart(
            f"{name}: {protocol!r} is not spoken here: write {PROTOCOL}, and name the collector's port for"
            " it, mostly 4318"
        )
    name, url = _first(environment, ENDPOINTS)
    if url and not url.startswith(("http://", "https://")):
        raise NoRestart(f"{name}: {url!r} is no URL: begin it with http:// or https://")
    return OtelExporter(member, Batching.of(environment))


def check(environment: Mapping[str, str]) -> None:
    """NoRestart if the environment asks for an export that cannot be done. Nothing is sent."""
    exporter = exporter_of("", environment)
    if exporter is not None:
        exporter.close()


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a collector, or the OTLP exporter, which has a collector by default.
    NoRestart for an exporter that there is not.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := environment.get(EXPORTER):
        if exporter not in ("otlp", "none"):
            raise NoRestart(f"{EXPORTER}: {exporter!r} is none that there is: write otlp or none")
        return exporter == "otlp"
    return bool(_first(environment, ENDPOINTS)[1])


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these variables that is set, and its value; empty texts if none is."""
    return next(((name, value) for name in names if (value := environment.get(name))), ("", ""))


class Batching(NamedTuple):
    """How spans wait for the collector; the defaults are those of the specification."""

    queue: int = 2_048
    """Spans that may wait; further ones are dropped."""
    batch: int = 512
    """Spans that are sent at once, at most."""
    delay_ms: int = 5_000
    """Milliseconds after which those that wait are sent."""
    timeout_ms: int = 30_000
    """Milliseconds that sending may take."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """As the environment says. NoRestart for what is no number, and for a batch that the queue never
        has.
        """
        default = cls()
        queue = _number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", default.queue)
        batch = _number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(default.batch, queue))
        if batch > queue:
            raise NoRestart(
                f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE: {batch} is more than may wait: write at most {queue}, or"
                " raise OTEL_BSP_MAX_QUEUE_SIZE"
            )
        return cls(
            queue,
            batch,
            _number(environment, "OTEL_BSP_SCHEDULE_DELAY", default.delay_ms),
            _number(environment, "OTEL_BSP_EXPORT_TIMEOUT", default.timeout_ms),
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST and int(text)):
        raise NoRestart(f"{name}: {text!r} is no number above 0 of at most {_LONGEST} digits: correct it")
    return int(text)


class OtelExporter:
    """Hands spans to a thread of the OpenTelemetry SDK, which sends them in batches. Implements
    `traces.Exporter`.
    """

    def __init__(self, member: str, batching: Batching, to: SpanExporter | None = None) -> None:
        """`member` is the name of this member, and names it unless the environment does. Without `to`, spans
        are sent by OTLP over HTTP to the collector that the environment names. NoRestart if the packages are
        not installed, or cannot use what the environment says.
        """
        try:
            from opentelemetry.sdk.resources import (  # noqa: PLC0415 - only where it is asked for
                OTELResourceDetector,
                Resource,
            )
            from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - same
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - same
            from opentelemetry.trace import (  # noqa: PLC0415 - same
                SpanContext,
                SpanKind,
                Status,
                StatusCode,
                TraceFlags,
            )

            if to is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - same
                    OTLPSpanExporter,
                )

                to = OTLPSpanExporter()
            own = {"service.name": "netstored", "service.version": __version__, "service.instance.id": member}
            self._resource = Resource.create(own).merge(OTELResourceDetector().detect())
        except ImportError as error:
            raise NoRestart(
                "the variables OTEL_* ask for spans to be exported, which needs packages that are not"
                f" installed ({error.name}): install netstore[otel], or set {EXPORTER}=none"
            ) from None
        except (ValueError, OSError) as error:
            raise NoRestart(
                f"the variables OTEL_EXPORTER_OTLP_* cannot be used: {error}: correct them, or set"
                f" {EXPORTER}=none"
            ) from None
        self._span, self._context, self._kind = ReadableSpan, SpanContext, SpanKind
        self._done = Status(StatusCode.UNSET)
        self._failed = partial(Status, StatusCode.ERROR)
        self._sampled = TraceFlags(TraceFlags.SAMPLED)
        self._processor = BatchSpanProcessor(
            to,
            max_queue_size=batching.queue,
            schedule_delay_millis=batching.delay_ms,
            max_export_batch_size=batching.batch,
            export_timeout_millis=batching.timeout_ms,
        )

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
                status=self._failed(span.error) if span.error else self._done,
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
