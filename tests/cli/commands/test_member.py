"""`netstorectl member`, `endpoint` and `move-leader`, on both stores and on a cluster of three."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.cli.commands.conftest import answering, http
from tests.support.cluster import Members
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.cli.commands.conftest import Run, Told
    from tests.support.certificates import Certificates

DEAD = "http://127.0.0.1:1"
NEW = "http://127.0.0.1:9"


# --- one member, of either store


def test_the_one_member_is_listed(ctl: Run, store: str) -> None:
    told = ctl("member", "ls", "-o", "json")
    assert (told.status, told.err) == (0, "")
    leader = next(each for each in told.document["members"] if each["role"] == "leader")
    assert leader["started"] is True
    assert leader["state"] == "started"
    assert leader["clientURLs"] == [store]
    (row,) = [row for row in ctl("member", "ls").rows if row[2] == "leader"]
    assert row == [leader["id"], leader["name"], "leader", "started", leader["peerURLs"][0], store]
    table = ctl("member", "ls", "-o", "table").out
    assert table.startswith("ID ")
    assert "\n" + leader["id"] in table


def test_a_learner_comes_moves_and_goes(ctl: Run, request: pytest.FixtureRequest) -> None:
    answers: list[Told] = []

    def added() -> bool:
        answers.append(ctl("member", "add", "--learner", NEW, "-o", "json"))
        return answers[-1].status == 0  # etcd takes nobody in its first five seconds

    until(added, "the learner is added")
    told = answers[-1]
    how = "--join http" if "netstored" in request.node.name else "--initial-cluster-state existing"
    assert f"start it with an empty data folder and {how}" in told.err.replace("--name NAME ", "")
    assert f" --initial-advertise-peer-urls {NEW}\n" in told.err
    learner = told.document
    assert (learner["name"], learner["role"], learner["started"]) == ("", "learner", False)
    taken = ctl("member", "add", "--learner", NEW)
    assert taken.status == 1
    assert taken.err.endswith("; it is a member already, see member ls\n")
    early = ctl("member", "promote", learner["id"])
    assert early.status == 1
    assert early.err.endswith("in sync with leader; wait until it has caught up, and repeat it\n")
    moved = ctl("member", "update", learner["id"], "http://127.0.0.1:10,http://127.0.0.1:11", "-o", "json")
    assert moved.document["peerURLs"] == ["http://127.0.0.1:10", "http://127.0.0.1:11"]
    gone = ctl("member", "rm", learner["id"])  # it has not started: nobody is asked
    assert (gone.status, gone.rows[0][0]) == (0, learner["id"])
    again = ctl("member", "rm", learner["id"])
    assert (again.status, again.out) == (3, "")


def test_the_last_voter_stays(ctl: Run) -> None:
    name = ctl("member", "ls").rows[0][1]
    unasked = ctl("member", "rm", name)
    assert unasked.status == 1
    assert "give --yes if that is meant" in unasked.err
    refused = ctl("member", "rm", "-y", name)
    assert refused.status == 1
    assert refused.err.startswith(
        f"netstorectl: {name}: is the only member; to replace it, add another first"
    )
    voter = ctl("member", "promote", name)
    assert voter.status == 1
    assert voter.err.endswith("; it votes already\n")


def test_the_one_leader_can_be_made_to_lead(ctl: Run) -> None:
    _, name, *_ = ctl("member", "ls").rows[0]
    assert ctl("move-leader", name).rows == [[name, name]]


@pytest.mark.parametrize("verb", [("member", "rm", "--yes"), ("member", "promote"), ("move-leader",)])
@pytest.mark.parametrize("who", ["ab", "nobody", "00000000000000000ab", ""])
def test_nobody_by_that_name(ctl: Run, verb: tuple[str, ...], who: str) -> None:
    told = ctl(*verb, who)
    assert (told.status, told.out) == (3, "")
    assert told.err == f"netstorectl: {who!r}: no member has this id or name; see 'member ls'\n"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:2380", "http://host", "http://host:1/path", "ftp://host:1", ",", ""]
)
def test_what_is_no_peer_url_is_a_usage_error(run: Run, url: str) -> None:
    for words in (("add",), ("update", "ab")):
        told = run("--endpoints", DEAD, "member", *words, url)
        assert told.status == 2, "the store is not asked"
        assert "write it as http://host:2380" in told.err


def test_endpoints_are_asked_each_by_itself(ctl: Run, store: str, request: pytest.FixtureRequest) -> None:
    told = ctl("endpoint", "status", "-o", "json")
    (seen,) = told.document["endpoints"]
    assert told.status == 0
    assert (seen["endpoint"], seen["role"], seen["problems"]) == (store, "leader", [])
    assert seen["leader"] == seen["id"]
    assert seen["commitIndex"] >= seen["appliedIndex"] > 0
    if "netstored" in request.node.name:
        assert seen["featureLevel"] >= 1
        assert seen["memory"]["budgetBytes"] >= 64 << 20
        assert seen["memory"]["usedBytes"] >= 0
        assert seen["loop"]["overBudget"] >= 0
    else:
        names = ("featureLevel", "memory", "loop", "backedUp", "pacedBytesPerSecond", "behind")
        assert [seen[name] for name in names] == [None] * len(names), "what is not told"
    well = ctl("endpoint", "health", "--cluster")
    assert (well.status, well.rows[0][:2]) == (0, [store, "healthy"])
    both = f"{store},{DEAD}"
    for verb in ("health", "status"):
        told = ctl("--endpoints", both, "endpoint", verb)
        assert told.status == 4
        assert [row[0] for row in told.rows] == [store, DEAD]
        assert told.rows[1][-1]
        assert f"{DEAD}: no endpoint answered (Connection refused); " in told.err
        assert told.err.count(DEAD) == 1
        told = ctl("--endpoints", both, "endpoint", verb, "-o", "json")
        there, missing = told.document["endpoints"]
        assert there.keys() == missing.keys(), "the same fields for each"
        assert there["problems"] == []
        (problem,) = missing["problems"]
        assert problem.startswith("no endpoint answered")
    assert ctl("endpoint", "health", "-o", "table").out.startswith("ENDPOINT ")
    for words in ((), ("--wide",)):
        told = ctl("endpoint", "status", *words, "-o", "table")
        assert told.out.startswith("ENDPOINT ")
        assert words or max(map(len, told.out.splitlines())) <= 80


def test_members_are_offered_where_one_is_named(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    id_, name, *_ = ctl("member", "ls").rows[0]
    monkeypatch.setenv("_NETSTORECTL_COMPLETE", "bash_complete")
    for words, offer in ((f"member rm {id_[:3]}", id_), (f"move-leader {name[:3]}", name)):
        monkeypatch.setenv("COMP_WORDS", f"netstorectl {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        assert f"plain,{offer}" in ctl().out.splitlines()


# --- stores that are not well


STANDING: Final = {
    "id": "a",
    "name": "one",
    "version": "1.0",
    "role": "leader",
    "leader": "a",
    "term": 2,
    "commitIndex": 9,
    "appliedIndex": 8,
}


ALWAYS: Final = ("endpoint", "problems")

COPYING: Final[dict[str, Any]] = {
    "id": "b",
    "state": "copying",
    "sentBytes": 459,
    "totalBytes": 1_000,
    "entriesBehind": 5,
    "waitedFor": True,
}
CATCHING_UP: Final[dict[str, Any]] = {
    "id": "c",
    "state": "catching up",
    "entriesBehind": 77,
    "waitedFor": False,
}


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, ["", "", "", "", ""]),
        (
            {
                "featureLevel": 2,
                "memory": {"budgetBytes": 1_000, "usedBytes": 254, "sharesUsedBytes": {"log": 254}},
                "loop": {"budgetMs": 5.0, "overBudget": 0, "longestMs": 0.0, "longestWork": ""},
            },
            ["2", "25%", "0", "", ""],
        ),
        (
            {"loop": {"overBudget": 3, "longestMs": 12.25, "longestWork": "turn: apply"}},
            ["", "", "3", "12.2 ms turn: apply", ""],
        ),
        ({"backedUp": True}, ["", "", "", "", "requests wait"]),
        (
            {"backedUp": True, "pacedBytesPerSecond": 1_500_000, "behind": [COPYING, CATCHING_UP]},
            [*[""] * 4, "b copying 45%; c catching up, 77 entries; writes paced to 1.50 MB/s"],
        ),
        ({"behind": [COPYING | {"totalBytes": 0}]}, [*[""] * 4, "b copying"]),
    ],
)
def test_what_loads_a_member_is_shown_as_far_as_it_is_told(
    run: Run, told: dict[str, Any], shown: list[str]
) -> None:
    with answering(lambda _: http("200 OK", json.dumps(STANDING | told))) as url:
        plain = run("--endpoints", url, "endpoint", "status", "--wide")
        document = run("--endpoints", url, "endpoint", "status", "-o", "json").document
    assert plain.rows == [[url, "a", "one", "1.0", "leader", "a", "2", "9", "8", *shown, ""]]
    (seen,) = document["endpoints"]
    assert all(value is None for name, value in seen.items() if name not in {*STANDING, *told, *ALWAYS})
    for name, value in told.items():
        assert seen[name] == ({key: value[key] for key in seen[name]} if isinstance(value, dict) else value)


def test_members_that_are_brought_up_are_listed_as_such(run: Run) -> None:
    shown = {"name": "one", "peerURLs": [], "clientURLs": [], "role": "voter", "active": True}
    members = [{"id": each["id"], **shown, "behind": each} for each in (COPYING, CATCHING_UP)]
    with answering(
        lambda _: http("200 OK", json.dumps({"members": [*members, {"id": "d", **shown}]}))
    ) as url:
        plain = run("--endpoints", url, "member", "ls")
        document = run("--endpoints", url, "member", "ls", "-o", "json").document
    assert [row[3] for row in plain.rows] == ["copying 45%", "catching up, 77 entries", "started"]
    assert [each["behind"] for each in document["members"]] == [COPYING, CATCHING_UP, None]


def test_all_problems_of_an_endpoint_are_in_one_list(run: Run) -> None:
    told = STANDING | {"leader": "", "problems": ["ALARM NOSPACE"]}
    with answering(lambda _: http("200 OK", json.dumps(told))) as url:
        document = run("--endpoints", url, "endpoint", "status", "-o", "json").document
        rows = run("--endpoints", url, "endpoint", "status").rows
    assert document["endpoints"][0]["problems"] == ["knows no leader", "ALARM NOSPACE"]
    assert rows[0][-1] == "knows no leader; ALARM NOSPACE"


class Screen(io.StringIO):
    """Standard output where a person reads it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("form", [(), ("-o", "table")])
def test_a_wide_table_is_not_made_to_fit_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    loaded = STANDING | {"loop": {"overBudget": 3, "longestMs": 12.25, "longestWork": "turn: apply"}}
    with answering(lambda _: http("200 OK", json.dumps(loaded))) as url:
        shown = []
        for words in ((), ("--wide",)):
            screen = Screen()
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", screen)
                run("--endpoints", url, "endpoint", "status", *words, *form)
            shown.append(screen.getvalue().splitlines())
    narrow, wide = shown
    assert columns < 80 or max(map(len, narrow)) <= columns
    assert url in narrow[2].split()
    headings, _, row = wide
    assert (headings.split()[0], headings.split()[-1]) == ("ENDPOINT", "PROBLEM")
    assert len(row) > 100
    assert "12.2 ms turn: apply" in row


LONG_URLS = ["https://store-1.control-plane.example.com:2380", "https://[2001:db8:0:1::a]:2380"]
ID = "8e9e05c52164694d"


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize(
    "words", [("member", "ls"), ("endpoint", "status"), ("endpoint", "health"), ("status",)]
)
def test_no_url_and_no_id_is_broken_on_a_narrow_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    unwell = "the archive is damaged, and nothing is restored across that: a file of it cannot be read"
    problem = f"{LONG_URLS[0]}: {unwell}"
    listed = {"id": ID, "name": "one", "peerURLs": LONG_URLS, "clientURLs": LONG_URLS, "role": "voter"}
    answers = {
        b"GET /health ": {"health": "false", "reason": problem},
        b"GET /version ": {"etcdserver": "3.5.30", "etcdcluster": "3.5.0"},
        b"GET /netstore/status ": {**STANDING, "id": ID, "problems": [problem]},
    }

    def answer(head: bytes) -> bytes:
        found = (each for start, each in answers.items() if head.startswith(start))
        return http("200 OK", json.dumps(next(found, {"members": [listed]})))

    screen = Screen()
    with answering(answer) as url:
        monkeypatch.setattr(sys, "stdout", screen)
        run("--endpoints", url, *words, "-o", "table")
    shown = screen.getvalue()
    if words == ("member", "ls"):
        assert {ID, ",".join(LONG_URLS)} <= set(shown.split())
    else:
        assert {url, f"{LONG_URLS[0]}:"} <= set(shown.split())
        assert unwell not in shown, "what can be folded is"


def test_a_new_member_that_is_given_the_state_is_copying_and_not_unstarted(run: Run) -> None:
    def shown(**more: object) -> str:
        new = {"id": "b", "name": "", "peerURLs": [], "clientURLs": [], "role": "learner", **more}
        body = json.dumps({"members": [new]})
        with answering(lambda _: http("200 OK", body)) as url:
            told = run("--endpoints", url, "member", "ls")
        return told.rows[0][3]

    assert shown() == "unstarted"
    assert shown(active=True, behind=COPYING) == "copying 45%"
    assert shown(active=False, behind=COPYING) == "unstarted"


def test_what_a_member_says_is_wrong_with_it_is_a_problem(run: Run) -> None:
    body = json.dumps({**STANDING, "problems": ["log has no room to grow: full"]})
    with answering(lambda _: http("200 OK", body)) as url:
        told = run("--endpoints", url, "endpoint", "status")
    assert (told.status, told.rows[0][-1]) == (0, "log has no room to grow: full")


def test_an_unhealthy_endpoint_says_why(run: Run) -> None:
    body = '{"health":"false","reason":"ALARM NOSPACE"}'
    with answering(lambda _: http("503 Service Unavailable", body)) as url:
        told = run("--endpoints", url, "endpoint", "health")
    assert told.status == 4
    assert told.rows[0][1] == "unhealthy"
    assert told.err == f"netstorectl: {url}: ALARM NOSPACE\n"


def test_without_a_leader_nobody_hands_over(run: Run) -> None:
    shown = {"name": "one", "peerURLs": [], "clientURLs": [], "role": "voter", "promote": False}
    body = json.dumps({"members": [{"id": "a", **shown}, {"id": "b", **shown}]})
    with answering(lambda _: http("200 OK", body)) as url:
        told = run("--endpoints", url, "move-leader", "a")
        twice = run("--endpoints", url, "member", "rm", "one")
    assert told.status == 4
    assert told.err == "netstorectl: no member leads now, so nobody can hand over; try again\n"
    assert twice.status == 1
    assert twice.err == "netstorectl: one: 2 members have this name; give an id: a, b\n"


def test_a_leader_that_did_not_get_rid_of_its_office_says_what_to_look_at(run: Run) -> None:
    def session(head: bytes) -> bytes:
        if head.startswith(b"POST"):
            message = "etcdserver: request timed out, leader transfer took too long"
            return http("409 Conflict", json.dumps({"message": message}))
        shown = {"peerURLs": [], "clientURLs": [url], "promote": False}
        members = [
            {"id": each, "name": each, "role": role, **shown}
            for each, role in (("a", "leader"), ("b", "voter"))
        ]
        return http("200 OK", json.dumps({"members": members}))

    with answering(session) as url:
        told = run("--endpoints", url, "move-leader", "b")
    assert (told.status, told.out) == (4, "")
    assert "took too long; is the member well? see member ls" in told.err


def test_a_change_without_an_answer_is_unknown(run: Run) -> None:
    def session(head: bytes) -> bytes:
        if head.startswith(b"GET /netstore/status "):
            return http("200 OK", "{}")
        return http("503 Service Unavailable", '{"message":"etcdserver: request timed out"}')

    with answering(session) as url:
        told = run("--endpoints", url, "member", "add", NEW)
    assert told.status == 5
    assert "etcdserver: request timed out" in told.err


# --- three members


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with Members(tmp_path_factory.mktemp("three")) as members:
        yield members


@pytest.fixture
def at(run: Run, three: Members, monkeypatch: pytest.MonkeyPatch) -> Run:
    """netstorectl for the first two members."""
    monkeypatch.setenv("NETSTORE_ENDPOINTS", f"{three['a'].url},{three['b'].url}")
    return run


def roles(run: Run) -> dict[str, str]:
    return {row[1] or row[4]: row[2] for row in run("member", "ls").rows}


def test_leadership_goes_round(at: Run, three: Members) -> None:
    for name in ("c", "a", "b"):
        before = three.leader()
        assert at("move-leader", name).rows == [[before, name]]
        assert three.leader() == name
        assert roles(at) == {each: "leader" if each == name else "voter" for each in "abc"}
    told = at("endpoint", "status", "--cluster", "-o", "json")
    assert sorted(each["role"] for each in told.document["endpoints"]) == ["follower", "follower", "leader"]
    assert {each["leader"] for each in told.document["endpoints"]} == {three.id_of("b")}


def test_a_member_comes_by_hand_votes_by_itself_and_leaves(at: Run, three: Members) -> None:
    url = three.peer_url("d")
    added = at("member", "add", url, "-o", "json").document
    assert (added["role"], added["promote"], added["started"]) == ("learner", True, False)
    assert roles(at)[url] == "learner"
    daemon = three.join("d")
    until(lambda: roles(at).get("d") == "voter", "d votes")
    seen: dict[str, Any] = {
        each["name"]: each
        for each in at("--endpoints", three[three.leader()].url, "member", "ls", "-o", "json").document[
            "members"
        ]
    }
    assert seen["d"]["id"] == added["id"]
    assert seen["d"]["active"] is True
    assert seen["d"]["matchIndex"] > 0
    gone = at("member", "rm", "--yes", "d")
    assert gone.status == 0
    assert daemon.process.wait(seconds(20)) != 0
    assert "was removed from cluster" in daemon.log
    assert "d" not in roles(at)
    del three.daemons["d"]


def test_a_learner_votes_when_it_is_promoted(at: Run, three: Members) -> None:
    assert at("member", "add", "--learner", three.peer_url("e")).status == 0
    three.join("e")
    until(lambda: roles(at).get("e") == "learner", "e is a learner")
    refused = at("move-leader", "e")
    assert (refused.status, refused.err.split("; ")[0]) == (
        1,
        "netstorectl: e: is a learner, and only a member that votes can lead\n",
    )
    until(lambda: at("member", "promote", "e").status == 0, "e is promoted")
    assert roles(at)["e"] == "voter"
    assert at("member", "rm", "--yes", "e").status == 0
    del three.daemons["e"]


def test_a_member_that_does_not_answer_is_seen(at: Run, three: Members) -> None:
    silent = three.followers()[-1]
    leader = three.leader()
    three[silent].kill()
    try:
        until(
            lambda: (
                [
                    row[3]
                    for row in at("--endpoints", three[leader].url, "member", "ls").rows
                    if row[1] == silent
                ]
                == ["silent"]
            ),
            f"{silent} is silent",
        )
        told = at("endpoint", "health", "--cluster")
        assert told.status == 4
        assert sorted(row[1] for row in told.rows) == ["healthy", "healthy", "unhealthy"]
        (other,) = set(three.followers()) - {silent}
        refused = at("member", "rm", "--yes", other)
        assert refused.status == 1
        assert "unhealthy cluster; " in refused.err
        late = at("move-leader", silent)
        assert (late.status, late.out) == (4, "")
        assert late.err.startswith(f"netstorectl: {silent}: does not answer, so it cannot lead; start it")
        followed = ("--endpoints", three[other].url, "doctor", "-o", "json")
        (found,) = [each for each in at(*followed).document["findings"] if each["check"] == "members"]
        assert (found["state"], found["found"]) == ("warning", f"voters that do not answer: {silent} (of 3)")
        (shown,) = at("--endpoints", three[leader].url, "status", "-o", "json").document["endpoints"]
        assert (shown["healthy"], shown["problems"]) == (True, [f"voter {silent} does not answer"])
    finally:
        three[silent].start_again()


def test_without_a_quorum_a_change_is_unknown_and_status_still_shows(at: Run, three: Members) -> None:
    first, second = three.followers()
    left = three.leader()
    for name in (first, second):
        three[name].kill()
    try:
        endpoint = ("--endpoints", three[left].url)
        until(lambda: at(*endpoint, "endpoint", "health").status == 4, f"{left} is not healthy")
        until(lambda: at(*endpoint, "endpoint", "status").rows[0][-1] == "knows no leader", left)
        for limit in ("1", "5", "25"):  # on a slow machine the first may pass before anything is sent
            told = at(*endpoint, "--timeout", limit, "member", "update", left, three.peer_url(left))
            if told.status == 5:
                break
        assert told.status == 5
        assert "outcome unknown" in told.err
    finally:
        for name in (first, second):
            three[name].spawn_again()
        for name in (first, second):
            three[name].wait_until_healthy()
    assert set(roles(at)) == {"a", "b", "c"}


def test_the_leader_is_asked_who_answers_where_the_endpoint_is_a_follower(run: Run) -> None:
    shown: dict[str, Any] = {"peerURLs": [], "clientURLs": [], "role": "voter"}
    two = [{"id": "b", "name": "two", **shown}, {"id": "c", "name": "three", **shown}]

    def told(leader: str) -> list[str]:
        one = {"id": "a", "name": "one", **shown, "role": "leader", "clientURLs": [leader]}
        body = json.dumps({"members": [one, *two]})
        with answering(lambda _: http("200 OK", body)) as follower:
            return [row[3] for row in run("--endpoints", follower, "member", "ls").rows]

    active = [{**each, "active": each["id"] == "b"} for each in two]
    body = json.dumps({"members": [{"id": "a", "name": "one", **shown, "active": True}, *active]})
    with answering(lambda _: http("200 OK", body)) as leader:
        assert told(leader) == ["started", "started", "silent"]
    assert told("http://127.0.0.1:1") == ["unknown"] * 3, "nobody knows"


def following(leader: str, context: ssl.SSLContext | None = None) -> AbstractContextManager[str]:
    """A follower whose leader, `one`, tells this address; https with `context`."""
    one = {"id": "a", "name": "one", "role": "leader", "peerURLs": [], "clientURLs": [leader]}
    two = {"id": "b", "name": "two", "role": "voter", "peerURLs": [], "clientURLs": []}
    return answering(lambda _: http("200 OK", json.dumps({"members": [one, two]})), context)


@pytest.mark.parametrize("address", ["unix://localhost:1", "http://127.0.0.1:1/path", "http://a:1,b:2"])
def test_a_leader_that_tells_no_address_that_can_be_asked(run: Run, address: str) -> None:
    with following(address) as url:
        listed = run("--endpoints", url, "member", "ls")
        moved = run("--endpoints", url, "move-leader", "two")
        checked = run("--endpoints", url, "doctor", "-o", "json")
        for verb in ("health", "status"):
            each = run("--endpoints", url, "endpoint", verb, "--cluster")
            assert (each.status, each.rows[0][0]) == (4, address)
            assert f"{address}: one: cannot be asked at {address}: " in each.err
    assert "members" not in [each["check"] for each in checked.document["findings"]]
    assert (listed.status, [row[3] for row in listed.rows]) == (0, ["unknown"] * 2)
    assert (moved.status, moved.out) == (4, "")
    assert moved.err.startswith(f"netstorectl: one: cannot be asked at {address}: ")


def test_a_leader_at_http_is_sent_no_password_that_was_for_https(
    run: Run, certificates: Certificates, server_context: ssl.SSLContext
) -> None:
    seen: list[bytes] = []

    def leader(head: bytes) -> bytes:
        seen.append(head)
        return http("404 Not Found", "")

    with answering(leader) as plain, following(plain, server_context) as url:
        ours = ("--endpoints", url, "--ca-file", str(certificates.ca), "--username", "root:secret")
        listed = run(*ours, "member", "ls")
        moved = run(*ours, "move-leader", "two")
        assert run(*ours, "doctor", "-o", "json").document["findings"]
        for verb in ("health", "status"):
            assert f"{plain}: one: is not asked at {plain}, " in run(*ours, "endpoint", verb, "--cluster").err
    assert seen == []
    assert (listed.status, [row[3] for row in listed.rows]) == (0, ["unknown"] * 2)
    assert (moved.status, moved.out) == (4, "")
    assert moved.err.startswith(
        f"netstorectl: one: is not asked at {plain}, because a password would go there"
    )


def test_a_leader_at_https_is_sent_the_password(
    run: Run, certificates: Certificates, server_context: ssl.SSLContext
) -> None:
    seen: list[bytes] = []

    def leader(head: bytes) -> bytes:
        seen.append(head)
        shown = {"peerURLs": [], "clientURLs": [], "role": "voter", "active": True}
        return http("200 OK", json.dumps({"members": [{"id": "b", "name": "two", **shown}]}))

    with answering(leader, server_context) as other, following(other, server_context) as url:
        ours = ("--endpoints", url, "--ca-file", str(certificates.ca), "--username", "root:secret")
        listed = run(*ours, "member", "ls")
    assert (listed.status, [row[3] for row in listed.rows]) == (0, ["started"])
    assert seen
    assert all(b"authorization: basic " in head.lower() for head in seen)
