"""`netstorectl status`: what is well, what is not, and the exit status that says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.commands.conftest import answering, http

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from tests.cli.commands.conftest import Run
    from tests.support.certificates import Certificates

GOOD = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
DEAD = "http://127.0.0.1:1"


def test_a_healthy_store_with_a_network(ctl: Run, store: str, prefix: str) -> None:
    ctl("network", "set", GOOD)
    holder = '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}'
    ctl("key", "set", "--ttl", "1000", f"{prefix}/subnets/172.30.5.0-24", holder)
    ctl("key", "set", f"{prefix}/subnets/172.30.6.0-24", '{"PublicIP":"192.168.77.12"}')
    ctl("key", "set", f"{prefix}/subnets/rubbish", "x")
    told = ctl("status", "-o", "json")
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {prefix}/subnets/rubbish: ")
    (endpoint,) = told.document["endpoints"]
    assert (endpoint["endpoint"], endpoint["healthy"], endpoint["problems"]) == (store, True, [])
    assert endpoint["etcdVersion"].startswith("3.")
    assert endpoint["role"] == "leader"
    (standing,) = ctl("endpoint", "status", "-o", "json").document["endpoints"]
    for shared in ("version", "role", "leader"):
        assert endpoint[shared] == standing[shared], "one word has one meaning"
    (health,) = ctl("endpoint", "health", "-o", "json").document["endpoints"]
    assert set(health) <= set(endpoint)
    assert endpoint["member"] == "default"
    assert 0 < endpoint["milliseconds"] < 10_000
    assert told.document["network"] == {
        "prefix": prefix,
        "config": "valid",
        "api": "v2",
        "network": "172.30.0.0/16",
        "backend": "host-gw",
        "leases": 1,
        "reservations": 1,
        "badLeases": 1,
        "problems": [],
    }


def test_plain_lines_begin_with_what_they_are_about(ctl: Run, store: str, prefix: str) -> None:
    told = ctl("status")
    assert told.status == 0
    endpoint, network = told.rows
    assert endpoint[:3] == ["endpoint", store, "healthy"]
    assert endpoint[4:6] == ["default", "leader"]
    assert network == ["network", prefix, "absent", "v2", "", "", "0", "0", "0", ""]


def test_tables_for_people(ctl: Run, store: str) -> None:
    out = ctl("status", "-o", "table").out
    assert out.startswith("ENDPOINT ")
    assert store in out
    assert "\nPREFIX " in out


def test_a_config_that_cannot_be_used(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/config", '{"Network":"x"}')
    told = ctl("status", "-o", "json")
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {prefix}/config: Network: ")
    assert told.document["network"]["config"] == "invalid"


def test_one_endpoint_of_two_is_down(ctl: Run, store: str) -> None:
    told = ctl("--endpoints", f"{DEAD},{store}", "status", "-o", "json")
    assert told.status == 4
    assert told.err.startswith(f"netstorectl: {DEAD}: no endpoint answered")
    assert [found["healthy"] for found in told.document["endpoints"]] == [False, True]
    assert told.document["network"]["config"] == "absent"


def test_no_endpoint_answers(run: Run) -> None:
    told = run("--endpoints", f"{DEAD},http://127.0.0.1:2", "status", "-o", "json")
    assert told.status == 4
    assert told.err.count("\n") == 1
    assert [found["healthy"] for found in told.document["endpoints"]] == [False] * 2
    assert told.document["network"]["config"] == "unknown"


def test_an_endpoint_that_says_it_is_not_healthy(run: Run) -> None:
    def sick(head: bytes) -> bytes:
        if head.startswith(b"GET /version "):
            return http("200 OK", '{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}')
        if head.startswith(b"GET /health "):
            return http("503 Service Unavailable", '{"health":"false","reason":"NOSPACE alarm"}')
        if head.startswith(b"GET /v2/members "):
            return http("404 Not Found", "404 page not found\n")
        body = json.dumps(
            {"errorCode": 300, "message": "Raft Internal Error", "cause": "no leader", "index": 0}
        )
        return http("500 Internal Server Error", body)

    with answering(sick) as url:
        told = run("--endpoints", url, "status", "-o", "json")
    assert told.status == 4
    assert told.err == f"netstorectl: {url}: NOSPACE alarm\n"
    (endpoint,) = told.document["endpoints"]
    assert (endpoint["healthy"], endpoint["member"], endpoint["leader"]) == (False, None, None)
    assert told.document["network"]["config"] == "unknown"
    assert told.document["network"]["problems"] == ["the store could not answer: no leader"]


@pytest.mark.parametrize("role", ["learner", "candidate", "follower"])
def test_the_role_is_the_one_that_endpoint_status_shows(run: Run, role: str) -> None:
    def store(head: bytes) -> bytes:
        if head.startswith(b"GET /version "):
            return http("200 OK", '{"etcdserver":"3.5.13","etcdcluster":"3.5.0"}')
        if head.startswith(b"GET /health "):
            return http("200 OK", '{"health":"true"}')
        if head.startswith(b"GET /netstore/status "):
            standing = {"id": "b", "name": "two", "version": "1.0", "role": role, "leader": "a", "term": 2}
            return http("200 OK", json.dumps(standing | {"commitIndex": 9, "appliedIndex": 8}))
        return http("404 Not Found", "404 page not found\n")

    with answering(store) as url:
        told = run("--endpoints", url, "status", "-o", "json")
        (line, _) = run("--endpoints", url, "status").rows
    (endpoint,) = told.document["endpoints"]
    shown = {name: endpoint[name] for name in ("version", "etcdVersion", "member", "role", "leader")}
    assert shown == {"version": "1.0", "etcdVersion": "3.5.13", "member": "two", "role": role, "leader": "a"}
    assert line[2:6] == ["healthy", "1.0", "two", role]


def test_what_is_not_saved_is_told_of_a_healthy_member(run: Run) -> None:
    refused = "the log is not archived: /a has the archive of another store"
    archive: dict[str, object] = {"folder": "/a", "lastIndex": 7, "lastUnixNanos": 0, "waitingEntries": 0}
    archive |= {"files": 1, "states": 1, "newestState": 0, "gaps": 0, "stopped": True, "problems": [refused]}

    def store(head: bytes) -> bytes:
        if head.startswith(b"GET /version "):
            return http("200 OK", '{"etcdserver":"3.5.13","etcdcluster":"3.5.0"}')
        if head.startswith(b"GET /health "):
            return http("200 OK", '{"health":"true"}')
        if head.startswith(b"GET /netstore/status "):
            standing = {
                "id": "b",
                "name": "two",
                "version": "1.0",
                "role": "follower",
                "leader": "a",
                "term": 2,
            }
            problems = ["backup: no room", refused]
            told = {"commitIndex": 9, "appliedIndex": 8, "problems": problems, "archive": archive}
            return http("200 OK", json.dumps(standing | told))
        return http("404 Not Found", "404 page not found\n")

    with answering(store) as url:
        told = run("--endpoints", url, "status", "-o", "json")
        (line, _) = run("--endpoints", url, "status").rows
    (endpoint,) = told.document["endpoints"]
    assert (endpoint["healthy"], endpoint["problems"]) == (True, ["backup: no room", refused])
    assert endpoint["archive"] | archive == endpoint["archive"]
    assert endpoint["archive"]["keepSeconds"] is None, "an earlier release does not tell it"
    assert line[-1] == f"backup: no room; {refused}"


def member(standing: dict[str, object], members: Sequence[dict[str, object]]) -> Callable[[bytes], bytes]:
    """Answers of a member with this status and this list of members."""
    indexes = {"version": "1.0", "term": 2, "commitIndex": 9, "appliedIndex": 8}

    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET /version "):
            return http("200 OK", '{"etcdserver":"3.5.13","etcdcluster":"3.5.0"}')
        if head.startswith(b"GET /health "):
            return http("200 OK", json.dumps({"health": "true" if standing["leader"] else "false"}))
        if head.startswith(b"GET /netstore/status "):
            return http("200 OK", json.dumps(standing | indexes))
        if head.startswith(b"GET /netstore/members "):
            return http("200 OK", json.dumps({"members": members}))
        return http("404 Not Found", "404 page not found\n")

    return answer


def listed(name: str, role: str, *urls: str, **more: object) -> dict[str, object]:
    return {"id": name, "name": name, "peerURLs": [], "clientURLs": urls, "role": role} | more


def test_without_a_leader_the_members_that_are_not_reached_are_named(run: Run) -> None:
    members = [listed("a", "voter", DEAD), listed("c", "voter", "http://127.0.0.1:2", DEAD)]
    members += [listed("d", "voter"), listed("e", "learner", DEAD)]
    standing: dict[str, object] = {"id": "a", "name": "a", "role": "candidate", "leader": ""}
    with answering(lambda _head: http("404 Not Found", "")) as other:
        members.append(listed("b", "voter", DEAD, other))
        with answering(member(standing, members)) as url:
            told = run("--endpoints", url, "status", "-o", "json")
    assert told.status == 4
    (endpoint,) = told.document["endpoints"]
    assert endpoint["problems"] == [
        "says that it is not healthy",
        f"voter c is not reached from here at http://127.0.0.1:2, {DEAD}",
        "voter d has told no address, and may not run",
    ]


def test_a_leader_that_is_none_of_the_endpoints_is_asked_for_silent_voters(run: Run) -> None:
    known = [listed("a", "voter"), listed("b", "leader", active=True), listed("c", "voter", active=False)]
    with answering(member({"id": "b", "name": "b", "role": "leader", "leader": "b"}, known)) as leader:
        members = [listed("a", "voter"), listed("b", "leader", leader), listed("c", "voter")]
        standing: dict[str, object] = {"id": "a", "name": "a", "role": "follower", "leader": "b"}
        with answering(member(standing, members)) as url:
            told = run("--endpoints", url, "status", "-o", "json")
    (endpoint,) = told.document["endpoints"]
    assert (endpoint["healthy"], endpoint["problems"]) == (True, ["voter c does not answer"])


UNUSABLE = ["unix://localhost:1", "http://127.0.0.1:1/path", "", "http://127.0.0.1:1,127.0.0.1:2"]
"""What etcd and others may tell as addresses, and no request can be sent to."""


@pytest.mark.parametrize("address", UNUSABLE)
def test_a_leader_at_an_address_that_cannot_be_asked_is_not_asked(run: Run, address: str) -> None:
    members = [listed("a", "voter"), listed("b", "leader", address), listed("c", "voter")]
    standing: dict[str, object] = {"id": "a", "name": "a", "role": "follower", "leader": "b"}
    with answering(member(standing, members)) as url:
        told = run("--endpoints", url, "status", "-o", "json")
    (endpoint,) = told.document["endpoints"]
    assert (told.status, endpoint["healthy"], endpoint["problems"]) == (4, True, [])
    assert "defect" not in told.err


def test_without_a_leader_an_address_that_cannot_be_asked_is_told(run: Run) -> None:
    with answering(lambda _head: http("404 Not Found", "")) as other:
        members = [listed("a", "voter"), listed("b", "voter", UNUSABLE[0], other)]
        members += [listed(f"c{n}", "voter", url) for n, url in enumerate(UNUSABLE) if url]
        standing: dict[str, object] = {"id": "a", "name": "a", "role": "candidate", "leader": ""}
        with answering(member(standing, members)) as url:
            told = run("--endpoints", url, "status", "-o", "json")
    (endpoint,) = told.document["endpoints"]
    assert told.status == 4
    assert endpoint["problems"][1:] == [
        f"voter c{n} cannot be asked from here at {url}" for n, url in enumerate(UNUSABLE) if url
    ]


@pytest.mark.parametrize("leader", ["", "b"])
def test_no_password_goes_in_clear_where_the_endpoint_is_https(
    run: Run, certificates: Certificates, server_context: ssl.SSLContext, leader: str
) -> None:
    seen: list[bytes] = []

    def other(head: bytes) -> bytes:
        seen.append(head)
        return http("404 Not Found", "")

    with answering(other) as plain:
        members = [listed("a", "voter"), listed("b", "leader" if leader else "voter", plain)]
        standing: dict[str, object] = {"id": "a", "name": "a", "role": "follower", "leader": leader}
        with answering(member(standing, members), server_context) as url:
            ours = ("--endpoints", url, "--ca-file", str(certificates.ca), "--username", "root:secret")
            told = run(*ours, "status", "-o", "json")
    (endpoint,) = told.document["endpoints"]
    assert (endpoint["role"], endpoint["leader"]) == ("follower", leader or None)
    assert len(seen) == (0 if leader else 1), "without a leader it is asked for its version alone"
    assert not any(b"authorization" in head.lower() for head in seen)


def without_gateway(members: Sequence[dict[str, object]]) -> Callable[[bytes], bytes]:
    """Answers of an etcd whose own status nobody can read."""

    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET /version "):
            return http("200 OK", '{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}')
        if head.startswith(b"GET /health "):
            return http("200 OK", '{"health":"true"}')
        if head.startswith(b"GET /v2/members "):
            return http("200 OK", json.dumps({"members": members}))
        return http("404 Not Found", "404 page not found\n")

    return answer


def test_members_whose_roles_are_unknown_are_not_called_unreachable(run: Run) -> None:
    members = [listed("a", "", DEAD), listed("b", "", "http://127.0.0.1:2")]
    with answering(without_gateway(members)) as url:
        told = run("--endpoints", url, "status", "-o", "json")
    (endpoint,) = told.document["endpoints"]
    shown = {name: endpoint[name] for name in ("healthy", "role", "problems")}
    assert shown == {"healthy": True, "role": None, "problems": []}


def test_no_member_is_named_while_one_of_them_answers_without_its_id(run: Run) -> None:
    members = [listed("a", "voter"), listed("b", "voter", DEAD)]
    standing: dict[str, object] = {"id": "a", "name": "a", "role": "candidate", "leader": ""}
    with answering(without_gateway(members)) as other, answering(member(standing, members)) as url:
        told = run("--endpoints", f"{url},{other}", "status", "-o", "json")
    first, second = told.document["endpoints"]
    assert (first["problems"], second["problems"]) == (["says that it is not healthy"], [])


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", http("200 OK", "<html>")])
def test_an_endpoint_that_is_no_store(run: Run, answer: bytes) -> None:
    with answering(lambda _head: answer) as url:
        told = run("--endpoints", url, "status", "-o", "json")
    assert told.status == 4
    assert told.document["endpoints"][0]["healthy"] is False
    assert url in told.err
