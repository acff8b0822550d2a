"""`netstorectl subnet move` and `drain`: a node gets another subnet, or gives up those it holds.

A move is safe in the order in which it is done: the new subnet is reserved for the node, which fails if there
is a record of it; the node's agent takes the reservation, and writes its subnet file; the former lease stays
until it ends or is released, so that pods with its addresses keep their routes. A move that the agent does
not carry out, or that is interrupted while it is waited for, is undone.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import Exit, Failure, refused, usage
from netstore.cli.commands.invocation import Settings, agreed, index_of, say
from netstore.cli.commands.leases import HEADINGS, Record
from netstore.cli.commands.options import Command, pass_settings
from netstore.cli.commands.subnet import (
    canonical,
    free_ipv6,
    objection_to,
    record_name,
    surveyed,
)
from netstore.cli.output import Table
from netstore.errors import NetstoreError
from netstore.network.addresses import parse_ip, show_ip
from netstore.network.lease import (
    DEFAULT_TTL,
    DRAINED,
    NodeSubnets,
    SubnetLease,
    encode_lease,
    encode_mark,
    is_node_name,
    is_of,
    parse_lease,
    parse_mark,
)
from netstore.network.pluginreport import FOLDER as REPORTS
from netstore.network.pluginreport import parse_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.client.subnetstore import SubnetStore

MOVE_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.25
"""Between two looks at a record that is waited for."""

MAX_WAIT: Final = 3600.0


def _patience(word: str | float) -> float:
    """Parse how long is waited; 0 is not to wait."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_WAIT:
        raise click.BadParameter(f"{word!r} is not a number of seconds from 0 to {MAX_WAIT:g}")
    return value


def wait_option(default: float, what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --wait of a command that waits for agents."""
    return click.option(
        "--wait", type=_patience, default=default, metavar="SECONDS", help=f"{what}  [{default:g}]"
    )


@click.command("move", cls=Command)
@click.option("--release", is_flag=True, help="Remove the former lease once the agent has moved.")
@wait_option(MOVE_SECONDS, "How long the agent may take; 0 leaves the reservation for its next start.")
@click.argument("holder", metavar="NODE|SUBNET", shell_complete=completion.holders)
@click.argument("new_subnet", metavar="NEW-SUBNET")
@pass_settings
def move(settings: Settings, holder: str, new_subnet: str, *, wait: float, release: bool) -> None:
    """Give a node another subnet. NODE is the address that it publishes, or its name; SUBNET the one it holds
    now.

    NEW-SUBNET is reserved for the node, whose netstore-agent takes it while it runs. The former lease stays
    until it ends, so that pods keep their routes, or is removed with --release. If the agent does not take it
    in time, or the command is interrupted, all is undone; flanneld never does so before it is started again.
    """
    if release and not wait:
        usage("--release: is done when the agent has moved, which --wait 0 does not wait for")
    wanted = canonical(new_subnet)
    records, network, _ = surveyed(settings)
    if network is None:
        raise refused(f"{settings.key('config')}: no config that daemons can use; see network check")
    former = _held(records, holder, settings)
    lease = _lease(former)
    others = [record for record in records if record is not former]
    objection = objection_to(wanted, lease.public_ip, network, others)
    if lease.subnet == wanted:
        objection = f"{former.public_ip}: holds {wanted} already"
    if objection is None and lease.subnet.overlaps(wanted):
        objection = f"{wanted}: overlaps {lease.subnet}, which the node holds now"
    if objection is not None:
        raise refused(objection)
    name = NodeSubnets(wanted, free_ipv6(network, wanted, records)).lease_name

    async def moving(store: SubnetStore) -> bool:
        return await _carry_out(store, former, name, wait)

    taken = settings.ask_network(moving)
    if taken and release:

        async def releasing(store: SubnetStore) -> bool:
            return await _release(store, former)

        if not settings.ask_network(releasing):
            raise refused(f"{former.subnet}: was changed meanwhile and is not removed; see subnet ls")
    after = [record for record in surveyed(settings).records if record.public_ip == former.public_ip]
    settings.show(
        {"action": "moved" if taken else "reserved", "subnets": [record.content() for record in after]},
        _table(after),
    )
    if not taken:
        say(f"{former.public_ip} takes {wanted} when its daemon starts again")
    elif not release:
        say(f"{former.subnet} stays until it ends; release it when no pod uses it any more")


async def _carry_out(store: SubnetStore, former: Record, name: str, wait: float) -> bool:
    """Reserve, and wait until the agent has taken it. False if that is not waited for."""
    import trio  # noqa: PLC0415 - see Settings.run

    lease, wanted = _lease(former), name.replace("-", "/")
    value = former.entry.value or ""
    index = former.entry.modified
    if former.reserved:
        # An agent leaves a lease for a reservation, never a reservation.
        changed = index_of(await store.replace(former.name, value, index, DEFAULT_TTL))
        if changed is None:
            raise refused(f"{former.subnet}: the record was changed meanwhile; look at it again")
        index = changed
    reservation = encode_lease(lease.public_ip, "", names_ipv6=store.names_ipv6)
    reserved = index_of(await store.create(name, reservation, None))
    if reserved is None:
        await _make_permanent_again(store, former, index)
        raise refused(f"{wanted}: somebody else has just taken it; choose another subnet")
    if not wait:
        return False
    try:
        with trio.move_on_after(wait):
            while not await _is_taken(store, name, lease.public_ip):  # noqa: ASYNC110 - the store is asked
                await trio.sleep(LOOK_SECONDS)
            return True
    except (KeyboardInterrupt, trio.Cancelled):
        with trio.CancelScope(shield=True):  # each call has its time limit
            is_taken = await _undo(store, former, index, name, reserved)
        who = f"{former.public_ip} has just taken {wanted}"
        say(f"interrupted; {who if is_taken else 'all is as before'}")
        raise
    if await _undo(store, former, index, name, reserved):
        return True
    raise refused(
        f"the daemon of {former.public_ip} has not taken {wanted} within {wait:g} s, and all is as before; is"
        " it a netstore-agent that runs? --wait 0 leaves the reservation for its next start"
    )


async def _undo(store: SubnetStore, former: Record, index: int, name: str, reserved: int) -> bool:
    """Remove a reservation, unless the agent has just taken it: then True."""
    if index_of(await store.remove(name, reserved)) is None and await _is_taken(
        store, name, _lease(former).public_ip
    ):
        return True
    await _make_permanent_again(store, former, index)
    return False


async def _make_permanent_again(store: SubnetStore, former: Record, index: int) -> None:
    """What was a reservation is one again, unless it was changed meanwhile."""
    if former.reserved:
        await store.replace(former.name, former.entry.value or "", index, None)


async def _is_taken(store: SubnetStore, name: str, public_ip: int) -> bool:
    """Whether the node's daemon has written its own attributes into the record."""
    from netstore.client.subnetstore import Missing  # noqa: PLC0415 - see Settings.run

    entry = await store.entry(name)
    if isinstance(entry, Missing):
        raise refused(f"{name}: the reservation was removed by somebody else")
    lease = parse_lease(name, entry.value)
    if not isinstance(lease, SubnetLease) or lease.public_ip != public_ip:
        raise refused(f"{name}: the reservation was changed by somebody else; see subnet show {name}")
    return bool(lease.backend_type)


async def _release(store: SubnetStore, former: Record) -> bool:
    """Remove the former lease if the node still holds it. False if it is another's now."""
    from netstore.client.subnetstore import Missing  # noqa: PLC0415 - see Settings.run

    entry = await store.entry(former.name)
    if isinstance(entry, Missing):
        return True
    lease = parse_lease(former.name, entry.value)
    if not isinstance(lease, SubnetLease) or lease.public_ip != _lease(former).public_ip:
        return False
    return index_of(await store.remove(former.name, entry.modified)) is not None


@click.command("drain", cls=Command)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@wait_option(DRAIN_SECONDS, "How long it is watched whether the node comes back.")
@click.argument("node", metavar="NODE", shell_complete=completion.nodes)
@pass_settings
def drain(settings: Settings, node: str, *, wait: float, yes: bool) -> None:
    """Take a node out of the network, and keep it away until it is undrained. NODE is the address that it
    publishes, or its name: the NodeName in its lease, or the host name of its agent.

    It is noted as drained, by its addresses and its name, which keeps its netstore-agent from taking a
    subnet, and all its records are removed, reservations too. Then it is watched whether it takes a subnet
    again, as a running flanneld does at once, which is told and is exit status 1.
    """
    of = _found(settings, node)
    mine = [
        record for record in surveyed(settings).records if record.lease is not None and of.has(record.lease)
    ]
    if not mine:
        raise Failure(Exit.NOT_FOUND, f"{node}: holds no subnet; see subnet ls")
    named = " and ".join(record.subnet for record in mine)
    if not yes and not agreed(f"{node} holds {named}: its pods lose their routes on all nodes. Drain it?"):
        raise refused(f"{node} holds {named}, and is not drained; give --yes if that is meant")

    async def noting(store: SubnetStore) -> None:
        await _mark(store, of.marks)

    settings.ask_network(noting, DRAINED)

    async def draining(store: SubnetStore) -> list[str]:
        import trio  # noqa: PLC0415 - see Settings.run

        for record in mine:
            if index_of(await store.remove(record.name, record.entry.modified)) is None:
                raise refused(f"{record.subnet}: was changed meanwhile; try again")
        with trio.move_on_after(wait):
            while True:
                entries = (await store.entries()).entries
                found = [parse_lease(entry.name, entry.value) for entry in entries]
                back = [
                    str(lease.subnet) for lease in found if isinstance(lease, SubnetLease) and of.has(lease)
                ]
                if back:
                    return back
                await trio.sleep(max(LOOK_SECONDS, wait / 8))
        return []

    back = settings.ask_network(draining)
    if back:
        raise refused(
            f"{node} has taken {' and '.join(back)} again: its daemon is no netstore-agent, or an"
            " earlier release of it; stop it, and try again"
        )
    settings.show({"action": "drained", "subnets": [record.content() for record in mine]}, _table(mine))


async def _mark(store: SubnetStore, names: Sequence[str]) -> None:
    """Note that the node with these names is drained. What an earlier drain noted under one of them belongs
    to it: so each entry leads to all others. `Failure` if somebody else changes them at the same time.
    """
    from netstore.client.subnetstore import Missing  # noqa: PLC0415 - see Settings.run

    found = {name: await store.entry(name) for name in names}
    for entry in list(found.values()):
        if not isinstance(entry, Missing):
            for also in filter(is_node_name, parse_mark(entry.value)):
                if also not in found:
                    found[also] = await store.entry(also)
    # The entries of an earlier drain that are gone are not made again.
    found = {name: entry for name, entry in found.items() if name in names or not isinstance(entry, Missing)}
    mark = encode_mark(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), sorted(found))
    for name, entry in found.items():
        if isinstance(entry, Missing):
            index = index_of(await store.create(name, mark, None))
        else:
            index = index_of(await store.replace(name, mark, entry.modified, None))
        if index is None:
            raise refused(f"{DRAINED}/{name}: was changed meanwhile; try again")


@click.command("undrain", cls=Command)
@click.argument("node", metavar="NODE", shell_complete=completion.drained)
@pass_settings
def undrain(settings: Settings, node: str) -> None:
    """Let a node that was drained take a subnet again; its agent does so within ten seconds. NODE is the
    address that it publishes, or its name.
    """
    from netstore.client.subnetstore import Missing  # noqa: PLC0415 - see Settings.run

    name = node if (address := _address(node)) is None else show_ip(address)

    async def undraining(store: SubnetStore) -> bool:
        entry = await store.entry(name)
        if isinstance(entry, Missing):
            return False
        for also in parse_mark(entry.value):
            other = await store.entry(also) if also != name and is_node_name(also) else entry
            if other is not entry and not isinstance(other, Missing):
                await store.remove(also, other.modified)
        return index_of(await store.remove(name, entry.modified)) is not None

    if not settings.ask_network(undraining, DRAINED):
        raise Failure(Exit.NOT_FOUND, f"{settings.key(DRAINED, name)}: is not there; the node is not drained")
    settings.show({"action": "undrained", "node": name}, Table(("NODE", "STATE"), [(name, "undrained")]))


class _Node(NamedTuple):
    """A node as its leases know it: `name` is its NodeName, "" for none, and `addresses` are those by which
    its leases are known; `word` is what the command was given.
    """

    word: str
    addresses: frozenset[int]
    name: str

    @property
    def marks(self) -> list[str]:
        """The names of its entries while it is drained."""
        return sorted({self.word, self.name, *map(show_ip, self.addresses)} - {""})

    def has(self, lease: SubnetLease) -> bool:
        """Whether the lease is this node's, as its agent sees it."""
        return is_of(lease, self.addresses, self.name)


def _address(word: str) -> int | None:
    """The address of a node that is given by it; None if it is given by name."""
    try:
        return parse_ip(word)
    except ValueError as error:
        if not is_node_name(word) or word.replace(".", "").isdigit():
            usage(f"NODE: {error}; write it as 192.0.2.7, or give the name of the node")
        return None


def _found(settings: Settings, word: str) -> _Node:
    """The node with this address or name. `Failure` if several have it."""
    address = _address(word)
    leases = [record.lease for record in surveyed(settings).records if record.lease is not None]
    if address is None and not any(lease.node_name == word for lease in leases):
        address = _reported(settings, word)
    elif address is not None:
        word = show_ip(address)
    if address is None:
        name = word
    else:
        names = sorted({lease.node_name for lease in leases if lease.public_ip == address} - {""})
        if len(names) > 1:
            raise refused(
                f"{word}: the nodes {' and '.join(names)} have leases with it; give the name of one"
            )
        name = names[0] if names else ""
    # An address of a former lease may be another node's now, which its mark would keep away.
    others = {lease.public_ip for lease in leases if name and lease.node_name not in {"", name}}
    mine = {lease.public_ip for lease in leases if name and lease.node_name == name}
    return _Node(word, frozenset((mine if address is None else mine | {address}) - others), name)


def _reported(settings: Settings, name: str) -> int:
    """The PublicIP of the agent that reports this host name."""

    async def reading(store: SubnetStore) -> list[int]:
        found = []
        for entry in (await store.entries()).entries:
            with contextlib.suppress(NetstoreError, ValueError):  # plugin status tells it
                if parse_report(entry.value or "").node == name:
                    found.append(parse_ip(entry.name))
        return found

    found = settings.ask_network(reading, REPORTS)
    if not found:
        raise Failure(
            Exit.NOT_FOUND, f"{name}: no lease and no agent has this name; see subnet ls and plugin status"
        )
    if len(found) > 1:
        raise refused(f"{name}: {len(found)} nodes have this name; give the address of one")
    return found[0]


def _held(records: Sequence[Record], holder: str, settings: Settings) -> Record:
    """The one lease of a node, or of a subnet."""
    try:
        address = parse_ip(holder)
    except ValueError:
        name = record_name(holder)
        found = [record for record in records if record.name == name]
        if not found:
            found = [record for record in records if record.lease and record.lease.node_name == holder]
    else:
        found = [record for record in records if record.lease and record.lease.public_ip == address]
    if not found:
        raise Failure(Exit.NOT_FOUND, f"{settings.key('subnets')}: {holder} is not there; see subnet ls")
    if len(found) > 1:
        named = " and ".join(record.subnet for record in found)
        raise refused(f"{holder}: holds {named}; name the subnet that is to be left, or release one")
    return found[0]


def _lease(record: Record) -> SubnetLease:
    if record.lease is None:
        raise refused(f"{record.name}: is no lease ({'; '.join(record.problems)}); release it")
    return record.lease


def _table(records: Sequence[Record]) -> Table:
    return Table(HEADINGS, [record.row() for record in records])
