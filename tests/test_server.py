"""How the parts of the daemon are put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from netstore.node.lessor import Lessor
from netstore.server import _Daemon
from tests.support.local_member import LocalMember

if TYPE_CHECKING:
    from netstore.node.lessor import Replica


def test_the_lessor_knows_of_what_writes_of_keys_wait() -> None:
    member = LocalMember()
    lessor = Lessor(cast("Replica", member), 1.0)
    daemon = SimpleNamespace(
        host=member,
        cluster=member.cluster,
        deadlines=member.deadlines,
        meter=None,
        scrubber=None,
        shares=None,
        statistics=member.stats,
        lessor=lessor,
        config=SimpleNamespace(enable_v2=True),
    )
    member.router = _Daemon._routes(cast("_Daemon", daemon))
    seen: list[bool] = []
    propose = member.propose

    def note(*arguments: Any) -> None:
        seen.append(b"/n" in lessor.renewing_nodes)
        propose(*arguments)

    member.propose = note  # type: ignore[method-assign,assignment] # to look at what is so meanwhile
    member.send("PUT", "/v2/keys/n?ttl=5&value=v")
    assert seen == [True]
    assert b"/n" not in lessor.renewing_nodes
