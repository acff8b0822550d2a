"""Reading the members: `/v2/members`, `/v2/members/leader`, `/v2/machines` (v2 API, members API)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.router import PLAIN, method_allowed

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.state.member import MemberInfo

_JSON: Final = b"Content-Type: application/json\r\n"


class MembersApi:
    """Lists the members and tells the leader, from what this member has applied."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._fields = _JSON + b"X-Etcd-Cluster-Id: %x\r\n" % member.cluster_id

    def members(self, exchange: Exchange) -> None:
        """Answer `/v2/members` and what lies below it."""
        if not method_allowed(exchange, b"GET"):
            return
        path = exchange.request.path.removeprefix(b"/v2/members").strip(b"/")
        known = self._member.machine.members
        if not path:
            listed = [_shown(known[member]) for member in sorted(known)]
            self._respond(exchange, 200, {"members": listed}, b"\n")
        elif path != b"leader":
            self._respond(exchange, 404, {"message": "Not found"})
        elif self._member.leader in known:
            self._respond(exchange, 200, _shown(known[self._member.leader]), b"\n")
        else:
            self._respond(exchange, 503, {"message": "During election"})

    def machines(self, exchange: Exchange) -> None:
        """Answer `/v2/machines`: the client URLs of all members."""
        if method_allowed(exchange, b"GET,HEAD"):
            members = self._member.machine.members.values()
            urls = sorted(url for member in members for url in member.client_urls)
            exchange.respond(200, PLAIN, ", ".join(urls).encode())

    def _respond(self, exchange: Exchange, status: int, document: object, end: bytes = b"") -> None:
        exchange.respond(status, self._fields, msgspec.json.encode(document) + end)


def _shown(member: MemberInfo) -> dict[str, object]:
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peerURLs": list(member.peer_urls),
        "clientURLs": list(member.client_urls),
    }
