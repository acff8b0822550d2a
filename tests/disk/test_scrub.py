"""The scrubber verifies everything, within its rate, and ends when it finds damage."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from netstore.disk.scrub import RECORD_COST, ROUND_SECONDS, STEP_RECORDS, Scrubber
from netstore.disk.tables import Tracker
from netstore.types import Index
from tests.disk.fakeloop import TIMEOUT
from tests.disk.opened import Opened
from tests.disk.states import spoil
from tests.support.member import Lines
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.errors import StateDamaged


def state(path: Path, told: list[StateDamaged]) -> Opened:
    opened = Opened(path, on_damage=told.append)
    opened.engine.write(Index(1), {("plain", b"%04d" % number): b"v" * 100 for number in range(500)})
    opened.engine.write(Index(2), {("other", b"spoiled"): b"to be spoiled", ("other", b"k" * 600): b"long"})
    assert opened.sync() is None
    return opened


class Patience:
    """Records how long it was asked to wait, and ends the scrubber after so many rounds."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if seconds > ROUND_SECONDS / 2:
            self.left -= 1
        return self.left == 0


def run(scrubber: Scrubber) -> None:
    scrubber.start()
    scrubber._thread.join(seconds(TIMEOUT))
    assert not scrubber._thread.is_alive()


def test_a_round_verifies_everything_at_its_rate_and_is_logged(tmp_path: Path) -> None:
    told: list[StateDamaged] = []
    opened, patience, lines = state(tmp_path / "state", told), Patience(2), Lines()
    scrubber = Scrubber(opened.engine, 1, lines, wait=patience)
    run(scrubber)
    assert (scrubber.rounds, lines.events, told) == (2, ["state_verified"] * 2, [])
    assert scrubber.verified_bytes >= 500 * 104
    least = 2 * (500 / STEP_RECORDS) * STEP_RECORDS * RECORD_COST / (1 << 20)
    assert sum(wait for wait in patience.waits if wait < 1) >= least
    opened.engine.close()


def test_damage_is_reported_and_ends_the_rounds(tmp_path: Path) -> None:
    told: list[StateDamaged] = []
    opened = state(tmp_path / "state", told)
    spoil(tmp_path / "state", b"to be spoiled")
    scrubber = Scrubber(opened.engine, 1, Lines(), wait=Patience(9))
    run(scrubber)
    opened.loop.run_ready()
    assert ["key b'spoiled': not what was written" in str(each) for each in told] == [True]
    assert scrubber.rounds == 0
    opened.engine.close()


def test_a_failed_commit_is_not_counted(tmp_path: Path) -> None:
    """Only commits that succeed change the totals of what was verified."""
    opened = Opened(tmp_path / "state", map_bytes=1 << 20, map_limit_bytes=1 << 24, commit_interval=60)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%04d" % number): b"v" for number in range(64)})
    assert opened.sync() is None
    tracker = Tracker("plain")
    assert engine.verify_step(tracker, 32, 1 << 20) is not None
    engine.write(Index(2), {("plain", b"%04d-" % number): b"x" * 100_000 for number in range(20)})
    assert opened.sync() is None, "after the map has grown"
    while engine.verify_step(tracker, 32, 1 << 20) is not None:
        pass
    engine.close()


def test_a_replaced_state_is_verified_from_the_start() -> None:
    class Replaced:
        databases = ("plain",)
        steps = 0

        def verify_step(self, _tracker: Tracker, _records: int, _bytes: int) -> int | None:
            self.steps += 1
            if self.steps == 2:
                raise OSError(errno.EAGAIN, "replaced")
            return 1 if self.steps < 5 else None

    lines = Lines()
    scrubber = Scrubber(Replaced(), 1, lines, wait=Patience(1))  # type: ignore[arg-type]
    run(scrubber)
    assert (scrubber.rounds, lines.events) == (1, ["state_verified"])


def test_it_can_be_stopped_and_never_begins_at_rate_0(tmp_path: Path) -> None:
    opened = state(tmp_path / "state", [])
    idle = Scrubber(opened.engine, 0, Lines())
    idle.start()
    idle.stop()
    busy = Scrubber(opened.engine, 1, Lines())
    busy.start()
    busy.stop()
    assert not busy._thread.is_alive()
    opened.engine.close()


def test_a_round_begins_at_once_when_something_may_be_damaged(tmp_path: Path) -> None:
    told: list[StateDamaged] = []
    opened, lines = state(tmp_path / "state", told), Lines()
    scrubber = Scrubber(opened.engine, 1024, lines)
    scrubber.start()
    until(lambda: scrubber.rounds == 1, "the first round")
    scrubber.hurry()
    until(lambda: scrubber.rounds == 2, "a round that does not wait for the hour")
    scrubber.stop()
    assert told == []
    opened.engine.close()
