"""What the service manager is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from netstore.agent.announcer import Announcer

if TYPE_CHECKING:
    from trio.testing import MockClock


class Node:
    """A node, and the manager with what it was told."""

    def __init__(self, watchdog: float | None = None) -> None:
        self.watchdog_seconds = watchdog
        self.told: list[str] = []
        self.lives: list[float] = []
        self.reason: str | None = "no subnet"
        self.stuck = False
        self.summary = "1 route"
        self.announcer = Announcer(self, lambda: self.reason, lambda: self.summary, lambda: self.stuck)

    def ready(self, status: str = "") -> bool:
        self.told.append(f"READY {status}")
        return True

    def status(self, status: str) -> bool:
        self.told.append(status)
        return True

    def alive(self) -> bool:
        self.lives.append(trio.current_time())
        return True


def test_ready_is_told_once_and_the_status_when_it_changes() -> None:
    node = Node()
    node.announcer.look()
    node.announcer.look()
    node.reason = None
    node.announcer.look()
    node.announcer.look()
    node.summary = "2 routes"
    node.announcer.look()
    node.reason = "eth0 is down"
    node.announcer.look()
    node.reason = None
    node.announcer.look()
    assert node.told == [
        "not ready: no subnet",
        "READY 1 route",
        "2 routes",
        "not ready: eth0 is down",
        "2 routes",
    ]


@pytest.mark.trio
async def test_the_watchdog_is_served_at_half_its_time_unless_the_agent_is_stuck(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = Node(watchdog=6.0)
    began = trio.current_time()
    nursery.start_soon(node.announcer.run)
    await trio.sleep(10)  # fixed: by the clock of the test
    assert [at - began for at in node.lives] == [0, 3, 6, 9]
    node.stuck = True
    await trio.sleep(10)  # fixed: by the clock of the test
    assert len(node.lives) == 4
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_without_a_watchdog_nothing_says_that_it_lives(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = Node()
    nursery.start_soon(node.announcer.run)
    await trio.sleep(200)  # fixed: by the clock of the test
    assert node.lives == []
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_call_is_answered_at_once_until_the_node_is_ready_and_then_once_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = Node(watchdog=60.0)
    nursery.start_soon(node.announcer.run)
    await trio.testing.wait_all_tasks_blocked()
    node.reason = None
    node.announcer.call()
    await trio.testing.wait_all_tasks_blocked()
    assert node.told == ["not ready: no subnet", "READY 1 route"]
    for count in range(2, 502):
        node.summary = f"{count} routes"
        node.announcer.call()
        await trio.sleep(0.01)  # fixed: by the clock of the test
    await trio.sleep(1)  # fixed: by the clock of the test
    assert node.told[-1] == "501 routes"
    assert len(node.told) <= 2 + 6, "once in each of the six seconds"
    nursery.cancel_scope.cancel()
