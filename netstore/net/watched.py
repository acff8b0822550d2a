"""Descriptors that are not client connections, in the same epoll set and the same rounds: the streams between
members and the sockets that accept them (`peer`).

They come before the clients in each round, for `MEMBERS_SECONDS`, because leadership depends on messages of
members. One whose turn did not come is the first in the next round.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from netstore.guard import guarded

if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Collection

    from netstore.meter import Meter
    from netstore.net.wakeup import Wakeup
    from netstore.seams import Log

MEMBERS_SECONDS: Final = 0.002
"""Time of a round for what members have sent; the last turn may end after it."""


class WatchedDescriptors:
    """See the module. What a turn raises is logged and ends that descriptor's owner only."""

    def __init__(
        self,
        epoll: select.epoll,
        wakeup: Wakeup,
        connections: Collection[int],
        clock: Callable[[], float],
        *,
        meter: Meter,
        log: Log,
        failed: Callable[[Exception], None],
        worked: Callable[[float], object],
    ) -> None:
        """`connections` are the descriptors of clients in the epoll set; `failed` logs a fault of a `failed`
        callback; `worked` is told how many seconds `catch_up` took.
        """
        self._epoll = epoll
        self._wakeup = wakeup
        self._connections = connections
        self._clock = clock
        self._meter = meter
        self._log = log
        self._callback_failed = failed
        self._worked = worked
        self.calls: dict[int, tuple[Callable[[int], None], Callable[[Exception], None]]] = {}
        """Descriptor -> the two callbacks; see `watch`."""
        self.unfinished: dict[int, None] = {}
        """Those that asked for another turn."""
        self.unserved: dict[int, None] = {}
        """Those that were ready in the last round and had no turn."""
        self.ready: dict[int, int] = {}
        """Those that are to have a turn now, with the events that epoll reported. Set by the reactor."""
        self.aside: dict[int, int] = {}
        """What epoll reported of clients while `catch_up` looked for members: it reports that once only, so
        it is kept for the next round.
        """
        self._to_catch_up: dict[int, int] | None = None
        """What `catch_up` has not served yet."""

    def watch(
        self, fd: int, mask: int, call: Callable[[int], None], failed: Callable[[Exception], None]
    ) -> None:
        """Add a descriptor. `call` is called with the events that it is ready for. What that raises is logged
        and passed to `failed`, which ends what the descriptor belongs to. `Reactor.modify` changes the mask;
        `unwatch` must be called before the descriptor is closed. OSError if the kernel cannot watch it.
        """
        self._epoll.register(fd, mask)
        self.calls[fd] = call, failed

    def unwatch(self, fd: int) -> None:
        """Remove a descriptor, if it is watched."""
        if self.calls.pop(fd, None) is not None:
            self.unfinished.pop(fd, None)
            self.unserved.pop(fd, None)
            self.ready.pop(fd, None)  # the events do not concern whatever gets this number next
            if self._to_catch_up is not None:
                self._to_catch_up.pop(fd, None)
            self._epoll.unregister(fd)

    def again(self, fd: int) -> None:
        """Give a watched descriptor a turn in the next round, even if it is not ready."""
        if fd in self.calls:
            self.unfinished[fd] = None
            wakeup = self._wakeup
            if not (wakeup.in_round or wakeup.pending):
                wakeup.send()

    def catch_up(self) -> bool:
        """Serve, outside a round, each descriptor once that became ready while the loop was held: for a
        caller that is about to judge a member by what was received from it. False if the time was over before
        all had their turn: the next call continues, and serves each of them once at most.
        """
        calls = self.calls
        if not calls or self._wakeup.in_round:
            return True
        began = self._clock()
        if self._to_catch_up is None:
            reported = self._epoll.poll(0, len(self._connections) + len(calls) + 16)
            self._to_catch_up = dict.fromkeys(self.unfinished, 0) | {
                fd: mask for fd, mask in reported if fd in calls
            }
            self._set_aside([(fd, mask) for fd, mask in reported if fd in self._connections])
        self._to_catch_up = self._serve_some(self._to_catch_up) or None
        self._worked(self._clock() - began)
        return self._to_catch_up is None

    def _set_aside(self, reported: list[tuple[int, int]]) -> None:
        for fd, mask in reported:
            self.aside[fd] = self.aside.get(fd, 0) | mask
        if reported and not self._wakeup.pending:
            self._wakeup.send()

    def take_aside(self, reported: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
        """What a round gets: what epoll reported now, and `most` of those that were set aside. The rest stays
        for the rounds after it.
        """
        together = dict(reported)
        aside = self.aside
        for fd in together.keys() & aside.keys():
            together[fd] |= aside.pop(fd)
        for fd in list(islice(aside, most)):
            together[fd] = aside.pop(fd)
        return list(together.items())

    def serve(self, ready: dict[int, int]) -> None:
        """Serve these and the unfinished ones: first those that had no turn in the last round and are ready
        again.
        """
        first = {fd: ready[fd] for fd in self.unserved if fd in ready}
        unfinished = {fd: ready.get(fd, 0) for fd in self.unfinished if fd not in first}
        self.unserved = dict.fromkeys(self._serve_some(first | unfinished | ready))

    def _serve_some(self, ready: dict[int, int]) -> dict[int, int]:
        """Serve these until the time is over; returns the rest, in order, without those removed meanwhile."""
        clock, budget = self._clock, self._meter.budget
        at = clock()
        stop = at + MEMBERS_SECONDS
        self.ready = ready
        while ready and at <= stop:
            fd = next(iter(ready))
            mask = ready.pop(fd)
            self.unfinished.pop(fd, None)
            self._serve_one(fd, mask)
            now = clock()
            if now - at > budget:
                self._meter.over("messages", now - at)
            at = now
        return ready

    def _serve_one(self, fd: int, mask: int) -> None:
        call, failed = self.calls[fd]

        def failure(fault: Exception) -> None:
            guarded(self._callback_failed, failed, fault)  # first: the log may fail too
            self._log.warning("stream_failed", error=repr(fault))

        guarded(failure, call, mask)
