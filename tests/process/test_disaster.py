"""The runbooks of contrib/doc/disaster.md, command by command, on real stores that lost something.

Those of lost members and of poisoned entries are in `test_documents.py`.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from netstore.proto import rpc_pb2 as pb
from tests.support import documents
from tests.support.certificates import Certificates
from tests.support.cluster import Members, converged, get, listed, put, request, write
from tests.support.daemon import free_port, run_netstored, start_netstored
from tests.support.disks import small_disk
from tests.support.documents import bash, with_ports
from tests.support.patience import until
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(600), pytest.mark.peer("bash", "curl")]

DOCUMENT: Final = "contrib/doc/disaster.md"
block = partial(documents.block, DOCUMENT)
LIMIT: Final = 120.0


def own_ports() -> dict[str, str]:
    """Where a store that a block starts listens, and is asked."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    return {
        "NETSTORE_LISTEN_CLIENT_URLS": client,
        "NETSTORE_LISTEN_PEER_URLS": peer,
        "NETSTORE_ENDPOINTS": client,
    }


def exported(**variables: str) -> str:
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


@pytest.mark.slow
def test_everything_is_lost_and_one_backup_starts_three_nodes(tmp_path: Path) -> None:
    backup = str(tmp_path / "all.backup")
    with Members(tmp_path, 3) as members:
        write(members["a"], "kept", "1")
        converged(members, "kept", "1")
        variables = {"BACKUP": backup, "NETSTORE_ENDPOINTS": members["b"].url}
        assert "restored into memory" in bash(block("save"), tmp_path, variables, limit=LIMIT)
        members.kill_all()
        for name in "abc":
            members.wipe(name)
    new = {name: (f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}") for name in "abc"}
    cluster = ",".join(f"{name}={peer}" for name, (_, peer) in new.items())
    text = ""
    for part in (block("restore"), block("start")):
        for name, (client, peer) in new.items():
            text += exported(
                NAME=name,
                FOLDER=str(tmp_path / f"{name}.new"),
                NETSTORE_LISTEN_CLIENT_URLS=client,
                NETSTORE_LISTEN_PEER_URLS=peer,
            )
            text += part
    checks = "".join(f"curl -sf {client}/v2/keys/kept; echo\n" for client, _ in new.values())
    write_one = f"curl -sf -XPUT {new['c'][0]}/v2/keys/after -d value=1; echo\n"
    endpoints = ",".join(client for client, _ in new.values())
    variables = {"BACKUP": backup, "CLUSTER": cluster, "TOKEN": "ours", "NETSTORE_ENDPOINTS": endpoints}
    told = bash(text + block("restored") + checks + write_one, tmp_path, variables, limit=LIMIT)
    assert told.count('"value":"1"') == 4
    names = [line.split("\t")[1] for line in told.splitlines() if line.endswith(tuple("0123456789"))]
    assert sorted(name for name in names if name in "abc") == ["a", "b", "c"]
    index = json.loads(told.split()[-1])["node"]["modifiedIndex"]
    assert index > 1_000_000_000


@pytest.mark.slow
def test_a_majority_that_was_down_comes_back(tmp_path: Path) -> None:
    with Members(tmp_path, 3) as members:
        write(members["a"], "kept", "1")
        converged(members, "kept", "1")
        for name in "bc":
            members[name].kill()
        variables = {
            "NAME": "b",
            "FOLDER": str(members["b"].data_dir),
            "NETSTORE_LISTEN_CLIENT_URLS": members["b"].url,
            "NETSTORE_LISTEN_PEER_URLS": members.peer_url("b"),
            "NETSTORE_ENDPOINTS": members["a"].url,
        }
        check = f"curl -sf -XPUT {members['a'].url}/v2/keys/after -d value=1\n"
        told = bash(block("down") + check, tmp_path, variables, limit=LIMIT)
        assert '"action":"set"' in told
        assert len(listed(members["a"])) == 3


@pytest.mark.peer("etcdctl")
def test_a_wrong_delete_is_copied_back(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon, closing(V3Client(daemon.url)) as client:
        assert put(daemon, "a/b", "precious").status == 201
        for number in range(3):
            client.kv.Put(pb.PutRequest(key=b"/v3/%d" % number, value=b"k8s\0\xff %d\n\n" % number))
        client.kv.Put(pb.PutRequest(key=b"/v3/with a space *"))
        variables = {
            "BACKUP": str(tmp_path / "all.backup"),
            "BESIDE": str(tmp_path / "beside"),
            "KEY": "/a/b",
            "PREFIX": "/v3/",
            "NETSTORE_ENDPOINTS": daemon.url,
        }
        bash(block("save"), tmp_path, variables, limit=LIMIT)
        assert request(daemon, "DELETE", "/v2/keys/a/b").status == 200
        assert put(daemon, "meanwhile", "1").status == 201
        client.kv.DeleteRange(pb.DeleteRangeRequest(key=b"/v3/", range_end=b"/v30"))
        text = with_ports(block("beside") + block("beside3"))
        bash(text, tmp_path, variables, limit=LIMIT)
        assert get(daemon, "a/b") == "precious"
        assert get(daemon, "meanwhile") == "1"
        found = client.kv.Range(pb.RangeRequest(key=b"/v3/", range_end=b"/v30")).kvs
        wanted = [(b"/v3/%d" % number, b"k8s\0\xff %d\n\n" % number) for number in range(3)]
        assert [(each.key, each.value) for each in found] == [*wanted, (b"/v3/with a space *", b"")]


@pytest.mark.root
def test_room_on_a_full_disk_heals(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 140) as disk,
        start_netstored(tmp_path, data_dir=disk / "data") as daemon,
    ):
        waste = disk / "waste"
        waste.mkdir()

        def is_full() -> bool:
            with (waste / "file").open("ab", buffering=0) as file, suppress(OSError):
                file.write(bytes(8 << 20))
                file.flush()
            return "no space left" in str(put(daemon, "large", "v" * 500_000).body)

        until(is_full, "the member finds no room")
        variables = {
            "FOLDER": str(daemon.data_dir),
            "WASTE": str(waste),
            "NETSTORE_ENDPOINTS": daemon.url,
        }
        told = bash(block("space"), tmp_path, variables, limit=LIMIT)
        assert "no space left" in told
        assert put(daemon, "after", "1").status == 201


def test_a_member_alone_with_damaged_data_is_restored(tmp_path: Path) -> None:
    backup = tmp_path / "all.backup"
    with start_netstored(tmp_path) as daemon:
        assert put(daemon, "kept", "1").status == 201
        bash(block("save"), tmp_path, {"BACKUP": str(backup), "NETSTORE_ENDPOINTS": daemon.url}, limit=LIMIT)
    state = daemon.data_dir / "state" / "state.lmdb"
    state.write_bytes(state.read_bytes()[:5000])
    refused = run_netstored(tmp_path, data_dir=daemon.data_dir)
    assert refused.returncode != 0
    assert str(state) in refused.stdout
    variables = own_ports() | {"BACKUP": str(backup), "FOLDER": str(daemon.data_dir)}
    check = f"curl -sf {variables['NETSTORE_ENDPOINTS']}/v2/keys/kept\n"
    told = bash(block("rot") + check, tmp_path, variables, limit=LIMIT)
    assert '"value":"1"' in told
    assert (daemon.data_dir.parent / f"{daemon.data_dir.name}.damaged" / "identity").is_file()


@pytest.mark.peer("openssl")
def test_an_expired_certificate_is_replaced_while_the_member_runs(tmp_path: Path) -> None:
    made = Certificates(tmp_path / "made")
    served = tmp_path / "served"
    served.mkdir()
    new = {}
    for name in ("server.pem", "server.key"):
        new[name] = shutil.copy(made.folder / name, tmp_path / f"new-{name}")
    made.expire()
    for name in ("server.pem", "server.key"):
        shutil.copy(made.folder / name, served / name)
    variables = own_ports()
    url = variables["NETSTORE_LISTEN_CLIENT_URLS"].replace("http:", "https:")
    variables |= {
        "NETSTORE_LISTEN_CLIENT_URLS": url,
        "NETSTORE_ENDPOINTS": url,
        "NETSTORE_CERT_FILE": str(served / "server.pem"),
        "NETSTORE_KEY_FILE": str(served / "server.key"),
        "CA": str(made.ca),
        "CERT": str(served / "server.pem"),
        "KEY": str(served / "server.key"),
        "NEW_CERT": str(new["server.pem"]),
        "NEW_KEY": str(new["server.key"]),
    }
    start = f"netstored --data-dir {tmp_path / 'data'}\n"
    told = bash(start + block("certificate"), tmp_path, variables, limit=LIMIT)
    assert "certificate has expired" in told
    assert "Certificate will expire" in told or "Certificate has expired" in told
    assert told.splitlines()[-1].startswith(f"{url}\thealthy")


def test_clocks_are_compared(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        variables = {"BACKUP": str(tmp_path / "all.backup"), "NETSTORE_ENDPOINTS": daemon.url}
        told = bash(block("clock"), tmp_path, variables, limit=LIMIT)
    _, date, saved = told.splitlines()
    assert date.lower().startswith("date: ")
    assert json.loads(saved)["made"].endswith("Z")
