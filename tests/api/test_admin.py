"""What operators ask under /netstore/."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netstore.api.admin import AdminApi, operation
from netstore.api.gate import Access, Api, Kind, Operation
from netstore.api.v2.operations import members
from netstore.api.v3.operations import move_leader
from netstore.errors import Reason, refusal, timed_out
from netstore.limits import Shares
from netstore.meter import Meter
from netstore.net.exchange import Request
from netstore.node.member import DIFFERING_FIX
from netstore.node.pacing import Behind
from netstore.proto import rpc_pb2 as pb
from netstore.raft.entry import ConfState
from netstore.raft.status import PeerStatus
from netstore.state.v3.commands import NOSPACE, SetAlarm
from netstore.types import Index, NodeId
from tests.support.local_member import LocalMember, RecordedExchange
from tests.support.member import Lines

OWN = "8e9e05c52164694d"
BODY = b'{"peerURLs":["http://new:1"],"learner":true}'


def asked(member: LocalMember, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    answer = member.send(method, f"/netstore/{path}", body, b"application/json")
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        (b"GET", b"/netstore/status", Kind.ADMIN),
        (b"GET", b"/netstore", Kind.ADMIN),
        (b"GET", b"/netstore/members", Kind.MEMBER),
        (b"POST", b"/netstore/members", Kind.MEMBER),
        (b"PUT", b"/netstore/members/7", Kind.MEMBER),
        (b"DELETE", b"/netstore/%6dembers/7", Kind.MEMBER),
        (b"POST", b"/netstore/members/7/promote", Kind.MEMBER),
        (b"POST", b"/netstore/leader", Kind.MAINTENANCE),
        (b"POST", b"/netstore/lea%64er", Kind.MAINTENANCE),
    ],
)
def test_members_and_leader_are_accessed_as_in_the_other_apis(method: bytes, path: bytes, kind: Kind) -> None:
    made = operation(Request(method, path))
    assert made == Operation(Api.ADMIN, method + b" " + path, (Access(kind),), method != b"GET")
    if kind is Kind.MEMBER:
        assert made.accesses == members(Request(method, b"/v2/members")).accesses
    if kind is Kind.MAINTENANCE:
        assert made.accesses == move_leader(pb.MoveLeaderRequest()).accesses


def test_status_tells_how_the_member_stands() -> None:
    member = LocalMember()
    status, document = asked(member, "GET", "status")
    assert status == 200
    assert document["id"] == document["leader"] == OWN
    assert document["role"] == "leader"
    assert document["voters"] == [OWN]
    assert document["appliedIndex"] == member.machine.applied > 0
    member.leader = NodeId(0)
    document = asked(member, "GET", "status")[1]
    assert (document["role"], document["leader"]) == ("follower", "")
    assert document["backedUp"] is False
    assert document["problems"] == []
    member.own_problems = {"log cannot be written: full": "free disk space"}
    member.machine.alarms.set(SetAlarm(7, NOSPACE, active=True))
    member.differing = f"states differ: {DIFFERING_FIX}"
    document = asked(member, "GET", "status")[1]
    told = document["problems"]
    assert told == ["alarm NOSPACE", "log cannot be written: full", f"states differ: {DIFFERING_FIX}"]
    assert list(document["fixes"]) == told
    assert "alarm disarm" in document["fixes"]["alarm NOSPACE"]
    assert [document["fixes"][each] for each in told[1:]] == ["free disk space", DIFFERING_FIX]
    member.backed_up = True
    assert asked(member, "GET", "status")[1]["backedUp"] is True
    member.conf = ConfState(voters=(NodeId(5),), learners=(member.id,))
    assert asked(member, "GET", "status")[1]["role"] == "learner"


def test_status_and_members_tell_who_is_brought_up() -> None:
    member = LocalMember()
    document = asked(member, "GET", "status")[1]
    assert (document["pacedBytesPerSecond"], document["behind"]) == (0, [])
    assert "behind" not in asked(member, "GET", "members")[1]["members"][0]
    member.paced_to = 1_000
    member.others_behind = [
        Behind(member.id, gets_snapshot=True, sent=3, size=7, entries=9, counts=True),
        Behind(NodeId(5), gets_snapshot=False, sent=7, size=7, entries=4, counts=False),
    ]
    document = asked(member, "GET", "status")[1]
    copying = {"id": OWN, "state": "copying", "sentBytes": 3, "totalBytes": 7}
    copying |= {"entriesBehind": 9, "waitedFor": True}
    assert document["pacedBytesPerSecond"] == 1_000
    assert document["behind"] == [
        copying,
        {"id": "5", "state": "catching up", "entriesBehind": 4, "waitedFor": False},
    ]
    assert asked(member, "GET", "members")[1]["members"][0]["behind"] == copying


def test_status_tells_what_held_the_loop() -> None:
    member = LocalMember()
    meter = Meter(lambda: 1.0, Lines(), budget=0.005)
    meter.over("requests", 0.1234, "10.0.0.9")
    exchange = RecordedExchange(Request(b"GET", b"/netstore/status"))
    AdminApi(member, member.cluster, meter).handle(exchange)
    assert json.loads(exchange.body)["loop"] == {
        "budgetMs": 5.0,
        "overBudget": 1,
        "longestMs": 123.4,
        "longestWork": "requests of 10.0.0.9",
    }


def test_status_tells_what_the_buffers_hold_and_the_feature_level() -> None:
    member = LocalMember()
    member.machine.roster.level = 3
    shares = Shares.of(64 << 20)
    shares.clients.account().charge(1_000)
    shares.log.account().charge(24)
    exchange = RecordedExchange(Request(b"GET", b"/netstore/status"))
    AdminApi(member, member.cluster, shares=shares).handle(exchange)
    document = json.loads(exchange.body)
    assert document["featureLevel"] == 3
    assert document["memory"] == {
        "budgetBytes": 64 << 20,
        "usedBytes": 1_024,
        "sharesUsedBytes": dict.fromkeys(shares.parts, 0) | {"clients": 1_000, "log": 24},
    }


def test_status_tells_how_far_the_state_is_verified() -> None:
    class Scrubbed:
        rounds, verified_bytes = 3, 4096

    member = LocalMember()
    exchange = RecordedExchange(Request(b"GET", b"/netstore/status"))
    AdminApi(member, member.cluster, scrubber=Scrubbed()).handle(exchange)
    assert json.loads(exchange.body)["scrub"] == {"rounds": 3, "verifiedBytes": 4096}


def test_members_are_listed_with_roles_and_on_the_leader_with_progress() -> None:
    member = LocalMember()
    assert asked(member, "POST", "members", BODY)[0] == 201
    assert member.cluster.asked == [("add", ("http://new:1",), True)]
    peer = PeerStatus(NodeId(0xABC), Index(7), False, False)
    member.peers = (peer,)
    status, document = asked(member, "GET", "members")
    assert status == 200
    learner, leader = document["members"]
    assert learner == {
        "id": "abc",
        "name": "",
        "peerURLs": ["http://new:1"],
        "clientURLs": [],
        "role": "learner",
        "promote": False,
        "active": False,
        "matchIndex": 7,
    }
    assert (leader["id"], leader["role"]) == (OWN, "leader")
    assert "active" not in leader


def test_a_member_is_added_to_vote_unless_told_otherwise() -> None:
    member = LocalMember()
    status, document = asked(member, "POST", "members", b'{"peerURLs":["http://new:1"]}')
    assert (status, document["role"], document["promote"]) == (201, "learner", True)


def test_a_member_is_moved_promoted_and_removed() -> None:
    member = LocalMember()
    asked(member, "POST", "members", BODY)
    status, document = asked(member, "PUT", "members/0ABC", b'{"peerURLs":["http://other:1"]}')
    assert (status, document["peerURLs"]) == (200, ["http://other:1"])
    status, document = asked(member, "POST", "members/abc/promote", b"{}")
    assert (status, document["role"]) == (200, "voter")
    status, document = asked(member, "DELETE", "members/abc")
    assert (status, document["id"]) == (200, "abc")
    assert asked(member, "DELETE", "members/abc") == (410, {"message": Reason.ID_REMOVED.text})
    assert asked(member, "DELETE", "members/abd") == (404, {"message": Reason.ID_NOT_FOUND.text})


def test_another_member_is_made_to_lead() -> None:
    member = LocalMember()
    asked(member, "POST", "members", BODY)
    assert asked(member, "POST", "leader", b'{"to":"abc"}') == (200, {"leader": "abc"})
    member.cluster.refusal = refusal(Reason.NOT_LEADER)
    assert asked(member, "POST", "leader", b'{"to":"abc"}') == (409, {"message": "etcdserver: not leader"})


def test_what_is_not_known_is_told_apart_from_what_is_refused() -> None:
    member = LocalMember()
    member.cluster.refusal = refusal(Reason.UNHEALTHY)
    assert asked(member, "DELETE", f"members/{OWN}") == (409, {"message": Reason.UNHEALTHY.text})
    member.cluster.refusal = timed_out()
    assert asked(member, "DELETE", f"members/{OWN}") == (503, {"message": "etcdserver: request timed out"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "members", b'{"peerURLs":["http://new:1"],"learner":1}', 400, "learner"),
        ("POST", "members", b"{}", 400, "no valid URLs given"),
        ("POST", "members/zz/promote", b"{}", 404, "No such member: zz"),
        ("DELETE", "members/zz", b"", 404, "No such member: zz"),
        ("POST", "leader", b"{}", 400, "to: the id"),
        ("POST", "leader", b'{"to":5}', 400, "to: the id"),
        ("POST", "leader", b'{"to":"zz"}', 404, "No such member: zz"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    method: str, path: str, body: bytes, status: int, said: str
) -> None:
    member = LocalMember()
    got, document = asked(member, method, path, body)
    assert got == status
    assert said in document["message"]
    assert member.cluster.asked == []


@pytest.mark.parametrize("path", ["members", "members/abc/promote", "leader"])
def test_a_form_that_a_web_page_could_send_is_refused(path: str) -> None:
    member = LocalMember()
    answer = member.send("POST", f"/netstore/{path}", b"{}", b"text/plain")
    assert answer.status == 415
    assert member.cluster.asked == []


@pytest.mark.parametrize("path", ["", "/", "/x", "/members/a/b", "/status/x"])
def test_other_paths_lead_nowhere(path: str) -> None:
    assert LocalMember().send("GET", f"/netstore{path}").status == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("status", "GET"),
        ("members", "GET,POST"),
        ("members/abc", "PUT,DELETE"),
        ("members/abc/promote", "POST"),
        ("leader", "POST"),
    ],
)
def test_other_methods_are_told_what_is_allowed(path: str, allowed: str) -> None:
    answer = LocalMember().send("PATCH", f"/netstore/{path}")
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
