"""The page of the admin endpoints has every route of the HTTP port and every field of its answers."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from netstore.api.admin import AdminApi
from netstore.limits import Shares
from netstore.meter import Meter
from netstore.net.exchange import Request
from netstore.node.backupschedule import BackupState
from netstore.node.pacing import Behind
from netstore.raft.status import PeerStatus, Role
from netstore.types import Index
from tests.api.test_routes import lessor_of, routed
from tests.support.daemon import ROOT
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.member import Lines

PAGE: Final = (ROOT / "contrib" / "doc" / "admin-api.md").read_text()
TOLD: Final = set(re.findall(r"`([^`\n]+)`", PAGE))


class Scrubbed:
    rounds, verified_bytes = 3, 4096


def names(document: object) -> set[str]:
    """The fields of a document and of those in it."""
    match document:
        case dict():
            return set(document).union(*map(names, document.values()))
        case list():
            return set[str]().union(*map(names, document))
    return set()


def answer(path: bytes) -> dict[str, Any]:
    """What a leader answers while it brings itself up, which nothing but a test can see."""
    member = LocalMember()
    member.peers = (PeerStatus(member.id, Index(7), True, False),)
    member.others_behind = [Behind(member.id, True, 3, 7, 9, True)]
    meter = Meter(lambda: 1.0, Lines(), budget=0.005)
    exchange = RecordedExchange(Request(b"GET", path))
    shares, scheduled = Shares.of(1 << 20), BackupState(60.0)
    AdminApi(member, member.cluster, meter, Scrubbed(), shares, scheduled=scheduled).handle(exchange)
    document: dict[str, Any] = json.loads(exchange.body)
    return document


def test_every_field_is_described() -> None:
    status, members = answer(b"/netstore/status"), answer(b"/netstore/members")
    assert {"totalBytes", "verifiedBytes", "longestWork", "walks"} <= names(status)
    assert {"promote", "matchIndex", "waitedFor"} <= names(members)
    assert sorted((names(status) | names(members["members"])) - TOLD) == []
    assert {role.value for role in Role} <= TOLD


def test_every_route_is_described() -> None:
    member = LocalMember()
    routed(member, lessor_of(member))
    paths = {path.decode() for path in (*member.router.exact, *member.router.below)}
    assert len(paths) > 8
    assert [path for path in sorted(paths) if path not in PAGE] == []
    known = re.findall(r"^\| `([A-Z]+) (/[\w/]+)`", PAGE, re.MULTILINE)
    assert len(known) == 19
    for method, path in known:
        asked = path.replace("ID", "7").replace("OFFSET", "0")
        shown = member.send(method, asked, b"{}", b"application/json")
        assert shown.status != 405, f"{method} {path}"
        assert b"404 page not found" not in shown.body, f"{method} {path}"
