"""The members API: what is answered to whom, to the letter (v2 API, members API)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netstore.api.http.body import JSON_LIMIT_BYTES
from netstore.errors import Fault, Reason, refusal, timed_out
from netstore.net.exchange import Request
from netstore.types import NodeId
from tests.support.local_member import LocalMember, RecordedExchange

JSON = b"application/json"
OWN = "8e9e05c52164694d"
SHOWN = {"id": OWN, "name": "local", "peerURLs": ["http://p:1"], "clientURLs": ["http://c:1"]}
BODY = b'{"peerURLs":["http://new:1"]}'


def asked(
    member: LocalMember, method: str, path: str, body: bytes = b"", content_type: bytes | None = JSON
) -> tuple[int, Any]:
    answer = member.send(method, path, body, content_type)
    assert answer.headers["X-Etcd-Cluster-Id"] == "cdf818194e3a8c32"
    return answer.status, _read(answer)


def _read(answer: RecordedExchange) -> Any:
    if answer.headers.get("Content-Type") != "application/json":
        return answer.body.decode()
    document = json.loads(answer.body)
    assert answer.body.endswith(b"\n") is ("message" not in document), "only what is found ends in a new line"
    return document


def test_members_are_listed_by_their_numbers() -> None:
    member = LocalMember()
    member.cluster.next_id = NodeId(0xF)
    asked(member, "POST", "/v2/members", BODY)
    member.cluster.next_id = NodeId(0x10)
    asked(member, "POST", "/v2/members", b'{"peerURLs":["http://z:1"," http://a:1 "]}')
    for path in ("/v2/members", "/v2/members/"):
        status, document = asked(member, "GET", path)
        assert status == 200
        assert [each["id"] for each in document["members"]] == ["f", "10", OWN]
        assert document["members"][1]["peerURLs"] == ["http://a:1", "http://z:1"]
        assert document["members"][0]["clientURLs"] == []
        assert document["members"][2] == SHOWN
        assert list(document["members"][2]) == ["id", "name", "peerURLs", "clientURLs"]


def test_the_leader_is_shown_or_its_absence() -> None:
    member = LocalMember()
    assert asked(member, "GET", "/v2/members/leader") == (200, SHOWN)
    member.leader = NodeId(0)
    assert asked(member, "GET", "/v2/members/leader") == (503, {"message": "During election"})
    assert asked(member, "GET", f"/v2/members/{OWN}") == (404, {"message": "Not found"})


def test_a_member_is_added_to_vote() -> None:
    member = LocalMember()
    assert asked(member, "POST", "/v2/members/anything", BODY) == (
        201,
        {"id": "abc", "name": "", "peerURLs": ["http://new:1"], "clientURLs": []},
    )
    assert member.cluster.asked == [("add", ("http://new:1",), False)]
    assert member.cluster.askers == [b"here"]


def test_keys_of_the_body_are_read_in_any_case() -> None:
    """As Go's decoder does it."""
    member = LocalMember()
    assert asked(member, "POST", "/v2/members", b'{"PEERurls":["http://new:1"],"x":1}')[0] == 201


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "unexpected end of JSON input"),
        (b" ", "unexpected end of JSON input"),
        (b"{}", "no valid URLs given"),
        (b'{"peerURLs":null}', "no valid URLs given"),
        (b'{"peerURLs":3}', "json: cannot unmarshal number into Go struct field .peerURLs of type []string"),
        (b'{"peerURLs":[true]}', "json: cannot unmarshal bool into Go struct field .peerURLs of type string"),
        (
            b'{"peerURLs":{"a":1}}',
            "json: cannot unmarshal object into Go struct field .peerURLs of type []string",
        ),
        (b'{"peerURLs":["ftp://a:1"]}', "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
        (b"[]", "json: cannot unmarshal array into an object"),
        (b'"a"', "json: cannot unmarshal string into an object"),
    ],
)
def test_bodies_that_are_none_are_refused(body: bytes, said: str) -> None:
    member = LocalMember()
    for method, path in (("POST", "/v2/members"), ("PUT", f"/v2/members/{OWN}")):
        assert asked(member, method, path, body) == (400, {"message": said})
    assert member.cluster.asked == []


@pytest.mark.parametrize("body", [b"junk", b"\xff", b"[" * 10_000, b'{"peerURLs":["\xff"]}'])
def test_bodies_that_are_not_json_are_refused(body: bytes) -> None:
    status, document = asked(LocalMember(), "POST", "/v2/members", body)
    assert status == 400
    assert document["message"]


def test_a_body_is_bounded() -> None:
    member = LocalMember()
    urls = b",".join(b'"http://%b:%d"' % (b"n" * 63, 1000 + number) for number in range(16))
    most = (b'{"peerURLs":[%b],"x":"' % urls).ljust(JSON_LIMIT_BYTES - 2, b"x") + b'"}'
    said = {"message": f"the body has more than {JSON_LIMIT_BYTES} bytes"}
    for body in (most + b" ", b" " * (JSON_LIMIT_BYTES + 1), b"[" * 1_000_000):
        assert asked(member, "POST", "/v2/members", body) == (413, said)
    assert member.cluster.asked == []
    request = Request(b"POST", b"/v2/members", content_type=JSON)
    request.too_large = True
    exchange = RecordedExchange(request)
    member.router.handle(exchange)
    assert (exchange.status, json.loads(exchange.body)) == (413, said)
    assert asked(member, "POST", "/v2/members", most)[0] == 201


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/json", 201),
        (b"Application/JSON; charset=utf-8", 201),
        (b"Application/JSON", 415),
        (b"text/json; a=b", 415),
        (b"application/x-www-form-urlencoded", 415),
        (None, 415),
    ],
)
def test_the_type_of_the_content_must_be_told(content_type: bytes | None, status: int) -> None:
    got, document = asked(LocalMember(), "POST", "/v2/members", BODY, content_type)
    assert got == status
    if status == 415:
        name = (content_type or b"").partition(b";")[0].decode()
        assert document == {"message": f"Bad Content-Type {name}, accept application/json"}


@pytest.mark.parametrize("word", ["zzz", "1ffffffffffffffff", "-1", "+1", "0x1", "1/x", "%20"])
def test_what_is_no_id_names_nobody(word: str) -> None:
    member = LocalMember()
    for method in ("DELETE", "PUT"):
        status, document = asked(member, method, f"/v2/members/{word}")
        assert (status, document) == (404, {"message": f"No such member: {word.replace('%20', ' ')}"})


@pytest.mark.parametrize("word", ["00AB", "ab", "000000000000000000000AB"])
def test_unknown_ids_are_told_in_their_normal_form(word: str) -> None:
    member = LocalMember()
    for method in ("DELETE", "PUT"):
        answer = asked(member, method, f"/v2/members/{word}", BODY)
        assert answer == (404, {"message": "No such member: ab"})


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_without_an_id_nothing_is_allowed(method: str) -> None:
    member = LocalMember()
    for path in ("/v2/members", "/v2/members/"):
        assert asked(member, method, path) == (405, "Method Not Allowed\n")
        assert "Allow" not in member.send(method, path).headers


def test_other_methods_are_told_what_is_allowed() -> None:
    answer = LocalMember().send("PATCH", "/v2/members")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,POST,DELETE,PUT")
    assert "X-Etcd-Cluster-Id" not in answer.headers


def test_a_member_moves() -> None:
    member = LocalMember()
    assert asked(member, "PUT", f"/v2/members/{OWN}", BODY) == (204, "")
    assert member.machine.members[member.id].peer_urls == ("http://new:1",)


def test_an_url_that_another_has_is_a_conflict() -> None:
    member = LocalMember()
    taken = b'{"peerURLs":["http://p:1"]}'
    assert asked(member, "POST", "/v2/members", taken) == (409, {"message": "membership: peerURL exists"})
    asked(member, "POST", "/v2/members", BODY)
    assert asked(member, "PUT", "/v2/members/abc", taken) == (409, {"message": "membership: peerURL exists"})


def test_who_was_removed_is_gone() -> None:
    member = LocalMember()
    asked(member, "POST", "/v2/members", BODY)
    assert asked(member, "DELETE", "/v2/members/abc") == (204, "")
    assert asked(member, "DELETE", "/v2/members/abc") == (410, {"message": "Member permanently removed: abc"})
    assert asked(member, "PUT", "/v2/members/abc", BODY) == (500, {"message": "Internal Server Error"})


@pytest.mark.parametrize("fault", [refusal(Reason.NOT_ENOUGH_STARTED), timed_out()])
def test_any_other_failure_is_not_explained(fault: Fault) -> None:
    member = LocalMember()
    member.cluster.refusal = fault
    for method, path in (
        ("POST", "/v2/members"),
        ("PUT", f"/v2/members/{OWN}"),
        ("DELETE", f"/v2/members/{OWN}"),
    ):
        assert asked(member, method, path, BODY) == (500, {"message": "Internal Server Error"})


def test_machines_are_all_client_urls() -> None:
    member = LocalMember()
    for method, body in (("GET", b"http://c:1"), ("HEAD", b"")):
        answer = member.send(method, "/v2/machines")
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers == {"Content-Type": "text/plain; charset=utf-8"}
