"""The plugin protocol: what a backend tells the agent, and what the agent does for it.

A backend turns leases into kernel state for one type of network. It is a class found through the entry-point
group `netstore.backends`, where its name is the `Type` in the network config, in lower case. A plugin imports
this module and nothing else of netstore.

The agent reads the class's `manifest`, decodes the Backend section of the network config into the manifest's
`options`, creates an instance, and calls `prepare` before the lease is written. Then it calls `declare`,
which says what the node itself needs, such as a device, and for the lease of each other node `declare_peer`,
which says what this one needs. A plain stop calls `stop` and leaves the data path as it is; `teardown` is
called after it when everything is to be removed.

Both return what should be in the kernel (`netstore.agent.wanted`). The agent puts it together, makes the
difference, repairs it when other programs change it, and removes it when it is no longer declared. So a
backend need not know what changed, and one lease that changes costs no more because there are many others.
What is not in the kernel (a command to run, a key to keep) a backend does itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping  # noqa: TC003 - msgspec and inspect read types of fields
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import msgspec

from netstore.agent.entrypoints import entry_points
from netstore.agent.kernel import Address, Link, Tunnel
from netstore.agent.wanted import (
    Device,
    Forwarding,
    Ipip,
    Neighbour,
    Route,
    TunnelPeer,
    Vxlan,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, show_ip
from netstore.network.backends import NoOptions
from netstore.network.config import Network, Network6, NetworkConfigError
from netstore.network.ipv6 import Subnet6, show_ip6
from netstore.network.lease import NodeSubnets, SubnetLease
from netstore.network.words import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "API_VERSION",
    "GROUP",
    "REPAIR_INTERVAL",
    "STOP_SECONDS",
    "Address",
    "Backend",
    "Device",
    "Forwarding",
    "Host",
    "Ipip",
    "Link",
    "Manifest",
    "Neighbour",
    "Network",
    "Network6",
    "NoOptions",
    "NodeSubnets",
    "Prepared",
    "Refused",
    "Route",
    "Subnet",
    "Subnet6",
    "SubnetLease",
    "Tunnel",
    "TunnelPeer",
    "Vxlan",
    "Wanted",
    "Wireguard",
    "WireguardPeer",
    "find",
    "show_ip",
    "show_ip6",
]

API_VERSION: Final = 3
"""Version of this protocol. A plugin made for another version is refused."""

GROUP: Final = "netstore.backends"

REPAIR_INTERVAL: Final = 10.0
"""Maximum seconds between two calls of `declare`, and between two comparisons of the whole kernel with what
is wanted: as often as flannel checks its routes.
"""

STOP_SECONDS: Final = 5.0
"""Maximum seconds for `stop`, and for `teardown`."""


_METHODS: Final = ("prepare", "declare", "declare_peer", "stop", "teardown")


class Refused(NetstoreError):  # noqa: N818 - says what the backend did
    """The backend cannot work on this host, or with these options; the text says why and what to do."""


class Manifest(msgspec.Struct, frozen=True):
    """A backend's description, available before there is an instance.

    `name` is the Type in the network config. `lease_type` is the BackendType of its leases, compared exactly;
    None stands for `name`. `options` is the schema of the Backend section without `Type`; its field names
    match case-insensitively. `ipv6` tells whether it serves dual-stack networks. `modules` are kernel modules
    without which it cannot work. `api` is the version of this protocol it was written for.
    """

    name: str
    version: str
    options: type[msgspec.Struct] = NoOptions
    lease_type: str | None = None
    ipv6: bool = False
    modules: tuple[str, ...] = ()
    api: int = API_VERSION

    @property
    def backend_type(self) -> str:
        """The BackendType of its leases, empty for none."""
        return self.name if self.lease_type is None else self.lease_type


class Host(msgspec.Struct, frozen=True):
    """This node in its present state.

    `subnet` (and `subnet6` in a dual-stack network) is None until the lease is held. `address6` and
    `public_ip6` are None if the network has no IPv6. `networks` are those that the node reaches without a
    gateway through `link`, of both families. `devices` are all interfaces by name. `folder` is a private one
    (0700) of this backend for what it must keep, such as keys. `published` is the BackendData of this node's
    lease as the store confirmed it last; before, of the lease that an earlier run left; None if there is
    none. `faults` are the declared devices that are not as they should be, with the reasons.
    """

    link: Link
    address: Address
    public_ip: int
    network: Network
    subnet: Subnet | None = None
    address6: int | None = None
    public_ip6: int | None = None
    subnet6: Subnet6 | None = None
    networks: tuple[Subnet | Subnet6, ...] = ()
    devices: Mapping[str, Link] = {}
    folder: Path = Path("/nonexistent")
    published: bytes | None = None
    faults: Mapping[str, str] = {}

    def reaches(self, ip: int) -> bool:
        """Whether the IPv4 address is reached without a gateway through `link`."""
        return any(isinstance(each, Subnet) and each.holds(ip) for each in self.networks)

    def reaches6(self, ip: int) -> bool:
        """Whether the IPv6 address is reached without a gateway through `link`."""
        return any(isinstance(each, Subnet6) and each.holds(ip) for each in self.networks)


class Prepared(msgspec.Struct, frozen=True):
    """The MTU for pods, and the BackendData and BackendV6Data (JSON, or None) to publish in the lease."""

    mtu: int
    backend_data: bytes | None = None
    backend_v6_data: bytes | None = None


class Backend(Protocol):
    """One backend with its options, for the lifetime of the agent. Its methods are called one at a time."""

    manifest: ClassVar[Manifest]

    def __init__(self, options: Any) -> None:
        """`options` matched the schema. Raise Refused if their combination is invalid."""

    async def prepare(self, host: Host) -> Prepared:
        """Check the host, and make what the lease must tell other nodes about, such as a key or a MAC.

        Called before the lease is written, and again when the host's link, address or devices changed. Raise
        Refused with the reason if the backend cannot work here; the agent logs it and tries again.
        """

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """What this node needs whoever its peers are. `peers` are the accepted leases of all other nodes, in
        no particular order.

        Called whenever leases, the own subnet or the host's interface changed, and at least every
        `REPAIR_INTERVAL` seconds. Must be idempotent.
        """

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """What one lease of another node needs. Leases with another BackendType are included; the backend
        decides which it serves.

        It must depend on nothing but its arguments and on what `declare` returned as `peers_depend_on`:
        it is called when one of these changed, and now and then. Of `host`, the fields `subnet`, `subnet6`,
        `devices`, `published` and `faults` are empty, because they change often. It must not wait for
        anything: 3,000 peers are declared in one go.

        If several nodes declare the same entry or peer of a device, the agent gives it to the one with the
        oldest lease, and the others nothing through that device (`agent.combined`).
        """

    async def stop(self) -> None:
        """The agent ends and leaves the data path as it is. At most `STOP_SECONDS`."""

    async def teardown(self) -> None:
        """Undo what the backend did itself. The agent removes what was declared. Called after `stop`."""


def find(network: Network) -> Backend:
    """An instance of the backend that the network config names. NetworkConfigError if it is not installed or
    its options are invalid.
    """
    available = {point.name: point for point in reversed(entry_points(group=GROUP))}  # the first wins
    point = available.get(network.backend_type)
    if point is None:
        known = ", ".join(sorted(available)) or "none"
        raise NetworkConfigError(
            "Backend.Type", f"no backend {network.backend_type!r} on this node", f"installed: {known}"
        )
    try:
        plugin = point.load()
        manifest: Manifest = plugin.manifest
    except Exception as error:  # any error of the plugin's own code
        raise NetworkConfigError(
            "Backend.Type", f"{point.value} cannot be loaded ({error!r})", "repair or reinstall the plugin"
        ) from error
    if manifest.api != API_VERSION:
        raise NetworkConfigError(
            "Backend.Type",
            f"{manifest.name} {manifest.version} is written for version {manifest.api} of the protocol",
            f"install one written for version {API_VERSION}",
        )
    if network.ipv6 is not None and not manifest.ipv6:
        raise NetworkConfigError(
            "EnableIPv6",
            f"true, but {manifest.name} {manifest.version} serves IPv4 only",
            "leave it out, or choose a backend that serves both families, such as host-gw",
        )
    with plugin_errors(manifest.name):
        backend: Backend = plugin(options(manifest, network))
    absent = [name for name in _METHODS if not callable(getattr(backend, name, None))]
    if absent:
        raise NetworkConfigError(
            "Backend.Type",
            f"{manifest.name} {manifest.version} has no method {' and '.join(absent)}",
            f"install one written for version {API_VERSION} of the protocol",
        )
    return backend


@contextmanager
def plugin_errors(name: str) -> Iterator[None]:
    """Turn exceptions of a plugin's code into NetstoreError, which is logged and retried; they never stop the
    agent.
    """
    try:
        yield
    except NetstoreError:
        raise
    except Exception as error:
        raise NetstoreError(f"backend {name} failed: {error!r}") from error


def options(manifest: Manifest, network: Network) -> msgspec.Struct:
    """The Backend section decoded into the manifest's options: names match case-insensitively and unknown
    fields are ignored, as in Go.
    """
    given: dict[str, Any] = msgspec.json.decode(network.backend)
    fields = msgspec.structs.fields(manifest.options)
    names = {field.encode_name.lower(): field.encode_name for field in fields}
    known = {names[name.lower()]: value for name, value in given.items() if name.lower() in names}
    try:
        return msgspec.convert(
            {name: value for name, value in known.items() if value is not None}, manifest.options
        )
    except msgspec.ValidationError as error:
        raise NetworkConfigError(
            "Backend",
            f"options of {manifest.name}: {in_words(error)}",
            "correct the section, or leave the option out",
        ) from None
