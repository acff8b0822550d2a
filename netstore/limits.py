"""The memory budget: how many bytes the buffers of the process may hold, and who holds them.

A `Budget` is the limit of one kind of buffer, split into shares; an `Account` is what one owner holds of it:
a connection, or a stream between members. A buffer that grows with what somebody sends or asks for is charged
to an account while it is held; small fixed costs (a few KiB for each connection) are not. Nothing is refused
here: the owner of the accounts checks `Budget.over` and `Budget.spent`, pauses the heaviest, then cuts it.

Charges count the bytes in the buffers without Python's overhead for the objects; a table of many small
entries charges a fixed cost for each.

Work under way is aborted only by `spent`, which considers its own share alone: aborting it because of another
share would free hardly anything. By `over`, which considers the whole as well, somebody is paused, or nothing
new is begun.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST: Final = 64 << 20
"""Bytes of the smallest budget that a member can work with."""

LARGEST_DEFAULT: Final = 512 << 20
"""Bytes of the largest default budget: larger buffers only hide slow clients."""

PART_OF_MEMORY: Final = 8
"""The default budget is this fraction (1 / `PART_OF_MEMORY`) of the memory: the rest is for keys, history,
page cache and interpreter.
"""


class Budget:
    """Bytes that all accounts of one kind may hold together. The bytes of a `share` count here too."""

    __slots__ = ("limit", "parent", "promised", "used")

    def __init__(self, limit: int, parent: Budget | None = None) -> None:
        self.limit = limit
        """Bytes beyond which the budget is `spent`, and `over` if they are not promised."""
        self.parent = parent
        self.used = 0
        """Bytes that are held now."""
        self.promised = 0
        """How many of them are reserved for whole request bodies (`net.bodyadmission`): they are freed when
        those requests are done, and do not count for `over`.
        """

    def share(self, limit: int) -> Budget:
        """A part of this budget with a limit of its own; what it holds counts here too."""
        return Budget(limit, self)

    @property
    def spent(self) -> bool:
        """This budget holds more than its limit, whatever other shares of the same whole hold."""
        return self.used > self.limit

    @property
    def over(self) -> bool:
        """This budget, or one that it is a share of, holds more than its limit, not counting what is
        promised.
        """
        budget: Budget | None = self
        while budget is not None:
            if budget.used - budget.promised > budget.limit:
                return True
            budget = budget.parent
        return False

    def account(self, moved: Callable[[], object] | None = None) -> Account:
        """A new account. `moved` is called after each `charge`, until the account is closed; it may close the
        account.
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
    """What one owner holds of a budget. `close` frees everything; a closed account ignores all charges, and
    its figures stay 0.
    """

    __slots__ = ("_budget", "_closed", "_moved", "charged", "coming", "held", "lasting", "promised")

    def __init__(self, budget: Budget, moved: Callable[[], object] | None = None) -> None:
        self._budget = budget
        self._moved = moved
        self._closed = False
        self.held = 0
        """Bytes."""
        self.charged = 0
        """How many of them are not `promised`."""
        self.lasting = 0
        """How many of them are not freed by sending faster, such as open streams. Set by `charge`."""
        self.promised = 0
        """How many of them are reserved for request bodies that are being read or worked on, for their whole
        size (`net.bodyadmission`).
        """
        self.coming = 0
        """How many of those belong to bodies that are not complete: the owner must be read for them."""

    @property
    def spent(self) -> bool:
        """The budget is spent: its heaviest owner should be cut."""
        return self._budget.spent

    @property
    def over(self) -> bool:
        """The budget, or one that it is a share of, is over: its heaviest owner should be paused."""
        return self._budget.over

    def charge(self, size: int, lasting: int | None = None) -> None:
        """Hold so many bytes more; fewer when negative. With `lasting`, set how many of all are."""
        if not self._closed:
            if lasting is not None:
                self.lasting = lasting
            self.held += size
            self.charged += size
            self._budget.add(size)
            if self._moved is not None:
                self._moved()

    def promise(self, size: int, coming: int) -> None:
        """Reserve so many bytes more, `coming` of them for bodies that are not complete. Negative numbers
        free them, or say that they have arrived.
        """
        if not self._closed:
            self.held += size
            self.promised += size
            self.coming += coming
            self._budget.promise(size)

    def hold(self, size: int) -> None:
        """Set how many bytes are held."""
        self.charge(size - self.held)

    def release(self, size: int) -> None:
        """Hold so many bytes less."""
        self.charge(-size)

    def close(self) -> None:
        """Free everything that the owner held. May be called again."""
        self._closed = True
        self._moved = None
        self._budget.add(-self.charged)
        self._budget.promise(-self.promised)
        self.held = self.charged = self.lasting = self.promised = self.coming = 0


@dataclass(slots=True, frozen=True)
class Shares:
    """The budget of a member, and what it is split into. Each share may be used up whatever the others hold;
    together they are at most the whole.
    """

    whole: Budget
    clients: Budget
    """What client connections hold: requests not answered yet, and answers not sent yet."""
    peers: Budget
    """Frames from and to other members."""
    overlay: Budget
    """Changes of the state that the engine has not committed."""
    log: Budget
    """Entries of the log that are kept in memory."""
    copies: Budget
    """Pieces of snapshots and backups that are being transferred."""
    reads: Budget
    """Reads of v3 keys that are done in steps, with the rows that they sort."""
    walks: Budget
    """Listings of the v2 tree that are done in steps: nodes as they were when the request came."""

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
    """The budget of a process that may use so many bytes of memory, if none is configured."""
    return max(SMALLEST, min(memory // PART_OF_MEMORY, LARGEST_DEFAULT))
