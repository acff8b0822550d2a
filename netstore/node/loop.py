"""The one task that runs the host.

Its only await is `_woken.wait()`, between turns: between two of them state changes are atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from netstore.node.host import Host


class Loop:
    """Runs a host's turns whenever it was woken. `wake` is what the host is given to call."""

    def __init__(self) -> None:
        self._woken = trio.Event()
        self._idle: trio.Event | None = None

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    async def run(self, host: Host) -> None:
        """Run until cancelled, or until a fault that the member must not survive is raised."""
        try:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                host.turn()
                if self._idle is not None and not host.proposals:
                    self._idle.set()
        finally:
            host.stop()

    async def drained(self, host: Host) -> None:
        """Wait until no request waits for the log; what comes meanwhile is waited for too."""
        while host.proposals:
            self._idle = trio.Event()
            await self._idle.wait()
