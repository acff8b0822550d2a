"""`/v2/members`, `/v2/members/leader`, `/v2/machines` (v2 API, members API).

Reads show what this member has applied. Changes go through `node.membership`, and can be requested of any
member.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.api.http.body import BadBody, go_kind, json_body
from netstore.api.http.percent import decode
from netstore.api.http.responses import JSON, NOSNIFF, method_allowed
from netstore.errors import Fault, Reason
from netstore.net.exchange import PLAIN
from netstore.types import NodeId
from netstore.urls import BadPeerUrl, checked_peer_urls

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member, Membership
    from netstore.state.members import MemberInfo

PREFIX: Final = b"/v2/members"

_METHODS: Final = b"GET,POST,DELETE,PUT"
_MOST_DIGITS: Final = 16


class MembersApi:
    """Lists, adds, updates and removes members, and names the leader."""

    def __init__(self, member: Member, cluster: Membership) -> None:
        self._member = member
        self._cluster = cluster
        self._fields = b"X-Etcd-Cluster-Id: %x\r\n" % member.cluster_id

    def members(self, exchange: Exchange) -> None:
        """Answer a request for `/v2/members` or below."""
        if not method_allowed(exchange, _METHODS):
            return
        path = decode(exchange.request.path)
        below = path.removeprefix(PREFIX).removeprefix(b"/").decode("utf-8", "replace")
        match exchange.request.method:
            case b"GET":
                self._get(exchange, below)
            case b"POST":
                self._post(exchange)
            case b"PUT":
                self._put(exchange, below)
            case _:
                self._delete(exchange, below)

    def machines(self, exchange: Exchange) -> None:
        """Answer a request for `/v2/machines`: the client URLs of all members."""
        if method_allowed(exchange, b"GET,HEAD"):
            members = self._member.machine.members.values()
            urls = sorted(url for member in members for url in member.client_urls)
            exchange.respond(200, PLAIN, ", ".join(urls).encode())

    # --- methods

    def _get(self, exchange: Exchange, below: str) -> None:
        known = self._member.machine.members
        if not below:
            listed = [member_json(known[member]) for member in sorted(known)]
            self._respond(exchange, 200, {"members": listed}, b"\n")
        elif below != "leader":
            self._respond_message(exchange, 404, "Not found")
        elif self._member.leader in known:
            self._respond(exchange, 200, member_json(known[self._member.leader]), b"\n")
        else:
            self._respond_message(exchange, 503, "During election")

    def _post(self, exchange: Exchange) -> None:
        urls = self._peer_urls(exchange)
        if urls is not None:
            done = partial(self._changed, exchange, "", 201)
            self._cluster.add(urls, learner=False, done=done, principal=exchange.principal.encode())

    def _put(self, exchange: Exchange, below: str) -> None:
        id_ = self._named(exchange, below)
        urls = None if id_ is None else self._peer_urls(exchange)
        if id_ is not None and urls is not None:
            done = partial(self._changed, exchange, f"{id_:x}", 204)
            self._cluster.update(id_, urls, done, exchange.principal.encode())

    def _delete(self, exchange: Exchange, below: str) -> None:
        id_ = self._named(exchange, below)
        if id_ is not None:
            self._cluster.remove(id_, partial(self._removed, exchange, id_), exchange.principal.encode())

    def _removed(self, exchange: Exchange, id_: NodeId, outcome: MemberInfo | Fault) -> None:
        if isinstance(outcome, Fault) and outcome.reason is Reason.ID_REMOVED:
            self._respond_message(exchange, 410, f"Member permanently removed: {id_:x}")
        else:
            self._changed(exchange, f"{id_:x}", 204, outcome)

    def _changed(self, exchange: Exchange, named: str, status: int, outcome: MemberInfo | Fault) -> None:
        if not isinstance(outcome, Fault):
            if status == 201:
                self._respond(exchange, status, member_json(outcome), b"\n")
            else:
                exchange.respond(status, self._fields)
            return
        if outcome.reason in (Reason.PEER_URL_EXISTS, Reason.ID_EXISTS):
            self._respond_message(exchange, 409, outcome.cause.decode())
        elif outcome.reason is Reason.ID_NOT_FOUND:
            self._respond_message(exchange, 404, f"No such member: {named}")
        else:
            self._respond_message(exchange, 500, "Internal Server Error")

    # --- decoding

    def _named(self, exchange: Exchange, below: str) -> NodeId | None:
        """The member that the path names; None if it names none, and then the request was answered."""
        if not below:
            exchange.respond(405, self._fields + PLAIN + NOSNIFF, b"Method Not Allowed\n")
            return None
        id_ = member_id_of(below)
        if id_ is None:
            self._respond_message(exchange, 404, f"No such member: {below}")
        return id_

    def _peer_urls(self, exchange: Exchange) -> tuple[str, ...] | None:
        """The peer URLs in the body; None if they cannot be used, and then the request was answered."""
        try:
            return peer_urls_of(json_body(exchange))
        except BadBody as bad:
            self._respond_message(exchange, bad.status, str(bad))
        return None

    def _respond_message(self, exchange: Exchange, status: int, message: str) -> None:
        self._respond(exchange, status, {"message": message})

    def _respond(self, exchange: Exchange, status: int, document: object, end: bytes = b"") -> None:
        exchange.respond(status, JSON + self._fields, msgspec.json.encode(document) + end)


def member_id_of(text: str) -> NodeId | None:
    """The member id that a text is in hexadecimal; None if it is not."""
    digits = text.lstrip("0") or "0"
    if not text or len(digits) > _MOST_DIGITS or set(digits) - set("0123456789abcdefABCDEF"):
        return None
    return NodeId(int(digits, 16))


def peer_urls_of(document: dict[str, Any]) -> tuple[str, ...]:
    """The `peerURLs` of a document from `json_body`, checked; BadBody if they cannot be used."""
    urls = document.get("peerurls") or []
    if not isinstance(urls, list):
        raise _mistyped(urls, "[]string")
    for url in urls:
        if not isinstance(url, str):
            raise _mistyped(url, "string")
    try:
        return checked_peer_urls(urls)
    except BadPeerUrl as bad:
        raise BadBody(400, str(bad)) from None


def member_json(member: MemberInfo) -> dict[str, object]:
    """A member in the JSON of the v2 API."""
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peerURLs": list(member.peer_urls),
        "clientURLs": list(member.client_urls),
    }


def _mistyped(value: object, wanted: str) -> BadBody:
    field = f"Go struct field .peerURLs of type {wanted}"
    return BadBody(400, f"json: cannot unmarshal {go_kind(value)} into {field}")
