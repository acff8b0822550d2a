"""What the API does around the store: methods, memories, watches, readers that go or are slow.

That its answers are etcd's is the business of `tests/conformance`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from netstore import errors
from netstore.api.v2 import keys as keys_module
from netstore.api.v2.paths import MAX_NAMES
from netstore.api.v2.render import expiration
from netstore.net.exchange import Request
from netstore.types import Nanos
from tests.support.local_member import LocalMember, RecordedExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault
    from netstore.state.machine import Outcome


@pytest.fixture
def member() -> LocalMember:
    return LocalMember()


def put(member: LocalMember, key: str, value: bytes = b"1") -> None:
    assert member.send("PUT", f"/v2/keys{key}", b"value=" + value).status in {200, 201}


@pytest.mark.parametrize("method", ["get", "PATCH", "TRACE", "Put", ""])
def test_other_methods_are_refused(member: LocalMember, method: str) -> None:
    answer = member.send(method, "/v2/keys/a?wait=yes")
    assert (answer.status, answer.body) == (405, b"Method Not Allowed\n")
    assert answer.headers["Allow"] == "HEAD,GET,PUT,POST,DELETE"
    assert not [name for name in answer.headers if name.startswith("X-Etcd")]


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (errors.timed_out(), b"etcdserver: request timed out"),
        (errors.stopped(), b"etcdserver: server stopped"),
        (errors.too_many(), b"etcdserver: too many requests"),
        (None, b"the command has no outcome to tell"),
    ],
)
def test_what_the_cluster_cannot_do_is_told(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, outcome: Fault | None, cause: bytes
) -> None:
    def propose(command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        done(outcome)

    monkeypatch.setattr(member, "propose", propose)
    answer = member.send("PUT", "/v2/keys/a", b"value=1")
    assert answer.status == 500
    assert answer.body == (
        b'{"errorCode":300,"message":"Raft Internal Error","cause":"%b","index":0}\n' % cause
    )
    assert answer.headers["X-Etcd-Index"] == "0"
    assert "X-Raft-Index" not in answer.headers


@pytest.mark.parametrize(("path", "owner"), [("/v2/keys/a?quorum=true", b"here"), ("/health", b"")])
def test_a_read_through_the_log_has_a_place_of_who_asks_and_a_check_of_health_is_the_members_own(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch, path: str, owner: bytes
) -> None:
    asked: list[bytes] = []

    def propose(command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        asked.append(principal)
        done(errors.too_many())

    monkeypatch.setattr(member, "propose", propose)
    answer = member.send("GET", path)
    assert asked == [owner]
    assert answer.status in {500, 503}
    assert b"etcdserver: too many requests" in answer.body


def test_local_reads_propose_nothing(member: LocalMember) -> None:
    put(member, "/a")
    before = member.commit_index
    member.send("GET", "/v2/keys/a")
    member.send("HEAD", "/v2/keys/a?quorum=true")
    member.send("GET", "/v2/keys/a?wait=true&waitIndex=4")
    assert member.commit_index == before
    member.send("GET", "/v2/keys/a?quorum=true")
    assert member.commit_index == before + 1


def test_the_raft_position_is_that_of_the_answer(member: LocalMember) -> None:
    answer = member.send("PUT", "/v2/keys/a", b"value=1")
    assert answer.headers["X-Raft-Index"] == str(member.commit_index)
    assert answer.headers["X-Raft-Term"] == "2"
    assert answer.headers["X-Etcd-Cluster-Id"] == "cdf818194e3a8c32"


def test_paths_and_queries_are_remembered_within_bounds(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_CACHED", 4)
    for number in range(50):
        assert member.send("PUT", f"/v2/keys/k{number}", b"value=%d" % number).status == 201
    for number in range(50):
        answer = member.send("GET", f"/v2/keys/k{number}?waitIndex={number}")
        assert json.loads(answer.body)["node"]["value"] == str(number)
    assert len(member.keys._paths) <= 4
    assert len(member.keys._queries) <= 4
    long = "/v2/keys/" + "x" * 1_000
    assert member.send("GET", long + "?a=" + "x" * 1_000).status == 404
    assert long.encode() not in member.keys._paths
    assert all(len(query) <= 512 for query in member.keys._queries)


def test_a_query_remembered_for_get_is_checked_again_for_others(member: LocalMember) -> None:
    watch = member.send("GET", "/v2/keys/a?wait=true")
    assert watch.open
    for method in ("HEAD", "DELETE", "PUT"):
        assert member.send(method, "/v2/keys/a?wait=true").status == 400


def test_a_bad_query_is_not_remembered(member: LocalMember) -> None:
    for _ in range(2):
        assert member.send("GET", "/v2/keys/a?recursive=").status == 400


def test_a_watch_ends_after_one_event_and_is_forgotten(member: LocalMember) -> None:
    watch = member.send("GET", "/v2/keys/a?wait=true")
    assert (watch.status, watch.open, member.hub.count) == (200, True, 1)
    put(member, "/a")
    assert (watch.done, member.hub.count) == (True, 0)
    put(member, "/a", b"2")
    assert len(watch.pieces) == 1


def test_a_stream_goes_on_until_the_client_hangs_up(member: LocalMember) -> None:
    watch = member.send("GET", "/v2/keys/a?wait=true&stream=true")
    for value in (b"1", b"2", b"3"):
        put(member, "/a", value)
    assert [json.loads(piece)["node"]["value"] for piece in watch.pieces] == ["1", "2", "3"]
    watch.hang_up()
    assert member.hub.count == 0
    put(member, "/a", b"4")
    assert len(watch.pieces) == 3


def test_a_stream_that_cannot_keep_up_is_ended(member: LocalMember) -> None:
    exchange = RecordedExchange(Request(b"GET", b"/v2/keys/a", b"wait=true&stream=true"), room=2)
    member.router.handle(exchange)
    for _ in range(4):
        put(member, "/a")
    assert exchange.done
    assert len(exchange.pieces) == 2
    assert member.hub.count == 0


@pytest.mark.parametrize("stream", ["", "&stream=true"])
def test_a_watch_that_the_store_ends_has_an_empty_body(member: LocalMember, stream: str) -> None:
    watch = member.send("GET", f"/v2/keys/a?wait=true{stream}")
    member.hub.interrupt()
    assert (watch.status, watch.done, watch.pieces, member.hub.count) == (200, True, [], 0)


def test_watchers_of_one_event_share_its_bytes(member: LocalMember) -> None:
    watches = [
        member.send("GET", f"/v2/keys/{key}?wait=true&recursive=true") for key in ("a", "a", "", "a/b")
    ]
    put(member, "/a/b")
    first = watches[0].pieces[0]
    assert all(watch.pieces[0] is first for watch in watches)


def test_a_past_event_shows_no_time_that_has_run_out(member: LocalMember) -> None:
    member.send("PUT", "/v2/keys/a", b"value=1&ttl=2")
    index = member.machine.tree.index
    member.advance(60 * 10**9)
    found = [
        json.loads(member.send("GET", f"/v2/keys/a?wait=true&waitIndex={at}").text)
        for at in (index, index + 1)
    ]
    assert found[0]["action"] == "set"
    assert "expiration" in found[0]["node"]
    assert "ttl" not in found[0]["node"]
    assert found[1]["action"] == "expire"
    assert "ttl" not in found[1]["prevNode"]


YEAR = 365 * 86_400 * 10**9


@pytest.mark.parametrize("wrong", [YEAR, -YEAR, 70 * 10**9, -70 * 10**9])
def test_the_time_left_is_counted_by_no_wall_clock(member: LocalMember, wrong: int) -> None:
    """Neither that of what was written before the clock was set nor that of what is written after."""

    def ask(method: str, target: str, body: bytes = b"") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(member.send(method, f"/v2/keys{target}", body).text)
        return answer

    for path, body in (("/a", b"value=1&ttl=100"), ("/d", b"dir=true&ttl=100"), ("/b", b"value=1&ttl=100")):
        assert ask("PUT", path, body)["node"]["ttl"] == 100
    watches = [member.send("GET", f"/v2/keys/{key}?wait=true") for key in "ab"]
    member.advance(10 * 10**9)
    member.clock.wrong = wrong
    assert [ask("GET", path)["node"]["ttl"] for path in ("/a", "/d", "/b", "/a?quorum=true")] == [90] * 4
    assert [node["ttl"] for node in ask("GET", "/?sorted=true")["node"]["nodes"]] == [90] * 3
    assert ask("GET", "/a?wait=true&waitIndex=1")["node"]["ttl"] == 90
    assert ask("PUT", "/d", b"dir=true&ttl=50&prevExist=true")["node"]["ttl"] == 50
    member.advance(10 * 10**9)
    assert ask("GET", "/d")["node"]["ttl"] == 40
    renewed = ask("PUT", "/a", b"ttl=60&refresh=true&prevExist=true")
    assert (renewed["node"]["ttl"], renewed["prevNode"]["ttl"]) == (60, 80)
    assert renewed["node"]["expiration"] == expiration(Nanos(member.clock.wall() + 60 * 10**9)).decode()
    changed = ask("PUT", "/a", b"value=2&ttl=7")
    assert (changed["node"]["ttl"], json.loads(watches[0].text)["node"]["ttl"]) == (7, 7)
    assert changed["prevNode"]["ttl"] == json.loads(watches[0].text)["prevNode"]["ttl"] == 60
    assert ask("DELETE", "/b")["prevNode"]["ttl"] == json.loads(watches[1].text)["prevNode"]["ttl"] == 80
    member.advance(6 * 10**9)
    assert ask("GET", "/a")["node"]["ttl"] == 1


def test_the_time_left_of_a_renewed_directory_is_counted_by_no_wall_clock(member: LocalMember) -> None:
    def left() -> int:
        found: int = json.loads(member.send("GET", "/v2/keys/d").text)["node"]["ttl"]
        return found

    member.send("PUT", "/v2/keys/d", b"dir=true&ttl=100")
    member.advance(10**9)
    member.send("PUT", "/v2/keys/d", b"dir=true&ttl=50&prevExist=true")
    member.advance(10 * 10**9)
    member.clock.wrong = YEAR
    assert left() == 40


def test_of_two_times_that_began_in_one_turn_each_shows_its_own(
    member: LocalMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.clock.wrong = -YEAR
    member.send("PUT", "/v2/keys/a", b"value=1&ttl=1000")
    monkeypatch.setattr(member.reaper.countdown, "count", lambda _: False)
    member.clock.wrong = 0
    member.send("PUT", "/v2/keys/a", b"value=1&ttl=5")
    answer = json.loads(member.send("PUT", "/v2/keys/a", b"value=1&ttl=7").body)
    assert (answer["node"]["ttl"], answer["prevNode"]["ttl"]) == (7, 5)


def test_what_is_overdue_shows_by_how_much(member: LocalMember) -> None:
    member.send("PUT", "/v2/keys/a", b"value=1&ttl=2")
    member.clock.wrong = YEAR
    shown = []
    for _ in range(6):
        member.clock.now = Nanos(member.clock.now + 10**9)
        shown.append(json.loads(member.send("GET", "/v2/keys/a").body)["node"].get("ttl"))
    assert shown == [1, None, -1, -2, -3, -4]


def test_statistics_count_what_happened(member: LocalMember) -> None:
    member.send("GET", "/v2/keys/a?wait=true")
    put(member, "/b")
    member.send("GET", "/v2/keys/b")
    member.send("GET", "/v2/keys/none")
    member.send("GET", "/v2/keys/b?wait=yes")  # not a request yet, so not counted
    answer = member.send("GET", "/v2/stats/store")
    counts = json.loads(answer.body)
    assert list(counts)[:4] == ["getsSuccess", "getsFail", "setsSuccess", "setsFail"]
    assert list(counts)[-2:] == ["expireCount", "watchers"]
    assert counts["getsSuccess"] == 1
    assert counts["getsFail"] == 1 + 4  # one missing, and one look at authentication for each request
    assert counts["setsSuccess"] == 2 + 1  # the member's own two come first
    assert counts["watchers"] == 1
    assert not answer.body.endswith(b"\n")
    refused = member.send("POST", "/v2/stats/store")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_a_key_that_lies_too_deep_is_refused_with_the_limit(member: LocalMember, method: str) -> None:
    below = member.machine.tree.index
    for path in ("/a" * (MAX_NAMES + 1), "%2Fa" * (MAX_NAMES + 1), "/a" * 30_000):
        answer = member.send(method, f"/v2/keys{path}", b"value=1")
        assert answer.status == 400
        assert method == "HEAD" or b"more than 256 names" in answer.body
    assert member.machine.tree.index == below
    put(member, "/a" * MAX_NAMES)


NUMBERS = (
    "0", "1", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "1_0",
    "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}", str(2**31), str(2**32), str(2**53),
    str(2**63 - 1), str(2**63), str(2**64 - 1), str(2**64), str(2**64 + 1),
    "9" * 400, "9" * 5000, "1" + "0" * 60_000, "0" * 60_000 + "1", "nan", "inf", "\0", "1\0", "", "true",
)  # fmt: skip
RAW = (b"%FF", b"%00", b"\xff", b"%C3%28", b"%ED%A0%80")
NUMBER_FIELDS = {"ttl": 202, "prevIndex": 203, "waitIndex": 203}
FLAGS = ("recursive", "sorted", "wait", "dir", "quorum", "stream", "noValueOnSuccess", "prevExist", "refresh")
EDGES = (*(quote(number).encode() for number in NUMBERS), *RAW)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("field", [*NUMBER_FIELDS, *FLAGS, "value", "prevValue", "unknown"])
def test_every_parameter_at_its_edges_is_legal_or_refused(
    member: LocalMember, method: str, field: str
) -> None:
    """Python's own words (`ValueError`, `OverflowError`) reach nobody, and the store goes on."""
    put(member, "/a")
    for edge in EDGES:
        pair = f"{field}=".encode() + edge
        for query, body in ((pair, b""), (b"", pair), (pair, b"value=1&ttl=5")):
            request = Request(
                method.encode(), b"/v2/keys/a", query, body, b"application/x-www-form-urlencoded"
            )
            exchange = RecordedExchange(request)
            member.router.handle(exchange)
            assert exchange.status in {200, 201, 400, 403, 404, 412}, (edge, exchange.body)
            if exchange.status == 400 and method != "HEAD":
                code = json.loads(exchange.body)["errorCode"]
                assert code in {NUMBER_FIELDS.get(field, 209), 104, 201, 209, 210, 211, 212, 401}, (
                    edge,
                    code,
                )
    put(member, "/b")


@pytest.mark.parametrize("ttl", [2**31, 2**62, 2**63 - 1, 2**64 - 1])
def test_a_ttl_that_never_ends_is_shown_and_kept(member: LocalMember, ttl: int) -> None:
    assert member.send("PUT", "/v2/keys/a", b"value=1&ttl=%d" % ttl).status == 201
    node = json.loads(member.send("GET", "/v2/keys/a").body)["node"]
    assert 0 < node["ttl"] <= ttl
    assert node["expiration"].endswith("Z")
    put(member, "/a")
    assert "ttl" not in json.loads(member.send("GET", "/v2/keys/a").body)["node"]
