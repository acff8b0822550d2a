"""netstored, which tells what Python's collector of cycles finds in it.

`python -m tests.support.garbage` takes the words of netstored.

At each SIGUSR1 it writes what was found since the last one to the file that the variable `TOLD_IN` names: a
JSON object of the type of an object -> how many there were. Everything counts that was part of a cycle, or
kept by one, and that nobody referred to any more, however young or old.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.cli import netstored
from tests.support.patience import until

if TYPE_CHECKING:
    from types import FrameType

    from tests.support.daemon import Daemon

PROGRAM: Final = "tests.support.garbage"
"""What is run in the place of netstored."""

TOLD_IN: Final = "GARBAGE_TOLD_IN"


def found(daemon: Daemon) -> Counter[str]:
    """Ask a process for what it found since it was asked last. Waits until no more is on its way there."""
    path = Path(daemon.environment[TOLD_IN])
    path.unlink(missing_ok=True)
    daemon.process.send_signal(signal.SIGUSR1)
    until(path.exists, "it tells what it found")
    return Counter(json.loads(path.read_text()))


def watched(command: tuple[str, ...]) -> tuple[str, ...]:
    """The same words, for a process that can be asked."""
    return tuple(PROGRAM if word == netstored.__name__ else word for word in command)


def _tell(_number: int, _frame: FrameType | None) -> None:
    gc.unfreeze()
    gc.collect()  # puts what it finds into gc.garbage, as each collection before it did
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.garbage.clear()
    gc.set_debug(0)
    gc.unfreeze()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    path = Path(os.environ[TOLD_IN])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(types))
    draft.rename(path)


def main() -> int:
    """Run netstored. What was found before it was asked first is not told."""
    signal.signal(signal.SIGUSR1, _tell)
    return netstored.main()


if __name__ == "__main__":
    sys.exit(main())
