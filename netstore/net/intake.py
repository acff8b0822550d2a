"""Which request bodies are read while memory is short: so many as have their whole size, one after another.

A body, or a message of gRPC, that has not come whole with its first bytes asks for all of its size (`Claim`),
and is read on only once it has it. What it got is kept free for it, so it is read whatever else is held, and
becomes complete: those that are read never wait for each other. Who is not admitted is not read, its time
does not run, and the buffers of the kernel hold what it sends. A body whose size nobody said asks for more as
it grows; where there is no more it gives up what it got, until it is its turn again.

Memory up to `MARK` is given to who asks first. Beyond it, up to the limit, one claim of each household is
admitted, so that nobody who sends much locks others out; and where none is admitted at all, the next one is
whatever others hold. Households take turns, within each the oldest is first. While somebody waits, who was
admitted has to send at `PACE`, or is given up after `PATIENCE_SECONDS`. Beyond `ROOM` of the memory in what
has come of bodies that wait, the next ones are refused, those of who has most that wait first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from netstore.admission import household

if TYPE_CHECKING:
    from netstore.limits import Account, Budget

MARK: Final = 0.5
"""Part of the budget up to which claims are admitted, with what else connections hold."""

ROOM: Final = 0.5
"""Part of the budget for what has come of bodies that wait."""

SMALL: Final = 16 * 1024
"""A claim of so few bytes is admitted at once: it is worth less than to wait."""

GROWTH: Final = 256 * 1024
"""What a body of unknown size asks for first; then four times what has come."""

PACE: Final = 64 * 1024
"""Bytes of a body that was admitted that have to come each second while others wait."""

PATIENCE_SECONDS: Final = 3
"""For how many seconds less may come."""

LOOKED_AT: Final = 64
"""Households that are looked at in one piece, and claims that are admitted in it."""

TOO_MANY: Final = b"too many large requests wait for memory; try again"
TOO_SLOW: Final = b"it came too slowly while others waited for memory"

_TOLD_EVERY: Final = 10.0
_COST: Final = 512


class Asker(Protocol):
    """Who reads the body. Neither call does more than to note it, and to ask for a turn."""

    def admitted(self) -> None:
        """It may be read now."""

    def given_up(self, status: int, reason: bytes) -> None:
        """It will not be read on: say so."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


class Crowded(Exception):  # noqa: N818 - named for what is so
    """No more can wait."""


class Claim:
    """The memory that one body asks for, or has. Compared by identity."""

    __slots__ = (
        "_came",
        "account",
        "asker",
        "came",
        "household",
        "kept",
        "principal",
        "size",
        "slow",
        "wanted",
    )

    def __init__(self, account: Account, principal: str, asker: Asker) -> None:
        self.account = account
        self.principal = principal
        self.household = household(principal)
        self.asker: Asker | None = asker
        """None once it has come whole."""
        self.size = 0
        """Bytes that it has: charged to the account, whatever of them has come. 0: it waits, or is over."""
        self.wanted = 0
        self.kept = 0
        """What has come of it, while it waits, with what it costs to wait."""
        self.came = 0
        """Bytes that have come; whoever reads them says so."""
        self._came = 0
        self.slow = 0

    @property
    def granted(self) -> bool:
        """It may be read."""
        return self.size > 0

    def is_slow(self) -> bool:
        """Once a second: too little has come, for too long."""
        self.slow = self.slow + 1 if self.came - self._came < PACE else 0
        self._came = self.came
        return self.slow >= PATIENCE_SECONDS


class Intake:
    """The claims of all connections."""

    def __init__(self, memory: Budget, log: Log) -> None:
        self._memory = memory
        self._log = log
        self._mark = int(memory.limit * MARK)
        self._room = int(memory.limit * ROOM)
        self._granted: dict[Claim, None] = {}
        """Those that have more than `SMALL`."""
        self._active: dict[str, int] = {}
        """How many of them each household has."""
        self._lines: OrderedDict[str, OrderedDict[Claim, None]] = OrderedDict()
        """Those that wait, by household."""
        self.waiting = 0
        """How many wait."""
        self._kept = 0
        self._told_at = float("-inf")
        self._now = 0.0

    def ask(self, claim: Claim, size: int, kept: int) -> bool:
        """It wants so many bytes in all, and has so many already. False: it waits. Raises Crowded."""
        more = size - claim.size
        alone = len(self._granted) == 1 and claim in self._granted
        free = not self._lines and self._memory.used + more <= self._mark
        if size <= SMALL or free or alone or not (self._granted or self._lines):
            self._grant(claim, size)
            return True
        grows = claim.granted
        self._take_back(claim)
        kept += _COST
        if self._kept + kept > self._room and not self._make_room(claim):
            raise Crowded
        claim.wanted, claim.kept = size, kept
        line = self._lines.setdefault(claim.household, OrderedDict())
        line[claim] = None
        if grows:
            line.move_to_end(claim, last=False)
        self.waiting += 1
        self._kept += claim.kept
        self._tell(claim)
        self._admit(claim)
        return claim.granted

    def whole(self, claim: Claim) -> None:
        """All of it has come. It keeps what it has until it is released."""
        claim.asker = None

    def release(self, claim: Claim) -> None:
        """It is over. May be called again."""
        claim.asker = None
        if claim.size:
            self._take_back(claim)
        elif claim.wanted:
            self._leave(claim)
        if self._lines:
            self._admit(None)

    def look(self, now: float) -> None:
        """Once a round, and once a second: see who is next. O(1) while nobody waits."""
        self._now = now
        if self._lines:
            self._admit(None)

    def sweep(self) -> None:
        """Once a second, while somebody waits: give up who sends too slowly. O(claims that are admitted)."""
        if not self._lines:
            return
        for claim in list(self._granted):
            asker = claim.asker
            if asker is not None and claim.is_slow():
                self.release(claim)
                asker.given_up(408, TOO_SLOW)

    # --- inside

    def _admit(self, asking: Claim | None) -> None:
        """Admit the first ones of the households in their turn, as far as memory goes."""
        lines, memory = self._lines, self._memory
        full = False
        for name in [name for name, _ in zip(lines, range(LOOKED_AT), strict=False)]:
            claim = next(iter(lines[name]))
            used = memory.used + claim.wanted
            fits = not full and used <= self._mark
            full = full or not fits
            if fits or not self._granted or (used <= memory.limit and not self._active.get(name)):
                size = claim.wanted
                self._leave(claim)
                if name in lines:
                    lines.move_to_end(name)
                self._grant(claim, size)
                if claim is not asking and claim.asker is not None:
                    claim.asker.admitted()

    def _grant(self, claim: Claim, size: int) -> None:
        more = size - claim.size
        claim.account.charge(more)
        claim.account.promised += more
        claim.size = size
        claim.slow = 0
        if size > SMALL and claim not in self._granted:
            self._granted[claim] = None
            self._active[claim.household] = self._active.get(claim.household, 0) + 1

    def _take_back(self, claim: Claim) -> None:
        claim.account.charge(-claim.size)
        claim.account.promised -= claim.size
        claim.size = 0
        if claim in self._granted:
            del self._granted[claim]
            self._active[claim.household] -= 1
            if not self._active[claim.household]:
                del self._active[claim.household]

    def _leave(self, claim: Claim) -> None:
        line = self._lines[claim.household]
        del line[claim]
        if not line:
            del self._lines[claim.household]
        self.waiting -= 1
        self._kept -= claim.kept
        claim.wanted = 0

    def _make_room(self, claim: Claim) -> bool:
        """Refuse the newest of the household of which most wait; False where that is this one's."""
        lines = self._lines
        if not lines:
            return False
        name = max(lines, key=lambda each: len(lines[each]))
        if len(lines[name]) <= len(lines.get(claim.household, ())) + 1:
            return False
        last = next(reversed(lines[name]))
        self._leave(last)
        asker, last.asker = last.asker, None
        if asker is not None:
            asker.given_up(503, TOO_MANY)
        return True

    def _tell(self, claim: Claim) -> None:
        if self._now - self._told_at < _TOLD_EVERY:
            return
        self._told_at = self._now
        self._log.warning(
            "requests_wait_for_memory",
            principal=claim.principal,
            bytes=claim.wanted,
            requests=self.waiting,
            reason=f"requests under way and what else connections hold have {self._mark} bytes together",
            limit="memory_budget",
            held_by_all=self._memory.used,
            fix="send fewer large requests at once, or raise memory_budget (an eighth is for clients)",
        )
