"""Feature levels: which commands a cluster may use.

Every command belongs to a level; `LEVELS` lists those that are not of the first. The level of a cluster is
replicated and rises when every member knows the next one; until then no command of that level is proposed.
"""

from __future__ import annotations

from typing import Final

LEVEL: Final = 2
"""The highest feature level that this release knows."""

LEVELS: Final[dict[int, int]] = {22: 2, 23: 2, 24: 2}
"""Number of a command -> the feature level that introduced it, if that is not the first."""

MAX_LEVEL: Final = 2**16 - 1
