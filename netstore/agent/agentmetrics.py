"""The metrics of the agent: their names, and what they mean. Their names begin with netstore_agent; those of
the process are the ones that programs for Prometheus share (`netstore.exposition`).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from netstore import __version__
from netstore.agent.readiness import Result  # noqa: TC001 - msgspec reads annotations
from netstore.exposition import counter, gauge, gauges, process, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric


class Facts(msgspec.Struct, frozen=True):
    """What is measured. `lease_ends_in` is in seconds, None for a reservation or without a lease."""

    checks: list[Result]
    problems: int
    backend: str = ""
    store_api: str = ""
    lease_held: bool = False
    lease_ends_in: float | None = None
    leases: int = 0
    skipped: int = 0
    unserved: int = 0
    routes: int = 0
    repairs: int = 0
    listings: int = 0
    store_replacements: int = 0


def render(facts: Facts) -> str:
    """The text of a scrape."""
    return text(chain(_families(facts), process())).decode()


def _families(facts: Facts) -> Iterator[Metric]:
    yield gauges(
        "netstore_agent_info",
        "What runs here; always 1.",
        ("version", "backend", "store_api"),
        [((__version__, facts.backend, facts.store_api), 1)],
    )
    ready = all(reason is None for _, reason in facts.checks)
    yield gauge("netstore_agent_ready", "Whether this node is ready for pods, as /readyz says.", ready)
    yield gauges(
        "netstore_agent_check_ok",
        "Whether a check of the readiness does not fail.",
        ("check",),
        [((name,), reason is None) for name, reason in facts.checks],
    )
    yield gauge("netstore_agent_problems", "Problems that were logged and are not over.", facts.problems)
    yield gauge("netstore_agent_lease_held", "Whether this node holds a subnet.", facts.lease_held)
    if facts.lease_ends_in is not None:
        yield gauge(
            "netstore_agent_lease_expires_in_seconds",
            "Seconds until the lease ends if it is not renewed.",
            round(facts.lease_ends_in, 3),
        )
    yield gauge("netstore_agent_leases", "Valid leases in the store, of all nodes.", facts.leases)
    yield gauge(
        "netstore_agent_leases_skipped",
        "Leases of others that this node does not accept.",
        facts.skipped,
    )
    yield gauge("netstore_agent_peers_unserved", "Accepted leases that cannot be served.", facts.unserved)
    yield gauge("netstore_agent_routes", "Routes that are in place.", facts.routes)
    yield counter(
        "netstore_agent_repairs_total", "Changes made because another program changed routes.", facts.repairs
    )
    yield counter("netstore_agent_listings_total", "Times that all leases were listed.", facts.listings)
    yield counter(
        "netstore_agent_store_replacements_total",
        "Times that the store turned out to be another one, or restored.",
        facts.store_replacements,
    )
