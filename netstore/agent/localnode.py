"""Where the agent works: interface, network config and backend, found at the start and looked at again when
the host changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.backend import Backend, Host, Prepared, find
from netstore.agent.interface import Wishes, choose
from netstore.agent.leasefilter import Ground, ground
from netstore.client.v2 import KEY_NOT_FOUND, V2Client, V2Error
from netstore.network.addresses import parse_ip, show_ip
from netstore.network.config import Network, NetworkError, parse_network
from netstore.network.lease import show_value

if TYPE_CHECKING:
    from netstore.agent.interface import Choice
    from netstore.agent.kernel import Kernel
    from netstore.network.addresses import Subnet
    from netstore.ops.config import AgentConfig


RESOLVE_SECONDS: Final = 5.0
"""How long the names of the store may take to resolve."""


@dataclass(slots=True)
class Site:
    """The node as the backend accepted it, and what of it no lease may take over. Changes only in
    `revisit`.
    """

    network: Network
    backend: Backend
    host: Host
    prepared: Prepared
    ground: Ground

    @property
    def lease_value(self) -> str:
        """What this node's lease says."""
        return show_value(self.host.public_ip, self.backend.manifest.name, self.prepared.backend_data)

    def at(self, subnet: Subnet | None) -> Host:
        """The host with the subnet it holds."""
        host = self.host
        return Host(host.link, host.address, host.public_ip, host.network, subnet)


async def survey(config: AgentConfig, kernel: Kernel, client: V2Client) -> Site:
    """Choose the interface, read and check the network config, prepare its backend.

    NetstoreError says what is missing; all of it may be put right while the agent waits.
    """
    choice = await _choose(config, kernel)
    network = await read_network(client, config.prefix)
    if network.network.holds(choice.address.ip):
        raise NetworkError(
            "Network",
            f"{network.network} holds this node's own address {show_ip(choice.address.ip)}",
            "choose a range that no node's address is in",
        )
    backend = find(network)
    host = _host(config, choice, network)
    prepared = await backend.prepare(host)
    stores = await _stores(config)
    links, addresses = await kernel.links(), await kernel.addresses()
    return Site(
        network, backend, host, prepared, ground(network, links, addresses, await kernel.routes(), stores)
    )


async def read_network(client: V2Client, prefix: str) -> Network:
    """The network config under the prefix. NetworkError if there is none or it cannot be used."""
    key = f"{prefix}/config"
    try:
        answer = await client.get(key, quorum=True)
    except V2Error as error:
        if error.code != KEY_NOT_FOUND:
            raise
        raise NetworkError(
            key, "there is no network config", "write one with `netstorectl network set`"
        ) from None
    if answer.node.value is None:
        raise NetworkError(key, "it is a directory", "remove it and write the network config as a value")
    return parse_network(answer.node.value.encode())


async def revisit(site: Site, config: AgentConfig, kernel: Kernel) -> bool:
    """Look at the host again; True if the interface, its address, or what no lease may take over is another
    now.

    The interface stays the one of the start, by its name, and the address as long as the interface has it: an
    agent that moved with every change of the default route would take the pods' routes along.
    NoInterfaceError while it is gone.
    """
    stores = await _stores(config)
    links, addresses = await kernel.links(), await kernel.addresses()
    former, site.ground = (
        site.ground,
        ground(site.network, links, addresses, await kernel.routes(), stores),
    )
    name, ip = site.host.link.name, site.host.address.ip
    numbers = {link.number for link in links if link.name == name}
    kept = [one for one in addresses if one.link in numbers and (one.ip == ip)]
    if not kept and show_ip(ip) not in config.iface and config.public_ip is None:
        kept = [one for one in addresses if one.link in numbers]
    choice = choose(Wishes(names=(name,)), links, kept, (), None)
    host = _host(config, choice, site.network)
    if host == site.host:
        return site.ground != former
    site.prepared = await site.backend.prepare(host)
    site.host = host
    return True


async def _choose(config: AgentConfig, kernel: Kernel) -> Choice:
    reach = parse_ip(config.iface_can_reach) if config.iface_can_reach else None
    wishes = Wishes(config.iface, config.iface_regex, reach)
    return choose(
        wishes,
        await kernel.links(),
        await kernel.addresses(),
        await kernel.routes() if wishes == Wishes() else (),
        await kernel.route_to(reach) if reach is not None else None,
    )


async def _stores(config: AgentConfig) -> set[int]:
    """The addresses of the store. A name that does not resolve is left out: nothing is asked of it either."""
    stores: set[int] = set()
    with trio.move_on_after(RESOLVE_SECONDS):
        for host in {url.host for url in config.endpoints}:
            try:
                stores.add(parse_ip(host))
            except ValueError:
                stores |= await _resolved(host)
    return stores


async def _resolved(name: str) -> set[int]:
    try:
        found = await trio.socket.getaddrinfo(name, None, family=trio.socket.AF_INET)
    except OSError:
        return set()
    return {parse_ip(str(address[0])) for *_, address in found}


def _host(config: AgentConfig, choice: Choice, network: Network) -> Host:
    public_ip = parse_ip(config.public_ip) if config.public_ip else choice.address.ip
    return Host(choice.link, choice.address, public_ip, network)
