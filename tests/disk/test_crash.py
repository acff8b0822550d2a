"""A process that is killed while it writes: everything that it reported as durable is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Final

from netstore.disk.engine import LmdbEngine
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Replay, Wal
from netstore.raft.entry import HardState
from netstore.types import Index, NodeId, Term
from tests.disk.fakeloop import FakeLoop
from tests.disk.writer import IDENTITY, SEGMENT_BYTES, TABLES, key, payload

ROOT: Final = Path(__file__).resolve().parents[2]
ROUNDS: Final = 10


def replayed(folder: Path) -> Replay:
    device = PosixDevice(folder / "wal", FakeLoop(), SEGMENT_BYTES)
    try:
        return Wal.open(device, IDENTITY, SEGMENT_BYTES)[1]
    finally:
        device.close()


def killed_writer(folder: Path, lines: int, seed: int) -> int:
    """Run a writer and kill it once it has printed so many lines; the last index that it printed."""
    command: list[str | Path] = [sys.executable, "-m", "tests.disk.writer", folder, str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    return int(next(line for line in reversed(said) if line.endswith("\n")))


def test_ten_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    random = Random(2379)  # noqa: S311 - when to kill
    (tmp_path / "wal").mkdir()
    for seed in range(ROUNDS):
        acknowledged = killed_writer(tmp_path, random.randint(1, 60), seed)
        replay = replayed(tmp_path)
        last = len(replay.entries)
        assert last >= acknowledged
        assert [entry.index for entry in replay.entries] == list(range(1, last + 1))
        assert all(entry.data == payload(entry.index) for entry in replay.entries)
        assert replay.hard_state == HardState(Term(1), NodeId(1), Index(last))
        check_state(tmp_path, last)
    assert len(list((tmp_path / "wal").glob("*.wal"))) > 3


def check_state(folder: Path, last: int) -> None:
    """The state is the one at its applied index, which the log reaches."""
    engine = LmdbEngine(folder / "state", FakeLoop(), TABLES, lambda error: None)
    applied = engine.applied()
    assert applied <= last
    stored = dict(engine.scan("entries", b"", None))
    for value in stored.values():
        index = int.from_bytes(value[:8], "little")
        assert index <= applied
        assert value == payload(index)
    if applied and payload(applied):
        assert stored[key(applied)] == payload(applied)
    engine.close()
