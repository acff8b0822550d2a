"""The simulated device keeps the contract of `seams.Device` where several faults meet."""

from __future__ import annotations

import errno
from random import Random

import pytest

from netstore.seams import SyncFailed
from tests.sim.disk import Disk, Host, SimDevice
from tests.sim.timeline import Timeline

SECTORS = 8
ALL = (1 << 2 * SECTORS) - 1
DATA = b"x" * 512 * SECTORS


class Bench:
    """A device whose torn writes leave every sector, and what it answered."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.disk = Disk(0.001)
        self.disk.kept = ALL
        seams = Host(self.timeline, Random(0), lambda: None, lambda call: call())  # noqa: S311
        self.device = SimDevice(self.disk, seams)
        self.answers: list[int | None] = []

    def write(self, name: str, data: bytes = DATA, offset: int = 0) -> None:
        self.device.write(name, offset, data, self._answered)

    def _answered(self, error: OSError | None) -> None:
        self.answers.append(None if error is None else error.errno)
        self.dead = isinstance(error, SyncFailed)

    def settle(self) -> list[int | None]:
        self.timeline.run(self.timeline.now + 1.0)
        return self.answers


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_sync_that_fails_meets_only_a_write_that_is_tried(bench: Bench) -> None:
    """The second file's write is refused unseen with the first one's: no sector of it may be on the disk."""
    bench.disk.short = True
    bench.write("a")
    bench.write("b")
    bench.timeline.run(0.0005)
    bench.disk.failing = True
    assert bench.settle() == [errno.ENOSPC] * 2
    assert not any(bench.disk.files.values())
    bench.write("a")
    assert bench.settle()[-1] == errno.EIO
    assert bench.dead
    assert bench.disk.files["a"] == DATA


def test_a_full_disk_comes_before_a_sync_that_fails(bench: Bench) -> None:
    bench.disk.full = bench.disk.failing = True
    bench.write("a")
    assert bench.settle() == [errno.ENOSPC]
    assert not any(bench.disk.files.values())
    assert bench.disk.failing


def test_a_refused_write_leaves_nothing_for_the_power_to_bring_back(bench: Bench) -> None:
    bench.disk.short = True
    bench.write("a")
    assert bench.settle() == [errno.ENOSPC]
    bench.device.power_loss()
    assert not any(bench.disk.files.values())


def test_a_cut_that_is_not_synced_is_undone_by_the_power_and_by_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimDevice, "_sync_cut", lambda _: None)
    bench.disk.short = True
    bench.write("b")
    bench.settle()
    bench.write("a", b"behind")
    assert bench.settle() == [errno.ENOSPC, None]
    assert set(bench.disk.files) == {"a"}
    bench.device.power_loss()
    assert bench.disk.files == {"a": b"behind", "b": DATA}
