"""`/metrics` for Prometheus, and `/debug/vars` as etcd's v2 server has it."""

from __future__ import annotations

import resource
import sys
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.admission import Admission
from netstore.api.http.responses import JSON, method_allowed
from netstore.api.metrics import etcd, grpcfamilies, own
from netstore.exposition import CONTENT_TYPE, text
from netstore.net.exchange import PLAIN
from netstore.raft.status import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from netstore.api.metrics.sources import Sources
    from netstore.net.exchange import Exchange
    from netstore.raft.status import Status

SAMPLES_AT_ONCE: Final = 150
"""Samples that are written in one step, give or take a family: a millisecond."""

MOST_WAITING: Final = 64
"""Requests that may wait for one answer; one household has at most half of them (`admission`)."""

_METHODS: Final = b"GET,HEAD"

_HEADER: Final = f"Content-Type: {CONTENT_TYPE}\r\n".encode()

_STATES: Final = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}


class Metrics:
    """Answers `/metrics`. Everything is read when it is asked for, so requests pay for nothing but plain
    counts. Can be mounted at any port.

    An answer is made in steps between the turns of the member. Who asks meanwhile gets the same one.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._scrape: _Scrape | None = None
        self._places = Admission(MOST_WAITING)

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if not method_allowed(exchange, _METHODS):
            return
        if not self._places.enter(exchange.principal):
            _unavailable(exchange, b"too many requests for the metrics wait")
            return
        scrape = self._scrape
        if scrape is None:
            scrape = _Scrape(self.families(), self._over, self._places)
            fault = self._sources.host.jobs.start(exchange.principal, scrape)
            if fault is not None:
                self._places.leave(exchange.principal)
                _unavailable(exchange, fault.cause)
                return
            self._scrape = scrape
        scrape.waiting[id(exchange)] = exchange
        exchange.defer(partial(scrape.forget, exchange))

    def _over(self) -> None:
        self._scrape = None

    def families(self) -> Iterator[Metric]:
        """All metrics, each family read when it is taken. O(methods called, members, open connections)."""
        sources = self._sources
        totals = grpcfamilies.totals(sources.grpc)
        calls = grpcfamilies.calls(sources.grpc, totals)
        return chain(etcd.families(sources, calls), grpcfamilies.families(totals), own.families(sources))


class _Scrape:
    """One answer in the making. Implements `node.jobs.Job`."""

    def __init__(self, families: Iterator[Metric], over: Callable[[], None], places: Admission) -> None:
        """Who waits has one of `places`, which is given back."""
        self._families = families
        self._over = over
        self._places = places
        self._parts: list[bytes] = []
        self.waiting: dict[int, Exchange] = {}
        """Those that get it."""

    def forget(self, exchange: Exchange) -> None:
        """The client has gone."""
        if self.waiting.pop(id(exchange), None) is not None:
            self._places.leave(exchange.principal)

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        taken: list[Metric] = []
        samples = 0
        while samples < SAMPLES_AT_ONCE and (family := next(self._families, None)) is not None:
            taken.append(family)
            samples += len(family.samples)
        self._parts.append(text(taken))
        if samples >= SAMPLES_AT_ONCE:
            return False
        self._over()
        self._answer(200, _HEADER, b"".join(self._parts))
        return True

    def failed(self, fault: Exception) -> None:  # noqa: ARG002 - it is logged
        """See `node.jobs.Job`."""
        self._over()
        self._answer(500, PLAIN, b"the metrics could not be read; the log has the reason\n")

    def _answer(self, status: int, fields: bytes, body: bytes) -> None:
        waiting, self.waiting = self.waiting, {}
        for exchange in waiting.values():
            self._places.leave(exchange.principal)
            exchange.respond(status, fields, body)


def _unavailable(exchange: Exchange, why: bytes) -> None:
    exchange.respond(503, PLAIN, why + b"\n")


class Variables:
    """Answers `/debug/vars`: a JSON document of the process, and of Raft as this member sees it."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if method_allowed(exchange, _METHODS):
            exchange.respond(200, JSON, msgspec.json.format(msgspec.json.encode(self.document())) + b"\n")

    def document(self) -> dict[str, object]:
        """What is shown. The command line is left out but for the program: it may contain a token."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cmdline": sys.argv[:1],
            "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "memstats": {"MaxResident": usage.ru_maxrss * 1024},
            "raft.status": _raft(self._sources.host.status()),
        }


def _raft(status: Status) -> dict[str, object]:
    progress = {
        f"{peer.id:x}": {"match": peer.match, "active": peer.active, "caughtUp": peer.caught_up}
        for peer in status.peers
    }
    return {
        "id": f"{status.id:x}",
        "term": status.term,
        "commit": status.commit,
        "lead": f"{status.leader:x}",
        "raftState": _STATES[status.role],
        "applied": status.applied,
        "progress": progress,
    }
