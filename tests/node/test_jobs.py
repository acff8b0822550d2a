"""Long work in steps: who gets the next one, how many there may be, what a fault ends. Steps are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore import errors
from netstore.errors import CorruptData, Shed
from netstore.node import jobs as rules
from netstore.node.jobs import Jobs
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable


class Counted:
    """A job of so many steps."""

    def __init__(self, name: str, steps: int, told: list[str]) -> None:
        self.name = name
        self.left = steps
        self.told = told
        self.in_step: Callable[[], None] = lambda: None
        self.faults: list[Exception] = []

    def step(self) -> bool:
        self.told.append(self.name)
        self.left -= 1
        self.in_step()
        return not self.left

    def failed(self, fault: Exception) -> None:
        self.faults.append(fault)


class Bench:
    """Jobs, the order in which they had their steps, and how often the loop was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.log = KeptLog()
        self.told: list[str] = []
        self.jobs = Jobs(self._wake, self.log)

    def _wake(self) -> None:
        self.woken += 1

    def start(self, principal: str, name: str, steps: int = 3) -> Counted:
        job = Counted(name, steps, self.told)
        assert self.jobs.start(principal, job) is None
        return job

    def run(self, budget: int) -> str:
        self.told.clear()
        self.jobs.run(budget)
        return " ".join(self.told)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_run_does_no_more_steps_than_it_may(bench: Bench) -> None:
    bench.start("ann", "a", steps=100)
    assert bench.run(3) == "a a a"
    assert bench.jobs.ready


def test_principals_take_turns_however_many_jobs_one_has(bench: Bench) -> None:
    for number in range(4):
        bench.start("ann", f"a{number}", steps=9)
    bench.start("bob", "b", steps=9)
    assert bench.run(8) == "a0 b a1 b a2 b a3 b"


def test_the_addresses_of_one_ipv6_network_have_one_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MOST_EACH", 3)
    for number in range(3):
        bench.start(f"2001:db8::{number:x}", f"a{number}", steps=9)
    bench.start("2001:db8:0:1::1", "b", steps=9)
    assert bench.run(6) == "a0 b a1 b a2 b"
    assert bench.jobs.start("2001:db8::ffff", Counted("c", 1, [])) == errors.too_many()


def test_a_job_that_several_wait_for_goes_on_in_the_turns_of_each(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = bench.start("ann", "s", steps=5)
    for number in range(3):
        bench.start("ann", f"a{number}", steps=9)
    for _ in range(2):
        assert bench.jobs.share("bob", shared) is None
    assert bench.run(6) == "s s a0 s a1 s"
    monkeypatch.setattr(rules, "MOST_EACH", 1)
    bench.start("cem", "c", steps=9)
    assert bench.jobs.share("cem", shared) == errors.too_many()
    assert bench.run(3) == "a2 s c"
    assert len(bench.jobs) == 4
    assert bench.run(4) == "a0 c a1 c"
    assert bench.jobs.start("bob", Counted("b", 1, [])) is None, "it was counted once, and no more"


def test_turns_go_on_where_the_last_run_ended(bench: Bench) -> None:
    bench.start("ann", "a", steps=9)
    bench.start("bob", "b", steps=9)
    bench.start("cem", "c", steps=9)
    assert [bench.run(2), bench.run(2)] == ["a b", "c a"]


def test_a_job_that_is_over_has_no_more_steps(bench: Bench) -> None:
    bench.start("ann", "a", steps=2)
    assert bench.run(9) == "a a"
    assert len(bench.jobs) == 0
    assert not bench.jobs.ready


def test_the_loop_is_woken_while_there_is_more_and_not_for_nothing(bench: Bench) -> None:
    bench.start("ann", "a", steps=2)
    bench.woken = 0
    bench.run(1)
    assert bench.woken == 1
    bench.run(1)
    assert bench.woken == 1


def test_a_step_that_raises_ends_its_job_and_no_other(bench: Bench) -> None:
    bad, good = bench.start("ann", "bad"), bench.start("ann", "good", steps=2)

    def burst() -> None:
        raise CorruptData("no such record")

    bad.in_step = burst
    assert bench.run(9) == "bad good good"
    assert [str(fault) for fault in bad.faults] == ["no such record"]
    assert good.left == 0
    assert bench.log.events == ["job_failed"]


def test_work_that_is_given_up_for_want_of_room_is_a_warning_that_names_the_setting(bench: Bench) -> None:
    class Full(Shed):
        limit = "some_setting"

    bad = bench.start("ann", "bad")

    def burst() -> None:
        raise Full("no room for it")

    bad.in_step = burst
    bench.run(1)
    assert [str(fault) for fault in bad.faults] == ["no room for it"]
    assert bench.log.events == ["job_given_up"]


def test_a_job_that_cannot_even_be_told_of_its_fault_ends_alone(bench: Bench) -> None:
    class Hopeless(Counted):
        def step(self) -> bool:
            raise MemoryError

        def failed(self, fault: Exception) -> None:
            raise fault

    assert bench.jobs.start("ann", Hopeless("h", 1, bench.told)) is None
    bench.start("ann", "good", steps=1)
    assert bench.run(9) == "good"
    assert bench.log.events == ["job_failed_twice", "job_failed"]
    assert len(bench.jobs) == 0


def test_a_cancelled_job_has_no_more_steps(bench: Bench) -> None:
    job = bench.start("ann", "a")
    bench.run(1)
    assert bench.jobs.share("bob", job) is None
    bench.jobs.cancel(job)
    bench.jobs.cancel(job)
    assert bench.run(9) == ""
    assert len(bench.jobs) == 0
    assert bench.jobs._households == {}


def test_a_job_may_cancel_itself_and_others_in_its_step(bench: Bench) -> None:
    first, second = bench.start("ann", "first"), bench.start("ann", "second")

    def cancel() -> None:
        bench.jobs.cancel(first)
        bench.jobs.cancel(second)

    first.in_step = cancel
    assert bench.run(9) == "first"
    assert len(bench.jobs) == 0


def test_a_paused_job_waits_and_wakes_the_loop_when_it_goes_on(bench: Bench) -> None:
    job = bench.start("ann", "a", steps=9)
    job.in_step = lambda: bench.jobs.pause(job)
    assert bench.run(9) == "a"
    assert not bench.jobs.ready
    assert len(bench.jobs) == 1
    bench.woken = 0
    bench.jobs.resume(job)
    assert bench.woken == 1
    assert bench.run(9) == "a"


def test_a_finished_job_is_not_resumed(bench: Bench) -> None:
    job = bench.start("ann", "a", steps=1)
    bench.run(1)
    bench.jobs.resume(job)
    assert not bench.jobs.ready


def test_one_principal_has_no_more_jobs_than_it_may(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_EACH", 2)
    first = bench.start("ann", "a")
    bench.start("ann", "b")
    assert bench.jobs.start("ann", Counted("c", 1, [])) == errors.too_many()
    assert bench.jobs.start("bob", Counted("c", 1, [])) is None
    bench.jobs.cancel(first)
    assert bench.jobs.start("ann", Counted("c", 1, [])) is None


def test_all_principals_have_no_more_jobs_than_they_may(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MOST_JOBS", 2)
    bench.start("ann", "a")
    bench.start("bob", "b")
    assert bench.jobs.start("cem", Counted("c", 1, [])) == errors.too_many()
    assert len(bench.jobs) == 2


def test_nothing_is_kept_of_a_principal_without_jobs(bench: Bench) -> None:
    for number in range(100):
        bench.start(f"address {number}", "a", steps=1)
    bench.run(1_000)
    assert not bench.jobs._households
    assert not bench.jobs._turns
