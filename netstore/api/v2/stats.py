"""`/v2/stats/store`: what the store has counted (v2 API, statistics)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.router import method_allowed
from netstore.api.v2.render import JSON

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member

PATH: Final = b"/v2/stats/store"


_MEMBERS: Final = (
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "setsFail",
    "deleteSuccess",
    "deleteFail",
    "updateSuccess",
    "updateFail",
    "createSuccess",
    "createFail",
    "compareAndSwapSuccess",
    "compareAndSwapFail",
    "compareAndDeleteSuccess",
    "compareAndDeleteFail",
    "expireCount",
    "watchers",
)
"""The members of the document in etcd's order: the fields of `Statistics`, then the live watchers."""


class StoreStatsApi:
    """Answers requests for the store's statistics."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def handle(self, exchange: Exchange) -> None:
        """Answer at once. Only GET is allowed."""
        if not method_allowed(exchange, b"GET"):
            return
        counts = msgspec.structs.astuple(self._member.machine.statistics)
        exchange.respond(
            200,
            JSON,
            msgspec.json.encode(dict(zip(_MEMBERS, (*counts, self._member.hub.count), strict=True))),
        )
