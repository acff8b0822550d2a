"""The open file under several threads: growing, copying, replacing and verifying it."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import subprocess
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from netstore.disk import shared
from netstore.disk.shared import SharedTables
from netstore.disk.tables import Tracker
from netstore.errors import StateDamaged
from netstore.types import Index
from tests.disk.fakeloop import TIMEOUT
from tests.disk.opened import LONG, Answers, Opened, copied, hold
from tests.disk.states import raw, write
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.engine import LmdbEngine


def test_a_full_map_grows(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", map_bytes=128 * 1024)
    many = {("plain", b"%06d" % number): os.urandom(200) for number in range(5000)}
    opened.engine.write(Index(1), many)
    assert opened.sync() is None
    assert opened.engine._shared.tables.env.info()["map_size"] > 1_000_000
    assert all(opened.engine.get(*place) == value for place, value in many.items())
    opened.engine.close()


def test_a_copy_is_cancelled_when_the_map_must_grow(tmp_path: Path) -> None:
    """The reader of the copy has stopped: commits do not wait for it, so the overlay does not grow."""
    opened = Opened(tmp_path / "state", map_bytes=8 * 1024 * 1024, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(10_000)})
    assert opened.sync() is None
    source, sink = os.pipe()
    failures: list[OSError] = []

    def copy_out() -> None:
        try:
            engine.copy_to(sink)
        except OSError as error:
            failures.append(error)

    copier = threading.Thread(target=copy_out)
    copier.start()
    assert os.read(source, 1)
    engine.write(Index(2), {("plain", b"%06d" % number): b"y" * 300 for number in range(10_000, 30_000)})
    assert opened.sync() is None
    assert engine.durable() == 2
    with os.fdopen(source, "rb") as stream:
        os.set_blocking(source, False)
        while copier.is_alive():
            stream.read(65536)
    copier.join()
    os.close(sink)
    assert [failure.errno for failure in failures] == [errno.EAGAIN]
    engine.close()


def test_a_copy_is_cancelled_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps pages from being used again, and who takes it may have stopped."""
    opened = Opened(tmp_path / "state", commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(10_000)})
    assert opened.sync() is None
    source, sink = os.pipe()
    outcomes: list[int | None] = []

    def copy_out() -> None:
        try:
            outcomes.append(engine.copy_to(sink))
        except OSError as error:
            outcomes.append(error.errno)

    copier = threading.Thread(target=copy_out, daemon=True)
    copier.start()
    assert os.read(source, 1)
    real = SharedTables._put
    tries = 0

    def full_once(self: SharedTables, *arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(SharedTables, "_put", full_once)
    engine.write(Index(2), {("plain", b"more"): b"y"})
    assert opened.sync() is None, "it was tried again at once"
    with os.fdopen(source, "rb") as stream:
        os.set_blocking(source, False)
        while copier.is_alive():
            stream.read(65536)
    os.close(sink)
    assert outcomes == [errno.EAGAIN]
    with (tmp_path / "copy").open("wb") as file:
        assert engine.copy_to(file.fileno()) == 2, "the index of what was copied"
    engine.close()


@pytest.mark.parametrize("least", [0, 1 << 30])
def test_a_copy_is_cancelled_when_the_file_grows_by_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    """Its reader has stopped, and what is written meanwhile cannot use pages again."""
    monkeypatch.setattr(shared, "COPY_GROWTH_BYTES", least)
    opened = Opened(tmp_path / "state", map_bytes=1 << 28, commit_interval=0.001)
    engine = opened.engine
    index = count(1)

    def write_all() -> int:
        """Write all records again, and commit; the bytes of the file."""
        mark = b"%c" % (64 + (at := next(index)))
        engine.write(Index(at), {("plain", b"%06d" % number): mark * 300 for number in range(3_000)})
        assert opened.sync() is None
        return engine.sizes()[0]

    write_all()
    begun = engine._shared._bytes()
    source, sink = os.pipe()
    outcomes: list[int | None] = []

    def copy_out() -> None:
        try:
            outcomes.append(engine.copy_to(sink))
        except OSError as error:
            outcomes.append(error.errno)

    copier = threading.Thread(target=copy_out, daemon=True)
    copier.start()
    assert os.read(source, 1)
    sizes = [write_all() for _ in range(12)]
    assert len(engine._shared._copies) == (least > 0)
    if not least:
        assert max(sizes) < 5 * begun, "twice the file, what the last commit wrote, and the pages of that"
        assert sizes[-1] == sizes[-4], "pages are used again"
    else:
        assert sizes[-1] > 8 * begun
    with os.fdopen(source, "rb") as stream:
        os.set_blocking(source, False)
        while copier.is_alive():
            stream.read(65536)
    os.close(sink)
    assert outcomes == [1 if least else errno.EAGAIN]
    engine.close()


def test_copies_that_are_given_up_again_and_again_do_not_double_the_file_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "COPY_GROWTH_BYTES", 0)
    tables = SharedTables(tmp_path / "state", ("plain",), 1 << 28, 1 << 28)
    index = count(1)

    def write_all() -> None:
        at = next(index)
        mark = b"%c" % (64 + at % 64)
        assert (
            tables.commit(Index(at), b"", {("plain", b"%06d" % key): mark * 300 for key in range(1000)})
            is None
        )

    def copy_out(sink: int) -> None:
        with contextlib.suppress(OSError):
            tables.copy_to(sink)

    write_all()
    sizes = []
    for _ in range(5):
        source, sink = os.pipe()
        copier = threading.Thread(target=copy_out, args=(sink,), daemon=True)
        copier.start()
        assert os.read(source, 1)
        for _ in range(50):
            write_all()
        assert not tables._copies
        os.close(source)
        copier.join()
        os.close(sink)
        sizes.append(tables.sizes()[0])
    assert sizes[-1] < 9 * tables.sizes()[1], "each attempt adds a commit, which here writes all anew"
    tables.close()


def test_a_copy_is_cancelled_before_a_commit_at_the_limit_of_the_map_is_refused(tmp_path: Path) -> None:
    tables = SharedTables(tmp_path / "state", ("plain",), 2 << 20, 2 << 20)

    def write_all(index: int) -> OSError | None:
        mark = b"%c" % (64 + index % 64)
        return tables.commit(Index(index), b"", {("plain", b"%06d" % key): mark * 300 for key in range(1000)})

    assert write_all(1) is None
    source, sink = os.pipe()
    outcomes: list[int | None] = []

    def copy_out() -> None:
        try:
            outcomes.append(tables.copy_to(sink))
        except OSError as error:
            outcomes.append(error.errno)

    copier = threading.Thread(target=copy_out, daemon=True)
    copier.start()
    assert os.read(source, 1)
    assert [write_all(index) for index in range(2, 30)] == [None] * 28
    with os.fdopen(source, "rb") as stream:
        os.set_blocking(source, False)
        while copier.is_alive():
            stream.read(65536)
    os.close(sink)
    assert outcomes == [errno.EAGAIN]
    tables.close()


@pytest.mark.parametrize(("call", "code"), [("open", errno.EMFILE), ("pread", errno.EIO)])
def test_a_copy_that_cannot_begin_leaves_no_transaction_and_no_file_open(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """An open transaction would keep pages from being reused, and the file would grow with each commit."""
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"1"})
    assert opened.sync() is None

    def fail(*_arguments: Any) -> int:
        raise OSError(code, os.strerror(code))

    with (tmp_path / "copy").open("wb") as file:
        gc.collect()  # what earlier tests have left is not closed meanwhile
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is needed
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match=os.strerror(code)):
                engine.copy_to(file.fileno())
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - no path is needed
        assert not engine._shared._copies
        engine.copy_to(file.fileno())


def test_commits_go_on_while_a_copy_is_made(opened: Opened) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(3000)})
    assert opened.sync() is None
    source, sink = os.pipe()

    def copy_out() -> None:
        engine.copy_to(sink)
        os.close(sink)

    copier = threading.Thread(target=copy_out)
    copier.start()
    first = os.read(source, 1)
    for index in range(2, 20):
        changed = {("plain", b"%06d" % number): b"%d" % index * 300 for number in range(index, 3000, 7)}
        engine.write(Index(index), changed)
        assert opened.sync() is None
    with os.fdopen(source, "rb") as stream:
        copy = first + stream.read()
    copier.join()
    path = opened.engine._path.with_name("copy")
    path.write_bytes(copy)
    again = Opened(path)
    assert again.engine.applied() == 1
    assert {value for _, value in again.engine.scan("plain", b"", None)} == {b"x" * 300}
    again.engine.close()


def test_the_map_does_not_move_during_a_scan(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", map_bytes=256 * 1024, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" for number in range(500)})
    assert opened.sync() is None
    scan = engine.scan("plain", b"", None)
    assert next(scan) == (b"000000", b"x")
    engine.write(Index(2), {("other", b"%06d" % number): b"y" * 300 for number in range(5000)})
    answers = Answers()
    engine.sync(answers)
    assert engine.get("plain", b"000001") == b"x", "a read within a scan"
    assert len(list(scan)) == 499
    opened.loop.run_until(lambda: bool(answers.got))
    assert answers.got == [None]
    unread = engine.scan("plain", b"", None)
    del unread
    engine.write(Index(3), {("other", b"%07d" % number): b"y" * 300 for number in range(9000)})
    assert opened.sync() is None
    engine.close()


def test_with_little_address_space_the_map_is_small_and_a_full_one_is_an_error(tmp_path: Path) -> None:
    """In a process of its own, since the limit applies to a process."""
    source = """
import resource, sys
from pathlib import Path
from netstore.disk.engine import LmdbEngine
from netstore.types import Index
from tests.disk.fakeloop import FakeLoop
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
loop, told = FakeLoop(), []
engine = LmdbEngine(Path(sys.argv[1]), loop, ("plain",), told.append, commit_interval=0.001)
index = 0
while not told:
    index += 1
    engine.write(Index(index), {("plain", b"%d" % index): bytes(8 << 20)})
    loop.run_until(lambda: bool(told) or engine.durable() == index)
    assert index < 200
assert engine.get("plain", b"1") == bytes(8 << 20)
print(told[0].errno, index)
"""
    command = [sys.executable, "-c", source, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    number, index = map(int, done.stdout.split())
    assert number == errno.ENOSPC
    assert index > 10


def test_closing_ends_a_copy(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state")
    opened.engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(10_000)})
    assert opened.sync() is None
    source, sink = os.pipe()

    def copy_out() -> None:
        with contextlib.suppress(OSError):
            opened.engine.copy_to(sink)

    copier = threading.Thread(target=copy_out)
    copier.start()
    assert os.read(source, 1)
    opened.engine.close()
    os.close(source)
    copier.join()
    os.close(sink)
    with pytest.raises(OSError, match="closed"):
        opened.engine.copy_to(0)


def test_a_commit_at_the_limit_of_the_map_is_reported_retried_and_loses_nothing(tmp_path: Path) -> None:
    opened = Opened(
        tmp_path / "state", map_bytes=128 * 1024, map_limit_bytes=128 * 1024, commit_interval=0.001
    )
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(2000)})
    error = opened.sync()
    assert error is not None
    assert error.errno == errno.ENOSPC
    engine.write(Index(2), {("plain", b"000000"): b"newer", ("plain", b"000001"): None})
    opened.loop.run_until(lambda: len(opened.failures) >= 3)
    assert engine.durable() == 0
    assert engine.get("plain", b"001999") == b"x" * 300
    assert engine.get("plain", b"000000") == b"newer"
    engine._shared.map_limit_bytes = 1 << 30
    opened.wait_durable()
    assert engine.durable() == 2
    engine.close()
    again = Opened(tmp_path / "state")
    assert again.engine.get("plain", b"000000") == b"newer"
    assert again.engine.get("plain", b"000001") is None
    assert len(list(again.engine.scan("plain", b"", None))) == 1999
    again.engine.close()


def test_a_snapshot_replaces_everything_also_uncommitted_changes(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Opened(tmp_path / "source")
    source.engine.write(Index(9), {("plain", b"a"): b"copied", ("other", LONG): b"long"})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    engine = opened.engine
    engine.write(Index(1), {("plain", b"old"): b"1"})
    assert opened.sync() is None
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(2), {("plain", b"old"): b"2"})
    answers = Answers()
    engine.sync(answers)
    assert reached.wait(seconds(TIMEOUT))
    engine.write(Index(3), {("plain", b"pending"): b"3"})
    engine.install(image, answers)
    assert answers.got == []
    go_on.set()
    opened.loop.run_until(lambda: len(answers.got) == 2)
    assert answers.got == [None, None]
    assert (engine.applied(), engine.durable()) == (9, 9)
    assert list(engine.scan("plain", b"", None)) == [(b"a", b"copied")]
    assert (engine.get("plain", b"pending"), engine.get("other", LONG)) == (None, b"long")
    assert not image.exists()
    engine.write(Index(10), {("plain", b"b"): b"after"})
    assert opened.sync() is None
    assert engine.durable() == 10


def test_a_snapshot_that_cannot_be_installed_ends_commits(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state")
    answers = Answers()
    opened.engine.install(tmp_path / "none", answers)
    opened.loop.run_until(lambda: bool(answers.got))
    assert isinstance(answers.got[0], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        opened.engine.close()


@pytest.mark.root
def test_a_really_full_disk_is_reported_and_recovers_when_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        (folder / "ballast").write_bytes(bytes(512 * 1024))
        opened = Opened(folder / "state", commit_interval=0.001)
        opened.engine.write(Index(1), {("plain", b"small"): b"1"})
        assert opened.sync() is None
        opened.engine.write(Index(2), {("plain", b"%06d" % number): b"x" * 300 for number in range(1500)})
        error = opened.sync()
        assert error is not None
        assert error.errno == errno.ENOSPC
        assert opened.engine.durable() == 1
        (folder / "ballast").unlink()
        opened.wait_durable()
        opened.engine.close()
        again = Opened(folder / "state")
        assert len(list(again.engine.scan("plain", b"", None))) == 1501
        again.engine.close()
    finally:
        subprocess.run(["umount", folder], check=True)


def go_through(engine: LmdbEngine, trackers: list[Tracker], steps: int) -> None:
    for _ in range(steps):
        if not trackers:
            return
        if engine.verify_step(trackers[0], 7, 1000) is None:
            trackers.pop(0)


def test_commits_between_the_steps_of_a_verification_keep_its_totals_correct(tmp_path: Path) -> None:
    """Records are added and removed before and after the position that the verification has reached."""
    opened = Opened(tmp_path / "state")
    engine = opened.engine
    trackers = [Tracker(table) for table in engine.databases]
    index = 0
    while trackers:
        index += 1
        keys = [b"%03d" % (index * each % 97) for each in (3, 7, 31)]
        changes: dict[tuple[str, bytes], bytes | None] = {
            ("plain", keys[0]): b"%d" % index,
            ("plain", keys[1]): None,
            ("other", keys[2] * 200): b"%d" % index if index % 2 else None,
        }
        engine.write(Index(index), changes)
        assert opened.sync() is None
        go_through(engine, trackers, 1 if index > 60 else 0)
    assert index > 70
    engine.close()


def test_verifying_in_steps_detects_a_missing_record(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"%03d" % number): b"1" for number in range(50)})
    raw(path, lambda env, txn: txn.delete(b"030", db=env.open_db(b"plain", txn)))
    told: list[StateDamaged] = []
    opened = Opened(path, on_damage=told.append)
    trackers = [Tracker(table) for table in opened.engine.databases]
    with pytest.raises(StateDamaged, match="table plain: 49 records, 50 were written"):
        go_through(opened.engine, trackers, 100)
    opened.loop.run_ready()
    assert len(told) == 1
    opened.engine.close()


def test_verifying_a_replaced_state_must_start_again(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(tmp_path / "copy", {("plain", b"a"): b"1"})
    opened = Opened(path)
    tracker = Tracker("plain")
    opened.engine.write(Index(1), {("plain", b"b"): b"1"})
    assert opened.sync() is None
    assert opened.engine.verify_step(tracker, 1, 1000)
    done: list[OSError | None] = []
    opened.engine.install(tmp_path / "copy", done.append)
    opened.loop.run_until(lambda: bool(done))
    with pytest.raises(OSError, match="replaced"):
        opened.engine.verify_step(tracker, 1, 1000)
    opened.engine.close()
