"""Real agents and a real etcd: starts while something is missing or invalid."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.support.inside import inside
from tests.support.netns import NETWORK, RunningAgent, stage
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip", "setpriv")]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, nodes=1, config=None) as scene:
        yield scene


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no network config"),
        ("{", "not a JSON object"),
        ('{"Network":10}', "Network: 10 has the wrong type"),
        ('{"Network":"10.23.0.0/16","SubnetLen":"24"}', 'SubnetLen: "24" has the wrong type'),
        ('{"Network":"10.23.0.0/16","SubnetMin":"10.24.1.0"}', "SubnetMin: 10.24.1.0 is outside"),
        ('{"Network":"10.23.0.0/16","Backend":{"Type":"carrier-pigeon"}}', "no backend 'carrier-pigeon'"),
        ('{"Network":"192.168.0.0/16","Backend":{"Type":"host-gw"}}', "contains this node's own address"),
    ],
)
def test_an_invalid_config_is_logged_and_its_correction_noticed(
    scene: Stage, config: str | None, reason: str
) -> None:
    if config is not None:
        scene.keys.set_config(config)
    agent = scene.agent()
    agent.told("waiting", reason=reason)
    scene.keys.set_config(NETWORK)
    agent.subnet()
    assert len(agent.events("waiting")) == 1


def test_a_store_that_is_not_there_yet_is_waited_for(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    scene.store.stop()
    agent = scene.agent()
    assert "no endpoint answered" in agent.told("waiting")["reason"]
    scene.store.start_again()
    agent.subnet()


def test_one_dead_endpoint_of_two_does_not_matter(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    for _ in range(3):
        agent = scene.agent(0, "--endpoints", f"http://192.168.77.1:9,{scene.store.url}")
        agent.subnet()
        agent.stop()
        agent.log_path.unlink()


def test_an_interface_that_is_not_there_yet_is_waited_for(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    agent = scene.agent(0, "--iface", "uplink7")
    assert "uplink7" in agent.told("waiting")["reason"]
    agent.node.ip("link", "set", "eth0", "down")
    agent.node.ip("link", "set", "eth0", "name", "uplink7")
    agent.node.ip("link", "set", "uplink7", "up")
    assert agent.told("site_found")["interface"] == "uplink7"


@pytest.mark.parametrize(
    "flags",
    [
        ("--iface", "nothing,eth0"),
        ("--iface", "192.168.77.11"),
        ("--iface-regex", "^eth"),
        ("--iface-regex", r"192\.168\.77\."),
        ("--iface-can-reach", "192.168.77.1"),
        ("-iface=eth0", "-public-ip=192.168.77.11"),
    ],
)
def test_the_interface_is_chosen_as_configured(scene: Stage, flags: tuple[str, ...]) -> None:
    scene.keys.set_config(NETWORK)
    scene.wire.members[0].ip("route", "delete", "default")
    agent = scene.agent(0, *flags)
    assert agent.told("site_found")["interface"] == "eth0"


def test_a_public_address_of_another_host_is_refused_with_the_reason(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    agent = scene.agent(0, "--public-ip", "192.168.77.200")
    assert "NAT" in agent.told("waiting")["reason"]


def test_a_new_address_of_the_interface_reaches_the_lease(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    agent = scene.agent()
    subnet = agent.subnet()
    agent.node.ip("address", "delete", "192.168.77.11/24", "dev", "eth0")
    assert agent.told("interface_lost")
    agent.node.ip("address", "add", "192.168.77.50/24", "dev", "eth0")
    # The connections from the old address are dead, which is found only by a timeout.
    until(lambda: scene.keys.holder("192.168.77.50") == subnet, "lease with the new address", 40)


def test_an_unwritable_subnet_file_is_told_and_retried(scene: Stage, tmp_path: Path) -> None:
    scene.keys.set_config(NETWORK)
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    agent = scene.agent(0, "--subnet-file", str(blocked / "subnet.env"))
    agent.told("subnet_file_not_written")
    blocked.unlink()
    until((blocked / "subnet.env").exists, "the file")


def test_the_health_pages(scene: Stage) -> None:
    agent = scene.agent(0, "--healthz-port", "8471")

    def ask(path: str) -> tuple[int, str]:
        def call() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:8471{path}", timeout=seconds(5)) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return inside(agent.node.netns, call)

    until(lambda: ask("/healthz")[0] == 200, "alive")
    assert ask("/readyz")[0] == 503
    assert ask("/nothing")[0] == 404
    scene.keys.set_config(NETWORK)
    until(lambda: ask("/readyz")[0] == 200, "ready")
    scene.keys.set_lease("10.23.209.0-24", "junk")
    until(lambda: "10.23.209.0-24" in ask("/status")[1], "status names the bad lease")
    status = json.loads(ask("/status")[1])
    assert "not a lease" in status["skipped"]["10.23.209.0-24"]
    assert status["subnet"] == agent.subnet().replace("-", "/")


def test_the_service_manager_is_told_after_the_subnet_file(
    scene: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene.keys.set_config(NETWORK)
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(seconds(15))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        agent = scene.agent()
        message = manager.recv(4096).decode()
        while "READY=1" not in message:
            assert "STATUS=not ready: " in message
            message = manager.recv(4096).decode()
        assert "STATUS=holding 10.23." in message
        assert agent.env_file.exists()


def test_a_taken_health_port_ends_the_agent_with_one_line(scene: Stage) -> None:
    node = scene.wire.members[0]

    def bind() -> socket.socket:
        return socket.create_server(("127.0.0.1", 8471))

    with inside(node.netns, bind):
        agent = scene.agent(0, "--healthz-port", "8471")
        assert agent.process is not None
        assert agent.process.wait(seconds(20)) == 1
    assert "healthz_port: cannot serve on 127.0.0.1:8471" in agent.log.splitlines()[-1]


def test_without_permission_to_write_routes_the_reason_is_logged(scene: Stage) -> None:
    scene.keys.set_config(NETWORK)
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    weak = RunningAgent(
        scene.wire.members[0],
        scene.folder,
        ("--endpoints", scene.store.url, "--healthz-port", "8471"),
        before=("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"),
    )
    scene.agents.append(weak.start())
    assert "CAP_NET_ADMIN" in weak.told("waiting")["reason"]
    until(lambda: weak.health("/readyz")[0] == 503, "not ready")
    assert "CAP_NET_ADMIN" in weak.health("/readyz")[1]
    assert scene.keys.holder(weak.node.address) is None, "no lease is taken"
