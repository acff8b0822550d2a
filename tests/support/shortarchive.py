"""netstored whose archive may be kept for seconds instead of hours: what retention does by the real clock, in
the time of a test.
"""

from __future__ import annotations

import sys

from netstore.cli import netstored
from netstore.node import archive
from netstore.ops import store

store.SHORTEST_ARCHIVE = 1  # type: ignore[misc]  # a constant of the program
archive.RETENTION_SECONDS = 0.5  # type: ignore[misc]  # same

if __name__ == "__main__":
    sys.exit(netstored.main())
