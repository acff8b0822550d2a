"""`netstorectl export`: what it asks for and tells. The data itself: `tests/process/test_migration.py`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli.commands.test_importing import snapshot
from tests.support.daemon import start_netstored

if TYPE_CHECKING:
    from tests.cli.commands.conftest import Run


def member(run: Run, folder: Path) -> Path:
    assert run("import", str(snapshot(folder)), "--data-dir", str(folder / "member")).status == 0
    return folder / "member"


def test_a_folder_and_a_file(run: Run, tmp_path: Path) -> None:
    source = str(member(run, tmp_path))
    told = run("export", source, "--data-dir", str(tmp_path / "etcd"), "-o", "json")
    assert told.status == 0, told.err
    assert told.document["v2Nodes"] == 0
    assert sorted(path.name for path in (tmp_path / "etcd" / "member").iterdir()) == ["snap", "wal"]
    told = run("export", source, "--snapshot", str(tmp_path / "out.db"), "-o", "json")
    assert told.document == {"file": str(tmp_path / "out.db"), "size": (tmp_path / "out.db").stat().st_size}
    again = run("import", str(tmp_path / "out.db"), "--data-dir", str(tmp_path / "again"), "-o", "json")
    assert again.document["revision"] == 3


def test_a_full_backup(run: Run, tmp_path: Path) -> None:
    with start_netstored(tmp_path, data_dir=member(run, tmp_path)) as daemon:
        assert run("key", "set", "--endpoints", daemon.url, "/kept", "1").status == 0
        assert run("snapshot", "save", "--endpoints", daemon.url, str(tmp_path / "full")).status == 0
    before = sorted(tmp_path.iterdir())
    told = run("export", str(tmp_path / "full"), "--data-dir", str(tmp_path / "etcd"), "-o", "json")
    assert told.status == 0, told.err
    assert told.document["v2Nodes"] == 1
    refused = run("export", str(tmp_path / "full"), "--snapshot", str(tmp_path / "o"), "--skip-hash-check")
    assert (refused.status, "a full backup is always verified" in refused.err) == (2, True)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "etcd"]), "nothing else is left"
    again = run("import", str(tmp_path / "etcd"), "--data-dir", str(tmp_path / "again"), "-o", "json")
    assert (again.document["v2Nodes"], again.document["revision"]) == (1, 3)
    (tmp_path / "full").write_bytes((tmp_path / "full").read_bytes()[:-9])
    told = run("export", str(tmp_path / "full"), "--data-dir", str(tmp_path / "other"))
    assert told.status == 1
    assert "offset" in told.err
    assert not (tmp_path / "other").exists()


def test_a_snapshot_without_its_digest(run: Run, tmp_path: Path) -> None:
    file = snapshot(tmp_path)
    file.write_bytes(file.read_bytes()[:-32])
    words = ("export", str(file), "--data-dir", str(tmp_path / "etcd"))
    told = run(*words)
    assert (told.status, "go on with --skip-hash-check" in told.err) == (1, True)
    assert run(*words, "--skip-hash-check").status == 0
    again = run("import", str(tmp_path / "etcd"), "--data-dir", str(tmp_path / "again"), "-o", "json")
    assert again.document["revision"] == 3
    told = run("export", str(tmp_path), "--snapshot", str(tmp_path / "out.db"), "--skip-hash-check")
    assert (told.status, "--skip-hash-check: is for a snapshot file" in told.err) == (2, True)


def test_the_database_of_an_etcd_that_runs_is_not_read(run: Run, tmp_path: Path) -> None:
    file, folder = str(snapshot(tmp_path)), str(tmp_path / "new")
    commands = (
        ("export", file, "--data-dir", folder),
        ("export", file, "--snapshot", folder, "--skip-hash-check"),
        ("snapshot", "restore", file, "--data-dir", folder),
        ("snapshot", "status", file),
        ("snapshot", "verify", file),
        ("import", file, "--data-dir", folder),
    )
    with Path(file).open("rb+") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        for words in commands:
            told = run(*words)
            assert (told.status, told.out) == (1, "")
            assert f"{file}: in use by an etcd that runs: stop it, or " in told.err
        assert list(tmp_path.iterdir()) == [Path(file)]
        fcntl.flock(used, fcntl.LOCK_UN)
    for words in commands[3:]:
        assert run(*words).status == 0


def test_a_command_line_that_is_wrong(run: Run, tmp_path: Path) -> None:
    for words in ((), ("--data-dir", str(tmp_path / "a"), "--snapshot", str(tmp_path / "b"))):
        told = run("export", str(tmp_path), *words)
        assert told.status == 2
        assert "give either --data-dir or --snapshot" in told.err


def test_what_source_and_target_do_not_need_is_refused(run: Run, tmp_path: Path) -> None:
    source, file = snapshot(tmp_path), ("--snapshot", str(tmp_path / "out.db"))
    for words, option in (
        ((str(tmp_path), *file, "--name", "n1"), "--name"),
        (
            (str(tmp_path), *file, "--initial-advertise-peer-urls", "http://h:1"),
            "--initial-advertise-peer-urls",
        ),
        ((str(source), *file, "--source-wal-dir", str(tmp_path)), "--source-wal-dir"),
    ):
        told = run("export", *words)
        assert told.status == 2
        assert f"{option}: is for a data folder" in told.err
    assert not (tmp_path / "out.db").exists()


def test_a_peer_url_that_is_none(run: Run, tmp_path: Path) -> None:
    words = ("export", str(member(run, tmp_path)), "--data-dir", str(tmp_path / "etcd"))
    told = run(*words, "--initial-advertise-peer-urls", "foo")
    assert told.status == 2
    assert "--initial-advertise-peer-urls: 'foo' is not a URL" in told.err
    assert not (tmp_path / "etcd").exists()


def test_what_is_no_source(run: Run, tmp_path: Path) -> None:
    told = run("export", str(tmp_path / "gone"), "--data-dir", str(tmp_path / "etcd"))
    assert told.status == 1
    assert "is not there: name a data folder, or a file of netstorectl snapshot save" in told.err
    told = run("export", str(tmp_path), "--data-dir", str(tmp_path / "etcd"))
    assert told.status == 1
    assert "not the data folder of a netstore" in told.err


def test_a_target_in_the_source(run: Run, tmp_path: Path) -> None:
    source, link = member(run, tmp_path), tmp_path / "link"
    link.symlink_to(source)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for target in (
        ("--snapshot", str(source / "state" / "state.lmdb")),
        ("--snapshot", str(link / "identity")),
        ("--data-dir", str(source / "etcd")),
    ):
        told = run("export", str(source), *target)
        assert told.status == 1
        assert "is in what is read" in told.err
    file = str(snapshot(tmp_path))
    told = run("import", file, "--data-dir", file)
    assert (told.status, "is in what is read" in told.err) == (1, True)
    with start_netstored(tmp_path) as daemon:
        assert run("snapshot", "save", "--endpoints", daemon.url, str(tmp_path / "full")).status == 0
    full = (tmp_path / "full").read_bytes()
    told = run("export", str(tmp_path / "full"), "--snapshot", str(tmp_path / "full"))
    assert (told.status, "is in what is read" in told.err) == (1, True)
    assert (tmp_path / "full").read_bytes() == full
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_a_target_that_has_something(run: Run, tmp_path: Path) -> None:
    source = str(member(run, tmp_path))
    told = run("export", source, "--data-dir", source)
    assert told.status == 1
    assert "is not empty; nothing was changed" in told.err


def test_a_wrong_log_folder_is_told_with_the_option_that_names_it(run: Run, tmp_path: Path) -> None:
    file, log = str(snapshot(tmp_path)), tmp_path / "log"
    assert run("import", file, "--data-dir", str(tmp_path / "member"), "--wal-dir", str(log)).status == 0
    words = ("export", str(tmp_path / "member"), "--data-dir", str(tmp_path / "etcd"))
    told = run(*words)
    assert told.status == 1
    assert "name with --source-wal-dir the folder that netstored was given as --wal-dir" in told.err
    (tmp_path / "other").mkdir()
    told = run(*words, "--source-wal-dir", str(tmp_path / "other"))
    assert told.status == 1
    assert "other: not the log folder of member" in told.err
    assert "or name it with --source-wal-dir" in told.err
    assert run(*words, "--source-wal-dir", str(log)).status == 0


def test_nothing_but_a_file_is_replaced_by_a_snapshot(run: Run, tmp_path: Path) -> None:
    source = snapshot(tmp_path)
    places = tmp_path / "places"
    places.mkdir()
    (places / "file").write_text("theirs")
    (places / "link").symlink_to("file")
    os.mkfifo(places / "pipe")
    before = {path: path.lstat() for path in places.iterdir()}
    for target, problem in (
        (places / "pipe", "is a pipe, not a regular file"),
        (places / "link", "is a symbolic link, and would be replaced by a file"),
        (Path("/dev/null"), "is a device, not a file"),
    ):
        told = run("export", str(source), "--snapshot", str(target))
        assert (told.status, f"{target}: {problem}; name a regular file" in told.err) == (1, True), told.err
    assert {path: path.lstat() for path in places.iterdir()} == before
    assert Path("/dev/null").is_char_device()
