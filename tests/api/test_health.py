"""`/health` says whether requests can be served, and `/version` what is spoken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from netstore.api.checks import MOST_CHECKS
from netstore.api.health import Health, Version
from netstore.api.routes import probe_routes
from netstore.api.v2.form import MAX_PAIRS
from netstore.errors import Fault, Reason, refusal, timed_out
from netstore.net.exchange import Request
from netstore.node.member import OWN
from netstore.node.timekeeper import Deadline, Deadlines
from netstore.state.commands import PublishMember, SetClusterVersion, encode
from netstore.state.v3.commands import CORRUPT, NOSPACE, SetAlarm
from netstore.types import Nanos, NodeId
from tests.support.local_member import START, LocalMember, RecordedExchange
from tests.support.member import ME, Solo

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.state.machine import Outcome

HEALTHY = (200, b'{"health":"true","reason":""}')


def unhealthy(reason: str) -> tuple[int, bytes]:
    return 503, b'{"health":"false","reason":"%s"}\n' % reason.encode()


class StuckMember(LocalMember):
    """Proposals wait until a test answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[Outcome | Fault], None]] = []
        self.principals: list[bytes] = []

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        self.waiting.append(done)
        self.principals.append(principal)


def test_a_member_with_a_leader_and_a_log_that_moves_is_healthy() -> None:
    answer = LocalMember().send("GET", "/health")
    assert (answer.status, answer.body) == HEALTHY
    assert answer.headers == {"Content-Type": "text/plain; charset=utf-8"}


def test_without_a_leader_a_member_is_not_healthy() -> None:
    member = StuckMember()
    member.leader = NodeId(0)
    answer = member.send("GET", "/health")
    assert (answer.status, answer.body) == unhealthy("RAFT NO LEADER")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not member.waiting


def test_without_a_quorum_a_member_says_so_after_a_second() -> None:
    """It may believe in its leader longer than that."""
    member = StuckMember()
    answer = member.send("GET", "/health")
    member.clock.now = Nanos(START + 900_000_000)
    member.deadlines.run_due()
    assert answer.status == 0
    member.clock.now = Nanos(START + 1_000_000_000)
    member.deadlines.run_due()
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:the log takes longer than 1 s")
    member.waiting[0](None)
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:the log takes longer than 1 s"), (
        "answered once"
    )


@pytest.mark.parametrize("fault", [refusal(Reason.NO_SPACE), timed_out()])
def test_a_log_that_takes_nothing_is_not_healthy(fault: Fault) -> None:
    member = StuckMember()
    answer = member.send("GET", "/health")
    member.waiting[0](fault)
    assert (answer.status, answer.body) == unhealthy(f"RANGE ERROR:{fault.cause.decode()}")
    member.own_problems = {"log cannot be written: full": "free disk space"}
    answer = member.send("GET", "/health")
    member.waiting[1](fault)
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:log cannot be written: full")


def test_an_alarm_is_not_healthy_unless_it_is_passed_over() -> None:
    member = StuckMember()
    for kind in (NOSPACE, CORRUPT):
        member.machine.alarms.set(SetAlarm(7, kind, active=True))
    both = "ALARM NOSPACE; ALARM CORRUPT"
    for query, reason in (
        ("", both),
        ("?exclude=NOSPACE", "ALARM CORRUPT"),
        ("?exclude=CORRUPT&x=1", "ALARM NOSPACE"),
        ("?exclude=nonsense", both),
        ("?exclude=NOSPACE;x=%zz", both),
        ("?exclude=NOSPACE&exclude=CORRUPT%zz", "ALARM CORRUPT"),
        ("?exclude=NOSPACE&exclude=CORRUPT" + "&" * MAX_PAIRS, both),
    ):
        answer = member.send("GET", f"/health{query}")
        assert (answer.status, answer.body) == unhealthy(reason), query
    for query in ("exclude=NOSPACE&exclude=CORRUPT", "x=%zz&%65xclude=NO%53PACE&exclude=CORRUPT&exclude"):
        answer = member.send("GET", f"/health?{query}")
        member.waiting.pop()(None)
        assert (answer.status, answer.body) == HEALTHY


def test_without_a_quorum_a_member_answers_for_itself() -> None:
    member = StuckMember()
    member.leader = NodeId(0)
    for query in ("serializable=true", "x&serializable=true&serializable=false"):
        answer = member.send("GET", f"/health?{query}")
        assert (answer.status, answer.body) == HEALTHY
    for query in ("serializable=1", "serializable", "serializable=false&serializable=true"):
        assert member.send("GET", f"/health?{query}").status == 503
    member.machine.alarms.set(SetAlarm(7, NOSPACE, active=True))
    answer = member.send("GET", "/health?serializable=true")
    assert (answer.status, answer.body) == unhealthy("ALARM NOSPACE")
    assert not member.waiting


def test_a_client_that_is_gone_is_not_answered() -> None:
    member = StuckMember()
    answer = member.send("GET", "/health")
    answer.hang_up()
    member.waiting[0](None)
    member.clock.now = Nanos(START + 2_000_000_000)
    member.deadlines.run_due()
    assert answer.status == 0


def test_checks_that_come_together_wait_for_one_read_of_the_members_own() -> None:
    """Behind nobody's requests, and however many ask."""
    member = StuckMember()
    answers = [member.send("GET", "/health") for _ in range(3)]
    assert member.principals == [b""]
    answers[1].hang_up()
    member.waiting[0](None)
    assert [answer.status for answer in answers] == [200, 0, 200]
    late = member.send("GET", "/health")
    assert (len(member.waiting), late.status) == (2, 0), "it asks anew"
    member.waiting[1](timed_out())
    assert late.status == 503


def passes(member: StuckMember, seconds: float) -> None:
    member.clock.now = Nanos(member.clock.now + int(seconds * 1e9))
    member.deadlines.run_due()


def test_however_long_a_read_takes_there_is_one_in_the_log() -> None:
    member = StuckMember()
    answers = []
    for _ in range(5):
        answers.append(member.send("GET", "/health"))
        passes(member, 0.6)
    assert len(member.waiting) == 1
    late = unhealthy("RANGE ERROR:the log takes longer than 1 s")
    assert [(answer.status, answer.body) for answer in answers[:4]] == [late] * 4
    member.waiting[0](None)
    assert (answers[4].status, answers[4].body) == HEALTHY, "who asked later waits for it, too"
    after = member.send("GET", "/health")
    assert len(member.waiting) == 2
    member.waiting[0](timed_out())
    assert after.status == 0, "that one is over"
    member.waiting[1](None)
    assert after.status == 200


def test_a_read_that_cannot_be_asked_for_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    member = StuckMember()

    def short(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as while_short:
        while_short.setattr(member, "propose", short)
        with pytest.raises(MemoryError):
            member.send("GET", "/health")
    answer = member.send("GET", "/health")
    member.waiting[0](None)
    assert answer.status == 200


def test_who_asks_without_waiting_leaves_half_to_the_others() -> None:
    member = StuckMember()
    answers = [member.send("GET", "/health") for _ in range(MOST_CHECKS)]
    assert [answer.status for answer in answers].count(0) == MOST_CHECKS // 2
    answers[0].hang_up()
    answers[1].hang_up()
    assert member.send("GET", "/health").status == 0
    member.waiting[0](None)
    assert [answer.status for answer in answers].count(200) == MOST_CHECKS // 2 - 2
    assert len(member.waiting) == 1


def test_a_port_for_probes_reads_at_most_every_half_second() -> None:
    member = StuckMember()
    health = Health(member, member.deadlines.after)
    member.router = probe_routes(member.router, member.gate, health)
    first = [member.send("GET", "/health") for _ in range(2)]
    member.waiting[0](None)
    for seconds in (0.0, 0.4):
        passes(member, seconds)
        answer = member.send("GET", "/health")
        assert (answer.status, answer.body) == HEALTHY
    assert [each.status for each in first] == [200, 200]
    member.leader, leader = NodeId(0), member.leader
    assert member.send("GET", "/health").status == 503, "what costs nothing is looked at each time"
    member.leader = leader
    passes(member, 0.1)
    after = member.send("GET", "/health")
    assert (len(member.waiting), after.status) == (2, 0)
    member.waiting[1](timed_out())
    assert after.status == 503
    assert (member.send("GET", "/health").status, len(member.waiting)) == (0, 3), (
        "a bad answer is not used again"
    )


def fill(member: StuckMember) -> None:
    for _ in range(MOST_CHECKS // 2):
        assert member.send("GET", "/health").status == 0


def test_a_member_is_not_called_ill_because_many_ask() -> None:
    """Who finds no place is told what was found last, until the read under way is late."""
    member = StuckMember()
    fill(member)
    answer = member.send("GET", "/health")
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:no read through the log has come back yet")
    member.waiting[0](None)
    fill(member)
    answer = member.send("GET", "/health")
    assert (answer.status, answer.body) == HEALTHY
    passes(member, 1)
    fill(member)
    answer = member.send("GET", "/health")
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:the log takes longer than 1 s")
    member.own_problems = {"log cannot be written: full": "free disk space"}
    answer = member.send("GET", "/health")
    assert (answer.status, answer.body) == unhealthy("RANGE ERROR:log cannot be written: full")
    member.waiting[1](timed_out())
    fill(member)
    assert member.send("GET", "/health").status == 503
    member.waiting[2](None)
    fill(member)
    assert member.send("GET", "/health").status == 200
    assert len(member.waiting) == 4


def test_the_version_is_told_with_that_of_the_cluster() -> None:
    member = LocalMember()
    answer = member.send("GET", "/version")
    assert json.loads(answer.body)["etcdcluster"] == "3.4.0"
    assert answer.headers["Server"].startswith("netstore/")
    member.machine.roster.cluster_version = ""
    assert json.loads(member.send("GET", "/version").body)["etcdcluster"] == "not_decided"


@pytest.mark.parametrize("path", ["/health", "/version"])
def test_only_get_is_allowed(path: str) -> None:
    for method in ("HEAD", "PUT"):
        answer = LocalMember().send(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def of_host(member: Solo) -> tuple[Health, Deadlines]:
    deadlines = Deadlines(member.clock)
    return Health(member.host, deadlines.after), deadlines


def test_health_needs_a_leader() -> None:
    check, _ = of_host(Solo())
    exchange = RecordedExchange(Request(b"GET", b"/health"))
    check(exchange)
    assert (exchange.status, exchange.body) == (503, b'{"health":"false","reason":"RAFT NO LEADER"}\n')


def test_health_goes_through_the_log() -> None:
    member = Solo().lead()
    check, _ = of_host(member)
    exchange = RecordedExchange(Request(b"GET", b"/health"))
    check(exchange)
    assert not exchange.status
    member.settle()
    assert (exchange.status, exchange.body) == HEALTHY


def test_health_does_not_wait_for_ever() -> None:
    member = Solo().lead()
    check, deadlines = of_host(member)
    exchange = RecordedExchange(Request(b"GET", b"/health"))
    check(exchange)
    member.clock.now = Nanos(member.clock.now + 1_100_000_000)
    deadlines.run_due()
    assert exchange.status == 503
    member.settle()


def test_version_names_what_the_cluster_agreed_on() -> None:
    member = Solo().lead()
    told = []
    for _ in range(2):
        exchange = RecordedExchange(Request(b"GET", b"/version"))
        Version(member.host)(exchange)
        told.append(json.loads(exchange.body))
        member.host.propose(encode(SetClusterVersion("3.4.0")), lambda _: None, OWN)
        member.settle()
    assert [each["etcdcluster"] for each in told] == ["not_decided", "3.4.0"]
    assert set(told[0]) == {"etcdserver", "etcdcluster"}


def test_a_published_member_is_known() -> None:
    member = Solo().lead()
    member.host.propose(
        encode(PublishMember(ME, "solo", ("http://a:1",), ("http://a:2",))), lambda _: None, OWN
    )
    member.settle()
    assert member.host.machine.members[NodeId(7)].client_urls == ("http://a:1",)


def test_a_deadline_runs_once() -> None:
    ran: list[int] = []
    deadline = Deadline(0, lambda: ran.append(1))
    deadline.run()
    deadline.run()
    assert ran == [1]
    assert deadline.cancelled
