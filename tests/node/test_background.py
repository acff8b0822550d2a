"""Long work is done between requests, in pieces."""

from __future__ import annotations

import pytest

from netstore.node.background import BUSY_SECONDS
from netstore.state.machine import Machine
from netstore.state.v3.commands import (
    BY_MOD,
    Range,
)
from netstore.state.v3.reads import STEP_UNITS, RangeRead
from tests.support.member import Solo
from tests.support.solo import put


def test_jobs_get_their_steps_after_turns_until_they_are_over() -> None:
    class Work:
        left = 7

        def step(self) -> bool:
            self.left -= 1
            return not self.left

        def failed(self, fault: Exception) -> None:
            raise fault

    work = Work()
    alone = Solo().lead()
    assert alone.host.jobs.start("ann", work) is None
    alone.turn()
    assert 0 < work.left < 7
    alone.settle()
    assert not work.left


class Walking:
    """A job that goes through a range of keys again and again; notes the units of each step."""

    def __init__(self, member: Solo) -> None:
        self._mvcc = member.host.machine.mvcc
        self.flushed: list[int] = []
        """How often the member had sent what it had to send, at each step."""
        self.units = 0
        self._member = member
        self._begin()

    def _begin(self) -> None:
        read = self._mvcc.read(Range(b"k", b"l", sort_target=BY_MOD))
        assert isinstance(read, RangeRead)
        self._read = read

    def step(self) -> bool:
        self.flushed.append(self._member.flushed)
        done = self._read.measure()
        self.units += STEP_UNITS - self._read.units_left
        if done:
            self._read.close()
            self._begin()
        return False

    def failed(self, fault: Exception) -> None:
        raise fault


def worked(member: Solo, work: Walking, turns: int = 20) -> float:
    """Units of one turn, on average."""
    before = work.units
    for _ in range(turns):
        member.turn()
    return (work.units - before) / turns


def walked(keys: int = 5_000) -> tuple[Solo, Walking]:
    member = Solo().lead()
    mvcc = member.host.machine.mvcc
    for number in range(keys):
        mvcc.put(b"k%05d" % number, b"", 0)
    mvcc.finish()
    work = Walking(member)
    assert member.host.jobs.start("ann", work) is None
    return member, work


def test_long_work_is_done_in_shorter_pieces_while_others_ask() -> None:
    """For a read, for a write that waits, for a while after either, and where the sockets say so."""
    member, work = walked()
    host = member.host
    alone = worked(member, work)
    assert 1.5 * STEP_UNITS < alone < 3 * STEP_UNITS
    host.read(lambda _: None, "bob")
    assert worked(member, work) <= 1.5 * STEP_UNITS, "he will ask again"
    member.clock.now += int(BUSY_SECONDS * 1e9) + 1  # type: ignore[assignment]
    assert worked(member, work) == pytest.approx(alone, rel=0.2)
    put(member)
    member.clock.now += int(BUSY_SECONDS * 2e9)  # type: ignore[assignment]
    assert worked(member, work) <= 1.5 * STEP_UNITS, "it waits for the disk"
    member.device.sync()
    member.turn()
    assert worked(member, work) == pytest.approx(alone, rel=0.2)
    host.background.contended = lambda: True
    assert worked(member, work) <= 1.5 * STEP_UNITS


def test_while_others_ask_chores_and_jobs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    member, work = walked()
    host = member.host
    swept = 0

    def sweep() -> None:
        nonlocal swept
        swept += 1

    monkeypatch.setattr(Machine, "sweeping", True)
    monkeypatch.setattr(host.machine, "sweep", sweep)
    host.background.contended = lambda: True
    done: list[tuple[int, int]] = []
    for _ in range(4):
        member.turn()
        done.append((swept, len(work.flushed)))
    assert [sum(each) for each in done] == [1, 2, 3, 4]
    assert done[-1] == (2, 2)
    host.background.contended = lambda: False
    member.turn()
    assert (swept, len(work.flushed)) == (3, 4)


def test_answers_leave_before_long_work_is_gone_on_with() -> None:
    member, work = walked()
    told: list[int] = []
    member.host.read(lambda _: told.append(member.flushed), "bob")
    member.turn()
    assert work.flushed == [told[0] + 1]
