"""The program: verbs, the delegate's input, the kept configuration, errors as the specification has them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netstore import __version__
from netstore.cni.delegate import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    IO_FAILURE,
    NOT_AVAILABLE,
    NOT_JSON,
    SUPPORTED,
    TRY_AGAIN,
    UNKNOWN_CONTAINER,
    UNSUPPORTED_VERSION,
)
from netstore.cni.plugin import main
from tests.support.patience import seconds

ENV = "FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

DELEGATE = """#!/bin/sh
cat > "$TOLD/config"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$TOLD/calls"
[ -e "$TOLD/killed" ] && kill -9 $$
if [ -e "$TOLD/fails" ]; then
    echo '{"cniVersion":"1.0.0","code":11,"msg":"busy"}'
    exit 1
fi
echo '{"cniVersion":"1.0.0"}'
"""


@dataclass
class Runtime:
    """A container runtime with one plugin, a script that records what it is given."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        script = self.folder / "bin" / "bridge"
        script.write_text(DELEGATE)
        script.chmod(0o755)
        self.env_file.write_text(ENV)

    @property
    def env_file(self) -> Path:
        return self.folder / "subnet.env"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def config(self) -> dict[str, Any]:
        """What the delegate was given last."""
        found: dict[str, Any] = json.loads((self.folder / "config").read_text())
        return found

    def run(
        self, verb: str, container: str = "c1", interface: str = "eth0", **fields: object
    ) -> tuple[int, dict[str, Any]]:
        """Exit status and what was printed, which is {} for nothing."""
        config = {
            "name": "cbr0",
            "cniVersion": "1.0.0",
            "type": "netstore-cni",
            "subnetFile": str(self.env_file),
            "dataDir": str(self.kept),
        } | fields
        return self.run_text(verb, json.dumps(config).encode(), container, interface)

    def run_text(
        self, verb: str, text: bytes, container: str = "c1", interface: str = "eth0"
    ) -> tuple[int, dict[str, Any]]:
        """The same with any input."""
        environment = os.environ | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": interface,
            "CNI_PATH": f"/nowhere:{self.folder / 'bin'}",
            "TOLD": str(self.folder),
        }
        done = subprocess.run(
            (sys.executable, "-m", "netstore.cni.plugin"),
            input=text,
            env=environment,
            capture_output=True,
            check=False,
            timeout=seconds(20),
        )
        assert done.stderr == b""
        return done.returncode, json.loads(done.stdout or b"{}")


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


def test_a_pod_is_attached_checked_and_taken_away(runtime: Runtime) -> None:
    assert runtime.run("ADD") == (0, {"cniVersion": "1.0.0"})
    given = runtime.config
    assert given["ipam"]["ranges"] == [[{"subnet": "10.23.42.0/24"}]]
    kept = runtime.kept / "c1"
    assert json.loads(kept.read_text()) == given
    assert (kept.stat().st_mode & 0o777, runtime.kept.stat().st_mode & 0o777) == (0o600, 0o700)
    assert runtime.run("CHECK", prevResult={"ips": [], "routes": []})[0] == 0
    assert runtime.config == given | {"prevResult": {"ips": [], "routes": []}}
    assert runtime.run("DEL") == (0, {"cniVersion": "1.0.0"})
    assert list(runtime.kept.iterdir()) == []
    assert runtime.calls == ["ADD c1 eth0", "CHECK c1 eth0", "DEL c1 eth0"]


def test_a_pod_is_taken_away_as_it_was_attached_whatever_the_subnet_is_by_then(runtime: Runtime) -> None:
    runtime.run("ADD")
    given = runtime.config
    runtime.env_file.write_text(ENV.replace("10.23.42", "10.23.99"))
    assert runtime.run("DEL")[0] == 0
    assert runtime.config == given
    runtime.run("ADD", container="c2")
    runtime.env_file.unlink()
    assert runtime.run("DEL", container="c2")[0] == 0


def test_del_again_and_for_unknown_containers_succeeds(runtime: Runtime) -> None:
    assert runtime.run("DEL") == (0, {})
    runtime.run("ADD")
    assert [runtime.run("DEL")[0] for _ in range(3)] == [0, 0, 0]
    assert runtime.calls == ["ADD c1 eth0", "DEL c1 eth0"]


def test_a_del_that_failed_can_be_repeated(runtime: Runtime) -> None:
    runtime.run("ADD")
    (runtime.folder / "fails").touch()
    assert runtime.run("DEL") == (1, {"cniVersion": "1.0.0", "code": 11, "msg": "busy"})
    (runtime.folder / "fails").unlink()
    assert runtime.run("DEL")[0] == 0
    assert list(runtime.kept.iterdir()) == []


def test_two_interfaces_of_a_pod_are_kept_apart(runtime: Runtime) -> None:
    runtime.run("ADD")
    runtime.run("ADD", interface="net1", delegate={"mtu": 900})
    assert sorted(each.name for each in runtime.kept.iterdir()) == ["c1", "c1@net1"]
    runtime.run("DEL", interface="net1")
    assert runtime.config["mtu"] == 900
    assert [each.name for each in runtime.kept.iterdir()] == ["c1"]


def test_an_id_that_looks_like_another_one_and_its_interface_is_kept_apart(runtime: Runtime) -> None:
    attachments = (("a-eth1", "eth0"), ("a", "eth1"), ("a.new", "eth0"), ("a", "eth0"))
    for container, interface in attachments:
        assert runtime.run("ADD", container, interface)[0] == 0
    for container, interface in attachments:
        assert runtime.run("DEL", container, interface)[0] == 0
        assert runtime.calls[-1] == f"DEL {container} {interface}"


def test_nothing_is_kept_for_a_plugin_that_is_not_there(runtime: Runtime) -> None:
    status, error = runtime.run("ADD", delegate={"type": "nothere"})
    assert (status, error["code"]) == (1, BAD_CONFIG)
    assert not runtime.kept.exists()


def test_a_pod_whose_plugin_is_gone_is_not_taken_away_unsaid(runtime: Runtime) -> None:
    runtime.run("ADD")
    (runtime.folder / "bin" / "bridge").unlink()
    status, error = runtime.run("DEL")
    assert (status, error["code"]) == (1, BAD_CONFIG)
    assert "the plugin bridge is not in CNI_PATH" in error["msg"]
    assert (runtime.kept / "c1").exists(), "the next DEL can take it away"


def test_gc_forgets_what_is_no_attachment_of_this_network(runtime: Runtime) -> None:
    for container, interface in (("c1", "eth0"), ("c1", "net1"), ("c2", "eth0")):
        runtime.run("ADD", container, interface)
    runtime.run("ADD", "c3", name="other")
    (runtime.kept / "notes").write_text("[]")
    attachments: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]}
    (runtime.folder / "fails").touch()
    assert runtime.run("GC", cniVersion="1.1.0", **attachments)[0] == 1
    assert len(list(runtime.kept.iterdir())) == 5, "the plugin has freed nothing"
    (runtime.folder / "fails").unlink()
    assert runtime.run("GC", cniVersion="1.1.0", **attachments)[0] == 0
    assert sorted(each.name for each in runtime.kept.iterdir()) == ["c1@net1", "c3", "notes"]
    bad: dict[str, Any] = {"cni.dev/valid-attachments": [7]}
    assert runtime.run("GC", cniVersion="1.1.0", **bad)[1]["code"] == BAD_CONFIG


def test_what_is_no_text_or_nested_too_deep_is_an_error_of_cni(runtime: Runtime) -> None:
    status, error = runtime.run("ADD", dataDir="/tmp/\ud800")
    assert (status, error["code"]) == (1, BAD_CONFIG)
    assert runtime.run("ADD", delegate={"type": "\ud800"})[1]["code"] == BAD_CONFIG
    runtime.run("ADD")
    (runtime.kept / "c1").write_text("[" * 100_000)
    status, error = runtime.run("DEL")
    assert (status, error["code"]) == (1, IO_FAILURE)
    assert str(runtime.kept / "c1") in error["msg"]


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_no_traceback(closed: str) -> None:
    done = subprocess.run(
        ("sh", "-c", f'exec "{sys.executable}" -m netstore.cni.plugin {closed}'),
        env=os.environ | {"CNI_COMMAND": "MOVE"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=seconds(20),
    )
    assert (done.returncode, done.stderr) == (1, b"")


def test_versions_are_told(runtime: Runtime) -> None:
    known = {"cniVersion": "0.4.0", "supportedVersions": list(SUPPORTED)}
    assert runtime.run("VERSION", cniVersion="0.4.0") == (0, known)
    assert runtime.run_text("VERSION", b"")[0] == 0
    assert runtime.run_text("VERSION", b"{")[1]["code"] == NOT_JSON


def test_status_and_gc_are_passed_on(runtime: Runtime) -> None:
    assert runtime.run("STATUS", cniVersion="1.1.0")[0] == 0
    attachments = [{"containerID": "c1", "ifname": "eth0"}]
    config = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": attachments}
    config |= {"subnetFile": str(runtime.env_file), "dataDir": str(runtime.kept)}
    assert runtime.run_text("GC", json.dumps(config).encode())[0] == 0
    assert runtime.config["cni.dev/valid-attachments"] == attachments
    runtime.env_file.unlink()
    assert runtime.run("STATUS", cniVersion="1.1.0")[1]["code"] == NOT_AVAILABLE


def test_without_a_subnet_file_the_runtime_is_told_to_try_again(runtime: Runtime) -> None:
    runtime.env_file.unlink()
    status, error = runtime.run("ADD")
    assert (status, error["code"]) == (1, TRY_AGAIN)
    assert str(runtime.env_file) in error["msg"]
    assert not runtime.kept.exists()


@pytest.mark.parametrize("container", ["", "..", "../x", ".x", "-x", "a/b", "a b", "a" * 300, "é"])
def test_a_bad_container_id_is_refused(runtime: Runtime, container: str) -> None:
    assert runtime.run("ADD", container=container)[1]["code"] == BAD_ENVIRONMENT
    assert runtime.calls == []


@pytest.mark.parametrize("interface", ["", ".", "..", "a/b", "a:b", "a b", "a" * 16])
def test_a_bad_interface_is_refused(runtime: Runtime, interface: str) -> None:
    assert runtime.run("ADD", interface=interface)[1]["code"] == BAD_ENVIRONMENT


def test_faults_are_told_as_the_specification_has_them(runtime: Runtime) -> None:
    assert runtime.run("MOVE")[1]["code"] == BAD_ENVIRONMENT
    assert runtime.run_text("ADD", b"{")[1]["code"] == NOT_JSON
    assert runtime.run_text("ADD", b" " * 2_000_000)[1]["code"] == NOT_JSON
    assert runtime.run("ADD", cniVersion="2.0.0")[1]["code"] == UNSUPPORTED_VERSION
    assert runtime.run("CHECK")[1]["code"] == UNKNOWN_CONTAINER
    assert runtime.run("ADD", delegate={"type": "nothere"})[1]["code"] == BAD_CONFIG
    assert runtime.run("ADD", dataDir="/proc/nothing")[1]["code"] == IO_FAILURE
    (runtime.folder / "killed").touch()
    status, error = runtime.run("ADD")
    assert (status, error["code"], "signal 9" in error["msg"]) == (1, IO_FAILURE, True)


@pytest.mark.parametrize(
    ("verb", "text", "status", "told"),
    [
        ("VERSION", "", 0, '"supportedVersions"'),
        ("", "{}", 1, "CNI_COMMAND: '' is no verb of CNI"),
        ("ADD", '{"subnetFile":"/nowhere/subnet.env"}', 1, "/nowhere/subnet.env: there is no such file"),
        ("DEL", '{"dataDir":"/nowhere"}', 0, ""),
        ("CHECK", '{"dataDir":"/nowhere"}', 1, "was not attached by this plugin"),
        ("DEL", '{"dataDir":"nowhere"}', 1, 'dataDir: \\"nowhere\\" is no absolute path'),
    ],
)
def test_a_run_in_this_process(  # noqa: PLR0917 - a table of cases
    verb: str,
    text: str,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["netstore-cni"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for name, value in (("COMMAND", verb), ("CONTAINERID", "c1"), ("IFNAME", "eth0"), ("PATH", "/nowhere")):
        monkeypatch.setenv(f"CNI_{name}", value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    assert told in capfd.readouterr().out


def test_a_damaged_kept_configuration_is_told(runtime: Runtime) -> None:
    runtime.run("ADD")
    for text in ("", "[]", "{}", '{"type":7}'):
        (runtime.kept / "c1").write_text(text)
        status, error = runtime.run("DEL")
        assert (status, error["code"]) == (1, IO_FAILURE)
        assert str(runtime.kept / "c1") in error["msg"]


def test_a_pipe_where_a_file_should_be_is_told_and_not_waited_for(runtime: Runtime) -> None:
    runtime.run("ADD")
    for path, verb in (
        (runtime.env_file, "ADD"),
        (runtime.kept / "c1", "DEL"),
        (runtime.kept / "@c2", "ADD"),
    ):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        status, error = runtime.run(verb, "c2" if path.name == "@c2" else "c1")
        assert (status, error["code"]) == (1, IO_FAILURE)
        assert str(path) in error["msg"]
        path.unlink()
        if path == runtime.env_file:
            path.write_text(ENV)


def test_what_is_no_file_is_not_replaced_by_a_kept_configuration(runtime: Runtime) -> None:
    runtime.run("ADD")
    path, elsewhere = runtime.kept / "c1", runtime.kept / "elsewhere"
    for make in (os.mkfifo, lambda path: path.symlink_to(elsewhere)):
        path.unlink()
        make(path)
        before = path.lstat()
        status, error = runtime.run("ADD")
        assert (status, error["code"]) == (1, IO_FAILURE)
        assert error["msg"].endswith(f"{path}: is no regular file")
        assert os.path.samestat(path.lstat(), before)
        assert not elsewhere.exists()


def test_a_configuration_is_kept_in_no_file_that_somebody_has_open(runtime: Runtime) -> None:
    runtime.kept.mkdir(parents=True)
    aside = runtime.kept / "@c1"
    aside.touch()
    aside.chmod(0o666)
    with aside.open("rb+") as held:
        assert runtime.run("ADD")[0] == 0
        assert held.read() == b""
        assert not os.path.samestat(os.fstat(held.fileno()), (runtime.kept / "c1").stat())
    assert not aside.exists()


def called(*arguments: str, verb: str = "VERSION") -> tuple[int, str, str]:
    """Status and both outputs of a call with arguments, as a person makes it."""
    done = subprocess.run(
        (sys.executable, "-m", "netstore.cni.plugin", *arguments),
        stdin=subprocess.DEVNULL,
        env=os.environ | {"CNI_COMMAND": verb},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(20),
    )
    return done.returncode, done.stdout, done.stderr


def test_the_version_of_the_program() -> None:
    assert called("--version") == (0, f"netstore-cni {__version__}\n", "")
    for arguments in (("--version", "--json"), ("--json", "--version")):
        status, out, err = called(*arguments)
        assert (status, err) == (0, "")
        assert json.loads(out).items() >= {"program": "netstore-cni", "version": __version__}.items()
    status, out, err = called()
    assert (status, err) == (0, "")
    assert json.loads(out)["supportedVersions"] == list(SUPPORTED), "the verb of CNI is another thing"


@pytest.mark.parametrize("arguments", [("--help",), ("--json",), ("--version", "--yaml"), ("ADD",)])
def test_arguments_that_are_not_known_are_named(arguments: tuple[str, ...]) -> None:
    status, out, err = called(*arguments, verb="ADD")
    assert (status, out) == (2, "")
    assert err.startswith("netstore-cni: takes no arguments but --version and --version --json; ")


def test_a_start_imports_little() -> None:
    code = "import sys, netstore.cni.plugin; print(*sorted(sys.modules))"
    done = subprocess.run(
        (sys.executable, "-S", "-c", code),
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds(20),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "trio",
        "httpx",
        "msgspec",
        "subprocess",
        "pathlib",
        "ipaddress",
        "logging",
        "asyncio",
    }
