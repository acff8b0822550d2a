"""`netstorectl network migrate`: change the backend, its options or the range of addresses while nodes run.

The rules are those of `network.migration`. All that is known is in the store, so a command that was
interrupted, or whose store was away, is followed by another one that goes on.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import click
import msgspec

from netstore.cli.commands.failures import Failure, refused
from netstore.cli.commands.invocation import Settings, index_of, say, text_of, warn
from netstore.cli.commands.leases import Record
from netstore.cli.commands.network import admitted_for, document_given, judged, source_argument
from netstore.cli.commands.options import HELP_OPTIONS, Group, pass_settings
from netstore.cli.commands.subnetmoves import LOOK_SECONDS, wait_option
from netstore.cli.output import Table
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.allocator import free_subnets
from netstore.network.config import NetworkConfigError, parse_network
from netstore.network.lease import SubnetLease, parse_lease
from netstore.network.migration import (
    FOLDER,
    PLAN,
    Advance,
    Change,
    Over,
    Phase,
    Plan,
    Told,
    Waiting,
    change_of,
    encode_plan,
    left_behind,
    next_step,
    overlapping,
    parse_part,
    parse_plan,
    unable,
)
from netstore.network.pluginreport import FOLDER as REPORTS
from netstore.network.pluginreport import parse_report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from netstore.client.subnetstore import Entry, SubnetStore
    from netstore.network.config import Network

T = TypeVar("T")

WAIT_SECONDS: Final = 60.0

NAMED_NODES: Final = 8
"""How many nodes a refusal names with their reasons; the rest is counted."""

DOING: Final = {
    Phase.PREPARE: "nodes prepare the new side",
    Phase.RECEIVE: "nodes receive by both configs",
    Phase.CANARY: "the canaries send by the new config",
    Phase.SEND: "all nodes send by the new config",
    Phase.FINISH: "the config is written, nodes write their leases anew",
    Phase.DONE: "done; the old side is taken away",
    Phase.REVERT: "nodes send by the old config again",
    Phase.ABORTED: "nodes send as before; the new side is taken away",
}

HEADINGS: Final = ("ADDRESS", "NODE", "ROLE", "PHASE", "RECEIVES", "SENDS", "PROBLEM")


class Stores(NamedTuple):
    """The folders of one network: its leases and config, the plan with its parts, the agents' reports."""

    network: SubnetStore
    plans: SubnetStore
    reports: SubnetStore


class Seen(NamedTuple):
    """What the store has: the plan and its entry's index, what nodes told in it, the config and its index,
    the PublicIPs of the nodes that hold leases, these leases with their entries, and the names of the
    reservations.
    """

    plan: Plan | None
    modified: int
    told: Mapping[str, Told]
    config: str | None
    config_index: int
    holders: Sequence[str]
    leases: Sequence[tuple[SubnetLease, Entry]]
    reserved: Sequence[str]


class _Migrate(Group):
    """Its first word may be a file instead of a verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not any(word in self.commands or word in HELP_OPTIONS for word in args):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Migrate)
def migrate() -> None:
    """Change the network while it runs: `migrate FILE`, or a verb. Nodes go to the new config together, and
    none sends to another by it before that one receives by it.
    """


def _nodes(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """Nodes given one by one, or with commas."""
    return tuple(dict.fromkeys(each.strip() for word in words for each in word.split(",") if each.strip()))


_without = click.option(
    "--without",
    multiple=True,
    callback=_nodes,
    metavar="NODE[,NODE...]",
    help="Do not wait for these nodes, which are dead. They lose the network if they are not.",
)

_wait = wait_option(WAIT_SECONDS, "How long the next node may take.")


@migrate.command()
@click.option(
    "--canary",
    multiple=True,
    callback=_nodes,
    metavar="NODE[,NODE...]",
    help="Nodes that send by the new config before all others do.",
)
@_without
@_wait
@click.option("--dry-run", is_flag=True, help="Check config and nodes, and change nothing.")
@source_argument
@pass_settings
def start(
    settings: Settings,
    source: str | None,
    *,
    canary: tuple[str, ...],
    without: tuple[str, ...],
    wait: float,
    dry_run: bool,
) -> None:
    """Migrate to the config in FILE, or go on with the migration to it that is under way.

    Every node receives by both configs before one sends by the new one, the canaries first; then the config
    is written, and the old side goes. A node that is not ready in time stops it, and is named; all traffic
    goes on meanwhile. NODE is the address that a node publishes, or its host name.
    """
    text = document_given(source)
    document = text_of(text, "config")
    warnings, problem = judged(text, admitted_for(settings, text))
    if problem is not None:
        raise refused(problem)
    for remark in warnings:
        warn(remark)
    names = _names(settings)
    canaries, left_out = _addresses(canary, names), _addresses(without, names)

    async def beginning(stores: Stores) -> tuple[Plan, Seen]:
        seen = await _look(stores)
        plan = seen.plan
        if plan is not None and not plan.phase.is_over:
            if not _is_same(plan.new, document) or plan.phase is Phase.REVERT:
                back = ", or end it with `network migrate abort`" if plan.phase.can_revert else ""
                raise refused(
                    f"another migration is under way, in the phase {plan.phase}; go on with it{back}"
                )
            if set(canaries) - set(plan.canaries):
                raise refused(
                    f"--canary: chosen when the migration began ({_listed(plan.canaries) or 'none'}); leave"
                    " it out to go on"
                )
            plan = msgspec.structs.replace(plan, without=_joined(plan.without, left_out))
            return plan, seen
        plan = _planned(settings, seen, document, (canaries, left_out), set(names))
        await _check_leases(stores, seen, plan)
        return plan, seen

    plan, seen = _ask(settings, beginning)
    if dry_run:
        _show(settings, plan, seen, names)
        return

    async def carrying_out(stores: Stores) -> Seen:
        if plan != seen.plan:
            await _write(stores, plan, seen)
        return await _drive(stores, plan.id, wait, Phase.DONE)

    _show(settings, None, _ask(settings, carrying_out), names)


@migrate.command()
@_without
@_wait
@pass_settings
def abort(settings: Settings, *, without: tuple[str, ...], wait: float) -> None:
    """Roll the migration back that is under way: all nodes send by the old config, then the new side goes.

    It can be rolled back until the new config is written; from then on, another migration leads back.
    """
    names = _names(settings)
    left_out = _addresses(without, names)

    async def aborting(stores: Stores) -> Seen:
        seen = await _look(stores)
        plan = seen.plan
        if plan is None or plan.phase.is_over:
            raise refused("no migration is under way; there is nothing to abort")
        if plan.phase is Phase.FINISH:
            raise refused(
                "the new config is written already; let the migration end (`network migrate FILE` again), and"
                " migrate back"
            )
        wanted = msgspec.structs.replace(plan, phase=Phase.REVERT, without=_joined(plan.without, left_out))
        if wanted != plan:
            await _write(stores, wanted, seen)
        return await _drive(stores, plan.id, wait, Phase.ABORTED)

    _show(settings, None, _ask(settings, aborting), names)


@migrate.command()
@pass_settings
def status(settings: Settings) -> None:
    """Show the migration that is under way, or the last one, and what each node has told."""
    names = _names(settings)
    seen = _ask(settings, _look)
    if seen.plan is None:
        say("no migration is under way")
    _show(settings, None, seen, names)


def _ask(settings: Settings, action: Callable[[Stores], Awaitable[T]]) -> T:
    """Run calls to the three folders of the network."""

    async def conversation() -> T:
        async with settings.access() as access:
            try:
                network = await access.choose_or_begin()
                settings.store_api = network.api  # further calls go to the same
                plans = await access.store(network.api, FOLDER)
                reports = await access.store(network.api, REPORTS)
                return await in_words(action, Stores(network, plans, reports))
            except (NetstoreError, Failure, OSError) as error:
                fault = error  # raised within, it would come out of a nursery in a group
        raise fault

    return settings.run(conversation)


async def in_words(action: Callable[[Stores], Awaitable[T]], stores: Stores) -> T:
    """Do it. What is wrong with plan or config is a `Failure`."""
    from netstore.client.faults import ClientError  # noqa: PLC0415 - see Settings.run

    try:
        return await action(stores)
    except ClientError:
        raise
    except NetstoreError as error:
        raise refused(str(error)) from None


async def _look(stores: Stores) -> Seen:
    """Read everything: the leases last, so that the holder of one whose part is read is there."""
    config = await stores.network.config()
    listing = await stores.plans.entries()
    plan, modified, told = None, 0, {}
    for entry in listing.entries:
        if entry.name == PLAN:
            plan, modified = parse_plan(entry.value), entry.modified
    for entry in listing.entries:
        if entry.name == PLAN or plan is None:
            continue
        try:
            part = parse_part(entry.value)
        except NetstoreError:
            continue  # its node is waited for
        if part.plan == plan.id:
            told[entry.name] = Told(part, entry.created)
    leases: list[tuple[SubnetLease, Entry]] = []
    reserved: list[str] = []
    for entry in (await stores.network.entries()).entries:
        lease = parse_lease(entry.name, entry.value)
        if isinstance(lease, SubnetLease) and (entry.ttl is not None or lease.backend_type):
            leases.append((lease, entry))
        if entry.ttl is None:
            reserved.append(entry.name)
    holders = sorted({show_ip(lease.public_ip) for lease, _ in leases})
    text, index = (None, 0) if config is None else (config.value, config.modified)
    return Seen(plan, modified, told, text, index, holders, leases, reserved)


def _planned(
    settings: Settings,
    seen: Seen,
    document: str,
    chosen: tuple[tuple[str, ...], tuple[str, ...]],
    able: set[str],
) -> Plan:
    """A new plan; `Failure` if it cannot be carried out."""
    key = settings.key("config")
    if seen.config is None:
        raise refused(f"{key}: there is no config to migrate from; write one with `network set`")
    try:
        old, new = (parse_network(text.encode()) for text in (seen.config, document))
        change = change_of(old, new)
    except NetworkConfigError as error:
        raise refused(f"netstore-agent cannot use it: {error}") from None
    except NetstoreError as error:
        raise refused(str(error)) from None
    canaries, without = chosen
    for what, nodes in (("--canary", canaries), ("--without", without)):
        for node in nodes:
            if node not in seen.holders:
                raise refused(f"{what} {node}: no such node holds a lease; see subnet ls")
    if both := set(canaries) & set(without):
        raise refused(f"--canary {min(both)}: it is left out with --without")
    if strangers := unable(seen.holders, able, without):
        raise refused(
            f"{_listed(strangers)}: no report of a netstore-agent that follows migrations; flanneld never"
            " does, and an agent reports within ten seconds of its start: replace flanneld, or leave a dead"
            " node out with --without"
        )
    if change is Change.RANGE:
        _check_range(seen, new)
    return Plan(secrets.token_hex(8), Phase.PREPARE, change, seen.config, document, canaries, without)


def _check_range(seen: Seen, new: Network) -> None:
    """`Failure` if nodes cannot go to the new range."""
    if seen.reserved:
        raise refused(
            f"{_listed(seen.reserved)}: reserved, and an agent leaves no reservation; release it, or reserve"
            " a subnet of the new range later"
        )
    if (pair := overlapping(lease for lease, _ in seen.leases)) is not None:
        one, other = (f"{each.subnet} of {show_ip(each.public_ip)}" for each in pair)
        raise refused(f"{one} overlaps {other}; release one of them with `netstorectl subnet release`")
    for lease, _ in seen.leases:
        if new.network.holds(lease.public_ip):
            raise refused(f"Network: {new.network} contains the node {show_ip(lease.public_ip)}")
    staying = {show_ip(lease.public_ip) for lease, _ in seen.leases if new.fits(lease.subnet)}
    needed = len(set(seen.holders) - staying)
    free = free_subnets(new, [lease.subnet for lease, _ in seen.leases], needed)
    if len(free) < needed:
        raise refused(
            f"Network: {needed} nodes need a subnet each beside those that they hold, and"
            f" {len(free)} are free in the new config; choose a larger range"
        )
    if new.ipv6 is not None:
        taken6 = [lease.subnet6 for lease, _ in seen.leases if lease.subnet6 is not None]
        if (count := len(free_subnets(new.ipv6, taken6, needed))) < needed:
            raise refused(
                f"IPv6Network: {needed} nodes need a subnet each beside those that they hold, and {count} are"
                " free; `netstorectl subnet release` frees those that no pod uses"
            )


async def _check_leases(stores: Stores, seen: Seen, plan: Plan) -> None:
    """`Failure` if the network would not serve a lease after the migration: pods may have its addresses."""
    old, new = (parse_network(text.encode()) for text in (plan.old, plan.new))
    entries = {lease: entry for lease, entry in seen.leases if show_ip(lease.public_ip) not in plan.without}
    found = left_behind(entries, old, new)
    if not found:
        return
    node, leases = next(iter(found.items()))
    timed = await stores.network.timed([entries[lease] for lease in leases])
    records = [Record("", entry, lease, ()) for entry, lease in zip(timed, leases, strict=True)]
    held = " and ".join(f"{each.subnet} (until {each.expires or 'it is released'})" for each in records)
    more = f"; so it is with {len(found) - 1} more nodes" if len(found) > 1 else ""
    raise refused(
        f"{node} holds {held}, and writes only the lease anew that it uses under the present config: if there"
        f" are pods with addresses of another, they would lose their routes{more}. Start such pods again;"
        " when no pod uses it, remove the lease with `netstorectl subnet release`, or wait until it ends"
    )


def _is_same(one: str, other: str) -> bool:
    """Whether two documents have the same content, in whatever spelling."""
    return bool(msgspec.json.decode(one) == msgspec.json.decode(other))


def _addresses(words: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The PublicIPs of nodes that are given by it, or by host name."""
    by_name: dict[str, list[str]] = {}
    for address, name in names.items():
        by_name.setdefault(name, []).append(address)
    found = []
    for word in words:
        mine = by_name.get(word, [word])
        if len(mine) > 1:
            raise refused(f"{word}: {len(mine)} nodes have this name; give the address of one")
        found.append(mine[0])
    return tuple(dict.fromkeys(found))


def _names(settings: Settings) -> dict[str, str]:
    """The host names of the nodes whose agents follow migrations, by PublicIP."""

    async def reading(stores: Stores) -> dict[str, str]:
        found = {}
        for entry in (await stores.reports.entries()).entries:
            try:
                report = parse_report(entry.value or "")
            except NetstoreError:
                continue  # plugin status tells it
            if report.migrates:
                found[entry.name] = report.node
        return found

    return _ask(settings, reading)


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


async def _write(stores: Stores, plan: Plan, seen: Seen) -> None:
    """Write the plan in the place of the one that was seen."""
    text = encode_plan(plan)
    if seen.modified:
        found = await stores.plans.replace(PLAN, text, seen.modified, None)
    else:
        found = await stores.plans.create(PLAN, text, None)
    if index_of(found) is None:
        raise refused("somebody else has changed the plan just now; look at it with `network migrate status`")


async def _drive(stores: Stores, plan_id: str, wait: float, end: Phase) -> Seen:
    """Move the plan on until it is over. `Failure` names the nodes that are not ready in time, and says if
    somebody else has led it to another end.
    """
    import trio  # noqa: PLC0415 - see Settings.run

    from netstore.client.faults import ClientError  # noqa: PLC0415 - same

    phase: Phase | None = None
    nodes: dict[str, str] = {}
    until = trio.current_time() + wait
    while True:
        try:
            seen = await _look(stores)
            plan = seen.plan
            if plan is None or plan.id != plan_id:
                raise refused("the plan was removed by somebody else; see `network migrate status`")
            if plan.phase is not phase:
                say(f"{plan.phase}: {DOING[plan.phase]}")
                phase, until = plan.phase, trio.current_time() + wait
            step = next_step(plan, seen.told, seen.holders, seen.config)
            if isinstance(step, Over):
                if plan.phase is not end:
                    raise refused(f"somebody else has ended the migration; it is {plan.phase}")
                return seen
            if isinstance(step, Advance):
                after = encode_plan(msgspec.structs.replace(plan, phase=step.phase))
                await stores.plans.replace(PLAN, after, seen.modified, None)  # if it differs, it is seen next
            elif not isinstance(step, Waiting):
                await stores.network.write_config(plan.new, seen.config_index)
            elif len(step.nodes) < len(nodes) or not nodes:
                until = trio.current_time() + wait
            nodes = step.nodes if isinstance(step, Waiting) else {}
        except ClientError:  # a leader that died is followed by another one
            if trio.current_time() > until:
                raise
        if nodes and phase is not None and trio.current_time() > until:
            raise refused(_late(nodes, phase, wait))
        await trio.sleep(LOOK_SECONDS)


def _late(nodes: Mapping[str, str], phase: Phase, wait: float) -> str:
    reasons = "; ".join(f"{node}: {reason}" for node, reason in list(nodes.items())[:NAMED_NODES])
    more = f"; and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    back = ", or roll back with `network migrate abort`" if phase.can_revert else ""
    return (
        f"stopped in the phase {phase}, in which all traffic goes on: not ready within {wait:g} s are"
        f" {reasons}{more}. Give the command again to go on, with --without for nodes that are dead{back}"
    )


def _listed(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    return f"{', '.join(nodes[:NAMED_NODES])}{more}"


def _show(settings: Settings, planned: Plan | None, seen: Seen, names: Mapping[str, str]) -> None:
    """Print the plan, and a row for each node."""
    plan = planned or seen.plan
    told = seen.told if planned is None or planned == seen.plan else {}
    rows: list[tuple[str | None, ...]] = []
    nodes = []
    newest = max((each.created for each in told.values()), default=0)
    for node in sorted({*seen.holders, *told}) if plan is not None else ():
        part = told[node].part if node in told else None
        role = "canary" if plan and node in plan.canaries else None
        role = "left out" if plan and node in plan.without else role
        receives = part is not None and part.receives >= newest
        sends = part is not None and part.sends >= newest
        phase = None if part is None else str(part.phase)
        problem = None if part is None else part.problem or None
        yes = {True: "yes", False: "no"}
        rows.append((node, names.get(node), role, phase, yes[receives], yes[sends], problem))
        nodes.append(
            {
                "address": node,
                "node": names.get(node),
                "role": role,
                "phase": phase,
                "receives": receives,
                "sends": sends,
                "problem": problem,
            }
        )
    document = None
    if plan is not None:
        document = {
            "id": plan.id,
            "phase": str(plan.phase),
            "change": str(plan.change),
            "old": plan.old,
            "new": plan.new,
            "canaries": list(plan.canaries),
            "without": list(plan.without),
        }
        if planned is None and seen.plan is not None:
            say(f"{plan.phase}: {DOING[plan.phase]}")
    settings.show({"plan": document, "nodes": nodes}, Table(HEADINGS, rows))
