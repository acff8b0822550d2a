"""The records under `subnets` for display: all of them, invalid ones with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.json import decode

from netstore.cli.commands.failures import refused
from netstore.cli.commands.invocation import node_at
from netstore.network.addresses import Subnet, show_ip
from netstore.network.lease import SubnetLease, parse_lease
from netstore.network.overlaps import nested

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.client.v2 import Node, V2Client
    from netstore.network.config import Network

HEADINGS = ("SUBNET", "PUBLIC IP", "BACKEND", "TTL", "EXPIRES", "RESERVED", "PROBLEM")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry under `subnets`; `lease` is None if it is invalid, `problems` are those that daemons have
    with it.
    """

    node: Node
    lease: SubnetLease | None
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.node.key.rpartition("/")[2]

    @property
    def subnet(self) -> str:
        """The subnet in its usual form; for an invalid entry its name."""
        return self.name if self.lease is None else str(self.lease.subnet)

    @property
    def reserved(self) -> bool:
        """A lease without a TTL is a reservation (flannel's documentation, "Leases and Reservations")."""
        return self.lease is not None and self.node.ttl is None and self.node.expiration is None

    @property
    def in_use(self) -> bool:
        """Whether a node holds it: it has an expiration, or a node has written its backend into it."""
        return self.lease is not None and (not self.reserved or bool(self.lease.backend_type))

    @property
    def public_ip(self) -> str | None:
        """The holder's address."""
        return None if self.lease is None else show_ip(self.lease.public_ip)

    @property
    def expires(self) -> str | None:
        """Its expiration, to the second."""
        expiration = self.node.expiration
        return None if expiration is None else f"{expiration.partition('.')[0].rstrip('Z')}Z"

    @property
    def ttl(self) -> int | None:
        """Seconds left; 0 or less if it is overdue; None for a reservation."""
        if self.node.expiration is None:
            return None
        return self.node.ttl or 0

    def row(self) -> tuple[str | int | None, ...]:
        """Its cells in the order of `HEADINGS`."""
        backend = self.lease.backend_type or None if self.lease is not None else None
        reserved = "yes" if self.reserved else "no"
        return (
            self.subnet,
            self.public_ip,
            backend,
            self.ttl,
            self.expires,
            reserved,
            "; ".join(self.problems) or None,
        )

    def content(self) -> dict[str, object]:
        """Its JSON document."""
        lease = self.lease
        data = None if lease is None or lease.backend_data is None else decode(lease.backend_data)
        return {
            "key": self.node.key,
            "subnet": None if lease is None else str(lease.subnet),
            "publicIP": self.public_ip,
            "backendType": None if lease is None else lease.backend_type or None,
            "backendData": data,
            "ttl": self.ttl,
            "expiration": self.node.expiration,
            "reserved": self.reserved,
            "problems": list(self.problems),
            "createdIndex": self.node.created_index,
            "modifiedIndex": self.node.modified_index,
            "value": self.node.value,
        }


async def listed(client: V2Client, folder: str) -> tuple[Node, ...]:
    """The entries of the `subnets` folder; none if there is no folder, as before the first lease."""
    node = await node_at(client, folder)
    if node is None:
        return ()
    if not node.dir:
        raise refused(f"{folder}: is a file, and no daemon can put a lease below it; key rm {folder}")
    return node.nodes


def survey(nodes: Iterable[Node], network: Network | None) -> list[Record]:
    """Every entry with its problems: leases by subnet, then invalid entries. Pure; O(n log n)."""
    leases: list[tuple[SubnetLease, Node]] = []
    others: list[Record] = []
    for node in nodes:
        parsed = parse_lease(node.key, node.value)
        if isinstance(parsed, SubnetLease):
            leases.append((parsed, node))
        else:
            others.append(Record(node, None, (parsed.reason,)))
    leases.sort(key=lambda pair: (pair[0].subnet, pair[1].key))
    others.sort(key=lambda record: record.node.key)
    overlaps = _overlaps([lease.subnet for lease, _ in leases])
    holders: dict[int, list[Subnet]] = {}
    for lease, _ in leases:
        holders.setdefault(lease.public_ip, []).append(lease.subnet)
    records = []
    for place, (lease, node) in enumerate(leases):
        problems = [] if network is None else _misfits(lease, network)
        if place in overlaps:
            problems.append(f"overlaps {overlaps[place]}")
        if len(holders[lease.public_ip]) > 1:
            problems.append(f"{show_ip(lease.public_ip)} holds {len(holders[lease.public_ip])} subnets")
        if node.expiration is not None and (node.ttl or 0) <= 0:
            problems.append("overdue")
        records.append(Record(node, lease, tuple(problems)))
    return records + others


def _misfits(lease: SubnetLease, network: Network) -> list[str]:
    misfit = network.misfit(lease.subnet)
    misfits = [] if misfit is None else [misfit]
    if lease.backend_type and lease.backend_type != network.backend_type:
        misfits.append(f"BackendType is not {network.backend_type}")
    return misfits


def _overlaps(ordered: Sequence[Subnet]) -> dict[int, Subnet]:
    """For each subnet that overlaps another one, its position and the other one; `ordered` is sorted."""
    shared: dict[int, Subnet] = {}
    for subnet, place, covering in nested((subnet, place) for place, subnet in enumerate(ordered)):
        if covering:
            outermost, outer_place = covering[0]
            shared[place] = outermost
            shared.setdefault(outer_place, subnet)
    return shared
