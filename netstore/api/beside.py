"""Work that takes too long for the loop, in threads: checks against JSON Schemas."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault, failed, too_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Log

MOST_WAITING: Final = 8
"""Pieces of work that may be under way at a time; each has a thread."""


class Beside:
    """Runs work beside the loop. `call_soon` makes a call on the loop, from any thread."""

    def __init__(self, call_soon: Callable[[Callable[[], object]], None], log: Log) -> None:
        self._call_soon = call_soon
        self._log = log
        self._waiting = 0

    def run(self, work: Callable[[], Fault | None], done: Callable[[Fault | None], None]) -> None:
        """Call `work` in a thread; `done` gets its result on the loop. If too much is under way, `done` gets
        a Fault before this returns; if `work` raises, that is logged, and `done` gets a Fault.
        """
        if self._waiting >= MOST_WAITING:
            done(too_many())
            return
        self._waiting += 1
        threading.Thread(target=self._work, args=(work, done), name="schema", daemon=True).start()

    def _work(self, work: Callable[[], Fault | None], done: Callable[[Fault | None], None]) -> None:
        outcome: Fault | None
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            self._call_soon(partial(self._log.error, "schema_not_checked", error=repr(error)))
            outcome = failed()
        self._call_soon(partial(self._finish, outcome, done))

    def _finish(self, outcome: Fault | None, done: Callable[[Fault | None], None]) -> None:
        self._waiting -= 1
        done(outcome)
