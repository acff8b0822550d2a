"""This node: its interface and address, the network config and the backend. Found at the start; interface and
address are checked again when the host changes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.backend import Backend, Host, Prepared, find, plugin_errors
from netstore.agent.interface import Preferences, choose_interface
from netstore.agent.leasefilter import ProtectedAddresses, protected_addresses
from netstore.agent.storeapi import V2, no_config, not_served
from netstore.client.faults import BadAnswer
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.config import Network, NetworkConfigError, parse_network
from netstore.network.lease import encode_lease

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netstore.agent.interface import Choice
    from netstore.agent.kernel import Address, Kernel, Link
    from netstore.client.subnetstore import SubnetStore
    from netstore.ops.agent import AgentConfig


RESOLVE_SECONDS: Final = 5.0
"""Maximum time to resolve the store's host names."""


@dataclass(slots=True)
class LocalNode:
    """This node as the backend accepted it, and the addresses that no lease may make a route for.

    Only `refresh` changes it.
    """

    network: Network
    backend: Backend
    host: Host
    prepared: Prepared
    protected: ProtectedAddresses
    names_ipv6: bool
    """See `client.subnetstore.SubnetStore`."""

    @property
    def lease_value(self) -> str:
        """The value of this node's lease."""
        return encode_lease(
            self.host.public_ip,
            self.backend.manifest.backend_type,
            self.prepared.backend_data,
            names_ipv6=self.names_ipv6,
        )

    def host_with(
        self, subnet: Subnet | None, devices: Mapping[str, Link], published: bytes | None = None
    ) -> Host:
        """The host with this as its subnet, with these interfaces, and this BackendData in its lease."""
        return msgspec.structs.replace(self.host, subnet=subnet, devices=devices, published=published)


async def detect(config: AgentConfig, kernel: Kernel, store: SubnetStore) -> LocalNode:
    """Choose the interface, read and validate the network config, prepare the backend.

    NetstoreError says what is missing. The agent retries until an operator has corrected it.
    """
    choice = await _choose_interface(config, kernel)
    network = await read_network(store)
    if network.network.holds(choice.address.ip):
        raise NetworkConfigError(
            "Network",
            f"{network.network} contains this node's own address {show_ip(choice.address.ip)}",
            "choose a range that contains no node's address",
        )
    backend = find(network)
    links, addresses = await kernel.links(), await kernel.addresses()
    host = _host(config, choice, network, links, addresses)
    with contextlib.suppress(OSError):  # a backend that keeps something there says that it cannot
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        host.folder.mkdir(mode=0o700, exist_ok=True)
    with plugin_errors(backend.manifest.name):
        prepared = await backend.prepare(host)
    store_ips = await _store_ips(config)
    protected = protected_addresses(network, links, addresses, await kernel.routes(), store_ips)
    return LocalNode(network, backend, host, prepared, protected, store.names_ipv6)


async def read_network(store: SubnetStore) -> Network:
    """The network config. NetworkConfigError if there is none or it is invalid."""
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
    return parse_network(entry.value.encode())


async def refresh(node: LocalNode, config: AgentConfig, kernel: Kernel) -> bool:
    """Read interface, address and protected addresses again. True if any of them changed.

    The interface chosen at the start is kept, by its name, and its address as long as the interface has it:
    following every change of the default route would move the pods' routes with it. NoInterfaceError while
    the interface does not exist.
    """
    store_ips = await _store_ips(config)
    links, addresses = await kernel.links(), await kernel.addresses()
    before, node.protected = (
        node.protected,
        protected_addresses(node.network, links, addresses, await kernel.routes(), store_ips),
    )
    name, ip = node.host.link.name, node.host.address.ip
    same_name = {link.ifindex for link in links if link.name == name}
    usable = [one for one in addresses if one.ifindex in same_name and one.ip == ip]
    if not usable and show_ip(ip) not in config.iface and config.public_ip is None:
        usable = [one for one in addresses if one.ifindex in same_name]
    choice = choose_interface(Preferences(names=(name,)), links, usable, (), None)
    host = _host(config, choice, node.network, links, addresses)
    if _without_devices(host) == _without_devices(node.host):
        return node.protected != before
    with plugin_errors(node.backend.manifest.name):
        node.prepared = await node.backend.prepare(host)
    node.host = host
    return True


async def _choose_interface(config: AgentConfig, kernel: Kernel) -> Choice:
    can_reach = parse_ip(config.iface_can_reach) if config.iface_can_reach else None
    preferences = Preferences(config.iface, config.iface_regex, can_reach)
    return choose_interface(
        preferences,
        await kernel.links(),
        await kernel.addresses(),
        await kernel.routes() if preferences == Preferences() else (),
        await kernel.route_to(can_reach) if can_reach is not None else None,
    )


async def _store_ips(config: AgentConfig) -> set[int]:
    """The store's addresses. Names that do not resolve are left out: the agent cannot use them either."""
    found: set[int] = set()
    with trio.move_on_after(RESOLVE_SECONDS):
        for host in {url.host for url in config.endpoints}:
            try:
                found.add(parse_ip(host))
            except ValueError:
                found |= await _resolve(host)
    return found


async def _resolve(name: str) -> set[int]:
    try:
        found = await trio.socket.getaddrinfo(name, None, family=trio.socket.AF_INET)
    except OSError:
        return set()
    return {parse_ip(str(address[0])) for *_, address in found}


def _host(
    config: AgentConfig,
    choice: Choice,
    network: Network,
    links: Sequence[Link],
    addresses: Sequence[Address],
) -> Host:
    return Host(
        choice.link,
        choice.address,
        parse_ip(config.public_ip) if config.public_ip else choice.address.ip,
        network,
        networks=tuple(
            Subnet.around(each.ip, each.length) for each in addresses if each.ifindex == choice.link.ifindex
        ),
        devices={link.name: link for link in links},
        folder=config.data_dir / network.backend_type,
    )


def _without_devices(host: Host) -> Host:
    """What `prepare` depends on: pods' interfaces come and go all the time."""
    return msgspec.structs.replace(host, devices={})
