"""The store: which endpoint serves which API, its clock, the network config and the leases in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from netstore.cli.checks.finding import absent, ok, unknown, warning, wrong
from netstore.cli.commands.failures import Exit, Failure, failure_of
from netstore.cli.commands.leases import survey
from netstore.cli.commands.member import asked_at, leader_of
from netstore.cli.commands.points import shown_instant
from netstore.client.cluster import ClusterClient
from netstore.client.faults import BadAnswer, ClientError
from netstore.client.storeapi import V2, V3, StoreAccess
from netstore.errors import NetstoreError
from netstore.network.config import parse_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from netstore.cli.checks.finding import Finding
    from netstore.cli.commands.invocation import Settings
    from netstore.cli.commands.leases import Record
    from netstore.client.cluster import MemberRecord, MemberStatus
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.config import Network

DRIFT_SECONDS: Final = 2.0
"""A Date header has whole seconds, so less than that is not seen for certain."""

FAR_SECONDS: Final = 60.0
NAMED: Final = 3
"""How many records with a problem are named; the rest is counted."""


@dataclass(slots=True)
class Known:
    """What the store holds of the network, as far as it could be read."""

    findings: list[Finding] = field(default_factory=list)
    network: Network | None = None
    records: list[Record] | None = None
    """None if they could not be read."""
    is_unneeded: bool = False
    """There is no network, and nothing here or in the store needs one."""


async def look(settings: Settings, *, has_agent: bool) -> Known:
    """Ask every endpoint, then the store for the network. `has_agent`: this machine has an agent, which needs
    one.
    """
    known = Known()
    for endpoint in settings.addresses():
        known.findings += await _endpoint(settings, endpoint)
    known.findings += await _members(settings)
    try:
        access = settings.access()
        async with access:
            try:
                await _network(settings, access, known, has_agent=has_agent)
            except NetstoreError as error:
                advice = _advice([error], "check --endpoints and --store-api")
                known.findings.append(unknown("network", str(error), advice))
    except OSError as error:
        known.findings.append(unknown("network", error.strerror or str(error), "check --endpoints"))
    return known


async def _endpoint(settings: Settings, endpoint: str) -> list[Finding]:
    findings: list[Finding] = []
    subject = f"store {endpoint}"
    async with settings.client(endpoint) as client:
        began = time.time()
        try:
            async with client.transport.request("GET", "/version", write=False) as response:
                date, ended = response.header("date"), time.time()
                await response.body()
        except ClientError as error:
            return [wrong(subject, str(error), "check --endpoints, certificates, and that the store runs")]
    findings.append(clock(endpoint, date, began, ended))
    failed: dict[str, NetstoreError] = {}
    for api in (V2, V3):
        access = StoreAccess(settings.connection((endpoint,)), settings.key(), api)
        async with access:
            try:
                await (await access.store(api)).config()
            except NetstoreError as error:
                failed[api] = error
    if len(failed) == len((V2, V3)):
        told = "; ".join(f"{api}: {error}" for api, error in failed.items())
        advice = _advice(failed.values(), "check --endpoints, and whether it is a store")
        findings.append(wrong(subject, told, advice))
    elif failed:
        served, lost = (V3, V2) if V2 in failed else (V2, V3)
        findings.append(ok(subject, f"serves {served}, not {lost}"))
    else:
        findings.append(ok(subject, f"serves {V2} and {V3}"))
    return findings + await _standing(settings, endpoint)


def _advice(errors: Iterable[NetstoreError], otherwise: str) -> str:
    """What to do about calls that failed at a store; `otherwise` if none of them says why."""
    failed = [error for error in errors if isinstance(error, ClientError)]
    if any(failure_of(error).status is Exit.REFUSED for error in failed):
        return "check --username and its password"
    if any(not isinstance(error, BadAnswer) for error in failed):
        return "does a majority of the voters run? start the other members"
    return otherwise


async def _members(settings: Settings) -> list[Finding]:
    """What the leader knows of the voters; nothing if it cannot be asked."""
    try:
        async with settings.client() as client:
            members = await ClusterClient(client.transport).members()
        leader = leader_of(members)
        if leader is not None and all(each.active is None for each in members):
            async with asked_at(settings, leader).client() as client:
                members = await ClusterClient(client.transport).members()
    except (ClientError, Failure):
        return []  # what an endpoint does not answer is a finding of its own
    return list(voters(members))


def voters(members: Sequence[MemberRecord]) -> Iterator[Finding]:
    """Voters that do not answer, or have no whole state yet; nothing where the answer does not tell."""
    voting = [each for each in members if each.role != "learner"]
    silent = [each.name or each.id for each in voting if each.active is False]
    copying = [
        each.name or each.id
        for each in voting
        if each.active is not False and each.behind is not None and each.behind.sent_bytes is not None
    ]
    if silent:
        told = f"voters that do not answer: {', '.join(silent)} (of {len(voting)})"
        advice = "start them; one that is lost is replaced with member rm, and a new member with --join"
        yield warning("members", told, advice)
    if copying:
        told = f"voters that are being sent the state: {', '.join(copying)} (of {len(voting)})"
        yield warning("members", told, "wait for them before another member is stopped")
    if not silent and not copying and any(each.active for each in voting):
        yield ok("members", f"{len(voting)} voters answer")


async def _standing(settings: Settings, endpoint: str) -> list[Finding]:
    """What the member at an endpoint says of itself, of its archive and of its backups."""
    async with settings.client(endpoint) as client:
        try:
            told = await ClusterClient(client.transport).status()
        except ClientError:
            return []  # an etcd without a gateway, or one that asks for more rights
    return list(standing(endpoint, told))


def standing(endpoint: str, told: MemberStatus) -> Iterator[Finding]:
    """What a member's status says: its problems, and whether its log is archived and backups are made."""
    archive, backup = told.archive, told.backup
    elsewhere = (archive.problems if archive else ()) + (backup.warnings if backup else ())
    of_store = [problem for problem in told.problems if problem not in elsewhere]

    def found(judge: Callable[[str, str, str], Finding], subject: str, problem: str) -> Finding:
        fix = told.fixes.get(problem, "")
        text = problem.removesuffix(f": {fix}")
        return judge(subject, text, fix or "see its log: an earlier release tells no more")

    for problem in of_store:
        yield found(wrong, f"store {endpoint}", problem)
    if archive is not None:
        subject = f"archive {endpoint}"
        judge = wrong if archive.stopped else warning
        for problem in archive.problems:
            yield found(judge, subject, problem)
        if archive.stopped is None and of_store:
            words = "an earlier release tells what is wrong with it among the problems of the store"
            yield unknown(subject, words, "see these, and upgrade the member")
        elif not archive.problems:
            oldest = shown_instant(archive.oldest_unix_nanos or 0, up=True)
            since = f", leads back to {oldest}" if oldest else ""
            yield ok(subject, f"has the log up to entry {archive.last_index}{since}")
    if backup is not None:
        subject = f"backup {endpoint}"
        for problem in backup.warnings:
            yield found(wrong, subject, problem)
        if not backup.warnings:
            last = f"the last one is {backup.last_file}" if backup.last_file else "none yet"
            yield ok(subject, f"every {backup.every_seconds:g} s; {last}")


def clock(endpoint: str, date: str, began: float, ended: float) -> Finding:
    """How far this machine's clock is from that of an endpoint, which sent this Date header (RFC 9110, 6.6.1)
    between two moments of this machine's clock.
    """
    subject = "clock"
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return unknown(subject, f"{endpoint} tells no time", "compare the clocks by hand: timedatectl")
    # It was sent in [told, told + 1), whole seconds being cut off.
    drift = began - (told + 1) if began > told + 1 else ended - told if ended < told else 0.0
    text = f"{abs(drift):.0f} s {'ahead of' if drift > 0 else 'behind'} {endpoint}"
    if abs(drift) >= FAR_SECONDS:
        return wrong(subject, text, "set the clocks, by NTP: certificates may be refused")
    if abs(drift) >= DRIFT_SECONDS:
        return warning(subject, text, "set the clocks, by NTP")
    return ok(subject, f"within {DRIFT_SECONDS:g} s of {endpoint}")


async def _network(settings: Settings, access: StoreAccess, known: Known, *, has_agent: bool) -> None:
    store = await access.choose_or_begin()
    entry = await store.config()
    key = settings.key("config")
    if entry is None or entry.value is None:
        told, advice = f"{key}: there is none", "write one with network set"
        if has_agent or (await store.entries()).entries:
            known.findings.append(wrong("network", told, advice))
        else:  # a store of Kubernetes alone needs none
            known.is_unneeded = True
            known.findings.append(absent("network", f"{told}; if nodes are to have subnets, {advice}"))
        return
    try:
        known.network = parse_network(entry.value.encode())
    except NetstoreError as error:
        known.findings.append(wrong("network", f"{key}: {error}", "correct it with network set"))
        return
    network = known.network
    known.findings.append(ok("network", f"{network.network} in {store.api}, backend {network.backend_type}"))
    known.findings += await _both(access, store)
    entries = (await store.entries()).entries
    known.records = survey(entries, network, settings.key("subnets"))
    known.findings += leases(known.records)


async def _both(access: StoreAccess, used: SubnetStore) -> list[Finding]:
    """Whether the other API has a network too."""
    other = V3 if used.api == V2 else V2
    try:
        found = await (await access.store(other)).config()
    except ClientError:
        return []  # what an endpoint serves is a finding of its own
    if found is None:
        return []
    advice = "set store_api of every agent, and remove the other config when nobody uses it"
    return [warning("network", f"{V2} and {V3} both have a network config; {used.api} is used here", advice)]


def leases(records: Sequence[Record]) -> Iterator[Finding]:
    """Addresses that hold several subnets, and other records that daemons stumble over. A lease beside a
    reservation that its node has taken is what `subnet move` leaves until it ends.
    """
    holders: dict[str, list[str]] = {}
    moved = {record.public_ip for record in records if record.reserved and record.in_use}
    left: list[str] = []
    for record in records:
        if record.public_ip in moved and not record.reserved:
            left.append(f"{record.subnet} of {record.public_ip}")
        elif record.public_ip is not None:
            holders.setdefault(record.public_ip, []).append(record.subnet)
    twice = {ip: held for ip, held in holders.items() if len(held) > 1}
    if twice:
        named = "; ".join(
            f"{ip} holds {' and '.join(held[:NAMED])}" for ip, held in list(twice.items())[:NAMED]
        )
        yield wrong(
            "duplicates",
            f"{len(twice)} addresses hold several subnets: {named}",
            "give each node an address of its own (--public-ip), or release what is left over",
        )
    else:
        more = f"; left from a move until it ends: {', '.join(left[:NAMED])}" if left else ""
        yield ok("duplicates", f"no address holds two subnets{more}")
    bad = [
        record for record in records if any(not problem.endswith("subnets") for problem in record.problems)
    ]
    if bad:
        named = "; ".join(f"{record.subnet}: {', '.join(record.problems)}" for record in bad[:NAMED])
        yield wrong("leases", f"{len(bad)} of {len(records)} have problems: {named}", "see subnet ls")
    else:
        yield ok("leases", f"{len(records)} records, none with a problem")
