"""The plugin protocol as a third party's package uses it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from netstore.agent import backend as protocol
from netstore.agent.backend import (
    API_VERSION,
    Address,
    Backend,
    Host,
    Manifest,
    Prepared,
    Refused,
    Subnet,
    SubnetLease,
    Wanted,
    find,
    options,
)
from netstore.agent.entryplan import Entry
from netstore.agent.routeplan import BoundRoute, in_kernel
from netstore.network.addresses import parse_ip
from netstore.network.config import Network, NetworkConfigError, parse_network
from tests.plugins.hosts import whole
from tests.support.documents import block
from tests.support.kernel import ETH0, FakeKernel
from tests.support.reconciler import WholeReconciler

if TYPE_CHECKING:
    from collections.abc import Collection


class Settings(msgspec.Struct, frozen=True, rename="pascal"):
    port: int = 8472
    direct_routing: bool = False


class Tunnel:
    """A third party's backend: it uses nothing but `agent.backend`."""

    manifest: ClassVar[Manifest] = Manifest(name="tunnel", version="3.1", options=Settings)

    def __init__(self, options: Settings) -> None:
        if options.port == 22:
            raise Refused("tunnel: port 22 is taken by ssh; choose another Port")
        self.options = options

    async def prepare(self, host: Host) -> Prepared:
        return Prepared(mtu=host.link.mtu - 50, backend_data=b'{"Port":%d}' % self.options.port)

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        return Wanted(warnings=[f"{len(peers)} peers"])

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        return Wanted(refused={peer.subnet: "not today"})

    async def stop(self) -> None:
        pass

    async def teardown(self) -> None:
        pass


class Tomorrow(Tunnel):
    manifest: ClassVar[Manifest] = Manifest(name="tomorrow", version="9", api=API_VERSION + 1)


class Earlier:
    """It was written when `declare` declared all peers."""

    manifest: ClassVar[Manifest] = Manifest(name="earlier", version="1")
    prepare, declare, stop, teardown = Tunnel.prepare, Tunnel.declare, Tunnel.stop, Tunnel.teardown

    def __init__(self, options: object) -> None:
        del options


def network(section: str) -> Network:
    return parse_network(f'{{"Network":"10.23.0.0/16","Backend":{section}}}'.encode())


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint(name, f"tests.agent.test_backend:{target}", protocol.GROUP)
        for name, target in (
            ("tunnel", "Tunnel"),
            ("tomorrow", "Tomorrow"),
            ("broken", "Nobody"),
            ("earlier", "Earlier"),
        )
    ]
    monkeypatch.setattr(protocol, "entry_points", lambda group: points if group == protocol.GROUP else [])


def test_a_third_partys_backend_is_found_with_its_options() -> None:
    found: Backend = find(network('{"Type":"Tunnel","port":9,"DIRECTROUTING":true,"Unknown":1}'))
    assert isinstance(found, Tunnel)
    assert found.options == Settings(port=9, direct_routing=True)
    typed: Backend = Tunnel(Settings())  # accepted by the type checker
    assert typed.manifest.name == "tunnel"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            '{"Type":"pigeon"}',
            "no backend 'pigeon' on this node; installed: broken, earlier, tomorrow, tunnel",
        ),
        ('{"Type":"broken"}', "cannot be loaded"),
        ('{"Type":"earlier"}', "earlier 1 has no method declare_peer"),
        ('{"Type":"tomorrow"}', "written for version 4 of the protocol"),
        ('{"Type":"tunnel","Port":"9"}', "options of tunnel: must be a whole number, not text"),
    ],
)
def test_a_backend_that_cannot_be_used_is_an_error_with_the_field(section: str, words: str) -> None:
    with pytest.raises(NetworkConfigError, match=words) as caught:
        find(network(section))
    assert caught.value.field.startswith("Backend")


def test_a_backend_may_refuse_its_options() -> None:
    with pytest.raises(Refused, match="choose another Port"):
        find(network('{"Type":"tunnel","Port":22}'))


def test_null_options_have_their_defaults() -> None:
    assert options(Tunnel.manifest, network('{"Type":"tunnel","Port":null}')) == Settings()


def test_every_public_name_exists() -> None:
    names: dict[str, Any] = vars(protocol)
    assert all(name in names for name in protocol.__all__)


@pytest.mark.trio
async def test_the_example_of_the_guide_works() -> None:
    """The agent's reconciler makes what it declares, on a fake kernel."""
    text = block("contrib/doc/plugins.md", "backend")
    assert len(text.splitlines()) <= 60, "the guide teaches a backend in 60 lines"
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - our own text
    config = network('{"Type":"example","Port":4790}')
    example: Backend = names["Example"](options(names["Example"].manifest, config))
    kernel = FakeKernel()
    ip = parse_ip("192.168.77.11")
    near, far, strange, other = (Subnet(parse_ip(f"10.23.{number}.0"), 24) for number in (1, 2, 3, 4))
    host = Host(
        ETH0,
        Address(2, ip, 24),
        ip,
        config,
        Subnet(parse_ip("10.23.9.0"), 24),
        networks=(Subnet.around(ip, 24),),
    )
    prepared = await example.prepare(host)
    assert prepared == Prepared(mtu=1450, backend_data=b'"02eec0a84d0b"')
    with pytest.raises(Refused, match="raise it"):
        await example.prepare(msgspec.structs.replace(host, link=ETH0._replace(mtu=900)))
    peers = [
        SubnetLease(near, ip + 1, "example", prepared.backend_data),
        SubnetLease(far, parse_ip("192.168.99.12"), "example", b'"02eec0a8630c"'),
        SubnetLease(strange, parse_ip("192.168.99.13"), "example", b'"pigeon"'),
        SubnetLease(other, ip + 2, "host-gw"),
    ]
    wanted = await whole(example, host, peers)
    assert wanted.refused == {strange: "its BackendData is no MAC", other: "its backend is host-gw"}
    reconciler = WholeReconciler(kernel, [config.network], ETH0, lambda: None)
    await reconciler.set_wanted(wanted, set())
    assert not reconciler.problems
    number = kernel.link("example.7").ifindex
    assert {one for there in kernel.table.values() for one in there} == {
        in_kernel(BoundRoute(near, ip + 1, 2)),
        in_kernel(BoundRoute(far, far.base, number, onlink=True)),
    }
    mac = bytes.fromhex("02eec0a8630c")
    assert set(kernel.entry_table.values()) == {
        Entry(number, far.base.to_bytes(4), mac),
        Entry(number, mac, parse_ip("192.168.99.12").to_bytes(4)),
    }
    await example.stop()
    await example.teardown()
