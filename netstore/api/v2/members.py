"""`/v2/members`, `/v2/members/leader`, `/v2/machines` (v2 API, members API).

Reads answer from what this member has applied; changes go through `node.membership`, on any member.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.api.router import NOSNIFF, method_allowed
from netstore.api.v2.percent import decode
from netstore.errors import Fault, Reason
from netstore.net.exchange import PLAIN
from netstore.types import NodeId
from netstore.urls import BadPeerUrl, checked_peer_urls

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member, Membership
    from netstore.state.members import MemberInfo

PREFIX: Final = b"/v2/members"

JSON_LIMIT_BYTES: Final = 16 * 1024
"""Longest JSON body, twice the longest URLs of a member: 0.5 ms at worst. 10 MiB take up to a second."""

_JSON: Final = b"Content-Type: application/json\r\n"
_METHODS: Final = b"GET,POST,DELETE,PUT"
_MOST_DIGITS: Final = 16
_GO_KINDS: Final = ((bool, "bool"), (str, "string"), (int | float, "number"), (list, "array"))


class BadBody(ValueError):  # noqa: N818 - named for what was found
    """The body is not what was asked for: the HTTP status and the text to answer with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class MembersApi:
    """Lists, adds, moves and removes members, and tells the leader."""

    def __init__(self, member: Member, cluster: Membership) -> None:
        self._member = member
        self._cluster = cluster
        self._fields = b"X-Etcd-Cluster-Id: %x\r\n" % member.cluster_id

    def members(self, exchange: Exchange) -> None:
        """Answer `/v2/members` and what lies below it."""
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
        """Answer `/v2/machines`: the client URLs of all members."""
        if method_allowed(exchange, b"GET,HEAD"):
            members = self._member.machine.members.values()
            urls = sorted(url for member in members for url in member.client_urls)
            exchange.respond(200, PLAIN, ", ".join(urls).encode())

    # --- verbs

    def _get(self, exchange: Exchange, below: str) -> None:
        known = self._member.machine.members
        if not below:
            listed = [shown(known[member]) for member in sorted(known)]
            self._respond(exchange, 200, {"members": listed}, b"\n")
        elif below != "leader":
            self._tell(exchange, 404, "Not found")
        elif self._member.leader in known:
            self._respond(exchange, 200, shown(known[self._member.leader]), b"\n")
        else:
            self._tell(exchange, 503, "During election")

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
            self._tell(exchange, 410, f"Member permanently removed: {id_:x}")
        else:
            self._changed(exchange, f"{id_:x}", 204, outcome)

    def _changed(self, exchange: Exchange, named: str, status: int, outcome: MemberInfo | Fault) -> None:
        if not isinstance(outcome, Fault):
            if status == 201:
                self._respond(exchange, status, shown(outcome), b"\n")
            else:
                exchange.respond(status, self._fields)
            return
        if outcome.reason in (Reason.PEER_URL_EXISTS, Reason.ID_EXISTS):
            self._tell(exchange, 409, outcome.cause.decode())
        elif outcome.reason is Reason.ID_NOT_FOUND:
            self._tell(exchange, 404, f"No such member: {named}")
        else:
            self._tell(exchange, 500, "Internal Server Error")

    # --- what was asked

    def _named(self, exchange: Exchange, below: str) -> NodeId | None:
        """The member the path names; None when the request was answered because it names none."""
        if not below:
            exchange.respond(405, self._fields + PLAIN + NOSNIFF, b"Method Not Allowed\n")
            return None
        id_ = member_id_of(below)
        if id_ is None:
            self._tell(exchange, 404, f"No such member: {below}")
        return id_

    def _peer_urls(self, exchange: Exchange) -> tuple[str, ...] | None:
        """The peer URLs in the body; None when the request was answered because there are none."""
        try:
            return peer_urls_of(json_body(exchange))
        except BadBody as bad:
            self._tell(exchange, bad.status, str(bad))
        return None

    def _tell(self, exchange: Exchange, status: int, message: str) -> None:
        self._respond(exchange, status, {"message": message})

    def _respond(self, exchange: Exchange, status: int, document: object, end: bytes = b"") -> None:
        exchange.respond(status, _JSON + self._fields, msgspec.json.encode(document) + end)


def member_id_of(text: str) -> NodeId | None:
    """The member that a text in hexadecimal stands for; None when it is none."""
    digits = text.lstrip("0") or "0"
    if not text or len(digits) > _MOST_DIGITS or set(digits) - set("0123456789abcdefABCDEF"):
        return None
    return NodeId(int(digits, 16))


def json_body(exchange: Exchange) -> dict[str, Any]:
    """The JSON object that is the body, keys in lower case; null is an empty one, BadBody all else, and
    what is longer than `JSON_LIMIT_BYTES`.

    The type of the content must be told: a page in a browser cannot send it to a stranger by itself.
    """
    given = (exchange.request.content_type or b"").decode("latin-1")
    name, parameters, _ = given.partition(";")
    named = name.strip().lower() if parameters else given
    if named != "application/json":
        raise BadBody(415, f"Bad Content-Type {named}, accept application/json")
    body = exchange.request.body
    if exchange.request.too_large or len(body) > JSON_LIMIT_BYTES:
        raise BadBody(413, f"the body has more than {JSON_LIMIT_BYTES} bytes")
    if not body.strip():
        raise BadBody(400, "unexpected end of JSON input")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(400, str(error)) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadBody(400, f"json: cannot unmarshal {_go_kind(document)} into an object")
    return {str(key).lower(): value for key, value in document.items()}


def peer_urls_of(document: dict[str, Any]) -> tuple[str, ...]:
    """The member `peerURLs` of a document from `json_body`, checked; BadBody when they cannot be used."""
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


def shown(member: MemberInfo) -> dict[str, object]:
    """A member as the v2 API shows it."""
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peerURLs": list(member.peer_urls),
        "clientURLs": list(member.client_urls),
    }


def _mistyped(value: object, wanted: str) -> BadBody:
    field = f"Go struct field .peerURLs of type {wanted}"
    return BadBody(400, f"json: cannot unmarshal {_go_kind(value)} into {field}")


def _go_kind(value: object) -> str:
    return next((kind for types, kind in _GO_KINDS if isinstance(value, types)), "object")
