"""Large forms: read in pieces before the request takes its place among others.

The work is a job of the member (`node.jobs`) and counts for the load of the connection that it is done for.
It ends when the connection is lost. What is read is held meanwhile, so there is a bound on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.admission import Admission
from netstore.api.v2.form import PIECE_BYTES, parameters_in_pieces
from netstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.v2.form import Parameters
    from netstore.net.exchange import Exchange
    from netstore.node.jobs import Jobs

MOST_HELD: Final = 64 * 1024 * 1024
"""Bytes of forms that are being read; what they are decoded to is as much again at most."""

WORK_SECONDS: Final = 1e-8
"""Seconds that a unit of the work of a piece counts for a load."""


class Readings:
    """The forms of a member that are being read. Plain calls on the loop."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._places = Admission(MOST_HELD)

    def begin(self, exchange: Exchange, done: Callable[[Parameters | Fault], None]) -> None:
        """Read what the request asks for; `done` gets it, or the Fault of what is wrong with it, before this
        returns where that is little work. A Fault too where there is too much other work.
        """
        reading = Reading(exchange, done, self)
        if reading.step():
            return  # in a turn of the connection, by which it is charged
        principal, size = exchange.principal, len(exchange.request.body)
        if not self._places.enter(principal, size):
            reading.refuse()
        elif self._jobs.start(principal, reading) is not None:
            self._places.leave(principal, size)
            reading.refuse()
        else:
            reading.started = True
            exchange.defer(reading.cancel)

    def over(self, reading: Reading, principal: str, size: int) -> None:
        """It is not read any more."""
        self._jobs.cancel(reading)
        self._places.leave(principal, size)


class Reading:
    """One such form. A `node.jobs.Job`."""

    def __init__(
        self, exchange: Exchange, done: Callable[[Parameters | Fault], None], readings: Readings
    ) -> None:
        self._exchange = exchange
        self._principal = exchange.principal
        self._size = len(exchange.request.body)
        self._done = done
        self._readings = readings
        self._pieces = parameters_in_pieces(exchange.request)
        self.started = False
        """It has a place among the jobs."""

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        outcome: Parameters | Fault
        work = 0
        try:
            while work < PIECE_BYTES:
                work += next(self._pieces)
        except StopIteration as end:
            outcome = end.value
        except Fault as fault:
            outcome = fault
        else:
            self._charge(work)
            return False
        self._charge(work)
        self.cancel()
        self._done(outcome)
        return True

    def failed(self, _: Exception) -> None:
        """See `node.jobs.Job`."""
        self.cancel()
        self._exchange.abort()

    def refuse(self) -> None:
        """There is too much other work."""
        self._done(errors.too_many())

    def _charge(self, work: int) -> None:
        if self.started:
            self._exchange.worked(work * WORK_SECONDS)

    def cancel(self) -> None:
        """Read no more of it."""
        if self.started:
            self.started = False
            self._pieces.close()
            self._readings.over(self, self._principal, self._size)
