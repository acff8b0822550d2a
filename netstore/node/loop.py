"""The one task that owns Raft.

Each turn: take every input that is waiting (proposals, messages, ticks, finished syncs); step the driver with
all of them; then, in this order, give the disk what must be kept, send what may go before the sync, apply
what is committed, complete slots, hand the changes to the engine, flush the answers. What must not leave
before the sync waits inside the driver until the disk says so. What arrives while the disk syncs is the next
batch: there is no timer and nothing to tune.

The only await is `_wake.wait()`, at the top of a turn: between two of them state changes are atomic, which is
why no lock exists. A fault in here, in the disk or in apply ends the process: half a turn must not be
answered.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore import errors
from netstore.errors import Fault, NetstoreError
from netstore.node.proposals import REQUEST_ID_SIZE, Proposals
from netstore.raft.entry import EntryKind
from netstore.raft.status import Fate
from netstore.seams import SyncFailed
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.disk.wal import Wal
    from netstore.node.driver import Append, Driver
    from netstore.raft.entry import Entry
    from netstore.raft.messages import Message
    from netstore.raft.status import Proposed
    from netstore.seams import Clock, Engine
    from netstore.state.machine import Machine, Outcome
    from netstore.types import ClusterId, NodeId, Term
    from netstore.watch.hub import Hub

CATCH_UP_ENTRIES: Final = 5_000
"""Entries kept in the log behind the durable state, so that a slow member catches up without a state copy."""

PAYLOADS_PER_TURN: Final = 4_096
"""Payloads proposed in one turn; the rest is the next turn's."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS)


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> None:
        """One line."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""

    def error(self, event: str, **fields: Any) -> None:
        """One line."""


class DiskFailed(NetstoreError):  # noqa: N818 - named for what happened
    """A write or sync of the log failed. The member stops: what the page cache holds now proves nothing."""


class Loop:
    """The running member: feeds the driver, carries out effects. Implements `node.member.Member`."""

    def __init__(
        self,
        *,
        name: str,
        cluster_id: ClusterId,
        driver: Driver,
        wal: Wal,
        engine: Engine,
        machine: Machine,
        hub: Hub,
        clock: Clock,
        proposals: Proposals,
        send: Callable[[Sequence[Message]], None],
        flush: Callable[[], None],
        snapshot_count: int,
        log: Log,
    ) -> None:
        self.name = name
        self.cluster_id = cluster_id
        self.machine = machine
        self.hub = hub
        self.clock = clock
        self.proposals = proposals
        self.proposals.now = clock.monotonic()
        self._driver = driver
        self._raft = driver.raft
        self._wal = wal
        self._engine = engine
        self._send = send
        self._flush = flush
        self._snapshot_count = snapshot_count
        self._log = log
        self._wake = trio.Event()
        self._idle: trio.Event | None = None
        self._stopping = False
        self._failure: Exception | None = None
        self._unsynced: deque[Append] = deque()
        self._writing = 0
        self._disk_full: OSError | None = None
        self._state_full = False
        self._compacted = self._raft.status().compacted
        self._leader_known: NodeId | None = None

    # --- Member

    @property
    def id(self) -> NodeId:
        """This member's id."""
        return self._raft.id

    @property
    def leader(self) -> NodeId:
        """The leader this member follows; 0 when it knows none."""
        return self._raft.leader

    @property
    def term(self) -> Term:
        """The current term."""
        return self._raft.term

    @property
    def commit_index(self) -> Index:
        """Highest log index known to be committed."""
        return self._raft.commit

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None]) -> None:
        """Replicate a command; see `Member.propose`."""
        if self._stopping:
            done(errors.stopped())
            return
        self.proposals.add(command, done)
        self._wake.set()

    # --- inputs

    def tick(self) -> None:
        """One tick of protocol time: elections, heartbeats; also the time limit of waiting requests."""
        self.proposals.now = self.clock.monotonic()
        if self.proposals.expire(errors.timed_out):
            self._flush()
        self._raft.tick()
        self._wake.set()

    def campaign(self) -> None:
        """Stand for election now, without waiting for the timeout."""
        self._raft.campaign()
        self._wake.set()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages from peers."""
        for message in messages:
            self._raft.step(message)
        self._wake.set()

    def fail(self, failure: Exception) -> None:
        """End the member: the state engine or another part it cannot live without has failed."""
        self._failure = failure
        self._wake.set()

    async def drained(self) -> None:
        """Wait until no request waits for the log; what comes meanwhile is waited for too."""
        while len(self.proposals):
            self._idle = trio.Event()
            await self._idle.wait()

    # --- the task

    async def run(self) -> None:
        """Run until cancelled, or until a fault that this member must not survive is raised."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                self._turn()
        finally:
            self._stopping = True
            self.proposals.fail_all(errors.stopped())
            self._flush()

    def _turn(self) -> None:
        if self._failure is not None:
            raise self._failure
        proposals = self.proposals
        proposals.now = self.clock.monotonic()
        if proposals.queued and self._raft.leader:
            payloads = proposals.take(PAYLOADS_PER_TURN)
            if proposals.queued:
                self._wake.set()
            if self._disk_full is None and not self._state_full:
                proposed = self._raft.propose(payloads)
                if proposed.fate is Fate.REFUSED:
                    proposals.refuse(payloads, _refused(proposed))
            else:
                proposals.refuse(payloads, errors.no_space())
        applied = 0
        while (effects := self._driver.take()) is not None:
            if effects.append is not None:
                self._write(effects.append)
            if effects.send:
                self._send(effects.send)
            if effects.apply:
                self._apply(effects.apply)
                applied += len(effects.apply)
        if applied:
            self.machine.save()
        if self._raft.leader != self._leader_known:
            self._leader_known = self._raft.leader
            self._log.info("leader_changed", leader=f"{self._raft.leader:x}", term=self._raft.term)
        self._flush()
        if self._idle is not None and not len(proposals):
            self._idle.set()

    def _apply(self, entries: Sequence[Entry]) -> None:
        machine, complete = self.machine, self.proposals.complete
        for entry in entries:
            data = entry.data
            if entry.kind is not EntryKind.NORMAL:
                self._raft.apply_change(entry)
                machine.apply(entry.index, b"")
                continue
            outcome = machine.apply(entry.index, data[REQUEST_ID_SIZE:])
            if data:
                complete(int.from_bytes(data[:REQUEST_ID_SIZE], "big"), outcome)
        self._raft.applied_to(entries[-1].index)
        publish = self.hub.publish
        for event in machine.take_events():
            publish(event)

    # --- the disk

    def _write(self, append: Append) -> None:
        self._unsynced.append(append)
        if self._disk_full is None:
            self._writing += 1
            self._wal.append(append.hard_state, append.entries, self._synced)

    def _synced(self, failure: OSError | None) -> None:
        """The oldest write under way was kept, or it failed. A failed write takes all after it along and may
        be tried again when room was all it wanted; anything else, a failed sync first of all, ends the member.
        """
        self._writing -= 1
        if failure is None:
            self._unsynced.popleft()
            self._driver.synced()
            self._wake.set()
        elif isinstance(failure, SyncFailed) or failure.errno not in _NO_ROOM:
            self.fail(DiskFailed(f"writing the log failed: {failure}; nothing unsaved was acknowledged"))
        elif self._disk_full is None:
            self._disk_full = failure
            self._log.error("log_not_writable", error=str(failure), fix="free disk space")

    def engine_failed(self, failure: OSError) -> None:
        """The state could not be committed. For want of space the engine tries again by itself,
        and writes are refused until it succeeds.
        """
        if failure.errno not in _NO_ROOM:
            self.fail(DiskFailed(f"writing the state failed: {failure}; the log has what was acknowledged"))
        elif not self._state_full:
            self._state_full = True
            self._log.error("state_not_writable", error=str(failure), fix="free disk space")

    def retry_writes(self) -> None:
        """Try again what could not be written, if anything: nothing of it was acknowledged, and reads went on
        meanwhile.
        """
        if self._state_full and self._engine.durable() == self._engine.applied():
            self._state_full = False
            self._log.info("state_writable")
        if self._disk_full is None or self._writing:
            return
        self._disk_full = None
        for append in self._unsynced:
            self._writing += 1
            self._wal.append(append.hard_state, append.entries, self._synced)

    # --- housekeeping

    def compact(self) -> bool:
        """Forget log entries the durable state makes needless, keeping some for slow members. True when
        something was dropped.
        """
        durable = self._engine.durable()
        if durable - self._compacted < self._snapshot_count + CATCH_UP_ENTRIES:
            return False
        meta = self._raft.snapshot_meta(Index(durable - CATCH_UP_ENTRIES))
        self._raft.compact(meta.index)
        self._compacted = meta.index
        self._wal.mark(meta, self._marked)
        self._log.info("log_compacted", before=meta.index, durable=durable)
        return True

    def _marked(self, failure: OSError | None) -> None:
        if failure is None:
            self._wal.drop_before(Index(self._compacted + 1))
        elif isinstance(failure, SyncFailed):
            self.fail(DiskFailed(f"syncing the log failed: {failure}; the member stops"))
        else:
            self._log.warning("log_mark_not_written", error=str(failure))


def _refused(proposed: Proposed) -> Fault:
    why = "not accepted" if proposed.refusal is None else proposed.refusal.value
    return Fault(300, f"etcdserver: {why}".encode())
