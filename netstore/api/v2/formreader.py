"""Large forms are decoded in steps before their request is carried out.

The work is a job of the member (`node.jobs`), and counts for the load of its connection. It ends if the
connection is lost. The form is kept in memory meanwhile, so the amount of forms being decoded is bounded.
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
"""Bytes of forms that are being decoded; what they are decoded to is at most as much again."""

WORK_SECONDS: Final = 1e-8
"""Seconds that a unit of decoding work counts for the load of a connection."""


class FormReaders:
    """The forms of a member that are being decoded. Plain calls on the loop."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._places = Admission(MOST_HELD)

    def begin(self, exchange: Exchange, done: Callable[[Parameters | Fault], None]) -> None:
        """Decode the form of a request. `done` gets its parameters, or a Fault if it is wrong or there is too
        much other work; it is called before this returns if that is little work.
        """
        reader = FormReader(exchange, done, self)
        if reader.step():
            return  # in a turn of the connection, which is charged for it
        principal, size = exchange.principal, len(exchange.request.body)
        if not self._places.enter(principal, size):
            reader.refuse()
        elif self._jobs.start(principal, reader) is not None:
            self._places.leave(principal, size)
            reader.refuse()
        else:
            reader.started = True
            exchange.defer(reader.cancel)

    def over(self, reader: FormReader, principal: str, size: int) -> None:
        """A form is not decoded any more."""
        self._jobs.cancel(reader)
        self._places.leave(principal, size)


class FormReader:
    """Decodes one form. A `node.jobs.Job`."""

    def __init__(
        self, exchange: Exchange, done: Callable[[Parameters | Fault], None], readers: FormReaders
    ) -> None:
        self._exchange = exchange
        self._principal = exchange.principal
        self._size = len(exchange.request.body)
        self._done = done
        self._readers = readers
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
        """Stop decoding."""
        if self.started:
            self.started = False
            self._pieces.close()
            self._readers.over(self, self._principal, self._size)
