"""Spans of slow requests get to a collector by OTLP over HTTP, with the packages of the extra `otel`."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from netstore import __version__
from netstore.proto import kv_pb2, rpc_pb2
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WHY = "needs the otel extra: pip install -e .[otel]"
collected = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=WHY)
pytest.importorskip("opentelemetry.sdk.trace", reason=WHY)
pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason=WHY)

pytestmark = pytest.mark.slow

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEYS = 32_000
"""To delete so many at once counts as slow on most machines; a faster one is given twice as many next."""


class Collector(ThreadingHTTPServer):
    """Takes exports, each as it is decoded by OpenTelemetry's own messages."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.exports: SimpleQueue[Any] = SimpleQueue()
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        request = collected.ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        answer = collected.ExportTraceServiceResponse().SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.server.exports.put(request)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(seconds(20))


def fill(client: V3Client, prefix: bytes, keys: int) -> None:
    for first in range(0, keys, 100):
        puts = (kv_pb2.KeyValue(key=prefix + b"%d" % place) for place in range(first, first + 100))
        operations = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=each.key, value=b"v")) for each in puts
        ]
        client.kv.Txn(rpc_pb2.TxnRequest(success=operations), timeout=seconds(20))


def delete(client: V3Client, prefix: bytes, keys: int, **options: Any) -> None:
    fill(client, prefix, keys)
    request = rpc_pb2.DeleteRangeRequest(key=prefix, range_end=prefix + b"\xff")
    assert client.kv.DeleteRange(request, timeout=seconds(60), **options).deleted == keys


def exports_of_slow(server: Collector, work: Callable[[int], None]) -> Iterator[Any]:
    """What is exported while work is done, each time on twice as many keys, until the caller stops asking."""
    keys = KEYS
    while True:
        work(keys)
        with suppress(Empty):
            while True:
                yield server.exports.get(timeout=seconds(1))
        keys *= 2
        assert keys <= 16 * KEYS, "nothing was slow"


def attributes(found: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in found.attributes}


def test_a_slow_request_is_a_span_of_its_caller(tmp_path: Path) -> None:
    with collector() as server:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "NO_PROXY": "127.0.0.1",
        }
        with start_netstored(tmp_path, "--name", "m1", environment=environment) as daemon:
            client = V3Client(daemon.url)

            def work(keys: int) -> None:
                unsampled = [("traceparent", f"00-{TRACE[::-1]}-{CALLER}-00")]
                delete(client, b"/unsampled/", keys, metadata=unsampled)
                delete(client, b"/traced/", keys, metadata=[("traceparent", f"00-{TRACE}-{CALLER}-01")])

            spans: list[Any] = []
            for export in exports_of_slow(server, work):
                (resource,) = export.resource_spans
                told = attributes(resource.resource)
                assert (told["service.name"], told["service.instance.id"]) == ("netstored", "m1")
                assert told["service.version"] == __version__
                spans += [span for scope in resource.scope_spans for span in scope.spans]
                if any(span.parent_span_id.hex() == CALLER for span in spans):
                    break
            client.close()
            daemon.stop()
        while not server.exports.empty():
            for resource in server.exports.get().resource_spans:
                spans += [span for scope in resource.scope_spans for span in scope.spans]
    request, *_ = [span for span in spans if span.parent_span_id.hex() == CALLER]
    assert (request.trace_id.hex(), request.name) == (TRACE, "etcdserverpb.KV/DeleteRange")
    assert request.kind == request.SPAN_KIND_SERVER
    assert attributes(request)["netstore.principal"] == "127.0.0.1"
    assert request.end_time_unix_nano - request.start_time_unix_nano > 100_000_000
    parts = [span for span in spans if span.parent_span_id == request.span_id]
    assert {part.name for part in parts} <= {"other", "queue", "disk", "quorum", "apply", "send"}
    assert "apply" in {part.name for part in parts}
    assert {part.trace_id.hex() for part in parts} == {TRACE}
    assert max(Counter(span.span_id for span in spans).values()) == 1
    assert all(
        request.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano for part in parts
    )
    assert not [span for span in spans if span.trace_id.hex() == TRACE[::-1]], "its caller does not want it"


def test_a_collector_that_refuses_holds_nothing_up(tmp_path: Path) -> None:
    with collector() as server:
        server.status = 503
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{server.url}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "NO_PROXY": "127.0.0.1",
        }
        with start_netstored(tmp_path, environment=environment) as daemon:
            client = V3Client(daemon.url)
            for _ in exports_of_slow(server, lambda keys: delete(client, b"/a/", keys)):
                break
            delete(client, b"/a/", KEYS)
            client.close()
            assert daemon.stop() == 0
