"""The command that is being carried out, as shared by the machine and the stores; and units of work.

Work is counted in units of about a microsecond, so that the loop can be held for a bounded time.
"""

from __future__ import annotations

from typing import Final

from netstore.types import Index

COMMAND_UNITS: Final = 10
"""Units of a command that is not carried out in pieces, and of each node or lease that a command ends. One
more for each `UNIT_BYTES` of the command, of its event, and of what else it reads and writes.
"""

NODE_UNITS: Final = 2
"""Units of each node that it creates, lists or updates beside the one it names."""

UNIT_BYTES: Final = 2_048
"""Bytes that are read, written or copied in one unit."""


class Applying:
    """Where the command that is being carried out lies in the log, and the work done."""

    __slots__ = ("index", "worked")

    def __init__(self) -> None:
        self.index = Index(0)
        """Its index in the log."""
        self.worked = 0
        """Units of work done so far for all commands. Differs between members: nothing that is replicated
        may depend on it.
        """
