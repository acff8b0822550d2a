"""`netstorectl import`: its command line and what it tells; see `tests/process/test_migration.py` too."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from netstore.client.faults import BadAnswer
from netstore.client.v2 import V2Client
from netstore.codec import varint
from netstore.disk.backupfile import MAGIC
from netstore.disk.datadir import DataDir, read_token
from netstore.etcdfile import boltwriter
from tests.node.test_etcdimport import put
from tests.support.daemon import start_netstored
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run


def snapshot(path: Path, **buckets: dict[bytes, bytes]) -> Path:
    """A snapshot as an etcd writes it, with these buckets beside two keys."""
    file = path / "s.db"
    content = {b"key": [put(2, b"a"), put(3, b"b", lease=7)]}
    given = {name.encode(): sorted(pairs.items()) for name, pairs in buckets.items()}
    with file.open("wb") as opened:
        boltwriter.write(opened, content | given)
    file.write_bytes((data := file.read_bytes()) + sha256(data).digest())
    return file


def test_it_tells_what_it_made(run: Run, tmp_path: Path) -> None:
    told = run(
        "import", str(snapshot(tmp_path)), "--data-dir", str(tmp_path / "new"), "--name", "n1", "-o", "json"
    )
    assert told.status == 0, told.err
    folder = DataDir.lock(tmp_path / "new")
    assert told.document == {
        "revision": 3,
        "compacted": 0,
        "changes": 2,
        "leases": 0,
        "v2Nodes": 0,
        "v2Index": 0,
        "index": 1,
        "cluster": f"{folder.identity.cluster_id:x}",
        "member": f"{folder.identity.member_id:x}",
        "dataDir": str(tmp_path / "new"),
    }
    assert folder.identity.name == "n1"
    folder.close()
    assert "1 keys have a lease that does not exist, and stay for ever: 'b'" in told.err
    assert len(read_token(tmp_path / "new") or "") == 64, "a secret of its own"


def test_a_log_in_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    new, log = tmp_path / "new", tmp_path / "log"
    words = ("import", str(snapshot(tmp_path)), "--data-dir", str(new), "--wal-dir", str(log))
    told = run(*words, "-o", "table")
    assert told.status == 0, told.err
    assert f"now start it: netstored --data-dir {new} --wal-dir {log} --name default" in told.err
    assert list(log.glob("*.wal"))
    assert not (new / "wal").exists()
    with start_netstored(tmp_path, "--wal-dir", str(log), data_dir=new) as daemon:
        assert run("--endpoints", daemon.url, "key", "set", "/a", "1").status == 0
    told = run("import", str(tmp_path / "s.db"), "--data-dir", str(tmp_path / "other"), "--wal-dir", str(log))
    assert told.status == 1
    assert "choose a new or empty folder" in told.err
    told = run(
        "export", str(new), "--source-wal-dir", str(log), "--data-dir", str(tmp_path / "etcd"), "-o", "json"
    )
    assert told.status == 0, told.err
    assert told.document["v2Nodes"] == 1


def test_an_etcd_whose_log_is_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "etcd" / "member" / "snap").mkdir(parents=True)
    (tmp_path / "log").mkdir()
    words = ("import", str(tmp_path / "etcd"), "--data-dir", str(tmp_path / "new"))
    told = run(*words)
    assert told.status == 1
    assert "given as --data-dir (and with --source-wal-dir its --wal-dir)" in told.err
    told = run(*words, "--source-wal-dir", str(tmp_path / "log"))
    assert told.status == 1
    assert "log: has no log of an etcd: name with --source-wal-dir the folder" in told.err


def test_a_folder_that_a_netstored_and_an_etcd_have_used(run: Run, tmp_path: Path) -> None:
    both = tmp_path / "both"
    assert run("import", str(snapshot(tmp_path)), "--data-dir", str(both)).status == 0
    (both / "member" / "snap").mkdir(parents=True)
    database = both / "member" / "snap" / "db"
    database.write_bytes((tmp_path / "s.db").read_bytes())
    new = ("--data-dir", str(tmp_path / "new"))
    for words in (("import", str(both)), ("import", str(database)), ("export", str(both))):
        told = run(*words, *new)
        assert told.status == 1, words
        assert (
            f"{both}: has the data of this member, and of an etcd that was run in the same folder" in told.err
        )
        assert not (tmp_path / "new").exists()
    (both / "member").rename(tmp_path / "member")
    assert run("export", str(both), *new).status == 0


def test_two_imports_are_two_clusters(run: Run, tmp_path: Path) -> None:
    source = str(snapshot(tmp_path))
    one, other = (
        run("import", source, "--data-dir", str(tmp_path / name), "-o", "json").document
        for name in ("1", "2")
    )
    assert one["cluster"] != other["cluster"]
    assert one["member"] != other["member"]
    token = ("--initial-cluster-token", "secret", "-o", "json")
    again = [
        run("import", source, "--data-dir", str(tmp_path / name), *token).document for name in ("3", "4")
    ]
    assert len({told["cluster"] for told in again}) == 2, "also with the same token"
    assert len({told["member"] for told in again}) == 2
    members = ("--initial-cluster", "a=http://a:1,b=http://b:1", "--initial-cluster-token", "secret")
    three, four = (
        run(
            "import", source, "--data-dir", str(tmp_path / name), *members, "--name", name, "-o", "json"
        ).document
        for name in ("a", "b")
    )
    assert three["cluster"] == four["cluster"]
    assert three["member"] != four["member"]
    assert read_token(tmp_path / "a") == "secret"


def test_members_that_begin_with_different_data_are_not_one_cluster(run: Run, tmp_path: Path) -> None:
    members = ("--initial-cluster", "a=http://a:1,b=http://b:1", "--initial-cluster-token", "secret")
    clusters = set()
    for name, more in (("a", {}), ("b", {"lease": {(7).to_bytes(8, "big"): b"\x08\x07\x10\x05"}})):
        source = str(snapshot(tmp_path, **more))
        told = run(
            "import", source, "--data-dir", str(tmp_path / name), *members, "--name", name, "-o", "json"
        )
        assert told.status == 0, told.err
        clusters.add(told.document["cluster"])
    assert len(clusters) == 2


def test_several_members_do_not_begin_with_what_changes_meanwhile(run: Run, tmp_path: Path) -> None:
    members = ("--initial-cluster", "a=http://a:1,b=http://b:1", "--initial-cluster-token", "secret")
    told = run("import", "http://127.0.0.1:1", "--data-dir", str(tmp_path / "a"), "--name", "a", *members)
    assert told.status == 2
    assert "a running etcd may change between the imports" in told.err


def test_an_etcd_that_asks_for_passwords(run: Run, tmp_path: Path) -> None:
    auth = {b"authEnabled": b"\1", b"authRevision": bytes(8)}
    source = snapshot(tmp_path, auth=auth, authUsers={b"root": b"", b"u": b""}, authRoles={b"root": b""})
    told = run("import", str(source), "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert "this etcd asks for passwords (2 users, 1 roles)" in told.err
    assert "--without-auth" in told.err
    assert not (tmp_path / "new").exists()
    assert run("import", str(source), "--data-dir", str(tmp_path / "new"), "--without-auth").status == 0


def test_a_snapshot_without_its_digest(run: Run, tmp_path: Path) -> None:
    """It was cut, so that nothing tells whether it was changed, too."""
    file = snapshot(tmp_path)
    whole = file.read_bytes()
    target = ("--data-dir", str(tmp_path / "new"))
    for cut in (1, 31, 32):
        file.write_bytes(whole[:-cut])
        for words in (("import", str(file), *target), ("snapshot", "restore", str(file), *target)):
            told = run(*words)
            assert told.status == 1
            assert f"offset {len(whole) - cut}: the digest (SHA-256) is missing" in told.err
            assert "go on with --skip-hash-check" in told.err
        told = run("snapshot", "verify", str(file))
        assert told.status == 1
        assert "the digest (SHA-256) is missing" in told.err
    assert not (tmp_path / "new").exists()
    assert run("import", str(file), *target, "--skip-hash-check").status == 0
    told = run("import", str(tmp_path), "--data-dir", str(tmp_path / "other"), "--skip-hash-check")
    assert told.status == 2
    assert "--skip-hash-check: is for a snapshot file" in told.err


def test_the_database_of_a_data_folder_has_no_digest(run: Run, tmp_path: Path) -> None:
    database = snapshot(tmp_path).rename(tmp_path / "db")
    whole = database.read_bytes()
    database.write_bytes(whole[:-32])
    assert run("import", str(database), "--data-dir", str(tmp_path / "new")).status == 0
    database.write_bytes(whole[:-33])
    told = run("import", str(database), "--data-dir", str(tmp_path / "other"))
    assert told.status == 1
    assert "is missing" in told.err


def test_users_that_are_not_asked_for_are_told(run: Run, tmp_path: Path) -> None:
    source = snapshot(tmp_path, authUsers={b"u": b""})
    told = run("import", str(source), "--data-dir", str(tmp_path / "new"))
    assert told.status == 0
    assert "1 users and 0 roles were left out" in told.err


def test_members_and_alarms_of_the_etcd(run: Run, tmp_path: Path) -> None:
    members = {b"%x" % number: b"{}" for number in range(3)}
    told = run("import", str(snapshot(tmp_path, members=members)), "--data-dir", str(tmp_path / "1"))
    assert "this etcd was one of 3" in told.err
    corrupt = {b"\x08" + varint(5) + b"\x10\x02": b""}
    told = run("import", str(snapshot(tmp_path, alarm=corrupt)), "--data-dir", str(tmp_path / "2"))
    assert told.status == 1
    assert "has the alarm CORRUPT" in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--initial-cluster", "a=http://a:1"), "--initial-cluster: names a, and not default; add it"),
        (("--initial-cluster", "http://a:1"), "--initial-cluster: 'http://a:1' is not NAME=URL"),
        (("--name", "n" * 256), "--name: "),
        (("--initial-cluster-token", "t" * 257), "--initial-cluster-token: give at most 256 printable"),
        (("--initial-cluster", "default=ftp://a:1"), "--initial-cluster: 'ftp://a:1' has a scheme other"),
        (("--initial-cluster", "default=foo"), "--initial-cluster: 'foo' is not a URL"),
        (("--initial-cluster", "default=http://a:1,b=http://a:1"), "gives 'http://a:1' to two members"),
        (("--initial-advertise-peer-urls", "foo"), "--initial-advertise-peer-urls: 'foo' is not a URL"),
        (
            ("--initial-advertise-peer-urls", "http://a"),
            "--initial-advertise-peer-urls: 'http://a' has no port",
        ),
        (
            ("--initial-advertise-peer-urls", "http://a:0"),
            "--initial-advertise-peer-urls: 'http://a:0' has port",
        ),
        (("--initial-advertise-peer-urls", ""), "--initial-advertise-peer-urls: "),
        (
            ("--initial-cluster", "default=http://a:1,b=http://b:1"),
            "--initial-cluster-token: is needed where several members begin",
        ),
        (
            ("--initial-cluster", "default=http://a:1", "--initial-advertise-peer-urls", "http://b:1"),
            "--initial-cluster: gives default the URLs http://a:1, and --initial-advertise-peer-urls http://b:1",
        ),
    ],
)
def test_a_command_line_that_is_wrong(run: Run, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    answer = run("import", str(snapshot(tmp_path)), "--data-dir", str(tmp_path / "new"), *words)
    assert answer.status == 2
    assert told in answer.err
    assert not (tmp_path / "new").exists()


def test_what_is_not_there_and_what_is_used(run: Run, tmp_path: Path) -> None:
    told = run("import", str(tmp_path / "gone"), "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert "gone: No such file or directory" in told.err
    source = str(snapshot(tmp_path))
    assert run("import", source, "--data-dir", str(tmp_path / "new")).status == 0
    told = run("import", source, "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert "nothing was changed: choose a new or empty folder" in told.err


def test_an_etcd_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    told = run("import", "http://127.0.0.1:1", "--data-dir", str(tmp_path / "new"))
    assert told.status == 4
    assert told.err.startswith("netstorectl: SOURCE: no endpoint answered (http://127.0.0.1:1: ")
    assert told.err.endswith("; check SOURCE and that the store runs there\n")
    assert not list(tmp_path.iterdir())
    told = run("import", "127.0.0.1:1", "--data-dir", str(tmp_path / "new"))
    assert told.err.endswith("; no file is named 127.0.0.1:1, so it was taken for an address\n")
    told = run("import", "https://127.0.0.1:1", "--username", "a", "--data-dir", str(tmp_path / "new"))
    assert (told.status, "--username a: no password" in told.err) == (2, True)


@pytest.mark.peer("etcd")
def test_an_etcd_without_the_v2_api(run: Run, tmp_path: Path) -> None:
    with start_etcd(tmp_path, "--enable-v2=false") as etcd:
        told = run("import", etcd.url, "--data-dir", str(tmp_path / "new"), "-o", "json")
    assert told.status == 0, told.err
    assert "there is no v2 API at this etcd, so only its v3 keys are imported" in told.err
    assert told.document["v2Index"] == 0


def test_a_tree_that_cannot_be_listed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(*_: object, **__: object) -> None:
        raise BadAnswer("http://store", "sent more than 1000 bytes", status=200)

    monkeypatch.setattr(V2Client, "get", get)
    with start_netstored(tmp_path) as daemon:
        told = run("import", daemon.url, "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert "sent more than 1000 bytes" in told.err
    assert "stop this etcd and import its data folder" in told.err
    assert not (tmp_path / "new").exists()


def test_a_snapshot_file_has_no_v2_tree(run: Run, tmp_path: Path) -> None:
    told = run("import", str(snapshot(tmp_path)), "--data-dir", str(tmp_path / "new"))
    assert told.status == 0, told.err
    assert (
        "s.db: has the v3 keys only; an etcd keeps its v2 tree outside of this file: to import both, give"
        in (told.err)
    )


def test_a_backup_of_a_netstore_is_named_with_its_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a full").write_bytes(MAGIC + bytes(100))
    told = run("import", str(tmp_path / "a full"), "--data-dir", str(tmp_path / "new"))
    assert told.status == 1
    assert "full: is a full backup of a netstore" in told.err
    assert f"netstorectl snapshot restore '{tmp_path}/a full' --data-dir" in told.err


def test_an_address_without_a_scheme_is_that_of_an_etcd(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (
        "127.0.0.1:1",
        "[::1]:1",
        "127.0.0.1:1,127.0.0.1:1",
        "127.0.0.1:1,",
        "127.0.0.1:1, http://127.0.0.1:1",
        "http://127.0.0.1:1,127.0.0.1:1",
        ",".join(["127.0.0.1:1"] * 500),
    ):
        told = run("import", source, "--data-dir", str(tmp_path / "new"))
        assert (told.status, "no endpoint answered (http://" in told.err) == (4, True), told.err
    for source in (",", "http", "host,127.0.0.1:1", "http://127.0.0.1:1,host"):
        told = run("import", source, "--data-dir", str(tmp_path / "new"))
        assert (told.status, "No such file" in told.err) == (1, True), told.err
    (tmp_path / "backup.db").write_bytes(b"")
    for source in ("backup.db:1", "./x:2379", f"{tmp_path}/x:2379", "http:/127.0.0.1:1"):
        told = run("import", source, "--data-dir", str(tmp_path / "new"))
        both = f"{source}: No such file or directory, and not the address of an etcd either, which is written"
        assert (told.status, both in told.err) == (1, True), told.err
    snapshot(tmp_path).rename(tmp_path / "s:1")
    assert run("import", "s:1", "--data-dir", str(tmp_path / "new")).status == 0, "a file of this name"


def test_what_the_source_does_not_need_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    target = ("--data-dir", str(tmp_path / "new"))
    for source in (str(snapshot(tmp_path)), "https://127.0.0.1:1", "HTTP://127.0.0.1:1"):
        told = run("import", source, *target, "--source-wal-dir", str(tmp_path / "log"))
        assert told.status == 2
        assert "--source-wal-dir: is for a data folder" in told.err
        told = run("import", source, *target, "--without-damaged-end")
        assert told.status == 2
        assert "--without-damaged-end: is for a data folder" in told.err
    told = run("--endpoints", "http://127.0.0.1:2", "import", "http://127.0.0.1:1", *target)
    assert told.status == 2
    assert "--endpoints: SOURCE is the URL that is asked" in told.err
    assert not (tmp_path / "new").exists()
