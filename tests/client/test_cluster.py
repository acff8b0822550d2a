"""Operating a cluster: requests and answers of netstored and of etcd, refusals, and invalid answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from netstore.client.cluster import ClusterClient, MemberRecord, Refused
from netstore.client.faults import BadAnswer, ClientError
from netstore.client.transport import Transport
from tests.cli.commands.conftest import answering, http

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ETCD_STATUS = {
    "header": {"cluster_id": "1", "member_id": "255", "raft_term": "2"},
    "version": "3.4.23",
    "leader": "16",
    "raftIndex": "9",
    "raftTerm": "2",
}
ETCD_MEMBERS = {
    "members": [
        {"ID": "255", "name": "b", "peerURLs": ["http://b:1"], "clientURLs": ["http://b:2"]},
        {"ID": "16", "name": "a", "peerURLs": ["http://a:1"], "clientURLs": ["http://a:2"]},
        {"ID": "17", "peerURLs": ["http://c:1"], "isLearner": True},
    ]
}


async def conversation(
    answers: dict[str, tuple[str, Any]], action: Callable[[ClusterClient], Awaitable[Any]]
) -> tuple[Any, list[tuple[str, Any]]]:
    """What an action gives against a server that knows these requests, and what was asked. Anything else is
    404, as both kinds of store answer.
    """
    heard: list[tuple[str, Any]] = []

    def session(head: bytes) -> bytes:
        line, _, rest = head.decode().partition("\r\n")
        words = " ".join(line.split(" ")[:2])
        body = rest.partition("\r\n\r\n")[2]
        heard.append((words, json.loads(body) if body else None))
        if words not in answers:
            return http("404 Not Found", "404 page not found\n")
        status, document = answers[words]
        return http(status, document if isinstance(document, str) else json.dumps(document))

    with answering(session) as url:
        async with Transport(url) as transport:
            return await action(ClusterClient(transport)), heard


async def test_etcd_is_asked_through_its_json_gateway() -> None:
    members, _ = await conversation(
        {
            "POST /v3/cluster/member/list": ("200 OK", ETCD_MEMBERS),
            "POST /v3/maintenance/status": ("200 OK", ETCD_STATUS),
        },
        lambda cluster: cluster.members(),
    )
    assert members == (
        MemberRecord("10", "a", ("http://a:1",), ("http://a:2",), "leader"),
        MemberRecord("11", "", ("http://c:1",), (), "learner"),
        MemberRecord("ff", "b", ("http://b:1",), ("http://b:2",), "voter"),
    )


async def test_numbers_that_etcd_leaves_out_are_zero() -> None:
    answers = {"POST /v3/maintenance/status": ("200 OK", {"header": {"member_id": "255"}, "errors": ["e"]})}
    status, _ = await conversation(answers, lambda cluster: cluster.status())
    assert (status.id, status.role, status.leader, status.term, status.problems) == (
        "ff", "follower", "", 0, ("e",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status", "known"), [(5, 404, True), (9, 409, True), (14, 409, False), (4, 409, False)]
)
async def test_refusals_of_the_gateway(code: int, status: int, known: bool) -> None:
    answers = {
        "POST /v3/cluster/member/remove": ("400 Bad Request", {"error": "etcdserver: no", "code": code})
    }
    with pytest.raises(Refused, match="etcdserver: no") as caught:
        await conversation(answers, lambda cluster: cluster.remove("ff"))
    assert (caught.value.status, caught.value.outcome_known) == (status, known)


@pytest.mark.parametrize(
    ("status", "known"), [("404 Not Found", True), ("409 Conflict", True), ("503 Unavailable", False)]
)
async def test_refusals_of_a_netstored(status: str, known: bool) -> None:
    answers = {
        "GET /netstore/status": ("200 OK", {}),
        "DELETE /netstore/members/ff": (status, {"message": "no"}),
    }
    with pytest.raises(Refused, match=r"^no$") as caught:
        await conversation(answers, lambda cluster: cluster.remove("ff"))
    assert (caught.value.status, caught.value.outcome_known) == (int(status[:3]), known)


@pytest.mark.parametrize(
    ("status", "known"), [("200 OK", False), ("502 Bad Gateway", False), ("403 No", True)]
)
async def test_an_answer_that_is_not_json_is_a_bad_answer(status: str, known: bool) -> None:
    answers = {"GET /netstore/status": ("200 OK", {}), "DELETE /netstore/members/ff": (status, "<html>")}
    with pytest.raises(BadAnswer, match="<html>") as caught:
        await conversation(answers, lambda cluster: cluster.remove("ff"))
    assert caught.value.outcome_known is known


@pytest.mark.parametrize(
    "document",
    [[], "x", {}, {"members": 5}, {"members": [{}]}, {"members": [5]}, {"members": [{"id": "a", "name": 5}]}],
)
async def test_json_of_another_shape_is_a_bad_answer(document: Any) -> None:
    own = {"GET /netstore/status": ("200 OK", document), "GET /netstore/members": ("200 OK", document)}
    for action in (lambda cluster: cluster.members(), lambda cluster: cluster.status()):
        with pytest.raises(ClientError):
            await conversation(own, action)
    etcd = {
        "POST /v3/cluster/member/list": ("200 OK", document),
        "POST /v3/maintenance/status": ("200 OK", document),
    }
    with pytest.raises(ClientError):
        await conversation(etcd, lambda cluster: cluster.status())


@pytest.mark.parametrize(
    ("answer", "token"),
    [
        (("200 OK", '{"token": "t1"}'), "t1"),
        (("400 Bad Request", '{"error": "etcdserver: authentication is not enabled", "code": 9}'), ""),
    ],
)
async def test_an_etcd_with_users_is_given_a_token_and_one_without_none(
    answer: tuple[str, str], token: str
) -> None:
    carried: dict[str, str] = {}

    def session(head: bytes) -> bytes:
        text = head.decode()
        path, fields = text.split(" ")[1], text.lower().partition("\r\nauthorization: ")[2]
        carried[path] = fields.partition("\r\n")[0]
        if path == "/netstore/status":
            return http("404 Not Found", "404 page not found\n")
        return http(*answer) if "authenticate" in path else http("200 OK", json.dumps(ETCD_STATUS))

    with answering(session) as url:
        async with Transport(url, username="root", password="pw") as transport:  # noqa: S106 - of a test
            assert (await ClusterClient(transport).status()).version == "3.4.23"
    assert carried.pop("/netstore/status").startswith("basic ")
    assert carried == {"/v3/auth/authenticate": "", "/v3/maintenance/status": token}


@pytest.mark.parametrize("token", ["tö", "a\\r\\nb"])
async def test_a_token_that_no_header_can_have_is_refused(token: str) -> None:
    def session(head: bytes) -> bytes:
        if b" /netstore/status " in head:
            return http("404 Not Found", "404 page not found\n")
        return http("200 OK", f'{{"token": "{token}"}}')

    with answering(session) as url:
        async with Transport(url, username="root", password="pw") as transport:  # noqa: S106 - of a test
            with pytest.raises(Refused, match="cannot be sent in a header field"):
                await ClusterClient(transport).status()


async def test_a_gateway_that_takes_no_named_certificate_is_told_in_words() -> None:
    text = "CommonName of client sending a request against gateway will be ignored"
    with pytest.raises(Refused, match="give one without, and a user name and password"):
        await conversation(
            {"POST /v3/maintenance/status": ("400 Bad Request", text)}, lambda cluster: cluster.status()
        )
