"""One real host over memory: the daemon's own turns, with a disk and a clock that do what a test says."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from netstore.disk.frame import Identity
from netstore.disk.wal import Wal
from netstore.node.driver import Driver
from netstore.node.host import Host
from netstore.node.proposals import Proposals
from netstore.raft.config import Boot, Config
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.state.machine import Machine
from netstore.types import ClusterId, Index, NodeId, Term
from netstore.watch.hub import Hub
from tests.support.local_member import HandClock, memory_engine
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.disk.memoryengine import MemoryEngine
    from netstore.limits import Budget

ME = NodeId(7)
CLUSTER = ClusterId(99)


class HandDevice:
    """`seams.Device` whose writes wait until a test lets them through, or fails them."""

    def __init__(self, files: dict[str, bytearray] | None = None) -> None:
        self.files: dict[str, bytearray] = files or {}
        self.waiting: deque[tuple[str, int, bytes, Callable[[OSError | None], None]]] = deque()
        self.fast = False
        """What is released is synced at once."""
        self.quick_syncs = 0
        self.failure: OSError | None = None
        """What comes of that, if not its sync."""
        self.on_release: Callable[[], object] = lambda: None

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name])

    def notes(self) -> list[bytes]:
        return []

    def write(
        self,
        name: str,
        offset: int,
        data: bytes,
        done: Callable[[OSError | None], None],
        note: bytes = b"",
        *,
        held: bool = False,
    ) -> None:
        self.waiting.append((name, offset, data, done))

    def release(self) -> None:
        self.on_release()
        if self.fast and self.failure is not None:
            self.fail(self.failure)
        elif self.fast:
            self.sync()

    def truncate(self, name: str, size: int) -> None:
        del self.files[name][size:]

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def close(self) -> None:
        self.sync()

    def sync(self, writes: int | None = None) -> None:
        """Let the oldest writes through, all of them unless told otherwise."""
        count = len(self.waiting) if writes is None else writes
        for _ in range(count):
            name, offset, data, done = self.waiting.popleft()
            file = self.files.setdefault(name, bytearray())
            file.extend(bytes(max(0, offset + len(data) - len(file))))
            file[offset : offset + len(data)] = data
            done(None)

    def fail(self, error: OSError, writes: int | None = None) -> None:
        """Fail the oldest writes, all of them unless told otherwise, in order."""
        for _ in range(len(self.waiting) if writes is None else writes):
            self.waiting.popleft()[3](error)


class Lines(KeptLog):
    """Keeps what would be logged."""

    def __init__(self) -> None:
        super().__init__()
        self.failures_meant = False
        """Requests are to fail here; otherwise a test would not see what its own callbacks raise."""

    def take(self, event: str, fields: dict[str, Any]) -> None:
        super().take(event, fields)
        if event == "request_failed" and not self.failures_meant:
            raise AssertionError(fields["error"])


class Solo:
    """A member alone. `settle` runs turns and lets the disk through until nothing is left to do."""

    def __init__(
        self,
        files: dict[str, bytearray] | None = None,
        engine: MemoryEngine | None = None,
        snapshot_count: int = 100_000,
        log_budget: Budget | None = None,
    ) -> None:
        self.clock = HandClock()
        self.device = HandDevice(files)
        self.engine = engine or memory_engine()
        self.lines = Lines()
        self.woken = False
        self.flushed = 0
        machine = Machine(self.engine)
        machine.load()
        wal, replay = Wal.open(self.device, Identity(CLUSTER, ME))
        mark = replay.mark or SnapshotMeta(Index(0), Term(0), ConfState(voters=(ME,)))
        if replay.mark is None:
            wal.mark(mark, lambda _: None)
        boot = Boot(
            replay.hard_state or HardState(Term(0), NodeId(0), Index(0)),
            mark,
            replay.entries,
            machine.applied,
        )
        self.host = Host(
            name="solo",
            cluster_id=CLUSTER,
            driver=Driver(Raft(Config(id=ME), boot, lambda bound: bound // 2)),
            wal=wal,
            engine=self.engine,
            machine=machine,
            hub=Hub(),
            clock=self.clock,
            proposals=Proposals(1 << 48, 7.0, self.clock),
            wake=self._wake,
            send=lambda _: None,
            flush=self._flush,
            snapshot_count=snapshot_count,
            log_budget=log_budget,
            log=self.lines,
        )

    def _wake(self) -> None:
        self.woken = True

    def _flush(self) -> None:
        self.flushed += 1

    def turn(self) -> None:
        """One turn, if the host asked for one."""
        if self.woken:
            self.woken = False
            self.host.turn()

    def settle(self) -> None:
        """Turns and syncs until there is nothing to do."""
        while self.woken or self.device.waiting:
            self.turn()
            self.device.sync()

    def lead(self) -> Solo:
        """Win the election."""
        self.host.campaign()
        self.settle()
        return self

    def crashed(self) -> Solo:
        """The member as it starts after a crash: what was synced is there, nothing else."""
        return Solo(self.device.files, self.engine.crash())
