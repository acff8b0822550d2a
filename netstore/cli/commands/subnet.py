"""`netstorectl subnet`: shows and changes the subnet leases of the network.

Every write is a compare with the index of the record that it was decided on, so that a record that was
changed meanwhile is not overwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import Exit, Failure, refused, usage
from netstore.cli.commands.invocation import MAX_TTL, Settings, agreed, node_at
from netstore.cli.commands.leases import HEADINGS, Record, listed, survey
from netstore.cli.commands.network import checked
from netstore.cli.commands.options import Group, pass_settings, whole
from netstore.cli.output import Table
from netstore.network.addresses import Subnet, parse_cidr, parse_host_ip, show_ip
from netstore.network.lease import DEFAULT_TTL, encode_lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netstore.client.v2 import Answer, V2Client
    from netstore.network.config import Network

subnet_argument = click.argument("subnet", shell_complete=completion.subnets)


@click.group(cls=Group)
def subnet() -> None:
    """The subnets nodes hold: leases and reservations."""


@subnet.command()
@pass_settings
def ls(settings: Settings) -> None:
    """List all subnets; records that are no lease, or that daemons stumble over, with what is wrong."""
    records, _ = _survey(settings)
    settings.show(
        {"subnets": [record.content() for record in records]},
        Table(HEADINGS, [record.row() for record in records]),
    )


@subnet.command()
@subnet_argument
@pass_settings
def show(settings: Settings, subnet: str) -> None:
    """Show one subnet in full. SUBNET is 10.1.5.0/24, or the last part of the record's key."""
    record = _record(settings, subnet)
    lease = record.lease
    data = None if lease is None or lease.backend_data is None else lease.backend_data.decode()
    settings.show(
        record.content(),
        Table(
            ("FIELD", "VALUE"),
            [
                ("Subnet", record.subnet),
                ("PublicIP", record.public_ip),
                ("BackendType", None if lease is None else lease.backend_type or None),
                ("BackendData", data),
                ("Reserved", "yes" if record.reserved else "no"),
                ("TTL", record.ttl),
                ("Expires", record.expires),
                ("Key", record.node.key),
                ("Created-Index", record.node.created_index),
                ("Modified-Index", record.node.modified_index),
                ("Value", record.node.value),
                ("Problem", "; ".join(record.problems) or None),
            ],
        ),
    )


@subnet.command()
@click.option("--public-ip", required=True, metavar="IP", help="The IPv4 address of the node it is kept for.")
@subnet_argument
@pass_settings
def reserve(settings: Settings, subnet: str, *, public_ip: str) -> None:
    """Keep a subnet for one node: a record without an end, which the node takes at its next start.

    A lease the same node holds already loses its end and stays as it is otherwise.
    """
    wanted, address = _canonical(subnet), _host(public_ip)
    records, found = _survey(settings)
    if found is None:
        raise refused(f"{settings.key('config')}: no config that daemons can use; see network check")
    own = next((record for record in records if record.name == wanted.lease_name), None)
    objection = objection_to(wanted, address, found, records)
    if objection is not None:
        raise refused(objection)
    if own is not None and own.reserved:
        settings.show({"action": "unchanged", **own.content()}, _short([own]))
        return

    async def creating(client: V2Client) -> Answer:
        key = settings.key("subnets", wanted.lease_name)
        if own is None:
            return await client.create(key, encode_lease(address, ""))
        return await client.compare_and_swap(key, own.node.value or "", prev_index=own.node.modified_index)

    answer = _written(settings, creating, subnet)
    record = _surveyed(answer, found)
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
    if record.node.dir:
        raise refused(f"{record.node.key}: is a directory, and release never removes more than one record")
    if record.in_use and not yes:
        held = f"{record.subnet} is held by {record.public_ip}"
        if not agreed(f"{held}: its pods lose their routes on all nodes. Release it?"):
            raise refused(f"{held}, and is not released; give --yes if that is meant")

    async def removing(client: V2Client) -> Answer:
        return await client.compare_and_delete(record.node.key, prev_index=record.node.modified_index)

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

    async def renewing(client: V2Client) -> Answer:
        return await client.compare_and_swap(
            record.node.key, record.node.value or "", prev_index=record.node.modified_index, ttl=ttl
        )

    renewed = _surveyed(_written(settings, renewing, subnet), None)
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
                return f"{record.node.key}: is no lease ({'; '.join(record.problems)}); release it first"
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


def _canonical(text: str) -> Subnet:
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


def _name(text: str) -> str:
    """The name of a record: of a subnet in its usual form, or the argument itself."""
    name = text.replace("/", "-", 1)
    if not name or "/" in name or name in {".", ".."}:
        usage(f"SUBNET: {text!r} is neither a subnet such as 10.1.5.0/24 nor the last part of a key")
    return name


def _survey(settings: Settings) -> tuple[list[Record], Network | None]:
    """All records, checked against the network config if that is valid."""

    async def reading(client: V2Client) -> tuple[list[Record], Network | None]:
        config = await node_at(client, settings.key("config"))
        value = None if config is None else config.value
        network = None if value is None else checked(value.encode())[0]
        return survey(await listed(client, settings.key("subnets")), network), network

    return settings.ask(reading)


def _record(settings: Settings, text: str) -> Record:
    name = _name(text)
    for record in _survey(settings)[0]:
        if record.name == name:
            return record
    raise Failure(Exit.NOT_FOUND, f"{settings.key('subnets', name)}: not found; see subnet ls")


def _written(settings: Settings, action: Callable[[V2Client], Awaitable[Answer]], subnet: str) -> Answer:
    """Carry out a write that depends on what was read before."""
    try:
        return settings.ask(action)
    except Failure as failure:
        if failure.status in (Exit.REFUSED, Exit.NOT_FOUND):
            raise refused(
                f"{subnet}: the record was changed meanwhile; look at it again (subnet show {subnet})"
            ) from None
        raise


def _surveyed(answer: Answer, network: Network | None) -> Record:
    return survey([answer.node], network)[0]


def _short(records: Sequence[Record]) -> Table:
    return Table(HEADINGS, [record.row() for record in records])
