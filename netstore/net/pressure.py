"""What happens when client connections hold more of the memory than they should.

From `WAIT` of the budget on, nothing new is handled of the connections that hold most of it, until what the
others hold fits; they go on taking their answers, which is how they get their turn again. One of them that
takes less than `PACE` meanwhile is cut once the budget is spent, after `PATIENCE_SECONDS`. Where all this
is not enough, because answers already under way or events for a thousand watches grow beyond twice the
budget, the heaviest lose what they hold at once and are cut.

The heaviest are looked for at the mark only, and again when the sum has moved by a part or a while has
passed, so that a charge costs a comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from netstore.limits import Account, Budget

WAIT: Final = 0.5
"""Part of the budget from which the heaviest wait."""

RELEASE: Final = 0.375
"""Part of the budget below which all go on."""

CUT: Final = 2.0
"""Times the budget beyond which the heaviest lose what they hold at once."""

PACE: Final = 64 * 1024
"""Bytes that one which waits has to take each second."""

PATIENCE_SECONDS: Final = 3
"""For how many seconds it may take less."""

_AGAIN_SECONDS: Final = 0.1
_AGAIN_PART: Final = 16


class Holder(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    account: Account
    principal: str
    taken: int

    def hold_back(self, *, held: bool) -> None:
        """Handle nothing new of it, or go on."""

    def doom(self) -> None:
        """Let go of what it holds now, and be cut soon."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


class Pressure:
    """Watches over what all connections hold together. `holders` gives the open ones."""

    def __init__(self, memory: Budget, holders: Callable[[], Collection[Holder]], log: Log) -> None:
        self._memory = memory
        self._holders = holders
        self._log = log
        self._wait = int(memory.limit * WAIT)
        self._release = int(memory.limit * RELEASE)
        self._cut = int(memory.limit * CUT)
        self._held_back: dict[Holder, tuple[int, int]] = {}
        """What each had taken when it was looked at last, and for how many seconds it took too little."""
        self._looked_used = 0
        self._looked_at = float("-inf")

    @property
    def waiting(self) -> int:
        """How many connections are held back."""
        return len(self._held_back)

    def charged(self) -> None:
        """Something more is held. Makes room at once where it must; O(1) otherwise."""
        if self._memory.used > self._cut:
            self._doom_the_heaviest()

    def look(self, now: float) -> None:
        """Once a round: see who has to wait. O(1) below the mark, and mostly above it."""
        used = self._memory.used
        if used <= self._wait:
            if self._held_back and used <= self._release:
                self._let_go()
            return
        moved = abs(used - self._looked_used) * _AGAIN_PART > self._memory.limit
        if moved or now - self._looked_at >= _AGAIN_SECONDS:
            self._looked_used, self._looked_at = used, now
            self._hold_back_the_heaviest(used - self._wait)

    def sweep(self) -> None:
        """Once a second: cut who waits, takes nothing, and stands in the way of others. O(who waits)."""
        over = self._memory.over
        for holder, (taken, slow) in list(self._held_back.items()):
            slow = slow + 1 if holder.taken - taken < PACE else 0  # noqa: PLW2901
            self._held_back[holder] = holder.taken, slow
            if over and slow >= PATIENCE_SECONDS:
                self._drop(holder, "it took nothing while memory was short")
                over = self._memory.over

    def forget(self, holder: Holder) -> None:
        """It is closed."""
        self._held_back.pop(holder, None)

    def _hold_back_the_heaviest(self, excess: int) -> None:
        for holder in sorted(self._holders(), key=_weight, reverse=True):
            if excess <= 0 or not holder.account.held:
                return
            excess -= holder.account.held
            if holder not in self._held_back:
                self._held_back[holder] = holder.taken, 0
                holder.hold_back(held=True)

    def _let_go(self) -> None:
        held_back = list(self._held_back)
        self._held_back.clear()
        for holder in held_back:
            holder.hold_back(held=False)

    def _doom_the_heaviest(self) -> None:
        for holder in sorted(self._holders(), key=_weight, reverse=True):
            if self._memory.used <= self._memory.limit or not holder.account.held:
                return
            self._drop(holder, "memory ran out and it held most")

    def _drop(self, holder: Holder, reason: str) -> None:
        self._log.warning(
            "connection_cut_for_memory",
            principal=holder.principal,
            bytes=holder.account.held,
            reason=reason,
            fix="read answers as they come, or raise memory_budget",
        )
        self._held_back.pop(holder, None)
        holder.doom()


def _weight(holder: Holder) -> int:
    return holder.account.held
