"""netstorectl can be interrupted at any time, without a traceback."""

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
        if name == "netstore.cli.commands.doctor":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
if {ignored}:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["netstorectl", "--version"]
{start}
"""


@pytest.mark.parametrize(
    "start",
    [
        "from netstore.cli import entry; entry.main()",
        "runpy.run_module('netstore.cli.entry', None, '__main__')",
    ],
)
@pytest.mark.parametrize(("ignored", "status"), [(False, -signal.SIGINT), (True, 0)])
def test_an_interrupt_while_the_command_is_loaded(ignored: bool, status: int, start: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING.format(ignored=ignored, start=start)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=seconds(30),
        check=False,
    )
    assert (told.returncode, told.stderr) == (status, "")
    assert bool(told.stdout) is ignored
