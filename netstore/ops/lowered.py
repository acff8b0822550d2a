"""Settings of which a member uses less than was asked for, and why: for its start and `--check-config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.limits import Shares, default_budget
from netstore.ops.memory import usable_memory
from netstore.raft.entry import MAX_DATA_BYTES

if TYPE_CHECKING:
    from netstore.ops.store import StoreConfig

LARGEST_REQUEST: Final = MAX_DATA_BYTES - (1 << 20)
"""Bytes of the largest write, whatever the memory budget is: an entry of the log holds it and what is around
it.
"""

MOST_TXN_OPS: Final = 65_536
"""Operations in each list of a transaction, whatever is set: decoding them takes about half a second of the
loop.
"""


class Lowered(NamedTuple):
    """A setting of which less is used than was asked for."""

    setting: str
    asked: int
    used: int
    reason: str
    """Why, and what to do for more, if anything can be done."""

    def __str__(self) -> str:
        return f"{self.setting}: {self.asked} is lowered to {self.used}: {self.reason}"


class Bounded:
    """What a member uses of the settings that the program or the memory of this machine bounds. Reads a few
    small files of the kernel.
    """

    def __init__(self, config: StoreConfig) -> None:
        self.lowered: list[Lowered] = []
        """In the order of the settings."""
        self.shares = Shares.of(config.memory_budget or default_budget(usable_memory()))
        """The memory budget."""
        share = self.shares.log.limit
        reason = (
            "no entry of the log is larger"
            if share > LARGEST_REQUEST
            else "that is a quarter of the memory budget: for more set memory_budget"
        )
        asked = config.max_request_bytes
        self.request_bytes = self._bounded("max_request_bytes", asked, min(LARGEST_REQUEST, share), reason)
        reason = "decoding more would hold all other requests for too long"
        self.txn_ops = self._bounded("max_txn_ops", config.max_txn_ops, MOST_TXN_OPS, reason)

    def _bounded(self, setting: str, asked: int, most: int, reason: str) -> int:
        if asked > most:
            self.lowered.append(Lowered(setting, asked, most, reason))
        return min(asked, most)
