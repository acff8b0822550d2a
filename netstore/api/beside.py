"""Work that takes too long for the loop: checks against JSON Schemas, one at a time, each in a process of its
own that is killed when it takes too long.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.errors import INVALID_FIELD, Fault, failed, too_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Log

    Work = Callable[[], Fault | None]
    Done = Callable[[Fault | None], None]

MOST_WAITING: Final = 8
"""Pieces of work that may wait for their turn, with the one that is under way."""

PROCESSOR_SECONDS: Final = 3.0
"""Of a processor, for one piece of work; what the process takes to start does not count."""

WAITED_SECONDS: Final = 15.0
"""After which a process is killed in any case."""

_PROGRAM: Final = "from netstore.api.beside import work_for_parent; work_for_parent()"

_TOO_LONG: Final = Fault(
    INVALID_FIELD, b"schema: checking takes too much time; make the schema, or the section, simpler"
)


class Beside:
    """Runs work beside the loop. `call_soon` makes a call on the loop, from any thread."""

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], log: Log) -> None:
        self._call_soon = call_soon
        self._log = log
        self._waiting: deque[tuple[Work, Done]] = deque()

    def run(self, work: Work, done: Done) -> None:
        """Call `work`, which can be pickled, in another process, in the order of the calls; `done` gets its
        result on the loop. If too much waits, `done` gets a Fault before this returns. If `work` takes too
        long, `done` gets a Fault that says so; if it raises, that is logged, and `done` gets a Fault.
        """
        if len(self._waiting) >= MOST_WAITING:
            done(too_many())
            return
        self._waiting.append((work, done))
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        threading.Thread(target=self._work, args=self._waiting[0], name="schema", daemon=True).start()

    def _work(self, work: Work, done: Done) -> None:
        outcome: Fault | None
        try:
            outcome = _in_process(work)
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            self._call_soon(partial(self._log.error, "schema_not_checked", error=repr(error)))
            outcome = failed()
        self._call_soon(partial(self._finish, outcome, done))

    def _finish(self, outcome: Fault | None, done: Done) -> None:
        self._waiting.popleft()
        if self._waiting:
            self._begin()
        done(outcome)


def _in_process(work: Work) -> Fault | None:
    """The result of `work`, called in a process with the bounds above. RuntimeError if it raised."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-P", "-c", _PROGRAM],
            input=pickle.dumps(work),
            capture_output=True,
            timeout=WAITED_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _TOO_LONG
    if ended.returncode in (-signal.SIGPROF, -signal.SIGKILL):
        return _TOO_LONG
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").splitlines() or [f"status {ended.returncode}"]
        raise RuntimeError(lines[-1][:300])
    found = msgspec.json.decode(ended.stdout)
    return None if found is None else Fault(found[0], found[1].encode())


def work_for_parent() -> None:
    """The child process: call what the parent wrote to standard input, and write the result, which is null or
    the number and the cause of a fault.
    """
    work = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
    from jsonschema import Draft202012Validator  # noqa: F401, PLC0415 - what it takes does not count as work

    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)  # its signal ends the process
    fault = work()
    told = None if fault is None else (fault.code, fault.cause.decode("utf-8", "replace"))
    sys.stdout.buffer.write(msgspec.json.encode(told))
