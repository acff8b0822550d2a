"""The records under `subnets` for display: all of them, invalid ones with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec.json import decode

from netstore.cli.commands.failures import refused
from netstore.network.addresses import Subnet, show_ip
from netstore.network.ipv6 import show_ip6
from netstore.network.lease import SubnetLease, parse_lease
from netstore.network.overlaps import Claim, Overlaps, nested

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.client.subnetstore import Entry
    from netstore.network.config import Network

NAMED: Final = 3
"""Most records that an error text names."""

HEADINGS = ("SUBNET", "PUBLIC IP", "BACKEND", "TTL", "EXPIRES", "RESERVED", "PROBLEM")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry under `subnets`; `lease` is None if it is invalid, `problems` are those that daemons have
    with it.
    """

    folder: str
    entry: Entry
    lease: SubnetLease | None
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.entry.name

    @property
    def key(self) -> str:
        """The whole key."""
        return f"{self.folder}/{self.entry.name}"

    @property
    def subnet(self) -> str:
        """The subnet in its usual form; for an invalid entry its name."""
        return self.name if self.lease is None else str(self.lease.subnet)

    @property
    def subnet6(self) -> str | None:
        """The IPv6 subnet of a dual-stack lease."""
        return None if self.lease is None or self.lease.subnet6 is None else str(self.lease.subnet6)

    @property
    def public_ip6(self) -> str | None:
        """The holder's IPv6 address."""
        return (
            None if self.lease is None or self.lease.public_ip6 is None else show_ip6(self.lease.public_ip6)
        )

    def is_named(self, name: str) -> bool:
        """Whether this is its name, or the part of its name for one of its two subnets."""
        return name in (self.name, *self.name.split("&"))

    @property
    def reserved(self) -> bool:
        """A lease without a TTL is a reservation (flannel's documentation, "Leases and Reservations")."""
        return self.lease is not None and self.entry.ttl is None

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
        """Its expiration by this machine's clock, to the second."""
        if self.ttl is None:
            return None
        return (datetime.now(UTC) + timedelta(seconds=self.ttl)).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def ttl(self) -> int | None:
        """Seconds left; 0 or less if it is overdue; None for a reservation, and if it is not known."""
        return self.entry.ttl if self.entry.is_timed else None

    def row(self) -> tuple[str | int | None, ...]:
        """Its cells in the order of `HEADINGS`."""
        backend = self.lease.backend_type or None if self.lease is not None else None
        reserved = "yes" if self.reserved else "no"
        return (
            both(self.subnet, self.subnet6),
            both(self.public_ip, self.public_ip6),
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
        data6 = None if lease is None or lease.backend_v6_data is None else decode(lease.backend_v6_data)
        return {
            "key": self.key,
            "subnet": None if lease is None else str(lease.subnet),
            "ipv6Subnet": self.subnet6,
            "publicIP": self.public_ip,
            "publicIPv6": self.public_ip6,
            "backendType": None if lease is None else lease.backend_type or None,
            "backendData": data,
            "backendV6Data": data6,
            "ttl": self.ttl,
            "expiration": self.expires,
            "reserved": self.reserved,
            "problems": list(self.problems),
            "createdIndex": self.entry.created,
            "modifiedIndex": self.entry.modified,
            "value": self.entry.value,
        }


def survey(entries: Iterable[Entry], network: Network | None, folder: str) -> list[Record]:
    """Every entry of the folder with its problems: leases by subnet, then invalid entries. Pure;
    O(n log n).
    """
    leases: list[tuple[SubnetLease, Entry]] = []
    others: list[Record] = []
    for entry in entries:
        parsed = parse_lease(entry.name, entry.value)
        if isinstance(parsed, SubnetLease):
            leases.append((parsed, entry))
        else:
            others.append(Record(folder, entry, None, (parsed.reason,)))
    leases.sort(key=lambda pair: (pair[0].subnet, pair[1].name))
    others.sort(key=lambda record: record.name)
    overlaps = _overlaps([lease.subnet for lease, _ in leases])
    refused6: dict[str, str] = {}
    if network is not None and network.ipv6 is not None:
        overlaps6 = Overlaps(network.ipv6.fits)
        for lease, entry in leases:
            if lease.subnet6 is not None:
                overlaps6.put(entry.name, lease.subnet6, Claim(lease.public_ip, entry.created))
        reasons = {entry.name: overlaps6.reason(entry.name) for _, entry in leases}
        refused6 = {name: reason for name, reason in reasons.items() if reason is not None}
    holders: dict[int, list[Subnet]] = {}
    for lease, _ in leases:
        holders.setdefault(lease.public_ip, []).append(lease.subnet)
    records = []
    for place, (lease, entry) in enumerate(leases):
        problems = [] if network is None else _misfits(lease, network)
        if place in overlaps:
            problems.append(f"overlaps {overlaps[place]}")
        if entry.name in refused6:
            problems.append(refused6[entry.name])
        if len(holders[lease.public_ip]) > 1:
            problems.append(f"{show_ip(lease.public_ip)} holds {len(holders[lease.public_ip])} subnets")
        if entry.ttl is not None and entry.is_timed and entry.ttl <= 0:
            problems.append("overdue")
        records.append(Record(folder, entry, lease, tuple(problems)))
    return records + others


def require_leases(records: Iterable[Record]) -> None:
    """`Failure` if a record cannot be read as a lease, for the end of a command that has shown what can."""
    unread = [record for record in records if record.lease is None]
    if unread:
        named = "; ".join(f"{record.key}: {', '.join(record.problems)}" for record in unread[:NAMED])
        more = f"; and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
        raise refused(f"{named}{more}; correct it, or remove it with subnet release")


def _misfits(lease: SubnetLease, network: Network) -> list[str]:
    misfit = network.misfit(lease.subnet)
    misfits = [] if misfit is None else [misfit]
    if lease.backend_type and lease.backend_type != network.backend_type:
        misfits.append(f"BackendType is not {network.backend_type}")
    if network.ipv6 is not None:
        if lease.subnet6 is None:
            misfits.append("has no IPv6 subnet")
        elif (misfit6 := network.ipv6.misfit(lease.subnet6)) is not None:
            misfits.append(f"{lease.subnet6}: {misfit6}")
        if lease.backend_type and lease.public_ip6 is None:
            misfits.append("has no PublicIPv6")
    return misfits


def both(first: str | None, second: str | None) -> str | None:
    """What a lease has of each family, in one cell."""
    return first if second is None else f"{first}, {second}"


def _overlaps(ordered: Sequence[Subnet]) -> dict[int, Subnet]:
    """For each subnet that overlaps another one, its position and the other one; `ordered` is sorted."""
    shared: dict[int, Subnet] = {}
    for subnet, place, covering in nested((subnet, place) for place, subnet in enumerate(ordered)):
        if covering:
            outermost, outer_place = covering[0]
            shared[place] = outermost
            shared.setdefault(outer_place, subnet)
    return shared
