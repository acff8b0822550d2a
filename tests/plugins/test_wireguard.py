"""The backend wireguard, by what it declares; tests/agent/test_wgnetlink.py has the messages for the kernel.
The kernels that the project is tested on may lack the module `wireguard`; where it is there, traffic goes
through it in test_traffic.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from netstore_plugins.wireguard import WireguardTunnels
from netstore_plugins.wireguardkeys import DRAIN_SECONDS, encode_key, parse_key, public_key

from netstore.agent.backend import Device, Link, Prepared, Refused, Route, Wireguard, WireguardPeer, options
from netstore.network.addresses import parse_ip
from netstore.network.backends import WireguardOptions
from netstore.network.config import NetworkConfigError, parse_network
from netstore.network.ipv6 import parse_ip6
from netstore.network.lease import SubnetLease, encode_lease, parse_lease
from tests.plugins.hosts import ETH0, ME, ME6, dual, host, lease, subnet, subnet6, whole

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.backend import Host, Wanted

PSK = encode_key(b"secret! " * 4)


def key(number: int) -> bytes:
    return bytes((number,)) * 32


def data(number: int, port: int | None = 51820) -> bytes:
    named = "" if port is None else f',"Port":{port}'
    return f'{{"PublicKey":"{encode_key(key(number))}"{named}}}'.encode()


def kept(folder: Path) -> list[str]:
    """The names of the files in the backend's folder."""
    return sorted(path.name for path in folder.iterdir())


async def prepared(where: Host, **given: Any) -> tuple[WireguardTunnels, Prepared]:
    backend = WireguardTunnels(WireguardOptions(**given))
    return backend, await backend.prepare(where)


async def declared(where: Host, *peers: SubnetLease, **given: Any) -> Wanted:
    backend, _ = await prepared(where, **given)
    return await whole(backend, where, peers)


def peers_of(device: Device) -> list[tuple[bytes, tuple[bytes, int], tuple[object, ...]]]:
    assert isinstance(device.kind, Wireguard)
    return [(each.public_key, each.endpoint, each.allowed) for each in device.kind.peers]


def devices(*names: str) -> dict[str, Link]:
    return {name: Link(9, name, 1420, up=True, kind="wireguard") for name in names}


@pytest.mark.trio
async def test_the_lease_is_to_the_letter_what_flannel_writes(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(encode_key(key(8)))
    (tmp_path / "key").chmod(0o600)
    _, found = await prepared(host(tmp_path))
    public = encode_key(public_key(key(8)))
    assert found.mtu == 1420
    assert encode_lease(ME, "wireguard", found.backend_data) == (
        '{"PublicIP":"192.168.77.11","BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{public}","Port":51820}}}}'
    )


@pytest.mark.trio
async def test_the_device_is_flannels_with_a_peer_for_each_node(tmp_path: Path) -> None:
    wanted = await declared(
        host(tmp_path), lease(2, "wireguard", data(2, 4000)), psk=PSK, persistent_keepalive_interval=25
    )
    [device] = wanted.devices
    private = parse_key((tmp_path / "key").read_text().strip())
    peer = WireguardPeer(key(2), (bytes((192, 168, 77, 12)), 4000), (subnet(2),), parse_key(PSK), 25)
    assert device == Device(
        "flannel-wg",
        Wireguard(51820, private, (peer,)),
        1420,
        addresses=((bytes((10, 23, 1, 0)), 32),),
    )
    assert list(wanted.routes) == [Route(subnet(2), 0, "flannel-wg")]
    assert not wanted.refused


@pytest.mark.trio
async def test_leases_of_flannel_with_and_without_a_port_are_read(tmp_path: Path) -> None:
    value = '{"PublicIP":"192.168.77.12","PublicIPv6":null,"BackendType":"wireguard","BackendData":%s}'
    old = parse_lease("10.23.2.0-24", value % data(2, None).decode())
    new = parse_lease("10.23.3.0-24", value % data(3, 51999).decode())
    assert isinstance(old, SubnetLease)
    assert isinstance(new, SubnetLease)
    [device] = (await declared(host(tmp_path), old, new, listen_port=4500)).devices
    assert [endpoint[1] for _, endpoint, _ in peers_of(device)] == [4500, 51999]


@pytest.mark.trio
async def test_separate_has_a_device_for_each_family_with_one_key(tmp_path: Path) -> None:
    where = dual(tmp_path)
    backend, found = await prepared(where)
    wanted = await whole(backend, where, [lease(2, "wireguard", data(2), data6=data(2, 51821))])
    four, six = wanted.devices
    assert (four.name, six.name) == ("flannel-wg", "flannel-wg-v6")
    assert isinstance(four.kind, Wireguard)
    assert isinstance(six.kind, Wireguard)
    assert four.kind.private_key == six.kind.private_key
    assert (four.kind.port, six.kind.port) == (51820, 51821)
    assert found.backend_data is not None
    assert found.backend_v6_data == found.backend_data.replace(b"51820", b"51821")
    assert peers_of(four) == [(key(2), (bytes((192, 168, 77, 12)), 51820), (subnet(2),))]
    assert peers_of(six) == [(key(2), ((ME6 + 1).to_bytes(16), 51821), (subnet6(2),))]
    assert six.addresses == ((subnet6(1).base.to_bytes(16), 128),)
    assert list(wanted.routes) == [Route(subnet(2), 0, "flannel-wg"), Route(subnet6(2), 0, "flannel-wg-v6")]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("mode", "own6", "addresses", "expected"),
    [
        ("ipv4", "2001:db8::1", ("192.168.77.12", "2001:db8::2"), "4"),
        ("ipv6", "2001:db8::1", ("203.0.113.9", "2001:db8::2"), "6"),
        ("auto", "2001:db8::1", ("203.0.113.9", "2001:db8::2"), "4"),
        ("auto", "2001:db8::1", ("192.168.77.12", "2001:db8::2"), "6"),
        ("auto", "2001:db8::1", ("172.31.0.1", "2001:db8::2"), "6"),
        ("auto", "fd00::1", ("192.168.77.12", "2001:db8::2"), "4"),
        ("auto", "fe80::1", ("192.168.77.12", "2001:db8::2"), "4"),
        ("auto", "2001:db8::1", ("10.0.0.1", "fd00::2"), "4"),
    ],
)
async def test_other_modes_have_one_device_over_the_family_that_reaches_the_peer(
    tmp_path: Path, mode: str, own6: str, addresses: tuple[str, str], expected: str
) -> None:
    ip, ip6 = addresses
    where = dual(tmp_path, public_ip6=parse_ip6(own6))
    backend, found = await prepared(where, mode=mode)
    assert found.backend_data == found.backend_v6_data  # flannel's nodes take the port for IPv6 from there
    peer = lease(
        2, "wireguard", data(2), data6=data(2, 51821), public_ip=parse_ip(ip), public_ip6=parse_ip6(ip6)
    )
    wanted = await whole(backend, where, [peer])
    [device] = wanted.devices
    address = parse_ip(ip).to_bytes(4) if expected == "4" else parse_ip6(ip6).to_bytes(16)
    assert peers_of(device) == [(key(2), (address, 51820), (subnet(2), subnet6(2)))]
    assert device.addresses == ((bytes((10, 23, 1, 0)), 32), (subnet6(1).base.to_bytes(16), 128))
    assert list(wanted.routes) == [Route(subnet(2), 0, "flannel-wg"), Route(subnet6(2), 0, "flannel-wg")]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "BackendData: it has none"),
        (b"{}", "BackendData: it has no PublicKey"),
        (data(2)[:-1] + b" " * 1000 + b"}", "bytes, more than 1024"),
        (b'{"PublicKey":"AAAA"}', "it has 3 bytes, not 32"),
        (b'{"PublicKey":"%%%%"}', "it is not base64"),
        (b'{"PublicKey":7}', "Expected `str`"),
        (data(2, 70000), "Expected `int` <= 65535"),
    ],
)
async def test_a_peer_whose_data_cannot_be_used_is_refused_and_others_are_not(
    tmp_path: Path, bad: bytes | None, words: str
) -> None:
    wanted = await declared(host(tmp_path), lease(2, "wireguard", bad), lease(3, "wireguard", data(3)))
    assert list(wanted.refused) == [subnet(2)]
    assert words in wanted.refused[subnet(2)]
    assert [each.subnet for each in wanted.routes] == [subnet(3)]


@pytest.mark.trio
async def test_a_peer_with_bad_ipv6_is_still_served_over_ipv4(tmp_path: Path) -> None:
    peers = [
        lease(2, "wireguard", data(2), data6=b"{}"),
        lease(3, "wireguard", data(3), data6=data(3), public_ip6=None),
        lease(4, "wireguard", data(4)),
    ]
    wanted = await declared(dual(tmp_path), *peers)
    assert wanted.refused == {
        subnet(2): "IPv6: BackendV6Data: it has no PublicKey",
        subnet(3): "IPv6: it has no PublicIPv6",
    }
    assert [each.subnet for each in wanted.routes] == [subnet(2), subnet(3), subnet(4)]


@pytest.mark.trio
async def test_mode_ipv6_refuses_a_peer_without_ipv6_and_a_network_without_it(tmp_path: Path) -> None:
    wanted = await declared(dual(tmp_path), lease(2, "wireguard", data(2)), mode="ipv6")
    assert wanted.refused == {subnet(2): "it has no PublicIPv6, and this network's Mode is ipv6"}
    with pytest.raises(Refused, match="Mode is ipv6, but the network has no IPv6"):
        await prepared(host(tmp_path), mode="ipv6")


@pytest.mark.trio
@pytest.mark.parametrize("turned", [False, True])
async def test_a_node_with_several_leases_is_one_peer_with_all_its_subnets(
    tmp_path: Path, turned: bool
) -> None:
    peers = [
        lease(2, "wireguard", data(2), created=50),
        lease(3, "wireguard", data(2, 4000), public_ip=ME + 1, created=70),
    ]
    wanted = await declared(host(tmp_path), *(peers[::-1] if turned else peers))
    [device] = wanted.devices
    [(public, endpoint, allowed)] = peers_of(device)
    assert (public, endpoint) == (key(2), ((ME + 1).to_bytes(4), 4000))
    assert set(allowed) == {subnet(2), subnet(3)}
    assert {each.subnet for each in wanted.routes} == {subnet(2), subnet(3)}
    assert not wanted.refused


@pytest.mark.trio
async def test_of_several_nodes_with_one_key_the_oldest_is_served(tmp_path: Path) -> None:
    where = host(tmp_path)
    backend, found = await prepared(where)
    peers = [
        lease(2, "wireguard", data(9), created=30),
        lease(3, "wireguard", data(9), created=20),
        lease(4, "wireguard", found.backend_data, created=1),
        lease(5, "wireguard", data(5)),
        lease(6, "vxlan"),
    ]
    wanted = await whole(backend, where, peers)
    assert [each.subnet for each in wanted.routes] == [subnet(3), subnet(5)]
    assert [peer[0] for peer in peers_of(wanted.devices[0])] == [key(5), key(9)]
    assert sorted(wanted.refused) == [subnet(2), subnet(4), subnet(6)]
    assert wanted.refused[subnet(2)].startswith(
        "192.168.77.13, whose lease is older, has the same public key"
    )
    assert wanted.refused[subnet(4)].startswith("this node has the same PublicKey")


@pytest.mark.trio
async def test_addresses_are_left_alone_before_a_subnet_is_held(tmp_path: Path) -> None:
    where = dual(tmp_path, subnet=None, subnet6=None)
    assert [each.addresses for each in (await declared(where)).devices] == [None, None]
    assert [each.addresses for each in (await declared(where, mode="auto")).devices] == [None]


# The change of the key


@pytest.mark.trio
async def test_a_key_is_changed_without_a_moment_in_which_peers_cannot_be_reached(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    where = host(tmp_path)
    peers = [lease(2, "wireguard", data(2))]
    backend, old = await prepared(where)
    offered = [old]
    where = host(tmp_path, published=old.backend_data, devices=devices("flannel-wg"))

    async def look(where: Host) -> tuple[list[str], str, bytes | None]:
        """Devices, the one of the route, and what is to be published, as the agent asks for it."""
        wanted = await whole(backend, where, peers)
        if wanted.prepare_again:
            offered.append(await backend.prepare(where))
            assert not (await whole(backend, where, peers)).prepare_again
        assert all(peers_of(device) for device in wanted.devices)
        assert not wanted.warnings
        [route] = wanted.routes
        return [device.name for device in wanted.devices], route.device, offered[-1].backend_data

    assert await look(where) == (["flannel-wg"], "flannel-wg", old.backend_data)
    (tmp_path / "rotate").touch()
    assert await look(where) == (["flannel-wg", "flannel-wg-b"], "flannel-wg", old.backend_data)

    both = host(
        tmp_path,
        published=old.backend_data,
        devices=devices("flannel-wg", "flannel-wg-b"),
    )
    names, route, new = await look(both)
    assert (names, route) == (["flannel-wg", "flannel-wg-b"], "flannel-wg")
    assert new is not None
    assert new != old.backend_data
    assert new.endswith(b'"Port":51822}')
    await trio.sleep(2 * DRAIN_SECONDS)  # the store is away: peers know the old key alone
    assert (await look(both))[:2] == (["flannel-wg", "flannel-wg-b"], "flannel-wg")

    confirmed = host(tmp_path, published=new, devices=both.devices)
    assert await look(confirmed) == (["flannel-wg", "flannel-wg-b"], "flannel-wg-b", new)
    await trio.sleep(DRAIN_SECONDS)
    await look(confirmed)
    assert await look(confirmed) == (["flannel-wg-b"], "flannel-wg-b", new)
    assert kept(tmp_path) == ["key-b"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, {"flannel-wg-b": "WireGuard refused its keys or peers: Address already in use"}),
        ({"up": False}, {}),
        ({"kind": "dummy"}, {}),
    ],
)
async def test_a_new_key_is_not_published_while_its_device_is_not_ready(
    tmp_path: Path, changes: dict[str, Any], faults: dict[str, str]
) -> None:
    backend, old = await prepared(host(tmp_path))
    (tmp_path / "rotate").touch()
    there = devices("flannel-wg", "flannel-wg-b")
    there["flannel-wg-b"] = there["flannel-wg-b"]._replace(**changes)
    where = host(tmp_path, published=old.backend_data, devices=there, faults=faults)
    await whole(backend, where, [])
    wanted = await whole(backend, where, [lease(2, "wireguard", data(2))])
    assert [device.name for device in wanted.devices] == ["flannel-wg", "flannel-wg-b"]
    assert [route.device for route in wanted.routes] == ["flannel-wg"]
    assert not wanted.prepare_again
    assert await backend.prepare(host(tmp_path, devices=there)) == old  # which is not told the faults
    where = host(tmp_path, published=old.backend_data, devices=devices("flannel-wg", "flannel-wg-b"))
    assert (await whole(backend, where, [])).prepare_again


@pytest.mark.trio
async def test_a_restart_in_a_change_sends_through_the_device_whose_key_is_known(tmp_path: Path) -> None:
    backend, old = await prepared(host(tmp_path))
    (tmp_path / "rotate").touch()
    await whole(backend, host(tmp_path, devices=devices("flannel-wg")), [])
    os.utime(tmp_path / "key", (1, 1))  # file systems may tell no times that are a moment apart
    there = devices("flannel-wg", "flannel-wg-b")
    peers = [lease(2, "wireguard", data(2))]

    again, new = await prepared(host(tmp_path, devices=there))
    assert new != old
    for published, expected in (
        (old.backend_data, "flannel-wg"),
        (new.backend_data, "flannel-wg-b"),
        (None, "flannel-wg"),
    ):
        wanted = await whole(again, host(tmp_path, published=published), peers)
        assert [route.device for route in wanted.routes] == [expected]


@pytest.mark.trio
async def test_a_key_that_cannot_be_changed_goes_on_serving_with_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    where = host(folder)
    backend, _ = await prepared(where)
    (folder / "rotate").touch()
    (folder / "key-b").mkdir()
    wanted = await whole(backend, where, [lease(2, "wireguard", data(2))])
    assert [each.subnet for each in wanted.routes] == [subnet(2)]
    assert "the key cannot be changed" in wanted.warnings[0]


# WireguardOptions


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"psk": "AAAA"}, "PSK: it has 3 bytes, not 32; make one with `wg genpsk`"),
        ({"psk": PSK[:-1]}, "PSK: it is not base64"),
        ({"listen_port": 51821}, "ListenPortV6: 51821 is ListenPort 51821"),
        ({"listen_port": 51823}, "choose ports that differ"),
        ({"listen_port": 51819}, "choose ports that differ"),
        ({"mtu": 147}, "MTU: 147 leaves less than 68 bytes"),
    ],
)
def test_options_that_do_not_fit_are_refused_without_showing_a_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        WireguardTunnels(WireguardOptions(**given))
    assert PSK[:20] not in str(caught.value)


def test_options_match_in_any_case_and_errors_name_the_field_without_a_key() -> None:
    def given(text: str) -> object:
        document = f'{{"Network":"10.23.0.0/16","Backend":{{"Type":"wireguard",{text}}}}}'
        return options(WireguardTunnels.manifest, parse_network(document.encode()))

    assert given(f'"psk":"{PSK}","MODE":"auto"') == WireguardOptions(psk=PSK, mode="auto")
    for text in ('"ListenPort":0', '"ListenPort":65534', '"Mode":"both"', '"RotateDays":-1', '"PSK":7'):
        with pytest.raises(NetworkConfigError, match=text.partition(":")[0].strip('"')) as caught:
            given(f'{text},"psk2":"{PSK}"')
        assert PSK not in str(caught.value)


@pytest.mark.trio
async def test_no_secret_is_shown(tmp_path: Path) -> None:
    backend = WireguardTunnels(WireguardOptions(psk=PSK))
    await backend.prepare(host(tmp_path))
    wanted = await whole(backend, host(tmp_path), [lease(2, "wireguard", data(2))])
    private = parse_key((tmp_path / "key").read_text().strip())
    shown = f"{WireguardOptions(psk=PSK)!r} {wanted!r} {wanted} {backend!r}"
    for secret in (private, parse_key(PSK)):
        assert encode_key(secret) not in shown
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


@pytest.mark.trio
@pytest.mark.parametrize(("where", "mtu"), [({}, 1420), ({"link": ETH0._replace(mtu=9000)}, 8920)])
async def test_the_mtu_is_the_paths_less_80_bytes(tmp_path: Path, where: dict[str, Any], mtu: int) -> None:
    assert (await prepared(host(tmp_path, **where)))[1].mtu == mtu
    assert (await prepared(host(tmp_path, **where), mtu=1300))[1].mtu == 1220


@pytest.mark.trio
async def test_an_mtu_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="less than 1280 bytes"):
        await prepared(dual(tmp_path), mtu=1359)
    with pytest.raises(Refused, match="less than 68 bytes"):
        await prepared(host(tmp_path, link=ETH0._replace(mtu=147)))
