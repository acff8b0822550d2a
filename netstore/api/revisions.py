"""When and by whom the revisions of the v3 keys were written: `GET /netstore/revisions?from=REVISION`.

The answer has as many revisions from that one on as this member finds in one look, and `next`, the revision
to go on with, or 0 at the end. It is what this member has applied, back to what was compacted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.http.body import BadBody
from netstore.api.http.responses import JSON, json_line, method_allowed

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.state.machine import Machine
    from netstore.state.v3.origins import Origin

_FROM: Final = b"from="
_DIGITS: Final = 19
"""Of the largest revision, 2**63 - 1."""


class RevisionsApi:
    """Handles requests for `/netstore/revisions` for one member."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def handle(self, exchange: Exchange) -> None:
        """Answer now. BadBody for a query that cannot be used."""
        if not method_allowed(exchange, b"GET"):
            return
        mvcc = self._machine.mvcc
        if mvcc.suspended:
            raise BadBody(503, "the state is being replaced by a newer one; ask again in a moment")
        found, following = mvcc.origins.since(_first(exchange.request.query))
        exchange.respond(
            200,
            JSON,
            json_line(
                {
                    "revision": mvcc.revision,
                    "compactedRevision": max(0, mvcc.compacted),
                    "revisions": [_shown(each) for each in found],
                    "next": following or 0,
                }
            ),
        )


def _first(query: bytes) -> int:
    digits = query.removeprefix(_FROM)
    if not query:
        return 0
    if not query.startswith(_FROM) or not digits.isdigit() or len(digits) > _DIGITS:
        raise BadBody(400, "from: must be a revision, such as ?from=17")
    return int(digits)


def _shown(origin: Origin) -> dict[str, object]:
    return {
        "first": origin.first,
        "last": origin.last,
        "unixNanos": origin.wall,
        "author": origin.principal.decode("utf-8", "backslashreplace"),
    }
