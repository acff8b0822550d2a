"""Which request bodies are read while memory is short: so many as have their whole size, one after another.

A body, or a message of gRPC, that has not come whole with its first bytes asks for all of its size (`Claim`),
and is read on only once it has it. What it got is kept free for it, so it is read whatever else is held, and
becomes complete: those that are read never wait for each other. Who is not admitted is not read, its time
does not run, and the buffers of the kernel hold what it sends. A body whose size nobody said asks for more as
it grows; where there is no more it gives up what it got, until it is its turn again.

Memory up to `MARK` is given to who asks first. Beyond it, up to the limit, one claim of each household is
admitted, or so many as have `FEW` of it together, so that nobody who sends much locks others out; and where
none of more than `SMALL` bytes is admitted, or none at all, the next one is whatever others hold. So what is
promised to all is never more than the budget and one body. Households take turns, within each the oldest is
first. Who has none of it admitted and has waited for `PASSED_SECONDS` is passed over no more: what is
admitted before it leaves the memory that it asks for, so it comes when those that are read are done. While
somebody waits, who was admitted has to send at `PACE`, or is given up after `PATIENCE_SECONDS`.
Beyond `ROOM` of the memory in what has come of bodies that wait, the next ones are refused, those of the
household that has most bytes of it first.

To give back is O(1), however many are given back at once: who is next is seen by the looks, at the end of
each round, and who is too slow in pieces.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from netstore.admission import household
from netstore.guard import guarded
from netstore.net.bucketqueue import BucketQueue
from netstore.net.incremental import run_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.limits import Account, Budget
    from netstore.seams import Log

MARK: Final = 0.5
"""Part of the budget up to which claims are admitted, with what else connections hold."""

ROOM: Final = 0.5
"""Part of the budget for what has come of bodies that wait."""

SMALL: Final = 16 * 1024
"""A stream does not ask for so few bytes: what has come of them is charged."""

FEW: Final = 1 / 32
"""Part of the budget that a household may have, beyond the mark, in several claims: small writes go on
beside each other.
"""

GROWTH: Final = 256 * 1024
"""What a body of unknown size asks for first; then four times what has come."""

PASSED_SECONDS: Final = 3.0
"""For how long others may be admitted before who is first, though they take what it would need."""

PACE: Final = 64 * 1024
"""Bytes of a body that was admitted that have to come each second while others wait."""

PATIENCE_SECONDS: Final = 3
"""For how many seconds less may come."""

LOOKED_AT: Final = 64
"""Households that are looked at in one piece, and claims that are admitted in it."""

REFUSED_AT_ONCE: Final = 256
"""Claims that are refused at most to make room for one: a millisecond."""

TOO_MANY: Final = b"too many large requests wait for memory; try again"
TOO_SLOW: Final = b"it came too slowly while others waited for memory"

_TOLD_EVERY: Final = 10.0
_COST: Final = 512


class Owner(Protocol):
    """The connection on which the body comes."""

    @property
    def account(self) -> Account:
        """Where the bytes it keeps are charged; closed by who opened it."""

    @property
    def principal(self) -> str:
        """Who is at the other end; see `Exchange.principal`."""

    @property
    def unread(self) -> float | None:
        """When something was read of the connection last, where nothing is read for now, for whatever reason
        of ours: also because it waits for its turn. None while it is read.
        """

    def cut(self) -> None:
        """Close now; what is queued to be sent is lost."""


class Asker(Protocol):
    """Who reads the body. Neither call does more than to note it, and to ask for a turn. What one raises cuts
    its connection and concerns nobody else.
    """

    def admitted(self) -> None:
        """It may be read now."""

    def given_up(self, status: int, reason: bytes) -> None:
        """It will not be read on: say so."""


class QueueFull(Exception):  # noqa: N818 - named for what is so
    """No more can wait."""


class Claim:
    """The memory that one body asks for, or has. Compared by identity."""

    __slots__ = (
        "_came",
        "_unread",
        "asker",
        "came",
        "household",
        "kept",
        "owner",
        "since",
        "size",
        "slow",
        "wanted",
    )

    def __init__(self, owner: Owner, asker: Asker) -> None:
        self.owner = owner
        self.household = household(owner.principal)
        self.asker: Asker | None = asker
        """None once it has come whole."""
        self.size = 0
        """Bytes that it has: charged to the account, whatever of them has come. 0: it waits, or is over."""
        self.wanted = 0
        self.kept = 0
        """What has come of it, while it waits, with what it costs to wait."""
        self.since = 0.0
        """Since when it waits."""
        self.came = 0
        """Bytes that have come; whoever reads them says so."""
        self._came = 0
        self._unread: float | None = None
        self.slow = 0

    @property
    def granted(self) -> bool:
        """It may be read."""
        return self.size > 0

    def is_slow(self) -> bool:
        """Once a second: too little has come, for too long. A second in which nothing was read of its
        connection does not count; where that stands in line and was read once, half of the pace is enough.
        """
        unread = self.owner.unread
        if unread is not None and unread == self._unread:
            return False
        self._unread = unread
        least = PACE if unread is None else PACE // 2
        self.slow = self.slow + 1 if self.came - self._came < least else 0
        self._came = self.came
        return self.slow >= PATIENCE_SECONDS


class _Line:
    """The claims of one household that wait, the next one first."""

    __slots__ = ("claims", "kept")

    def __init__(self) -> None:
        self.claims: OrderedDict[Claim, None] = OrderedDict()
        self.kept = 0
        """What has come of all of them."""


class BodyAdmission:
    """The claims of all connections. `wake` asks for a look soon, whatever else there is to do."""

    def __init__(self, memory: Budget, log: Log, wake: Callable[[], object] = lambda: None) -> None:
        self._memory = memory
        self._log = log
        self._wake = wake
        self._mark = int(memory.limit * MARK)
        self._few = int(memory.limit * FEW)
        self._room = int(memory.limit * ROOM)
        self._granted: dict[Claim, None] = {}
        self._large = 0
        """How many of them have more than `SMALL`."""
        self._active: dict[str, int] = {}
        """How many bytes of them each household has."""
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        """Those that wait, by household."""
        self._most: BucketQueue[str] = BucketQueue()
        """Households by what has come of those."""
        self._owed = 0
        """Bytes that the first of those wants which was passed over for long: others leave them to it."""
        self.waiting = 0
        """How many wait."""
        self._kept = 0
        self._sweeping: Iterator[None] | None = None
        """It is being found out who is too slow."""
        self.looking = False
        """A look is not over: the next one goes on with it."""
        self._told_at = float("-inf")
        self._now = 0.0

    def ask(self, claim: Claim, size: int, kept: int) -> bool:
        """It wants so many bytes in all, and has so many already. False: it waits. Raises QueueFull."""
        more = size - claim.size
        used = self._memory.used + more
        if (
            (self._large == 1 and claim.size > SMALL)  # it is the only one, and grows
            or (not self._lines and (used <= self._mark or self._is_first(size)))
            or (claim.household not in self._lines and self._has_part(claim.household, more, used))
        ):
            self._grant(claim, size)
            return True
        grows = claim.granted
        if grows:
            self._take_back(claim)
        kept += _COST
        refused = 0
        while self._kept + kept > self._room:
            if refused == REFUSED_AT_ONCE or not self._make_room(claim, kept):
                raise QueueFull
            refused += 1
        claim.wanted, claim.kept, claim.since = size, kept, self._now
        line = self._lines.get(claim.household)
        if line is None:
            line = self._lines[claim.household] = _Line()
        line.claims[claim] = None
        if grows:
            line.claims.move_to_end(claim, last=False)
        line.kept += kept
        self._most.put(claim.household, line.kept)
        self.waiting += 1
        self._kept += kept
        if self._now - self._told_at >= _TOLD_EVERY:
            self._told_at = self._now
            guarded(_lost, self._tell, claim)
        self._wake()
        return False

    def whole(self, claim: Claim) -> None:
        """All of it has come. It keeps what it has until it is released."""
        if claim.asker is not None:
            claim.asker = None
            claim.owner.account.promise(0, -claim.size)

    def release(self, claim: Claim) -> None:
        """It is over. May be called again. O(1)."""
        if claim.size:
            self._take_back(claim)
        elif claim.wanted:
            self._leave(claim)
        claim.asker = None
        if self._lines:
            self._wake()

    def look(self, now: float) -> None:
        """Once a round, and once a second: see who is next. O(1) while nobody waits."""
        self._now = now
        if self._sweeping is not None:
            self._sweeping = run_steps(self._sweeping)
        self._owed = 0
        more = bool(self._lines) and self._admit()
        self.looking = more or self._sweeping is not None

    def sweep(self) -> None:
        """Once a second: while somebody waits, give up who sends too slowly. A piece of it; the looks go on
        with it.
        """
        if self._lines and self._sweeping is None:
            self._sweeping = run_steps(self._give_up_slow())
            self.looking = self.looking or self._sweeping is not None

    # --- inside

    def _admit(self) -> bool:
        """Admit the first ones of the households in their turn, as far as memory goes. Whether there may be
        more.
        """
        lines, memory = self._lines, self._memory
        turns = deque(islice(lines, LOOKED_AT))
        full = False
        for _ in range(LOOKED_AT):
            if not turns:
                return False
            name = turns.popleft()
            if name not in lines:
                continue
            claim = next(iter(lines[name].claims))
            size = claim.wanted
            used = memory.used + size
            fits = not full and used <= self._mark
            full = full or not fits
            if fits or self._is_first(size) or self._has_part(name, size, used):
                self._leave(claim)
                if name in lines:
                    lines.move_to_end(name)
                    turns.append(name)
                self._grant(claim, size)
                if claim.asker is not None:
                    self._call(claim, claim.asker.admitted)
            elif not self._owed and name not in self._active and self._now - claim.since >= PASSED_SECONDS:
                self._owed = size
            elif name in self._active and len(lines) > LOOKED_AT:
                lines.move_to_end(name)  # who stands behind it, and has none, is to be seen
        return bool(turns)

    def _is_first(self, size: int) -> bool:
        """One of this size is admitted whatever is held, because no other is."""
        return not (self._large if size > SMALL else self._granted)

    def _has_part(self, name: str, more: int, used: int) -> bool:
        """A household may have so many bytes more beyond the mark, when so many are used in all. To who is
        first and was passed over for long is left what it wants, but for small ones beside a large one: it is
        admitted whatever of those there are.
        """
        active = self._active.get(name, 0)
        owed = 0 if more <= SMALL < self._owed else self._owed
        return used + owed <= self._memory.limit and (not active or active + more <= self._few)

    def _give_up_slow(self) -> Iterator[None]:
        for claim in list(self._granted):
            asker = claim.asker
            if asker is not None and claim.size and claim.is_slow() and self._lines:
                self.release(claim)
                self._call(claim, asker.given_up, 408, TOO_SLOW)
            yield

    def _grant(self, claim: Claim, size: int) -> None:
        more = size - claim.size
        claim.owner.account.promise(more, 0 if claim.asker is None else more)
        self._large += (size > SMALL) - (claim.size > SMALL)
        self._active[claim.household] = self._active.get(claim.household, 0) + more
        self._granted[claim] = None
        claim.size = size
        claim.slow = 0

    def _take_back(self, claim: Claim) -> None:
        size, claim.size = claim.size, 0
        claim.owner.account.promise(-size, 0 if claim.asker is None else -size)
        self._large -= size > SMALL
        self._active[claim.household] -= size
        if not self._active[claim.household]:
            del self._active[claim.household]
        del self._granted[claim]

    def _leave(self, claim: Claim) -> None:
        line = self._lines[claim.household]
        del line.claims[claim]
        line.kept -= claim.kept
        self._most.put(claim.household, line.kept)
        if not line.claims:
            del self._lines[claim.household]
        self.waiting -= 1
        self._kept -= claim.kept
        claim.wanted = 0

    def _make_room(self, claim: Claim, kept: int) -> bool:
        """Refuse the newest of the household of which most waits; False where that is this one's, with what
        it asks for now.
        """
        name = self._most.heaviest
        if name is None:
            return False
        line, own = self._lines[name], self._lines.get(claim.household)
        if line.kept <= (0 if own is None else own.kept) + kept:
            return False
        last = next(reversed(line.claims))
        self._leave(last)
        asker, last.asker = last.asker, None
        if asker is not None:
            self._call(last, asker.given_up, 503, TOO_MANY)
        return True

    def _call(self, claim: Claim, call: Callable[..., None], *arguments: object) -> None:
        """Tell somebody in the turn of somebody else: what that raises ends the connection it concerns."""
        if not guarded(self._failed, call, *arguments):
            guarded(self._failed, claim.owner.cut)

    def _failed(self, fault: Exception) -> None:
        self._log.warning("connection_failed", error=repr(fault))

    def _tell(self, claim: Claim) -> None:
        self._log.warning(
            "requests_wait_for_memory",
            principal=claim.owner.principal,
            bytes=claim.wanted,
            requests=self.waiting,
            reason=f"requests under way and what else connections hold have {self._mark} bytes together",
            limit="memory_budget",
            held_by_all=self._memory.used,
            fix="send fewer large requests at once, or raise memory_budget (an eighth is for clients)",
        )


def _lost(_: Exception) -> None:
    """A line could not be written, for want of memory most often: what it tells of is so all the same."""
