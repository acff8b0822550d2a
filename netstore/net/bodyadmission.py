"""Admission control for request bodies: which ones are read while memory is short.

A body, or a message of gRPC, that does not arrive completely with its first bytes asks for memory for its
whole size (`Claim`) and is read on only when it has it. That memory is reserved: the body is read whatever
else is held, and becomes complete, so admitted bodies never wait for each other. A connection whose body
is not admitted is not read; its time limits do not run, and the kernel's buffers hold what it sends. A
body of unknown size asks for more as it grows; if there is no more, it returns what it has and waits.

Memory up to `MARK` is given in order of arrival. Beyond it, up to the limit, each household gets one
claim, or several that have `FEW` of it together, so that a client that sends much cannot lock out others.
And if no claim of more than `SMALL` bytes is admitted, or none at all, the next one is admitted whatever
others hold. So at most the budget and one body are promised in all. Households take candidates, and within
one the oldest claim is first. Once a household that has nothing admitted has waited for `STARVATION_SECONDS`,
memory is reserved for it: claims admitted before it leave what it needs, so it is admitted when the current
ones are done. While others wait, an admitted body must arrive at `PACE`, or is given up
after `PATIENCE_SECONDS`. When what has arrived of waiting bodies exceeds `ROOM` of the memory, further
ones are refused, those of the household with most bytes first.

Returning memory is O(1), however many claims are returned at once: the next ones are admitted by `step`,
at the end of each round, and slow ones are searched for in pieces.
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
"""Part of the budget up to which claims are admitted, together with everything else that connections hold."""

ROOM: Final = 0.5
"""Part of the budget for what has arrived of waiting bodies."""

SMALL: Final = 16 * 1024
"""HTTP/2 streams do not ask for so few bytes: they are charged as they arrive."""

FEW: Final = 1 / 32
"""Part of the budget that a household may have, beyond the mark, in several claims: small writes of one
client proceed in parallel.
"""

GROWTH: Final = 256 * 1024
"""Bytes that a body of unknown size asks for first; then four times what has arrived."""

STARVATION_SECONDS: Final = 3.0
"""How long others may be admitted before a request that waits; then memory is reserved for the request that
has waited longest.
"""

PACE: Final = 64 * 1024
"""Bytes of an admitted body that must arrive each second while others wait."""

PATIENCE_SECONDS: Final = 3
"""How many seconds in a row fewer may arrive."""

LOOKED_AT: Final = 64
"""Households that are examined in one piece, and claims that are admitted in it."""

REFUSED_AT_ONCE: Final = 256
"""Most claims that are refused to make room for one: a millisecond."""

TOO_MANY: Final = b"too many large requests wait for memory; try again"
TOO_SLOW: Final = b"it came too slowly while others waited for memory"

_LOG_SECONDS: Final = 10.0
_COST: Final = 512


class Owner(Protocol):
    """The connection of the body."""

    @property
    def account(self) -> Account:
        """Where the bytes that it holds are charged; it is closed by its opener."""

    @property
    def principal(self) -> str:
        """See `Exchange.principal`."""

    @property
    def unread(self) -> float | None:
        """When something was last read, if the connection is not read for now for a reason of ours, such
        as waiting for its turn; None while it is read.
        """

    def cut(self) -> None:
        """Close now; what is queued is lost."""


class Asker(Protocol):
    """The codec that reads the body. Both methods only take a note and ask for a turn. What one raises
    cuts its connection and concerns no other.
    """

    def admitted(self) -> None:
        """It may be read now."""

    def given_up(self, status: int, reason: bytes) -> None:
        """It will not be read on: answer with this status."""


class QueueFull(Exception):  # noqa: N818 - named for what is so
    """No more claims can wait."""


class Claim:
    """The memory that one body asks for, or has. Compared by identity."""

    __slots__ = (
        "_received",
        "_unread",
        "asker",
        "household",
        "kept",
        "owner",
        "received",
        "since",
        "size",
        "slow",
        "wanted",
    )

    def __init__(self, owner: Owner, asker: Asker) -> None:
        self.owner = owner
        self.household = household(owner.principal)
        self.asker: Asker | None = asker
        """None once the body is complete."""
        self.size = 0
        """Bytes that it has: charged to the account, whatever has arrived. 0 if it waits or is over."""
        self.wanted = 0
        self.kept = 0
        """Bytes that have arrived while it waits, with an overhead for waiting."""
        self.since = 0.0
        """When it began to wait."""
        self.received = 0
        """Bytes that have arrived; kept up to date by the codec."""
        self._received = 0
        self._unread: float | None = None
        self.slow = 0

    @property
    def granted(self) -> bool:
        """The body may be read."""
        return self.size > 0

    def is_slow(self) -> bool:
        """Called once a second: whether too little has arrived for too long. A second in which the
        connection was not read does not count; if it waits for its turn and was read once, half of the
        pace is enough.
        """
        unread = self.owner.unread
        if unread is not None and unread == self._unread:
            return False
        self._unread = unread
        least = PACE if unread is None else PACE // 2
        self.slow = self.slow + 1 if self.received - self._received < least else 0
        self._received = self.received
        return self.slow >= PATIENCE_SECONDS


class _Queue:
    """The waiting claims of one household, the next one first."""

    __slots__ = ("claims", "kept")

    def __init__(self) -> None:
        self.claims: OrderedDict[Claim, None] = OrderedDict()
        self.kept = 0
        """Bytes that have arrived for all of them."""


class BodyAdmission:
    """The claims of all connections. `wake` requests a call of `step` soon."""

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
        """Household -> bytes that its claims have."""
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        """Household -> its waiting claims."""
        self._most: BucketQueue[str] = BucketQueue()
        """Households by what has arrived for their waiting claims."""
        self.owed = 0
        """Bytes of memory reserved for the request that has waited longest."""
        self.waiting = 0
        """How many claims wait."""
        self._kept = 0
        self._sweeping: Iterator[None] | None = None
        """The search for slow bodies that is under way."""
        self.looking = False
        """A search is not finished: the next `step` continues it."""
        self._logged_at = float("-inf")
        self.now = 0.0
        """Monotonic seconds: the reactor's `now`, which sets it in each round."""

    def ask(self, claim: Claim, size: int, kept: int) -> bool:
        """Ask for `size` bytes in all; `kept` bytes have arrived. False if it must wait. Raises QueueFull."""
        more = size - claim.size
        used = self._memory.used + more
        if (
            (self._large == 1 and claim.size > SMALL)  # the only one, and it grows
            or (not self._queues and (used <= self._mark or self._is_first(size)))
            or (claim.household not in self._queues and self._has_part(claim.household, more, used))
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
        claim.wanted, claim.kept, claim.since = size, kept, self.now
        queue = self._queues.get(claim.household)
        if queue is None:
            queue = self._queues[claim.household] = _Queue()
        queue.claims[claim] = None
        if grows:
            queue.claims.move_to_end(claim, last=False)
        queue.kept += kept
        self._most.put(claim.household, queue.kept)
        self.waiting += 1
        self._kept += kept
        if self.now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = self.now
            guarded(_log_failed, self._log_waiting, claim)
        self._wake()
        return False

    def completed(self, claim: Claim) -> None:
        """The body is complete. It keeps its memory until it is released."""
        if claim.asker is not None:
            claim.asker = None
            claim.owner.account.promise(0, -claim.size)

    def release(self, claim: Claim) -> None:
        """Return the memory, or stop waiting. May be called again. O(1)."""
        if claim.size:
            self._take_back(claim)
        elif claim.wanted:
            self._leave(claim)
        claim.asker = None
        if self._queues:
            self._wake()

    def step(self, now: float) -> None:
        """Called once a round in which a claim waits, memory is reserved (`owed`) or a search is `looking`,
        and once a second: admit the next claims. O(1) while none waits.
        """
        self.now = now
        if self._sweeping is not None:
            self._sweeping = run_steps(self._sweeping)
        self.owed = 0
        more = bool(self._queues) and self._admit()
        self.looking = more or self._sweeping is not None

    def sweep(self) -> None:
        """Called once a second: while claims wait, give up bodies that arrive too slowly. Does one piece
        of that; `step` does the rest.
        """
        if self._queues and self._sweeping is None:
            self._sweeping = run_steps(self._give_up_slow())
            self.looking = self.looking or self._sweeping is not None

    # --- inside

    def _admit(self) -> bool:
        """Admit the first claim of each household in turn, as far as there is memory. Whether there may be
        more to admit.
        """
        queues, memory = self._queues, self._memory
        candidates = deque(islice(queues, LOOKED_AT))
        full = False
        for _ in range(LOOKED_AT):
            if not candidates:
                return False
            name = candidates.popleft()
            if name not in queues:
                continue
            claim = next(iter(queues[name].claims))
            size = claim.wanted
            used = memory.used + size
            fits = not full and used <= self._mark
            full = full or not fits
            if fits or self._is_first(size) or self._has_part(name, size, used):
                self._leave(claim)
                if name in queues:
                    queues.move_to_end(name)
                    candidates.append(name)
                self._grant(claim, size)
                if claim.asker is not None:
                    self._call(claim, claim.asker.admitted)
            elif not self.owed and name not in self._active and self.now - claim.since >= STARVATION_SECONDS:
                self.owed = size
            elif name in self._active and len(queues) > LOOKED_AT:
                queues.move_to_end(name)  # those behind it that have none are to be examined
        return bool(candidates)

    def _is_first(self, size: int) -> bool:
        """A claim of this size is admitted in any case, because no other is."""
        return not (self._large if size > SMALL else self._granted)

    def _has_part(self, name: str, more: int, used: int) -> bool:
        """Whether a household may have `more` bytes beyond the mark, if `used` bytes are used then in all.
        What is reserved for the request that has waited longest is not theirs; but small ones need not wait
        for a large one, because a large one is admitted however many small ones there are.
        """
        active = self._active.get(name, 0)
        owed = 0 if more <= SMALL < self.owed else self.owed
        return used + owed <= self._memory.limit and (not active or active + more <= self._few)

    def _give_up_slow(self) -> Iterator[None]:
        for claim in list(self._granted):
            asker = claim.asker
            if asker is not None and claim.size and claim.is_slow() and self._queues:
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
        queue = self._queues[claim.household]
        del queue.claims[claim]
        queue.kept -= claim.kept
        self._most.put(claim.household, queue.kept)
        if not queue.claims:
            del self._queues[claim.household]
        self.waiting -= 1
        self._kept -= claim.kept
        claim.wanted = 0

    def _make_room(self, claim: Claim, kept: int) -> bool:
        """Refuse the newest claim of the household with most bytes waiting; False if that would be this
        claim's own household, with what it asks for now.
        """
        name = self._most.heaviest
        if name is None:
            return False
        queue, own = self._queues[name], self._queues.get(claim.household)
        if queue.kept <= (0 if own is None else own.kept) + kept:
            return False
        last = next(reversed(queue.claims))
        self._leave(last)
        asker, last.asker = last.asker, None
        if asker is not None:
            self._call(last, asker.given_up, 503, TOO_MANY)
        return True

    def _call(self, claim: Claim, call: Callable[..., None], *arguments: object) -> None:
        """Call the codec of another connection than the one whose turn it is: an exception ends the
        connection that it concerns.
        """
        if not guarded(self._failed, call, *arguments):
            guarded(self._failed, claim.owner.cut)

    def _failed(self, fault: Exception) -> None:
        self._log.warning("connection_failed", error=repr(fault))

    def _log_waiting(self, claim: Claim) -> None:
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


def _log_failed(_: Exception) -> None:
    """Logging failed, mostly because memory is exhausted; what was to be logged is done in any case."""
