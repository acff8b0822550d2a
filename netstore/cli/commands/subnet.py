"""`netstorectl subnet`: shows and changes the subnet leases of the network.

Every write is a compare with the index of the record that it was decided on, so that a record that was
changed meanwhile is not overwritten.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import Exit, Failure, refused, usage
from netstore.cli.commands.invocation import MAX_TTL, Settings, agreed, index_of
from netstore.cli.commands.leases import HEADINGS, Record, require_leases, survey
from netstore.cli.commands.network import checked
from netstore.cli.commands.options import Group, pass_settings, whole
from netstore.cli.output import Table
from netstore.network.addresses import Subnet, parse_cidr, parse_host_ip, show_ip
from netstore.network.allocator import counterpart, free_subnets
from netstore.network.ipv6 import Subnet6, parse_cidr6, show_ip6
from netstore.network.lease import DEFAULT_TTL, NodeSubnets, encode_lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netstore.client.subnetstore import Differs, Missing, SubnetStore, Written
    from netstore.network.config import Network

subnet_argument = click.argument("subnet", shell_complete=completion.subnets)


@click.group(cls=Group)
def subnet() -> None:
    """The subnets nodes hold: leases and reservations."""


@subnet.command()
@click.option("-w", "--watch", is_flag=True, help="Go on and show each change, until interrupted.")
@pass_settings
def ls(settings: Settings, *, watch: bool) -> None:
    """List all subnets; records that are no lease, or that daemons stumble over, with what is wrong.
    Exit status 1 if one is no lease, or the network config cannot be used.

    With --watch a terminal shows a table that is kept up to date; elsewhere each subnet that is there and
    each change is a line, which begins with listed, added, changed or removed.
    """
    if watch:
        from netstore.cli.commands.watching import follow  # noqa: PLC0415 - loads what only a call needs

        settings.ask_network(partial(follow, settings))
        return
    records, _, problem = surveyed(settings, timed=EVERY)
    settings.show(
        {"subnets": [record.content() for record in records]},
        Table(HEADINGS, [record.row() for record in records]),
    )
    require_leases(records)
    if problem is not None:
        raise refused(f"{settings.key('config')}: {problem}; no lease was compared with it")


@subnet.command()
@subnet_argument
@pass_settings
def show(settings: Settings, subnet: str) -> None:
    """Show one subnet in full. SUBNET is 10.1.5.0/24, or the last part of the record's key. Exit status 1 if
    the record is no lease.
    """
    record = _record(settings, subnet)
    lease = record.lease
    data = None if lease is None or lease.backend_data is None else lease.backend_data.decode()
    data6 = None if lease is None or lease.backend_v6_data is None else lease.backend_v6_data.decode()
    settings.show(
        record.content(),
        Table(
            ("FIELD", "VALUE"),
            [
                ("Subnet", record.subnet),
                ("IPv6-Subnet", record.subnet6),
                ("PublicIP", record.public_ip),
                ("PublicIPv6", record.public_ip6),
                ("BackendType", None if lease is None else lease.backend_type or None),
                ("BackendData", data),
                ("BackendV6Data", data6),
                ("Reserved", "yes" if record.reserved else "no"),
                ("TTL", record.ttl),
                ("Expires", record.expires),
                ("Key", record.key),
                ("Created-Index", record.entry.created),
                ("Modified-Index", record.entry.modified),
                ("Value", record.entry.value),
                ("Problem", "; ".join(record.problems) or None),
            ],
        ),
    )
    require_leases([record])


@subnet.command()
@click.option("--public-ip", required=True, metavar="IP", help="The IPv4 address of the node it is kept for.")
@click.option(
    "--ipv6",
    metavar="SUBNET",
    help="Its IPv6 subnet in a dual-stack network.  [the one at the same place, or a free one]",
)
@subnet_argument
@pass_settings
def reserve(settings: Settings, subnet: str, *, public_ip: str, ipv6: str | None) -> None:
    """Keep a subnet for one node: a record without an end, which the node takes at its next start.

    A lease the same node holds already loses its end and stays as it is otherwise.
    """
    wanted, address = canonical(subnet), _host(public_ip)
    wanted6 = None if ipv6 is None else _canonical6(ipv6)
    records, found, _ = surveyed(settings)
    if found is None:
        raise refused(f"{settings.key('config')}: no config that daemons can use; see network check")
    objection = objection_to(wanted, address, found, records) or objection_to6(
        wanted6, found, wanted, records
    )
    if objection is not None:
        raise refused(objection)
    own = next((each for each in records if each.lease is not None and each.lease.subnet == wanted), None)
    if own is not None and own.reserved:
        settings.show({"action": "unchanged", **own.content()}, _short([own]))
        return
    name = (
        own.name
        if own is not None
        else NodeSubnets(wanted, wanted6 or free_ipv6(found, wanted, records)).lease_name
    )

    async def creating(store: SubnetStore) -> Written | Missing | Differs:
        if own is None:
            return await store.create(name, encode_lease(address, "", names_ipv6=store.names_ipv6), None)
        return await store.replace(name, own.entry.value or "", own.entry.modified, None)

    _written(settings, creating, subnet)
    record = _record(settings, name)
    settings.show({"action": "reserved", **record.content()}, _short([record]))


@subnet.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even where a node holds it.")
@subnet_argument
@pass_settings
def release(settings: Settings, subnet: str, *, yes: bool) -> None:
    """Remove one record, whoever made it. SUBNET is 10.1.5.0/24, or the last part of the record's key.

    Where a node holds it, its pods lose their routes on all nodes, and its daemon takes another subnet.
    """
    record = _record(settings, subnet)
    if record.entry.value is None:
        raise refused(f"{record.key}: is a directory, and release never removes more than one record")
    if record.in_use and not yes:
        held = f"{record.subnet} is held by {record.public_ip}"
        if not agreed(f"{held}: its pods lose their routes on all nodes. Release it?"):
            raise refused(f"{held}, and is not released; give --yes if that is meant")

    async def removing(store: SubnetStore) -> Written | Missing | Differs:
        return await store.remove(record.name, record.entry.modified)

    _written(settings, removing, subnet)
    settings.show({"action": "released", **record.content()}, _short([record]))


@subnet.command()
@click.option(
    "--ttl",
    type=whole(1, MAX_TTL),
    default=DEFAULT_TTL,
    metavar="SECONDS",
    help=f"Its life from now on.  [{DEFAULT_TTL}]",
)
@subnet_argument
@pass_settings
def renew(settings: Settings, subnet: str, *, ttl: int) -> None:
    """Start the life of a lease again. A reservation, which has no end, is refused."""
    record = _record(settings, subnet)
    if record.lease is None:
        raise refused(f"{record.name}: is no lease ({'; '.join(record.problems)}); release it")
    if record.reserved:
        raise refused(f"{record.subnet}: is a reservation, which has no end to put off")

    async def renewing(store: SubnetStore) -> Written | Missing | Differs:
        return await store.replace(record.name, record.entry.value or "", record.entry.modified, ttl)

    _written(settings, renewing, subnet)
    renewed = _record(settings, record.name)
    settings.show({"action": "renewed", **renewed.content()}, _short([renewed]))


def objection_to(wanted: Subnet, address: int, network: Network, records: Sequence[Record]) -> str | None:
    """Why a subnet cannot be reserved for a node, and the fix; None if it can. Pure."""
    misfit = network.misfit(wanted)
    if misfit is not None:
        bounds = f"{show_ip(network.subnet_min)} to {show_ip(network.subnet_max)}"
        return f"{wanted}: {misfit}; nodes take /{network.subnet_len} subnets from {bounds} only"
    for record in records:
        if record.lease is None:
            if record.name == wanted.lease_name:
                return f"{record.key}: is no lease ({'; '.join(record.problems)}); release it first"
            continue
        held, holder = record.lease.subnet, record.lease.public_ip
        if held == wanted and holder == address:
            continue
        if held == wanted:
            return f"{wanted}: is held by {record.public_ip}; choose another subnet or release it"
        if held.overlaps(wanted):
            return (
                f"{wanted}: overlaps {held} of {record.public_ip}; choose another subnet or release that one"
            )
        if holder == address:
            return f"{record.public_ip}: holds {held}, and a node uses one subnet only; release that one"
    return None


def objection_to6(
    wanted: Subnet6 | None, network: Network, subnet: Subnet, records: Sequence[Record]
) -> str | None:
    """Why an IPv6 subnet cannot be reserved with an IPv4 subnet, and the fix; None if it can. Pure."""
    if wanted is None:
        return None
    if network.ipv6 is None:
        return f"{wanted}: the network has no IPv6 (EnableIPv6); leave --ipv6 out"
    misfit = network.ipv6.misfit(wanted)
    if misfit is not None:
        bounds = f"{show_ip6(network.ipv6.subnet_min)} to {show_ip6(network.ipv6.subnet_max)}"
        return f"{wanted}: {misfit}; nodes take /{network.ipv6.subnet_len} subnets from {bounds} only"
    for record in records:
        lease = record.lease
        if lease is None:
            continue
        if lease.subnet == subnet:
            if lease.subnet6 != wanted:
                return (
                    f"{subnet}: is held together with {lease.subnet6 or 'no IPv6 subnet'}; leave --ipv6 out"
                )
        elif lease.subnet6 is not None and lease.subnet6.overlaps(wanted):
            return f"{wanted}: overlaps {lease.subnet6} of {record.public_ip}; choose another subnet"
    return None


def free_ipv6(network: Network, subnet: Subnet, records: Sequence[Record]) -> Subnet6 | None:
    """The IPv6 subnet to reserve together with an IPv4 subnet; None in a network that has no IPv6."""
    if network.ipv6 is None:
        return None
    leases = [record.lease for record in records if record.lease is not None]
    taken = [lease.subnet6 for lease in leases if lease.subnet6 is not None]
    usual = counterpart(network, subnet, network.ipv6)
    if usual is not None and not any(usual.overlaps(each) for each in taken):
        return usual
    free = free_subnets(network.ipv6, taken, 1)
    if not free:
        raise refused(
            f"{network.ipv6.network}: no subnet is free; release one, or choose a larger IPv6Network"
        )
    return free[0]


def _canonical6(text: str) -> Subnet6:
    try:
        return Subnet6.exact(*parse_cidr6(text))
    except ValueError as error:
        usage(f"--ipv6: {text!r}: {error}; write it as fd00:10:0:5::/64")


def canonical(text: str) -> Subnet:
    """The subnet of an argument; a usage error names what is wrong with it."""
    try:
        address, length = parse_cidr(text.replace("-", "/"))
    except ValueError:
        usage(f"SUBNET: {text!r} is not an IPv4 subnet such as 10.1.5.0/24")
    try:
        return Subnet.exact(address, length)
    except ValueError as error:
        usage(f"SUBNET: {text}: {error}")


def _host(text: str) -> int:
    try:
        return parse_host_ip(text)
    except ValueError as error:
        usage(f"--public-ip: {error}; write it as 192.0.2.7")


def record_name(text: str) -> str:
    """The name of a record: of a subnet in its usual form, or the argument itself."""
    name = text.replace("/", "-", 1)
    if not name or "/" in name or name in {".", ".."}:
        usage(f"SUBNET: {text!r} is neither a subnet such as 10.1.5.0/24 nor the last part of a key")
    return name


EVERY: Final = ""
"""For `surveyed`: the time of every record is wanted."""


class Surveyed(NamedTuple):
    """What the store has of a network."""

    records: list[Record]
    network: Network | None
    """None if there is no config, or none that can be used."""
    problem: str | None
    """Why the config cannot be used."""


def surveyed(settings: Settings, timed: str | None = None) -> Surveyed:
    """All records, checked against the network config if that is valid. In v3 the remaining time is known
    only of those whose name or subnet is `timed`, or of all with `EVERY`: it takes a call for each.
    """

    async def reading(store: SubnetStore) -> Surveyed:
        config = await store.config()
        value = None if config is None else config.value
        network, problem = (None, None) if value is None else checked(value.encode())
        entries = (await store.entries()).entries
        asked = [
            entry
            for entry in entries
            if timed is not None and timed in (EVERY, entry.name, *entry.name.split("&"))
        ]
        known = {entry.name: entry for entry in await store.timed(asked)}
        found = [known.get(entry.name, entry) for entry in entries]
        return Surveyed(survey(found, network, settings.key("subnets")), network, problem)

    return settings.ask_network(reading)


def _record(settings: Settings, text: str) -> Record:
    """The record of an argument as it is now; `Failure` if there is none."""
    name = record_name(text)
    named = [record for record in surveyed(settings, name).records if record.is_named(name)]
    for record in sorted(named, key=lambda record: record.name != name):
        return record
    raise Failure(Exit.NOT_FOUND, f"{settings.key('subnets', name)}: not found; see subnet ls")


def _written(
    settings: Settings, action: Callable[[SubnetStore], Awaitable[Written | Missing | Differs]], subnet: str
) -> None:
    """Carry out a write that depends on what was read before."""
    if index_of(settings.ask_network(action)) is None:
        raise refused(f"{subnet}: the record was changed meanwhile; look at it again (subnet show {subnet})")


def _short(records: Sequence[Record]) -> Table:
    return Table(HEADINGS, [record.row() for record in records])
