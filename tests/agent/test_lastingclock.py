"""The clock that goes on while the machine is suspended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.agent.lastingclock import LOOK_SECONDS, LastingClock, suspended_seconds

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.mark.trio
async def test_it_goes_on_while_the_machine_is_suspended_and_never_back(mock_clock: MockClock) -> None:
    suspended = 70.0
    clock = LastingClock(lambda: suspended)
    began = trio.current_time()
    assert clock.now() == began, "what was before does not count"
    for seconds, added in ((71.5, 1.5), (71.495, 1.5), (71.505, 1.5), (70.0, 1.5), (75.0, 5.0)):
        suspended = seconds
        assert clock.now() == began + added
        assert clock.deadline(began + 10) == began + 10 - added
    mock_clock.jump(3.0)
    assert clock.now() == began + 8.0


@pytest.mark.trio
async def test_a_sleep_is_shorter_by_what_the_machine_was_suspended(autojump_clock: MockClock) -> None:
    suspended = 0.0
    clock = LastingClock(lambda: suspended)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.sleep, 100.0)
        await trio.sleep(15)  # fixed: by the clock of the test
        suspended = 60.0
    assert 40.0 <= trio.current_time() - began < 40.0 + LOOK_SECONDS


def test_the_clocks_of_the_kernel_tell_for_how_long_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {time.CLOCK_BOOTTIME: 75.5, time.CLOCK_MONOTONIC: 70.0}
    monkeypatch.setattr(time, "clock_gettime", seconds.__getitem__)
    assert suspended_seconds() == 5.5
