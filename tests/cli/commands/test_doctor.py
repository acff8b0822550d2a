"""`netstorectl doctor` on real stores: its forms and its exit status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from netstore.cli.checks.finding import State, ok, unknown, warning, wrong
from netstore.cli.checks.stores import leases
from netstore.cli.commands import doctor
from netstore.cli.commands.leases import survey
from netstore.client.subnetstore import Entry
from netstore.ops.store import STORE
from tests.cli.commands.conftest import DEAD

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.cli.checks.finding import Finding
    from tests.cli.commands.conftest import Keys, Run

GOOD = '{"Network":"10.23.0.0/16","Backend":{"Type":"vxlan"}}'


@pytest.mark.parametrize(
    ("findings", "status", "text"),
    [
        ([ok("a", "x")], 0, ""),
        ([ok("a", "x"), warning("b", "x", "y")], 0, ""),
        ([unknown("a", "x", "y"), warning("b", "x", "y")], 4, "netstorectl: could not be read: a\n"),
        ([unknown("a", "x", "y"), wrong("b", "x", "y")], 1, "netstorectl: wrong: b\n"),
    ],
)
def test_the_exit_status(
    run: Run, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int, text: str
) -> None:
    async def examine(*_: object) -> list[Finding]:
        return findings

    monkeypatch.setattr(doctor, "_examine", examine)
    told = run("doctor")
    assert (told.status, told.err) == (status, text)
    assert [row[0] for row in told.rows] == [each.subject for each in findings]


def test_a_store_with_a_network(ctl: Run, store: str, prefix: str, keys: Keys, tmp_path: Path) -> None:
    ctl("network", "set", GOOD)
    keys.put(f"{prefix}/subnets/10.23.5.0-24", '{"PublicIP":"192.0.2.77","BackendType":"vxlan"}', 100)
    keys.put(f"{prefix}/subnets/10.23.6.0-24", '{"PublicIP":"192.0.2.77","BackendType":"vxlan"}', 100)
    told = ctl("doctor", "--data-dir", str(tmp_path), "-o", "json")
    found = {each["check"]: each for each in told.document["findings"]}
    assert found["network"]["found"] == f"10.23.0.0/16 in {keys.api}, backend vxlan"
    assert found[f"store {store}"] == {
        "check": f"store {store}",
        "state": "ok",
        "found": "serves v2 and v3",
        "advice": None,
    }
    assert found["clock"]["state"] == "ok"
    assert "192.0.2.77 holds 10.23.5.0/24 and 10.23.6.0/24" in found["duplicates"]["found"]
    assert {"sync", "space", "file system", "ip_forward", "interface", "lease"} <= set(found)
    assert told.status == 1
    assert "duplicates" in told.err


def test_what_a_move_leaves_is_no_duplicate() -> None:
    value = '{"PublicIP":"192.0.2.77","BackendType":"vxlan"}'
    taken, former = Entry("10.23.5.0-24", value, 1, None), Entry("10.23.6.0-24", value, 1, 100)
    [found, _] = leases(survey([taken, former], None, "/n/subnets"))
    assert found.state is State.OK
    assert "left from a move until it ends: 10.23.6.0/24 of 192.0.2.77" in found.told
    open_one = Entry("10.23.5.0-24", '{"PublicIP":"192.0.2.77"}', 1, None)
    assert next(leases(survey([open_one, former], None, "/n/subnets"))).state is State.WRONG


def test_a_store_that_does_not_answer_and_a_config_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "netstore.toml"
    file.write_text("[agent]\nlease_ttl = 0\n")
    told = run("--endpoints", DEAD, "doctor", "--config-file", str(file), "-o", "json")
    found = {each["check"]: each for each in told.document["findings"]}
    assert told.status == 1
    assert found[f"store {DEAD}"]["state"] == "wrong"
    assert found["network"]["state"] == "unknown"
    assert found["config netstore-agent"]["state"] == "wrong"
    assert "lease_ttl" in found["config netstore-agent"]["found"]
    assert found["config netstored"]["state"] == "ok"


@pytest.mark.parametrize(
    ("variable", "name", "content"),
    [
        ("ETCD_CONFIG_FILE", "etcd.yml", "name: one\ndata-dir: {folder}\n"),
        ("NETSTORE_CONFIG_FILE", "netstore.toml", "[store]\ndata_dir = '{folder}'\n"),
    ],
)
def test_the_configuration_is_the_one_that_the_daemon_would_find(  # noqa: PLR0917 - fixtures and cases
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, content: str
) -> None:
    file, folder = tmp_path / name, tmp_path / "data"
    folder.mkdir(mode=0o700)
    file.write_text(content.format(folder=folder))
    monkeypatch.setenv(variable, str(file))
    loaded = STORE.load((), os.environ)
    assert (loaded.config.data_dir, loaded.file) == (folder, str(file))
    told = run("--endpoints", DEAD, "doctor", "-o", "json")
    found = {each["check"]: each for each in told.document["findings"]}
    assert found["config netstored"]["found"] == f"{file} is valid"
    assert found["sync"]["state"] != "absent"
    monkeypatch.setenv("NETSTORE_QUOTA_BACKEND_BYTES", "x")
    told = run("--endpoints", DEAD, "doctor", "-o", "json")
    found = {each["check"]: each for each in told.document["findings"]}
    assert found["config netstored"]["state"] == "wrong"
    monkeypatch.delenv("NETSTORE_QUOTA_BACKEND_BYTES")
    monkeypatch.setenv("NETSTORE_LOG_LEVEL", "debug")
    told = run("--endpoints", DEAD, "doctor", "-o", "json")
    found = {each["check"]: each for each in told.document["findings"]}
    assert found["config netstored"]["found"] == f"{file} is valid; NETSTORE_LOG_LEVEL of this environment"


def test_a_store_without_a_network_is_well_where_nothing_needs_one(
    ctl: Run, prefix: str, keys: Keys, tmp_path: Path
) -> None:
    file = tmp_path / "netstore.toml"

    def network(config: str) -> tuple[str, str]:
        file.write_text(config)
        findings = ctl("doctor", "--config-file", str(file), "-o", "json").document["findings"]
        (found,) = [each for each in findings if each["check"] == "network"]
        return found["state"], found["found"]

    assert network("[agent]\nip_masq = true\n")[0] == "wrong", "an agent is configured"
    wanted = f"{prefix}/config: there is none; if nodes are to have subnets, write one with network set"
    assert network("") == ("absent", wanted)
    findings = ctl("doctor", "--config-file", str(file), "-o", "json").document["findings"]
    of_node = {
        "ip_forward",
        "rp_filter",
        "bridge-nf-call",
        "module",
        "interface",
        "lease",
        "mtu",
        "next hops",
    }
    assert {each["check"] for each in findings if each["state"] == "absent"} >= {"network", *of_node}
    keys.put(f"{prefix}/subnets/10.23.5.0-24", '{"PublicIP":"192.0.2.77","BackendType":"vxlan"}', 100)
    assert network("")[0] == "wrong", "a node holds a subnet"
