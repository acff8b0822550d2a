"""Large answers are delivered in steps, at the pace of their client.

A `Delivery` is a job (`node.jobs`) that pushes the answer of one call piece by piece. It pushes no more than
the client's windows let through, and pauses while they are closed or enough data of its connection is unsent
(`Call.window_left`). So an answer of a gigabyte holds a few hundred KiB.

A client that does not read would keep its delivery forever. `Deliveries` checks all of them periodically and
gives up those whose client is too slow (`Pace`): the pace at which it takes what is ready is judged, not the
duration of the whole, so a slow client with a large answer gets it. A delivery that prevents compaction from
erasing history has a time limit as well (`HELD_SECONDS`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from netstore import codes, errors
from netstore.api.v3.status import end, refuse
from netstore.errors import Reason

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Member
    from netstore.seams import After, Clock

PACE_BYTES: Final = 192 * 1024
PACE_SECONDS: Final = 60.0
"""A client has to take this many bytes of an answer (or its rest) within this time of waiting for it: 3 KiB a
second, as for a v2 list.
"""

HELD_SECONDS: Final = 300.0
"""For how long a delivery may prevent compaction from erasing what it still needs, however fast the client
is: everything compacted since would stay on the disk. Counted from the first check (`CHECK_SECONDS`) after
the compaction.
"""

CHECK_SECONDS: Final = 15.0
"""How often deliveries are checked for slow clients, and for holding back compaction too long."""

CHECKED_AT_ONCE: Final = 100
"""Deliveries checked in one piece of work; giving one up takes 20 us."""

MOST_BYTES: Final = 2**31 - 1
"""Size of the largest answer; clients accept no larger one, as with etcd."""

_TOO_LONG: Final = "grpc: trying to send message larger than max ({} vs. {})"


def refuse_too_long(call: Call, size: int) -> bool:
    """Refuse a call if its answer is larger than clients accept; whether it was."""
    if size <= MOST_BYTES:
        return False
    call.finish(codes.RESOURCE_EXHAUSTED, _TOO_LONG.format(size, MOST_BYTES))
    return True


class Pace:
    """How fast a client takes the data that is ready for it. Only the time in which the delivery waits for
    the client counts, not the time in which data is read or the job waits for its turn. Monotonic seconds.
    """

    __slots__ = ("_since", "_taken", "_waited")

    def __init__(self) -> None:
        self._taken = 0
        """Bytes taken in the current period. A period ends with `PACE_BYTES`."""
        self._waited = 0.0
        """Time waited for the client in the current period, before `_since`."""
        self._since: float | None = None
        """Since when the delivery waits for the client now."""

    def wait(self, now: float) -> None:
        """There is no room: the client has to take data first."""
        self._since = now

    def resume(self, now: float) -> None:
        """There is room."""
        if self._since is not None:
            self._waited += now - self._since
            self._since = None

    def take(self, size: int) -> None:
        """This many more bytes found room."""
        self._taken += size
        if self._taken >= PACE_BYTES:
            self._taken = 0
            self._waited = 0.0

    def is_slow(self, now: float) -> bool:
        """The client let the delivery wait too long in the current period."""
        waited = self._waited if self._since is None else self._waited + now - self._since
        return waited > PACE_SECONDS


class Deliveries:
    """The deliveries of a member that are under way. `after` calls a function after some seconds."""

    def __init__(self, clock: Clock, after: After) -> None:
        self._clock = clock
        self._after = after
        self._open: dict[Delivery, None] = {}
        self._unchecked: list[Delivery] = []
        """Deliveries that the current check has not reached yet."""
        self._scheduled = False
        """A call of `_check` is scheduled."""

    def add(self, delivery: Delivery) -> None:
        """A delivery begins."""
        self._schedule(CHECK_SECONDS)
        self._open[delivery] = None

    def remove(self, delivery: Delivery) -> bool:
        """A delivery is over; False if it was already."""
        if delivery not in self._open:
            return False
        del self._open[delivery]
        return True

    def _check(self) -> None:
        self._scheduled = False
        now = self._clock.monotonic()
        unchecked = self._unchecked = self._unchecked or list(self._open)
        some = unchecked[-CHECKED_AT_ONCE:]
        del unchecked[-CHECKED_AT_ONCE:]
        try:
            for delivery in some:
                if delivery in self._open and (
                    delivery.pace.is_slow(now) or delivery.holds_back_compaction(now)
                ):
                    delivery.give_up(errors.timed_out())
        finally:
            if unchecked or self._open:
                self._schedule(0 if unchecked else CHECK_SECONDS)

    def _schedule(self, seconds: float) -> None:
        if not self._scheduled:
            self._after(seconds, self._check)
            self._scheduled = True


class Delivery(ABC):
    """The answer of one call, delivered in steps. Implements `node.jobs.Job`."""

    __slots__ = ("_call", "_clock", "_deliveries", "_jobs", "pace", "principal")

    def __init__(self, deliveries: Deliveries, member: Member, call: Call) -> None:
        self._deliveries = deliveries
        self._jobs = member.jobs
        self._clock = member.clock
        self._call = call
        self.pace = Pace()
        self.principal = call.principal

    @abstractmethod
    def step(self) -> bool:
        """See `node.jobs.Job`."""

    @abstractmethod
    def _release(self) -> None:
        """Release what the delivery holds; called once, when it is over."""

    def holds_back_compaction(self, now: float) -> bool:  # noqa: ARG002 - for those that read
        """It has prevented compaction from erasing history for longer than it may."""
        return False

    def _room(self) -> int:
        """How many bytes may be pushed now. If there is no room the job pauses until there is."""
        room = self._call.window_left
        if room <= 0:
            self.pace.wait(self._clock.monotonic())
            self._jobs.pause(self)
            self._call.on_room(self._resume)
        return room

    def _resume(self) -> None:
        self.pace.resume(self._clock.monotonic())
        self._jobs.resume(self)

    def give_up(self, fault: Fault) -> None:
        """End the call without the rest of its answer."""
        refuse(self._call, fault)
        self.close()

    def failed(self, fault: Exception) -> None:  # noqa: ARG002 - it was logged
        """See `node.jobs.Job`."""
        end(self._call, Reason.FAILED)
        self.close()

    def close(self) -> None:
        """End the delivery. May be called again."""
        self._jobs.cancel(self)
        if self._deliveries.remove(self):
            self._release()
