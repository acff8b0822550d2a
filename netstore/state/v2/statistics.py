"""The operation counters of the v2 store (v2 API, `/v2/stats/store`)."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

REPLICATED: Final = (
    "sets_success",
    "sets_fail",
    "delete_success",
    "delete_fail",
    "update_success",
    "update_fail",
    "create_success",
    "create_fail",
    "compare_and_swap_success",
    "compare_and_swap_fail",
    "compare_and_delete_success",
    "compare_and_delete_fail",
    "expire_count",
)
"""The counters that are part of the replicated state, in the order they are stored."""

_replicated: Final[Callable[[object], tuple[int, ...]]] = attrgetter(*REPLICATED)


class Statistics(msgspec.Struct, gc=False):
    """Operations so far: writes are replicated state, the same on all members; reads are those of this member
    since it started.
    """

    gets_success: int = 0
    gets_fail: int = 0
    sets_success: int = 0
    sets_fail: int = 0
    delete_success: int = 0
    delete_fail: int = 0
    update_success: int = 0
    update_fail: int = 0
    create_success: int = 0
    create_fail: int = 0
    compare_and_swap_success: int = 0
    compare_and_swap_fail: int = 0
    compare_and_delete_success: int = 0
    compare_and_delete_fail: int = 0
    expire_count: int = 0

    def replicated(self) -> tuple[int, ...]:
        """The replicated counters, in the order of `REPLICATED`."""
        return _replicated(self)

    def restore(self, counts: tuple[int, ...]) -> None:
        """Set the replicated counters to stored ones, and those of reads to 0."""
        self.gets_success = self.gets_fail = 0
        for name, count in zip(REPLICATED, counts, strict=True):
            setattr(self, name, count)
