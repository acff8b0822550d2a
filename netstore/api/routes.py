"""Which path of the HTTP port is answered by what: etcd's v2 API, `/version`, `/health`, and `/netstore/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.api import admin, loglevel
from netstore.api.health import Health, Version
from netstore.api.http.router import Handler, Router
from netstore.api.v2.keys import KeysApi
from netstore.api.v2.members import PREFIX as MEMBERS
from netstore.api.v2.members import MembersApi
from netstore.api.v2.paths import PREFIX as KEYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.admin import AdminApi
    from netstore.api.v2.stats import StatsApi
    from netstore.node.lessor import Lessor
    from netstore.node.member import Member, Membership
    from netstore.node.timekeeper import Deadlines


def routes(
    member: Member,
    cluster: Membership,
    lessor: Lessor,
    deadlines: Deadlines,
    *,
    statistics: StatsApi,
    admin_api: AdminApi,
    set_level: Callable[[str], None],
    enable_v2: bool,
) -> Router:
    """The router of one member.

    `set_level` changes the level of the log. The lessor learns which keys have writes under way that may
    renew them.
    """
    exact: dict[bytes, Handler] = {
        b"/version": Version(member),
        b"/health": Health(member, deadlines.after),
        loglevel.PATH: loglevel.LogLevel(set_level),
    }
    below: dict[bytes, Handler] = {admin.PREFIX: admin_api.handle}
    if enable_v2:
        members = MembersApi(member, cluster)
        exact |= {
            b"/v2/machines": members.machines,
            b"/v2/stats/store": statistics.store,
            b"/v2/stats/self": statistics.own,
            b"/v2/stats/leader": statistics.leader,
        }
        keys = KeysApi(member, lessor.nodes)
        lessor.renewing_nodes = keys.renewing
        below |= {KEYS: keys.handle, MEMBERS: members.members}
    return Router(exact, below, closed=(admin.PREFIX,))
