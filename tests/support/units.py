"""What pytest-xdist hands to a worker at a time: one test, or all tests of a file that share a store.

Its own mark for groups does not serve: version 3.8 writes the group into a name that pytest 9.2 does not read
any more, so that every worker started every store.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sized
    from pathlib import Path

SHARED: Final = 'scope="module"'

WAITING: Final = "tests/process/"
"""Tests of this folder mostly wait, for daemons and for time to pass; most others need a core all along."""

SPREAD: Final = 0.8
"""The part of the others beside which they run: what runs at the end is short."""


@cache
def shares(file: Path) -> bool:
    """The tests of this file have something in common, by a fixture of its own or of its folder."""
    return any(SHARED in each.read_text() for each in (file, file.with_name("conftest.py")) if each.exists())


def mixed(units: Mapping[str, Sized]) -> list[str]:
    """An order in which tests that wait run beside tests that compute, so that no core is idle. `units` are
    unit -> its tests; of either kind the order stays.
    """
    waiting = [unit for unit in units if unit.startswith(WAITING)]
    others = [unit for unit in units if not unit.startswith(WAITING)]

    def places(kind: list[str], end: float) -> Iterator[tuple[float, str]]:
        sizes = [0, *accumulate(len(units[unit]) for unit in kind)]
        return ((end * size / sizes[-1], unit) for size, unit in zip(sizes, kind, strict=False))

    return [
        unit for _, unit in sorted((*places(waiting, SPREAD), *places(others, 1.0)), key=lambda each: each[0])
    ]


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]  # see above
    """Hands out units in the order of the collection, but those of many tests first, and those that wait
    beside the others.
    """

    workqueue: OrderedDict[str, dict[str, bool]]

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if shares(self.config.rootpath / path) else nodeid

    def schedule(self) -> None:
        """Hand out the first units; those that are left are mixed."""
        super().schedule()
        self.workqueue = OrderedDict((unit, self.workqueue[unit]) for unit in mixed(self.workqueue))

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Forget a unit that is done: xdist looks through all that a worker has had after each test."""
        unit = self._split_scope(self.registered_collections[node][item_index])
        tests = self.assigned_work[node][unit]
        super().mark_test_complete(node, item_index, duration)
        if all(tests.values()):
            del self.assigned_work[node][unit]
