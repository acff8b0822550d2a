"""How much memory this process may use: the least of its resource limits, the limits of its control groups,
and the memory of the machine.

Read from files of the kernel (cgroups(7), proc_meminfo(5)). With cgroups version 2, limits at all levels of
the hierarchy count; with version 1, those of the process's own group and of the root, where a container finds
its own. A file that cannot be read is no limit.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNKNOWN: Final = 1 << 30
"""Bytes to assume if nothing can be read."""

PART_OF_SPACE: Final = 3
"""Divides a limit on address space (RLIMIT_AS): the rest is for the memory map of the state, and for stacks
and arenas of threads, which are reserved and mostly not used.
"""


def usable_memory(root: Path = Path("/"), limit: Callable[[int], tuple[int, int]] | None = None) -> int:
    """Bytes of memory that this process may use. Reads a few small files below `root`; `limit` returns the
    soft and the hard limit of a resource (getrlimit(2)).
    """
    own = _own(limit or resource.getrlimit)
    found = [size for size in (_machine(root), *own, *_limits(root)) if size]
    return min(found, default=UNKNOWN)


def _own(limit: Callable[[int], tuple[int, int]]) -> Iterator[int]:
    for kind, part in ((resource.RLIMIT_AS, PART_OF_SPACE), (resource.RLIMIT_DATA, 1)):
        soft, _ = limit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft // part


def _machine(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return 1024 * _number(line.split()[1])
    return 0


def _limits(root: Path) -> Iterator[int]:
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = (*line.split(":", 2), "", "")[:3]
        path = Path(place.lstrip("/"))
        if not controllers:
            for level in (path, *path.parents):
                yield _number(_text(groups / level / "memory.max"))
        elif "memory" in controllers.split(","):
            for level in (path, Path()):
                yield _number(_text(groups / "memory" / level / "memory.limit_in_bytes"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int:
    """The number in a file; 0 for no limit, which version 1 writes as a number larger than any memory."""
    number = int(text) if text.strip().isdigit() else 0
    return number if number < 1 << 60 else 0
