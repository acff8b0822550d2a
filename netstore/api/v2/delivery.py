"""Large answers are rendered and sent in steps, at the pace of their client.

A `Delivery` is a job of the member (`node.jobs`). It pauses while much of what was sent is not yet taken by
the client; nothing is rendered before there is room for it. What is still to be rendered is kept in memory
meanwhile, so its amount is bounded (`Deliveries`): one principal gets at most half, and the answer of a
client that takes next to nothing for long is cut.
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
"""Work of one step (`render.Part`), give or take one part: about a millisecond."""

STEP_BYTES: Final = 64 * 1024
"""Bytes rendered in one step, give or take one part."""

BACKLOG_BYTES: Final = 256 * 1024
"""Unsent bytes at which a delivery pauses."""

LONGEST_PAUSE: Final = 60
"""Seconds within which a client has to make room for more, which is 192 KiB: 3 KiB a second."""


class Deliveries:
    """Deliveries of one kind of a member. Together they hold at most `most`. Plain calls on the loop."""

    def __init__(self, jobs: Jobs, clock: Clock, most: int) -> None:
        self._jobs = jobs
        self._clock = clock
        self._places = Admission(most)
        self._paused: OrderedDict[Delivery, float] = OrderedDict()
        """Deliveries that wait for their client, and since when; the longest pause first."""

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
        """Send the head of an answer and begin its delivery. Returns a fault, and sends nothing, if there is
        too much other work.

        `ready` is the beginning of the body, which is rendered already; `size` is what the answer holds;
        `stays_open` leaves the body open at the end.
        """
        self.cut_slow()
        principal = exchange.principal
        if not self._places.enter(principal, size):
            return errors.too_many()
        try:
            delivery = Delivery(exchange, rendering, self, ready=ready, size=size, stays_open=stays_open)
        except Exception:
            self._places.leave(principal, size)
            raise
        try:
            fault = self._jobs.start(principal, delivery)
            if fault is None:
                exchange.begin(status, fields, endless=endless)
                exchange.on_gone(delivery.cancel)
        except Exception:
            delivery.cancel()
            raise
        if fault is not None:
            delivery.cancel()
        return fault

    def cut_slow(self) -> None:
        """Cut the answers whose clients made no room for too long. O(those)."""
        limit = self._clock.monotonic() - LONGEST_PAUSE if self._paused else 0.0
        while self._paused:
            delivery, since = next(iter(self._paused.items()))
            if since > limit:
                return
            delivery.cut()

    def pause(self, delivery: Delivery) -> None:
        """Its client has to take data first."""
        self._paused[delivery] = self._clock.monotonic()
        self._jobs.pause(delivery)

    def resume(self, delivery: Delivery) -> None:
        """There is room again."""
        self._paused.pop(delivery, None)
        self._jobs.resume(delivery)

    def over(self, delivery: Delivery, principal: str, size: int) -> None:
        """It renders nothing more."""
        self._paused.pop(delivery, None)
        self._jobs.cancel(delivery)
        self._places.leave(principal, size)


class Delivery:
    """One such answer. A `node.jobs.Job`."""

    def __init__(
        self,
        exchange: Exchange,
        rendering: Rendering,
        deliveries: Deliveries,
        *,
        ready: bytes,
        size: int,
        stays_open: bool,
    ) -> None:
        self._exchange = exchange
        self._principal = exchange.principal
        self._over = False
        self._rendering = rendering
        self._deliveries = deliveries
        self._ready = ready
        """Rendered, and not pushed yet."""
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
            return True  # the connection is gone
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
        """Abort the answer half-way."""
        self.cancel()
        self._exchange.abort()

    def cancel(self) -> None:
        """Render nothing more."""
        if not self._over:
            self._over = True
            self._rendering = Rendering(iter(()))
            self._ready = b""
            self._deliveries.over(self, self._principal, self._size)

    def _pauses(self) -> bool:
        """Whether the client has to take data first; maybe that of an earlier answer on the connection."""
        if self._exchange.backlog <= BACKLOG_BYTES:
            return False
        self._deliveries.pause(self)
        if self._exchange.on_drained(self._resume):
            return True
        self._deliveries.resume(self)
        return False  # the answer is over, which the next push finds out

    def _resume(self) -> None:
        if not self._over:
            self._deliveries.resume(self)
