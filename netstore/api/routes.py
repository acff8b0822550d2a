"""The routes of the HTTP port: etcd's v2 API, `/version`, `/health`, the probes, `/metrics`, `/debug/vars`,
the log level, and `/netstore/`; and those of the ports for metrics and probes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api import admin, loglevel
from netstore.api.gate import Access, Api, Kind, Operation
from netstore.api.health import Health, Version
from netstore.api.http.router import Route, Router
from netstore.api.probes import Probes
from netstore.api.v2 import operations
from netstore.api.v2.keys import KeysApi
from netstore.api.v2.members import PREFIX as MEMBERS
from netstore.api.v2.members import MembersApi
from netstore.api.v2.paths import PREFIX as KEYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.admin import AdminApi
    from netstore.api.gate import Gate
    from netstore.api.metrics.endpoint import Metrics, Variables
    from netstore.api.networks import NetworkWrites
    from netstore.api.v2.stats import StatsApi
    from netstore.net.exchange import Request
    from netstore.node.lessor import Lessor
    from netstore.node.member import Membership, Replica
    from netstore.node.timekeeper import Deadlines

PROBED: Final = (b"/metrics", b"/health", b"/livez", b"/readyz")
"""What the ports for metrics and probes serve, with everything below."""


def routes(
    member: Replica,
    cluster: Membership,
    lessor: Lessor,
    deadlines: Deadlines,
    *,
    gate: Gate,
    statistics: StatsApi,
    admin_api: AdminApi,
    set_level: Callable[[str], None],
    enable_v2: bool,
    networks: NetworkWrites | None = None,
    health: Health | None = None,
    metrics: Metrics | None = None,
    variables: Variables | None = None,
) -> Router:
    """The router of one member. `set_level` changes the level of the log. `networks` checks
    what is written to the configs of networks.

    The lessor is told where to see the keys whose TTL may be renewed by a write that is under way.
    """
    exact = {
        b"/version": Route(Version(member), _operation(Kind.PUBLIC)),
        b"/health": Route(health or Health(member, deadlines.after), _operation(Kind.PUBLIC)),
        **{
            path: Route(probe, _operation(Kind.PUBLIC))
            for path, probe in Probes(member, deadlines.after).handlers()
        },
        loglevel.PATH: Route(loglevel.LogLevel(set_level), _operation(Kind.ADMIN)),
    }
    if metrics is not None:
        exact[b"/metrics"] = Route(metrics, _operation(Kind.PUBLIC))
    if variables is not None:
        exact[b"/debug/vars"] = Route(variables, _operation(Kind.ADMIN))
    below = {admin.PREFIX: Route(admin_api.handle, admin.operation, closed=True)}
    if enable_v2:
        members = MembersApi(member, cluster)
        exact |= {
            b"/v2/machines": Route(members.machines, operations.members),
            b"/v2/stats/store": Route(statistics.store, operations.statistics),
            b"/v2/stats/self": Route(statistics.own, operations.statistics),
            b"/v2/stats/leader": Route(statistics.leader, operations.statistics),
        }
        keys = KeysApi(member, lessor.nodes, gate, networks)
        lessor.renewing_nodes = keys.renewing
        below |= {
            KEYS: Route(keys.handle, None),
            MEMBERS: Route(members.members, operations.members),
        }
    return Router(gate, exact, below)


def probe_routes(router: Router, gate: Gate, health: Health) -> Router:
    """The part of the routes that the ports for metrics and probes serve."""
    below = tuple(path + b"/" for path in PROBED)
    served = {path: each for path, each in router.exact.items() if (path + b"/").startswith(below)}
    served[b"/health"] = Route(health.answer_probe, _operation(Kind.PUBLIC))
    return Router(gate, served, {})


def _operation(kind: Kind) -> Callable[[Request], Operation]:
    """The operation of a request for a path that belongs to neither API. O(length of the path)."""

    def operation(request: Request) -> Operation:
        may_write = request.method not in (b"GET", b"HEAD")
        return Operation(Api.ADMIN, b"%b %b" % (request.method, request.path), (Access(kind),), may_write)

    return operation
