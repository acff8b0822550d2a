"""Clocks: what a Date header of whole seconds can tell. And what a member says of itself."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from msgspec.structs import replace

from netstore.cli.checks.finding import State
from netstore.cli.checks.stores import clock, look, standing, voters
from netstore.cli.commands.invocation import Settings
from netstore.client.cluster import ArchiveStatus, BackupStatus, BehindStatus, MemberRecord, MemberStatus
from netstore.client.faults import BadAnswer, ClientError, Unreachable
from netstore.client.grpc import DEADLINE_EXCEEDED, PERMISSION_DENIED, Status
from netstore.client.v2 import V2Error
from tests.cli.commands.conftest import answering, http

NOW = 1_700_000_000.0
MAJORITY = "does a majority of the voters run? start the other members"


@pytest.mark.parametrize(
    ("sent", "began", "ended", "state"),
    [
        (NOW, NOW, NOW + 0.1, State.OK),
        (NOW, NOW + 0.9, NOW + 0.95, State.OK),
        (NOW, NOW - 1.9, NOW - 1.8, State.OK),
        (NOW, NOW - 3, NOW - 2.5, State.WARNING),
        (NOW, NOW + 4, NOW + 4.1, State.WARNING),
        (NOW, NOW - 5, NOW + 5, State.OK),
        (NOW, NOW + 3600, NOW + 3601, State.WRONG),
    ],
)
def test_the_drift_of_a_clock(sent: float, began: float, ended: float, state: State) -> None:
    assert clock("http://store", formatdate(sent, usegmt=True), began, ended).state is state


def test_its_direction_is_told() -> None:
    date = formatdate(NOW, usegmt=True)
    assert clock("http://store", date, NOW + 11, NOW + 11).told == "10 s ahead of http://store"
    assert clock("http://store", date, NOW - 10, NOW - 10).told == "10 s behind http://store"


@pytest.mark.parametrize("date", ["", "rubbish", "Tue, 99 Foo 2026 99:99:99 GMT"])
def test_no_time_is_unknown(date: str) -> None:
    assert clock("http://store", date, NOW, NOW).state is State.UNKNOWN


ARCHIVE = ArchiveStatus("/a", 7, 0, 0, 1, 1, 0, 0, oldest_unix_nanos=10**18, stopped=False)
BACKUP = BackupStatus(60.0, False, 1, 0, 1, "f.backup", 1, 1, 1, 1.0, "restored into memory", 0, ())
MEMBER = MemberStatus("a", "one", "1.0", "leader", "a", 1, 1, 1)


def test_a_member_that_saves_what_it_should() -> None:
    assert list(standing("http://s", MEMBER)) == []
    archive, backup = standing("http://s", replace(MEMBER, archive=ARCHIVE, backup=BACKUP))
    assert (archive.state, backup.state) == (State.OK, State.OK)
    assert archive.told == "has the log up to entry 7, leads back to 2001-09-09T01:46:40.000Z"
    assert backup.told == "every 60 s; the last one is f.backup"


def test_an_archive_of_an_earlier_release_is_not_called_good_beside_a_problem() -> None:
    archive = replace(ARCHIVE, stopped=None, oldest_unix_nanos=None)
    found = list(standing("http://s", replace(MEMBER, problems=("no room",), archive=archive)))
    assert [(each.subject, each.state) for each in found] == [
        ("store http://s", State.WRONG),
        ("archive http://s", State.UNKNOWN),
    ]
    (well,) = standing("http://s", replace(MEMBER, archive=archive))
    assert (well.state, well.told) == (State.OK, "has the log up to entry 7")


def test_a_warning_of_the_backup_is_no_problem_of_an_archive_of_an_earlier_release() -> None:
    archive = replace(ARCHIVE, stopped=None, oldest_unix_nanos=None)
    backup = replace(BACKUP, warnings=("late",))
    told = replace(MEMBER, problems=("late",), archive=archive, backup=backup)
    assert [each.state for each in standing("http://s", told)] == [State.OK, State.WRONG]


def test_what_to_do_is_told_once() -> None:
    problems = ("states differ: start the voters", "no room", "odd")
    fixes = {"states differ: start the voters": "start the voters", "no room": "free disk space"}
    found = standing("http://s", replace(MEMBER, problems=problems, fixes=fixes))
    assert [(each.told, each.advice) for each in found] == [
        ("states differ", "start the voters"),
        ("no room", "free disk space"),
        ("odd", "see its log: an earlier release tells no more"),
    ]


@pytest.mark.parametrize(("stopped", "state"), [(True, State.WRONG), (False, State.WARNING)])
def test_a_member_that_does_not(*, stopped: bool, state: State) -> None:
    archive = replace(ARCHIVE, stopped=stopped, problems=("no room",))
    backup = replace(BACKUP, warnings=("backup: no room", "backup_hook: ended with status 1"))
    problems = ("alarm NOSPACE", "no room", *backup.warnings)
    fixes = {"no room": "free disk space", "backup: no room": "a larger disk"}
    status = replace(MEMBER, problems=problems, fixes=fixes, archive=archive, backup=backup)
    found = list(standing("http://s", status))
    see = "see its log: an earlier release tells no more"
    assert [(each.subject, each.state, each.told, each.advice) for each in found] == [
        ("store http://s", State.WRONG, "alarm NOSPACE", see),
        ("archive http://s", state, "no room", "free disk space"),
        ("backup http://s", State.WRONG, "backup: no room", "a larger disk"),
        ("backup http://s", State.WRONG, "backup_hook: ended with status 1", see),
    ]


def test_voters_that_do_not_answer_or_have_no_whole_state() -> None:
    lead = MemberRecord("a", "one", (), (), "leader")
    two, three = (MemberRecord(each, each, (), (), "voter", active=True) for each in ("two", "three"))
    learner = MemberRecord("d", "four", (), (), "learner", active=False)
    (well,) = voters([lead, two, three, learner])
    assert (well.state, well.told) == (State.OK, "3 voters answer")
    assert list(voters([lead])) == []
    assert list(voters([replace(each, active=None) for each in (lead, two, three)])) == [], "an etcd"
    behind = BehindStatus("two", "copying", 9, waited_for=True, sent_bytes=1, total_bytes=2)
    silent, copying = voters([lead, replace(two, behind=behind), replace(three, active=False)])
    assert (silent.state, silent.told) == (State.WARNING, "voters that do not answer: three (of 3)")
    assert "member rm, and a new member with --join" in silent.advice
    assert (copying.state, copying.told) == (
        State.WARNING,
        "voters that are being sent the state: two (of 3)",
    )


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (V2Error(300, "Raft Internal Error", "etcdserver: request timed out"), MAJORITY),
        (Status("http://s", DEADLINE_EXCEEDED, "etcdserver: request timed out"), MAJORITY),
        (Unreachable([("http://s", "timed out")], outcome_known=True), MAJORITY),
        (V2Error(110, "The request requires user authentication"), "check --username and its password"),
        (Status("http://s", PERMISSION_DENIED, "no"), "check --username and its password"),
        (BadAnswer("http://s", "answered 404: <html>"), "check --endpoints, and whether it is a store"),
    ],
)
async def test_the_advice_goes_by_the_reason(
    error: ClientError, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def config(_: object) -> None:
        raise error

    monkeypatch.setattr("netstore.client.subnets_v2.V2Subnets.config", config)
    monkeypatch.setattr("netstore.client.subnets_v3.V3Subnets.config", config)
    with answering(lambda _: http("404 Not Found", "{}")) as url:
        known = await look(Settings(endpoints=url), has_agent=True)
    (found,) = [each for each in known.findings if each.subject == f"store {url}"]
    assert (found.state, found.advice) == (State.WRONG, advice)
