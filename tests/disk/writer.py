"""A process that appends for ever and prints what was acknowledged, to be killed: `python -m
tests.disk.writer FOLDER`.

Prints one line per acknowledged batch: the last index. Entry N carries `payload(N)`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import TYPE_CHECKING, Final

from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTITY: Final = Identity(0xC1, 0xA1)
SEGMENT_BYTES: Final = 32 * 1024
UNDER_WAY: Final = 4
TABLES: Final = ("entries",)


def payload(index: int) -> bytes:
    """The payload of entry `index`: of various lengths, with many zeros."""
    return index.to_bytes(8, "little") * (index % 90)


def key(index: int) -> bytes:
    return b"%d" % (index % 50)


def run(folder: Path, seed: int) -> None:
    """Append and apply in the order of a member: only acknowledged entries change the state."""
    random = Random(seed)  # noqa: S311 - sizes of a test
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    device = PosixDevice(folder / "wal", calls.put, SEGMENT_BYTES)
    wal, replay = Wal.open(device, IDENTITY, SEGMENT_BYTES)
    engine = LmdbEngine(
        folder / "state", calls.put, TABLES, lambda error: sys.exit(str(error)), commit_interval=0.002
    )
    last = replay.entries[-1].index if replay.entries else 0
    under_way = 0

    def acknowledge(index: int, error: OSError | None) -> None:
        nonlocal under_way
        if error is not None:
            raise error
        under_way -= 1
        engine.write(Index(index), {("entries", key(index)): payload(index)})
        sys.stdout.write(f"{index}\n")
        sys.stdout.flush()

    while True:
        while under_way < UNDER_WAY:
            count = random.randint(1, 20)
            batch = [
                Entry(Index(index), Term(1), EntryKind.NORMAL, payload(index))
                for index in range(last + 1, last + count + 1)
            ]
            last += count
            under_way += 1
            hard_state = HardState(Term(1), NodeId(1), Index(last))
            wal.append(hard_state, batch, partial(acknowledge, last))
        calls.get()()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
