"""How much memory this process may use: what its limits and its control group allow, or what the machine has.

Read from files of the kernel (cgroups(7), proc_meminfo(5)). A limit of version 2 counts at every level of the
hierarchy, one of version 1 is looked for at the process's own place and at the root, where a container sees
its own. What cannot be read is no limit.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNKNOWN: Final = 1 << 30
"""Bytes that are assumed where the kernel tells nothing."""


PART_OF_SPACE: Final = 3
"""Of limited address space one in so many parts is taken for memory: the others are the map of the state, and
what threads reserve without using it.
"""


def usable_memory(root: Path = Path("/"), limit: Callable[[int], tuple[int, int]] | None = None) -> int:
    """Bytes of memory this process may use. Reads a few small files below `root`; `limit` gives the soft and
    the hard limit of a resource (getrlimit(2)).
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
    """What a file says; 0 for no limit, which version 1 writes as a number beyond any memory."""
    number = int(text) if text.strip().isdigit() else 0
    return number if number < 1 << 60 else 0
