"""The backends in a whole agent with a kernel in memory, which has all kinds of devices, and a mock clock."""

from __future__ import annotations

import json
import os
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from netstore_plugins.wireguardkeys import DRAIN_SECONDS, encode_key

from netstore.agent import backend as protocol
from netstore.agent.wanted import Wireguard
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS
from tests.agent.test_service import Node
from tests.plugins.test_manual import POINTS

if TYPE_CHECKING:
    from pathlib import Path

PEER = "10.23.200.0-24"
KEYS = [encode_key(bytes((number,)) * 32) for number in range(9)]
DATA = {
    "vxlan": {"VNI": 1, "VtepMAC": "0e:2a:00:00:00:02"},
    "ipip": None,
    "wireguard": {"PublicKey": KEYS[2], "Port": 51820},
}
DEVICE = {"vxlan": "flannel.1", "ipip": "flannel.ipip", "wireguard": "flannel-wg"}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the project were installed as its pyproject.toml says."""
    points = [EntryPoint(name, value, protocol.GROUP) for name, value in POINTS.items()]
    monkeypatch.setattr(protocol, "entry_points", lambda group: points if group == protocol.GROUP else [])


def made(folder: Path, api: str, kind: str, **options: Any) -> Node:
    """An agent in a network of this type, with one peer."""
    node = Node(folder, api)
    network = {"Network": "10.23.0.0/16", "Backend": {"Type": kind, **options}}
    node.store.put(f"{PREFIX}/config", json.dumps(network))
    value = {"PublicIP": "192.168.77.12", "BackendType": kind, "BackendData": DATA[kind]}
    node.store.put(f"{PREFIX}/subnets/{PEER}", json.dumps(value))
    return node


def own_lease(node: Node) -> dict[str, Any]:
    [value] = [kept.value for kept in node.store.files.values() if '"192.168.77.11"' in (kept.value or "")]
    found: dict[str, Any] = json.loads(value or "")
    return found


def devices(node: Node) -> dict[str, int]:
    return {link.name: link.ifindex for link in node.kernel.link_list if link.name != "eth0"}


def way(node: Node) -> str:
    """The device of the route to the peer."""
    [route] = [one for routes in node.kernel.table.values() for one in routes if one.protocol == 78]
    return next(name for name, number in devices(node).items() if number == route.ifindex)


@pytest.mark.trio
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", sorted(DEVICE))
async def test_device_and_route_are_made_kept_over_a_restart_and_repaired(
    tmp_path: Path, api: str, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    node = made(tmp_path, api, kind)
    async with node.running():
        assert node.agent.not_ready() is None
        assert way(node) == DEVICE[kind]
        lease = own_lease(node)
    before = devices(node)
    steps = len(node.kernel.steps)
    node.agent = node.make()
    async with node.running():
        assert node.agent.not_ready() is None
        assert devices(node) == before
        assert not node.kernel.steps[steps:]
        assert own_lease(node) == lease
        node.kernel.remove_link(before[DEVICE[kind]])
        await trio.sleep(1)  # fixed: by the clock of the test
        assert way(node) == DEVICE[kind]
        assert devices(node) != before
        assert own_lease(node) == lease


@pytest.mark.trio
@pytest.mark.parametrize("api", APIS)
async def test_the_key_of_wireguard_is_changed_while_the_route_to_the_peer_stays(
    tmp_path: Path, api: str, autojump_clock: trio.testing.MockClock
) -> None:
    node = made(tmp_path, api, "wireguard")
    folder = tmp_path / "data" / "wireguard"
    seen: list[tuple[tuple[str, ...], str, int]] = []

    async def look() -> None:
        """What there is at each moment: devices, the one of the route, and the published port."""
        while True:
            now = tuple(sorted(devices(node))), way(node), own_lease(node)["BackendData"]["Port"]
            if now not in seen:
                seen.append(now)
            await trio.sleep(0.1)

    async with node.running(), trio.open_nursery() as nursery:
        nursery.start_soon(look)
        old = own_lease(node)["BackendData"]["PublicKey"]
        os.mknod(folder / "rotate")
        await trio.sleep(30)  # fixed: by the clock of the test
        assert own_lease(node)["BackendData"]["PublicKey"] != old
        await trio.sleep(DRAIN_SECONDS)  # fixed: by the clock of the test
        assert node.agent.not_ready() is None
        nursery.cancel_scope.cancel()
    assert seen[0] == (("flannel-wg",), "flannel-wg", 51820)
    assert seen[-1] == (("flannel-wg-b",), "flannel-wg-b", 51822)
    first, second = "flannel-wg", "flannel-wg-b"
    assert set(seen[1:-1]) <= {
        ((first, second), first, 51820),
        ((first, second), first, 51822),
        ((first, second), second, 51822),
    }
    assert ((first, second), second, 51822) in seen
    [wireguard] = node.kernel.wireguards.values()
    assert isinstance(wireguard, Wireguard)
    assert [encode_key(peer.public_key) for peer in wireguard.peers] == [KEYS[2]]
    assert os.listdir(folder) == ["key-b"]  # noqa: PTH208 - the names alone
