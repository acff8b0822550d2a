"""`netstorectl endpoint status|health`: asks each endpoint separately, without failover."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from netstore.cli.commands.failures import Exit, Failure, failure_of
from netstore.cli.commands.member import ask_cluster, asked_at
from netstore.cli.commands.options import Group, pass_settings
from netstore.cli.output import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netstore.cli.commands.invocation import Settings
    from netstore.client.cluster import MemberStatus
    from netstore.client.v2 import V2Client


@dataclass(slots=True)
class Health:
    """Whether one endpoint is healthy, and its response time."""

    endpoint: str
    healthy: bool = False
    milliseconds: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Standing:
    """The Raft state of the member at one endpoint; None if the member does not report it."""

    endpoint: str
    status: MemberStatus | None = None
    unanswered: tuple[str, ...] = ()
    """Why there is none."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, or why it is not known."""
        told = self.status
        if told is None:
            return self.unanswered
        return told.problems if told.leader else ("knows no leader", *told.problems)


_T = TypeVar("_T", Health, Standing)


@click.group(cls=Group)
def endpoint() -> None:
    """Each endpoint by itself."""


_of_cluster = click.option(
    "--cluster", is_flag=True, help="Ask all members that the endpoints know, not the endpoints only."
)


@endpoint.command("health")
@_of_cluster
@pass_settings
def health(settings: Settings, *, cluster: bool) -> None:
    """Ask each endpoint whether it is well: it knows a leader, and a round of the cluster comes back in time.

    Exit status 4 if one is not.
    """
    addresses = _addresses(settings, whole=cluster)
    seen = [Health(address, problems=unasked) for address, unasked in addresses.items()]
    settings.run(partial(_at_each, settings, seen, _look_at_health))
    settings.show(
        {"endpoints": [asdict(each) for each in seen]},
        Table(
            ("ENDPOINT", "HEALTH", "MS", "PROBLEM"),
            [
                (
                    each.endpoint,
                    "healthy" if each.healthy else "unhealthy",
                    None if each.milliseconds is None else f"{each.milliseconds:.1f}",
                    _joined(each),
                )
                for each in seen
            ],
        ),
    )
    _complain([each for each in seen if not each.healthy])


@endpoint.command("status")
@_of_cluster
@click.option("--wide", is_flag=True, help="Show all that is known, on lines that fit no narrow terminal.")
@pass_settings
def status(settings: Settings, *, cluster: bool, wide: bool) -> None:
    """Show how the member at each endpoint stands: its role, its term, how far it has come, and its problems.
    With --wide also its id, version and leader, the feature level of the cluster, how much its buffers hold,
    what held it up and, as WAITS FOR, what a leader waits for: who is being brought up, and the rate to which
    writes are paced for that.

    Exit status 4 if one does not answer.
    """
    addresses = _addresses(settings, whole=cluster)
    seen = [Standing(address, unanswered=unasked) for address, unasked in addresses.items()]
    settings.run(partial(_at_each, settings, seen, _look_at_status))
    view = _wide_table(seen) if wide else _table(seen)
    settings.show({"endpoints": [_content(each) for each in seen]}, view, wide=wide)
    _complain([each for each in seen if each.status is None])


def _table(seen: Sequence[Standing]) -> Table:
    """The columns that fit into 80 characters."""
    rows: list[tuple[str | int | None, ...]] = []
    for each in seen:
        told = each.status
        if told is None:
            rows.append((each.endpoint, None, None, None, None, None, _joined(each)))
            continue
        numbers = (told.term, told.commit_index, told.applied_index)
        rows.append((each.endpoint, told.name or None, told.role, *numbers, _joined(each)))
    return Table(("ENDPOINT", "NAME", "ROLE", "TERM", "COMMIT", "APPLIED", "PROBLEM"), rows)


def _wide_table(seen: Sequence[Standing]) -> Table:
    standing = ("ENDPOINT", "ID", "NAME", "VERSION", "ROLE", "LEADER", "TERM", "COMMIT", "APPLIED")
    headings = (*standing, "LEVEL", "MEMORY", "HELD", "LONGEST", "WAITS FOR", "PROBLEM")
    rows: list[tuple[str | int | None, ...]] = []
    for each in seen:
        told = each.status
        if told is None:
            rows.append((each.endpoint, *[None] * (len(headings) - 2), _joined(each)))
            continue
        numbers = (told.term, told.commit_index, told.applied_index)
        words = (told.id, told.name or None, told.version, told.role, told.leader or None)
        loads = (*_load(told), _waits_for(told))
        rows.append((each.endpoint, *words, *numbers, told.feature_level, *loads, _joined(each)))
    return Table(headings, rows)


def _joined(seen: Health | Standing) -> str | None:
    return "; ".join(seen.problems) or None


def _load(told: MemberStatus) -> tuple[str | None, int | None, str | None]:
    """How much of its memory budget a member uses, how often its loop was held, and the longest time."""
    memory, loop = told.memory, told.loop
    used = None if memory is None else f"{100 * memory.used_bytes / max(memory.budget_bytes, 1):.0f}%"
    if loop is None:
        return used, None, None
    longest = f"{loop.longest_ms:.1f} ms {loop.longest_work}" if loop.over_budget else None
    return used, loop.over_budget, longest


def _waits_for(told: MemberStatus) -> str | None:
    """What a leader waits for: members that catch up; or why requests wait at it (`backedUp`), as for its
    disk.
    """
    waits = [f"{each.id} {each.words}" for each in told.behind or ()]
    if told.paced_to:
        waits.append(f"writes paced to {told.paced_to / 1e6:.2f} MB/s")
    elif told.backed_up:
        waits.append("requests wait")
    return "; ".join(waits) or None


def _content(seen: Standing) -> dict[str, object]:
    """The same fields whether it answered or not; null: not reported."""
    told = seen.status
    memory, loop, behind = (None, None, None) if told is None else (told.memory, told.loop, told.behind)
    return {
        "endpoint": seen.endpoint,
        "id": told and told.id,
        "name": told and told.name,
        "version": told and told.version,
        "role": told and told.role,
        "leader": told and told.leader,
        "term": told and told.term,
        "commitIndex": told and told.commit_index,
        "appliedIndex": told and told.applied_index,
        "problems": list(seen.problems),
        "backedUp": told and told.backed_up,
        "pacedBytesPerSecond": told and told.paced_to,
        "behind": None if behind is None else [each.content for each in behind],
        "featureLevel": told and told.feature_level,
        "memory": memory and {"budgetBytes": memory.budget_bytes, "usedBytes": memory.used_bytes},
        "loop": loop
        and {
            "overBudget": loop.over_budget,
            "longestMs": loop.longest_ms,
            "longestWork": loop.longest_work,
        },
    }


def _addresses(settings: Settings, *, whole: bool) -> dict[str, tuple[str, ...]]:
    """Each address to be shown -> why it is not asked, in words; none where it is."""
    found: dict[str, tuple[str, ...]] = {}
    if whole:
        for member in ask_cluster(settings, lambda cluster: cluster.members()):
            if not member.client_urls:
                continue
            try:
                found |= dict.fromkeys(asked_at(settings, member).addresses(), ())
            except Failure as failure:
                found |= dict.fromkeys(member.client_urls, (failure.text,))
    return found or dict.fromkeys(settings.addresses(), ())


async def _at_each(
    settings: Settings, seen: Sequence[_T], look: Callable[[V2Client, _T], Awaitable[None]]
) -> None:
    import trio  # noqa: PLC0415 - see Settings.run

    asked = [each for each in seen if not each.problems]
    clients = [settings.client(each.endpoint) for each in asked]  # a `Failure` comes out of no nursery
    async with trio.open_nursery() as nursery:
        for client, each in zip(clients, asked, strict=True):
            nursery.start_soon(look, client, each)


async def _look_at_health(client: V2Client, seen: Health) -> None:
    import trio  # noqa: PLC0415 - see Settings.run

    from netstore.client.faults import ClientError  # noqa: PLC0415 - same

    async with client:
        start = trio.current_time()
        try:
            told = await client.health()
        except ClientError as error:
            seen.problems = (failure_of(error, named=True).text,)
            return
    seen.milliseconds = round(1000 * (trio.current_time() - start), 1)
    seen.healthy = told.get("health") == "true"
    if not seen.healthy:
        seen.problems = (told.get("reason") or "says that it is not healthy",)


async def _look_at_status(client: V2Client, seen: Standing) -> None:
    from netstore.client.cluster import ClusterClient  # noqa: PLC0415 - see Settings.run
    from netstore.client.faults import ClientError  # noqa: PLC0415 - same

    async with client:
        try:
            seen.status = await ClusterClient(client.transport).status()
        except ClientError as error:
            seen.unanswered = (failure_of(error, named=True).text,)


def _complain(seen: Sequence[Health | Standing]) -> None:
    if seen:
        raise Failure(Exit.UNAVAILABLE, "; ".join(f"{each.endpoint}: {_joined(each)}" for each in seen))
