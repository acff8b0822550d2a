"""What `contrib` has for kubeadm, Kubernetes, systemd and wheels fits the programs."""

from __future__ import annotations

import re
from typing import Any

import tomli
import yaml

from netstore.api.probes import CHECKS
from netstore.ops.agent import AGENT
from netstore.ops.store import STORE
from tests.support.daemon import ROOT

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
    assert str(config.data_dir) in mounts
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
