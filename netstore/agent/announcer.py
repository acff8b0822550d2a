"""Tells the service manager (sd_notify(3)) how the agent is: ready when it is for the first time, a status
line whenever that changes, and that it is alive if a watchdog asks for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL: Final = 60.0
"""Maximum seconds between two looks, when nobody calls for one."""

PAUSE: Final = 1.0
"""Minimum seconds between two looks once the node was ready: a look reads subnet.env, and every lease that
changes calls for one.
"""


class Manager(Protocol):
    """What `ops.notify.ServiceManager` offers."""

    @property
    def watchdog_seconds(self) -> float | None:
        """The process is killed if `alive` is not called for so long; None if it is not."""

    def ready(self, status: str = "") -> bool:
        """The start is finished."""

    def status(self, status: str) -> bool:
        """A line for people."""

    def alive(self) -> bool:
        """Reset the watchdog."""


class Announcer:
    """`not_ready` returns why the node is not ready, or None, `summary` a line about a node that is ready,
    and `is_stuck` whether the agent no longer does its work, so that it must be restarted.
    """

    def __init__(
        self,
        manager: Manager,
        not_ready: Callable[[], str | None],
        summary: Callable[[], str],
        is_stuck: Callable[[], bool],
    ) -> None:
        self._manager = manager
        self._not_ready = not_ready
        self._summary = summary
        self._is_stuck = is_stuck
        self._was_ready = False
        self._told = ""
        self._called = trio.Event()

    def call(self) -> None:
        """The node may not be as it was told: `run` looks, at once if it was not ready yet."""
        self._called.set()

    async def run(self) -> NoReturn:
        """Look and tell, forever."""
        limit = self._manager.watchdog_seconds
        interval = INTERVAL if limit is None else min(INTERVAL, limit / 2)
        while True:
            self._called = trio.Event()
            self.look()
            if limit is not None and not self._is_stuck():
                self._manager.alive()
            again_at = trio.current_time() + interval
            if self._was_ready:
                await trio.sleep(min(PAUSE, interval))
            with trio.move_on_at(again_at):
                await self._called.wait()

    def look(self) -> None:
        """Tell the manager what it does not know yet."""
        reason = self._not_ready()
        status = self._summary() if reason is None else f"not ready: {reason}"
        if reason is None and not self._was_ready:
            self._was_ready = True
            self._manager.ready(status)
        elif status != self._told:
            self._manager.status(status)
        self._told = status
