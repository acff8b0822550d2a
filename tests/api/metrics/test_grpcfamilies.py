"""The metrics of gRPC methods."""

from __future__ import annotations

import pytest

from netstore.codes import CANCELLED, OK, UNAVAILABLE
from netstore.net.grpc.counted import SLOW_SECONDS, Counted
from netstore.net.http2.head import Head
from tests.support.metered import Metered

PUT = "grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary"
RANGE = "grpc_method=Range,grpc_service=etcdserverpb.KV,grpc_type=unary"
WATCH = "grpc_method=Watch,grpc_service=etcdserverpb.Watch,grpc_type=bidi_stream"


class Call:
    """Of `net.grpc.call.GrpcCall` what counting looks at."""

    is_unary = True

    def __init__(self, opened_at: float = 0.0) -> None:
        self.opened_at = opened_at


def route(metered: Metered, path: bytes, version: bytes = b"") -> Counted:
    """The counts of a method, as the first call of it makes them."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b"content-type", b"application/grpc"),
    ]
    if version:
        fields.append((b"client-api-version", version))
    found = metered.grpc.route(Head(tuple(fields)))
    assert isinstance(found, Counted)
    return found


def test_a_method_that_was_not_called_has_zeros() -> None:
    told = Metered().values()
    assert told[f"grpc_server_started_total{{{RANGE}}}"] == 0
    assert told[f"grpc_server_handled_total{{grpc_code=OK,{RANGE}}}"] == 0
    assert f"grpc_server_handled_total{{grpc_code=Unavailable,{RANGE}}}" not in told


def test_calls_are_counted_by_status_with_zeros_for_the_others() -> None:
    metered = Metered()
    counted = route(metered, b"/etcdserverpb.KV/Put")
    counted.answered += 3
    for status in (UNAVAILABLE, CANCELLED):
        counted.ended(Call(), status)  # type: ignore[arg-type]  # it looks at no more
    told = metered.values()
    assert told[f"grpc_server_started_total{{{PUT}}}"] == 5
    assert told[f"grpc_server_handled_total{{grpc_code=OK,{PUT}}}"] == 3
    assert told[f"grpc_server_handled_total{{grpc_code=Unavailable,{PUT}}}"] == 1
    assert told[f"grpc_server_handled_total{{grpc_code=Canceled,{PUT}}}"] == 1
    assert told[f"grpc_server_handled_total{{grpc_code=DataLoss,{PUT}}}"] == 0
    assert told[f"grpc_server_msg_received_total{{{PUT}}}"] == 5
    assert told[f"grpc_server_msg_sent_total{{{PUT}}}"] == 3


def test_durations_are_those_by_the_rounds_of_the_loop() -> None:
    metered = Metered()
    counted = route(metered, b"/etcdserverpb.KV/Put")
    counted.answered += 2  # in the round in which they came
    metered.reactor.now = 10.0
    counted.ended(Call(opened_at=9.8), OK)  # type: ignore[arg-type]  # it looks at no more
    told = metered.values()
    assert told[f"grpc_server_handling_seconds_bucket{{{PUT},le=0.005}}"] == 2
    assert told[f"grpc_server_handling_seconds_bucket{{{PUT},le=0.25}}"] == 3
    assert told[f"grpc_server_handling_seconds_count{{{PUT}}}"] == 3
    assert 0.19 < told[f"grpc_server_handling_seconds_sum{{{PUT}}}"] < 0.21


def test_slow_calls_are_told_and_others_are_not() -> None:
    metered = Metered()
    slow: list[tuple[float, int]] = []
    metered.grpc.slow = lambda _, seconds, status: slow.append((round(seconds, 3), status))
    counted = route(metered, b"/etcdserverpb.KV/Put")
    metered.reactor.now = 10.0
    for opened_at in (10.0, 10.0 - SLOW_SECONDS / 2, 10.0 - SLOW_SECONDS * 2):
        counted.ended(Call(opened_at), UNAVAILABLE)  # type: ignore[arg-type]  # it looks at no more
    assert slow == [(2 * SLOW_SECONDS, UNAVAILABLE)]


@pytest.mark.parametrize(
    "version", [b"x", b"3", b"3.5.1.2", b"3.5\xff", b"9" * 8000, b"1." + b"9" * 10, b'3.5"} 1']
)
def test_what_is_no_version_is_counted_with_the_others(version: bytes) -> None:
    metered = Metered()
    route(metered, b"/etcdserverpb.KV/Put", version).answered += 1
    counted = {name: value for name, value in metered.values().items() if "client_requests_total" in name}
    assert counted["etcd_server_client_requests_total{client_api_version=other,type=unary}"] == 1
    assert len(counted) == 1


def test_versions_of_clients_are_counted_apart_and_are_bounded() -> None:
    metered = Metered()
    for version in (b"3.5.13", b"", b"3.5.13"):
        route(metered, b"/etcdserverpb.KV/Put", version).answered += 1
    route(metered, b"/etcdserverpb.Watch/Watch", b"3.4.30").started += 1
    told = metered.values()
    assert told["etcd_server_client_requests_total{client_api_version=3.5.13,type=unary}"] == 2
    assert told["etcd_server_client_requests_total{client_api_version=unknown,type=unary}"] == 1
    assert told["etcd_server_client_requests_total{client_api_version=3.4.30,type=stream}"] == 1
    assert told[f"grpc_server_started_total{{{PUT}}}"] == 3
    assert told["etcd_debugging_mvcc_watch_stream_total"] == 1
    for number in range(100):
        route(metered, b"/etcdserverpb.KV/Put", b"9.%d" % number).answered += 1
    told = metered.values()
    found = [name for name in told if name.startswith("etcd_server_client_requests_total")]
    assert len(found) < 25
    assert told["etcd_server_client_requests_total{client_api_version=other,type=unary}"] > 80
    assert told[f"grpc_server_started_total{{{PUT}}}"] == 103
