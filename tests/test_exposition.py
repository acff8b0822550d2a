"""The metrics of the process, which those of the store and of the agent share."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from netstore import exposition
from tests.support.patience import seconds

NAMES = {
    "process_cpu_seconds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
}


def test_the_process_began_before_now_and_after_the_machine() -> None:
    found = {family.name: family.samples[0].value for family in exposition.process()}
    assert found.keys() == NAMES
    now = time.time()
    booted = now - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert booted - 1 <= found["process_start_time_seconds"] <= now + 1


def test_what_cannot_be_read_leaves_out_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError

    monkeypatch.setattr(exposition, "open_descriptors", refuse)
    assert {family.name for family in exposition.process()} == NAMES - {"process_open_fds"}


@pytest.mark.root
def test_the_shipped_unit_hides_nothing_that_is_needed() -> None:
    """ProcSubset=pid: /proc has nothing but processes."""
    ask = "from netstore import exposition; print(*(family.name for family in exposition.process()))"
    script = (
        f'mount -t proc -o subset=pid proc /proc && test ! -e /proc/stat && exec "{sys.executable}" -c "$1"'
    )
    told = subprocess.run(
        ("unshare", "--mount", "sh", "-c", script, "sh", ask),
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds(30),
    )
    assert set(told.stdout.split()) == NAMES
