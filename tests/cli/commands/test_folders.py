"""A folder of another kind than is wanted is named, with the command for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.cli.commands.folders import advice
from netstore.disk.archivefile import ArchiveWriter
from netstore.disk.backupfile import MAGIC
from netstore.types import ClusterId
from tests.support.daemon import start_netstored

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run


def test_each_kind_of_folder_has_its_command(tmp_path: Path) -> None:
    for name, file in (
        ("archive", f"{1:016x}-{2:016x}.entries"),
        ("etcd", "member/snap/db"),
        ("backups", "b"),
        ("empty", "sub/x"),
    ):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(MAGIC if name == "backups" else b"")
    assert advice(tmp_path / "empty", "a backup") is None
    for name, words in (
        ("etcd", f"is the data folder of an etcd, not a backup: use netstorectl import {tmp_path}/etcd"),
        ("backups", f"is a folder with backups; name one of its files, such as {tmp_path}/backups/b"),
    ):
        assert words in (advice(tmp_path / name, "a backup") or "")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a netstored that is stopped."""
    home = tmp_path_factory.mktemp("stopped")
    with start_netstored(home) as daemon:
        return daemon.data_dir


@pytest.mark.parametrize("words", [("import",), ("snapshot", "status"), ("snapshot", "restore")])
def test_the_folder_of_a_netstored_is_not_imported_or_restored(
    run: Run, stopped: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = () if words[-1] == "status" else ("--data-dir", str(tmp_path / "new"))
    told = run(*words, str(stopped), *target)
    assert told.status == 1
    assert f"{stopped}: is the data folder of a netstored, not " in told.err
    assert f"start netstored --data-dir {stopped}, or copy the folder while it is stopped" in told.err
    assert "netstorectl snapshot save while it runs, and snapshot restore" in told.err
    assert not (tmp_path / "new").exists()


def test_an_etcd_is_not_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "etcd" / "member" / "snap").mkdir(parents=True)
    told = run("export", str(tmp_path / "etcd"), "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert (
        "is the data folder of an etcd, not the data folder of a netstore: use netstorectl import" in told.err
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("default/member/snap/db", "is the data folder of an etcd, not an archive: use netstorectl import"),
        ("backups/b", "is a folder with backups; name one of its files"),
        ("photos/a.jpg", "has no file of an archive: name the archive_folder of a member"),
    ],
)
def test_no_archive_is_no_empty_archive(run: Run, tmp_path: Path, file: str, words: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(MAGIC if path.name == "b" else b"")
    folder = str(tmp_path / file.partition("/")[0])
    new = str(tmp_path / "new")
    for command in (
        ("archive", "ls", folder),
        ("archive", "extract", folder, new, "--to-index", "5"),
        ("history", "--archive", folder, "k"),
        ("snapshot", "restore", "--archive", folder, "--to-index", "5", "--data-dir", new),
    ):
        told = run(*command)
        assert told.status == 1
        assert not told.out
        assert f"{folder}: {words}" in told.err


def test_an_archive_that_was_begun_is_listed(run: Run, tmp_path: Path) -> None:
    ArchiveWriter.open(tmp_path, ClusterId(1), "5a").close()
    told = run("archive", "ls", str(tmp_path), "-o", "json")
    assert (told.status, told.document["parts"]) == (0, [])
