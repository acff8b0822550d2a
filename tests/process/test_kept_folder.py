"""The programs of this release work with what an earlier one left on the disks of a member."""

from __future__ import annotations

import json
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from netstore.disk.archivefile import listing
from netstore.proto import rpc_pb2 as pb
from tests.support import control, everything, kept
from tests.support.archives import shown, wait_until_archived
from tests.support.cluster import request, write
from tests.support.daemon import Daemon, start_netstored
from tests.support.patience import seconds, until
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from pathlib import Path


def status(daemon: Daemon) -> Any:
    return request(daemon, "GET", "/netstore/status").body


def test_a_kept_folder_is_served(tmp_path: Path) -> None:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    with start_netstored(tmp_path, "--name", kept.NAME, data_dir=tmp_path / "data") as daemon:
        for path, value in (("/dir/a", "3"), ("/last", "in the log only")):
            with urllib.request.urlopen(f"{daemon.url}/v2/keys{path}", timeout=seconds(20)) as answer:  # noqa: S310
                assert json.load(answer)["node"]["value"] == value
        until(lambda: status(daemon)["featureLevel"] == 2, "a member alone raises the level by itself")
        assert daemon.stop() == 0
        daemon.start_again()


# --- all that a member leaves


@pytest.fixture
def left(tmp_path: Path) -> Path:
    kept.unpack(everything.ARCHIVE, tmp_path / "left")
    return tmp_path / "left"


def recorded(left: Path, name: str) -> dict[str, Any]:
    """What was readable at a place of the log."""
    found: dict[str, Any] = json.loads((left / everything.READABLE).read_text())[name]
    return found


def text(data: bytes) -> str:
    return data.decode("latin-1")


def served_v2(daemon: Daemon) -> dict[str, tuple[Any, ...]]:
    """Every node that is not hidden: value (of a file), and the indexes of its creation and change."""
    found = {}
    waiting = [request(daemon, "GET", "/v2/keys/?recursive=true").body["node"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("nodes", [])
        if "key" in node:
            found[node["key"]] = (node.get("value"), node["createdIndex"], node["modifiedIndex"])
    return found


def told_v2(told: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The same of a record, as JSON shows text that is no UTF-8."""
    found = {}
    for (key, created, modified, value, *_), _ in told["v2"]["nodes"]:
        if "/_" not in key:
            shown = [each and each.encode("latin-1").decode("utf-8", "replace") for each in (key, value)]
            found[shown[0]] = (shown[1], created, modified)
    return found


def served_v3(daemon: Daemon, revision: int) -> list[list[Any]]:
    with closing(V3Client(daemon.url)) as client:
        answer = client.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    return [
        [text(each.key), each.create_revision, each.mod_revision, each.version, text(each.value), each.lease]
        for each in answer.kvs
    ]


def compared(daemon: Daemon, told: dict[str, Any]) -> None:
    """Compare what the store serves with a record."""
    assert served_v2(daemon) == told_v2(told)
    v3 = told["v3"]
    assert served_v3(daemon, v3["revision"]) == v3["newest"]
    assert served_v3(daemon, v3["compacted"]) == v3["oldest"]
    with closing(V3Client(daemon.url)) as client:
        with pytest.raises(Refused, match="compacted"):
            client.kv.Range(pb.RangeRequest(key=b"a", revision=v3["compacted"] - 1))
        for id_, ttl, _, _, keys in v3["leases"]:
            lease = client.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=id_, keys=True))
            assert (lease.grantedTTL, sorted(map(text, lease.keys))) == (ttl, keys)
            assert 0 < lease.TTL <= ttl
    admitted = {each["name"] for each in control.answer("plugin", "ls", url=daemon.url)["plugins"]}
    assert {name for (name, *_), _ in told["plugins"]} <= admitted
    assert control.answer("network", "get", url=daemon.url)["config"] == json.loads(everything.CONFIG)


def writes_on(daemon: Daemon, told: dict[str, Any]) -> None:
    """Write to both APIs, and find the next index and revision."""
    write(daemon, "after", "2")
    with closing(V3Client(daemon.url)) as client:
        lease = client.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=600)).ID
        put = client.kv.Put(pb.PutRequest(key=b"after", value=b"2", lease=lease))
    assert put.header.revision == told["v3"]["revision"] + 1
    assert served_v2(daemon)["/after"][1] > told["v2"]["index"]


@pytest.mark.slow
def test_all_that_a_member_left_is_served_and_goes_on(left: Path, tmp_path: Path) -> None:
    told = recorded(left, "end")
    archive = left / everything.LOG_ARCHIVE
    flags = ("--name", everything.NAME, "--archive-folder", str(archive), "--archive-lag-seconds", "1")
    with start_netstored(tmp_path, *flags, data_dir=left / everything.DATA) as daemon:
        assert "saved_keys_used" in daemon.log
        compared(daemon, told)
        listed = control.answer("member", "ls", url=daemon.url)["members"]
        members = {int(each["id"], 16): each["name"] for each in listed}
        assert members == {each[0]: each[1] for each in told["members"]}
        drained = request(daemon, "GET", f"/v2/keys{everything.PREFIX}/drained/{everything.DRAINED_NODE}")
        assert "since" in json.loads(drained.body["node"]["value"])
        authors = {first: author for first, _, _, author in told["v3"]["origins"]}
        rows = control.answer("history", "a", url=daemon.url)["states"]
        states = {each["revision"]: each["author"] for each in rows}
        changes = [pair[2] for pair, _ in told["v3"]["changes"] if pair[0] == "a"]
        assert {each: states[each] for each in changes} == {each: authors[each] for each in changes}
        writes_on(daemon, told)
        wait_until_archived(daemon)
        assert daemon.stop() == 0
        daemon.start_again()
        assert served_v3(daemon, told["v3"]["revision"]) == told["v3"]["newest"]
    assert listing(archive).stretches[0][0] == 1, "the archive goes on where it ended"
    assert len(listing(archive).stretches) == 1


@pytest.mark.slow
def test_the_backup_is_restored_and_served(left: Path, tmp_path: Path) -> None:
    told = recorded(left, "backup")
    new = tmp_path / "new"
    done = control.answer(
        "snapshot", "restore", str(left / everything.BACKUP), "--data-dir", str(new), "--name", "new"
    )
    assert (done["revision"], done["v2Index"]) == (told["v3"]["revision"], told["v2"]["index"])
    with start_netstored(tmp_path, "--name", "new", data_dir=new) as daemon:
        compared(daemon, told)
        writes_on(daemon, told)


@pytest.mark.slow
def test_a_point_of_the_archive_is_restored_and_served(left: Path, tmp_path: Path) -> None:
    told = recorded(left, "point")
    new = tmp_path / "new"
    done = control.answer(
        *("snapshot", "restore", "--archive", str(left / everything.LOG_ARCHIVE)),
        *("--to-time", shown(everything.instant(told["applied"]))),
        *("--data-dir", str(new), "--name", "new"),
    )
    assert done["archiveIndex"] == told["applied"]
    with start_netstored(tmp_path, "--name", "new", data_dir=new) as daemon:
        compared(daemon, told)
        writes_on(daemon, told)
