"""`/livez` and `/readyz`: what each of their checks fails by, and how that is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from netstore.api.probes import CHECKS
from netstore.errors import Fault, timed_out
from netstore.state.v3.commands import CORRUPT, NOSPACE, SetAlarm
from netstore.types import Nanos
from tests.support.local_member import START, LocalMember

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting(LocalMember):
    """Reads wait until a test answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Callable[[Fault | None], None]] = []

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        assert not principal, "the member reads for itself, behind no client"
        self.reads.append(done)


READY = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")


def told(names: tuple[str, ...], **failed: str) -> str:
    return "".join(
        f"[-]{name} failed: {failed[name]}\n" if name in failed else f"[+]{name} ok\n" for name in names
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez/serializable_read", "/readyz/non_learner"])
def test_a_member_that_serves_is_alive_and_ready(path: str) -> None:
    answer = LocalMember().send("GET", path)
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_every_check_has_a_path_and_no_other() -> None:
    member = LocalMember()
    for path, names in CHECKS.items():
        for name in names:
            answer = member.send("GET", f"{path}/{name}?verbose")
            assert answer.body.decode() == f"[+]{name} ok\nok\n"
    assert CHECKS["/readyz"] == READY
    for path in ("/livez/linearizable_read", "/readyz/nothing", "/livez/serializable_read/x"):
        assert member.send("GET", path).status == 404


@pytest.mark.parametrize("query", ["verbose", "verbose=", "verbose=false", "x=1&verbose"])
def test_what_is_well_is_told_when_asked_for(query: str) -> None:
    answer = LocalMember().send("GET", f"/readyz?{query}")
    assert (answer.status, answer.body.decode()) == (200, told(READY) + "ok\n")


def test_without_a_majority_a_member_is_alive_and_not_ready() -> None:
    member = Waiting()
    assert member.send("GET", "/livez").status == 200
    answer = member.send("GET", "/readyz")
    assert answer.status == 0
    member.reads[0](timed_out())
    expected = told(READY, linearizable_read="etcdserver: request timed out") + "\n"
    assert (answer.status, answer.body.decode()) == (503, expected)
    late = member.send("GET", "/readyz/linearizable_read")
    member.clock.now = Nanos(START + 5_000_000_000)
    member.deadlines.run_due()
    assert late.body == b"[-]linearizable_read failed: a majority takes longer than 5 s\n\n"
    assert member.send("GET", "/readyz?exclude=linearizable_read").body == b"ok\n"
    assert len(member.reads) == 2


def test_checks_share_one_read() -> None:
    member = Waiting()
    answers = [member.send("GET", "/readyz") for _ in range(3)]
    member.reads[0](None)
    assert [answer.status for answer in answers] == [200] * 3
    assert len(member.reads) == 1


def test_lack_of_space_stops_nobody_and_corruption_does() -> None:
    member = LocalMember()
    member.machine.alarms.set(SetAlarm(7, NOSPACE, active=True))
    assert member.send("GET", "/readyz").status == member.send("GET", "/livez").status == 200
    member.machine.alarms.set(SetAlarm(7, CORRUPT, active=True))
    answer = member.send("GET", "/readyz")
    assert (answer.status, answer.body.decode()) == (
        503,
        told(READY, data_corruption="alarm activated: CORRUPT") + "\n",
    )
    assert member.send("GET", "/livez").status == 200
    for query in ("exclude=data_corruption", "exclude=nonsense&exclude=data%5Fcorruption"):
        assert member.send("GET", f"/readyz?{query}").status == 200
    assert member.send("GET", "/readyz/data_corruption?exclude=data_corruption").status == 503


def test_a_learner_is_not_ready() -> None:
    member = LocalMember()
    own = member.machine.members[member.id]
    member.machine.roster.by_id[member.id] = replace(own, learner=True)
    answer = member.send("GET", "/readyz/non_learner")
    assert (answer.status, answer.body) == (503, b"[-]non_learner failed: not supported for learner\n\n")
    del member.machine.roster.by_id[member.id]
    assert member.send("GET", "/readyz/non_learner").status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/readyz/non_learner"])
def test_only_get_is_allowed(path: str) -> None:
    for method in ("HEAD", "POST"):
        answer = LocalMember().send(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_a_member_whose_state_differs_is_not_ready() -> None:
    member = LocalMember()
    member.differing = "the states of members 1, 2 differ"
    answer = member.send("GET", "/readyz/data_corruption")
    expected = "[-]data_corruption failed: the states of members 1, 2 differ\n\n"
    assert (answer.status, answer.body.decode()) == (503, expected)
    assert member.send("GET", "/livez").status == 200, "a restart does not help"
    status = json.loads(member.send("GET", "/netstore/status").body)
    assert status["problems"] == ["the states of members 1, 2 differ"]
