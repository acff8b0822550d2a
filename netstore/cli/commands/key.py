"""`netstorectl key`: reads and writes v2 keys, like etcdctl v2 without its pitfalls."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import NOT_TEXT, Exit, Failure, refused, usage
from netstore.cli.commands.invocation import MAX_INDEX, MAX_TTL, Settings, standard_input, text_of
from netstore.cli.commands.options import Group, key_of, pass_settings, whole
from netstore.cli.output import Form, Table, document, emit, emit_value, plain, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.client.v2 import Answer, Node, V2Client

SHOWN_CHARACTERS: Final = 120
"""How much of a value a listing shows."""

key_argument = click.argument("key", type=key_of, shell_complete=completion.keys)
ttl_option = click.option(
    "--ttl",
    type=whole(0, MAX_TTL),
    default=0,
    metavar="SECONDS",
    help="Life; 0 is without end.  [0]",
)
quorum_option = click.option("-q", "--quorum", is_flag=True, help="Ask the cluster, not one member's memory.")
sort_option = click.option("--sort", is_flag=True, help="In the order of the keys.")
value_argument = click.argument("value", required=False)


@click.group(cls=Group)
def key() -> None:
    """Read and write keys (v2 API)."""


@key.command()
@sort_option
@quorum_option
@click.option("-r", "--recursive", is_flag=True, help="All that is below, too.")
@click.option("-p", "slash", is_flag=True, help="Directories end in a slash.")
@click.argument("key", type=key_of, default="/", shell_complete=completion.keys)
@pass_settings
def ls(settings: Settings, key: str, *, sort: bool, quorum: bool, recursive: bool, slash: bool) -> None:
    """List a directory. A file lists itself."""

    async def listing(client: V2Client) -> Answer:
        return await client.get(key, recursive=recursive, sort=sort, quorum=quorum)

    answer = settings.ask(listing)
    nodes = list(_below(answer.node) if answer.node.dir else (answer.node,))
    names = [f"{node.key}/" if slash and node.dir else node.key for node in nodes]
    if settings.form is Form.PLAIN:
        emit(plain((name,) for name in names))
        return
    rows = [
        (name, _summary(node), node.ttl, node.modified_index) for name, node in zip(names, nodes, strict=True)
    ]
    settings.show(content(answer), Table(("KEY", "VALUE", "TTL", "INDEX"), rows))


@key.command()
@sort_option
@quorum_option
@key_argument
@pass_settings
def get(settings: Settings, key: str, *, sort: bool, quorum: bool) -> None:
    """Print the value of a file."""

    async def reading(client: V2Client) -> Answer:
        return await client.get(key, sort=sort, quorum=quorum)

    answer = settings.ask(reading)
    if answer.node.dir:
        raise refused(f"{key}: is a directory; list it with key ls {key}")
    _show(settings, answer, answer.node.value)


@key.command(name="set")
@ttl_option
@click.option("--swap-with-value", metavar="VALUE", help="Only if this is the value now.")
@click.option(
    "--swap-with-index", type=whole(1, MAX_INDEX), metavar="INDEX", help="Only if last changed then."
)
@key_argument
@value_argument
@pass_settings
def set_(
    settings: Settings,
    key: str,
    value: str | None,
    *,
    ttl: int,
    swap_with_value: str | None,
    swap_with_index: int | None,
) -> None:
    """Write a file, whether it exists or not. Without VALUE it is read from standard input."""
    if swap_with_value == "":
        usage("--swap-with-value: the v2 API cannot compare with an empty value; use --swap-with-index")
    text = _given(value)
    conditional = swap_with_value is not None or swap_with_index is not None

    async def writing(client: V2Client) -> Answer:
        if conditional:
            return await client.compare_and_swap(
                key, text, prev_value=swap_with_value, prev_index=swap_with_index, ttl=ttl or None
            )
        return await client.set(key, text, ttl=ttl or None)

    answer = settings.ask(writing)
    _show(settings, answer, answer.node.value)


@key.command()
@ttl_option
@click.option("--in-order", is_flag=True, help="KEY is a directory: the store names the new file in it.")
@key_argument
@value_argument
@pass_settings
def mk(settings: Settings, key: str, value: str | None, *, ttl: int, in_order: bool) -> None:
    """Create a file that must not exist. Without VALUE it is read from standard input.

    Prints the value, with --in-order the key that the store made.
    """
    text = _given(value)

    async def creating(client: V2Client) -> Answer:
        if in_order:
            return await client.create_in_order(key, text, ttl=ttl or None)
        return await client.create(key, text, ttl=ttl or None)

    answer = settings.ask(creating)
    _show(settings, answer, answer.node.key if in_order else answer.node.value)


@key.command()
@ttl_option
@key_argument
@pass_settings
def mkdir(settings: Settings, key: str, *, ttl: int) -> None:
    """Create a directory that must not exist. Prints nothing."""

    async def creating(client: V2Client) -> Answer:
        return await client.mkdir(key, ttl=ttl or None)

    _show(settings, settings.ask(creating), None)


@key.command()
@click.option("--dir", "folder", is_flag=True, help="An empty directory, too.")
@click.option("-r", "--recursive", is_flag=True, help="A directory and all that is below.")
@click.option("--with-value", metavar="VALUE", help="Only if this is the value now.")
@click.option("--with-index", type=whole(1, MAX_INDEX), metavar="INDEX", help="Only if last changed then.")
@key_argument
@pass_settings
def rm(
    settings: Settings,
    key: str,
    *,
    folder: bool,
    recursive: bool,
    with_value: str | None,
    with_index: int | None,
) -> None:
    """Remove a file. Prints nothing."""
    conditional = with_value is not None or with_index is not None
    if with_value == "":
        usage("--with-value: the v2 API cannot compare with an empty value; use --with-index")
    if conditional and (folder or recursive):
        usage("--with-value and --with-index compare a file; leave out --dir and --recursive")

    async def removing(client: V2Client) -> Answer:
        from netstore.client.v2 import NOT_A_FILE, V2Error  # noqa: PLC0415 - loaded by now: see Settings.ask

        if conditional:
            return await client.compare_and_delete(key, prev_value=with_value, prev_index=with_index)
        try:
            return await client.delete(key, dir=folder, recursive=recursive)
        except V2Error as error:
            if error.code != NOT_A_FILE:
                raise
            raise refused(
                f"{key}: is a directory; key rm --dir removes it if it is empty, key rm --recursive all of it"
            ) from None

    _show(settings, settings.ask(removing), None)


@key.command()
@key_argument
@pass_settings
def rmdir(settings: Settings, key: str) -> None:
    """Remove an empty directory. Prints nothing."""

    async def removing(client: V2Client) -> Answer:
        # The API would remove a file as well, so check first (v2 API, "DELETE").
        if not (await client.get(key, quorum=True)).node.dir:
            raise refused(f"{key}: is a file; remove it with key rm {key}")
        return await client.delete(key, dir=True)

    _show(settings, settings.ask(removing), None)


@key.command()
@click.option("-r", "--recursive", is_flag=True, help="All that is below, too.")
@click.option("-f", "--forever", is_flag=True, help="Go on after the first event.")
@click.option(
    "--after-index",
    type=whole(0, MAX_INDEX),
    metavar="INDEX",
    help="From the event after this one, as far as the store remembers.  [from now]",
)
@key_argument
@pass_settings
def watch(settings: Settings, key: str, *, recursive: bool, forever: bool, after_index: int | None) -> None:
    """Print what happens to a key: one event, or with --forever all of them."""
    seen = after_index

    async def watching(client: V2Client) -> None:
        nonlocal seen
        start = None if after_index is None else after_index + 1
        async with aclosing(client.watch(key, index=start, recursive=recursive)) as events:  # type: ignore[type-var]
            async for answer in events:
                emit(_event(settings.form, answer))
                seen = answer.node.modified_index
                if not forever:
                    return

    try:
        settings.ask(watching)
    except Failure as failure:
        if seen is None or failure.status is not Exit.UNAVAILABLE:
            raise
        raise Failure(
            failure.status, f"{failure.text}; to miss nothing go on with --after-index {seen}"
        ) from None


def content(answer: Answer) -> dict[str, object]:
    """An answer as a JSON document, under the names of the v2 API."""
    prev = answer.prev_node
    return {
        "action": answer.action,
        "node": node_content(answer.node),
        "prevNode": None if prev is None else node_content(prev),
        "etcdIndex": answer.etcd_index,
    }


def node_content(node: Node) -> dict[str, object]:
    """A node as a JSON document, with the fields of the v2 API that it has."""
    found: dict[str, object] = {"key": node.key}
    if node.dir:
        found["dir"] = True
        found["nodes"] = [node_content(child) for child in node.nodes]
    elif node.value is not None:
        found["value"] = node.value
    if node.expiration is not None:
        found["expiration"] = node.expiration
        found["ttl"] = node.ttl or 0
    return found | {"modifiedIndex": node.modified_index, "createdIndex": node.created_index}


def _show(settings: Settings, answer: Answer, text: str | None) -> None:
    if settings.form is Form.JSON:
        emit(document(content(answer)))
    elif text is not None:
        emit_value(text)


def _event(form: Form, answer: Answer) -> str:
    node = answer.node
    if form is Form.JSON:
        return document(content(answer))
    if form is Form.PLAIN:
        return plain([(answer.action, node.key, node.modified_index, node.value)])
    value = "" if node.value is None else f"  {printable(node.value)}"
    return f"{answer.action:<16}  {printable(node.key)}{value}\n"


def _below(node: Node) -> Iterator[Node]:
    """All nodes below, each directory before its contents, however deep."""
    waiting = list(reversed(node.nodes))
    while waiting:
        child = waiting.pop()
        yield child
        waiting.extend(reversed(child.nodes))


def _summary(node: Node) -> str | None:
    if node.dir:
        return "(directory)"
    value = node.value or ""
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."


def _given(value: str | None) -> str:
    """VALUE, or all of standard input unchanged; refused if that is empty, often because a command failed."""
    if value is not None:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise refused(NOT_TEXT.format("VALUE")) from None
        return value
    given = standard_input("VALUE")
    if not given:
        usage("VALUE: neither given nor on standard input; for an empty value write ''")
    return text_of(given, "VALUE")
