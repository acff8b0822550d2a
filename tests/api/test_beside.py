"""Work beside the loop: one piece at a time, in a process that has bounds."""

from __future__ import annotations

import os
import queue
from functools import partial
from typing import TYPE_CHECKING

from netstore.api import beside as beside_module
from netstore.api.beside import MOST_WAITING, Beside
from netstore.errors import Fault, Reason
from tests.support.member import Lines
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Loop:
    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self.lines = Lines()
        self.beside = Beside(self.calls.put, self.lines)
        self.outcomes: list[Fault | None] = []

    def run(self, work: Callable[[], Fault | None]) -> None:
        self.beside.run(work, self.outcomes.append)

    def settle(self, outcomes: int) -> list[Fault | None]:
        while len(self.outcomes) < outcomes:
            self.calls.get(timeout=seconds(20))()
        return self.outcomes


def process_id() -> Fault:
    """The number of the process it runs in."""
    return Fault(209, str(os.getpid()).encode())


def endless() -> None:
    """Take a processor for ever."""
    while True:
        pass


def write_then_count(folder: str, name: str) -> Fault:
    """How many pieces of work run at this moment."""
    mark = os.path.join(folder, name)  # noqa: PTH118 - of texts
    with open(mark, "x"):  # noqa: PTH123 - same
        count = len(os.listdir(folder))  # noqa: PTH208 - same
    os.unlink(mark)  # noqa: PTH108 - same
    return Fault(209, str(count).encode())


def test_work_runs_in_another_process() -> None:
    loop = Loop()
    loop.run(process_id)
    [found] = loop.settle(1)
    assert found is not None
    assert int(found.cause) != os.getpid()


def test_work_that_takes_too_long_is_ended_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    loop.run(endless)
    loop.run(process_id)
    first, second = loop.settle(2)
    assert first is not None
    assert b"takes too much time" in first.cause
    assert first.reason is None
    assert second is not None
    monkeypatch.setattr(beside_module, "WAITED_SECONDS", 0.01)
    loop.run(process_id)
    assert loop.settle(3)[2] == first


def test_one_piece_runs_at_a_time(tmp_path: object) -> None:
    loop = Loop()
    for number in range(MOST_WAITING + 1):
        loop.run(partial(write_then_count, str(tmp_path), str(number)))
    refused = loop.outcomes[0]
    assert refused is not None
    assert refused.reason is Reason.TOO_MANY
    assert [found and found.cause for found in loop.settle(MOST_WAITING + 1)[1:]] == [b"1"] * MOST_WAITING
