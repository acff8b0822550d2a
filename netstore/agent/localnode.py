"""This node: its interface and address, the network config and the backend. Found at the start; interface and
address are checked again when the host changes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from netstore.agent.backend import Backend, Host, Prepared, find, plugin_errors
from netstore.agent.declaration import checked_prepared
from netstore.agent.interface import Addresses, NoInterfaceError, Preferences, choose_interface
from netstore.agent.leasefilter import HOST_LENGTH, IPV4, IPV6, ProtectedAddresses, protected_addresses
from netstore.agent.routeplan import PROTOCOL
from netstore.client.faults import BadAnswer
from netstore.client.storeapi import V2, no_config, not_served
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.config import Network, NetworkConfigError, parse_network
from netstore.network.ipv6 import Subnet6, parse_ip6, show_ip6
from netstore.network.lease import encode_lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from netstore.agent.interface import Choice
    from netstore.agent.kernel import Kernel, Link
    from netstore.agent.requiredhosts import RequiredAddresses
    from netstore.agent.routeplan import KernelRoute
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.config import Network6
    from netstore.network.lease import NodeSubnets
    from netstore.ops.agent import AgentConfig


@dataclass(slots=True)
class LocalNode:
    """This node as the backend accepted it, and the addresses that no lease may make a route for.

    Only `refresh` and `migration` change it.
    """

    network: Network
    backend: Backend
    host: Host
    prepared: Prepared
    protected: ProtectedAddresses[Subnet]
    names_ipv6: bool
    """See `client.subnetstore.SubnetStore`."""
    protected6: ProtectedAddresses[Subnet6]
    name: str = ""
    """Its NodeName in the lease, "" for none."""
    former: Network | None = None
    """A network config whose leases are served too: the other one of a migration to another range."""
    document: str = ""
    """The network config as it is stored."""
    fault: str | None = None
    """Why the interface cannot carry traffic now, None if it can."""

    @property
    def networks(self) -> list[Network]:
        """The network configs whose leases are served."""
        return [self.network] if self.former is None else [self.network, self.former]

    @property
    def lease_value(self) -> str:
        """The value of this node's lease."""
        return encode_lease(
            self.host.public_ip,
            self.backend.manifest.backend_type,
            self.prepared.backend_data,
            public_ip6=self.host.public_ip6,
            backend_v6_data=self.prepared.backend_v6_data,
            names_ipv6=self.names_ipv6,
            node_name=self.name,
        )

    def protected_subnets(self) -> list[Subnet | Subnet6]:
        """What a new subnet of this node must not overlap."""
        return [
            *(subnet for subnet, _ in self.protected.networks),
            *self.protected.left,
            *(Subnet(ip, HOST_LENGTH) for ip, _ in self.protected.single),
            *(subnet for subnet, _ in self.protected6.networks),
            *self.protected6.left,
            *(Subnet6(ip, 128) for ip, _ in self.protected6.single),
        ]

    def host_with(
        self,
        subnets: NodeSubnets | None,
        devices: Mapping[str, Link],
        published: bytes | None = None,
        faults: Mapping[str, str] | None = None,
    ) -> Host:
        """The host with these as its subnets, with these interfaces, this BackendData in its lease, and these
        faults of devices.
        """
        subnet, subnet6 = subnets or (None, None)
        return msgspec.structs.replace(
            self.host,
            subnet=subnet,
            subnet6=subnet6,
            devices=devices,
            published=published,
            faults=faults or {},
        )


async def detect(
    config: AgentConfig,
    kernel: Kernel,
    store: SubnetStore,
    hosts: RequiredAddresses,
    *,
    complete: Callable[[Network], Awaitable[Network]],
    planned: Callable[[str], str],
) -> LocalNode:
    """Choose the interface, read and validate the network config, prepare the backend. `hosts` are the
    addresses of hosts that the node needs, with what each is. `complete` installs the backend where that is
    allowed, and adds what the plugin store says of it. `planned` gives the network config to use, given that
    which is stored.

    NetstoreError says what is missing. The agent retries until an operator has corrected it.
    """
    choice = await find_interface(config, kernel)
    document = planned(await read_document(store))
    network = await complete(parse_network(document.encode()))
    if network.network.holds(choice.address.ip):
        raise NetworkConfigError(
            "Network",
            f"{network.network} contains this node's own address {show_ip(choice.address.ip)}",
            "choose a range that contains no node's address",
        )
    if network.ipv6 is not None:
        _check_ipv6(network.ipv6, choice)
    backend = find(network)
    links, addresses = await kernel.links(), await _addresses(kernel)
    host = _host(config, choice, network, links, addresses)
    with contextlib.suppress(OSError):  # a backend that keeps something there says that it cannot
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        host.folder.mkdir(mode=0o700, exist_ok=True)
    with plugin_errors(backend.manifest.name):
        prepared = checked_prepared(await backend.prepare(host))
    routes = await kernel.routes()
    protected = protected_addresses(IPV4, [network], links, addresses.ipv4, routes=routes, hosts=hosts.ipv4)
    protected6 = await _protected6([network], links, addresses, kernel, hosts)
    fault = _fault(host, routes)
    return LocalNode(
        network,
        backend,
        host,
        prepared,
        protected,
        store.names_ipv6,
        protected6,
        name=config.node_name or "",
        document=document,
        fault=fault,
    )


async def read_document(store: SubnetStore) -> str:
    """The network config as it is stored. NetworkConfigError if there is none."""
    key = f"{store.prefix}/config"
    try:
        entry = await store.config()
    except BadAnswer as error:
        raise (not_served(error) if store.api == V2 else error) from None
    if entry is None:
        raise no_config(store.prefix, "there is no network config", store.api)
    if entry.value is None:
        raise NetworkConfigError(
            key, "it is a directory", "remove it and write the network config as a value"
        )
    return entry.value


async def refresh(node: LocalNode, config: AgentConfig, kernel: Kernel, hosts: RequiredAddresses) -> bool:
    """Read interface, address and protected addresses again. True if any of them changed; `node.fault` says
    whether the interface can be used.

    The interface chosen at the start is kept, and its address as long as the interface has it: following
    every change of the default route would move the pods' routes with it. NetstoreError while it does not
    exist, or the backend refuses it.
    """
    links, addresses, routes = await kernel.links(), await _addresses(kernel), await kernel.routes()
    before, node.protected = (
        (node.protected, node.protected6),
        protected_addresses(
            IPV4,
            node.networks,
            links,
            addresses.ipv4,
            routes=routes,
            hosts=hosts.ipv4,
        ),
    )
    node.protected6 = await _protected6(node.networks, links, addresses, kernel, hosts)
    try:
        choice = _same_interface(node.host, config, links, addresses)
        if node.network.ipv6 is not None:
            _check_ipv6(node.network.ipv6, choice)
        host = _host(config, choice, node.network, links, addresses)
        is_other = _without_devices(host) != _without_devices(node.host)
        if is_other:
            with plugin_errors(node.backend.manifest.name):
                node.prepared = checked_prepared(await node.backend.prepare(host))
    except NetstoreError as error:
        node.fault = str(error)
        raise
    node.host, node.fault = host, _fault(host, routes)
    return is_other or (node.protected, node.protected6) != before


def _same_interface(host: Host, config: AgentConfig, links: Sequence[Link], addresses: Addresses) -> Choice:
    """The interface used so far, as it is now: of those with its name or its number, the one with its
    address, else the one with its name. So it is found when it was renamed, and when it was made anew. Its
    IPv6 address is kept as long as the interface has it.
    """
    name, number, ip = host.link.name, host.link.ifindex, host.address.ip
    candidates = sorted(
        (link for link in links if link.name == name or link.ifindex == number),
        key=lambda link: link.name != name,
    )
    same6 = [each for each in addresses.ipv6 if each.ip == host.address6]
    for link in candidates:
        usable = [each for each in addresses.ipv4 if each.ifindex == link.ifindex and each.ip == ip]
        kept6 = [each for each in same6 if each.ifindex == link.ifindex] or addresses.ipv6
        if usable:
            return choose_interface(
                Preferences(names=(link.name,)), links, Addresses(usable, kept6), (), None
            )
    is_fixed = show_ip(ip) in config.iface or config.public_ip is not None
    if is_fixed or not candidates or candidates[0].name != name:
        raise NoInterfaceError(f"{name} with the address {show_ip(ip)} is gone; it is waited for")
    usable = [each for each in addresses.ipv4 if each.ifindex == candidates[0].ifindex]
    if not usable:
        raise NoInterfaceError(f"{name} has lost its address {show_ip(ip)}; one is waited for")
    return choose_interface(Preferences(names=(name,)), links, Addresses(usable, addresses.ipv6), (), None)


def _fault(host: Host, routes: Iterable[KernelRoute]) -> str | None:
    """Why nothing can be reached through the interface, or None."""
    name, number, address = host.link.name, host.link.ifindex, host.address
    if not host.link.up:
        return f"{name} is down; bring it up with `ip link set {name} up`"
    if address.length == HOST_LENGTH and not any(
        route.ifindex == number and route.protocol != PROTOCOL for route in routes
    ):
        return (
            f"{name} has only {show_ip(address.ip)}/{address.length}, a network without other hosts, and no"
            " route: give the address the prefix length of its network"
        )
    return None


async def find_interface(config: AgentConfig, kernel: Kernel) -> Choice:
    """The interface as the settings choose it. NetstoreError if there is none."""
    preferences = Preferences(config.iface, config.iface_regex, config.iface_can_reach)
    return choose_interface(
        preferences,
        await kernel.links(),
        await _addresses(kernel),
        await kernel.routes() if preferences == Preferences() else (),
        await _reach(config.iface_can_reach, kernel),
    )


async def _addresses(kernel: Kernel) -> Addresses:
    return Addresses(await kernel.addresses(), await kernel.addresses6())


async def _reach(address: str | None, kernel: Kernel) -> tuple[int, int] | None:
    """Interface index and source address towards an address of either family."""
    if address is None:
        return None
    if ":" in address:
        return await kernel.route_to(parse_ip6(address), is_ipv6=True)
    return await kernel.route_to(parse_ip(address))


async def _protected6(
    networks: Sequence[Network],
    links: Sequence[Link],
    addresses: Addresses,
    kernel: Kernel,
    hosts: RequiredAddresses,
) -> ProtectedAddresses[Subnet6]:
    """The IPv6 addresses to protect; none in a network that has no IPv6."""
    pods = [each.ipv6 for each in networks if each.ipv6 is not None]
    if not pods:
        return ProtectedAddresses()
    return protected_addresses(
        IPV6, pods, links, addresses.ipv6, routes=await kernel.routes6(), hosts=hosts.ipv6
    )


def _check_ipv6(network: Network6, choice: Choice) -> None:
    """A dual-stack network needs an IPv6 address of the interface, outside the network."""
    if choice.address6 is None:
        raise NoInterfaceError(
            f"{choice.link.name} has no IPv6 address that is not link-local, and the network config has"
            " EnableIPv6; give it a global or unique local one, or choose another interface with --iface"
        )
    if network.network.holds(choice.address6.ip):
        raise NetworkConfigError(
            "IPv6Network",
            f"{network.network} contains this node's own address {show_ip6(choice.address6.ip)}",
            "choose a range that contains no node's address",
        )


def _host(
    config: AgentConfig, choice: Choice, network: Network, links: Sequence[Link], addresses: Addresses
) -> Host:
    link, address6 = choice.link, None
    public_ip6 = None
    if network.ipv6 is not None and choice.address6 is not None:
        address6 = choice.address6.ip
        public_ip6 = parse_ip6(config.public_ipv6) if config.public_ipv6 else address6
    return Host(
        link,
        choice.address,
        parse_ip(config.public_ip) if config.public_ip else choice.address.ip,
        network,
        address6=address6,
        public_ip6=public_ip6,
        networks=(
            *(Subnet.around(each.ip, each.length) for each in addresses.ipv4 if each.ifindex == link.ifindex),
            *(
                Subnet6.around(each.ip, each.length)
                for each in addresses.ipv6
                if each.ifindex == link.ifindex
            ),
        ),
        devices={each.name: each for each in links},
        folder=config.data_dir / network.backend_type,
    )


def _without_devices(host: Host) -> Host:
    """What `prepare` depends on: pods' interfaces come and go all the time."""
    return msgspec.structs.replace(host, devices={})
