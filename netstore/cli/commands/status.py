"""`netstorectl status`: a summary of the endpoints, the network and its leases."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import click

from netstore.cli.commands.failures import Exit, Failure, failure_of, refused
from netstore.cli.commands.invocation import Settings, columns
from netstore.cli.commands.leases import require_leases, survey
from netstore.cli.commands.member import asked_at, leader_of
from netstore.cli.commands.network import checked
from netstore.cli.commands.options import Command, pass_settings
from netstore.cli.output import Form, Table, document, emit, plain, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.cli.commands.leases import Record
    from netstore.client.cluster import MemberRecord
    from netstore.client.subnetstore import Entry, SubnetStore
    from netstore.client.v2 import ClusterMember, V2Client


@dataclass(slots=True)
class Endpoint:
    """The state of one endpoint; None: not reported."""

    endpoint: str
    healthy: bool = False
    reached: bool = False
    """Whether a store answered there at all."""
    version: str | None = None
    etcd_version: str | None = None
    cluster_version: str | None = None
    member: str | None = None
    role: str | None = None
    leader: str | None = None
    """The id of the member that leads."""
    milliseconds: float | None = None
    problems: tuple[str, ...] = ()
    backup: dict[str, object] | None = None
    """Scheduled backups, as the member tells them; None: there are none."""
    archive: dict[str, object] | None = None
    """The archive of its log, as the member tells it; None: there is none."""
    id: str | None = None
    members: Sequence[MemberRecord] = ()
    """All members of its cluster, as it knows them."""


@dataclass(slots=True)
class NetworkState:
    """The state of the network in the store."""

    prefix: str
    config: str
    api: str | None = None
    """The API of the store that keeps it."""
    network: str | None = None
    backend: str | None = None
    leases: int | None = None
    reservations: int | None = None
    bad_leases: int | None = None
    problems: tuple[str, ...] = ()
    failure: Failure | None = None
    """Why it could not be read."""
    records: Sequence[Record] = ()


@click.command(cls=Command)
@pass_settings
def status(settings: Settings) -> None:
    """Show health, version and latency of each endpoint, and the state of the network.

    Exit status 4 if an endpoint is not healthy or the network could not be read, 1 if its config cannot be
    used or a record of its subnets is no lease.
    """
    endpoints = settings.run(partial(_look_at_all, settings))
    if not any(seen.reached for seen in endpoints):
        network = NetworkState(settings.key(), "unknown")
    else:
        network = _network(settings)
    emit(_drawn(settings.form, endpoints, network))
    sick = [seen for seen in endpoints if not seen.healthy]
    if sick:
        raise Failure(Exit.UNAVAILABLE, "; ".join(f"{seen.endpoint}: {_joined(seen)}" for seen in sick))
    if network.failure is not None:
        raise network.failure
    if network.config == "invalid":
        raise refused(f"{settings.key('config')}: {_joined(network)}")
    require_leases(network.records)


async def _look_at_all(settings: Settings) -> list[Endpoint]:
    import trio  # noqa: PLC0415 - see Settings.run

    endpoints = [Endpoint(address) for address in settings.addresses()]
    clients = [settings.client(seen.endpoint) for seen in endpoints]  # a `Failure` comes out of no nursery
    async with trio.open_nursery() as nursery:
        for client, seen in zip(clients, endpoints, strict=True):
            nursery.start_soon(_look_at, client, seen)
    await _look_for_silent(settings, endpoints)
    return endpoints


async def _look_for_silent(settings: Settings, endpoints: Sequence[Endpoint]) -> None:
    """Add which voters do not answer: what the leader knows of that, or where a member says that there is
    none, which members cannot be reached from here. It is told with the leader, or with the first endpoint
    that names the others.
    """
    import trio  # noqa: PLC0415 - see Settings.run

    from netstore.client.cluster import ClusterClient  # noqa: PLC0415 - same
    from netstore.client.faults import ClientError  # noqa: PLC0415 - same

    able = [seen for seen in endpoints if seen.role is not None and seen.members]
    if not able:
        return  # not even whether there is a leader is known
    telling = next((seen for seen in able if seen.role == "leader"), None)
    if telling is None:
        telling = able[0]
        if not any(seen.leader for seen in endpoints):
            reached = {seen.id for seen in endpoints if seen.reached}
            if None in reached:
                return  # it may be any of them
            lost: dict[str, str] = {}
            async with trio.open_nursery() as nursery:
                for each in telling.members:
                    if each.role != "learner" and each.id not in reached:
                        nursery.start_soon(_reach, settings, each, lost)
            telling.problems += tuple(lost[each.id] for each in telling.members if each.id in lost)
            return
        leader = leader_of(telling.members)
        if leader is None:
            return
        try:
            async with asked_at(settings, leader).client() as client:
                telling.members = await ClusterClient(client.transport).members()
        except (ClientError, Failure):
            return  # it leads, and may be reached by its members only
    telling.problems += tuple(
        f"voter {each.name or each.id} does not answer"
        for each in telling.members
        if each.role != "learner" and each.active is False
    )


async def _reach(settings: Settings, member: MemberRecord, lost: dict[str, str]) -> None:
    """Put into `lost` that a member does not answer at its client URLs, if so."""
    from netstore.client.faults import ClientError, Unreachable  # noqa: PLC0415 - see Settings.run

    what = f"{'voter' if member.role == 'voter' else 'member'} {member.name or member.id}"
    told = ", ".join(member.client_urls)
    if not told:
        lost[member.id] = f"{what} has told no address, and may not run"
        return
    try:
        async with asked_at(settings, member, with_user=False).client() as client:
            await client.version()
    except Failure:
        lost[member.id] = f"{what} cannot be asked from here at {told}"
    except Unreachable:
        lost[member.id] = f"{what} is not reached from here at {told}"
    except ClientError:
        return  # there is something that answers


async def _look_at(client: V2Client, seen: Endpoint) -> None:
    import trio  # noqa: PLC0415 - see Settings.run

    from netstore.client.cluster import ClusterClient, MemberRecord  # noqa: PLC0415 - same
    from netstore.client.faults import ClientError  # noqa: PLC0415 - same

    async with client:
        try:
            version = await client.version()
            seen.reached = True
            seen.etcd_version, seen.cluster_version = version.get("etcdserver"), version.get("etcdcluster")
            # The connection exists by now: this measures the round trip and a round of the cluster.
            start = trio.current_time()
            told = await client.health()
            seen.milliseconds = round(1000 * (trio.current_time() - start), 1)
        except ClientError as error:
            seen.problems = (failure_of(error, named=True).text,)
            return
        seen.healthy = told.get("health") == "true"
        if not seen.healthy:
            seen.problems = (told.get("reason") or "says that it is not healthy",)
        # What fails from here on is not reported: an etcd may have no members API, or none of v3.
        with suppress(ClientError):
            listed = await client.members()
            seen.members = [
                MemberRecord(each.id, each.name, each.peer_urls, each.client_urls, "") for each in listed
            ]
            member = _member_at(listed, seen.endpoint)
            if member is not None:
                seen.id, seen.member = member.id, member.name or member.id
        with suppress(ClientError):
            cluster = ClusterClient(client.transport)
            standing = await cluster.status()
            seen.version, seen.role, seen.leader = standing.version, standing.role, standing.leader or None
            seen.member = standing.name or seen.member or standing.id
            seen.id = standing.id
            told_of = standing.problems
            if standing.archive is not None:
                seen.archive = standing.archive.content
            if standing.backup is not None:
                seen.backup = standing.backup.content
                told_of += standing.backup.warnings  # earlier releases tell them here only
            known = "; ".join(seen.problems).lower()
            seen.problems += tuple(each for each in dict.fromkeys(told_of) if each.lower() not in known)
            seen.members = await cluster.members()


def _member_at(members: Sequence[ClusterMember], address: str) -> ClusterMember | None:
    """The member of an endpoint: by the published client URLs, or because there is only one member."""
    published = [member for member in members if address in member.client_urls]
    return (published or list(members))[0] if len(members) == 1 or published else None


def _network(settings: Settings) -> NetworkState:
    state = NetworkState(settings.key(), "absent")

    async def reading(store: SubnetStore) -> tuple[str, Entry | None, Sequence[Entry]]:
        return store.api, await store.config(), (await store.entries()).entries

    try:
        state.api, config, entries = settings.ask_network(reading)
    except Failure as failure:
        state.config, state.problems, state.failure = "unknown", (failure.text,), failure
        return state
    network = None
    if config is not None:
        network, problem = checked((config.value or "").encode())
        state.problems = () if problem is None else (problem,)
        state.config = "invalid" if network is None else "valid"
    if network is not None:
        state.network, state.backend = str(network.network), network.backend_type
    state.records = records = survey(entries, network, settings.key("subnets"))
    state.leases = sum(record.lease is not None and not record.reserved for record in records)
    state.reservations = sum(record.reserved for record in records)
    state.bad_leases = sum(bool(record.problems) for record in records)
    return state


def _content(seen: Endpoint | NetworkState) -> dict[str, object]:
    """A JSON document: the fields in camel case, as in the v2 API."""
    return {
        re.sub("_([a-z])", lambda letter: letter[1].upper(), name): getattr(seen, name)
        for name in (each.name for each in fields(seen))
        if name not in ("reached", "failure", "records", "id", "members")
    }


def _joined(seen: Endpoint | NetworkState) -> str | None:
    return "; ".join(seen.problems) or None


def _drawn(form: Form, endpoints: Sequence[Endpoint], network: NetworkState) -> str:
    if form is Form.JSON:
        return document({"endpoints": [_content(seen) for seen in endpoints], "network": _content(network)})
    asked = [
        (
            seen.endpoint,
            ("healthy" if seen.healthy else "unhealthy") if seen.reached else "unreachable",
            seen.version or seen.etcd_version,
            seen.member,
            seen.role,
            None if seen.milliseconds is None else f"{seen.milliseconds:.1f}",
            _joined(seen),
        )
        for seen in endpoints
    ]
    stored = [
        (
            network.prefix,
            network.config,
            network.api,
            network.network,
            network.backend,
            network.leases,
            network.reservations,
            network.bad_leases,
            _joined(network),
        )
    ]
    if form is Form.PLAIN:
        return plain([("endpoint", *row) for row in asked] + [("network", *row) for row in stored])
    width = columns()
    first = Table(("ENDPOINT", "HEALTH", "VERSION", "MEMBER", "ROLE", "MS", "PROBLEM"), asked)
    second = Table(
        ("PREFIX", "CONFIG", "API", "NETWORK", "BACKEND", "LEASES", "RESERVED", "BAD", "PROBLEM"), stored
    )
    return f"{table(first, columns=width)}\n{table(second, columns=width)}"
