"""The backend ipip, by what it declares. The kernels that the project is tested on may lack the module
`ipip`; where it is there, traffic goes through it in test_traffic.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from netstore_plugins.ipip import IpIp

from netstore.agent.backend import Device, Ipip, Prepared, Refused, Route
from netstore.network.addresses import parse_ip
from netstore.network.backends import IpipOptions
from tests.plugins.hosts import ETH0, ME, host, lease, subnet, whole

FAR = parse_ip("203.0.113.9")


@pytest.mark.trio
async def test_the_device_is_flannels_and_packets_to_a_peer_go_through_it() -> None:
    backend = IpIp(IpipOptions())
    assert await backend.prepare(host(Path())) == Prepared(mtu=1480)
    wanted = await whole(backend, host(Path()), [lease(2, "ipip"), lease(3, "ipip", public_ip=FAR)])
    assert list(wanted.devices) == [
        Device("flannel.ipip", Ipip(ME.to_bytes(4), "eth0"), 1480, addresses=((bytes((10, 23, 1, 0)), 32),))
    ]
    assert list(wanted.routes) == [
        Route(subnet(2), ME + 1, "flannel.ipip", onlink=True),
        Route(subnet(3), FAR, "flannel.ipip", onlink=True),
    ]
    assert not wanted.refused
    await backend.stop()
    await backend.teardown()


@pytest.mark.trio
async def test_direct_routing_leaves_out_the_tunnel_to_neighbours() -> None:
    backend = IpIp(IpipOptions(direct_routing=True))
    wanted = await whole(backend, host(Path()), [lease(2, "ipip"), lease(3, "ipip", public_ip=FAR)])
    assert list(wanted.routes) == [
        Route(subnet(2), ME + 1, "eth0"),
        Route(subnet(3), FAR, "flannel.ipip", onlink=True),
    ]


@pytest.mark.trio
async def test_addresses_are_left_alone_before_a_subnet_is_held() -> None:
    [device] = (await whole(IpIp(IpipOptions()), host(Path(), subnet=None), [])).devices
    assert device.addresses is None


@pytest.mark.trio
async def test_a_peer_of_another_type_is_refused() -> None:
    wanted = await whole(IpIp(IpipOptions()), host(Path()), [lease(2, "vxlan")])
    assert wanted.refused == {subnet(2): "its backend is vxlan, not ipip"}


@pytest.mark.trio
async def test_an_mtu_without_room_for_the_tunnel_is_refused() -> None:
    with pytest.raises(Refused, match="the MTU 80 of eth0"):
        await IpIp(IpipOptions()).prepare(host(Path(), link=ETH0._replace(mtu=80)))
