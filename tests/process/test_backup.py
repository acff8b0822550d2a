"""Backups of real stores: a cluster that comes back on new disks, compared with etcd's tools, and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from netstore.node import fullbackup
from netstore.proto import rpc_pb2 as pb
from tests.support import control
from tests.support.cluster import Members, converged, get, listed, put, request, write
from tests.support.daemon import Daemon, clean_environment, launch, start_netstored
from tests.support.patience import seconds, until
from tests.support.peers import etcd_command, etcdctl, start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

V3 = {"ETCDCTL_API": "3"}


def shown(daemon: Daemon) -> tuple[Any, Any]:
    """All keys of both APIs, with their indexes and revisions."""
    v2 = request(daemon, "GET", "/v2/keys/?recursive=true&sorted=true").body["node"]
    with closing(V3Client(daemon.url)) as client:
        answer = client.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0", serializable=True))
    return v2, (answer.header.revision, [each.SerializeToString() for each in answer.kvs])


def fill(daemon: Daemon) -> None:
    """Keys in both APIs, some with a history, one with a lease."""
    for number in range(20):
        write(daemon, f"dir/{number}", f"value {number}")
    write(daemon, "dir/3", "changed")
    with closing(V3Client(daemon.url)) as client:
        lease = client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3000)).ID
        for number in range(20):
            client.kv.Put(pb.PutRequest(key=b"k%d" % (number % 7), value=b"%d" % number))
        client.kv.Put(pb.PutRequest(key=b"leased", value=b"1", lease=lease))
        client.kv.DeleteRange(pb.DeleteRangeRequest(key=b"k2"))


@pytest.mark.slow
def test_three_members_come_back_from_one_file(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    file = tmp_path / "all.backup"
    with Members(tmp_path / "old", 3) as old:
        fill(old["a"])
        write(old["b"], "last", "written")
        converged(old, "last", "written")
        before = shown(old["a"])
        follower = old[old.followers()[0]]
        saved = control.answer("snapshot", "save", str(file), url=follower.url)
        assert saved["members"] == 3
        write(old["a"], "last", "not in the backup")
        clusters = {control.answer("endpoint", "status", url=old["a"].url)["endpoints"][0]["id"]}
    new = Members(tmp_path / "new", 3)
    _, named = new.beginning()
    restored = [
        control.answer(
            *("snapshot", "restore", str(file), "--data-dir", str(tmp_path / "new" / f"{name}.data")),
            *("--name", name, "--initial-cluster", named, "--initial-cluster-token", "a secret of ours"),
        )
        for name in "abc"
    ]
    assert len({each["cluster"] for each in restored}) == 1
    assert len({each["member"] for each in restored} - clusters) == 3
    assert saved["cluster"] not in {each["cluster"] for each in restored}
    with new:
        new.leader()
        for daemon in new.daemons.values():
            assert shown(daemon) == before
        assert {each["name"] for each in listed(new["a"])} == {"a", "b", "c"}
        write(new["c"], "last", "after")
        converged(new, "last", "after")
        with closing(V3Client(new["b"].url)) as client:
            assert client.kv.Put(pb.PutRequest(key=b"new", value=b"1")).header.revision == before[1][0] + 1
        new[new.leader()].kill()
        rest = next(iter(new.running()))
        write(rest, "last", "with two")
        new.join("d", "--initial-advertise-peer-urls", new.peer_url("d"), at=_name_of(new, rest))
        converged(new, "last", "with two")


def _name_of(members: Members, daemon: Daemon) -> str:
    return next(name for name, each in members.daemons.items() if each is daemon)


class Sharing(Members):
    """Members that back up to one folder, and of which one has a command that does not end."""

    def own_flags(self, name: str) -> tuple[str, ...]:
        return (
            *("--backup-folder", str(self.folder / "backups"), "--backup-every", "1s", "--backup-keep", "2"),
            *("--backup-hook", "sleep 1000" if name == "a" else "true", "--backup-hook-seconds", "1"),
        )


def has_made(daemon: Daemon, number: int) -> bool:
    """Whether a member has made so many scheduled backups since its start."""
    return bool(request(daemon, "GET", "/netstore/status").body["backup"]["succeeded"] >= number)


@pytest.mark.slow
def test_members_that_share_a_folder_keep_their_own_backups(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    others = {"notes.txt", "netstore-1-2-20200101T000000Z-5.backup", "backup-1-2-3.state.part"}
    for name in others:
        (folder / name).write_text("x")
    with Sharing(tmp_path) as members:
        write(members["a"], "k", "v")

        for name in "abc":
            until(partial(has_made, members[name], 4), f"{name} made some", 60.0)
        told = request(members["a"], "GET", "/netstore/status").body["problems"]
        assert told == ["backup_hook: not done after 1 s, and ended"]
        members["b"].kill()
        members["b"].start_again()
        until(partial(has_made, members["b"], 2), "b makes some again", 60.0)
    found = {path.name for path in folder.iterdir()}
    assert others <= found
    made = {name for name in found - others if name.endswith(".backup")}
    ids = [name.split("-")[2] for name in made]
    assert (len(set(ids)), {2} <= set(map(ids.count, ids)) <= {2, 3}) == (3, True), "killed before it removed"
    for name in made:
        assert fullbackup.verify(folder / name, 1 << 30).how == fullbackup.RESTORED


@pytest.mark.slow
@pytest.mark.peer("etcd", "etcdctl")
def test_what_etcdctl_saves_is_restored_as_etcdctl_restores_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    file = tmp_path / "etcd.db"
    with start_etcd(tmp_path) as etcd:
        with closing(V3Client(etcd.url)) as client:
            lease = client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3000)).ID
            for number in range(50):
                client.kv.Put(pb.PutRequest(key=b"k%d" % (number % 9), value=b"%d" % number, lease=lease))
            client.kv.DeleteRange(pb.DeleteRangeRequest(key=b"k2"))
            client.kv.Compact(pb.CompactionRequest(revision=20, physical=True))
        assert etcdctl(etcd.url, "snapshot", "save", str(file), environment=V3).returncode == 0
        ours = control.answer("snapshot", "save", str(tmp_path / "ours.db"), url=etcd.url)
        told = etcdctl(etcd.url, "snapshot", "status", str(file), "-w", "json", environment=V3)
    theirs = control.answer("snapshot", "status", str(file))
    judged = json.loads(told.stdout)
    for found in (ours, theirs):
        assert (int(found["hash"], 16), found["revision"]) == (judged["hash"], judged["revision"])
    control.answer("snapshot", "restore", str(file), "--data-dir", str(tmp_path / "netstored.data"))
    command = etcd_command(tmp_path / "restored", port=0)
    words = ["snapshot", "restore", str(file), "--data-dir", str(tmp_path / "restored"), "--name", "default"]
    cluster = command[command.index("--initial-cluster") + 1]
    peer = cluster.partition("=")[2]
    words += ["--initial-cluster", cluster, "--initial-advertise-peer-urls", peer]
    assert etcdctl("", *words, environment=V3).returncode == 0
    url = command[command.index("--advertise-client-urls") + 1]
    with (
        launch(command, url, tmp_path / "restored", tmp_path / "restored.log") as etcd,
        start_netstored(tmp_path) as netstored,
    ):
        answers = []
        for daemon in (etcd, netstored):
            with closing(V3Client(daemon.url)) as client:
                found = client.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
                old = client.kv.Range(pb.RangeRequest(key=b"k3", revision=30))
                left = client.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
                kvs = [each.SerializeToString() for each in (*found.kvs, *old.kvs)]
                answers.append((found.header.revision, kvs, left.grantedTTL, sorted(left.keys)))
        assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.peer("etcd", "etcdctl")
def test_etcdctl_restores_the_v3_keys_that_a_netstored_has(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        fill(daemon)
        saved = control.answer("snapshot", "save", "--v3", str(tmp_path / "keys.db"), url=daemon.url)
        again = etcdctl(daemon.url, "snapshot", "save", str(tmp_path / "theirs.db"), environment=V3)
        assert again.returncode == 0, again.stderr
        before = shown(daemon)[1]
    assert control.answer("snapshot", "status", str(tmp_path / "theirs.db"))["hash"] == saved["hash"]
    command = etcd_command(tmp_path / "restored")
    cluster = command[command.index("--initial-cluster") + 1]
    words = ["snapshot", "restore", str(tmp_path / "keys.db"), "--data-dir", str(tmp_path / "restored")]
    words += ["--name", "default", "--initial-cluster", cluster]
    words += ["--initial-advertise-peer-urls", cluster.partition("=")[2]]
    assert etcdctl("", *words, environment=V3).returncode == 0
    url = command[command.index("--advertise-client-urls") + 1]
    with (
        launch(command, url, tmp_path / "restored", tmp_path / "restored.log") as etcd,
        closing(V3Client(etcd.url)) as client,
    ):
        answer = client.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
        assert (answer.header.revision, [each.SerializeToString() for each in answer.kvs]) == before


def test_a_save_that_is_killed_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "all.backup"
    with start_netstored(tmp_path) as daemon:
        for number in range(4):
            assert put(daemon, f"large/{number}", "x" * 400_000).status == 201
        saved = control.answer("snapshot", "save", str(target), url=daemon.url)
        before = target.read_bytes()
        # At this rate it takes minutes: it is killed long before it ends, however slow this machine is.
        words = ("snapshot", "save", str(target), "--rate", "10K")
        command = (sys.executable, "-m", "netstore.cli.netstorectl", "--endpoints", daemon.url, *words)
        part = tmp_path / ".all.backup.part"
        with subprocess.Popen(command, env=clean_environment(), stdin=subprocess.DEVNULL) as process:
            until(lambda: part.exists() and part.stat().st_size > 0, "some of it has come")
            process.send_signal(signal.SIGKILL)
            process.wait(seconds(20))
        assert target.read_bytes() == before
        assert 0 < part.stat().st_size < saved["size"]
        until(lambda: not _is_being_sent(daemon), "the member has noticed")
        assert control.answer("snapshot", "save", str(target), url=daemon.url)["records"] == saved["records"]
        assert not part.exists()
        assert get(daemon, "large/0") == "x" * 400_000


def _is_being_sent(daemon: Daemon) -> bool:
    return request(daemon, "GET", "/netstore/backup").status == 409


@pytest.mark.slow
def test_a_member_killed_while_it_makes_a_backup_leaves_only_good_ones(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    flags = ("--backup-folder", str(folder), "--backup-every", "1s", "--backup-keep", "4")
    with start_netstored(tmp_path, *flags) as daemon:
        for number in range(20):
            assert put(daemon, f"large/{number}", "x" * 400_000).status == 201

        cut: set[str] = set()

        def parts() -> set[str]:
            """What is being made, or was not complete; each has a name of its own."""
            return {path.name.partition(".")[0] for path in folder.glob("*.part")}

        def begun() -> set[str]:
            return parts() - cut

        def good() -> list[Path]:
            found = sorted(folder.glob("*.backup"))
            assert all(fullbackup.verify(path, 1 << 30).nodes == 21 for path in found)
            return found

        made: set[Path] = set()
        while len(cut) < 3:  # one that is complete when the kill comes does not count
            until(begun, "a backup is being made", 60)
            daemon.kill()
            cut.update(parts())
            made |= set(good())
            daemon.start_again()

        def another() -> bool:
            status = request(daemon, "GET", "/netstore/status").body["backup"]
            return bool(status["succeeded"] >= 1 and status["failed"] == 0)

        until(another, "one is made after the restart", 60)
        status = control.answer("status", url=daemon.url)["endpoints"][0]["backup"]
        assert status["verified"] == fullbackup.RESTORED
        # While it runs, old ones are removed, a moment after a new one has its name.
        daemon.stop()
        assert set(good()) - made
        assert len(good()) <= 4 + 1
