"""What happens when client connections hold more of the memory than they should.

From `WAIT` of the budget on, no new request is handled of the connections that hold most of what can be given
back, until what the others hold fits. What they were answered goes on being sent, and over HTTP/2 read from
them is what opens their windows; so each goes on as soon as it is no more among the heaviest, or has taken
what it was owed. One of them that takes less than `PACE` meanwhile is cut once the budget is spent, after
`PATIENCE_SECONDS`. Where all this is not enough, because answers already under way or events for a thousand
watches grow beyond twice the budget, the heaviest lose what they hold at once and are cut; an answer that was
made just now, and not sent yet, does not count there.

Only what reading gives back makes anybody wait (`Account.lasting` is the rest: HTTP/2 opens no new streams
for who has many of them, instead), and nobody waits who holds no more than an equal part of the mark: those
together cannot pass it.

Who has to wait is looked at again when the sum has moved by a part or a while has passed, and only while the
mark is passed or somebody waits, so that a charge costs a comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from netstore.limits import Account, Budget

WAIT: Final = 0.5
"""Part of the budget from which the heaviest wait."""

RELEASE: Final = 0.375
"""Part of the budget below which all go on at once."""

CUT: Final = 2.0
"""Times the budget beyond which the heaviest lose what they hold at once."""

FRESH: Final = 0.0625
"""Part of the budget that one may hold in what was made since it was sent to last, before that counts when
the heaviest are cut: 4 MiB of 64, an answer of v2 with the largest values before and after.
"""

PACE: Final = 64 * 1024
"""Bytes that one which waits has to take each second."""

PATIENCE_SECONDS: Final = 3
"""For how many seconds it may take less."""

_TOLD_EVERY: Final = 10.0
_CUT_TOLD_EVERY: Final = 1.0
_AGAIN_SECONDS: Final = 0.1
_AGAIN_PART: Final = 16


class Holder(Protocol):
    """The part of `connection.Connection` that is used here. Compared by identity."""

    account: Account
    left: int
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
        self._cut_from = self._cut
        """Bytes held from which the heaviest are looked for: not at each charge, should they be too few."""
        self._fresh = int(memory.limit * FRESH)
        self._held_back: dict[Holder, tuple[int, int]] = {}
        """What each had taken when it was looked at last, and for how many seconds it took too little."""
        self._looked_used = 0
        self._looked_at = self._told_at = self._cut_told_at = float("-inf")
        self._left_out = 0
        """Cuts that were not told of since the last that was: a line takes longer than a cut."""
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """How many connections are held back."""
        return len(self._held_back)

    def charged(self) -> None:
        """Something more is held. Makes room at once where it must; O(1) otherwise."""
        if self._memory.used > self._cut_from:
            self._doom_the_heaviest()
            self._cut_from = max(self._cut, self._memory.used + self._fresh)

    def look(self, now: float) -> None:
        """Once a round, and once a second: see who has to wait, and who does no longer. O(1) while nobody
        has to, and mostly else.
        """
        self._now = now
        self._cut_from = self._cut
        used = self._memory.used
        if used <= self._wait and not self._held_back:
            return
        if used <= self._release:
            self._let_go(list(self._held_back))
            return
        moved = abs(used - self._looked_used) * _AGAIN_PART > self._memory.limit
        if moved or now - self._looked_at >= _AGAIN_SECONDS:
            self._looked_used, self._looked_at = used, now
            self._hold_back(self._heaviest(used - self._wait), now)

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

    def _heaviest(self, excess: int) -> list[Holder]:
        """Whose answers have to be taken so that what is held is less by so much. Who waits already and holds
        more than its part goes on waiting though there is no excess, so that nobody is stopped and started
        again around the mark.
        """
        holders = self._holders()
        part = self._wait // max(len(holders), 1)
        heaviest = []
        # Most hold less than their part: these are not put in order, which for 10,000 would take 3 ms.
        large = [each for each in holders if each.account.held - each.account.lasting > part]
        for holder in sorted(large, key=_given_back, reverse=True):
            size = _given_back(holder)
            if excess > 0 or holder in self._held_back:
                heaviest.append(holder)
                excess -= size
        return heaviest

    def _hold_back(self, heaviest: list[Holder], now: float) -> None:
        """These wait, and nobody else."""
        self._let_go(list(self._held_back.keys() - set(heaviest)))
        new = [each for each in heaviest if each not in self._held_back]
        for holder in new:
            self._held_back[holder] = holder.taken, 0
            holder.hold_back(held=True)
        if new and now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            self._log.warning(
                "connections_held_back",
                principal=new[0].principal,
                bytes=new[0].account.held,
                connections=len(self._held_back),
                reason=f"client connections hold more than {self._wait} bytes, and these hold most of them",
                limit="memory_budget",
                held_by_all=self._memory.used,
                held_until=self._release,
                fix="read answers as they come, or raise memory_budget: an eighth of it is for connections",
            )

    def _let_go(self, holders: list[Holder]) -> None:
        for holder in holders:
            holder.hold_back(held=False)
            self._held_back.pop(holder, None)

    def _doom_the_heaviest(self) -> None:
        for holder in sorted(self._holders(), key=self._not_taken, reverse=True):
            if self._memory.used <= self._memory.limit or not holder.account.held:
                return
            self._drop(holder, "memory ran out and it held most")

    def _not_taken(self, holder: Holder) -> tuple[int, int]:
        """What it holds, without what could not be sent yet; then all that it holds."""
        held = holder.account.held
        return held - min(max(held - holder.left, 0), self._fresh), held

    def _drop(self, holder: Holder, reason: str) -> None:
        if self._now - self._cut_told_at >= _CUT_TOLD_EVERY:
            left_out, self._left_out, self._cut_told_at = self._left_out, 0, self._now
            self._log.warning(
                "connection_cut_for_memory",
                principal=holder.principal,
                bytes=holder.account.held,
                reason=reason,
                limit="memory_budget",
                left_out=left_out,
                fix="read answers as they come, or raise memory_budget",
            )
        else:
            self._left_out += 1
        self._held_back.pop(holder, None)
        holder.doom()


def _given_back(holder: Holder) -> int:
    """What it holds until it has read its answers."""
    return holder.account.held - holder.account.lasting
