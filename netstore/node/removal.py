"""What a member does when it was removed from its cluster: it stops for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import NoRestart

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.node.host import Host


class Expelled(NoRestart):
    """This member was removed from its cluster."""


class Removal:
    """Stops one member once it was removed."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._folder = folder

    def look(self) -> None:
        """Whether its own log says that it was removed. To be called now and then."""
        if self._host.id in self._host.machine.removed:
            self.expelled("as its own log says")

    def expelled(self, reason: str) -> None:
        """It was removed, as `reason` says."""
        host = self._host
        host.fail(
            Expelled(
                f"member {host.id:x} was removed from cluster {host.cluster_id:x} ({reason}) and stops: to"
                f" let this machine in again, remove {self._folder} and start with --join"
            )
        )
