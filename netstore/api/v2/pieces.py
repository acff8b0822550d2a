"""Large answers: shown and sent in pieces, as the client takes them.

The work is a job of the member (`node.jobs`), so that others get their turn, and stops while the client does
not read; nothing is made before there is room for it.

What is still to be shown is held meanwhile, so there is a bound on it (`Answers`): one principal gets at most
half, and an answer whose client takes next to nothing for long is cut.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.admission import Admission
from netstore.api.v2.render import NODE_WORK, Rendering

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.net.exchange import Exchange
    from netstore.node.jobs import Jobs
    from netstore.seams import Clock

STEP_WORK: Final = 200 * NODE_WORK
"""Work of one step (`render.Part`), and one piece more: about a millisecond."""

STEP_BYTES: Final = 64 * 1024
"""Bytes made in one step, and one piece more."""

BACKLOG_BYTES: Final = 256 * 1024
"""Unsent bytes beyond which no more is made."""

LONGEST_PAUSE: Final = 60
"""Seconds that a client may take to make room for more, which is 192 KiB: 3 KiB a second."""


class Answers:
    """Answers of one kind of a member, which hold at most `most` together. Plain calls on the loop."""

    def __init__(self, jobs: Jobs, clock: Clock, most: int) -> None:
        self._jobs = jobs
        self._clock = clock
        self._places = Admission(most)
        self._paused: OrderedDict[Answer, float] = OrderedDict()
        """Those whose client has to take something first, and since when; the longest first."""

    def begin(
        self,
        exchange: Exchange,
        status: int,
        fields: bytes,
        rendering: Rendering,
        *,
        ready: bytes = b"",
        size: int = 1,
        endless: bool = False,
        stays_open: bool = False,
    ) -> Fault | None:
        """Send the head of the answer and take up the work; a fault, and nothing is sent, where there is too
        much other work. `ready` is what comes first and is made already, `size` what the answer holds;
        `stays_open` leaves the body open at the end.
        """
        self.cut_the_slow()
        principal = exchange.principal
        if not self._places.enter(principal, size):
            return errors.too_many()
        try:
            answer = Answer(exchange, rendering, self, ready=ready, size=size, stays_open=stays_open)
        except Exception:
            self._places.leave(principal, size)
            raise
        try:
            fault = self._jobs.start(principal, answer)
            if fault is None:
                exchange.begin(status, fields, endless=endless)
                exchange.on_gone(answer.cancel)
        except Exception:
            answer.cancel()
            raise
        if fault is not None:
            answer.cancel()
        return fault

    def cut_the_slow(self) -> None:
        """Cut the answers of clients that took too little for too long. O(those)."""
        limit = self._clock.monotonic() - LONGEST_PAUSE if self._paused else 0.0
        while self._paused:
            answer, since = next(iter(self._paused.items()))
            if since > limit:
                return
            answer.cut()

    def pause(self, answer: Answer) -> None:
        """Its client has to take something first."""
        self._paused[answer] = self._clock.monotonic()
        self._jobs.pause(answer)

    def resume(self, answer: Answer) -> None:
        """There is room again."""
        self._paused.pop(answer, None)
        self._jobs.resume(answer)

    def over(self, answer: Answer, principal: str, size: int) -> None:
        """It makes nothing more."""
        self._paused.pop(answer, None)
        self._jobs.cancel(answer)
        self._places.leave(principal, size)


class Answer:
    """One such answer. A `node.jobs.Job`."""

    def __init__(
        self,
        exchange: Exchange,
        rendering: Rendering,
        answers: Answers,
        *,
        ready: bytes,
        size: int,
        stays_open: bool,
    ) -> None:
        self._exchange = exchange
        self._principal = exchange.principal
        self._over = False
        self._rendering = rendering
        self._answers = answers
        self._ready = ready
        """What is made and not given to the exchange."""
        self._size = size
        self._stays_open = stays_open

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        exchange = self._exchange
        if self._pauses():
            return False
        data, self._ready = self._ready or self._rendering.more(STEP_WORK, STEP_BYTES), b""
        if data and not exchange.push(data):
            self.cancel()
            return True  # nobody reads it any more
        if self._rendering.over:
            self.cancel()
            if not self._stays_open:
                exchange.end()
            return True
        self._pauses()
        return False

    def failed(self, _: Exception) -> None:
        """See `node.jobs.Job`: an answer that was begun can only be cut."""
        self.cut()

    def cut(self) -> None:
        """Give the answer up half-way."""
        self.cancel()
        self._exchange.abort()

    def cancel(self) -> None:
        """Make no more of it."""
        if not self._over:
            self._over = True
            self._rendering = Rendering(iter(()))
            self._ready = b""
            self._answers.over(self, self._principal, self._size)

    def _pauses(self) -> bool:
        """Whether the client has to take something first, an answer before this one maybe."""
        if self._exchange.backlog <= BACKLOG_BYTES:
            return False
        self._answers.pause(self)
        if self._exchange.on_drained(self._resume):
            return True
        self._answers.resume(self)
        return False  # it is over: the next piece finds that out

    def _resume(self) -> None:
        if not self._over:
            self._answers.resume(self)
