"""Spans by OpenTelemetry, as its own SDK gives them on."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from netstore.errors import NetstoreError
from netstore.ops import tracing
from netstore.ops.tracing import OtelExporter, is_asked_for
from netstore.traces import Span
from netstore.types import Nanos
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "aaf067aa0ba902b7"


def test_it_is_asked_for_by_the_variables_of_opentelemetry() -> None:
    assert not is_asked_for({})
    assert not is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert is_asked_for({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"})
    assert not is_asked_for(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}
    )


def test_a_request_is_a_span_with_its_parts_as_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", seconds(20))
    kept = InMemorySpanExporter()
    exporter = OtelExporter("m1", kept)
    stages = (("queue", 0.1), ("disk", 0.0), ("quorum", 0.15))
    exporter.export(
        Span("KV/Put", TRACE, SPAN, PARENT, Nanos(1_000), 0.25, {"netstore.principal": "x"}, stages)
    )
    exporter.close()
    request, *parts = sorted(kept.get_finished_spans(), key=lambda span: span.name != "KV/Put")
    context, parent = request.context, request.parent
    assert context is not None
    assert parent is not None
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    assert (f"{parent.span_id:016x}", parent.is_remote) == (PARENT, True)
    assert request.end_time == 1_000 + 250_000_000
    assert dict(request.attributes or {}) == {"netstore.principal": "x"}
    assert request.resource.attributes["service.name"] == "netstored"
    assert request.resource.attributes["service.instance.id"] == "m1"
    assert [(part.name, part.start_time, part.end_time) for part in parts] == [
        ("queue", 1_000, 100_001_000),
        ("quorum", 100_001_000, 250_001_000),
    ]
    assert all(part.parent is not None and part.parent.span_id == context.span_id for part in parts)
    assert len({part.context.span_id for part in parts if part.context}) == 2


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.1)
    answers, answered = threading.Event(), threading.Event()

    class Silent(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            answers.wait(20)  # fixed: less than the 30 s of the SDK
            answered.set()
            return super().export(spans)

    exporter = OtelExporter("m1", Silent())
    exporter.export(Span("KV/Put", TRACE, SPAN, PARENT, Nanos(1_000), 0.25, {}, ()))
    exporter.close()
    assert not answered.is_set(), "closed while the collector is silent"
    answers.set()
    assert answered.wait(seconds(20)), "what waited was sent"


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(NetstoreError, match=r"install netstore\[otel\], or unset the variable"):
        OtelExporter("m1")
