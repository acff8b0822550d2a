"""From a real etcd to netstore and back: nothing is lost, and nothing that clients can see changes."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from netstore.cli.netstorectl import run
from netstore.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    HashKVRequest,
    LeaseGrantRequest,
    LeaseLeasesRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RangeRequest,
)
from tests.support.daemon import free_port, netstored_command, run_netstored, spawn, start_netstored
from tests.support.documents import bash, block
from tests.support.patience import PAUSE, Deadline, seconds
from tests.support.peers import etcdctl, start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = [pytest.mark.peer("etcd", "etcdctl"), pytest.mark.slow]

SUBNETS = "/coreos.com/network/subnets"
LIMIT = 20.0


def v2(url: str, path: str, method: str = "GET", **form: str) -> tuple[Any, int]:
    """The answer to a request of the v2 API, and the index of the store."""
    data = "&".join(f"{name}={value}" for name, value in form.items()).encode() if form else None
    request = urllib.request.Request(f"{url}/v2/keys{path}", data, method=method)  # noqa: S310 - our store
    if data is not None:
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
    try:
        with urllib.request.urlopen(request, timeout=seconds(LIMIT)) as answer:  # noqa: S310 - our store
            return json.load(answer), int(answer.headers["X-Etcd-Index"])
    except urllib.error.HTTPError as refusal:
        return json.load(refusal), int(refusal.headers["X-Etcd-Index"])


def fill_v3(url: str) -> dict[str, int]:
    """Objects as kube-apiserver writes them, with a history, deletions, a compaction; events on leases."""
    chance = random.Random(11)  # noqa: S311 - data for a test
    client = V3Client(url)
    kv = client.kv
    leases = [client.lease.LeaseGrant(LeaseGrantRequest(TTL=3600)).ID for _ in range(3)]
    names = [
        f"/registry/{kind}/default/object-{number}".encode()
        for kind in ("pods", "secrets")
        for number in range(60)
    ]
    for turn in range(3):
        for name in names:
            value = b"k8s\0\n" + chance.randbytes(chance.randrange(20, 3000))
            kv.Put(PutRequest(key=name, value=value))
        if turn == 1:
            for name in names[::7]:
                kv.DeleteRange(DeleteRangeRequest(key=name))
            revision = kv.DeleteRange(DeleteRangeRequest(key=names[1])).header.revision
            kv.Compact(CompactionRequest(revision=revision - 5, physical=True))
    for number, lease in enumerate(leases * 10):
        kv.Put(PutRequest(key=b"/registry/events/default/e%d" % number, value=b"event", lease=lease))
    kv.DeleteRange(
        DeleteRangeRequest(key=b"/registry/events/default/", range_end=b"/registry/events/default/e11")
    )
    last = kv.Put(PutRequest(key=b"last", value=b"")).header.revision
    client.close()
    return {"compacted": revision - 5, "last": last}


def fill_v2(url: str) -> None:
    """A network of flannel, and whatever else the v2 API has."""
    v2(url, "/coreos.com/network/config", "PUT", value="%7B%22Network%22%3A%2210.1.0.0%2F16%22%7D")
    for number in range(40):
        v2(url, f"{SUBNETS}/10.1.{number}.0-24", "PUT", value=f"node{number}", ttl="86400")
    v2(url, f"{SUBNETS}/10.1.3.0-24", "PUT", value="renewed", ttl="3600", prevExist="true")
    v2(url, f"{SUBNETS}/10.1.4.0-24", "DELETE")
    v2(url, "/_hidden/secret", "PUT", value="h")
    v2(url, "/empty", "PUT", dir="true")
    v2(url, "/queue", "POST", value="first")
    v2(url, "/short", "PUT", value="s", ttl="1")
    v2(url, "/fails", "PUT", value="x", prevExist="true")
    deadline = Deadline(LIMIT)
    while "node" in v2(url, "/short")[0]:
        assert not deadline.passed(), "a node with a TTL of a second expires"
        time.sleep(PAUSE)  # fixed: between two looks


def content_v3(url: str, revision: int) -> dict[str, Any]:
    """All that clients see of the v3 API, at this revision."""
    client = V3Client(url)
    everything = client.kv.Range(RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    leases = sorted(lease.ID for lease in client.lease.LeaseLeases(LeaseLeasesRequest()).leases)
    shown = [client.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=lease, keys=True)) for lease in leases]
    found = {
        "pairs": [pair.SerializeToString() for pair in everything.kvs],
        "hash": client.maintenance.HashKV(HashKVRequest(revision=revision)).hash,
        "leases": {each.ID: (each.grantedTTL, sorted(each.keys)) for each in shown},
        "revision": everything.header.revision,
    }
    client.close()
    return found


def pairs_at(url: str, revision: int) -> list[bytes]:
    client = V3Client(url)
    answer = client.kv.Range(RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    client.close()
    return [pair.SerializeToString() for pair in answer.kvs]


def content_v2(url: str, *roots: str) -> dict[str, tuple[Any, ...]]:
    """Value, indexes and expiry of all nodes below these, hidden ones as well."""
    found: dict[str, tuple[Any, ...]] = {}
    waiting = [v2(url, root)[0]["node"] for root in roots or ("/?recursive=true", "/_hidden?recursive=true")]
    while waiting:
        node = waiting.pop()
        waiting += node.get("nodes", ())
        indexes = node.get("createdIndex"), node.get("modifiedIndex")
        found[node.get("key", "/")] = (node.get("value"), *indexes, node.get("expiration"))
    return found


def ctl(*words: object) -> int:
    return run(list(map(str, words)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A real etcd with a log of several snapshots, what it told while it ran, and its folder after that."""
    folder = tmp_path_factory.mktemp("stopped")
    with start_etcd(folder, "--snapshot-count", "100") as etcd:
        numbers = fill_v3(etcd.url)
        fill_v2(etcd.url)
        told = {
            "v3": content_v3(etcd.url, numbers["last"]),
            "old": pairs_at(etcd.url, numbers["compacted"]),
            "v2": content_v2(etcd.url),
            "index": v2(etcd.url, "/")[1],
            "event": v2(etcd.url, f"/?recursive=true&wait=true&waitIndex={v2(etcd.url, '/')[1] - 20}")[0],
        }
        etcd.stop()
        return {"folder": etcd.data_dir, **numbers, **told}


def check(url: str, stopped: dict[str, Any], *, v2_too: bool = True) -> None:
    assert content_v3(url, stopped["last"]) == stopped["v3"]
    assert pairs_at(url, stopped["compacted"]) == stopped["old"]
    if v2_too:
        assert content_v2(url) == stopped["v2"]
        tree, index = v2(url, "/")
        assert stopped["index"] <= index <= stopped["index"] + 6, "only members and versions came after"
        event = v2(url, f"/?recursive=true&wait=true&waitIndex={stopped['index'] - 20}")[0]
        event["node"].pop("ttl", None)
        wanted = dict(stopped["event"], node=dict(stopped["event"]["node"]))
        wanted["node"].pop("ttl", None)
        assert event == wanted, "a watch goes on from an old index"
        assert tree["action"] == "get"


def test_a_stopped_etcd_to_netstore_and_back(tmp_path: Path, stopped: dict[str, Any]) -> None:
    new, back = tmp_path / "new", tmp_path / "back"
    assert ctl("import", stopped["folder"], "--data-dir", new) == 0
    with start_netstored(tmp_path, data_dir=new) as daemon:
        check(daemon.url, stopped)
        put = V3Client(daemon.url).kv.Put(PutRequest(key=b"later", value=b"1"))
        assert put.header.revision == stopped["last"] + 1
        V3Client(daemon.url).kv.DeleteRange(DeleteRangeRequest(key=b"later"))
        daemon.stop()
    peer = f"http://127.0.0.1:{free_port()}"
    assert ctl("export", new, "--data-dir", back, "--initial-advertise-peer-urls", peer) == 0
    back.rename(tmp_path / "etcd.data")
    with start_etcd(tmp_path) as etcd:
        found, wanted = content_v3(etcd.url, stopped["last"]), dict(stopped["v3"])
        assert found.pop("revision") == wanted.pop("revision") + 2
        assert found == wanted
        assert content_v2(etcd.url) == stopped["v2"]
        answer = v2(etcd.url, "/after", "PUT", value="x")[0]
        assert answer["node"]["createdIndex"] > stopped["index"]
        etcd.stop()
        etcd.start_again()
        assert content_v2(etcd.url) != stopped["v2"]


def test_a_snapshot_file_to_netstore_and_to_a_snapshot_file(tmp_path: Path, stopped: dict[str, Any]) -> None:
    new, file = tmp_path / "new", stopped["folder"] / "member" / "snap" / "db"
    assert ctl("import", file, "--data-dir", new) == 0
    with start_netstored(tmp_path, data_dir=new) as daemon:
        check(daemon.url, stopped, v2_too=False)
        daemon.stop()
    assert ctl("export", new, "--snapshot", tmp_path / "s.db") == 0
    peer = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "ETCDCTL_API": "3"}
    restore = ("etcdctl", "snapshot", "restore", tmp_path / "s.db", "--data-dir", tmp_path / "etcd.data")
    names = ("--initial-cluster", f"default={peer}", "--initial-advertise-peer-urls", peer)
    subprocess.run(
        (*restore, *names), env=environment, check=True, capture_output=True, timeout=seconds(LIMIT)
    )
    with start_etcd(tmp_path) as etcd:
        check(etcd.url, stopped, v2_too=False)


def test_a_serving_etcd(tmp_path: Path) -> None:
    with start_etcd(tmp_path) as etcd:
        numbers = fill_v3(etcd.url)
        fill_v2(etcd.url)
        assert ctl("import", etcd.url, "--data-dir", tmp_path / "new") == 0
        told_v3, told_v2 = content_v3(etcd.url, numbers["last"]), content_v2(etcd.url)
        with start_netstored(tmp_path, data_dir=tmp_path / "new") as daemon:
            assert content_v3(daemon.url, numbers["last"]) == told_v3
            found = content_v2(daemon.url, "/?recursive=true")
            assert found == {path: node for path, node in told_v2.items() if not path.startswith("/_")}
    assert not list(tmp_path.glob(".import-*")), "the snapshot was needed for a while only"


def test_a_folder_of_etcdctl_backup(
    tmp_path: Path, stopped: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more in (("without", ()), ("b", ("--with-v3",))):
        made = etcdctl(
            "http://127.0.0.1:1",
            "backup",
            "--data-dir",
            str(stopped["folder"]),
            "--backup-dir",
            str(tmp_path / name),
            *more,
        )
        assert made.returncode == 0, made.stderr
    assert ctl("import", tmp_path / "without", "--data-dir", tmp_path / "v2") == 0
    assert "has no v3 keys, which that copies only with --with-v3" in capsys.readouterr().err
    assert ctl("import", tmp_path / "b", "--data-dir", tmp_path / "new") == 0
    assert "--with-v3" not in capsys.readouterr().err
    with start_netstored(tmp_path, data_dir=tmp_path / "new") as daemon:
        assert content_v3(daemon.url, stopped["last"]) == stopped["v3"]
        assert {path: node[0] for path, node in content_v2(daemon.url).items()} == {
            path: node[0] for path, node in stopped["v2"].items()
        }


def test_a_folder_that_an_etcd_uses_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_etcd(tmp_path) as etcd:
        assert ctl("import", etcd.data_dir, "--data-dir", tmp_path / "new") == 1
    assert "in use by an etcd that runs" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "nothing was made"


def test_what_a_killed_etcd_has_acknowledged_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_etcd(tmp_path) as etcd:
        client = V3Client(etcd.url)
        for number in range(20):
            client.kv.Put(PutRequest(key=b"k%d" % number, value=b"v"))
        v2(etcd.url, "/k", "PUT", value="v")
        etcd.kill()
        if ctl("import", etcd.data_dir, "--data-dir", tmp_path / "new"):
            assert "its database does not say that it has them" in capsys.readouterr().err
            etcd.start_again()
            etcd.stop()
            assert ctl("import", etcd.data_dir, "--data-dir", tmp_path / "new") == 0
    with start_netstored(tmp_path, data_dir=tmp_path / "new") as daemon:
        found = V3Client(daemon.url).kv.Range(RangeRequest(key=b"k", range_end=b"l"))
        assert len(found.kvs) == 20
        assert v2(daemon.url, "/k")[0]["node"]["value"] == "v"


def send(url: str, method: str, body: Any, password: str = "") -> int:
    """The status of a request with a JSON body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)  # noqa: S310 - our store
    request.add_header("Content-Type", "application/json")
    if password:
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=seconds(LIMIT)) as answer:  # noqa: S310 - our store
        return int(answer.status)


def test_an_etcd_whose_v2_api_asks_for_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused, and with --without-auth each index goes on where it was."""
    with start_etcd(tmp_path) as etcd:
        v2(etcd.url, "/before", "PUT", value="1")
        members = urllib.request.urlopen(f"{etcd.url}/v2/members", timeout=seconds(LIMIT))  # noqa: S310 - our store
        own = json.load(members)["members"][0]
        send(f"{etcd.url}/v2/members/{own['id']}", "PUT", {"peerURLs": own["peerURLs"]})
        for user in ("root", "other"):
            send(f"{etcd.url}/v2/auth/users/{user}", "PUT", {"user": user, "password": "pw"})
        send(f"{etcd.url}/v2/auth/enable", "PUT", {})
        send(f"{etcd.url}/v2/auth/users/other", "DELETE", None, "root:pw")
        answer, index = v2(etcd.url, "/after", "PUT", value="2")
        assert answer["node"]["modifiedIndex"] == index
        assert ctl("import", etcd.url, "--data-dir", tmp_path / "new") == 1
        assert "this etcd asks for passwords (in its v2 API)" in capsys.readouterr().err
        assert ctl("import", etcd.url, "--data-dir", tmp_path / "live", "--without-auth") == 0
        folder = etcd.data_dir
        etcd.stop()
    assert ctl("import", folder, "--data-dir", tmp_path / "new") == 1
    assert "this etcd asks for passwords (in its v2 API: 1 users, 1 roles)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert ctl("import", folder, "--data-dir", tmp_path / "new", "--without-auth", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["v2Index"] == index


def test_netstored_on_a_folder_of_an_etcd_says_how_to_import(tmp_path: Path, stopped: dict[str, Any]) -> None:
    refused = run_netstored(tmp_path, data_dir=stopped["folder"])
    assert refused.returncode
    assert f"netstorectl import --data-dir NEW {stopped['folder']}" in refused.stdout


def test_several_members_begin_with_the_same_data(tmp_path: Path, stopped: dict[str, Any]) -> None:
    ports = {name: (free_port(), free_port()) for name in ("a", "b", "c")}
    cluster = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, (_, peer) in ports.items())
    daemons: list[Daemon] = []
    try:
        for name, (client, peer) in ports.items():
            words = (
                "--name",
                name,
                "--initial-cluster",
                cluster,
                "--initial-cluster-token",
                "a secret of three",
            )
            assert ctl("import", stopped["folder"], "--data-dir", tmp_path / name, *words) == 0
            command = netstored_command(tmp_path / name, "--name", name, port=client, peer_port=peer)
            log = tmp_path / f"{name}.log"
            daemons.append(spawn(command, f"http://127.0.0.1:{client}", tmp_path / name, log))
        for daemon in daemons:
            daemon.wait_until_healthy()
        for daemon in daemons:
            check(daemon.url, stopped)
    finally:
        for daemon in daemons:
            daemon.kill()


UNTIL_IT_SERVES = 'until curl -sf "$CLIENT/health" >health; do sleep 0.1; done\n'


def guide(text: str, folder: Path, variables: Mapping[str, object], after: str = "") -> str:
    """Run a block of the guide, with free ports, and then other commands."""
    ports = {name: f"http://127.0.0.1:{free_port()}" for name in ("CLIENT", "PEER")}
    words = {name: str(value) for name, value in variables.items()}
    return bash(text + after, folder, {**ports, **words}, limit=60)


@pytest.mark.peer("bash", "curl")
def test_the_guide_moves_an_etcd_and_moves_it_back(tmp_path: Path, stopped: dict[str, Any]) -> None:
    folders = {"ETCD": stopped["folder"], "NEW": tmp_path / "new", "BACK": tmp_path / "back"}
    told = guide(
        block("contrib/doc/migration.md", "import"),
        tmp_path,
        folders,
        block("contrib/doc/migration.md", "compare"),
    )
    assert f"revision\t{stopped['last']}\n" in told
    assert f'"Revision" : {stopped["last"]}' in told
    assert f'"Count" : {len(stopped["v3"]["pairs"])}' in told
    assert "/coreos.com" in told
    shown = "ETCDCTL_API=3 etcdctl --endpoints $CLIENT get last --write-out fields\n"
    told = guide(block("contrib/doc/migration.md", "export"), tmp_path, folders, UNTIL_IT_SERVES + shown)
    assert f'"ModRevision" : {stopped["last"]}' in told


@pytest.mark.peer("bash", "curl")
def test_the_guide_copies_and_writes_a_snapshot(tmp_path: Path, stopped: dict[str, Any]) -> None:
    with start_netstored(tmp_path, data_dir=tmp_path / "empty") as new, start_etcd(tmp_path) as old:
        client = V3Client(old.url)
        for number in range(5):
            client.kv.Put(PutRequest(key=b"k%d" % number, value=b"v"))
        v2(old.url, f"{SUBNETS}/10.1.7.0-24", "PUT", value="node", ttl="3600")
        told = guide(
            block("contrib/doc/migration.md", "mirror"), tmp_path, {"OLD": old.url, "CLIENT": new.url}
        )
        assert "written\t5\n" in told
        subnet = v2(new.url, f"{SUBNETS}/10.1.7.0-24")[0]["node"]
        assert subnet["value"] == "node"
        assert 3500 < subnet["ttl"] <= 3600
        copied = V3Client(new.url).kv.Range(RangeRequest(key=b"k", range_end=b"l"))
        assert [pair.key for pair in copied.kvs] == [b"k%d" % number for number in range(5)]
    assert ctl("import", stopped["folder"], "--data-dir", tmp_path / "new") == 0
    files = {"NEW": tmp_path / "new", "FILE": tmp_path / "s.db", "RESTORED": tmp_path / "r"}
    guide(block("contrib/doc/migration.md", "snapshot"), tmp_path, files)
    assert (tmp_path / "r" / "member" / "snap" / "db").exists()
