"""The entry points of the programs, however they are called: the modules take a while to load, and who
interrupts a program meanwhile ends it as any other, without a traceback.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import NoReturn


def netstored() -> NoReturn:
    """Run netstored."""
    _run("netstore.cli.netstored")


def netstore_agent() -> NoReturn:
    """Run netstore-agent."""
    _run("netstore.cli.agent")


def netstorectl() -> NoReturn:
    """Run netstorectl."""
    _run("netstore.cli.netstorectl")


def netstore_cni() -> NoReturn:
    """Run netstore-cni, which an interrupt ends at any time: what it leaves, another run can use."""
    _run("netstore.cni.plugin", handles_interrupts=False)


def _run(module: str, *, handles_interrupts: bool = True) -> NoReturn:
    """Load a program and run its `main`. An interrupt (SIGINT) ends the process by its signal until all is
    loaded, and to the end if the program does not handle KeyboardInterrupt.
    """
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored by some callers
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = importlib.import_module(module)
    if is_usual and handles_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(program.main())
