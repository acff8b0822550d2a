"""`netstorectl member ...` and `netstorectl move-leader`: who belongs to the cluster, and who leads it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import OF_USERS, Exit, Failure, refused, with_fix
from netstore.cli.commands.invocation import Settings, agreed, say
from netstore.cli.commands.options import PATH, Command, Group, pass_settings
from netstore.cli.output import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import TypeVar

    from netstore.client.cluster import ClusterClient, MemberRecord, Refused
    from netstore.client.v2 import V2Client

    T = TypeVar("T")

HEADINGS: Final = ("ID", "NAME", "ROLE", "STATE", "PEERS", "CLIENTS")

_LATE: Final = "leader transfer took too long"
"""In a refusal to hand over, after which the store is as before."""

FIXES: Final = (
    ("not enough started members", "start members that have not started, or add and start others, first"),
    ("unhealthy cluster", "too few voters would answer: bring back the silent ones first, see member ls"),
    ("in sync with leader", "wait until it has caught up, and repeat it"),
    ("can only promote a learner", "it votes already"),
    ("too many learner members", "promote or remove one first"),
    ("too many voting members", "remove one first, or add it as a learner"),
    ("peerURL exists", "it is a member already, see member ls"),
    ("Peer URLs already exists", "it is a member already, see member ls"),
    ("ID already exist", "it is a member already, see member ls"),
    (_LATE, "is the member well? see member ls and endpoint status; the leader is as before, or another"),
    ("not leader", "another member leads by now; repeat it"),
)
"""Part of a refusal -> what to do about it."""

_URL: Final = re.compile(r"https?://[^/?#@]+:[0-9]+", re.IGNORECASE)
_ID: Final = re.compile(r"[0-9a-fA-F]{1,16}")


def ask_cluster(settings: Settings, action: Callable[[ClusterClient], Awaitable[T]]) -> T:
    """Run calls about members. A refusal of the cluster becomes a `Failure`."""
    from netstore.client.cluster import ClusterClient, Refused  # noqa: PLC0415 - see Settings.run

    async def conversation(client: V2Client) -> T:
        try:
            return await action(ClusterClient(client.transport))
        except Refused as error:
            if not error.outcome_known:
                raise
            raise _refusal(error) from None

    return settings.ask(conversation)


def _refusal(error: Refused) -> Failure:
    text = with_fix(error.message, (*FIXES, *OF_USERS))
    if _LATE in error.message:
        return Failure(Exit.UNAVAILABLE, text)
    return Failure(Exit.NOT_FOUND if error.status in (404, 410) else Exit.REFUSED, text)


@click.group(cls=Group)
def member() -> None:
    """Who belongs to the cluster."""


@member.command("ls")
@pass_settings
def ls(settings: Settings) -> None:
    """List the members, with the role of each and where it is reached."""

    async def asking(cluster: ClusterClient) -> tuple[tuple[MemberRecord, ...], bool]:
        return await cluster.members(), await cluster.is_netstore()

    members, is_netstore = ask_cluster(settings, asking)
    is_known = not is_netstore or _tells_who_answers(members)
    leader = leader_of(members)
    if not is_known and leader is not None:
        # Only the leader knows who answers.
        with suppress(Failure):
            members = _at(settings, leader, lambda cluster: cluster.members())
            is_known = _tells_who_answers(members)
    show(settings, members, is_known=is_known)


@member.command("add")
@click.option("--learner", is_flag=True, help="Let it follow without a vote until it is promoted.")
@click.argument("urls", metavar="PEER-URL...", nargs=-1, required=True)
@pass_settings
def add(settings: Settings, urls: tuple[str, ...], *, learner: bool) -> None:
    """Add a member that its peers will reach at PEER-URL.

    A netstore cluster lets it vote as soon as it has caught up; etcd does at once, started or not.
    """
    wanted = _peer_urls(urls)

    async def adding(cluster: ClusterClient) -> tuple[MemberRecord, str]:
        added = await cluster.add(wanted, learner=learner)
        members = await cluster.members()
        return added, _how_to_start(added, members, netstore=await cluster.is_netstore())

    added, how = ask_cluster(settings, adding)
    show(settings, (added,), single=True)
    say(f"start it with an empty data folder and {how}")
    if "--join-token" in how:
        say("netstorectl member token prints TOKEN on a machine that has a member")


def _how_to_start(added: MemberRecord, members: Sequence[MemberRecord], *, netstore: bool) -> str:
    """The options with which a new member is to be started."""
    own = f"--initial-advertise-peer-urls {','.join(added.peer_urls)}"
    others = [(each.name, url) for each in members if each.id != added.id for url in each.peer_urls]
    if netstore and others:
        secret = "" if others[0][1].startswith("https:") else "--join-token TOKEN "
        return f"--join {others[0][1]} {secret}{own}"
    names = [f"{name}={url}" for name, url in others if name] + [f"NAME={url}" for url in added.peer_urls]
    return f"--name NAME --initial-cluster-state existing --initial-cluster {','.join(names)} {own}"


@member.command("update")
@click.argument("who", metavar="ID|NAME", shell_complete=completion.members)
@click.argument("urls", metavar="PEER-URL...", nargs=-1, required=True)
@pass_settings
def update(settings: Settings, who: str, urls: tuple[str, ...]) -> None:
    """Tell the cluster that a member is reached at other peer URLs from now on.

    Do this first, then restart the member with the new addresses.
    """
    wanted = _peer_urls(urls)

    async def updating(cluster: ClusterClient) -> MemberRecord:
        found = found_in(await cluster.members(), who)
        await cluster.update(found.id, wanted)
        return found_in(await cluster.members(), found.id)

    show(settings, (ask_cluster(settings, updating),), single=True)


@member.command("promote")
@click.argument("who", metavar="ID|NAME", shell_complete=completion.members)
@pass_settings
def promote(settings: Settings, who: str) -> None:
    """Give a learner its vote. Refused until it has caught up with the leader."""

    async def promoting(cluster: ClusterClient) -> MemberRecord:
        found = found_in(await cluster.members(), who)
        await cluster.promote(found.id)
        return found_in(await cluster.members(), found.id)

    show(settings, (ask_cluster(settings, promoting),), single=True)


@member.command("rm")
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether that is meant.")
@click.argument("who", metavar="ID|NAME", shell_complete=completion.members)
@pass_settings
def rm(settings: Settings, who: str, *, yes: bool) -> None:
    """Remove a member for ever: it stops, and its id never comes back.

    Refused where the voters that are left would be no quorum.
    """

    members = ask_cluster(settings, lambda cluster: cluster.members())
    found = found_in(members, who)
    if found.started and not yes:
        named = f"{found.name} ({found.id}) is a member that has started"
        if not agreed(f"{named}: it stops for ever. Remove it?"):
            raise refused(f"{named}, and is not removed; give --yes if that is meant")

    async def removing(cluster: ClusterClient) -> None:
        await cluster.remove(found.id)

    try:
        ask_cluster(settings, removing)
    except Failure as failure:
        if len(members) == 1 and failure.status == Exit.REFUSED:
            raise refused(
                f"{found.name or found.id}: is the only member; to replace it, add another first; to end the"
                " cluster, stop it and remove its data folder"
            ) from None
        raise
    show(settings, (found,), single=True)


@member.command("token")
@click.option(
    "--data-dir",
    type=PATH,
    metavar="DIR",
    default=None,
    help="Data folder of a member on this machine (default: as netstored chooses it).",
)
@pass_settings
def token(settings: Settings, data_dir: Path | None) -> None:
    """Print the cluster's join token, from the data folder of a member on this machine.

    A new member gives it as --join-token where it joins over http. Nobody gets it over the network.
    """
    from netstore.disk.datadir import read_token  # noqa: PLC0415 - one command of many needs it
    from netstore.errors import NetstoreError  # noqa: PLC0415
    from netstore.ops.store import STORE  # noqa: PLC0415

    try:
        folder = STORE.load([], os.environ).config.data_dir if data_dir is None else data_dir
        found = read_token(folder)
    except NetstoreError as fault:
        raise refused(str(fault)) from None
    if found is None:
        raise Failure(
            Exit.NOT_FOUND,
            f"{folder}: has no join token: name the data folder of a member with --data-dir; one that joined"
            " by its certificate has none until it is started once with --join-token",
        )
    settings.show({"token": found}, Table(("TOKEN",), [(found,)]))


@click.command(cls=Command)
@click.argument("who", metavar="ID|NAME", shell_complete=completion.members)
@pass_settings
def move_leader(settings: Settings, who: str) -> None:
    """Let another voter lead. One that does not answer is not asked to."""

    async def finding(cluster: ClusterClient) -> tuple[MemberRecord, MemberRecord | None]:
        members = await cluster.members()
        leaders = [each for each in members if each.role == "leader"]
        return found_in(members, who), leaders[0] if leaders else None

    async def handing(cluster: ClusterClient) -> None:
        # Only the leader knows who answers.
        if any(each.id == to.id and each.active is False for each in await cluster.members()):
            raise Failure(
                Exit.UNAVAILABLE,
                f"{to.name or to.id}: does not answer, so it cannot lead; start it, or name another voter",
            )
        await cluster.transfer(to.id)

    to, leader = ask_cluster(settings, finding)
    if leader is None:
        raise Failure(Exit.UNAVAILABLE, "no member leads now, so nobody can hand over; try again")
    if to.id != leader.id:
        if to.role == "learner":
            raise refused(f"{to.name or to.id}: is a learner, and only a member that votes can lead")
        _at(settings, leader, handing)
    settings.show(
        {"from": leader.id, "to": to.id},
        Table(("FROM", "TO"), [(leader.name or leader.id, to.name or to.id)]),
    )


def _at(settings: Settings, leader: MemberRecord, action: Callable[[ClusterClient], Awaitable[T]]) -> T:
    """Send the request to the leader, whichever endpoints are given."""
    return ask_cluster(asked_at(settings, leader), action)


def asked_at(settings: Settings, found: MemberRecord, *, with_user: bool = True) -> Settings:
    """The settings for requests to a member at the client URLs that it tells.

    With `with_user` they have the name and password of `settings`. Then an http URL is left out where one of
    the endpoints is https: nobody told by the cluster gets a password in clear. Without, they have none.
    `Failure` if no URL is left.
    """
    from netstore.client.endpoints import MAX_ENDPOINTS, parse_endpoint  # noqa: PLC0415 - see Settings.run
    from netstore.errors import NetstoreError  # noqa: PLC0415 - same

    who, told = found.name or found.id, ", ".join(found.client_urls)
    if not told:
        raise Failure(Exit.UNAVAILABLE, f"{who}: tells no address for clients")
    urls = []
    for url in found.client_urls:
        with suppress(NetstoreError):  # etcd takes others, too, such as unix://
            urls += [parse_endpoint(url)] if "," not in url else []
    if not urls:
        raise Failure(
            Exit.UNAVAILABLE,
            f"{who}: cannot be asked at {told}: let it tell its clients an address as http://host:2379",
        )
    if with_user and settings.username and settings.is_encrypted:
        urls = [url for url in urls if url.startswith("https:")]
        if not urls:
            raise Failure(
                Exit.UNAVAILABLE,
                f"{who}: is not asked at {told}, because a password would go there in clear, though an"
                " endpoint is https: let it tell its clients an https address",
            )
    return replace(
        settings,
        endpoints=",".join(urls[:MAX_ENDPOINTS]),
        username=settings.username if with_user else None,
        flags=set(),  # none of them is for these endpoints
    )


def found_in(members: Sequence[MemberRecord], who: str) -> MemberRecord:
    """The member with this id, or else this name; `Failure` if there is none, or more than one."""
    found = [each for each in members if _ID.fullmatch(who) and int(each.id, 16) == int(who, 16)]
    found = found or [each for each in members if who and each.name == who]
    if not found:
        raise Failure(Exit.NOT_FOUND, f"{who!r}: no member has this id or name; see {'member ls'!r}")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise refused(f"{who}: {len(found)} members have this name; give an id: {ids}")
    return found[0]


def show(
    settings: Settings, members: Sequence[MemberRecord], *, single: bool = False, is_known: bool = True
) -> None:
    """Print members, or the one that was changed. `is_known`: it was asked who answers the leader."""
    documents = [_content(each, is_known=is_known) for each in members]
    rows = [
        (
            each.id,
            each.name or None,
            each.role,
            _state(each, is_known=is_known),
            ",".join(each.peer_urls),
            ",".join(each.client_urls) or None,
        )
        for each in members
    ]
    settings.show(documents[0] if single else {"members": documents}, Table(HEADINGS, rows))


def leader_of(members: Sequence[MemberRecord]) -> MemberRecord | None:
    """The one that leads and can be asked: only it knows which voters answer."""
    return next((each for each in members if each.role == "leader" and each.client_urls), None)


def _tells_who_answers(members: Sequence[MemberRecord]) -> bool:
    """Whether the leader listed them: a list from another member has `active` of none."""
    return any(each.active is not None for each in members if each.role != "leader") or (
        [each.role for each in members] == ["leader"]
    )


def _state(record: MemberRecord, *, is_known: bool) -> str:
    if record.behind is not None and record.active is not False:
        return record.behind.words  # a new member publishes its name when it has the state
    if not record.started:
        return "unstarted"
    if record.active is False:
        return "silent"
    if not is_known:
        return "unknown"
    return "catching up" if record.promote else "started"


def _content(record: MemberRecord, *, is_known: bool) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "state": _state(record, is_known=is_known),
        "started": record.started,
        "promote": record.promote,
        "active": record.active,
        "matchIndex": record.match_index,
        "behind": record.behind and record.behind.content,
        "peerURLs": list(record.peer_urls),
        "clientURLs": list(record.client_urls),
    }


def _peer_urls(words: Sequence[str]) -> tuple[str, ...]:
    urls = tuple(url.strip() for word in words for url in word.split(",") if url.strip())
    for url in urls:
        if not _URL.fullmatch(url):
            raise click.BadParameter(
                f"{url!r} is not a peer URL; write it as http://host:2380", param_hint="PEER-URL"
            )
    if not urls:
        raise click.BadParameter("names no address; write it as http://host:2380", param_hint="PEER-URL")
    return urls
