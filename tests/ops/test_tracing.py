"""Spans by OpenTelemetry, as its own SDK gives them on."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from netstore import __version__
from netstore.errors import NoRestart
from netstore.ops import tracing
from netstore.ops.tracing import Batching, OtelExporter, check, exporter_of, is_asked_for
from netstore.traces import Span
from netstore.types import Nanos
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
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
    exporter = OtelExporter("m1", Batching(), kept)
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

    exporter = OtelExporter("m1", Batching(), Silent())
    exporter.export(Span("KV/Put", TRACE, SPAN, PARENT, Nanos(1_000), 0.25, {}, ()))
    exporter.close()
    assert not answered.is_set(), "closed while the collector is silent"
    answers.set()
    assert answered.wait(seconds(20)), "what waited was sent"


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(NoRestart, match=r"install netstore\[otel\], or set OTEL_TRACES_EXPORTER=none"):
        check(COLLECTOR)
    check({})


def test_a_span_of_a_request_that_failed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", seconds(20))
    kept = InMemorySpanExporter()
    exporter = OtelExporter("m1", Batching(), kept)
    for error in ("UNAVAILABLE", ""):
        exporter.export(Span("KV/Put", TRACE, SPAN, PARENT, Nanos(1_000), 0.25, {}, (), error))
    exporter.close()
    failed, done = (span.status for span in kept.get_finished_spans())
    assert (failed.status_code.name, failed.description) == ("ERROR", "UNAVAILABLE")
    assert done.status_code.name == "UNSET"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"OTEL_SERVICE_NAME": "front"}, {"service.name": "front", "service.instance.id": "m1"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=i-7,deployment.environment=prod"},
            {
                "service.name": "netstored",
                "service.instance.id": "i-7",
                "service.version": __version__,
                "deployment.environment": "prod",
            },
        ),
    ],
)
def test_what_the_environment_names_is_kept(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", seconds(20))
    kept = InMemorySpanExporter()
    exporter = OtelExporter("m1", Batching(), kept)
    exporter.export(Span("KV/Put", TRACE, SPAN, PARENT, Nanos(1_000), 0.25, {}, ()))
    exporter.close()
    [span] = kept.get_finished_spans()
    found = span.resource.attributes
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize(
    "given",
    [
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "True"},
        {"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_what_asks_for_no_export_has_none(given: dict[str, str]) -> None:
    assert exporter_of("m1", COLLECTOR | given) is None


def test_the_exporter_alone_asks_for_it_too() -> None:
    assert is_asked_for({"OTEL_TRACES_EXPORTER": "otlp"})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE: 100000 is more than"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE: '0' is no number above 0"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "5s"}, "OTEL_BSP_SCHEDULE_DELAY: '5s' is no number"),
        ({"OTEL_BSP_EXPORT_TIMEOUT": "-1"}, "OTEL_BSP_EXPORT_TIMEOUT: '-1' is no number"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not spoken here"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is none that there is"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "'collector:4318' is no URL"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    environment = COLLECTOR | given
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoRestart, match=told):
        check(environment)


@pytest.mark.parametrize(
    ("given", "batching"),
    [
        ({}, Batching()),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": ""}, Batching(100, 100)),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "10000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},
            Batching(10_000, 4_096),
        ),
    ],
)
def test_the_queue_is_that_of_the_environment(given: dict[str, str], batching: Batching) -> None:
    assert Batching.of(given) == batching
    OtelExporter("m1", batching, InMemorySpanExporter()).close()


def test_what_the_sdk_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most releases go on without such a variable; some do not."""

    def refuse() -> None:
        raise ValueError("'soon' is no timeout")

    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", refuse)
    with pytest.raises(NoRestart, match=r"OTLP_\* cannot be used: 'soon' is no timeout: correct"):
        check(COLLECTOR)


def test_a_protocol_for_traces_counts_before_that_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    check(given)
