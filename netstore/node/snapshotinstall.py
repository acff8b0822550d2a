"""Installation of a snapshot received from the leader, in the place of log and state.

Three durable steps, so that a crash between any two of them is finished or undone at the next start
(`disk.snapshots`): the snapshot is complete on disk before it is offered here; the log is marked with it; the
engine takes it. Then the state is loaded from it, in steps between turns, and only after that Raft goes on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from netstore.errors import MustStop
from netstore.node.logwriter import DiskFailed, SnapshotMark
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import MessageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.node.applier import Applier
    from netstore.node.logcompaction import LogCompaction
    from netstore.node.logwriter import LogWriter
    from netstore.node.proposals import Proposals
    from netstore.raft.core import Raft
    from netstore.raft.entry import SnapshotMeta
    from netstore.raft.messages import InstallSnapshot
    from netstore.seams import Engine, Log
    from netstore.state.machine import Machine
    from netstore.watch.hub import Hub
    from netstore.watch.watches import Watches


class SnapshotInstall:
    """Installs snapshots at one member, one at a time."""

    def __init__(
        self,
        machine: Machine,
        raft: Raft,
        engine: Engine,
        *,
        writer: LogWriter,
        applier: Applier,
        compaction: LogCompaction,
        proposals: Proposals,
        hub: Hub,
        watches: Watches,
        log: Log,
        wake: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """`fail` ends the member."""
        self._machine = machine
        self._raft = raft
        self._engine = engine
        self._writer = writer
        self._applier = applier
        self._compaction = compaction
        self._proposals = proposals
        self._hub = hub
        self._watches = watches
        self._log = log
        self._wake = wake
        self._fail = fail
        self._received: object = None
        """The snapshot that is to be installed, as the engine takes it."""
        self.steps: Iterator[None] | None = None
        """What is left to do of loading the state; None when nothing is."""
        self.installed = 0
        """How many snapshots were installed: their contents were not applied here entry by entry."""

    @property
    def is_loading(self) -> bool:
        """A snapshot is in place, and its records are being read."""
        return self.steps is not None and self._machine.mvcc.suspended

    def receive(self, message: InstallSnapshot, snapshot: object) -> None:
        """A snapshot has arrived: complete, verified, durable. `snapshot` is what the engine's `install`
        takes.

        MessageRefused if the message cannot be true. InvariantBroken if it was processed in part: what Raft
        holds is undefined then.
        """
        if self._raft.installing is None:
            self._received = snapshot
        try:
            self._raft.step(message)
        except (MessageRefused, MustStop):
            raise
        except Exception as fault:
            raise InvariantBroken(f"a state copy was processed in part: {fault!r}") from fault
        finally:
            self._wake()

    def begin(self, meta: SnapshotMeta) -> None:
        """Raft wants the received snapshot installed: mark the log with it first."""
        self._compaction.replacing = True
        self._applier.clear()
        self._log.info("state_copy_installing", index=meta.index)
        self._writer.write(SnapshotMark(meta, partial(self._replace_state, meta), replaces=True))

    def load_on(self, steps: Iterator[None]) -> None:
        """Do the next step of loading the state."""
        if next(steps, self) is self:
            self.steps = None
        self._wake()

    def _replace_state(self, meta: SnapshotMeta) -> None:
        """The mark is durable: the engine takes the snapshot."""
        snapshot, self._received = self._received, None
        self._machine.mvcc.suspended = True

        def replaced(failure: OSError | None) -> None:
            if failure is not None:
                self._fail(DiskFailed(f"a state copy cannot be put in place: {failure}"))
                return
            self.steps = self._load(meta)
            self._wake()

        self._engine.install(snapshot, replaced)

    def _load(self, meta: SnapshotMeta) -> Iterator[None]:
        """Load the state, and free what was there before. Nothing is applied until it is loaded."""
        yield from self._machine.load_steps()
        self._hub.interrupt()
        self._watches.replaced()
        self._proposals.snapshot_installed()
        self.installed += 1
        self._raft.snapshot_installed(meta)
        self._compaction.restart(meta.index)
        self._log.info("state_copy_installed", index=meta.index)
        yield from self._machine.free_steps()
