"""The metrics of gRPC methods, by the names that most gRPC servers use.

A method that was called has a series for each status, so that rates of failures are 0 rather than absent;
others have only what is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.api.v3.operations import DEFRAGMENT, HEALTH_WATCH, RANGE, SNAPSHOT, WATCH
from netstore.exposition import counters, histograms
from netstore.histogram import Histogram
from netstore.net.grpc.counted import HANDLING_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from netstore.net.grpc.server import GrpcServer

STATUSES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
"""The names of the status codes, by number, as gRPC's libraries write them."""

_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_SERVER_STREAMS: Final = (SNAPSHOT, HEALTH_WATCH)


class _Totals:
    """The calls of one method, of clients of all versions."""

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.started = self.received = self.sent = 0
        self.ended = [0] * len(STATUSES)
        self.handling = Histogram(HANDLING_BOUNDS)


class Calls(NamedTuple):
    """What the other families need of all calls."""

    ranges: int
    """Range calls that were begun."""
    defragmentations: int
    """Defragment calls that were answered."""
    watch_streams: int
    """Watch calls that are open."""
    of_versions: dict[tuple[str, str], int]
    """(unary or stream, version of the client) -> calls that were begun."""


def _labels(path: bytes, *, is_unary: bool) -> tuple[str, str, str]:
    service, _, method = path[1:].decode("ascii", "replace").rpartition("/")
    kind = "unary" if is_unary else "server_stream" if path in _SERVER_STREAMS else "bidi_stream"
    return kind, service, method


def totals(server: GrpcServer) -> dict[bytes, _Totals]:
    """The counts of each method that is served. O(methods that were called and versions of clients)."""
    found = {path: _Totals(_labels(path, is_unary=True)) for path in server.services.unary}
    found |= {path: _Totals(_labels(path, is_unary=False)) for path in server.services.stream}
    for path, _, is_unary, counted in server.counted():
        total = found[path]
        total.started += counted.begun
        total.received += counted.begun if is_unary else counted.received
        total.sent += counted.answered if is_unary else counted.sent
        total.ended[0] += counted.answered
        for status, count in counted.failed.items():
            total.ended[status] += count
        total.handling.sum += counted.handling.sum + counted.short
        for place, count in enumerate(counted.handling.counts):
            total.handling.counts[place] += count
    return found


def calls(server: GrpcServer, found: dict[bytes, _Totals]) -> Calls:
    """See `Calls`."""
    of_versions: dict[tuple[str, str], int] = {}
    for _, version, is_unary, counted in server.counted():
        place = ("unary" if is_unary else "stream", version)
        of_versions[place] = of_versions.get(place, 0) + counted.begun
    nothing = _Totals(("", "", ""))
    watch = found.get(WATCH, nothing)
    return Calls(
        found.get(RANGE, nothing).started,
        found.get(DEFRAGMENT, nothing).ended[0],
        watch.started - sum(watch.ended),
        of_versions,
    )


def families(found: dict[bytes, _Totals]) -> Iterator[Metric]:
    """The families of all methods."""
    methods = list(found.values())
    yield counters(
        "grpc_server_started_total",
        "Calls that were begun; a unary one is counted when it ends.",
        _LABELS,
        ((each.labels, each.started) for each in methods),
    )
    yield counters(
        "grpc_server_handled_total",
        "Calls that ended, by their status.",
        (*_LABELS, "grpc_code"),
        (
            ((*each.labels, STATUSES[status]), count)
            for each in methods
            for status, count in enumerate(each.ended if each.started else each.ended[:1])
        ),
    )
    yield counters(
        "grpc_server_msg_received_total",
        "Messages of clients.",
        _LABELS,
        ((each.labels, each.received) for each in methods),
    )
    yield counters(
        "grpc_server_msg_sent_total",
        "Messages to clients.",
        _LABELS,
        ((each.labels, each.sent) for each in methods),
    )
    yield histograms(
        "grpc_server_handling_seconds",
        "Seconds from the head of a unary call to its end, by the rounds of the event loop.",
        _LABELS,
        (
            (each.labels, each.handling, max(0, sum(each.ended) - each.handling.count))
            for each in methods
            if each.started and each.labels[0] == "unary"
        ),
    )
