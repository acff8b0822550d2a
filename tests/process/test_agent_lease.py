"""Real agents and a real etcd: a node's own lease, and failures of the store."""

from __future__ import annotations

import math
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.netns import NETWORK, stage
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import Stage

pytestmark = [pytest.mark.root, pytest.mark.peer("etcd", "ip")]

MINE = {
    "v2": '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}',
    "v3": '{"PublicIP":"192.168.77.11","PublicIPv6":null,"BackendType":"host-gw"}',
}
OTHERS = '{"PublicIP":"192.168.77.99","BackendType":"host-gw"}'


@pytest.fixture(params=["v2", "v3"])
def api(request: pytest.FixtureRequest) -> str:
    """The API that keeps the network."""
    api: str = request.param
    return api


@pytest.fixture
def scene(tmp_path: Path, api: str) -> Iterator[Stage]:
    with stage(tmp_path, nodes=2, api=api) as scene:
        yield scene


def test_a_restart_keeps_the_subnet_and_the_routes(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = scene.agent()
    subnet = agent.subnet()
    until(lambda: "10.23.200.0/24" in agent.node.agent_routes(), "route")
    assert agent.stop() == 0
    assert scene.keys.holder(agent.node.address) == subnet
    assert "10.23.200.0/24" in agent.node.agent_routes()
    assert agent.env()["FLANNEL_SUBNET"].startswith(subnet.partition("-")[0][:-1])
    with agent.node.changes() as changes:
        agent.start()
        until(lambda: len(agent.events("routes_in_place")) == 2, "held again")
        agent.node.ip("route", "add", "10.99.0.0/16", "dev", "eth0")
        until(lambda: any("10.99.0.0/16" in line for line in changes()), "the last change")
        assert len(changes()) == 1, "no route was removed meanwhile"
    assert agent.subnet() == subnet


def test_without_its_lease_a_restart_takes_the_subnet_of_the_file(scene: Stage) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    agent.stop()
    scene.keys.drop_lease(subnet)
    agent.start()
    until(lambda: len(agent.events("subnet_held")) == 2, "held again")
    assert agent.subnet() == subnet


def test_a_subnet_that_another_node_holds_meanwhile_is_not_taken_back(scene: Stage) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    agent.stop()
    scene.keys.set_lease(subnet, OTHERS, ttl=1000)
    agent.start()
    until(lambda: len(agent.events("subnet_held")) == 2, "held again")
    assert agent.subnet() != subnet
    assert scene.keys.leases()[subnet]["value"] == OTHERS


def test_clean_up_removes_routes_lease_and_file(scene: Stage) -> None:
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    agent = scene.agent(0, "--cleanup")
    agent.subnet()
    until(lambda: "10.23.200.0/24" in agent.node.agent_routes(), "route")
    assert agent.stop(signal.SIGINT) == 0
    assert agent.node.agent_routes() == {}
    assert scene.keys.holder(agent.node.address) is None
    assert not agent.env_file.exists()
    assert "10.23.200.0-24" in scene.keys.leases()


def test_a_deleted_lease_is_written_again(scene: Stage) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    for _ in range(3):
        scene.keys.drop_lease(subnet)
        until(lambda: scene.keys.holder(agent.node.address) == subnet, "the same lease again")
    assert agent.told("lease_gone", subnet=subnet.replace("-", "/"))
    assert len(agent.events("subnet_held")) == 1


def test_an_overwritten_lease_is_left_to_the_other_and_a_new_one_taken(scene: Stage) -> None:
    first, second = scene.agent(0), scene.agent(1)
    lost, kept = first.subnet(), second.subnet()
    scene.keys.set_lease(lost, OTHERS, ttl=1000)
    until(lambda: len(first.events("subnet_held")) == 2, "another subnet")
    found = first.subnet()
    assert found not in (lost, kept)
    assert scene.keys.leases()[lost]["value"] == OTHERS
    assert first.env()["FLANNEL_SUBNET"] == found.replace(".0-24", ".1/24")
    assert first.told("lease_taken", by="192.168.77.99")
    routes = second.node.agent_routes
    until(lambda: routes().get(lost.replace("-", "/")) == "192.168.77.99", "peer follows the lost subnet")
    until(lambda: routes().get(found.replace("-", "/")) == first.node.address, "peer follows the new one")
    until(lambda: first.node.agent_routes().get(lost.replace("-", "/")) == "192.168.77.99", "own route")


def test_an_invalid_value_in_the_own_key_is_overwritten(scene: Stage, api: str) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    scene.keys.set_lease(subnet, "garbage", ttl=1000)
    until(lambda: scene.keys.leases()[subnet]["value"] == MINE[api], "lease restored")
    assert len(agent.events("subnet_held")) == 1


def test_a_short_lease_is_renewed_before_it_ends(scene: Stage, api: str) -> None:
    life = math.ceil(seconds(1))
    agent = scene.agent(0, "--lease-ttl", str(life))
    subnet = agent.subnet()
    seen = set()
    end = time.monotonic() + 3 * life  # fixed: three lives of this lease

    def renewed() -> bool:
        node = scene.keys.leases().get(subnet)
        assert node is not None, f"the lease ended\n{agent.log}"
        seen.add(node["modifiedIndex"])
        return len(seen) >= 3 if api == "v2" else time.monotonic() > end

    until(renewed, "three renewals of the lease", 10 * life)
    assert not agent.events("lease_gone")
    if api == "v3":
        assert len(seen) == 1, "a keepalive writes nothing"


def test_a_lease_that_expired_while_the_store_was_stopped_is_held_again(scene: Stage) -> None:
    agent = scene.agent(0, "--lease-ttl", "2")
    subnet = agent.subnet()
    scene.store.process.send_signal(signal.SIGSTOP)
    try:
        until(
            lambda: agent.events("lease_not_written") or agent.events("leases_not_followed"),
            "trouble told",
            30,
        )
    finally:
        scene.store.process.send_signal(signal.SIGCONT)
    until(lambda: scene.keys.holder(agent.node.address) == subnet, "held again", 30)
    assert agent.process is not None
    assert agent.process.poll() is None


def test_a_rewritten_lease_with_a_short_life_is_renewed_at_once(scene: Stage, api: str) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    scene.keys.set_lease(subnet, MINE[api], ttl=20)
    until(lambda: scene.keys.leases()[subnet].get("ttl", 0) > 1000, "full life again")


def test_a_reservation_stays_one(scene: Stage, api: str) -> None:
    scene.keys.set_lease("10.23.42.0-24", '{"PublicIP":"192.168.77.11"}')
    agent = scene.agent()
    assert agent.subnet() == "10.23.42.0-24"
    until(lambda: scene.keys.leases()["10.23.42.0-24"]["value"] == MINE[api], "attributes written")
    assert "ttl" not in scene.keys.leases()["10.23.42.0-24"]


def test_a_deleted_leases_folder_is_written_again(tmp_path: Path, api: str) -> None:
    with stage(tmp_path, nodes=3, api=api) as scene:
        agents = [scene.agent(number) for number in range(3)]
        subnets = [agent.subnet() for agent in agents]
        for agent in agents:
            until(lambda agent=agent: len(agent.node.agent_routes()) == 2, "routes")  # type: ignore[misc]
        before = [agent.node.agent_routes() for agent in agents]
        scene.keys.drop_all()
        until(lambda: sorted(scene.keys.leases()) == sorted(subnets), "all leases again")
        assert [agent.node.agent_routes() for agent in agents] == before
        if api == "v2":
            scene.keys.request("DELETE", "/coreos.com", "?recursive=true")
        until(lambda: sorted(scene.keys.leases()) == sorted(subnets), "all leases again")
        assert [agent.node.agent_routes() for agent in agents] == before


def test_a_store_killed_and_started_again_is_followed_on(scene: Stage) -> None:
    agent = scene.agent()
    subnet = agent.subnet()
    scene.store.kill()
    agent.told("leases_not_followed")
    scene.store.start_again()
    scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
    until(lambda: "10.23.200.0/24" in agent.node.agent_routes(), "new lease followed")
    assert scene.keys.holder(agent.node.address) == subnet
    assert not agent.events("store_rebuilt")


def test_a_wiped_store_gets_all_leases_back(tmp_path: Path, api: str) -> None:
    with stage(tmp_path, nodes=2, api=api) as scene:
        first, second = scene.agent(0), scene.agent(1)
        subnets = [first.subnet(), second.subnet()]
        until(lambda: first.node.agent_routes() and second.node.agent_routes(), "routes")
        scene.keys.lease_of("10.23.200.0-24", "192.168.77.99")  # a node that does not come back
        until(lambda: "10.23.200.0/24" in first.node.agent_routes(), "route")
        scene.wipe_store()
        scene.keys.set_config(NETWORK)
        until(lambda: sorted(scene.keys.leases()) == sorted(subnets), "both leases in the new store", 30)
        assert first.told("store_rebuilt")
        until(lambda: "10.23.200.0/24" not in first.node.agent_routes(), "the dead node's route fades", 30)
        assert first.node.agent_routes() == {subnets[1].replace("-", "/"): "192.168.77.12"}
        scene.keys.lease_of("10.23.201.0-24", "192.168.77.13")
        until(lambda: "10.23.201.0/24" in first.node.agent_routes(), "new store followed")


def test_events_missed_beyond_the_window_are_caught_up(scene: Stage) -> None:
    agent = scene.agent()
    agent.subnet()
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    try:
        scene.keys.lease_of("10.23.200.0-24", "192.168.77.12")
        scene.keys.lose_history()
        scene.keys.lease_of("10.23.201.0-24", "192.168.77.13")
    finally:
        agent.process.send_signal(signal.SIGCONT)
    until(lambda: len(agent.node.agent_routes()) == 2, "both routes")


def test_a_full_network_is_logged_once_and_retried(tmp_path: Path, api: str) -> None:
    small = '{"Network":"10.23.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}'
    with stage(tmp_path, nodes=1, config=small, api=api) as scene:
        for start in (64, 128, 192):
            scene.keys.lease_of(f"10.23.0.{start}-26", f"192.168.77.{start}")
        agent = scene.agent()
        agent.told("network_full")
        scene.keys.drop_lease("10.23.0.128-26")
        assert agent.subnet() == "10.23.0.128-26"
        assert len(agent.events("network_full")) == 1


def test_three_agents_that_start_together_get_three_subnets(tmp_path: Path, api: str) -> None:
    small = '{"Network":"10.23.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}'
    with stage(tmp_path, nodes=3, config=small, api=api) as scene:
        agents = [scene.agent(number) for number in range(3)]
        assert {agent.subnet() for agent in agents} == {"10.23.0.64-26", "10.23.0.128-26", "10.23.0.192-26"}
