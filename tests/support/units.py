"""What pytest-xdist hands to a worker at a time: one test, or all tests of a file that share a store.

Its own mark for groups does not serve: version 3.8 writes the group into a name that pytest 9.2 does not read
any more, so that every worker started every store.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

if TYPE_CHECKING:
    from pathlib import Path

SHARED: Final = 'scope="module"'


@cache
def shares(file: Path) -> bool:
    """The tests of this file have something in common, by a fixture of its own or of its folder."""
    return any(SHARED in each.read_text() for each in (file, file.with_name("conftest.py")) if each.exists())


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]  # see above
    """Hands out units in the order of the collection, those of many tests first."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if shares(self.config.rootpath / path) else nodeid

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Forget a unit that is done: xdist looks through all that a worker has had after each test."""
        unit = self._split_scope(self.registered_collections[node][item_index])
        tests = self.assigned_work[node][unit]
        super().mark_test_complete(node, item_index, duration)
        if all(tests.values()):
            del self.assigned_work[node][unit]
