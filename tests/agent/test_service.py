"""The whole agent with a fake kernel, a fake store and a mock clock."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing
from netstore_plugins.hostgw import HostGateway

from netstore.agent import lastingclock, localnode, privileges
from netstore.agent.kernel import Address, Link
from netstore.agent.leasestate import LeaseState
from netstore.agent.leasewatcher import GRACE_PERIOD, LeaseWatcher
from netstore.agent.routeplan import BOOT, DeleteRoute, KernelRoute
from netstore.agent.service import STUCK_SECONDS, Agent, pod_network
from netstore.agent.wanted import Route, Wanted
from netstore.client.grpc import PERMISSION_DENIED, Status
from netstore.client.v2 import V2Error
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_cidr, parse_ip
from netstore.network.ipv6 import parse_ip6
from netstore.network.lease import SUBNETS as LEASES
from netstore.network.masquerade import PodNetwork
from netstore.ops.agent import AgentConfig
from tests.agent.entropy import SeededEntropy
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS, fake, subnets
from tests.support.daemon import ROOT, clean_environment
from tests.support.kernel import FakeKernel
from tests.support.log import KeptLog
from tests.support.patience import seconds
from tests.support.ruleset import FakeRuleset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from trio.testing import MockClock

    from netstore.agent.backend import Host, Prepared
    from netstore.agent.leasestate import Action
    from netstore.client.faults import ClientError
    from netstore.client.storeapi import StoreAccess
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.lease import SubnetLease
    from tests.agent.fake_store import FakeStore

NETWORK = '{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
MINE = '{"PublicIP":"192.168.77.11","BackendType":"host-gw"}'
WRITTEN = {
    "v2": MINE,
    "v3": '{"PublicIP":"192.168.77.11","PublicIPv6":null,"BackendType":"host-gw"}',
}


class KnownStore:
    """A `StoreAccess` that opens nothing."""

    def __init__(self, api: str, store: FakeStore) -> None:
        self._api = api
        self._store = store
        self.reported = fake(api)
        self.kept_away = fake(api)
        """What the folder of the drained nodes has."""

    async def choose(self) -> tuple[str, SubnetStore]:
        return self._api, await self.store(self._api, LEASES)

    async def store(self, api: str, folder: str) -> SubnetStore:
        await trio.lowlevel.checkpoint()
        return subnets(self._store, folder)

    async def look_for_another(self, used: str) -> None:
        await trio.lowlevel.checkpoint()

    async def reports(self, api: str) -> SubnetStore:
        await trio.lowlevel.checkpoint()
        return subnets(self.reported)

    async def drained(self, api: str) -> SubnetStore:
        await trio.lowlevel.checkpoint()
        return subnets(self.kept_away)


class KeptManager:
    """A service manager that keeps what it is told."""

    watchdog_seconds: float | None = None

    def __init__(self) -> None:
        self.readies: list[str] = []
        self.statuses: list[str] = []
        self.lives = 0

    def ready(self, status: str = "") -> bool:
        self.readies.append(status)
        return True

    def status(self, status: str) -> bool:
        self.statuses.append(status)
        return True

    def alive(self) -> bool:
        self.lives += 1
        return True


class Node:
    """One agent with its kernel, and the store."""

    def __init__(self, folder: Path, api: str, **config: Any) -> None:
        self.api = api
        self.store = fake(api)
        self.store.put(f"{PREFIX}/config", NETWORK)
        self.kernel = FakeKernel()
        self.recorded = KeptLog()
        self.manager = KeptManager()
        self.ready = self.manager.readies
        self.placed: list[int] = []
        """How many routes there were each time that all were said to be in place."""
        self.env = folder / "subnet.env"
        self.config = AgentConfig(subnet_file=self.env, data_dir=folder / "data", iface=("eth0",), **config)
        self.entropy = SeededEntropy(folder.name)
        """Chosen by chance, a subnet would be one that the test uses otherwise, now and then."""
        self.agent = self.make()

    def make(self, ruleset: FakeRuleset | None = None) -> Agent:
        agent = Agent(
            self.config,
            self.kernel,
            self.recorded,
            manager=self.manager,
            require_privileges=lambda: None,
            ruleset=ruleset,
            on_placed=lambda: self.placed.append(len(self.routes())),
        )
        agent._access = cast("StoreAccess", KnownStore(self.api, self.store))
        agent._entropy = self.entropy
        return agent

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.agent._run)
            nursery.start_soon(self.store.expire)
            await trio.sleep(2)  # fixed: by the clock of the test
            yield
            nursery.cancel_scope.cancel()

    def routes(self) -> dict[str, int]:
        return {
            str(subnet): routes[0].gateway & 255
            for subnet, routes in self.kernel.table.items()
            if routes and routes[0].protocol == 78
        }

    def own_key(self) -> str:
        [key] = [name for name, kept in self.store.files.items() if kept.value == WRITTEN[self.api]]
        return key


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    api: str = request.param
    return api


@pytest.fixture
def node(tmp_path: Path, api: str) -> Node:
    return Node(tmp_path, api)


@pytest.mark.trio
async def test_a_start_and_what_remains_after_a_stop(autojump_clock: MockClock, node: Node) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        assert node.agent.not_ready() is None
        assert node.routes() == {"10.23.200.0/24": 12}
        assert node.env.read_text().startswith("FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET=10.23.")
        assert len(node.ready) == 1
        assert node.placed == [1]
        assert node.store.gets == 3, "config, leases and migrations are read once each"
        status = json.loads(json.dumps(node.agent.status()))
        assert (status["routes"], status["public_ip"], status["held"]) == (1, "192.168.77.11", True)
    assert node.routes() == {"10.23.200.0/24": 12}
    assert node.own_key()


@pytest.mark.trio
async def test_a_restart_removes_no_route(autojump_clock: MockClock, node: Node) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        pass
    before = len(node.kernel.route_steps)
    node.store.lease("10.23.201.0-24", "192.168.77.13")
    node.agent = node.make()
    async with node.running():
        assert node.routes() == {"10.23.200.0/24": 12, "10.23.201.0/24": 13}
    assert [str(step.route.subnet) for step in node.kernel.route_steps[before:]] == ["10.23.201.0/24"]


@pytest.mark.trio
async def test_a_node_moves_to_the_subnet_that_is_reserved_for_it(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=1000)
    node.env.write_text("FLANNEL_SUBNET=10.23.79.1/24\n")
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        former = node.own_key()
        node.store.put(f"{PREFIX}/subnets/10.23.77.0-24", '{"PublicIP":"192.168.77.12"}')
        await trio.sleep(5)  # fixed: by the clock of the test
        assert node.own_key() == former, "that one is another node's"
        node.store.put(f"{PREFIX}/subnets/10.23.78.0-24", '{"PublicIP":"192.168.77.11"}')
        await trio.sleep(5)  # fixed: by the clock of the test
        assert "FLANNEL_SUBNET=10.23.78.1/24\n" in node.env.read_text()
        taken = node.store.files[f"{PREFIX}/subnets/10.23.78.0-24"]
        assert (taken.value, taken.expires) == (WRITTEN[node.api], None)
        assert former in node.store.files, "pods of the former subnet keep their routes"
        assert node.routes()["10.23.200.0/24"] == 12
        await trio.sleep(1100)  # fixed: by the clock of the test
        assert former not in node.store.files, "it was not renewed"
        assert node.agent.not_ready() is None
    node.store.lease(former.rpartition("/")[2], "192.168.77.11")
    node.agent = node.make()
    async with node.running():
        assert "FLANNEL_SUBNET=10.23.78.1/24\n" in node.env.read_text(), "a reservation is taken first"


@pytest.mark.trio
async def test_a_node_with_a_name_keeps_its_subnet_when_its_address_changes(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, node_name="node7")
    subnets = f"{PREFIX}/subnets/"
    async with node.running():
        [key] = [name for name in node.store.files if name.startswith(subnets)]
        assert json.loads(node.store.files[key].value)["NodeName"] == "node7"
    node.env.unlink()
    node.kernel.set_addresses(Address(2, parse_ip("192.168.77.50"), 24))
    node.agent = node.make()
    async with node.running():
        assert [name for name in node.store.files if name.startswith(subnets)] == [key]
        assert json.loads(node.store.files[key].value)["PublicIP"] == "192.168.77.50"
        assert node.agent.not_ready() is None
    node.env.unlink()
    node.config = AgentConfig(
        subnet_file=node.env, data_dir=node.config.data_dir, iface=("eth0",), node_name="node8"
    )
    node.agent = node.make()
    async with node.running():
        assert len([name for name in node.store.files if name.startswith(subnets)]) == 2, "it is another node"


@pytest.mark.trio
async def test_a_move_whose_answer_is_lost_is_carried_out(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        node.store.unheard_writes = 1
        node.store.put(f"{PREFIX}/subnets/10.23.78.0-24", '{"PublicIP":"192.168.77.11"}')
        await trio.sleep(5)  # fixed: by the clock of the test
        assert node.store.unheard_writes == 0
        assert "FLANNEL_SUBNET=10.23.78.1/24\n" in node.env.read_text()
        assert node.agent.status()["reservation"] is True


@pytest.mark.trio
async def test_a_drained_node_stays_away_until_it_is_undrained(autojump_clock: MockClock, node: Node) -> None:
    mark = f"{PREFIX}/subnets/192.168.77.11"
    async with node.running():
        key = node.own_key()
        kept_away = cast("KnownStore", node.agent._access).kept_away
        kept_away.put(mark, "{}")
        await trio.sleep(30)  # fixed: by the clock of the test
        assert node.own_key() == key, "what it holds stays until it is removed"
        node.store.remove(key)
        await trio.sleep(60)  # fixed: by the clock of the test
        assert key not in node.store.files
        assert "is drained; `netstorectl subnet undrain 192.168.77.11`" in str(node.agent.not_ready())
        assert not node.env.exists()
        assert len(node.recorded.told("node_drained")) == 1
        kept_away.remove(mark)
        await trio.sleep(15)  # fixed: by the clock of the test
        assert node.own_key() == key
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_node_that_was_drained_by_its_name_stays_away_with_another_address(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, "v2", node_name="node7")
    kept_away = cast("KnownStore", node.agent._access).kept_away
    kept_away.put(f"{PREFIX}/subnets/node7", "{}")
    async with node.running():
        assert "is drained; `netstorectl subnet undrain node7`" in str(node.agent.not_ready())
        [told] = node.recorded.told("node_drained")
        assert "undrain node7 " in str(told)
        kept_away.remove(f"{PREFIX}/subnets/node7")
        await trio.sleep(15)  # fixed: by the clock of the test
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_look_that_fails_undoes_no_drain(autojump_clock: MockClock, node: Node) -> None:
    access = cast("KnownStore", node.agent._access)
    access.kept_away.put(f"{PREFIX}/subnets/192.168.77.11", "{}")
    async with node.running():
        assert "is drained" in str(node.agent.not_ready())
        access.kept_away.down = True
        await trio.sleep(60)  # fixed: by the clock of the test
        assert not node.store.files.keys() - {f"{PREFIX}/config"}
        assert "is drained" in str(node.agent.not_ready())
        access.kept_away.down = False
        access.kept_away.remove(f"{PREFIX}/subnets/192.168.77.11")
        await trio.sleep(15)  # fixed: by the clock of the test
        assert node.agent.not_ready() is None


@pytest.mark.trio
@pytest.mark.parametrize("error", [V2Error(110, "no"), Status("store", PERMISSION_DENIED, "no")])
async def test_an_agent_that_may_not_read_the_marks_takes_a_subnet(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch, error: ClientError
) -> None:
    async def refused(_: str) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(node.agent._access, "drained", refused)
    async with node.running():
        assert node.agent.not_ready() is None


async def restarted(node: Node) -> str:
    """Run the agent until it holds a subnet, remove its lease, and make it anew. Returns the lease's name."""
    async with node.running():
        key = node.own_key()
    node.store.remove(key)
    node.agent = node.make()
    return key.rpartition("/")[2]


@pytest.mark.trio
async def test_the_file_of_a_node_that_was_drained_while_its_agent_was_down_is_withdrawn(
    autojump_clock: MockClock, node: Node
) -> None:
    await restarted(node)
    access = cast("KnownStore", node.agent._access)
    access.kept_away.put(f"{PREFIX}/subnets/192.168.77.11", "{}")
    async with node.running():
        assert not node.env.exists()
        assert len(node.recorded.told("subnet_withdrawn")) == 1


@pytest.mark.trio
async def test_the_file_is_withdrawn_when_the_network_was_full_at_the_start(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.put(f"{PREFIX}/config", NETWORK.replace("/16", "/22"))
    await restarted(node)
    for number in range(4):
        node.store.lease(f"10.23.{number}.0-24", f"192.168.77.{12 + number}")
    async with node.running():
        assert not node.env.exists()
        node.store.remove(f"{PREFIX}/subnets/10.23.2.0-24")
        await trio.sleep(15)  # fixed: by the clock of the test
        assert "FLANNEL_SUBNET=10.23.2.1/24\n" in node.env.read_text()
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_the_file_is_withdrawn_when_another_node_has_the_subnet_of_an_earlier_run(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.lease(await restarted(node), "192.168.77.12")
    node.store.refuses_writes = True
    async with node.running():
        assert not node.env.exists()
        node.store.refuses_writes = False
        await trio.sleep(5)  # fixed: by the clock of the test
        assert node.env.exists()
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_the_file_stays_at_a_start_without_a_store_until_the_lease_has_ended(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=200)
    async with node.running():
        text = node.env.read_text()
    node.store.down = True
    node.agent = node.make()
    async with node.running():
        await trio.sleep(190)  # fixed: by the clock of the test
        assert node.env.read_text() == text
        await trio.sleep(8)  # fixed: by the clock of the test
        assert not node.env.exists()
        node.store.down = False
        await trio.sleep(15)  # fixed: by the clock of the test
        assert node.env.read_text() == text
        await trio.sleep(300)  # fixed: by the clock of the test
        assert node.env.read_text() == text


@pytest.mark.trio
@pytest.mark.parametrize("is_reserved", [True, False])
async def test_a_reservation_of_an_earlier_run_is_not_withdrawn_at_a_start_without_a_store(
    autojump_clock: MockClock, tmp_path: Path, api: str, *, is_reserved: bool
) -> None:
    node = Node(tmp_path, api, lease_ttl=200)
    async with node.running():
        plain = node.env.read_text()
        name = node.own_key().rpartition("/")[2]
        for ttl in (None,) if is_reserved else (None, 200):
            node.store.lease(name, "192.168.77.11", ttl)
            await trio.sleep(3)  # fixed: by the clock of the test
        text = node.env.read_text()
        assert (text == plain) is not is_reserved
        assert text.startswith(plain), "what flannel reads is as it was"
    node.store.down = True
    node.agent = node.make()
    async with node.running():
        await trio.sleep(2000)  # fixed: by the clock of the test
        assert node.env.exists() is is_reserved
        if is_reserved:
            assert node.env.read_text() == text
            assert node.recorded.told("subnet_withdrawn") == []


@pytest.mark.trio
async def test_a_reservation_that_a_younger_lease_overlaps_is_not_withdrawn_at_a_start(
    autojump_clock: MockClock, node: Node
) -> None:
    async with node.running():
        name = node.own_key().rpartition("/")[2]
        node.store.lease(name, "192.168.77.11", None)
        await trio.sleep(3)  # fixed: by the clock of the test
    node.store.lease(name.replace("-24", "-25"), "192.168.77.12")
    node.agent = node.make()
    async with node.running():
        assert node.agent.not_ready() is None
        assert node.recorded.told("subnet_withdrawn") == []


@pytest.mark.trio
@pytest.mark.parametrize("is_reserved", [True, False])
async def test_a_restart_with_nothing_to_change_writes_nothing_to_the_store(
    autojump_clock: MockClock, node: Node, *, is_reserved: bool
) -> None:
    async with node.running():
        if is_reserved:
            node.store.put(node.own_key(), WRITTEN[node.api])
        await trio.sleep(30)  # fixed: by the clock of the test; all that a start writes is written
        access, text = cast("KnownStore", node.agent._access), node.env.read_text()
    stores = node.store, access.reported, access.kept_away

    def written() -> list[tuple[int, int]]:
        return [(store.index, getattr(store, "last_lease", 0)) for store in stores]

    before = written()
    assert before[0][0] > 4, "the lease"
    assert before[1][0] > 3, "the report"
    for _ in range(3):
        node.agent = node.make()
        node.agent._access = cast("StoreAccess", access)
        async with node.running():
            await trio.sleep(30)  # fixed: by the clock of the test
            assert node.agent.not_ready() is None
            assert node.env.read_text() == text
        assert written() == before


@pytest.mark.trio
async def test_changes_of_other_leases_do_not_occupy_who_holds_the_own_one(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def next_action(state: LeaseState, now: float) -> Action:
        looks.append(now)
        return decide(state, now)

    decide = LeaseState.next
    monkeypatch.setattr(LeaseState, "next", next_action)
    async with node.running():
        await trio.sleep(2)  # fixed: by the clock of the test
        looks.clear()
        for number in range(20):
            node.store.lease(f"10.23.{200 + number}.0-24", f"192.168.77.{12 + number}")
            await trio.sleep(0.1)  # fixed: same
        node.store.remove(f"{PREFIX}/subnets/10.23.200.0-24")
        await trio.sleep(1)  # fixed: same
        assert len(node.routes()) == 19
        assert looks == []
        key = node.own_key()
        node.store.remove(key)
        await trio.sleep(1)  # fixed: same
        assert looks
        assert node.own_key() == key


@pytest.mark.trio
async def test_a_lease_that_an_earlier_run_left_is_renewed_in_time(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=1000)
    async with node.running():
        key = node.own_key()
        created = node.store.files[key].created
    await trio.sleep(300)  # fixed: by the clock of the test
    node.agent = node.make()
    async with node.running():
        before = node.store.index
        for _ in range(60):
            await trio.sleep(50)  # fixed: by the clock of the test
            assert node.store.files[key].created == created, "it never ended"
            assert node.agent.not_ready() is None
        assert node.store.index > before
    ends = node.store.files[key].expires
    assert ends is not None
    await trio.sleep_until(ends - 300)  # fixed: same
    node.agent = node.make()
    async with node.running():
        now = node.store.files[key].expires
        assert now is not None
        assert now > ends, "one that is due is renewed at the start"


@pytest.mark.trio
async def test_what_is_left_of_a_lease_whose_end_was_not_told_is_found(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        assert node.routes() == {"10.23.200.0/24": 12}
        watcher = node.agent._watcher
        assert watcher is not None
        watcher.leases.clear()  # and nobody is told
        await trio.sleep(60)  # fixed: by the clock of the test
        assert node.routes() == {}


@pytest.mark.trio
async def test_a_day_and_a_night_of_renewals(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        key, first = node.own_key(), node.store.index
        for _ in range(25):
            await trio.sleep(3600)
            assert node.agent.not_ready() is None
        assert node.own_key() == key
        writes = node.store.index - first
        assert writes == (1 if node.api == "v2" else 0), "one write a day, or a keepalive"
    assert len(node.recorded.told("subnet_held")) == 1


@pytest.mark.trio
async def test_a_store_away_for_longer_than_the_lease(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=3600)
    node.store.lease("10.23.200.0-24", "192.168.77.12", ttl=None)
    async with node.running():
        key = node.own_key()
        node.store.down = True
        node.store.cut()
        await trio.sleep(3500)
        assert node.agent.not_ready() is None
        text = node.env.read_text()
        await trio.sleep(80)
        assert "may have expired" in str(node.agent.not_ready())
        assert not node.env.exists(), "no pod gets an address"
        assert len(node.recorded.told("subnet_withdrawn")) == 1
        assert node.routes() == {"10.23.200.0/24": 12}, "the routes stay"
        await trio.sleep(400)
        assert key not in node.store.files
        node.store.down = False
        await trio.sleep(70)
        assert node.own_key() == key
        assert node.agent.not_ready() is None
        assert node.env.read_text() == text
        assert len(node.recorded.told("subnet_used_again")) == 1
    lines = len(node.recorded.lines)
    assert lines < 20, f"{lines} lines in an hour of trouble"


@pytest.mark.trio
async def test_a_store_that_hangs_while_the_lease_ends(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await trio.sleep_forever()

    node = Node(tmp_path, api, lease_ttl=100)
    async with node.running():
        assert node.agent._holder is not None
        monkeypatch.setattr(node.agent._holder._store, "replace", hang)
        await trio.sleep(96)  # fixed: by the clock of the test
        assert node.env.exists()
        await trio.sleep(2)  # fixed: by the clock of the test
        assert not node.env.exists()


class Sleep:
    """For how long the machine was suspended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 5.0
        monkeypatch.setattr(lastingclock, "suspended_seconds", lambda: self.seconds)


@pytest.mark.trio
@pytest.mark.parametrize("ttl", [60, 86_400])
async def test_a_lease_that_ended_while_the_machine_was_suspended_is_not_relied_on(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch, ttl: int
) -> None:
    machine = Sleep(monkeypatch)
    node = Node(tmp_path, api, lease_ttl=ttl)
    async with node.running():
        node.store.down = True
        node.store.cut()
        machine.seconds += ttl * 0.4
        await trio.sleep(lastingclock.LOOK_SECONDS)
        assert node.agent.not_ready() is None
        assert node.env.exists()
        machine.seconds += ttl * 0.6
        assert "may have expired" in str(node.agent.not_ready())
        await trio.sleep(lastingclock.LOOK_SECONDS)
        assert not node.env.exists()
        node.store.down = False
        await trio.sleep(70)  # fixed: by the clock of the test
        assert node.agent.not_ready() is None
        assert node.env.exists()


@pytest.mark.trio
async def test_a_renewal_that_fell_due_while_the_machine_was_suspended_is_made_up_for(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Sleep(monkeypatch)
    node = Node(tmp_path, api, lease_ttl=3600)
    async with node.running():
        holder = node.agent._holder
        assert holder is not None
        machine.seconds += 3550
        assert holder.ends_in < 60
        await trio.sleep(lastingclock.LOOK_SECONDS + 1)
        assert holder.ends_in > 3500
        assert node.env.exists()
        assert node.recorded.told("subnet_withdrawn") == []


@pytest.mark.trio
async def test_the_time_of_a_renewal_is_counted_from_before_the_machine_was_suspended(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Sleep(monkeypatch)
    node = Node(tmp_path, api, lease_ttl=100)
    async with node.running():
        holder = node.agent._holder
        assert holder is not None
        replace, is_asked, renewals = holder._store.replace, trio.Event(), 0

        async def sleep_meanwhile(*args: Any, **options: Any) -> object:
            nonlocal renewals
            found = await replace(*args, **options)
            renewals += 1
            if not is_asked.is_set():
                is_asked.set()
                machine.seconds += 98
                await trio.sleep(0.5)  # fixed: by the clock of the test
            return found

        monkeypatch.setattr(holder._store, "replace", sleep_meanwhile)
        await is_asked.wait()
        await trio.sleep(0.6)  # fixed: by the clock of the test
        assert renewals == 2, "the answer told of a lease that was about to end"
        assert holder.ends_in > 98
        assert node.env.exists()


@pytest.mark.trio
async def test_the_file_of_an_earlier_run_does_not_outlast_its_lease_by_a_suspension(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Sleep(monkeypatch)
    node = Node(tmp_path, api, lease_ttl=3600)
    async with node.running():
        pass
    node.store.down = True
    node.agent = node.make()
    async with node.running():
        machine.seconds += 3600
        await trio.sleep(lastingclock.LOOK_SECONDS)
        assert not node.env.exists()


@pytest.mark.trio
async def test_a_deleted_lease_that_cannot_be_written_again(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        node.store.refuses_writes = True
        node.store.remove(node.own_key())
        await trio.sleep(1)  # fixed: by the clock of the test
        assert not node.env.exists(), "another node may get the subnet"
        node.store.refuses_writes = False
        await trio.sleep(30)  # fixed: by the clock of the test
        assert node.env.exists()


@pytest.mark.trio
async def test_a_restart_after_the_lease_ended_takes_the_withdrawn_subnet(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=100)
    async with node.running():
        key, text = node.own_key(), node.env.read_text()
        node.store.down = True
        node.store.cut()
        await trio.sleep(200)  # fixed: by the clock of the test
        assert not node.env.exists()
    assert key not in node.store.files
    node.store.down = False
    node.agent = node.make()
    async with node.running():
        assert (node.own_key(), node.env.read_text()) == (key, text)


@pytest.mark.trio
async def test_writes_whose_answers_are_lost(autojump_clock: MockClock, tmp_path: Path, api: str) -> None:
    node = Node(tmp_path, api, lease_ttl=1000)
    node.store.unheard_writes = 1
    async with node.running():
        await trio.sleep(5)
        key = node.own_key()
        node.store.unheard_writes = 1
        await trio.sleep(1000)
        assert node.own_key() == key
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_store_that_refuses_writes_is_logged_once(autojump_clock: MockClock, node: Node) -> None:
    node.store.refuses_writes = True
    async with node.running():
        await trio.sleep(60)
        assert node.agent.not_ready() == "no subnet is held"
        assert len(node.recorded.told("lease_not_written")) == 1
        node.store.refuses_writes = False
        await trio.sleep(5)
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_subnet_that_another_took_while_the_store_was_away(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, lease_ttl=3600)
    async with node.running():
        lost = node.own_key()
        node.store.down = True
        node.store.cut()
        await trio.sleep(4000)
        node.store.lease(lost.rpartition("/")[2], "192.168.77.99")
        node.store.down = False
        await trio.sleep(70)
        assert node.own_key() != lost
        taken = lost.rpartition("/")[2].replace("-", "/")
        assert node.routes()[taken] == 99
        assert len(node.recorded.told("subnet_held")) == 2
        assert len(node.ready) == 1


@pytest.mark.trio
async def test_the_lease_is_written_again_after_the_store_was_wiped(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        key = node.own_key()
        node.store.rebuild(cluster_id="another")
        await trio.sleep(2)
        assert node.own_key() == key
        assert node.routes() == {"10.23.200.0/24": 12}
        await trio.sleep(GRACE_PERIOD + 1)
        assert node.routes() == {}


@pytest.mark.trio
async def test_a_late_answer_of_a_store_that_was_replaced_is_not_believed(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal has arrived in the former store; in the new one another node has the subnet."""
    async with node.running():
        holder = node.agent._holder
        assert holder is not None
        key, state = node.own_key(), holder.state
        node.store.index += 100_000
        node.store.lease("10.23.250.0-24", "192.168.77.99")
        await trio.sleep(10)
        replace, late = holder._store.replace, [6.0]

        async def slowly(*arguments: Any) -> Any:
            found = await replace(*arguments)
            await trio.sleep(late.pop() if late else 0)
            return found

        monkeypatch.setattr(holder._store, "replace", slowly)
        state._next_action_at = trio.current_time()
        holder._wake.set()
        await trio.sleep(1)
        assert not late, "the answer is on its way"
        node.store.rebuild(cluster_id="another", index=4_000)
        node.store.put(f"{PREFIX}/config", NETWORK)
        node.store.lease(key.rpartition("/")[2], "192.168.77.12")
        await trio.sleep(30)
        assert node.own_key() != key
        assert state.index < 100_000
        assert node.agent.not_ready() is None
        assert "FLANNEL_SUBNET=" + key.rpartition("/")[2].rpartition(".")[0] not in node.env.read_text()


@pytest.mark.trio
async def test_the_link_disappears_comes_back_and_changes_its_address(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        key = node.own_key()
        node.kernel.remove_link(2)
        await trio.sleep(1)
        assert node.routes() == {}
        assert node.recorded.told("interface_lost")
        node.kernel.set_link(Link(7, "eth0", 1400, up=True))
        node.kernel.set_addresses(Address(7, parse_ip("192.168.77.11"), 24))
        await trio.sleep(1)
        assert node.routes() == {"10.23.200.0/24": 12}
        assert node.kernel.table[Subnet(parse_ip("10.23.200.0"), 24)][0].ifindex == 7
        node.kernel.set_addresses(Address(7, parse_ip("192.168.77.50"), 24))
        await trio.sleep(1)
        assert "192.168.77.50" in node.store.files[key].value
        assert node.agent.not_ready() is None
        await trio.sleep(5)
        assert "FLANNEL_MTU=1400" in node.env.read_text()


@pytest.mark.trio
async def test_an_address_that_changes_while_the_lease_is_written_is_written_too(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.answer_delay = 5.0
    async with node.running():
        key = node.own_key()
        assert node.agent.not_ready() is not None, "the answer is under way"
        node.kernel.set_addresses(Address(2, parse_ip("192.168.77.50"), 24))
        await trio.sleep(20)
        assert "192.168.77.50" in node.store.files[key].value
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_repairs_are_immediate_and_a_silent_loss_is_found_by_the_periodic_repair(
    autojump_clock: MockClock, node: Node
) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        subnet = Subnet(parse_ip("10.23.200.0"), 24)
        node.kernel.delete(node.kernel.table[subnet][0])
        await trio.testing.wait_all_tasks_blocked()
        assert node.routes() == {"10.23.200.0/24": 12}
        node.kernel.table.clear()
        await trio.sleep(11)
        assert node.routes() == {"10.23.200.0/24": 12}


@pytest.mark.trio
async def test_clean_up_leaves_what_others_made(autojump_clock: MockClock, tmp_path: Path, api: str) -> None:
    node = Node(tmp_path, api, cleanup=True)
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    static = KernelRoute(Subnet(parse_ip("10.23.9.0"), 24), parse_ip("192.168.77.1"), 2, 4)
    node.kernel.add(static)
    async with node.running():
        assert node.env.exists()
    await node.agent._clean_up()
    assert node.routes() == {}
    assert node.kernel.table[static.subnet] == [static]
    assert list(node.store.files) == [f"{PREFIX}/config", f"{PREFIX}/subnets/10.23.200.0-24"]
    assert not node.env.exists()


@pytest.mark.trio
async def test_clean_up_keeps_a_reservation(autojump_clock: MockClock, tmp_path: Path, api: str) -> None:
    node = Node(tmp_path, api, cleanup=True)
    key = f"{PREFIX}/subnets/10.23.42.0-24"
    node.store.put(key, '{"PublicIP":"192.168.77.11"}')
    async with node.running():
        assert node.store.files[key].value == WRITTEN[api]
    await node.agent._clean_up()
    assert node.store.files[key].expires is None


@pytest.mark.trio
async def test_a_lease_that_no_longer_fits_is_deleted(autojump_clock: MockClock, node: Node) -> None:
    node.store.put(f"{PREFIX}/subnets/10.23.7.0-25", MINE, 1000)
    async with node.running():
        assert f"{PREFIX}/subnets/10.23.7.0-25" not in node.store.files
        assert node.own_key().endswith("-24")
        assert node.recorded.told("lease_discarded")


@pytest.mark.trio
async def test_a_burst_of_leases_is_debounced(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        sends = node.kernel.sends
        for number in range(500):
            node.store.lease(f"10.23.{100 + number // 16}.{number % 16 * 16}-28", "192.168.77.12")
            if number % 50 == 0:
                await trio.sleep(0.01)
        await trio.sleep(5)
        assert len(node.routes()) >= 500 - 16
        assert node.kernel.sends - sends < 60


@pytest.mark.trio
async def test_a_plugin_that_raises_is_logged_and_retried(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    class Raising(HostGateway):
        async def prepare(self, host: Host) -> Prepared:
            nonlocal attempts
            attempts += 1
            if attempts in {1, 3}:
                raise RuntimeError("a fault of the plugin")
            return await super().prepare(host)

    monkeypatch.setattr(localnode, "find", lambda _: Raising(None))
    async with node.running():
        assert "a fault of the plugin" in str(node.recorded.told("waiting")[0]["reason"])
        assert node.agent.not_ready() is None
        node.kernel.set_link(Link(2, "eth0", 1400, up=True))
        await trio.sleep(1)
        assert "a fault of the plugin" in str(node.recorded.told("interface_lost")[0]["reason"])
        await trio.sleep(15)
        assert attempts == 4
        assert node.recorded.told("interface_back")


@pytest.mark.trio
async def test_a_new_mtu_is_written_to_the_subnet_file(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        writes = node.store.index
        node.kernel.set_link(Link(2, "eth0", 1400, up=True))
        await trio.sleep(1)
        assert "FLANNEL_MTU=1400" in node.env.read_text()
        assert node.store.index == writes, "the lease says the same as before"


@pytest.mark.trio
async def test_a_restart_is_quiet_about_its_own_lease(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        pass
    node.recorded.lines.clear()
    node.agent = node.make()
    node.store.refuses_writes = True
    async with node.running():
        assert node.recorded.told("lease_skipped") == [], "the lease of the earlier run is the node's"
        node.store.refuses_writes = False
        await trio.sleep(5)
        node.store.lease("10.23.250.0-24", "192.168.77.11")
        await trio.sleep(5)
        assert "this node's own" in str(node.recorded.told("lease_skipped")[0]["reason"])


@pytest.mark.trio
async def test_without_privileges_no_lease_is_taken(autojump_clock: MockClock, node: Node) -> None:
    allowed = False

    def require() -> None:
        if not allowed:
            raise privileges.NoPrivilegeError("CAP_NET_ADMIN is missing")

    node.agent._require_privileges = require
    async with node.running():
        assert node.agent.not_ready() == "CAP_NET_ADMIN is missing"
        assert list(node.store.files) == [f"{PREFIX}/config"]
        assert [fields["reason"] for fields in node.recorded.told("waiting")] == ["CAP_NET_ADMIN is missing"]
        allowed = True
        await trio.sleep(2)
        assert node.agent.not_ready() is None
        assert len(node.ready) == 1


@pytest.mark.trio
async def test_jumps_of_the_wall_clock_do_not_matter(
    autojump_clock: MockClock, tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, api, lease_ttl=1200)
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        key = node.own_key()
        for jump in (-1e9, 1e9):
            monkeypatch.setattr(time, "time", lambda jump=jump: 1.8e9 + jump)
            await trio.sleep(3600)
            assert node.agent.not_ready() is None
            assert (node.own_key(), node.routes()) == (key, {"10.23.200.0/24": 12})


@pytest.mark.trio
async def test_a_plugin_that_does_not_return_makes_the_agent_stuck(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node.running():
        assert not node.agent._is_stuck()

        async def hang(*_: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(node.agent._node and node.agent._node.backend, "declare", hang)
        await trio.sleep(STUCK_SECONDS + 15)
        assert node.agent._is_stuck()
        assert "were not checked for 60 s" in str(node.agent.not_ready())


DUAL = (
    '{"Network":"10.23.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd23::/48",'
    '"Backend":{"Type":"host-gw"}}'
)
DUAL_VALUE = '{"PublicIP":"192.168.77.11","PublicIPv6":"fd77::11","BackendType":"host-gw"}'
DUAL_PEER = '{"PublicIP":"192.168.77.12","PublicIPv6":"fd77::12","BackendType":"host-gw"}'
SUBNETS = f"{PREFIX}/subnets"


def make_dual_stack(node: Node) -> None:
    node.store.put(f"{PREFIX}/config", DUAL)
    node.kernel.address_list6 = [
        Address(2, parse_ip6("fe80::11"), 64),
        Address(2, parse_ip6("fd77::11"), 64),
    ]


def own_keys(node: Node) -> list[str]:
    return [
        name.removeprefix(f"{SUBNETS}/")
        for name, kept in node.store.files.items()
        if '"192.168.77.11"' in kept.value
    ]


@pytest.mark.trio
async def test_a_dual_stack_node(autojump_clock: MockClock, node: Node) -> None:
    make_dual_stack(node)
    node.store.put(f"{SUBNETS}/10.23.200.0-24&fd23:0:0:c8::-64", DUAL_PEER, 1000)
    node.store.lease("10.23.201.0-24", "192.168.77.13")
    async with node.running():
        assert node.agent.not_ready() is None
        [name] = own_keys(node)
        subnet, subnet6 = (part.replace("-", "/") for part in name.split("&"))
        assert node.store.files[f"{SUBNETS}/{name}"].value == DUAL_VALUE
        assert node.env.read_text() == (
            f"FLANNEL_NETWORK=10.23.0.0/16\nFLANNEL_SUBNET={subnet.replace('.0/', '.1/')}\n"
            f"FLANNEL_IPV6_NETWORK=fd23::/48\nFLANNEL_IPV6_SUBNET={subnet6.replace('::/', '::1/')}\n"
            "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
        )
        assert node.routes() == {"10.23.200.0/24": 12, "fd23:0:0:c8::/64": 0x12, "10.23.201.0/24": 13}
        status = node.agent.status()
        assert (status["subnet"], status["subnet6"]) == (subnet, subnet6)
        assert (status["public_ipv6"], status["ipv6_network"]) == ("fd77::11", "fd23::/48")
    place = int(subnet.split(".")[2])
    assert subnet6 == f"fd23:0:0:{place:x}::/64"


@pytest.mark.trio
async def test_the_network_becomes_dual_stack_and_single_again(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        [single] = own_keys(node)
    make_dual_stack(node)
    for expected in ("dual", "single"):
        changes = len(node.store.history)
        node.agent = node.make()
        async with node.running():
            [name] = own_keys(node)
            assert name.split("&")[0] == single
            assert ("&" in name) == (expected == "dual")
            assert node.agent.not_ready() is None
            assert ("IPV6" in node.env.read_text()) == (expected == "dual")
        actions = [
            (answer.action, answer.node.key.rpartition("/")[2]) for answer in node.store.history[changes:]
        ]
        made = next(at for at, (_, key) in enumerate(actions) if key == name)
        gone = next(at for at, (_, key) in enumerate(actions) if key != name)
        assert made < gone, "there is always a lease"
        node.store.put(f"{PREFIX}/config", NETWORK)


@pytest.mark.trio
async def test_a_reservation_stays_one_under_its_dual_stack_name(
    autojump_clock: MockClock, node: Node
) -> None:
    make_dual_stack(node)
    node.store.put(f"{SUBNETS}/10.23.42.0-24", '{"PublicIP":"192.168.77.11"}')
    async with node.running():
        assert own_keys(node) == ["10.23.42.0-24&fd23:0:0:2a::-64"]
        assert node.store.files[f"{SUBNETS}/10.23.42.0-24&fd23:0:0:2a::-64"].expires is None


@pytest.mark.trio
async def test_a_lease_is_given_up_to_an_older_one_with_its_ipv6_subnet(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node takes the IPv6 subnet under another name, between the listing and the write."""
    make_dual_stack(node)
    node.env.write_text("FLANNEL_SUBNET=10.23.42.1/24\nFLANNEL_IPV6_SUBNET=fd23:0:0:2a::1/64\n")
    node.store.lease("10.23.201.0-24", "192.168.77.13")
    original = node.store.refuse
    competitors = [f"{SUBNETS}/10.23.43.0-24&fd23:0:0:2a::-64"]

    def refuse() -> None:
        """Called before each write is done."""
        while competitors:
            node.store.put(competitors.pop(), DUAL_PEER, 1000)
        original()

    monkeypatch.setattr(node.store, "refuse", refuse)
    async with node.running():
        await trio.sleep(2)
        [name] = own_keys(node)
        assert not name.endswith("&fd23:0:0:2a::-64")
        assert name.startswith("10.23.42.0-24&")
        [line] = node.recorded.told("lease_given_up")
        assert line["reason"] == "the lease of 192.168.77.12 is older"
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_lease_is_confirmed_by_a_listing_if_the_watch_is_silent(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: LeaseWatcher) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(LeaseWatcher, "run", silent)
    async with node.running():
        assert node.agent.not_ready() == "no subnet is held"
        await trio.sleep(1)
        assert node.agent.not_ready() is None
        assert node.store.gets == 4, "config, migrations, leases, and the leases again"


@pytest.mark.trio
async def test_a_dual_stack_network_needs_an_ipv6_address(autojump_clock: MockClock, node: Node) -> None:
    make_dual_stack(node)
    node.kernel.address_list6 = node.kernel.address_list6[:1]
    async with node.running():
        [waiting] = node.recorded.told("waiting")
        assert "eth0 has no IPv6 address that is not link-local" in str(waiting["reason"])
        assert own_keys(node) == []
        node.kernel.address_list6.append(Address(2, parse_ip6("fd23:0:0:1::5"), 64))
        await trio.sleep(2)
        assert "contains this node's own address" in str(node.recorded.told("waiting")[-1]["reason"])


@pytest.mark.trio
async def test_a_new_ipv6_address_is_published(autojump_clock: MockClock, node: Node) -> None:
    make_dual_stack(node)
    async with node.running():
        node.kernel.address_list6 = [Address(2, parse_ip6("fd77::50"), 64)]
        node.kernel.set_addresses(*node.kernel.address_list)
        await trio.sleep(1)
        [name] = own_keys(node)
        assert '"PublicIPv6":"fd77::50"' in node.store.files[f"{SUBNETS}/{name}"].value


@pytest.mark.trio
async def test_a_node_is_ready_when_its_rules_are_in_place(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, ip_masq=True, cleanup=True)
    rules = FakeRuleset()
    rules.refuses = "nft failed: no"
    node.agent = node.make(rules)
    async with node.running():
        assert "the netfilter rules are not in place: nft failed: no" in str(node.agent.not_ready())
        rules.refuses = ""
        await trio.sleep(6)
        assert node.agent.not_ready() is None
        assert node.own_key().rpartition("/")[2].partition("-")[0] in str(rules.tables["ip"])
        rules.flush()
        await trio.sleep(1)
        assert node.agent.status()["rule_repairs"] == 1
        assert "FLANNEL_IPMASQ=true" in node.env.read_text()
    assert rules.tables
    await node.agent._clean_up()
    assert not rules.tables


@pytest.mark.trio
async def test_clean_up_with_the_store_away_does_the_rest_and_says_what_is_left(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, ip_masq=True, cleanup=True)
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    rules = FakeRuleset()
    node.agent = node.make(rules)
    async with node.running():
        assert rules.tables
        assert node.env.exists()
    node.store.down = True
    node.store.cut()
    node.kernel.refusals[DeleteRoute] = errno.EPERM
    with pytest.raises(
        NetstoreError, match=r"routes and devices: .* still has 1 .*10\.23\.200.*; the lease: "
    ):
        await node.agent._clean_up()
    assert not rules.tables
    assert not node.env.exists()


@pytest.mark.trio
async def test_clean_up_leaves_a_subnet_file_that_this_run_did_not_write(
    autojump_clock: MockClock, tmp_path: Path, api: str
) -> None:
    node = Node(tmp_path, api, cleanup=True)
    node.store.refuses_writes = True
    node.env.write_text("FLANNEL_SUBNET=10.23.9.1/24\n")
    async with node.running():
        assert node.agent.not_ready() == "no subnet is held"
    await node.agent._clean_up()
    assert node.env.exists()


@pytest.mark.trio
async def test_what_a_plugin_returns_never_ends_the_agent(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    subnet = Subnet(parse_ip("10.23.200.0"), 24)
    returned: list[Any] = [None, Wanted(devices=cast("Any", None)), Wanted([Route(subnet, 1 << 40, "eth0")])]
    right = HostGateway.declare

    async def declare(self: HostGateway, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        return returned.pop(0) if returned else await right(self, host, peers)

    monkeypatch.setattr(HostGateway, "declare", declare)
    async with node.running():
        await trio.sleep(10)  # fixed: by the clock of the test
        assert not returned
        assert "the backend gave as declare None" in str(node.recorded.told("routes_not_kept")[0]["reason"])
        assert node.routes() == {"10.23.200.0/24": 12}
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_a_peer_for_which_a_plugin_fails_keeps_its_route_and_others_are_served(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HostGateway.declare_peer
    returns_nothing = False

    def declare_peer(self: HostGateway, host: Host, peer: SubnetLease) -> Wanted:
        if peer.public_ip == parse_ip("192.168.77.66"):
            if returns_nothing:
                return cast("Wanted", None)
            raise RuntimeError("a fault of the plugin")
        return right(self, host, peer)

    node.store.lease("10.23.200.0-24", "192.168.77.12")
    async with node.running():
        monkeypatch.setattr(HostGateway, "declare_peer", declare_peer)
        node.store.lease("10.23.200.0-24", "192.168.77.66")
        node.store.lease("10.23.201.0-24", "192.168.77.13")
        await trio.sleep(1)  # fixed: by the clock of the test
        assert node.routes() == {"10.23.200.0/24": 12, "10.23.201.0/24": 13}
        [told] = node.recorded.told("peer_not_routed")
        assert told["name"] == "10.23.200.0/24"
        assert "a fault of the plugin" in str(told["reason"])
        assert node.agent.not_ready() is None
        returns_nothing = True
        await trio.sleep(25)  # fixed: by the clock of the test
        assert "gave as declare_peer None" in str(node.agent.status()["unserved"])
        monkeypatch.undo()
        await trio.sleep(11)  # fixed: by the clock of the test
        assert node.routes() == {"10.23.200.0/24": 66, "10.23.201.0/24": 13}
        assert node.recorded.told("peer_routed_again")


@pytest.mark.trio
async def test_a_missed_change_is_found_in_its_turn(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        programmer, watcher = node.agent._programmer, node.agent._watcher
        assert programmer is not None
        assert watcher is not None
        watcher._changed = lambda names: None
        node.store.lease("10.23.200.0-24", "192.168.77.12")
        await trio.sleep(1)  # fixed: by the clock of the test
        assert node.routes() == {}
        await trio.sleep(30)  # fixed: by the clock of the test
        assert node.routes() == {"10.23.200.0/24": 12}


@pytest.mark.trio
async def test_the_time_a_plugin_takes_counts_for_the_pause_after_it(
    autojump_clock: MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    right = HostGateway.declare

    async def slow(self: HostGateway, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        nonlocal asked
        asked += 1
        await trio.sleep(0.5)  # fixed: by the clock of the test
        return await right(self, host, peers)

    async with node.running():
        monkeypatch.setattr(HostGateway, "declare", slow)
        for number in range(60):
            node.store.lease(f"10.23.{100 + number}.0-24", "192.168.77.12")
            await trio.sleep(0.1)  # fixed: by the clock of the test
        assert 3 <= asked <= 6, "half a second of work, and a pause of one second"


@pytest.mark.trio
async def test_a_refused_lease_makes_no_route_of_others_flannels(
    autojump_clock: MockClock, node: Node
) -> None:
    static = KernelRoute(Subnet(parse_ip("10.23.200.0"), 24), parse_ip("192.168.77.99"), 2, BOOT)
    node.kernel.add(static)
    node.store.lease("10.23.200.0-24", "192.168.77.12")
    node.store.lease("10.99.0.0-24", "192.168.77.99")
    async with node.running():
        assert "10.99.0.0" in str(node.agent.status()["skipped"])
        assert node.kernel.table[static.subnet] == [static]


@pytest.mark.trio
async def test_a_full_network_is_waited_for_without_listings(autojump_clock: MockClock, node: Node) -> None:
    full = '{"Network":"10.23.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}'
    node.store.put(f"{PREFIX}/config", full)
    for last in (64, 128, 192):
        node.store.lease(f"10.23.0.{last}-26", "192.168.77.12")
    async with node.running():
        assert len(node.recorded.told("network_full")) == 1
        listings = node.store.gets
        for _ in range(50):
            node.store.lease("10.23.0.64-26", "192.168.77.12")  # renewals tell nothing new
            await trio.sleep(0.5)  # fixed: by the clock of the test
        assert node.store.gets == listings
        node.store.remove(f"{SUBNETS}/10.23.0.128-26")
        await trio.sleep(2)  # fixed: by the clock of the test
        assert own_keys(node) == ["10.23.0.128-26"]
        assert node.agent.not_ready() is None
    assert len(node.recorded.told("network_full")) == 1


@pytest.mark.trio
@pytest.mark.parametrize(
    ("reserved", "is_refused"),
    [
        ("10.23.5.0-24&fd23:0:0:99::-64", True),  # its IPv4 subnet is another node's
        ("10.23.6.0-24&fd23:0:0:c8::-64", True),  # its IPv6 subnet is another node's
        ("10.23.6.0-24&fd99:0:0:6::-64", False),  # outside the network: left for the next start
    ],
)
async def test_a_reservation_that_cannot_be_used_is_not_taken(
    autojump_clock: MockClock, node: Node, reserved: str, is_refused: bool
) -> None:
    make_dual_stack(node)
    node.env.write_text("FLANNEL_SUBNET=10.23.42.1/24\n")
    node.store.put(f"{SUBNETS}/10.23.5.0-24&fd23:0:0:c8::-64", DUAL_PEER, 80_000)
    async with node.running():
        [held] = own_keys(node)
        node.store.put(f"{SUBNETS}/{reserved}", DUAL_VALUE)
        written = node.store.files[f"{SUBNETS}/{reserved}"].modified
        await trio.sleep(5)  # fixed: by the clock of the test
        status = node.agent.status()
        assert status["subnet"] == held.split("&")[0].replace("-", "/")
        assert node.store.files[f"{SUBNETS}/{reserved}"].modified == written
        assert len(node.recorded.told("reservation_not_taken")) == is_refused
        assert node.agent.not_ready() is None
        node.store.remove(f"{SUBNETS}/10.23.5.0-24&fd23:0:0:c8::-64")
        await trio.sleep(5)  # fixed: by the clock of the test
        assert (node.agent.status()["subnet"] == reserved.partition("&")[0].replace("-", "/")) == is_refused
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_two_agents_with_one_public_ip(autojump_clock: MockClock, node: Node) -> None:
    other = '{"PublicIP":"192.168.77.11","BackendType":"vxlan","BackendData":{"VNI":1}}'
    async with node.running():
        key, lines = node.own_key(), len(node.recorded.lines)
        node.store.put(key, other, 86_400)
        await trio.sleep(0.2)  # fixed: by the clock of the test
        assert node.own_key() == key, "what is written once is written back at once"
        assert node.agent.not_ready() is None
        first, until = node.store.index, trio.current_time() + 600
        while trio.current_time() < until:
            if node.store.files[key].value == WRITTEN[node.api]:
                node.store.put(key, other, 86_400)
            await trio.sleep(0.1)  # fixed: by the clock of the test
        assert node.store.index - first < 50
        reason = "another agent uses the PublicIP 192.168.77.11; give each node its own"
        assert reason in str(node.agent.not_ready())
        [told] = node.recorded.told("public_ip_not_unique")
        assert (told["public_ip"], told["lease"]) == ("192.168.77.11", other)
        assert len(node.recorded.lines) - lines < 5, node.recorded.lines[lines:]
        await trio.sleep(200)  # fixed: by the clock of the test
        assert node.own_key() == key
        assert node.agent.not_ready() is None
        assert len(node.recorded.told("public_ip_unique_again")) == 1


@pytest.mark.trio
async def test_the_lease_from_which_a_node_moved_is_no_fault(autojump_clock: MockClock, node: Node) -> None:
    async with node.running():
        [former] = own_keys(node)
        node.store.put(f"{SUBNETS}/10.23.78.0-24", MINE)
        await trio.sleep(5)  # fixed: by the clock of the test
        assert node.agent.status()["subnet"] == "10.23.78.0/24"
    node.agent = node.make()
    async with node.running():
        assert sorted(own_keys(node)) == sorted([former, "10.23.78.0-24"])
        assert node.recorded.told("lease_skipped") == []
        node.store.put(f"{SUBNETS}/10.23.79.0-24", MINE)
        await trio.sleep(5)  # fixed: by the clock of the test
        assert [line["name"] for line in node.recorded.told("lease_skipped")] == ["10.23.79.0-24"]


def test_the_pod_network_while_its_range_grows() -> None:
    small, large, held, left = (
        Subnet(*parse_cidr(text)) for text in ("10.23.0.0/16", "10.22.0.0/15", "10.22.5.0/25", "10.23.6.0/24")
    )
    expected = PodNetwork(("10.22.0.0/15",), "10.22.5.0/25", ("10.23.6.0/24",))
    for networks in ([small, large], [large, small]):
        assert pod_network(networks, held, [left, held]) == expected
    assert pod_network([small, small], left, [left]) == PodNetwork(("10.23.0.0/16",), "10.23.6.0/24")


def test_what_few_need_is_not_loaded_at_the_start() -> None:
    script = (
        "import sys\n"
        "import netstore.cli.agent, netstore.agent.service, netstore.agent.netlink, netstore.ops.logging\n"
        "few = {'asyncio', 'prometheus_client', 'httpx', 'cryptography', 'google', 'importlib.metadata',"
        " 'email', 'zipfile', 'csv', 'typing_extensions'}\n"
        "print(sorted(few & set(sys.modules)))\n"
        "import netstore.client.subnets_v3, netstore.client.v3\n"
        "few = {'httpx', 'email', 'google.protobuf.text_format', 'google.protobuf.internal.python_message',"
        " 'google.protobuf.internal.decoder', 'typing_extensions'}\n"
        "print(sorted(few & set(sys.modules)))\n"
        "import typing_extensions\n"
    )
    told = subprocess.run(
        (sys.executable, "-c", script),
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds(20),
        check=True,
    )
    assert told.stdout == "[]\n[]\n"


@pytest.mark.trio
async def test_the_metrics_are_loaded_before_the_first_answer_that_has_them(
    monkeypatch: pytest.MonkeyPatch, node: Node
) -> None:
    monkeypatch.delitem(sys.modules, "netstore.agent.agentmetrics", raising=False)
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
    monkeypatch.setattr(node.agent, "_metrics_text", _fail)
    health = node.agent._health()
    await health.session(cast("trio.SocketStream", theirs))
    assert "netstore.agent.agentmetrics" in sys.modules


def _fail() -> str:
    raise ValueError("nothing is to be made")
