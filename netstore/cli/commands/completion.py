"""Shell completion: words from click; keys, subnets, plugins and members from the store; the hooks of shells.

If the store does not answer within `LIMIT`, there are no suggestions: the prompt must not block or show
errors.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from netstore.cli.commands.failures import Failure, usage
from netstore.cli.commands.invocation import PROGRAM, Settings, clean
from netstore.cli.commands.leases import survey
from netstore.cli.output import emit
from netstore.network.lease import DRAINED, SUBNETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from netstore.cli.commands.leases import Record
    from netstore.client.cluster import MemberRecord
    from netstore.client.plugins import Stored
    from netstore.client.subnetstore import Entry, SubnetStore
    from netstore.client.v2 import Node, V2Client

C = TypeVar("C")
T = TypeVar("T")

LIMIT: Final = 0.7
"""Seconds for the request to the store."""

MOST: Final = 1000
"""Suggestions at most."""

VARIABLE: Final = "_NETSTORECTL_COMPLETE"
"""The environment variable with which a shell's hook requests suggestions."""

SHELLS: Final = ("bash", "zsh", "fish")


def keys(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Keys that begin with the incomplete word; directories with a slash at the end."""
    folder = incomplete.rpartition("/")[0]
    beginning = "/" + incomplete.lstrip("/")

    async def children(client: V2Client) -> tuple[Node, ...]:
        return (await client.get(clean(folder), sort=True)).node.nodes

    nodes = _asked(context, children) or ()
    offers = (f"{node.key}/" if node.dir else node.key for node in nodes)
    return [CompletionItem(offer) for offer in offers if offer.startswith(beginning)][:MOST]


def subnets(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Subnets of the network, invalid records by their names; with their holders if the shell shows that."""
    return _offered(_subnets(_records(context)), incomplete)


def nodes(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Addresses and names of the nodes that hold subnets."""
    return _offered(_nodes(_records(context)), incomplete)


def holders(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Subnets, and addresses and names of the nodes that hold them."""
    records = _records(context)
    return _offered({**_subnets(records), **_nodes(records)}, incomplete)


def drained(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Addresses and names of the nodes that are drained."""
    return _offered(dict.fromkeys(entry.name for entry in _entries(context, DRAINED)), incomplete)


def _subnets(records: Sequence[Record]) -> dict[str, str | None]:
    return {record.subnet: record.public_ip for record in records}


def _nodes(records: Sequence[Record]) -> dict[str, str | None]:
    leases = [(record.subnet, record.public_ip, record.lease) for record in records if record.lease]
    found: dict[str, str | None] = {ip: subnet for subnet, ip, _ in leases if ip is not None}
    return found | {lease.node_name: ip for _, ip, lease in leases if lease.node_name}


def _records(context: click.Context) -> list[Record]:
    return survey(_entries(context, SUBNETS), None, "")


def _entries(context: click.Context, folder: str) -> Sequence[Entry]:
    """The entries of a folder of the network."""

    async def listing(store: SubnetStore) -> Sequence[Entry]:
        return (await store.entries()).entries

    ask = partial(context.ensure_object(Settings).ask_network, folder=folder)
    return _in_time(context, ask, listing) or ()


def _offered(words: Mapping[str, str | None], incomplete: str) -> list[CompletionItem[str]]:
    """The words that begin so, each with what a shell may show beside it."""
    return [CompletionItem(word, help=more) for word, more in words.items() if word.startswith(incomplete)][
        :MOST
    ]


def members(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Ids and names of members."""

    async def listing(client: V2Client) -> tuple[MemberRecord, ...]:
        from netstore.client.cluster import ClusterClient  # noqa: PLC0415 - loaded by now: see Settings.ask

        return await ClusterClient(client.transport).members()

    known = _asked(context, listing) or ()
    words = [(each.id, each.name) for each in known] + [(each.name, each.id) for each in known if each.name]
    return [CompletionItem(word, help=other) for word, other in words if word.startswith(incomplete)][:MOST]


def plugins(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Names of the admitted plugins, with their versions."""

    async def listing(client: V2Client) -> tuple[Stored, ...]:
        from netstore.client.plugins import PluginsClient  # noqa: PLC0415 - loaded by now: see Settings.ask

        return await PluginsClient(client.transport).admitted()

    known = (each.plugin for each in _asked(context, listing) or ())
    return [
        CompletionItem(each.name, help=each.versions or None)
        for each in known
        if each.name.startswith(incomplete)
    ][:MOST]


def plugins_or_wheels(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Names of the admitted plugins; where none begins so, what the shell offers: files."""
    return plugins(context, parameter, incomplete) or [CompletionItem(incomplete, type="file")]


def _asked(context: click.Context, action: Callable[[V2Client], Awaitable[T]]) -> T | None:
    return _in_time(context, context.ensure_object(Settings).ask, action)


def _in_time(
    context: click.Context,
    ask: Callable[[Callable[[C], Awaitable[T | None]]], T | None],
    action: Callable[[C], Awaitable[T]],
) -> T | None:
    """What the store answers within `LIMIT`; None otherwise. `ask` runs an action with a client."""
    context.ensure_object(Settings).may_ask = False

    async def in_time(client: C) -> T | None:
        import trio  # noqa: PLC0415 - loaded by now: see Settings.run

        with trio.move_on_after(LIMIT):
            return await action(client)
        return None

    try:
        return ask(in_time)
    except Failure:
        return None


def script(shell: str, cli: click.Command) -> str:
    """The hook of one shell, made by click."""
    maker = get_completion_class(shell)
    assert maker is not None  # noqa: S101 - click knows all of SHELLS; for the type checker
    # Not by the method of the shell's own class: that of bash would run bash first, to check its version.
    return ShellComplete.source(maker(cli, {}, PROGRAM, VARIABLE))


@click.argument("shell", type=click.Choice(SHELLS), required=False, metavar="{bash|zsh|fish}")
def completion(shell: str | None) -> None:
    """Print the hook that makes the Tab key work in a shell. Write it to:

    \b
    bash  /etc/bash_completion.d/netstorectl
    zsh   _netstorectl in a folder of $fpath
    fish  ~/.config/fish/completions/netstorectl.fish
    """
    if shell is None:  # click's own text for it has line breaks
        usage(f"Missing argument 'SHELL': give one of {', '.join(SHELLS)}")
    emit(script(shell, click.get_current_context().find_root().command))
