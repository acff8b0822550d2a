"""A state on disk that backups are made of, with a loop that a test turns."""

from __future__ import annotations

import queue
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from netstore.disk.closer import Closer
from netstore.disk.engine import LmdbEngine
from netstore.errors import Fault
from netstore.node.backup import Backups, BoltCopy, FullCopy
from netstore.node.fullbackup import begun_header
from netstore.state.commands import (
    AdmitPlugin,
    PublishMember,
    PutWheelPart,
    RaiseLevel,
    SetClusterVersion,
    encode,
)
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Set
from netstore.state.v3 import commands as v3
from netstore.types import ClusterId, Index, Nanos, NodeId
from tests.support.member import Lines
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.disk.backupfile import Header, LogPart

LIMIT: Final = 20.0
DIGEST: Final = sha256(b"data").digest()
LONG_KEY: Final = b"/long/" + b"x" * 600
"""A path that LMDB does not take as a key."""


class Place:
    """A state on disk, and a loop that makes the calls it is given."""

    def __init__(self, folder: Path, call_soon: Callable[[Callable[[], object]], None] | None = None) -> None:
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        call_soon = call_soon or self.calls.put
        self.engine = LmdbEngine(folder / "state.lmdb", call_soon, TABLES, self.failed)
        self.machine = Machine(self.engine)
        self.machine.load()
        self.lines = Lines()
        self.suspected: list[bool] = []
        """One item for each time that the state should be verified."""
        self.folder = folder
        self.member = NodeId(7)
        self.parts: dict[int, LogPart] = {}
        """What the log says of each index."""
        self.wall: Callable[[], Nanos] = lambda: Nanos(10**18)
        self.closer = Closer()
        self.backups = Backups(
            folder,
            self.engine,
            call_soon,
            self.lines,
            closer=self.closer,
            suspect=lambda: self.suspected.append(True),
            header=self.header,
            log_part=self.parts.get,
        )

    def header(self) -> Header:
        return begun_header(ClusterId(0xC1), self.member, "seven", self.wall(), "1.0")

    def failed(self, failure: OSError) -> None:
        raise failure

    def apply(self, *commands: Any) -> None:
        for command in commands:
            outcome = self.machine.apply(Index(self.machine.applied + 1), encode(command))
            assert not isinstance(outcome, Fault), outcome
        self.machine.save()

    def fill(self) -> None:
        """One of everything that a state can have."""
        self.apply(
            PublishMember(7, "seven", ("http://c:1",), ("http://p:1",), level=2),
            SetClusterVersion("3.5.0"),
            RaiseLevel(2),
            AdmitPlugin("p", b'{"name":"p"}', DIGEST, 4),
            PutWheelPart("p", DIGEST, 0, b"data"),
            Set(b"/a/b", b"1"),
            Set(b"/ttl", b"1", expires=4 * 10**18, ttl=600),
            Set(LONG_KEY, b"2"),
            v3.LeaseGrant(5, 600),
            v3.Put(b"k", b"1", 5),
            v3.Put(b"k", b"2"),
            v3.Put(b"l", b"3"),
            v3.DeleteRange(b"l"),
            v3.SetAlarm(7, v3.NOSPACE, active=True),
            v3.SetAlarm(7, v3.NOSPACE, active=False),
            v3.Compact(3),
            v3.SetAlarm(7, v3.CORRUPT, active=True),
        )
        while self.machine.sweeping:
            self.machine.sweep()

    def turn_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.calls.get(timeout=seconds(LIMIT))()

    def make(self) -> BoltCopy | Fault:
        made: list[BoltCopy | Fault] = []
        self.backups.make(made.append)
        self.turn_until(lambda: made)
        return made[0]

    def make_full(self, folder: Path | None = None) -> FullCopy:
        made: list[FullCopy | Fault] = []
        self.backups.make_full(made.append, folder)
        self.turn_until(lambda: made)
        full = made[0]
        assert isinstance(full, FullCopy), full
        return full
