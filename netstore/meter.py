"""Measures which pieces of work hold the event loop for longer than their budget.

Everything that runs on the loop is a piece of work. Its caller reads the clock once after each, and reports
here only what took longer than the budget: it is counted, the longest is kept, and a log line names it, at
most once a second. A turn of the member is one piece with many parts; the line names the part that
took longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from netstore.seams import Log

PIECE_SECONDS: Final = 0.005
"""The budget of a piece: a small request waits for a few pieces of others at most."""

_TOLD_EVERY: Final = 1.0


class Parts:
    """Which part of the member's turn took longest. The code that runs the turn calls `begin`, and `ran`
    after each part: one clock reading each.
    """

    __slots__ = ("_clock", "_most", "at", "longest")

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._most = 0.0
        self.at = 0.0
        """The last reading of the clock, in monotonic seconds."""
        self.longest = ""
        """The part of this turn, or of the last one, that took longest without a break; empty when none took
        any time.
        """

    def begin(self, now: float) -> None:
        """A turn begins."""
        self.at = now
        self._most = 0.0
        self.longest = ""

    def ran(self, part: str) -> float:
        """The time since the last call was spent in this part; its seconds. Costs 0.12 us."""
        now = self._clock()
        spent = now - self.at
        if spent > self._most:
            self._most = spent
            self.longest = part
        self.at = now
        return spent


class Meter:
    """Counts pieces of work beyond the budget, in plain numbers."""

    __slots__ = (
        "_began",
        "_log",
        "_suppressed",
        "_told",
        "budget",
        "clock",
        "held",
        "longest",
        "part",
        "what",
    )

    def __init__(self, clock: Callable[[], float], log: Log, budget: float = PIECE_SECONDS) -> None:
        """`clock` gives monotonic seconds, `budget` is in seconds."""
        self.clock = clock
        self.budget = budget
        self.held = 0
        """Pieces that took longer than the budget."""
        self.longest = 0.0
        """Seconds of the longest of them."""
        self.what = ""
        """What that was."""
        self.part = ""
        """What took longest in the member's last turn (`Parts.longest`); empty when that is not known."""
        self._log = log
        self._told = float("-inf")
        self._suppressed = 0
        self._began = 0.0

    def collecting(self, phase: str, _: Mapping[str, int]) -> None:
        """For `gc.callbacks`: count a garbage collection like a piece of work. No line is written, because it
        may start while one is being written.
        """
        now = self.clock()
        if phase == "start":
            self._began = now
        elif now - self._began > self.budget:
            self._count("garbage collection", now - self._began)

    def over_turn(self, seconds: float) -> None:
        """Report a turn of the member that took longer than the budget."""
        self.over(f"turn: {self.part}" if self.part else "turn", seconds)

    def over(self, kind: str, seconds: float, who: str = "") -> None:
        """Report a piece that took longer than the budget; `who` names the client it was done for."""
        self._count(f"{kind} of {who}" if who else kind, seconds)
        now = self.clock()
        if now - self._told < _TOLD_EVERY:
            self._suppressed += 1
            return
        left_out, self._suppressed, self._told = self._suppressed, 0, now
        self._log.warning(
            "loop_held", work=kind, milliseconds=round(seconds * 1000, 1), principal=who, left_out=left_out
        )

    def _count(self, what: str, seconds: float) -> None:
        self.held += 1
        if seconds > self.longest:
            self.longest = seconds
            self.what = what
