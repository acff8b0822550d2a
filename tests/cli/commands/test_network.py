"""`netstorectl network`: what may be written where all nodes read it, and what is said about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.cli.commands.invocation import Settings
from netstore.cli.commands.network import differences
from netstore.client.plugins import PluginsClient, Stored
from netstore.network.migration import Change, Phase, Plan, encode_plan
from netstore.network.plugins import Plugin
from tests.cli.commands.conftest import DEAD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Keys, Run

GOOD = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'


def config(**fields: object) -> str:
    """`GOOD` with other fields; None leaves one out."""
    document = {**json.loads(GOOD), **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None})


def stored(keys: Keys, prefix: str) -> str:
    """The config in the store."""
    node = keys.node(f"{prefix}/config")
    assert node is not None
    value: str = node["value"]
    return value


def test_set_writes_the_document_as_given_and_shows_it(ctl: Run, prefix: str, keys: Keys) -> None:
    told = ctl("network", "set", GOOD)
    assert (told.status, told.err) == (0, "")
    assert told.rows == [
        ["Network", "", "172.30.0.0/16"],
        ["SubnetLen", "", "24"],
        ["Backend.Type", "", "host-gw"],
    ]
    assert stored(keys, prefix) == GOOD


def test_set_reads_a_file_and_standard_input(ctl: Run, prefix: str, keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    file.write_text(f"  {GOOD}\n")
    assert ctl("network", "set", str(file)).status == 0
    assert stored(keys, prefix) == GOOD
    for words in ([], ["-"]):
        changed = config(SubnetLen=25 + len(words))
        assert ctl("network", "set", *words, stdin=changed.encode()).status == 0
        assert stored(keys, prefix) == changed


def test_set_of_a_file_that_is_not_there(ctl: Run) -> None:
    told = ctl("network", "set", "/nowhere/network.json")
    assert (told.status, told.err) == (
        1,
        "netstorectl: /nowhere/network.json: No such file or directory; give a file, - or the JSON itself\n",
    )


def test_set_shows_what_changes(ctl: Run) -> None:
    ctl("network", "set", GOOD)
    changed = config(SubnetLen=None, Network="10.0.0.0/8", Backend={"Type": "vxlan", "VNI": 7})
    told = ctl("network", "set", changed, "-o", "json").document
    assert told["action"] == "changed"
    assert told["changes"] == [
        {"field": "Network", "before": "172.30.0.0/16", "after": "10.0.0.0/8"},
        {"field": "Backend.Type", "before": "host-gw", "after": "vxlan"},
        {"field": "Backend.VNI", "before": None, "after": 7},
        {"field": "SubnetLen", "before": 24, "after": None},
    ]


def test_set_again_changes_nothing(ctl: Run) -> None:
    created = ctl("network", "set", GOOD, "-o", "json").document
    again = ctl("network", "set", GOOD, "-o", "json").document
    assert (created["action"], again["action"], again["changes"]) == ("created", "unchanged", [])
    assert again["modifiedIndex"] == created["modifiedIndex"]
    told = ctl("network", "set", GOOD, "-o", "table")
    assert (told.status, told.out) == (0, "")
    assert told.err.endswith("/config: unchanged, and means the same as before\n")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("{not json}", "document: not JSON"),
        ("[]", "document: not a JSON object"),
        (config(Network=5), "Network: 5 has the wrong type"),
        (config(Network="172.30.0.0"), "Network: "),
        (config(Network=None), "Network: missing"),
        (config(Network="fd00::/64"), "Network: "),
        (config(SubnetLen="24"), 'SubnetLen: "24" has the wrong type'),
        (config(SubnetLen=33), "SubnetLen: 33 "),
        (config(SubnetLen=15), "SubnetLen: 15 "),
        (config(SubnetMin="172.31.0.0"), "SubnetMin: 172.31.0.0 is outside"),
        (config(SubnetMin="172.30.9.0", SubnetMax="172.30.3.0"), "SubnetMin: 172.30.9.0 is above"),
        (config(Backend={}), "Backend.Type: missing"),
        (config(Backend="host-gw"), "Backend: "),
        (config(Backend={"Type": "vxlna"}), "Backend.Type: no backend 'vxlna' is admitted"),
        (config(Backend={"Type": "vxlan", "VNI": 99999999}), "Backend.VNI: "),
    ],
)
def test_a_document_no_daemon_can_use_is_refused_by_field(ctl: Run, document: str, named: str) -> None:
    for command in ("set", "check"):
        told = ctl("network", command, "-", stdin=document.encode())
        assert told.status == 1
        assert told.err.startswith(f"netstorectl: {named}")
        assert told.err.count("\n") == 1
        assert "; " in told.err, "a fix follows"
    assert ctl("network", "get").status == 3


def test_a_config_is_not_set_while_a_migration_is_under_way(ctl: Run, prefix: str, keys: Keys) -> None:
    assert ctl("network", "set", GOOD).status == 0
    other, place = config(SubnetLen=25), f"{prefix}/migration/plan"
    plan = Plan("one", Phase.SEND, Change.BACKEND, GOOD, config(Backend={"Type": "vxlan"}))
    keys.put(place, encode_plan(plan))
    told = ctl("network", "set", other)
    assert (told.status, stored(keys, prefix)) == (1, GOOD)
    assert "the migration one is under way (send): go on with it" in told.err
    assert ctl("network", "set", GOOD).status == 0, "nothing changes"
    told = ctl("network", "set", "--force", other)
    assert (told.status, stored(keys, prefix)) == (0, other)
    assert "warning: the migration one is under way (send), and cannot go on" in told.err
    for over in (encode_plan(msgspec.structs.replace(plan, phase=Phase.ABORTED)), "no plan"):
        keys.put(place, over)
        for document in (GOOD, other):
            assert ctl("network", "set", document).err == ""


def test_force_does_not_help_where_the_store_checks_configs(run: Run, store: str) -> None:
    """A netstored checks the config below the usual prefix; an etcd takes anything."""
    words = ("--endpoints", store, "network")
    told = run(*words, "set", "--force", config(Backend={"Type": "vxlna"}))
    if told.status == 0:
        assert "warning: written although Backend.Type: no backend 'vxlna'" in told.err
        assert run("--endpoints", store, "key", "rm", "/coreos.com/network/config").status == 0
        return
    assert told.status == 1
    assert "written although" not in told.err
    assert "--force does not help: this store checks every config itself" in told.err
    assert run(*words, "get").status == 3


@pytest.mark.parametrize(
    ("flannels", "why"),
    [
        (
            config(Network="10.23.0.0/29", SubnetLen=30, Backend={"Type": "host-gw"}),
            "/29 is too small to divide",
        ),
        (config(Backend=None), "Backend: not given, which means udp; that is a backend of flanneld"),
        (config(Backend={"Type": "AWS-VPC"}), "aws-vpc is a backend of flanneld that no admitted plugin has"),
    ],
)
def test_what_only_a_flanneld_can_use_is_written_by_force_with_a_warning(
    ctl: Run, prefix: str, keys: Keys, flannels: str, why: str
) -> None:
    told = ctl("network", "check", flannels)
    assert told.status == 1
    assert "netstorectl: warning: " in told.err
    assert told.err.endswith("; network set --force writes it for flanneld all the same\n")
    assert why in told.err.splitlines()[-1]
    told = ctl("network", "set", flannels)
    assert told.status == 1
    assert why in told.err
    assert told.err.endswith("; --force writes it for flanneld all the same\n")
    told = ctl("network", "set", "--force", flannels)
    assert told.status == 0
    assert "netstorectl: warning: " in told.err
    assert stored(keys, prefix) == flannels
    told = ctl("network", "check")
    assert (told.status, why in told.err) == (1, True), "the same of what is stored"
    assert ctl("network", "get").status == 0


def test_the_backends_to_choose_from_are_told_with_the_admitted_ones(
    ctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admitted(_: object) -> tuple[Stored, ...]:
        return (Stored(Plugin("geneve"), 0),)

    monkeypatch.setattr("netstore.cli.commands.network.admitted_if_any", admitted)
    for command in ("set", "check"):
        told = ctl("network", command, config(Backend={"Type": "udp"}))
        assert (told.status, ", geneve, host-gw, " in told.err) == (1, True), told.err


def test_a_backend_of_flanneld_that_a_plugin_has_is_written(
    ctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admitted(_: object) -> tuple[Stored, ...]:
        return (Stored(Plugin("aws-vpc"), 0),)

    monkeypatch.setattr("netstore.cli.commands.network.admitted_if_any", admitted)
    assert ctl("network", "set", config(Backend={"Type": "aws-vpc"})).status == 0


def test_what_netstore_agents_cannot_use_is_not_set_over_their_leases(
    ctl: Run, prefix: str, keys: Keys
) -> None:
    ctl("network", "set", GOOD)
    lease(keys, prefix, "172.30.5.0-24", "192.168.77.11")
    told = ctl("network", "set", config(SubnetLen=31))
    assert told.status == 1
    assert "SubnetLen: 31 does not divide" in told.err
    assert stored(keys, prefix) == GOOD
    told = ctl("network", "set", "--force", config(SubnetLen=31))
    assert told.status == 0
    assert "leaves 1 lease outside" in told.err


def test_an_admitted_plugin_is_one_of_the_known_backends(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admitted(_: object) -> tuple[Stored, ...]:
        return (Stored(Plugin("geneve"), 0),)

    monkeypatch.setattr(PluginsClient, "admitted", admitted)
    document = config(Backend={"Type": "geneve"})
    assert ctl("network", "check", document).status == 0
    assert ctl("network", "set", document).status == 0


def test_check_of_a_plugin_that_no_store_can_tell_of(run: Run) -> None:
    told = run("--endpoints", DEAD, "network", "check", config(Backend={"Type": "geneve"}))
    assert told.status == 1
    assert "the store was not asked for the plugins that it admits: no endpoint answered" in told.err
    assert "Backend.Type: no backend 'geneve' is admitted" in told.err


def test_force_writes_what_is_json(ctl: Run, prefix: str, keys: Keys) -> None:
    bad = config(SubnetLen="24")
    told = ctl("network", "set", "--force", bad)
    assert told.status == 0
    assert told.err.startswith('netstorectl: warning: written although SubnetLen: "24" has the wrong type')
    assert stored(keys, prefix) == bad


@pytest.mark.parametrize("document", ['{"Network":', '{"Network":NaN}', "{'Network':1}", '{"a":1} x', ""])
def test_force_does_not_write_what_is_not_json(ctl: Run, document: str) -> None:
    told = ctl("network", "set", "--force", "-", stdin=document.encode())
    assert told.status == 1
    assert "--force does not help here" in told.err
    assert ctl("network", "get").status == 3


def test_a_value_that_only_changed_its_type_is_seen(ctl: Run) -> None:
    ctl("network", "set", "--force", config(SubnetLen="24"))
    assert ctl("network", "set", GOOD).rows == [["SubnetLen", '"24"', "24"]]


def test_warnings_where_old_daemons_read_something_else(ctl: Run) -> None:
    told = ctl("network", "check", config(Network="10.0.0.7/24", SubnetLen=None, Backend=None, Colour="red"))
    assert told.status == 1, "for the Backend"
    warned = [line.split(": ")[2] for line in told.err.splitlines() if ": warning: " in line]
    assert sorted(warned) == ["Backend", "Backend.Type", "Colour", "Network", "SubnetLen"]
    assert ctl("network", "check", GOOD).err == ""


def test_check_of_a_source_asks_no_store(run: Run) -> None:
    told = run("--endpoints", "http://127.0.0.1:1", "network", "check", GOOD)
    assert (told.status, told.err) == (0, "")
    assert ["SubnetMax", "172.30.255.0"] in told.rows


def test_check_without_a_source_looks_at_the_store(ctl: Run, prefix: str, keys: Keys) -> None:
    told = ctl("network", "check")
    assert told.status == 3
    assert told.err.startswith(f"netstorectl: {prefix}/config: not found")
    ctl("network", "set", GOOD)
    assert ctl("network", "check").status == 0
    keys.put(f"{prefix}/config", "rubbish")
    told = ctl("network", "check", "-o", "json")
    assert told.status == 1
    assert told.document["config"] is None
    (problem,) = told.document["problems"]
    assert problem.startswith("document: not JSON")
    assert ctl("network", "get").status == 1


def test_get(ctl: Run, prefix: str) -> None:
    ctl("network", "set", GOOD)
    assert ctl("network", "get").rows == [
        ["Network", "172.30.0.0/16"],
        ["SubnetLen", "24"],
        ["SubnetMin", "172.30.1.0"],
        ["SubnetMax", "172.30.255.0"],
        ["Backend.Type", "host-gw"],
    ]
    assert ctl("network", "get", "--raw").out == f"{GOOD}\n"
    document = ctl("network", "get", "-o", "json").document
    assert (document["key"], document["config"]) == (f"{prefix}/config", json.loads(GOOD))
    assert document["effective"]["SubnetLen"] == 24


def test_get_of_a_dual_stack_network(ctl: Run) -> None:
    dual = {**json.loads(GOOD), "EnableIPv6": True, "IPv6Network": "fd23::/48"}
    told = ctl("network", "set", json.dumps(dual))
    assert "EnableIPv6: flannel before 0.15 serves IPv4 only" in told.err
    assert ctl("network", "get").rows[4:8] == [
        ["IPv6Network", "fd23::/48"],
        ["IPv6SubnetLen", "64"],
        ["IPv6SubnetMin", "fd23:0:0:1::"],
        ["IPv6SubnetMax", "fd23:0:0:ffff::"],
    ]


def test_a_network_that_becomes_dual_stack_warns_that_daemons_run_on(
    ctl: Run, prefix: str, keys: Keys
) -> None:
    ctl("network", "set", GOOD)
    keys.put(f"{prefix}/subnets/172.30.5.0-24", '{"PublicIP":"192.168.77.11"}')
    dual = {**json.loads(GOOD), "EnableIPv6": True, "IPv6Network": "fd23::/48"}
    told = ctl("network", "set", json.dumps(dual))
    assert "running daemons keep the old IPv6 subnets until each is started again" in told.err


def test_raw_can_be_set_again(ctl: Run) -> None:
    ctl("network", "set", GOOD)
    stored = ctl("network", "get", "--raw").out
    assert ctl("network", "set", stdin=stored.encode()).rows == []


def lease(keys: Keys, prefix: str, name: str, ip: str) -> None:
    keys.put(f"{prefix}/subnets/{name}", json.dumps({"PublicIP": ip, "BackendType": "host-gw"}), 1000)


@pytest.mark.parametrize(
    "fields",
    [
        {"Network": "172.31.0.0/16"},
        {"SubnetLen": 25},
        {"SubnetMin": "172.30.6.0"},
        {"SubnetMax": "172.30.4.0"},
    ],
)
def test_set_that_leaves_a_lease_outside_is_refused(
    ctl: Run, prefix: str, keys: Keys, fields: dict[str, Any]
) -> None:
    ctl("network", "set", GOOD)
    lease(keys, prefix, "172.30.5.0-24", "192.168.77.11")
    told = ctl("network", "set", config(**fields))
    assert told.status == 1
    assert "leaves 1 lease outside (172.30.5.0/24 of 192.168.77.11)" in told.err
    assert ctl("network", "get", "--raw").out == f"{GOOD}\n"
    told = ctl("network", "set", "--force", config(**fields))
    assert told.status == 0
    assert "warning: leaves 1 lease outside" in told.err


def test_set_that_moves_no_lease_is_not_refused(ctl: Run, prefix: str, keys: Keys) -> None:
    ctl("network", "set", GOOD)
    lease(keys, prefix, "172.30.5.0-24", "192.168.77.11")
    assert ctl("network", "set", config(SubnetMax="172.30.5.0")).status == 0


def test_many_lost_leases_are_counted_and_some_named(ctl: Run, prefix: str, keys: Keys) -> None:
    ctl("network", "set", GOOD)
    for number in range(1, 6):
        lease(keys, prefix, f"172.30.{number}.0-24", f"192.168.77.{number}")
    told = ctl("network", "set", config(Network="10.0.0.0/8"))
    assert "leaves 5 leases outside (172.30.1.0/24 of 192.168.77.1, " in told.err
    assert "172.30.3.0/24 of 192.168.77.3 and 2 more)" in told.err


def test_a_lease_that_was_outside_before_stands_in_no_ones_way(ctl: Run, prefix: str, keys: Keys) -> None:
    ctl("network", "set", GOOD)
    lease(keys, prefix, "8.8.8.0-24", "192.168.77.11")
    keys.put(f"{prefix}/subnets/rubbish", "rubbish")
    assert ctl("network", "set", config(Network="172.31.0.0/16")).status == 0


def test_the_first_config_is_held_against_leases_too(ctl: Run, prefix: str, keys: Keys) -> None:
    lease(keys, prefix, "172.30.5.0-24", "192.168.77.11")
    assert ctl("network", "set", config(Network="172.31.0.0/16")).status == 1
    assert ctl("network", "set", GOOD).status == 0


def test_another_backend_warns_that_daemons_run_on(ctl: Run, prefix: str, keys: Keys) -> None:
    ctl("network", "set", GOOD)
    lease(keys, prefix, "172.30.5.0-24", "192.168.77.11")
    told = ctl("network", "set", config(Backend={"Type": "vxlan"}))
    assert told.status == 0
    assert "warning: Backend.Type: running daemons keep the old backend" in told.err


@pytest.mark.parametrize("there", [None, config(SubnetLen=26)], ids=["created", "changed"])
def test_a_config_written_meanwhile_is_not_overwritten(
    ctl: Run, prefix: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, there: str | None
) -> None:
    if there is not None:
        ctl("network", "set", there)
    other = config(SubnetLen=28)
    ask, calls = Settings.ask_network, 0

    def interrupted(settings: Settings, *asked: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            keys.put(f"{prefix}/config", other)
        return ask(settings, *asked)

    monkeypatch.setattr(Settings, "ask_network", interrupted)
    told = ctl("network", "set", GOOD)
    assert told.status == 1
    assert told.err == (
        f"netstorectl: {prefix}/config: somebody else has changed it meanwhile; look at it and try again\n"
    )
    assert ctl("network", "get", "--raw").out == f"{other}\n"


def test_a_folder_in_place_of_the_config_is_named(ctl: Run, prefix: str) -> None:
    ctl("key", "mkdir", f"{prefix}/config")
    for words in (["set", GOOD], ["get"], ["check"]):
        told = ctl("network", *words)
        assert (told.status, told.err) == (
            1,
            f"netstorectl: {prefix}/config: is a directory; the config is a file\n",
        )


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abC"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)


def leaves(value: Any, path: str = "") -> set[tuple[str, str]]:
    """The slow twin: every leaf that is not null, which is how daemons read an absent field."""
    if isinstance(value, dict) and (value or not path):
        below = (leaves(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items())
        return set().union(*below)
    return set() if value is None else {(path, json.dumps(value, sort_keys=True))}


@given(DOCUMENTS)
def test_a_document_does_not_differ_from_itself(document: object) -> None:
    text = json.dumps(document)
    assert differences(text, json.dumps(json.loads(text), indent=2)) == []


@given(
    st.dictionaries(st.sampled_from("abcd"), DOCUMENTS), st.dictionaries(st.sampled_from("abcd"), DOCUMENTS)
)
def test_documents_that_differ_show_it(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = differences(json.dumps(before), json.dumps(after))
    different = {path for path, _ in leaves(before) ^ leaves(after)}
    assert sorted(field for field, _, _ in changed) == sorted(different)


def test_names_are_compared_as_daemons_read_them() -> None:
    assert differences('{"network":"10.0.0.0/8"}', '{"Network":"10.0.0.0/8"}') == []
    assert differences('{"network":"10.0.0.0/8"}', '{"Network":"10.0.0.0/9"}') == [
        ("Network", "10.0.0.0/8", "10.0.0.0/9")
    ]
