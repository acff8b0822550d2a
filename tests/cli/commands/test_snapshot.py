"""`netstorectl snapshot` against real stores, and what it says of files that it cannot use."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import stat
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from netstore.cli import netstorectl
from netstore.cli.commands.snapshot import _Bar
from netstore.disk.backupfile import MAGIC
from netstore.disk.datadir import read_token
from netstore.etcdfile import boltwriter
from netstore.proto import rpc_pb2 as pb
from tests.cli.commands.test_importing import snapshot
from tests.support.daemon import start_netstored
from tests.support.peers import etcdctl
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A full backup of a store with a key in each API."""
    folder = tmp_path_factory.mktemp("full")
    with start_netstored(folder) as daemon, closing(V3Client(daemon.url)) as client:
        client.kv.Put(pb.PutRequest(key=b"k", value=b"v"))
        words = ("--endpoints", daemon.url)
        assert netstorectl.run([*words, "key", "set", "/a/b", "1"]) == 0
        assert netstorectl.run([*words, "snapshot", "save", str(folder / "full")]) == 0
    return (folder / "full").read_bytes()


@pytest.fixture
def file(full: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "full.backup"
    path.write_bytes(full)
    return path


def test_a_store_is_saved(ctl: Run, tmp_path: Path) -> None:
    file = tmp_path / "saved"
    file.write_text("an older one")
    told = ctl("snapshot", "save", str(file), "-o", "json")
    assert told.status == 0, told.err
    found = told.document
    assert found["file"] == str(file)
    assert found["size"] in (file.stat().st_size, file.stat().st_size - 32)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert ("FILE gets its v3 keys" in told.err) == (found["kind"] == "v3")
    again = ctl("snapshot", "status", str(file), "-o", "json").document
    assert again == found


@pytest.mark.peer("etcdctl")
def test_a_v3_snapshot_is_what_etcdctl_says_it_is(ctl: Run, store: str, tmp_path: Path) -> None:
    file = tmp_path / "saved.db"
    assert ctl("key", "set", "/a", "1").status == 0
    told = ctl("snapshot", "save", "--v3", str(file), "-o", "json")
    assert told.status == 0, told.err
    found = told.document
    words = ("snapshot", "status", str(file), "-w", "json")
    judged = json.loads(etcdctl(store, *words, environment={"ETCDCTL_API": "3"}).stdout)
    assert int(found["hash"], 16) == judged["hash"]
    assert (found["revision"], found["records"], found["size"]) == (
        judged["revision"],
        judged["totalKey"],
        judged["totalSize"],
    )
    assert ctl("snapshot", "verify", str(file), "-o", "json").document["verified"] == "read through"


def test_a_full_backup_is_verified(run: Run, file: Path) -> None:
    found = run("snapshot", "verify", str(file), "-o", "json").document
    assert found["verified"] == "restored into memory"
    assert (found["kind"], found["keys"], found["nodes"]) == ("full", 1, 2)
    [row] = run("snapshot", "verify", str(file)).rows
    assert row[-1] == "restored into memory"


def test_damage_is_told_with_its_offset(run: Run, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    for words in (("status",), ("verify",), ("restore", "--data-dir", str(tmp_path / "new"))):
        told = run("snapshot", words[0], str(file), *words[1:])
        assert told.status == 1
        assert f"netstorectl: {file}: damaged at offset " in told.err
    assert not (tmp_path / "new").exists()


def test_a_restored_folder_is_started(run: Run, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    told = run("snapshot", "restore", str(file), "--data-dir", str(folder), "-o", "json")
    assert told.status == 0, told.err
    assert told.document["dataDir"] == str(folder)
    assert told.document["revision"] == 2
    assert len(read_token(folder) or "") == 64
    with start_netstored(tmp_path, data_dir=folder) as daemon, closing(V3Client(daemon.url)) as client:
        assert client.kv.Range(pb.RangeRequest(key=b"k")).kvs[0].value == b"v"
        assert run("--endpoints", daemon.url, "key", "get", "/a/b").out == "1\n"
    told = run("snapshot", "restore", str(file), "--data-dir", str(folder))
    assert told.status == 1
    assert "choose a new or empty folder" in told.err


def test_a_folder_is_restored_with_its_log_elsewhere(run: Run, file: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "new", tmp_path / "log"
    words = ("snapshot", "restore", str(file), "--data-dir", str(folder), "--wal-dir", str(log))
    assert run(*words).status == 0
    with start_netstored(tmp_path, "--wal-dir", str(log), data_dir=folder) as daemon:
        assert run("--endpoints", daemon.url, "key", "get", "/a/b").out == "1\n"
    assert not (folder / "wal").exists()


def test_a_snapshot_of_a_store_that_asks_for_passwords(run: Run, tmp_path: Path) -> None:
    auth = {b"authEnabled": b"\1", b"authRevision": bytes(8)}
    source = str(snapshot(tmp_path, auth=auth, authUsers={b"root": b""}))
    for words in (("snapshot", "restore"), ("export",)):
        folder = tmp_path / words[0]
        told = run(*words, source, "--data-dir", str(folder))
        assert told.status == 1
        assert "this etcd asks for passwords" in told.err
        assert not folder.exists()
        told = run(*words, source, "--data-dir", str(folder), "--without-auth")
        assert told.status == 0, told.err
        assert "1 keys have a lease that does not exist" in told.err


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("save", "."), 1, ".: is a folder, not a file; name a regular file"),
        (("save", "none/file"), 1, "none/file: No such file or directory; name one that is there"),
        (("save", "x", "--rate", "fast"), 2, "'fast' is no rate; write bytes a second as 500K"),
        (("save", "x", "--rate", "0"), 2, "'0' is no rate"),
        (("status", "none"), 1, "none: No such file or directory"),
        (("status", "/dev/null"), 1, "/dev/null: "),
        (("restore", "FILE"), 2, "Missing option '--data-dir'"),
        (("restore", "FILE", "--data-dir", "d", "--bump-revision", "5"), 2, "needs --mark-compacted"),
        (("restore", "FILE", "--data-dir", "d", "--mark-compacted"), 2, "needs --bump-revision"),
        (("restore", "FILE", "--data-dir", "d", "--skip-hash-check"), 2, "is for v3 snapshots"),
        (
            ("restore", "FILE", "--data-dir", "d", "--initial-cluster-token", "t" * 257),
            2,
            "--initial-cluster-token: give at most 256 printable characters",
        ),
        (("restore", "FILE", "--data-dir", "d", "--name", "a b"), 2, "--name: 'a b' is not usable"),
        (
            ("restore", "FILE", "--data-dir", "d", "--initial-cluster", "a=http://h:1"),
            2,
            "--initial-cluster: names a, and not default; add it",
        ),
        (
            ("restore", "FILE", "--data-dir", "d", "--initial-cluster", "default=h:1"),
            2,
            "--initial-cluster: 'h:1' ",
        ),
        (
            (
                *("restore", "FILE", "--data-dir", "d", "--initial-cluster", "default=http://h:1"),
                *("--initial-advertise-peer-urls", "http://h:2"),
            ),
            2,
            "--initial-cluster: gives default the URLs http://h:1, and --initial-advertise-peer-urls http://h:2",
        ),
    ],
)
def test_what_cannot_be_done_is_told(  # noqa: PLR0917 - fixtures and parameters
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int, error: str
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("NETSTORE_ENDPOINTS", "http://127.0.0.1:1")
    if words[0] == "save":
        monkeypatch.setattr("netstore.cli.commands.snapshot._is_netstore", lambda _: True)
    told = run("snapshot", *(str(file) if word == "FILE" else word for word in words))
    assert told.status == status, told
    assert error in told.err
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is left"


@pytest.mark.parametrize("words", [("restore", "--data-dir", "d"), ("status",), ("verify",)])
def test_a_folder_in_place_of_a_backup_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / f"{0:016x}.state").touch()
    (tmp_path / "etcd" / "member" / "snap").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "identity").write_text("netstore data folder\n")
    (tmp_path / "backups").mkdir()
    for name in ("a", "b"):
        (tmp_path / "backups" / name).write_bytes(MAGIC)
    (tmp_path / "backups" / "c").write_bytes(b"other")
    (tmp_path / "v3").mkdir()
    with (tmp_path / "v3" / "a.db").open("wb") as file:
        boltwriter.write(file, {b"key": []})
    (tmp_path / "v3" / "b").symlink_to("/proc/self/mem")
    (tmp_path / "an etcd" / "member" / "snap").mkdir(parents=True)
    (tmp_path / "an archive").mkdir()
    (tmp_path / "an archive" / f"{0:016x}.state").touch()
    for name, text in (
        ("empty", "empty: is a folder, and has no backup in it; name a file"),
        ("archive", "archive: is an archive of the log, not a backup: restore from it with"),
        ("archive", "netstorectl snapshot restore --archive archive"),
        ("etcd", "etcd: is the data folder of an etcd, not a backup: use netstorectl import etcd"),
        ("an archive", "netstorectl snapshot restore --archive 'an archive' and"),
        ("an etcd", "use netstorectl import 'an etcd' --data-dir"),
        ("v3", "v3: is a folder with backups; name one of its files, such as v3/a.db"),
        ("own", "own: is the data folder of a netstored, not a backup"),
        ("backups", "backups: is a folder with backups; name one of its files, such as backups/b"),
    ):
        told = run("snapshot", *words, name)
        assert (told.status, text in told.err) == (1, True), told.err
    assert not (tmp_path / "d").exists()


def test_a_store_that_does_not_answer_leaves_no_file(run: Run, tmp_path: Path) -> None:
    told = run("--endpoints", "http://127.0.0.1:1", "snapshot", "save", str(tmp_path / "x"))
    assert told.status == 4
    assert list(tmp_path.iterdir()) == []


def test_no_device_is_replaced_by_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netstore.cli.commands.snapshot._is_netstore", lambda _: True)
    os.mkfifo(tmp_path / "x")
    told = run("snapshot", "save", str(tmp_path / "x"))
    assert told.status == 1
    assert "x: is a pipe, not a regular file; name a regular file" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_members_restored_without_a_token_are_warned_of_those_of_another_restore(
    run: Run, file: Path, tmp_path: Path
) -> None:
    cluster = ("--initial-cluster", "a=http://h:1,b=http://h:2", "--name", "a")
    option = "--initial-cluster-token"
    fixes = set()
    for number, more in enumerate(((), (option, ""), (option, "another"), (option, "etcd-cluster"))):
        told = run(
            "snapshot", "restore", str(file), "--data-dir", str(tmp_path / f"{number}"), *cluster, *more
        )
        assert told.status == 0, told.err
        assert ("give each restore a token of its own" in told.err) is (number < 2)
        fix = f"remove {tmp_path / str(number)}, and restore each member with {option} ([0-9a-f]{{32}})$"
        fixes |= set(re.findall(fix, told.err, re.MULTILINE))
    assert len(fixes) == 2, "the one that is proposed is new each time"


def test_members_restored_one_by_one_without_a_token_are_one_cluster(
    run: Run, file: Path, tmp_path: Path
) -> None:
    words = ("snapshot", "restore", str(file), "--initial-cluster", "a=http://h:1,b=http://h:2", "-o", "json")
    one, other = (run(*words, "--data-dir", str(tmp_path / name), "--name", name).document for name in "ab")
    assert one["cluster"] == other["cluster"]
    assert one["member"] != other["member"]


def test_two_commands_do_not_write_one_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netstore.cli.commands.snapshot._is_netstore", lambda _: True)
    with (tmp_path / ".x.part").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        told = run("snapshot", "save", str(tmp_path / "x"))
    assert told.status == 1
    assert "x: is being written by another command; wait, or name another file" in told.err
    assert (tmp_path / ".x.part").exists()


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with _Bar() as bar:
        for done in (0, 1, 512 << 10, 1 << 20):
            bar.move(done, 1 << 20)
    assert shown.getvalue().split("\r")[1:] == [
        f"[{' ' * 30}]   0% of 1.0 MiB",
        f"[{'#' * 15}{' ' * 15}]  50% of 1.0 MiB",
        f"[{'#' * 30}] 100% of 1.0 MiB\n",
    ]
    monkeypatch.setattr(sys, "stderr", silent := io.StringIO())
    with _Bar() as bar:
        bar.move(1, 2)
    assert silent.getvalue() == ""


def test_backup_of_etcdctl_is_named(run: Run) -> None:
    told = run("snapshot", "backup", "x")
    assert (told.status, "'backup': 'snapshot save FILE' makes a backup." in told.err) == (2, True)
    told = run("backup", "--data-dir", "/var/lib/etcd", "--backup-dir", "x")
    assert told.status == 2
    assert "here 'snapshot save FILE' saves everything" in told.err
    assert "'snapshot restore FILE' makes a data folder of it" in told.err
