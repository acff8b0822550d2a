"""The memory a process may use, from files as kernels write them."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from netstore.ops.memory import UNKNOWN, usable_memory

if TYPE_CHECKING:
    from pathlib import Path

MEMINFO = "MemTotal:       16000000 kB\nMemFree:          1000 kB\n"
MACHINE = 16_000_000 * 1024
NO_LIMIT_OF_V1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, UNKNOWN),
        ({"proc/meminfo": MEMINFO}, MACHINE),
        ({"proc/meminfo": "what is this"}, UNKNOWN),
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n"}, MACHINE),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "500000000\n",
            },
            500_000_000,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "900000000000\n",
            },
            MACHINE,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "300000000\n",
            },
            300_000_000,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "400000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_OF_V1,
            },
            400_000_000,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "4:cpu,memory:/not/seen/here\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "200000000\n",
            },
            200_000_000,
        ),
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "nonsense\n::\n"}, MACHINE),
    ],
)
def test_the_least_of_all_limits_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_memory(tmp_path, unlimited) == expected


def unlimited(_kind: int) -> tuple[int, int]:
    return resource.RLIM_INFINITY, resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("kind", "expected"), [(resource.RLIMIT_AS, 100 << 20), (resource.RLIMIT_DATA, 300 << 20)]
)
def test_limits_of_the_process_count(tmp_path: Path, kind: int, expected: int) -> None:
    def limited(asked: int) -> tuple[int, int]:
        return (300 << 20, resource.RLIM_INFINITY) if asked == kind else unlimited(asked)

    assert usable_memory(tmp_path, limited) == expected


def test_this_machine_tells_something() -> None:
    assert usable_memory() > 1 << 20
