"""The disk of a log: its mount, and that a check leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netstore.cli.checks import disk
from netstore.cli.checks.disk import check_disk, mount_of, sync_times
from netstore.cli.checks.finding import State

if TYPE_CHECKING:
    from netstore.cli.checks.finding import Finding

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /var/lib rw - xfs /dev/sdb1 rw
24 23 0:22 / /var/lib/two\\040words rw - nfs4 host:/x rw
25 22 0:23 / /var/li rw - tmpfs tmpfs rw
26 22 0:23 / /over rw - tmpfs tmpfs rw
27 22 0:24 / /over rw - btrfs /dev/sdc rw
rubbish
"""


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/var/lib/netstore", ("/var/lib", "xfs")),
        ("/var/lib", ("/var/lib", "xfs")),
        ("/var/lib/two words/x", ("/var/lib/two words", "nfs4")),
        ("/var/libs", ("/", "ext4")),
        ("/var/li/x", ("/var/li", "tmpfs")),
        ("/over/x", ("/over", "btrfs")),
    ],
)
def test_the_mount_of_a_folder(folder: str, found: tuple[str, str]) -> None:
    assert mount_of(Path(folder), MOUNTS) == found


def test_no_mount_is_listed() -> None:
    assert mount_of(Path("/x"), "") is None


def states(folder: Path, kind: str, root: Path, *, is_named: bool = True) -> dict[str, Finding]:
    (root / "proc/self").mkdir(parents=True)
    point = "/" if kind == "root" else folder
    (root / "proc/self/mountinfo").write_text(f"1 1 8:1 / {point} rw - {kind} x rw\n")
    return {each.subject: each for each in check_disk(folder, is_named=is_named, root=root)}


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("ext4", State.OK),
        ("tmpfs", State.WARNING),
        ("nfs4", State.WARNING),
        ("fuse.sshfs", State.WARNING),
        ("root", State.WARNING),
    ],
)
def test_the_kind_of_file_system(tmp_path: Path, kind: str, state: State) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    found = states(folder, kind, tmp_path / "root")
    assert found["file system"].state is state
    assert set(found) == {"file system", "space", "sync"}
    assert list(folder.iterdir()) == [], "nothing is left behind"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for is_named, state in ((True, State.WRONG), (False, State.ABSENT)):
        [found] = check_disk(tmp_path / "none", is_named=is_named)
        assert found.state is state


def test_slow_syncs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for median, state in ((0.001, State.OK), (0.02, State.WARNING), (0.2, State.WRONG)):
        monkeypatch.setattr(disk, "sync_times", lambda _folder, median=median: [0.0, median, 0.3])
        [found] = [each for each in check_disk(tmp_path, is_named=True) if each.subject == "sync"]
        assert found.state is state


def test_a_folder_that_cannot_be_written_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> list[float]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk, "sync_times", refuse)
    [found] = [each for each in check_disk(tmp_path, is_named=True) if each.subject == "sync"]
    assert (found.state, "Permission denied" in found.told) == (State.UNKNOWN, True)


def test_syncs_are_measured_in_order(tmp_path: Path) -> None:
    times = sync_times(tmp_path)
    assert times == sorted(times)
    assert 1 <= len(times) <= disk.SYNCS
