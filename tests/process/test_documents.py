"""The commands and programs in the documents do what the documents say (`tests.support.documents`)."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from netstore.disk.datadir import read_token
from netstore.state.display import payload_hash
from tests.process.test_poisoned import POISON
from tests.support.certificates import Certificates
from tests.support.cluster import Members, converged, get, listed, write
from tests.support.daemon import ROOT, Daemon, clean_environment, free_port, start_netstored
from tests.support.documents import RUN, Block, bash, block, blocks, documents, with_ports
from tests.support.netns import Wire
from tests.support.patience import seconds
from tests.support.peers import PACKAGE_OF
from tests.support.stopped import append_to_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

TO_RUN: Final = [
    each
    for name, text in documents().items()
    for each in blocks(name, text)
    if each.language in RUN and not each.mark
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start_netstored(tmp_path_factory.mktemp("store")) as daemon:
        yield daemon


def needed(each: Block) -> pytest.MarkDecorator:
    """A mark with the programs of Debian that a block runs."""
    words = set(re.findall(r"[\w-]+", each.text))
    return pytest.mark.peer("bash", *sorted((words & set(PACKAGE_OF)) - {"ip", "bash", "etcd"}))


@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize(
    "each",
    [
        pytest.param(each, id=str(each), marks=[needed(each)] if each.language == "sh" else [])
        for each in TO_RUN
    ],
)
def test_what_a_document_shows_works(each: Block, store: Daemon, tmp_path: Path) -> None:
    text = with_ports(each.text, store.url)
    if each.language == "sh":
        bash(
            text,
            tmp_path,
            {"NETSTORE_ENDPOINTS": store.url, "ETCDCTL_ENDPOINT": store.url, "ETCDCTL_ENDPOINTS": store.url},
        )
        return
    program = tmp_path / "test_program.py"
    program.write_text(text)
    how = ("-m", "pytest", "-q", "-p", "no:cacheprovider") if "def test_" in text else ()
    done = subprocess.run(
        (sys.executable, *how, program),
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds(100),
    )
    assert done.returncode == 0, done.stdout


def test_a_seed_is_shown_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    told = bash(block("contrib/doc/simulation.md", "seed"), tmp_path, {"PYTHONPATH": str(ROOT)})
    assert len(told.splitlines()) > 100


@pytest.mark.slow
@pytest.mark.peer("bash", "curl")
def test_a_lost_voter_is_replaced(tmp_path: Path) -> None:
    with Members(tmp_path, 3) as members:
        write(members["a"], "kept", "1")
        number = next(each["id"] for each in listed(members["a"]) if each["name"] == "c")
        members.daemons.pop("c").kill()
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        variables = {
            "NETSTORE_ENDPOINTS": members["a"].url,
            "N": number,
            "NAME": "new",
            "NEW": str(tmp_path / "new"),
            "PEER": members.peer_url("a"),
            "TOKEN": read_token(members["a"].data_dir) or "",
            "NETSTORE_LISTEN_CLIENT_URLS": client,
            "NETSTORE_LISTEN_PEER_URLS": peer,
        }
        check = f"curl -sf {client}/v2/keys/kept\n"
        told = bash(block("contrib/doc/disaster.md", "replace") + check, tmp_path, variables)
        assert '"value":"1"' in told
        assert {each["name"] for each in listed(members["a"])} == {"a", "b", "new"}


@pytest.mark.slow
@pytest.mark.peer("bash", "curl")
def test_one_member_s_data_becomes_the_cluster_s(tmp_path: Path) -> None:
    with Members(tmp_path, 3) as members:
        write(members["a"], "kept", "1")
        converged(members, "kept", "1")
        members.kill_all()
        shown = block("contrib/doc/disaster.md", "recovered").replace("...", "").split()
        for word in shown:
            assert f'"{word.partition("=")[0]}": ' in members["a"].log or word in members["a"].log
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        folder = members["a"].data_dir
        variables = {
            "NAME": "a",
            "FOLDER": str(folder),
            "NETSTORE_LISTEN_CLIENT_URLS": client,
            "NETSTORE_LISTEN_PEER_URLS": peer,
            "NETSTORE_ENDPOINTS": client,
        }
        check = f"curl -sf '{client}/v2/keys/kept?quorum=true'; netstorectl member ls\n"
        told = bash(block("contrib/doc/disaster.md", "force") + check, tmp_path, variables)
        assert '"value":"1"' in told
        assert [line.split("\t")[1] for line in told.splitlines() if "\t" in line] == ["a"]
        assert (folder.parent / f"{folder.name}.before" / "identity").is_file()


@pytest.mark.peer("bash")
def test_an_entry_that_cannot_be_applied_is_passed_over(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        daemon.stop()
        entry = append_to_log(daemon.data_dir, [POISON])
        daemon.spawn_again()
        assert daemon.process.wait(seconds(60)) == 2
        hash_ = payload_hash(POISON)
        variables = {"FOLDER": str(daemon.data_dir), "ENTRY": str(entry), "HASH": hash_}
        told = bash(block("contrib/doc/disaster.md", "skip"), tmp_path, variables)
        assert f" entry {hash_} " in told
        daemon.start_again()
        assert get(daemon, "nothing") is None


@pytest.mark.root
@pytest.mark.peer("bash", "ip")
def test_a_cluster_is_given_its_network(tmp_path: Path) -> None:
    made = Certificates(tmp_path / "made", "10.0.0.1")
    for name, file in (
        ("ca.crt", made.ca),
        ("server.crt", made.certificate),
        ("server.key", made.key),
        ("client.crt", made.client_certificate),
        ("client.key", made.client_key),
    ):
        (tmp_path / name).symlink_to(file)
    with Wire(nodes=1, base="10.0.0") as wire:
        [node] = wire.members
        variables = {
            "STORE_IN": f"ip netns exec {wire.switch} env NETSTORE_DATA_DIR={tmp_path}/data",
            "AGENT_IN": f"ip netns exec {node.netns} env NETSTORE_AGENT_SUBNET_FILE={tmp_path}/subnet.env",
        }
        inside = f'netstorectl() {{ ip netns exec {wire.switch} env netstorectl "$@"; }}\n'
        told = bash(inside + block("README.md", "network"), tmp_path, variables)
    assert re.search(rf"^172\.30\.\d+\.0/24\t{node.address}\t", told, re.MULTILINE), told
    assert "FLANNEL_NETWORK=172.30.0.0/16" in (tmp_path / "subnet.env").read_text()
