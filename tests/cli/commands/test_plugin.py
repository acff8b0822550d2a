"""`netstorectl plugin`, on a store of its own."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from netstore.cli.commands.failures import Failure
from netstore.cli.commands.plugin import _exactly, _fields
from netstore.client.plugins import PluginsClient
from netstore.network.pluginreport import Installed, Report, encode_report
from netstore.network.plugins import PART_BYTES
from netstore.state.features import LEVEL
from tests.support.daemon import start_netstored
from tests.support.patience import seconds, until
from tests.support.peers import start_etcd
from tests.support.wheels import wheel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.commands.conftest import Run

SCHEMA = {"type": "object", "properties": {"Port": {"type": "integer"}}, "required": ["Port"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store whose feature level has been raised, which a new one does after it has begun to serve."""
    with start_netstored(tmp_path_factory.mktemp("plugins")) as daemon:
        level = f"netstore_feature_level {LEVEL:.1f}\n"
        until(lambda: level in httpx.get(f"{daemon.url}/metrics", timeout=seconds(10)).text, level)
        yield daemon.url


@pytest.fixture
def ctl(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """netstorectl for the store, whose plugins are retired after each test."""
    monkeypatch.setenv("NETSTORE_ENDPOINTS", url)
    yield run
    for row in run("plugin", "ls").rows:
        if row[1] != "built in":
            assert run("plugin", "retire", "--force", row[0]).status == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine-1.2-py3-none-any.whl"
    path.write_bytes(wheel(files={"mine/large.bin": _noise(2 * PART_BYTES)}))
    return path


def _noise(size: int) -> bytes:
    """Bytes that cannot be compressed, the same each time."""
    from random import Random  # noqa: PLC0415 - used here alone

    return Random(1).randbytes(size)  # noqa: S311 - not for secrets


def schema_file(tmp_path: Path, schema: Any = SCHEMA) -> str:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    return str(path)


def test_a_plugin_without_a_wheel(ctl: Run, tmp_path: Path) -> None:
    told = ctl(
        "plugin", "admit", "my-net", "--schema", schema_file(tmp_path), "--setting", "port=7", "-o", "json"
    )
    assert (told.status, told.err) == (0, "")
    assert told.document["since"] > 1_700_000_000
    shown = ctl("plugin", "show", "my-net", "-o", "json").document
    assert (shown["schema"], shown["settings"]) == (SCHEMA, {"port": 7})
    row = next(row for row in ctl("plugin", "ls").rows if row[0] == "my-net")
    assert row[1:5] == ["any", "yes", "", ""]
    assert ["host-gw", "built in", "", "", "", ""] in ctl("plugin", "ls").rows
    assert ctl("plugin", "ls", "-o", "table").out.startswith("NAME ")
    assert ctl("plugin", "retire", "my-net").status == 0
    gone = ctl("plugin", "show", "my-net")
    assert (gone.status, gone.err) == (3, "netstorectl: no plugin my-net is admitted\n")
    assert ctl("plugin", "retire", "my-net").status == 3


def test_a_wheel_goes_into_the_store_and_comes_back(ctl: Run, file: Path, tmp_path: Path) -> None:
    told = ctl("plugin", "admit", str(file), "-o", "json")
    assert told.status == 0, told.err
    assert "without --schema any Backend section passes" in told.err
    stored = told.document
    assert (stored["name"], stored["versions"]) == ("my-net", "==1.2")
    assert stored["wheel"]["received"] == stored["wheel"]["size"] == file.stat().st_size > 2 * PART_BYTES
    copy = tmp_path / "copy.whl"
    told = ctl("plugin", "fetch", "my-net", str(copy), "-o", "json")
    assert (told.status, told.document["sha256"]) == (0, stored["wheel"]["sha256"])
    assert copy.read_bytes() == file.read_bytes()
    again = ctl("plugin", "admit", str(file), "--version", ">=1,<2")
    assert again.rows[0][:5] == ["my-net", ">=1,<2", "no", file.name, "yes"]
    lost = ctl("plugin", "fetch", "my-net", str(tmp_path / "none" / "x.whl"))
    assert (lost.status, "No such file or directory" in lost.err) == (1, True)
    (tmp_path / "link").symlink_to(copy)
    told = ctl("plugin", "fetch", "my-net", str(tmp_path / "link"))
    assert (told.status, "link: is a symbolic link" in told.err) == (1, True)


def test_what_is_not_given_stays(ctl: Run, file: Path, tmp_path: Path) -> None:
    schema = schema_file(tmp_path)
    signature = tmp_path / "signature"
    signature.write_bytes(bytes(64))
    words = ("--schema", schema, "--version", ">=1,<2", "--setting", "port=7", "--setting", "a=1")
    told = ctl("plugin", "admit", str(file), "--signature", str(signature), *words)
    assert told.status == 0, told.err
    before = _shown(ctl)
    for change, field, value in (
        (("my-net", "--version", ">=1"), "versions", ">=1"),
        (("my-net", "--setting", "PORT=8"), "settings", {"a": 1, "PORT": 8}),
        (("my-net", "--setting", "A="), "settings", {"PORT": 8}),
        ((str(file),), "versions", ">=1"),
        (("my-net",), "versions", ">=1"),
    ):
        assert ctl("plugin", "admit", *change).status == 0
        assert _shown(ctl) == (before := before | {field: value}), change
    fetched = ctl("plugin", "fetch", "my-net", str(tmp_path / "copy.whl"))
    assert fetched.status == 0, "the bytes of the wheel stay as well"


def test_what_is_said_of_a_plugin_can_be_taken_away(ctl: Run, file: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(bytes(64))
    words = ("--schema", schema_file(tmp_path), "--setting", "Port=7", "--signature", str(signature))
    assert ctl("plugin", "admit", str(file), *words).status == 0
    before = _shown(ctl)
    assert ctl("plugin", "admit", "my-net", "--version", "").status == 0
    del before["versions"]
    assert _shown(ctl) == before
    assert ctl("plugin", "admit", str(file), "--signature", "").status == 0
    del before["wheel"]["signature"]
    assert _shown(ctl) == before
    assert ctl("plugin", "admit", "my-net", "--setting", 'Port=""').status == 1, "an empty text is a value"
    told = ctl("plugin", "admit", "my-net", "--setting", "port=", "--setting", "prt=")
    assert (told.status, told.err) == (
        0,
        "netstorectl: warning: --setting prt=: my-net has no such setting\n",
    )
    del before["settings"]
    assert _shown(ctl) == before
    told = ctl("plugin", "admit", "my-net", "--schema", "")
    assert (told.status, "without --schema any Backend section passes" in told.err) == (0, True)
    del before["schema"]
    assert _shown(ctl) == before
    assert ctl("plugin", "admit", "my-net", "--without-wheel").status == 0
    assert _shown(ctl) == {"name": "my-net"}
    assert ctl("plugin", "admit", str(file), "--without-wheel").status == 2


def test_another_wheel_has_no_signature_and_must_be_in_the_range(
    ctl: Run, file: Path, tmp_path: Path
) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(bytes(64))
    assert ctl("plugin", "admit", str(file), "--signature", str(signature)).status == 0
    file.write_bytes(wheel())
    told = ctl("plugin", "admit", str(file))
    assert (told.status, "the present one is of another wheel" in told.err) == (0, True)
    assert "signature" not in _shown(ctl)["wheel"]
    assert ctl("plugin", "admit", "my-net", "--version", ">2").status == 0, "of what nodes install by hand"
    told = ctl("plugin", "admit", str(file))
    assert (told.status, "has version 1.2, which is not in >2" in told.err) == (1, True)


def test_a_plugin_is_shown_a_value_a_line(ctl: Run, file: Path, tmp_path: Path) -> None:
    admit = ("plugin", "admit", str(file), "--schema", schema_file(tmp_path), "--setting", "port=7")
    since = ctl(*admit).rows[0][5]
    assert since.endswith("Z")
    shown = {row[0]: row[1] for row in ctl("plugin", "show", "my-net").rows}
    size = str(file.stat().st_size)
    assert len(shown.pop("wheel.sha256")) == 64
    assert shown == {
        "name": "my-net",
        "versions": "==1.2",
        "schema.type": "object",
        "schema.properties.Port.type": "integer",
        "schema.required": '["Port"]',
        "settings.port": "7",
        "wheel.file": file.name,
        "wheel.size": size,
        "wheel.received": size,
        "since": since,
    }
    assert ["builtIn", "true"] in ctl("plugin", "show", "vxlan").rows


def test_what_a_store_shows_is_not_trusted() -> None:
    deep = {"a": {"b": {"c": {"d": {"e": 1}}}}, "since": 10**30}
    assert list(_fields(deep)) == [("a.b.c.d", '{"e":1}'), ("since", str(10**30))]


def test_a_setting_that_the_schema_does_not_have_is_told(ctl: Run, tmp_path: Path) -> None:
    words = ("--schema", schema_file(tmp_path), "--setting", "prt=4", "--setting", "PORT=4")
    told = ctl("plugin", "admit", "my-net", *words)
    assert (told.status, told.err) == (
        0,
        "netstorectl: warning: --setting prt: the schema of my-net has no such option; it is ignored\n",
    )
    assert "any Backend section passes" in ctl("plugin", "admit", "my-net", "--schema", "").err


def test_a_schema_of_a_later_release_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def document(_: object, name: str) -> dict[str, Any]:
        return {"name": name, "schema": {"newKeyword": 1}}

    monkeypatch.setattr(PluginsClient, "document", document)
    told = run("plugin", "admit", "my-net", "--version", ">=1")
    assert (told.status, "its schema was written by a later release" in told.err) == (1, True)


def _shown(ctl: Run) -> dict[str, Any]:
    """What is said of my-net, without the time."""
    shown: dict[str, Any] = ctl("plugin", "show", "my-net", "-o", "json").document
    del shown["since"]
    return shown


def test_a_signature_is_kept(ctl: Run, file: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    signature.write_bytes(bytes(64))
    assert ctl("plugin", "admit", str(file), "--signature", str(signature)).status == 0
    kept = ctl("plugin", "show", "my-net", "-o", "json").document["wheel"]["signature"]
    assert base64.b64decode(kept) == bytes(64)
    signature.write_bytes(b"short")
    told = ctl("plugin", "admit", str(file), "--signature", str(signature))
    assert (told.status, "is no Ed25519 signature" in told.err) == (1, True)


def test_a_range_without_the_wheel_s_own_version_is_refused(ctl: Run, file: Path) -> None:
    told = ctl("plugin", "admit", str(file), "--version", ">=9")
    assert (told.status, "has version 1.2, which is not in >=9" in told.err) == (1, True), told.err


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["admit", "My-Net"], 1, "name: 'My-Net' is not a Type"),
        (["admit", "vxlan"], 1, "vxlan is built in"),
        (["admit", "x", "--version", "1"], 1, "versions: '1' is not a range"),
        (["admit", "x", "--setting", "port"], 2, "is not OPTION=VALUE"),
        (["admit", "x", "--schema", "/nonexistent"], 1, "No such file"),
        (["admit", "x", "--name", "y"], 2, "--signature and --name are for wheels"),
        (["admit", "/nonexistent/x-1-py3-none-any.whl"], 1, "No such file"),
        (["fetch", "x"], 3, "no plugin x is admitted"),
        (["fetch", "vxlan"], 1, "vxlan: is built in; every agent has it"),
        (["retire", "host-gw"], 1, "host-gw is built in"),
    ],
)
def test_what_cannot_be_done_is_told(ctl: Run, words: list[str], status: int, told: str) -> None:
    answer = ctl("plugin", *words)
    assert (answer.status, told in answer.err) == (status, True), answer.err


def test_a_wheel_that_cannot_be_used_is_refused(ctl: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine-1.2-py3-none-any.whl"
    for data, words in (
        (b"junk", "not a wheel that can be read"),
        (wheel(backends=""), "has 0 backends ()"),
        (wheel(backends="a = b:C\nd = e:F\n"), "has 2 backends (a, d); name one with --name"),
    ):
        path.write_bytes(data)
        told = ctl("plugin", "admit", str(path))
        assert (told.status, words in told.err) == (1, True), told.err
    assert ctl("plugin", "admit", str(path), "--name", "d").status == 0


def test_a_wheel_without_all_its_parts_is_not_fetched(ctl: Run, url: str) -> None:
    document = {"wheel": {"file": "mine-1.2-py3-none-any.whl", "sha256": "0f" * 32, "size": 5}}
    _admin(url, "PUT", "/my-net", document)
    told = ctl("plugin", "fetch", "my-net")
    assert (told.status, "0 of 5 bytes have arrived" in told.err) == (1, True)
    assert next(row for row in ctl("plugin", "ls").rows if row[0] == "my-net")[4] == "0%"
    no_wheel = ctl("plugin", "admit", "other")
    assert no_wheel.status == 0
    assert "no wheel is stored" in ctl("plugin", "fetch", "other").err


def _admin(url: str, method: str, path: str, document: object) -> None:
    from urllib.request import Request, urlopen  # noqa: PLC0415 - used here alone

    request = Request(  # noqa: S310 - to a store on loopback
        f"{url}/netstore/plugins{path}",
        json.dumps(document).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urlopen(request, timeout=seconds(60)) as answer:  # noqa: S310 - same
        assert answer.status == 200


def test_a_network_may_name_it_while_it_is_admitted(ctl: Run, tmp_path: Path) -> None:
    key = "/coreos.com/network/config"
    good = '{"Network":"10.1.0.0/16","Backend":{"Type":"my-net","PORT":1}}'
    bad = good.replace(":1}", ':"1"}')
    unknown = ctl("key", "set", key, good)
    assert (unknown.status, "no backend 'my-net' is admitted" in unknown.err) == (1, True), unknown.err
    ctl("plugin", "admit", "my-net", "--schema", schema_file(tmp_path))
    refused = ctl("key", "set", key, bad)
    assert "Backend.Port: '1' is not of type 'integer'" in refused.err
    assert ctl("key", "set", key, good).status == 0
    told = ctl("plugin", "retire", "my-net")
    assert (told.status, told.err) == (
        1,
        f"netstorectl: {key}: names my-net, in v2; write another config first, or give --force\n",
    )
    other = "/kube-centos/network/config"
    assert ctl("key", "set", other, good).status == 0
    assert ctl("key", "rm", key).status == 0
    told = ctl("plugin", "retire", "my-net")
    assert (told.status, f"{other}: names my-net, in v2" in told.err) == (1, True)
    assert ctl("key", "rm", other).status == 0
    assert ctl("key", "set", key, good).status == 0
    assert ctl("plugin", "retire", "--force", "my-net").status == 0
    assert ctl("key", "set", key, good).status == 1
    assert ctl("key", "rm", key).status == 0


def test_what_nodes_run_is_shown(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSTORE_PREFIX", "/reports")
    nothing = ctl("plugin", "status")
    assert (nothing.status, nothing.out) == (0, "")
    assert "no agent reports here" in nothing.err
    installed = (
        Installed("host-gw", "0.1.0"),
        Installed("my-net", "2.0", problem="needs the module vxlan"),
        Installed("stray", "1"),
    )
    ctl("plugin", "admit", "my-net", "--version", "<2")
    ctl(
        "key", "set", "/reports/plugins/10.0.0.1", encode_report(Report("one", "0.1.0", "host-gw", installed))
    )
    ctl("key", "set", "/reports/plugins/10.0.0.2", "junk")
    told = ctl("plugin", "status")
    assert told.rows == [
        ["one", "10.0.0.1", "yes", "host-gw", "0.1.0", "yes", ""],
        ["one", "10.0.0.1", "no", "my-net", "2.0", "no", "needs the module vxlan"],
        ["one", "10.0.0.1", "no", "stray", "1", "no", ""],
    ]
    assert "/reports/plugins/10.0.0.2: not the report of an agent" in told.err
    [node] = ctl("plugin", "status", "-o", "json").document["nodes"]
    assert (node["running"], len(node["installed"])) == ("host-gw", 3)


@pytest.mark.peer("etcd")
def test_etcd_keeps_no_plugins(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_etcd(tmp_path) as daemon:
        monkeypatch.setenv("NETSTORE_ENDPOINTS", daemon.url)
        told = run("plugin", "ls")
        assert (told.status, "this store keeps no plugins: it is etcd" in told.err) == (3, True)
        assert run("plugin", "status").status == 0


@pytest.mark.parametrize("version", ["1.0rc1", "1.0.post1", "1.0.dev3"])
def test_a_version_that_no_range_names_leads_to_the_option(version: str) -> None:
    with pytest.raises(Failure, match="with --version, such as") as refusal:
        _exactly("x.whl", version)
    assert version in refusal.value.text
    assert _exactly("x.whl", "1.0") == "==1.0"


def test_a_setting_that_is_not_text_is_a_usage_error(run: Run) -> None:
    told = run("plugin", "admit", "x", "--setting", "a=\udcff")
    assert told.status == 2
    assert "is not UTF-8" in told.err
