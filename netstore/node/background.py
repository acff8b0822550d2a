"""Work that is done between requests, a bounded piece after each turn: erasing what compaction removed,
checksums of the history, watchers that are behind, and steps of jobs (`node.jobs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.node.jobs import STEPS_BESIDE, STEPS_PER_TURN

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.meter import Parts
    from netstore.node.jobs import Jobs
    from netstore.node.proposals import Proposals
    from netstore.node.reads import Reads
    from netstore.raft.core import Raft
    from netstore.state.machine import Machine
    from netstore.watch.hub import Hub
    from netstore.watch.watches import Watches

BUSY_SECONDS: Final = 0.1
"""For so long after a request more are expected, and background work is done in short pieces."""


class Background:
    """The background work of one member."""

    def __init__(
        self,
        machine: Machine,
        raft: Raft,
        proposals: Proposals,
        *,
        reads: Reads,
        jobs: Jobs,
        hub: Hub,
        watches: Watches,
        parts: Parts,
        wake: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._raft = raft
        self._proposals = proposals
        self._reads = reads
        self._jobs = jobs
        self._hub = hub
        self._watches = watches
        self._parts = parts
        self._wake = wake
        self.asked_at = float("-inf")
        """When a turn last had a new request. Monotonic seconds."""
        self.contended: Callable[[], bool] = _never
        """Whether clients wait that this member does not know of yet, at their sockets."""
        self._sweep_is_next = False
        """Of erasing or hashing and of jobs, if both are to be done and only one may."""

    def run(self) -> bool:
        """Do a piece, if there is something to do; the rest is for the next turns. While requests come, that
        is one step of a job, or one piece of erasing or hashing, which delays them by about a millisecond.
        """
        machine, ran = self._machine, self._parts.ran
        has_sweep, has_job = self._has_sweep, self._jobs.ready
        if not (has_sweep or has_job or self._hub.has_work or self._watches.has_work):
            return False
        is_busy = self._is_busy
        if is_busy and has_sweep and has_job:
            has_sweep = self._sweep_is_next
            has_job = self._sweep_is_next = not has_sweep
        if has_sweep and machine.mvcc.hashing:
            machine.mvcc.hash_on()
            ran("hash")
        elif has_sweep:
            machine.sweep()
            ran("sweep")
        if self._hub.has_work or self._watches.has_work:
            if self._hub.has_work:
                self._hub.step()
            if self._watches.has_work:
                self._watches.step()
            ran("watches")
        if has_job:
            self._jobs.run(STEPS_BESIDE if is_busy else STEPS_PER_TURN)
            ran("jobs")
        if self._has_sweep or self._hub.has_work or self._watches.has_work or self._jobs.ready:
            self._wake()
        return True

    @property
    def _has_sweep(self) -> bool:
        """There is something to be erased or hashed, and it may be."""
        machine = self._machine
        return machine.mvcc.hashing or (machine.sweeping and not self._raft.apply_paused)

    @property
    def _is_busy(self) -> bool:
        """A request waits for the log or a read index, one came lately, or clients wait at their sockets."""
        if self._proposals or self._reads or self.contended():
            return True
        return self._proposals.now - self.asked_at < BUSY_SECONDS


def _never() -> bool:
    return False
