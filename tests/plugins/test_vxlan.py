"""The backend vxlan, by what it declares. Traffic: test_traffic.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from netstore_plugins.vxlan import VxlanTunnels, _random_mac, parse_mac

from netstore.agent.backend import (
    Device,
    Forwarding,
    Link,
    Neighbour,
    Prepared,
    Refused,
    Route,
    Vxlan,
    options,
)
from netstore.network.addresses import parse_ip
from netstore.network.backends import VxlanOptions
from netstore.network.config import NetworkConfigError, parse_network
from netstore.network.lease import SubnetLease, encode_lease, parse_lease
from tests.plugins.hosts import ETH0, ME, ME6, dual, host, lease, subnet, subnet6, whole

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.backend import Host, Wanted

FAR = parse_ip("203.0.113.9")
MAC = parse_mac("0e:2a:00:00:00:01")


def data(number: int, *, vni: int | None = 1) -> bytes:
    mac = f"0e:2a:00:00:00:{number:02x}"
    named = "" if vni is None else f'"VNI":{vni},'
    return f'{{{named}"VtepMAC":"{mac}"}}'.encode()


def mac(number: int) -> bytes:
    return bytes((0x0E, 0x2A, 0, 0, 0, number))


async def prepared(where: Host, **given: object) -> VxlanTunnels:
    backend = VxlanTunnels(VxlanOptions(**given))  # type: ignore[arg-type] # fields of VxlanOptions by name
    await backend.prepare(where)
    return backend


async def declared(where: Host, *peers: SubnetLease, **given: object) -> Wanted:
    return await whole(await prepared(where, **given), where, peers)


@pytest.mark.trio
async def test_the_lease_is_to_the_letter_what_flannel_writes(tmp_path: Path) -> None:
    there = Link(7, "flannel.1", 1450, up=True, mac=MAC, kind="vxlan")
    found = await VxlanTunnels(VxlanOptions()).prepare(host(tmp_path, devices={"flannel.1": there}))
    assert found == Prepared(1450, b'{"VNI":1,"VtepMAC":"0e:2a:00:00:00:01"}')
    assert encode_lease(ME, "vxlan", found.backend_data) == (
        '{"PublicIP":"192.168.77.11","BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"0e:2a:00:00:00:01"}}'
    )


@pytest.mark.trio
async def test_device_route_neighbour_and_forwarding_entry_are_flannels(tmp_path: Path) -> None:
    wanted = await declared(
        host(tmp_path),
        lease(2, "vxlan", data(2)),
        port=4789,
        gbp=True,
        learning=True,
        vni=7,
        vtep_mac="0E-2A",
    )
    assert wanted.refused == {subnet(2): "its VNI is 1, this node's 7"}
    wanted = await declared(
        host(tmp_path), lease(2, "vxlan", data(2, vni=7)), port=4789, gbp=True, learning=True, vni=7,
        vtep_mac="0E-2A",
    )  # fmt: skip
    assert list(wanted.devices) == [
        Device(
            "flannel.7",
            Vxlan(7, ME.to_bytes(4), "eth0", 4789, learning=True, gbp=True),
            1450,
            mac=bytes((0x0E, 0x2A, 192, 168, 77, 11)),
            addresses=((bytes((10, 23, 1, 0)), 32),),
        )
    ]
    assert list(wanted.routes) == [Route(subnet(2), subnet(2).base, "flannel.7", onlink=True)]
    assert list(wanted.neighbours) == [Neighbour("flannel.7", bytes((10, 23, 2, 0)), mac(2))]
    assert list(wanted.forwarding) == [Forwarding("flannel.7", mac(2), bytes((192, 168, 77, 12)))]


@pytest.mark.trio
async def test_both_forms_of_flannels_data_are_read(tmp_path: Path) -> None:
    old = parse_lease(
        "10.23.2.0-24",
        '{"PublicIP":"192.168.77.12","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:2a:00:00:00:02"}}',
    )
    new = parse_lease(
        "10.23.3.0-24",
        '{"PublicIP":"192.168.77.13","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:2a:00:00:00:03"}}',
    )
    assert isinstance(old, SubnetLease)
    assert isinstance(new, SubnetLease)
    wanted = await declared(host(tmp_path), old, new)
    assert not wanted.refused
    assert [each.mac for each in wanted.neighbours] == [mac(2), mac(3)]


@pytest.mark.trio
async def test_dual_stack_has_a_device_for_each_family(tmp_path: Path) -> None:
    where = dual(tmp_path)
    backend = VxlanTunnels(VxlanOptions(vtep_mac="0e:2a"))
    own = mac(0)[:2] + bytes((192, 168, 77, 11))
    published = b'{"VNI":1,"VtepMAC":"%s"}' % own.hex(":").encode()
    assert await backend.prepare(where) == Prepared(1430, published, published)
    wanted = await whole(backend, where, [lease(2, "vxlan", data(2), data6=data(0x62))])
    assert not wanted.refused
    assert [(each.name, each.mtu, each.addresses) for each in wanted.devices] == [
        ("flannel.1", 1450, ((bytes((10, 23, 1, 0)), 32),)),
        ("flannel-v6.1", 1430, ((subnet6(1).base.to_bytes(16), 128),)),
    ]
    assert wanted.devices[1].kind == Vxlan(1, ME6.to_bytes(16), "eth0")
    assert wanted.routes[1] == Route(subnet6(2), subnet6(2).base, "flannel-v6.1", onlink=True)
    assert wanted.neighbours[1] == Neighbour("flannel-v6.1", subnet6(2).base.to_bytes(16), mac(0x62))
    assert wanted.forwarding[1] == Forwarding("flannel-v6.1", mac(0x62), (ME6 + 1).to_bytes(16))


@pytest.mark.trio
async def test_direct_routing_leaves_out_the_tunnel_to_neighbours_of_either_family(tmp_path: Path) -> None:
    peers = [
        lease(2, "vxlan", data(2), data6=data(0x62)),
        lease(3, "vxlan", data(3), data6=data(0x63), public_ip=FAR, public_ip6=ME6 + (1 << 64)),
    ]
    wanted = await declared(dual(tmp_path), *peers, direct_routing=True)
    assert list(wanted.routes) == [
        Route(subnet(2), ME + 1, "eth0"),
        Route(subnet(3), subnet(3).base, "flannel.1", onlink=True),
        Route(subnet6(2), ME6 + 1, "eth0"),
        Route(subnet6(3), subnet6(3).base, "flannel-v6.1", onlink=True),
    ]
    assert [each.mac for each in wanted.neighbours] == [mac(3), mac(0x63)]
    assert [each.mac for each in wanted.forwarding] == [mac(3), mac(0x63)]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "BackendData: it has none"),
        (b"{}", "BackendData: it has no VtepMAC"),
        (data(2)[:-1] + b" " * 1000 + b"}", "BackendData: it has 1039 bytes, more than 1024"),
        (b'{"VtepMAC":"01:00:5e:00:00:01"}', "not an address of one device"),
        (b'{"VtepMAC":"00:00:00:00:00:00"}', "not an address of one device"),
        (b'{"VtepMAC":"0e:2a"}', "'0e:2a' is not a MAC address"),
        (b'{"VNI":9,"VtepMAC":"0e:2a:00:00:00:02"}', "its VNI is 9, this node's 1"),
        (b'{"VNI":"1","VtepMAC":"0e:2a:00:00:00:02"}', "Expected `int"),
        (b'"text"', "Expected `object`"),
    ],
)
async def test_a_peer_whose_data_cannot_be_used_is_refused_and_others_are_not(
    tmp_path: Path, bad: bytes | None, words: str
) -> None:
    wanted = await declared(host(tmp_path), lease(2, "vxlan", bad), lease(3, "vxlan", data(3)))
    assert list(wanted.refused) == [subnet(2)]
    assert words in wanted.refused[subnet(2)]
    assert [each.subnet for each in wanted.routes] == [subnet(3)]


@pytest.mark.trio
async def test_a_peer_with_bad_ipv6_is_still_served_over_ipv4(tmp_path: Path) -> None:
    peers = [
        lease(2, "vxlan", data(2), data6=b"{}"),
        lease(3, "vxlan", data(3), data6=data(3), public_ip6=None),
        lease(4, "vxlan", data(4)),
    ]
    wanted = await declared(dual(tmp_path), *peers)
    assert wanted.refused == {
        subnet(2): "IPv6: BackendV6Data: it has no VtepMAC",
        subnet(3): "IPv6: it has no PublicIPv6",
    }
    assert [each.subnet for each in wanted.routes] == [subnet(2), subnet(3), subnet(4)]


@pytest.mark.trio
async def test_a_node_with_several_leases_is_served_for_all_through_one_entry(tmp_path: Path) -> None:
    node = ME + 1
    peers = [
        lease(2, "vxlan", data(2), data6=data(0x62), created=50),
        lease(
            3, "vxlan", data(2), data6=data(0x62), public_ip=node, public_ip6=ME6 + 99, created=70
        ),  # its newer lease: the address for IPv6 has changed
        lease(4, "vxlan", data(2), data6=data(0x62), public_ip=node, public_ip6=ME6 + 1, created=60),
    ]
    wanted = await declared(dual(tmp_path), *peers)
    assert not wanted.refused
    assert [each.subnet for each in wanted.routes] == [
        *map(subnet, (2, 3, 4)),
        *map(subnet6, (2, 3, 4)),
    ]
    assert [each.address for each in wanted.neighbours[:3]] == [subnet(n).base.to_bytes(4) for n in (2, 3, 4)]
    assert list(wanted.forwarding) == [
        Forwarding("flannel.1", mac(2), node.to_bytes(4)),
        Forwarding("flannel-v6.1", mac(0x62), (ME6 + 99).to_bytes(16)),
    ]


@pytest.mark.trio
@pytest.mark.parametrize("turned", [False, True])
async def test_of_several_nodes_with_one_mac_the_oldest_is_served(tmp_path: Path, turned: bool) -> None:
    where = host(tmp_path)
    backend = await prepared(where)
    own = (await backend.prepare(where)).backend_data
    peers = [
        lease(2, "vxlan", data(9), created=30),
        lease(3, "vxlan", data(9), created=20),
        lease(6, "vxlan", data(9), created=40, public_ip=ME + 2),  # of the same node as the one before
        lease(4, "vxlan", own, created=1),
        lease(5, "vxlan", data(5)),
    ]
    wanted = await whole(backend, where, peers[::-1] if turned else peers)
    assert sorted(each.subnet for each in wanted.routes) == [subnet(3), subnet(5), subnet(6)]
    assert {each.remote for each in wanted.forwarding} == {(ME + 2).to_bytes(4), (ME + 4).to_bytes(4)}
    assert sorted(wanted.refused) == [subnet(2), subnet(4)]
    assert wanted.refused[subnet(2)].startswith(
        "192.168.77.13, whose lease is older, has the same MAC 0e:2a:00:00:00:09; remove what the backend"
    )
    assert wanted.refused[subnet(4)].startswith("this node has the same VtepMAC")


@pytest.mark.trio
async def test_the_mac_is_kept_over_restarts_and_when_the_device_is_lost(tmp_path: Path) -> None:
    first = await VxlanTunnels(VxlanOptions()).prepare(host(tmp_path))
    [device] = (await declared(host(tmp_path))).devices
    assert first.backend_data is not None
    assert device.mac is not None
    assert device.mac.hex(":").encode() in first.backend_data
    assert await VxlanTunnels(VxlanOptions()).prepare(host(tmp_path)) == first
    renamed = await VxlanTunnels(VxlanOptions(vni=5)).prepare(host(tmp_path))
    assert renamed.backend_data == first.backend_data.replace(b'"VNI":1', b'"VNI":5')


def test_a_new_mac_is_random_locally_administered_and_of_one_device() -> None:
    macs = {_random_mac() for _ in range(200)}
    assert len(macs) == 200
    assert {mac[0] & 3 for mac in macs} == {2}


@pytest.mark.trio
async def test_the_mac_of_a_device_that_flannel_left_is_taken_over_and_kept(tmp_path: Path) -> None:
    await prepared(host(tmp_path))
    there = Link(7, "flannel.1", 1450, up=True, mac=MAC, kind="vxlan")
    [device] = (await declared(host(tmp_path, devices={"flannel.1": there}))).devices
    assert device.mac == MAC
    [device] = (await declared(host(tmp_path))).devices
    assert device.mac == MAC
    other = there._replace(kind="bridge", mac=mac(9))
    [device] = (await declared(host(tmp_path, devices={"flannel.1": other}))).devices
    assert device.mac == MAC


@pytest.mark.trio
async def test_a_mac_that_another_program_sets_is_not_taken_over_while_the_agent_runs(tmp_path: Path) -> None:
    there = Link(7, "flannel.1", 1450, up=True, mac=MAC, kind="vxlan")
    backend = await prepared(host(tmp_path, devices={"flannel.1": there}))
    changed = host(tmp_path, devices={"flannel.1": there._replace(mac=mac(9))})
    await backend.prepare(changed)
    [device] = (await whole(backend, changed, [])).devices
    assert device.mac == MAC


@pytest.mark.trio
async def test_a_kept_mac_that_is_none_is_made_anew_and_one_that_others_may_write_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mac"
    path.write_bytes(b"\xff\xff\n")
    path.chmod(0o600)
    [device] = (await declared(host(tmp_path))).devices
    assert device.mac is not None
    assert path.read_text() == f"{device.mac.hex(':')}\n"
    path.chmod(0o666)
    with pytest.raises(Refused, match="has mode 0666"):
        await prepared(host(tmp_path))


@pytest.mark.trio
async def test_addresses_are_left_alone_before_a_subnet_is_held(tmp_path: Path) -> None:
    wanted = await declared(dual(tmp_path, subnet=None, subnet6=None))
    assert [each.addresses for each in wanted.devices] == [None, None]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("given", "mtu", "expected"),
    [({}, 9000, 8950), ({"mtu": 1400}, 9000, 1350), ({"mtu": 9000}, 9000, 8950)],
)
async def test_the_mtu_is_that_of_the_path_less_the_headers(
    tmp_path: Path, given: dict[str, int], mtu: int, expected: int
) -> None:
    where = host(tmp_path, link=ETH0._replace(mtu=mtu))
    assert (await VxlanTunnels(VxlanOptions(**given)).prepare(where)).mtu == expected  # type: ignore[arg-type] # mtu


@pytest.mark.trio
@pytest.mark.parametrize(
    ("given", "mtu", "words"),
    [
        ({"mtu": 1501}, 1500, "the option MTU is 1501, but eth0 carries 1500"),
        ({}, 100, "an MTU of 100 leaves less than 68 bytes"),
        ({"mtu": 120}, 100, "the option MTU is 120, but eth0 carries 100"),
    ],
)
async def test_a_host_it_cannot_work_on_is_refused(
    tmp_path: Path, given: dict[str, int], mtu: int, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        await VxlanTunnels(VxlanOptions(**given)).prepare(host(tmp_path, link=ETH0._replace(mtu=mtu)))  # type: ignore[arg-type] # numbers


@pytest.mark.trio
async def test_ipv6_needs_1280_bytes(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="less than 1280 bytes"):
        await prepared(dual(tmp_path, link=ETH0._replace(mtu=1340)))


@pytest.mark.parametrize("text", ["0e:2a:00:00:00:01", "01:00", "zz:00", "0e2a"])
def test_a_vtep_mac_that_is_not_two_octets_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="not the first two octets"):
        VxlanTunnels(VxlanOptions(vtep_mac=text))


def test_options_match_in_any_case_and_errors_name_the_field() -> None:
    def given(text: str) -> object:
        document = f'{{"Network":"10.23.0.0/16","Backend":{{"Type":"vxlan",{text}}}}}'
        return options(VxlanTunnels.manifest, parse_network(document.encode()))

    assert given('"vni":7,"DIRECTROUTING":true,"Unknown":1') == VxlanOptions(vni=7, direct_routing=True)
    for text in ('"VNI":16777216', '"VNI":-1', '"Port":65536', '"MTU":"1"', '"GBP":1'):
        with pytest.raises(NetworkConfigError, match=text.partition(":")[0].strip('"')):
            given(text)
