"""The public plugin protocol: what a backend tells the agent and what the agent does for it.

A backend turns leases into kernel state for one type of network. It is a class, found through the entry-point
group `netstore.backends`, where the name is the `Type` of the network config in lower case. This module is
all a plugin needs.

The life of a backend: the agent reads its `manifest`, decodes the Backend section into the manifest's
`options`, makes an instance, calls `prepare` before the lease is written and `reconcile` whenever the peers,
the own subnet or one of the kernel facts it follows changed, and every few seconds at the latest
`REPAIR_INTERVAL`. `teardown` is called only when everything is to be taken back; a plain stop leaves the data
path as it is.

`reconcile` always gets the full state. A backend never needs to know what changed: it says what is wanted,
and the agent finds the difference to what is there, carries it out, and keeps it so when somebody else
changes the kernel's tables. What a route cannot express (a neighbour entry, a command to run) a backend does
itself inside `reconcile`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

import msgspec

from netstore.agent.kernel import Address, Link
from netstore.agent.routeplan import Route
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, show_ip
from netstore.network.config import Network, NetworkError
from netstore.network.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "API_VERSION",
    "GROUP",
    "REPAIR_INTERVAL",
    "Address",
    "Backend",
    "Host",
    "Lease",
    "Link",
    "Manifest",
    "Network",
    "Prepared",
    "Refused",
    "Route",
    "Subnet",
    "Wanted",
    "find",
    "show_ip",
]

API_VERSION: Final = 1
"""Version of this protocol. A plugin made for another one is refused."""

GROUP: Final = "netstore.backends"

REPAIR_INTERVAL: Final = 10.0
"""Seconds between two repairs when nothing happens (flannel)."""


class Refused(NetstoreError):  # noqa: N818 - says what the backend did
    """The backend cannot work on this host, or with these options; the text says why and what would help."""


class NoOptions(msgspec.Struct, frozen=True):
    """Options of a backend that has none."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backend is, before there is an instance.

    `name` is the BackendType of its leases, compared exactly. `options` is the schema of the Backend section
    without `Type`; its field names match without regard to case. `follows` names the kernel facts about the
    host's interface whose change calls for `reconcile`.
    """

    name: str
    version: str
    options: type[msgspec.Struct] = NoOptions
    follows: frozenset[Literal["link", "addresses"]] = frozenset()
    api: int = API_VERSION


class Host(msgspec.Struct, frozen=True):
    """This node, as it is now. `subnet` is None until the lease is held."""

    link: Link
    address: Address
    public_ip: int
    network: Network
    subnet: Subnet | None = None


class Prepared(msgspec.Struct, frozen=True):
    """What the backend publishes: the MTU for pods, and BackendData (JSON, or None) for the lease."""

    mtu: int
    backend_data: bytes | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What should be in the kernel: routes, and for each peer that cannot be served the reason."""

    routes: Sequence[Route]
    refused: dict[Subnet, str] = {}


class Backend(Protocol):
    """One backend, with its options, for the life of the agent. Its methods are called one at a time."""

    manifest: ClassVar[Manifest]

    def __init__(self, options: Any) -> None:
        """Take options that passed the schema. Raise Refused if they make no sense together."""

    async def prepare(self, host: Host) -> Prepared:
        """Check the host and make ready whatever the lease must tell others, such as a device and its key.

        Called before the lease is written, and again when the host's link or address changed. Raise Refused
        with the reason if it cannot work here; the agent tells it and tries again.
        """

    async def reconcile(self, host: Host, peers: Sequence[Lease]) -> Wanted:
        """What should be in the kernel, given every usable lease of the others, sorted by nothing in
        particular.

        Peers of another BackendType are among them; the backend decides which concern it. Must be safe to
        repeat.
        """

    async def teardown(self) -> None:
        """Take back what `prepare` and `reconcile` did by themselves. Routes are the agent's to remove."""


def find(network: Network) -> Backend:
    """An instance of the backend the network config names. NetworkError if there is none or its options do
    not fit.
    """
    available = {point.name: point for point in entry_points(group=GROUP)}
    point = available.get(network.backend_type)
    if point is None:
        known = ", ".join(sorted(available)) or "none"
        raise NetworkError(
            "Backend.Type", f"no backend {network.backend_type!r} on this node", f"installed: {known}"
        )
    try:
        plugin = point.load()
        manifest: Manifest = plugin.manifest
    except Exception as error:  # a stranger's code
        raise NetworkError(
            "Backend.Type", f"{point.value} cannot be loaded ({error!r})", "repair or reinstall the plugin"
        ) from error
    if manifest.api != API_VERSION:
        raise NetworkError(
            "Backend.Type",
            f"{manifest.name} {manifest.version} is made for version {manifest.api} of the plugin protocol",
            f"install one made for version {API_VERSION}",
        )
    backend: Backend = plugin(options(manifest, network))
    return backend


def options(manifest: Manifest, network: Network) -> msgspec.Struct:
    """The Backend section as the manifest's options: names in any case, fields nobody knows ignored, as in
    Go.
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
        raise NetworkError(
            "Backend", f"options of {manifest.name}: {error}", "correct the section, or leave the option out"
        ) from None
