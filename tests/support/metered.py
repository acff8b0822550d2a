"""One member whose metrics are read, over memory: real parts where they count, plain numbers elsewhere."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from netstore.api.health import Health
from netstore.api.metrics.endpoint import Metrics
from netstore.api.metrics.sources import Sources
from netstore.api.tracing import Tracer
from netstore.exposition import text
from netstore.histogram import Histogram, doubling
from netstore.limits import Shares
from netstore.meter import Meter
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http2 import Http2Connection, Http2Server
from netstore.node.timekeeper import Deadline
from netstore.peer.traffic import PeerCounts, RoundTrip
from netstore.types import NodeId
from netstore.watch.streams import Selection
from tests.support.member import Lines, Solo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OTHER = NodeId(0xB)
PUT, RANGE = b"/etcdserverpb.KV/Put", b"/etcdserverpb.KV/Range"


def _nothing(*_: object) -> None:
    """A handler that is never called."""


class Metered:
    """See the module."""

    def __init__(self, unary: Sequence[bytes] = (PUT, RANGE)) -> None:
        """It serves these unary methods, besides watches."""
        self.solo = Solo().lead()
        self.lines = Lines()
        self.peer = SimpleNamespace(is_connected=True, counts=PeerCounts(), round_trip=RoundTrip())
        host = self.solo.host
        reactor: Any = SimpleNamespace(
            now=0.0, connections=3, accepted=4, sent=lambda: Counter({Http2Connection: 99, int: 1})
        )
        self.reactor = reactor
        methods: Any = dict.fromkeys(unary, _nothing)
        streams: Any = {b"/etcdserverpb.Watch/Watch": _nothing}
        self.grpc = GrpcServer(
            Services(methods, streams), self.solo.clock.monotonic, _after, self.lines, rounds=reactor
        )
        self.tracer = Tracer(host.slowness, self.solo.clock, self.lines, lambda size: bytes([7] * size))
        counted = Histogram(doubling(0.001, 14))
        writes = Histogram(doubling(0.001, 14))
        writes.observe(0.0015)
        more: Any = {
            "peers": SimpleNamespace(known=lambda: {OTHER: self.peer}),
            "http2": Http2Server(self.grpc, self.solo.clock.monotonic),
            "device": SimpleNamespace(syncs=counted, writes=writes, written=77),
            "engine": SimpleNamespace(commits=counted, sizes=lambda: (4096, 1024)),
            "backups": SimpleNamespace(made=counted),
            "scrubber": SimpleNamespace(rounds=2, verified_bytes=5),
        }
        self.sources = Sources(
            host=host,
            grpc=self.grpc,
            reactor=reactor,
            health=Health(host, _after),
            meter=Meter(self.solo.clock.monotonic, self.lines),
            shares=Shares.of(64 << 20),
            tracer=self.tracer,
            quota_bytes=2 << 30,
            **more,
        )
        self.metrics = Metrics(self.sources)

    def exposition(self) -> str:
        """The text of a scrape, made in one piece."""
        return text(self.metrics.families()).decode()

    def values(self) -> dict[str, float]:
        """Each sample by its name and labels, as a collector reads it."""
        return values(self.exposition())


class NoSink:
    """Of a stream that nobody reads."""

    backlog = 0

    def send(self, *_: object, **__: object) -> None:
        """Drop it."""

    def broken(self) -> None:
        """Nobody minds."""


def watched(metered: Metered, count: int) -> None:
    """Open so many watches, each of a key and a client of its own."""
    for number in range(count):
        stream = metered.solo.host.watches.open(NoSink(), f"10.0.{number // 250}.{number % 250}")
        stream.create(Selection(b"/k%d" % number, b""))


def values(exposition: str) -> dict[str, float]:
    """Each sample of an exposition: `name{label=value,...}`, the labels in order -> value."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = float(sample.value)
    return found


def _after(_seconds: float, call: Callable[[], None]) -> Deadline:
    return Deadline(0.0, call)
