"""How the handlers of the HTTP port are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from netstore.api.admin import AdminApi
from netstore.api.metrics.endpoint import Variables
from netstore.api.routes import routes
from netstore.node.lessor import Lessor
from tests.support.local_member import LocalMember, backups_of, plugins_of
from tests.support.metered import Metered

if TYPE_CHECKING:
    from netstore.node.member import Replica


def routed(member: LocalMember, lessor: Lessor, *, enable_v2: bool = True) -> LocalMember:
    """The member behind the routes of the daemon."""
    metered = Metered()
    member.router = routes(
        member,
        member.cluster,
        lessor,
        member.deadlines,
        gate=member.gate,
        statistics=member.stats,
        admin_api=AdminApi(member, member.cluster, plugins=plugins_of(member), backup=backups_of(member)),
        set_level=lambda _: None,
        enable_v2=enable_v2,
        metrics=metered.metrics,
        variables=Variables(metered.sources),
    )
    return member


def lessor_of(member: LocalMember) -> Lessor:
    return Lessor(cast("Replica", member), 1.0)


def test_the_lessor_knows_of_what_writes_of_keys_wait() -> None:
    member = LocalMember()
    lessor = lessor_of(member)
    routed(member, lessor)
    seen: list[bool] = []
    propose = member.propose

    def note(*arguments: Any) -> None:
        seen.append(b"/n" in lessor.renewing_nodes)
        propose(*arguments)

    member.propose = note  # type: ignore[method-assign,assignment] # to look at what is so meanwhile
    member.send("PUT", "/v2/keys/n?ttl=5&value=v")
    assert seen == [True]
    assert b"/n" not in lessor.renewing_nodes


@pytest.mark.parametrize(
    "path", ["/v2/keys/", "/v2/members", "/v2/machines", "/v2/stats/store", "/v2/stats/self"]
)
def test_without_the_v2_api_its_paths_are_not_there(path: str) -> None:
    for enable_v2, status in ((True, 200), (False, 404)):
        member = LocalMember()
        routed(member, lessor_of(member), enable_v2=enable_v2)
        assert member.send("GET", path).status == status
        assert member.send("GET", "/version").status == 200
        assert member.send("GET", "/netstore/status").status == 200
