"""A full backup of a member leads on in its archive, and that of a store begun anew in its place does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.backupfile import BackupReader, LogPart
from tests.support import control
from tests.support.archives import wait_until_archived
from tests.support.cluster import put
from tests.support.daemon import free_port, start_netstored

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support.daemon import Daemon


def filled(daemon: Daemon, backup: Path) -> int:
    """Write, save a backup, and write more; the index of the backup."""
    for value in "1234":
        assert put(daemon, "a", value).status in {200, 201}
    done = control.run("--endpoints", daemon.url, "snapshot", "save", str(backup))
    assert done.returncode == 0, done.stderr
    for value in "5678":
        assert put(daemon, "a", value).status in {200, 201}
    wait_until_archived(daemon)
    assert daemon.stop() == 0
    with backup.open("rb") as file:
        header = BackupReader(file, str(backup)).header
    assert isinstance(header.log, LogPart)
    assert header.log.last == header.index
    return header.index


def test_a_backup_of_a_store_in_whose_place_another_one_was_begun_is_refused(tmp_path: Path) -> None:
    backups = [tmp_path / "first.backup", tmp_path / "second.backup"]
    archives = [tmp_path / "a1", tmp_path / "a2"]
    ends = []
    peer_port = free_port()  # the cluster id follows from it
    for number, (backup, archive) in enumerate(zip(backups, archives, strict=True)):
        data = tmp_path / "data"
        flags = ("--archive-folder", str(archive), "--archive-lag-seconds", "1")
        with start_netstored(tmp_path, *flags, data_dir=data, peer_port=peer_port) as daemon:
            ends.append(filled(daemon, backup) + 2)
        data.rename(tmp_path / f"data{number}")

    def extract(backup: Path, archive: Path, to: int) -> subprocess.CompletedProcess[str]:
        made = str(tmp_path / f"{backup.name}-{archive.name}")
        base = ("--base", str(backup), "--to-index", str(to))
        return control.run("archive", "extract", str(archive), made, *base)

    for backup, archive, end in zip(backups, archives, ends, strict=True):
        done = extract(backup, archive, end)
        assert done.returncode == 0, done.stderr
    refused = extract(backups[0], archives[1], max(ends))
    assert refused.returncode != 0
    assert f"{backups[0]}: is of another log than the archive: their entries up to" in refused.stderr
