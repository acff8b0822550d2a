"""Members and statistics on both stores: the same requests, answered alike but for ids, ports and times."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cluster import exchange
from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

JSON = {"Content-Type": "application/json"}
SHOWN = ("allow", "content-type", "x-content-type-options", "x-etcd-index", "x-raft-index")

pytestmark = pytest.mark.peer("etcd")


@pytest.fixture(scope="module")
def netstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start_netstored(tmp_path_factory.mktemp("members")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start_etcd(tmp_path_factory.mktemp("members")) as daemon:
        yield daemon


def ask(daemon: Daemon, method: str, path: str, body: str = "", fields: Any = JSON) -> tuple[Any, ...]:
    """Status, header fields and body, with what differs between any two stores written as words."""
    listed = json.loads(_raw(daemon, "GET", "/v2/members", "", {})[2])["members"]
    (own,) = [each for each in listed if each["name"]]
    path, body = (text.replace("OWN", own["id"]).replace("PEER", own["peerURLs"][0]) for text in (path, body))
    status, headers, text = _raw(daemon, method, path, body, fields)
    for name, value in (("PEER", own["peerURLs"][0]), ("CLIENT", own["clientURLs"][0]), ("OWN", own["id"])):
        text = text.replace(value, name)
    shown = {name: value for name, value in headers.items() if name in SHOWN}
    return status, shown, "x-etcd-cluster-id" in headers, text


def _raw(daemon: Daemon, method: str, path: str, body: str, fields: Any) -> tuple[int, dict[str, str], str]:
    answer = exchange(daemon, method, path, body or None, fields)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return answer.status, headers, answer.raw.decode()


QUESTIONS = [
    ("GET", "/v2/members"),
    ("GET", "/v2/members/"),
    ("GET", "/v2/members/leader"),
    ("GET", "/v2/members/OWN"),
    ("GET", "/v2/members/leader/"),
    ("HEAD", "/v2/members"),
    ("PATCH", "/v2/members"),
    ("POST", "/v2/members", '{"peerURLs":["PEER"]}'),
    ("POST", "/v2/members", ""),
    ("POST", "/v2/members", "{}"),
    ("POST", "/v2/members", "null"),
    ("POST", "/v2/members", '{"peerURLs":3}'),
    ("POST", "/v2/members", '{"peerURLs":[3]}'),
    ("POST", "/v2/members", '{"peerURLs":["127.0.0.1:1"]}'),
    ("POST", "/v2/members", '{"peerURLs":["http://127.0.0.1"]}'),
    ("POST", "/v2/members", '{"peerURLs":["http://127.0.0.1:1/"]}'),
    ("POST", "/v2/members", '{"peerURLs":["http://h:x"]}'),
    ("POST", "/v2/members", '{"peerURLs":["%zz"]}'),
    ("POST", "/v2/members", '{"peerURLs":["http://a b:1"]}'),
    ("POST", "/v2/members", '{"peerURLs":["PEER"]}', {"Content-Type": "Text/JSON; a=b"}),
    ("POST", "/v2/members", '{"peerURLs":["PEER"]}', {"Content-Type": "Application/JSON; a=b"}),
    ("POST", "/v2/members", '{"peerURLs":["PEER"]}', {}),
    ("PUT", "/v2/members", "{}"),
    ("PUT", "/v2/members/"),
    ("PUT", "/v2/members/zzz", "{}"),
    ("PUT", "/v2/members/OWN", "{}"),
    ("PUT", "/v2/members/00AB", '{"peerURLs":["http://127.0.0.1:1"]}'),
    ("PUT", "/v2/members/OWN", '{"peerURLs":[" PEER "]}'),
    ("DELETE", "/v2/members"),
    ("DELETE", "/v2/members/zzz"),
    ("DELETE", "/v2/members/1ffffffffffffffff"),
    ("DELETE", "/v2/members/00AB"),
    ("DELETE", "/v2/members/OWN/x"),
    ("DELETE", "/v2/members/OWN"),
    ("GET", "/v2/machines"),
    ("HEAD", "/v2/machines"),
    ("GET", "/v2/machines/"),
    ("POST", "/v2/machines"),
    ("GET", "/v2/stats"),
    ("GET", "/v2/stats/leader"),
    ("POST", "/v2/stats/leader"),
    ("HEAD", "/v2/stats/self"),
    ("GET", "/v2/stats/self/"),
    ("DELETE", "/v2/stats/store"),
    ("POST", "/health"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: " ".join(map(str, question))[:60])
def test_both_stores_answer_alike(netstored: Daemon, etcd: Daemon, question: tuple[Any, ...]) -> None:
    assert ask(netstored, *question) == ask(etcd, *question)


def test_health_has_the_reason_that_later_etcds_add(netstored: Daemon, etcd: Daemon) -> None:
    *head, ours = ask(netstored, "GET", "/health")
    *their_head, theirs = ask(etcd, "GET", "/health")
    assert head == their_head
    assert json.loads(ours) == {**json.loads(theirs), "reason": ""}


def shape(value: Any) -> Any:
    """The names of the members in their order, and the types of what is below."""
    if isinstance(value, dict):
        return [(name, shape(each)) for name, each in value.items()]
    if isinstance(value, str):
        return re.sub(r"[0-9a-f]+|[A-Z]\w+", "x", re.sub(r"\.[0-9]+", "", value)) if ":" in value else "text"
    return type(value).__name__


@pytest.mark.parametrize("path", ["/v2/stats/self", "/v2/stats/store", "/version"])
def test_both_stores_tell_the_same_things_in_the_same_order(
    netstored: Daemon, etcd: Daemon, path: str
) -> None:
    ours, theirs = (json.loads(ask(daemon, "GET", path)[3]) for daemon in (netstored, etcd))
    assert shape(ours) == shape(theirs)


def test_a_change_of_members_takes_the_same_indexes(netstored: Daemon, etcd: Daemon) -> None:
    """What is written about members lies in the same history as the keys."""
    taken = []
    for daemon in (netstored, etcd):
        indexes = []
        for number in range(2):
            answer = _raw(daemon, "PUT", f"/v2/keys/k{number}", "", {})
            indexes.append(int(answer[1]["x-etcd-index"]))
            ask(daemon, "PUT", "/v2/members/OWN", '{"peerURLs":["PEER"]}')
        taken.append(indexes[1] - indexes[0])
    assert taken[0] == taken[1]
