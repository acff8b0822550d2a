"""What the machine and the two stores tell each other of the command that is being carried out."""

from __future__ import annotations

from typing import Final

from netstore.types import Index

COMMAND_UNITS: Final = 10
"""Microseconds, about, that a command takes that is not carried out in pieces, and each of what it ends. One
more for each `UNIT_BYTES` of it, of an event, and of what else it reads and writes.
"""

NODE_UNITS: Final = 2
"""The same for each node that it makes, lists or notes something of beside the one it names."""

UNIT_BYTES: Final = 2_048
"""Bytes that are read, written or copied in a unit."""


class Applying:
    """The command that is being carried out."""

    __slots__ = ("index", "worked")

    def __init__(self) -> None:
        self.index = Index(0)
        """Where it lies in the log."""
        self.worked = 0
        """Units worked so far for all commands. Members count differently: nothing that is replicated may
        depend on it.
        """
