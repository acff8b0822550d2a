"""Each program can be interrupted at any time, without a traceback, however it is called."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import seconds

INTERRUPTED_WHILE_LOADING: Final = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{part}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
if {ignored}:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["program", "--version"]
{start}
"""

PROGRAMS: Final = {
    "netstorectl": ("netstore.cli.netstorectl", "netstore.cli.commands.doctor"),
    "netstored": ("netstore.cli.netstored", "netstore.ops.layers"),
    "netstore_agent": ("netstore.cli.agent", "netstore.ops.layers"),
    "netstore_cni": ("netstore.cni.plugin", "netstore.cni.delegate"),
}
"""The module of each entry point, and one that it imports."""


@pytest.mark.parametrize("way", ["entry.{point}()", "runpy.run_module('{module}', None, '__main__')"])
@pytest.mark.parametrize("point", PROGRAMS)
@pytest.mark.parametrize(("ignored", "status"), [(False, -signal.SIGINT), (True, 0)])
def test_an_interrupt_while_a_program_is_loaded(ignored: bool, status: int, point: str, way: str) -> None:
    module, part = PROGRAMS[point]
    start = f"from netstore import entry\n{way.format(point=point, module=module)}"
    told = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING.format(part=part, ignored=ignored, start=start)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=seconds(30),
        check=False,
    )
    assert (told.returncode, told.stderr) == (status, "")
    assert bool(told.stdout) is ignored
