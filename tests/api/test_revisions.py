"""`GET /netstore/revisions`."""

from __future__ import annotations

import json
from typing import Any

from netstore.api.admin import AdminApi
from netstore.net.exchange import Request
from netstore.state.commands import encode
from netstore.state.envelope import seal
from netstore.state.v3.commands import Put
from netstore.types import Index
from tests.support.local_member import LocalMember, RecordedExchange


def asked(member: LocalMember, query: bytes, method: bytes = b"GET") -> tuple[int, Any]:
    exchange = RecordedExchange(Request(method, b"/netstore/revisions", query))
    AdminApi(member, member.cluster).handle(exchange)
    return exchange.status, json.loads(exchange.body) if exchange.status != 405 else None


def test_revisions_with_times_and_authors() -> None:
    member = LocalMember()
    machine = member.machine
    for wall, principal in ((5, b"node1"), (6, b"\xff")):
        payload = seal(encode(Put(b"k", b"v")), wall=wall, principal=principal)
        machine.enter(Index(machine.applied + 1), payload)
    first = {"first": 2, "last": 2, "unixNanos": 5, "author": "node1"}
    second = {"first": 3, "last": 3, "unixNanos": 6, "author": "\\xff"}
    whole = {"revision": 3, "compactedRevision": 0, "revisions": [first, second], "next": 0}
    assert asked(member, b"") == (200, whole)
    assert asked(member, b"from=3") == (200, whole | {"revisions": [second]})
    assert asked(member, b"from=4") == (200, whole | {"revisions": []})


def test_what_cannot_be_asked() -> None:
    member = LocalMember()
    for query in (b"from=", b"from=x", b"from=-1", b"from=" + b"9" * 20, b"to=3", b"from=\xb2"):
        status, document = asked(member, query)
        assert (status, document["message"]) == (400, "from: must be a revision, such as ?from=17")
    assert asked(member, b"", b"POST")[0] == 405
    member.machine.mvcc.suspended = True
    assert asked(member, b"")[0] == 503
