"""The memory budget: how many bytes the buffers of the process may hold, and who holds them.

A `Budget` is one number for a whole kind of buffer, split into shares for its parts; an `Account` belongs to
whoever causes the bytes, a connection or a stream between members. A buffer that grows with what somebody
sends, or asks for, is charged to an account while it is held; what is small and counted elsewhere (a few KiB
that a connection has whatever it does) is not. Nothing is refused here: whoever owns the accounts looks at
`Budget.over` and `Budget.spent` and lets the heaviest wait, then go.

Charges count what the buffers hold, without the interpreter's own cost for the objects around them; a table
of many small things charges a fixed cost for each.

What is under way is given up by `spent`, what its own share holds, alone: given up because another share
holds too much, it would give back nothing to speak of. By `over` somebody waits, or nothing new is begun.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST: Final = 64 << 20
"""Bytes of the least budget that a member can work with."""

LARGEST_DEFAULT: Final = 512 << 20
"""Bytes beyond which the budget that nobody chose does not grow: larger buffers only hide who is slow."""

PART_OF_MEMORY: Final = 8
"""The budget that nobody chose is one in so many bytes of the memory: the rest is for the keys, the history,
the page cache and the interpreter.
"""


class Budget:
    """Bytes that all accounts of one kind may hold together. `share` makes a part that counts in it too."""

    __slots__ = ("limit", "parent", "promised", "used")

    def __init__(self, limit: int, parent: Budget | None = None) -> None:
        self.limit = limit
        """Bytes beyond which the budget is `over`."""
        self.parent = parent
        self.used = 0
        """Bytes that are held now."""
        self.promised = 0
        """How many of them were given to requests for all of their size (`net.intake`): they come back when
        those are done; nobody waits, or is cut, for them.
        """

    def share(self, limit: int) -> Budget:
        """A part of this budget with a limit of its own: what it holds is held here too."""
        return Budget(limit, self)

    @property
    def spent(self) -> bool:
        """More is held here than may be, whatever other shares of the same whole hold."""
        return self.used > self.limit

    @property
    def over(self) -> bool:
        """More is held than may be, beside what was promised, here or in what this is a share of."""
        budget: Budget | None = self
        while budget is not None:
            if budget.used - budget.promised > budget.limit:
                return True
            budget = budget.parent
        return False

    def account(self, moved: Callable[[], object] | None = None) -> Account:
        """An account for one more owner; it holds nothing yet. `moved` is called after each change of what it
        holds beside what was promised, wherever that is charged, until the account is closed; from within it
        the account may be closed.
        """
        return Account(self, moved)

    def add(self, size: int) -> None:
        """So many bytes more (fewer, when negative) are held. O(depth of shares), which is two or three."""
        budget: Budget | None = self
        while budget is not None:
            budget.used += size
            budget = budget.parent

    def promise(self, size: int) -> None:
        """So many bytes more (fewer, when negative) are held, and promised."""
        budget: Budget | None = self
        while budget is not None:
            budget.used += size
            budget.promised += size
            budget = budget.parent


class Account:
    """What one owner holds of a budget. `close` gives everything back; a closed account takes no more, and
    all of its figures stay 0 whatever is said to it.
    """

    __slots__ = ("_budget", "_closed", "_moved", "coming", "held", "lasting", "promised")

    def __init__(self, budget: Budget, moved: Callable[[], object] | None = None) -> None:
        self._budget = budget
        self._moved = moved
        self._closed = False
        self.held = 0
        """Bytes."""
        self.lasting = 0
        """How many of them stay however fast the owner takes what it is owed: its open streams, say. Whoever
        charges them says so with `charge`.
        """
        self.promised = 0
        """How many were given to requests that are being read, or worked on, for all of their size
        (`net.intake`).
        """
        self.coming = 0
        """How many of those are for requests that have not come whole: the owner is to be read for them."""

    @property
    def spent(self) -> bool:
        """The budget is spent: who holds most of it should go."""
        return self._budget.spent

    @property
    def over(self) -> bool:
        """The budget is spent, or what it is a share of: who holds most should wait."""
        return self._budget.over

    def charge(self, size: int, lasting: int | None = None) -> None:
        """So many bytes more are held; negative gives bytes back. With `lasting`, so many of all are."""
        if not self._closed:
            if lasting is not None:
                self.lasting = lasting
            self.held += size
            self._budget.add(size)
            if self._moved is not None:
                self._moved()

    def promise(self, size: int, coming: int) -> None:
        """So many bytes more are held as promised, so many of them for requests that have not come whole;
        negative gives bytes back, or says that they have come.
        """
        if not self._closed:
            self.held += size
            self.promised += size
            self.coming += coming
            self._budget.promise(size)

    def hold(self, size: int) -> None:
        """So many bytes are held now, whatever it was before."""
        self.charge(size - self.held)

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        self.charge(-size)

    def close(self) -> None:
        """The owner is gone, and with it everything it held. May be called again."""
        self._closed = True
        self._moved = None
        self._budget.add(self.promised - self.held)
        self._budget.promise(-self.promised)
        self.held = self.lasting = self.promised = self.coming = 0


@dataclass(slots=True, frozen=True)
class Shares:
    """The budget of a member, and what it is split into. Each share may be used up whatever the others hold;
    together they are at most the whole.
    """

    whole: Budget
    clients: Budget
    """What client connections hold: requests not answered yet, and answers not taken yet."""
    peers: Budget
    """Frames from and to other members."""
    overlay: Budget
    """Changes of the state that the engine has not committed."""
    log: Budget
    """Entries of the log that are kept in memory."""
    copies: Budget
    """Pieces of state copies and backups under way."""
    reads: Budget
    """Reads of the v3 keys that are done in steps, with the rows that they sort."""
    walks: Budget
    """Lists of the v2 tree that are done in steps: nodes as they were when it was asked for them."""

    @property
    def parts(self) -> dict[str, Budget]:
        """The shares by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "whole"}

    @classmethod
    def of(cls, size: int) -> Shares:
        """The shares of a budget of so many bytes."""
        whole = Budget(size)
        return cls(
            whole,
            clients=whole.share(size // 8),
            peers=whole.share(size // 4),
            overlay=whole.share(size // 8),
            log=whole.share(size // 4),
            copies=whole.share(size // 8),
            reads=whole.share(size * 3 // 32),
            walks=whole.share(size // 32),
        )


def default_budget(memory: int) -> int:
    """The budget for a process that may use so many bytes of memory, where nobody chose one."""
    return max(SMALLEST, min(memory // PART_OF_MEMORY, LARGEST_DEFAULT))
