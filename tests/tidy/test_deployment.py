"""What `contrib` has for kubeadm, Kubernetes, containers, systemd and wheels fits the programs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any, Final

import click
import pytest
import tomli
import yaml

from netstore.agent import privileges
from netstore.api.probes import CHECKS
from netstore.cli.netstorectl import cli
from netstore.ops.agent import AGENT
from netstore.ops.store import STORE
from tests.support.daemon import ROOT
from tests.support.patience import seconds

MANIFESTS: Final = ("kubeadm/etcd.yaml", "kubernetes/netstore-agent.yaml")

NODE = (("NODE_NAME", "cp1"), ("NODE_IP", "192.0.2.10"), ("ENDPOINTS", "https://192.0.2.10:2379"))


def manifests(name: str) -> list[dict[str, Any]]:
    """The documents of a file, with the values of a node filled in."""
    text = (ROOT / "contrib" / name).read_text()
    for word, value in NODE:
        text = text.replace(word, value)
    return [each for each in yaml.safe_load_all(text) if each]


def test_the_static_pod_starts_netstored_and_is_probed_where_it_answers() -> None:
    [pod] = manifests("kubeadm/etcd.yaml")
    [container] = pod["spec"]["containers"]
    program, *flags = container["command"]
    assert program == "netstored"
    config = STORE.load(flags, {}).config
    [probes] = config.listen_metrics_urls
    [port] = container["ports"]
    assert (port["containerPort"], port["name"]) == (probes.port, "probe-port")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in CHECKS
        assert (asked["host"], asked["port"]) == (probes.host, "probe-port")
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounts == {each["hostPath"]["path"] for each in pod["spec"]["volumes"]}
    [place] = [each for each in pod["spec"]["volumes"] if each["hostPath"]["path"] == str(config.data_dir)]
    assert place["hostPath"]["type"] == "Directory", "after an import that failed no empty store begins"
    assert str(config.key_file and config.key_file.parent) in mounts


def test_the_agents_pod_asks_for_no_token_and_one_capability() -> None:
    *_, daemonset = manifests("kubernetes/netstore-agent.yaml")
    spec = daemonset["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    *_, (label, value) = spec["nodeSelector"].items()
    described = (ROOT / "contrib/kubernetes/README.md").read_text()
    assert f"kubectl label node NODE {label}={value}\n" in described, "no node is taken that was not chosen"
    [container] = spec["containers"]
    config = AGENT.load(container["args"], {}).config
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == config.healthz_port
    assert container["securityContext"]["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {str(config.subnet_file.parent), str(config.data_dir)} <= mounts
    assert str(config.key_file and config.key_file.parent) in mounts


# --- both


def pods(name: str) -> list[dict[str, Any]]:
    """The specs of the pods that a manifest makes."""
    found = []
    for each in manifests(name):
        spec = each.get("spec", {}).get("template", each).get("spec")
        if spec:
            found.append(spec)
    assert found
    return found


def config_of(container: dict[str, Any]) -> Any:
    """What the program of a container makes of its command line."""
    words: list[str] = [*container["command"], *container.get("args", [])]
    flags = words[1:]
    return (STORE.load(flags, {}) if words[0] == "netstored" else AGENT.load(flags, {})).config


@pytest.mark.peer("kubectl")
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field_and_takes_every_value(name: str, tmp_path: Path) -> None:
    """kubectl reads a manifest with a pod into the types of the API, which drops what they do not have, and
    writes it again with another image. With `--local` it asks no server.
    """
    for document in (each for each in manifests(name) if each["kind"] != "Namespace"):
        file = tmp_path / "one.json"
        file.write_text(json.dumps(document))
        done = subprocess.run(
            ("kubectl", "set", "image", "--local", "-o", "json", "-f", str(file), "*=READ"),
            capture_output=True,
            check=False,
            timeout=seconds(60),
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert lost(json.loads(file.read_text().replace('"IMAGE"', '"READ"')), json.loads(done.stdout)) == []


def lost(given: object, read: object, at: str = "") -> list[str]:
    """The places where what was given is not what was read."""
    match given, read:
        case dict(), dict():
            return [each for key in given for each in lost(given[key], read.get(key), f"{at}.{key}")]
        case list(), list() if len(given) == len(read):
            pairs = enumerate(zip(given, read, strict=True))
            return [each for place, (one, other) in pairs for each in lost(one, other, f"{at}[{place}]")]
    return [] if given == read else [at]


def test_what_is_lost_is_found() -> None:
    given = {"a": [{"b": 1}, {"c": "x"}], "d": {"e": True}}
    assert lost(given, given | {"more": 1}) == []
    assert lost(given, {"a": [{"b": 1}, {}], "d": {"e": 1.5}}) == [".a[1].c", ".d.e"]
    assert lost(given, {"a": [], "d": {}}) == [".a", ".d.e"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_volumes_are_mounted_once_and_hold_what_the_flags_name(name: str) -> None:
    for spec in pods(name):
        volumes = {each["name"]: each for each in spec["volumes"]}
        assert len(volumes) == len(spec["volumes"])
        mounted = [each["name"] for container in spec["containers"] for each in container["volumeMounts"]]
        assert sorted(mounted) == sorted(volumes), "each volume is mounted, and each mount has its volume"
        for container in spec["containers"]:
            mounts = {
                PurePosixPath(each["mountPath"]): volumes[each["name"]] for each in container["volumeMounts"]
            }
            assert len(mounts) == len(container["volumeMounts"])
            for path, volume in mounts.items():
                assert path.is_absolute()
                host = volume.get("hostPath")
                assert host is None or PurePosixPath(host["path"]) == path, (
                    "one path in the pod and on the node"
                )
            config = config_of(container)
            named = {
                each.name: value
                for each in fields(config)
                if isinstance(value := getattr(config, each.name), Path)
            }
            assert {"data_dir", "cert_file", "key_file"} <= named.keys()
            outside = {
                key: value
                for key, value in named.items()
                if not any(mount in (value, *value.parents) for mount in map(Path, mounts))
            }
            assert outside == {}, "what a flag or a default names is on a volume"


@pytest.mark.parametrize("name", MANIFESTS)
def test_probes_ask_where_the_program_answers_and_give_it_time(name: str) -> None:
    for spec in pods(name):
        assert spec["hostNetwork"] is True, "the probes' host is that of the node"
        for container in spec["containers"]:
            ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
            assert all(len(each) <= 15 for each in ports), "as an IANA service name (RFC 6335)"
            config = config_of(container)
            if container["command"][0] == "netstored":
                [listened] = config.listen_metrics_urls
                address, port, paths = listened.host, listened.port, set(CHECKS)
            else:
                address, port, paths = config.healthz_ip, config.healthz_port, {"/healthz", "/readyz"}
            probes = {key: each for key, each in container.items() if key.endswith("Probe")}
            assert {"livenessProbe", "readinessProbe"} <= probes.keys()
            for key, probe in probes.items():
                asked = probe["httpGet"]
                assert ports.get(asked["port"], asked["port"]) == port, key
                assert asked["host"] == ("127.0.0.1" if address == "0.0.0.0" else address), key
                assert asked["path"] in paths, key
            live = probes["livenessProbe"]
            assert "ready" not in live["httpGet"]["path"], "a program that waits for the others is not killed"
            assert live["failureThreshold"] * live["periodSeconds"] >= 60


def test_the_agent_has_the_capability_that_it_asks_the_kernel_for() -> None:
    [spec] = pods("kubernetes/netstore-agent.yaml")
    [container] = spec["containers"]
    security = container["securityContext"]
    assert privileges.__doc__ is not None
    needed = set(re.findall(r"CAP_(NET_\w+)", privileges.__doc__))
    assert set(security["capabilities"]["add"]) == needed
    assert not {"privileged", "runAsUser", "runAsNonRoot"} & security.keys(), "the Secret is root's alone"
    unit = settings("netstore-agent.service")
    assert unit["CapabilityBoundingSet"] == [f"CAP_{each}" for each in needed]


def test_images_are_one_and_are_to_be_filled_in() -> None:
    images = {
        container["image"] for name in MANIFESTS for spec in pods(name) for container in spec["containers"]
    }
    assert images == {"IMAGE"}
    for name in MANIFESTS:
        readme = (ROOT / "contrib" / name).with_name("README.md").read_text()
        raw = (ROOT / "contrib" / name).read_text()
        [filled] = re.findall(r"[Ff]ill in ([`A-Z_, and]+)", readme)
        words = set(re.findall(r"`([A-Z_]+)`", filled))
        assert words == {"IMAGE", *(word for word, _ in NODE if word in raw)}
        assert "../container/Containerfile" in readme


def test_labels_select_the_pods_and_names_are_those_of_kubernetes() -> None:
    namespace, daemonset = manifests("kubernetes/netstore-agent.yaml")
    assert daemonset["metadata"]["namespace"] == namespace["metadata"]["name"]
    selected = daemonset["spec"]["selector"]["matchLabels"]
    assert selected.items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()
    secret = daemonset["spec"]["template"]["spec"]["volumes"][-1]["secret"]["secretName"]
    readme = (ROOT / "contrib/kubernetes/README.md").read_text()
    [made] = re.findall(r"create secret generic (\S+)((?: --from-file=\S+)+)", readme)
    [container] = daemonset["spec"]["template"]["spec"]["containers"]
    config = config_of(container)
    files = {each and each.name for each in (config.ca_file, config.cert_file, config.key_file)}
    assert (made[0], set(re.findall(r"--from-file=(\S+)", made[1]))) == (secret, files)
    for document in (namespace, daemonset):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_every_command_of_ours_in_the_guides_is_one() -> None:
    """Commands and options of netstorectl, also those that no machine of ours can run."""
    asked = 0
    for name in MANIFESTS:
        text = (ROOT / "contrib" / name).with_name("README.md").read_text().replace("\\\n", " ")
        for line in re.findall(
            r"^\s*(?:`)?netstorectl (?!\()(.+)$|`netstorectl ([^`]+)`", text, re.MULTILINE
        ):
            words = shlex.split("".join(line))
            command: click.Command = cli
            while isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            known = {option for each in command.params for option in each.opts}
            assert {word for word in words if word.startswith("--")} <= known, words
            asked += 1
    assert asked >= 5


# --- units and packages


def test_the_drop_in_hands_over_what_it_names() -> None:
    text = (ROOT / "contrib/systemd/netstored.service.d/credentials.conf").read_text()
    given = re.findall(r"^LoadCredential=([^:]+):/\S+$", text, re.MULTILINE)
    used = re.findall(r"^Environment=(\w+)=%d/(\S+)$", text, re.MULTILINE)
    assert set(given) == {file for _, file in used}
    assert len(set(given)) == len(given)
    environ = {name: f"/run/credentials/{file}" for name, file in used}
    loaded = STORE.load(["--listen-client-urls=https://127.0.0.1:1"], environ)
    assert not loaded.config.etcd_compat
    assert len(used) == len(
        [source for source in loaded.sources.values() if source.startswith("environment")]
    )


def settings(name: str) -> dict[str, list[str]]:
    """The settings of a unit or drop-in, whatever their section."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "contrib/systemd" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_store_may_write_to_the_folder_of_the_documented_backups() -> None:
    unit = settings("netstored.service")
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["DynamicUser"] == ["yes"]
    [path] = settings("netstored.service.d/backup.conf")["ReadWritePaths"]
    for name in ("contrib/doc/disaster.md", "contrib/examples/netstore.toml"):
        assert f'folder = "{path.removeprefix("-")}"' in (ROOT / name).read_text()
    postinst = (ROOT / "contrib/deb/debian/netstore.postinst").read_text()
    assert f"adduser --system --group --quiet --no-create-home --home /var/lib/{unit['User'][0]}" in postinst


def test_nothing_waits_for_an_agent_whose_store_is_a_pod_of_its_node() -> None:
    unit = settings("netstore-agent.service")
    assert "kubelet.service" in unit["Before"][0].split()
    assert unit["Type"] == ["notify"]
    assert settings("netstore-agent.service.d/static-pod.conf") == {"Type": ["exec"]}


def test_wheels_have_every_page_and_completion() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    pages = {
        f"man/{page.name}": f"share/man/man{page.suffix[1:]}/{page.name}" for page in (ROOT / "man").iterdir()
    }
    assert {name: target for name, target in shared.items() if name.startswith("man/")} == pages
    completions = {f"contrib/completion/{each.name}" for each in (ROOT / "contrib/completion").iterdir()}
    assert set(shared) - set(pages) == completions


def test_the_image_has_every_program() -> None:
    text = (ROOT / "contrib/container/Containerfile").read_text()
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    [programs] = re.findall(r"for program in ([\w -]+);", text)
    assert set(programs.split()) == set(project["project"]["scripts"])
    rules = (ROOT / "contrib/deb/debian/rules").read_text()
    [programs] = re.findall(r"^PROGRAMS = (.+)$", rules, re.MULTILINE)
    assert set(programs.split()) == set(project["project"]["scripts"])


def test_the_image_is_built_of_what_the_wheel_needs() -> None:
    """And of nothing else of a checkout, such as its environment."""
    text = (ROOT / "contrib/container/Containerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    copied = [PurePosixPath(word) for line in lines for word in line.split()]
    assert [each for each in copied if not (ROOT / each).exists()] == []
    project = tomli.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["only-include"],
        *wheel["shared-data"],
        *re.findall(r" (contrib/\S+) >", text),
    }
    needed = set(map(PurePosixPath, named))
    assert {each for each in needed if not {each, *each.parents} & {*copied}} == set()
    assert {each for each in copied if not any(one.is_relative_to(each) for one in needed)} == set()
