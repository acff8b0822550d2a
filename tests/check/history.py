"""What clients asked and were told, in a form that judges read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from netstore.errors import Fault

if TYPE_CHECKING:
    from netstore.state.commands import Command
    from netstore.state.machine import Outcome

NEVER = 1 << 62
"""When an operation without an answer ended."""


class Door(Enum):
    """Which promise an operation was given."""

    LOG = "log"
    """Through the log: writes, and reads with `quorum=true`."""
    LINEAR = "linear"
    """A read at a read index (Ongaro's dissertation, section 6.4)."""
    LOCAL = "local"
    """A plain read of one member: stale at most."""


class Fate(Enum):
    """What the client knows."""

    OPEN = "open"
    ANSWERED = "answered"
    """The store said what happened: an event, or why not."""
    REFUSED = "refused"
    """It did not happen and will not."""
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Operation:
    """One call. `called` and `returned` are places in the order in which the recorder saw things happen."""

    serial: int
    client: int
    member: int
    door: Door
    command: Command
    called: int
    returned: int = NEVER
    fate: Fate = Fate.OPEN
    outcome: Outcome = None

    @property
    def waits(self) -> bool:
        """Nobody has answered and nobody has given up."""
        return self.fate is Fate.OPEN

    def end(self, at: int, outcome: Outcome) -> None:
        """The answer came. A refusal that may still happen leaves the operation without an end."""
        if isinstance(outcome, Fault) and outcome.code == 300:
            self.fate = Fate.REFUSED if outcome.outcome_known else Fate.UNKNOWN
        else:
            self.fate = Fate.ANSWERED
        self.outcome = outcome
        if self.fate is not Fate.UNKNOWN:
            self.returned = at

    def abandon(self) -> None:
        """The client waits no longer."""
        self.fate = Fate.UNKNOWN

    def __str__(self) -> str:
        span = f"{self.called}..{'' if self.returned == NEVER else self.returned}"
        return (
            f"#{self.serial} client {self.client} at {self.member:x} {span} {self.door.value} {self.command}"
            f" -> {self.fate.value} {self.outcome}"
        )


class Wrong(AssertionError):  # noqa: N818 - named for the verdict
    """The history breaks a promise; the text says which, and shows the operations."""
