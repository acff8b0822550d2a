"""Notes of how far the log was synced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.disk.devices import Disk


def test_the_last_two_notes_are_there_when_the_write_is_answered(disk: Disk) -> None:
    assert disk.device.notes() == []
    for number in range(5):
        disk.write_noted("a", b"x" * 10, b"note %d" % number)
        assert disk.settle()[-1] is None
        assert b"note %d" % number in disk.device.notes()
    assert sorted(disk.device.notes()) == [b"note 3", b"note 4"]
    assert disk.device.names() == ["a"]
    assert (disk.folder / "synced").stat().st_mode & 0o777 == 0o600


def test_a_note_that_cannot_be_written_fails_nothing(disk: Disk) -> None:
    (disk.folder / "synced").mkdir()
    disk.write_noted("a", b"x", b"note")
    assert disk.settle() == [None]
