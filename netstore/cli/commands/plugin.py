"""`netstorectl plugin`: which backends the cluster admits beside the built-in ones, and what nodes run."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from netstore.cli.commands import completion
from netstore.cli.commands.failures import Exit, Failure, content_of, in_words, refused
from netstore.cli.commands.invocation import Settings, say, warn
from netstore.cli.commands.options import PATH, Group, pass_settings
from netstore.cli.output import Table
from netstore.errors import NetstoreError, parse_problem
from netstore.network.backends import BUILT_IN
from netstore.network.config import KNOWN_PREFIXES
from netstore.network.depth import MAX_DEPTH, is_deep
from netstore.network.pluginreport import FOLDER, Report, parse_report
from netstore.network.plugins import MAX_WHEEL_BYTES, Plugin, Wheel, check_plugin, is_in_range, names_of
from netstore.outputfile import open_output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from netstore.client.cluster import Refused
    from netstore.client.plugins import PluginsClient, Stored
    from netstore.client.subnetstore import SubnetStore
    from netstore.client.v2 import V2Client

    T = TypeVar("T")

HEADINGS: Final = ("NAME", "VERSIONS", "SCHEMA", "WHEEL", "STORED", "SINCE")
NODE_HEADINGS: Final = ("NODE", "ADDRESS", "RUNS", "PLUGIN", "VERSION", "ADMITTED", "PROBLEM")

SHOWN_LEVELS: Final = 4
"""Of objects in objects that `plugin show` gives rows: `schema.properties.Port.type` is the deepest."""

TAKEN_AWAY: Final = object()
"""Instead of the value of a setting: there shall be none."""

SIGNATURE_BYTES: Final = 64
MAX_SIGNATURE_BYTES: Final = 1024
MAX_SCHEMA_BYTES: Final = 64 * 1024


def ask_plugins(settings: Settings, action: Callable[[PluginsClient], Awaitable[T]]) -> T:
    """Run calls to the plugin store. A refusal becomes a `Failure`."""
    from netstore.client.cluster import Refused  # noqa: PLC0415 - see Settings.run
    from netstore.client.plugins import PluginsClient  # noqa: PLC0415 - same

    async def conversation(client: V2Client) -> T:
        try:
            return await action(PluginsClient(client.transport))
        except Refused as error:
            if not error.outcome_known:
                raise
            raise _refusal(error) from None

    return settings.ask(conversation)


def _refusal(error: Refused) -> Failure:
    text = str(error)
    if "feature level" in text:
        text = f"{text}; upgrade every member, then repeat it"
    return Failure(Exit.NOT_FOUND if error.status == 404 else Exit.REFUSED, text)


@click.group(cls=Group)
def plugin() -> None:
    """Which backends networks may use, beside the built-in ones."""


@plugin.command("ls")
@pass_settings
def ls(settings: Settings) -> None:
    """List the admitted plugins and the built-in backends."""
    admitted = ask_plugins(settings, lambda client: client.admitted())
    rows = [_row(each) for each in admitted] + [(name, "built in", *[None] * 4) for name in BUILT_IN]
    settings.show(
        {"plugins": [content(each) for each in admitted], "builtIn": list(BUILT_IN)}, Table(HEADINGS, rows)
    )


@plugin.command("show")
@click.argument("name", shell_complete=completion.plugins)
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Print all that is known of one plugin or built-in backend, with the schema of its options."""
    document = ask_plugins(settings, lambda client: client.document(name))
    settings.show(document, Table(("FIELD", "VALUE"), list(_fields(document))))


@plugin.command("admit")
@click.argument("source", metavar="NAME|FILE.whl", shell_complete=completion.plugins_or_wheels)
@click.option("--name", "as_name", metavar="NAME", help="The Type, if the wheel has several backends.")
@click.option("--schema", metavar="FILE", help="JSON Schema of the Backend section; '' for none.")
@click.option(
    "--version", "versions", metavar="RANGE", help="Versions nodes may run, as '>=1,<2'; '' for all."
)
@click.option(
    "--setting",
    "pairs",
    metavar="OPTION=VALUE",
    multiple=True,
    help="Value of an option; OPTION= takes it away.",
)
@click.option("--signature", metavar="FILE", help="Ed25519 signature of the wheel's SHA-256; '' for none.")
@click.option("--without-wheel", is_flag=True, help="Take the wheel away.")
@pass_settings
def admit(
    settings: Settings,
    source: str,
    *,
    as_name: str | None,
    schema: str | None,
    versions: str | None,
    pairs: tuple[str, ...],
    signature: str | None,
    without_wheel: bool,
) -> None:
    """Admit a plugin, so that network configs may name it; or change what is said of it.

    With a wheel, the cluster keeps it for the agents that may install plugins. Of a plugin that is admitted
    already, what is not given stays as it is.
    """
    data, wheel, name, version = b"", None, source, ""
    if source.endswith(".whl"):
        if without_wheel:
            raise click.UsageError("--without-wheel takes the wheel away; name the plugin, and no wheel")
        data, wheel, name, version = _wheel(source, as_name, signature)
    elif signature is not None or as_name is not None:
        raise click.UsageError("--signature and --name are for wheels")
    given = dict(map(_pair, pairs))
    _checked(Plugin(name, versions or ""))
    new_schema = _schema(schema) if schema else None
    present = None if name in BUILT_IN else ask_plugins(settings, lambda client: _present(client, name))
    before = Plugin(name) if present is None else present.plugin
    kept_schema = new_schema if schema is not None else before.schema
    if present is not None and schema is None and present.has_unusable_schema:
        raise refused(
            f"{name}: its schema was written by a later release and cannot be kept by this command; use the"
            " netstorectl of that release, or give another --schema"
        )
    if versions is None:
        is_new = present is None
        versions = _exactly(source, version) if is_new and wheel is not None else before.versions
    if wheel is not None and signature is None:
        wheel = _still_signed(wheel, before.wheel)
    wanted = Plugin(
        name,
        versions,
        kept_schema,
        (None if without_wheel else before.wheel) if wheel is None else wheel,
        _changed(name, before.settings, given),
    )
    _checked(wanted)
    if wheel is not None and not is_in_range(version, versions):
        raise refused(
            f"--version: {source} has version {version}, which is not in {versions}: no agent uses"
            " it; give a range that it is in"
        )

    async def admitting(client: PluginsClient) -> Stored:
        stored = await client.admit(wanted)
        return stored if wheel is None else await client.send(stored, data)

    stored = ask_plugins(settings, admitting)
    for option in _unknown_settings(wanted):
        warn(f"--setting {option}: the schema of {name} has no such option; it is ignored")
    if wanted.schema is None:
        warn(f"{name}: without --schema any Backend section passes")
    settings.show(content(stored), Table(HEADINGS, [_row(stored)]))


def _checked(wanted: Plugin) -> None:
    """`Failure` if a field is invalid."""
    try:
        check_plugin(wanted)
    except NetstoreError as error:
        raise refused(str(error)) from None


async def _present(client: PluginsClient, name: str) -> Stored | None:
    """What is said of a plugin; None if it is not admitted. Of a store that keeps none the write tells it."""
    from netstore.client.cluster import Refused  # noqa: PLC0415 - see Settings.run

    try:
        return await client.plugin(name)
    except Refused as error:
        if error.status == 404:
            return None
        raise


def _still_signed(wheel: Wheel, before: Wheel | None) -> Wheel:
    """A wheel that is given without a signature: the present one stays if it is of the same bytes."""
    if before is None or not before.signature:
        return wheel
    if before.sha256 == wheel.sha256:
        return msgspec.structs.replace(wheel, signature=before.signature)
    warn(f"{wheel.file}: has no signature; the present one is of another wheel, and goes with it")
    return wheel


def _unknown_settings(plugin: Plugin) -> list[str]:
    """Settings of a checked plugin that its schema does not have; none without a schema."""
    names = names_of(plugin)
    return [] if plugin.schema is None else [each for each in plugin.settings if each.lower() not in names]


def _changed(name: str, present: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those that are given, whose names match in any case; an empty text takes one away."""
    kept = dict(present)
    for option, value in given.items():
        known = [each for each in kept if each.lower() == option.lower()]
        if value is TAKEN_AWAY and not known:
            warn(f"--setting {option}=: {name} has no such setting")
        for each in known:
            del kept[each]
        if value is not TAKEN_AWAY:
            kept[option] = value
    return kept


@plugin.command("retire")
@click.argument("name", shell_complete=completion.plugins)
@click.option("--force", is_flag=True, help="Retire it although the stored network config names it.")
@pass_settings
def retire(settings: Settings, name: str, *, force: bool) -> None:
    """Remove a plugin and its wheel from the store: no network config may name it from then on.

    Nodes that run it go on. Refused while a network config names it, in either API: the one at --prefix, or
    one where networks are usually kept.
    """
    if not force:
        for prefix in dict.fromkeys((settings.key(), *KNOWN_PREFIXES)):
            for api in settings.run(lambda at=prefix: _naming(settings, at, name)):  # type: ignore[misc]
                raise refused(
                    f"{prefix}/config: names {name}, in {api}; write another config first, or give --force"
                )

    gone = ask_plugins(settings, lambda client: client.retire(name))
    settings.show(content(gone), Table(HEADINGS, [_row(gone)]))


@plugin.command("fetch")
@click.argument("name", shell_complete=completion.plugins)
@click.argument("target", metavar="[FILE]", required=False, type=PATH)
@pass_settings
def fetch(settings: Settings, name: str, target: Path | None) -> None:
    """Write the wheel of a plugin to a file, once its digest was checked; by default one of its own name."""

    if name in BUILT_IN:
        raise refused(f"{name}: is built in; every agent has it, and there is no wheel to fetch")

    async def fetching(client: PluginsClient) -> tuple[Stored, bytes]:
        stored = await client.plugin(name)
        try:
            return stored, await client.wheel(stored)
        except NetstoreError as error:
            if type(error) is NetstoreError:
                raise refused(str(error)) from None
            raise

    stored, data = ask_plugins(settings, fetching)
    wheel = stored.plugin.wheel
    assert wheel is not None  # noqa: S101 - it was fetched; for the type checker
    path = Path(wheel.file) if target is None else target
    with in_words(path), open_output(path, private=False) as made:
        made.file.write(data)
    settings.show(
        {"name": name, "file": str(path), "sha256": wheel.sha256, "size": wheel.size},
        Table(("FILE", "SHA256", "SIZE"), [(str(path), wheel.sha256, wheel.size)]),
    )


@plugin.command("status")
@pass_settings
def status(settings: Settings) -> None:
    """Print what the agents of the network at --prefix have installed, and which backend each runs."""
    folder = settings.key(FOLDER)

    async def reading(store: SubnetStore) -> list[tuple[str, str]]:
        entries = (await store.entries()).entries
        return [(entry.name, entry.value) for entry in entries if entry.value is not None]

    admitted = {each.plugin.name: each.plugin for each in ask_plugins(settings, admitted_if_any)}
    reports = settings.ask_network(reading, FOLDER)
    rows: list[tuple[str | None, ...]] = []
    nodes: list[dict[str, Any]] = []
    for address, text in sorted(reports):
        try:
            report = parse_report(text)
        except NetstoreError as error:
            warn(f"{folder}/{address}: {error}")
            continue
        nodes.append({"address": address, **_report(report, admitted)})
        rows += _report_rows(address, report, admitted)
    settings.show({"nodes": nodes}, Table(NODE_HEADINGS, rows))
    if not reports:
        say(f"{folder}: no agent reports here; see --prefix")


async def admitted_if_any(client: PluginsClient) -> Sequence[Stored]:
    """The admitted plugins; none of a store that keeps no plugins, such as etcd."""
    from netstore.client.cluster import Refused  # noqa: PLC0415 - see Settings.run

    try:
        return await client.admitted()
    except Refused as error:
        if error.status == 404:
            return ()
        raise


def content(stored: Stored) -> dict[str, Any]:
    """The JSON document of an admitted plugin."""
    document: dict[str, Any] = msgspec.to_builtins(stored.plugin)
    if "wheel" in document:
        document["wheel"]["received"] = stored.received
    return document


def _row(stored: Stored) -> tuple[str | None, ...]:
    each, wheel = stored.plugin, stored.plugin.wheel
    if wheel is None:
        kept = None
    else:
        kept = "yes" if stored.received == wheel.size else f"{100 * stored.received // wheel.size}%"
    return (
        each.name,
        each.versions or "any",
        "no" if each.schema is None else "yes",
        None if wheel is None else wheel.file,
        kept,
        _time(each.since) if each.since else None,
    )


def _is_admitted(name: str, version: str, admitted: Mapping[str, Plugin]) -> bool:
    known = admitted.get(name)
    return name in BUILT_IN if known is None else is_in_range(version, known.versions)


def _report(report: Report, admitted: Mapping[str, Plugin]) -> dict[str, Any]:
    return {
        "node": report.node,
        "agent": report.agent,
        "running": report.running or None,
        "installed": [
            {
                "name": each.name,
                "version": each.version,
                "wheel": each.wheel or None,
                "problem": each.problem or None,
                "admitted": _is_admitted(each.name, each.version, admitted),
            }
            for each in report.installed
        ],
    }


def _report_rows(
    address: str, report: Report, admitted: Mapping[str, Plugin]
) -> list[tuple[str | None, ...]]:
    return [
        (
            report.node,
            address,
            "yes" if each.name == report.running else "no",
            each.name,
            each.version or None,
            "yes" if _is_admitted(each.name, each.version, admitted) else "no",
            each.problem or None,
        )
        for each in report.installed
    ]


async def _naming(settings: Settings, prefix: str, name: str) -> list[str]:
    """The APIs in which the network config at a prefix names a plugin. One that is not served has none."""
    from netstore.client.faults import BadAnswer  # noqa: PLC0415 - see Settings.run
    from netstore.client.storeapi import StoreAccess  # noqa: PLC0415 - same

    found: list[str] = []
    fault: Exception | None = None
    async with StoreAccess(settings.connection(settings.addresses()), prefix) as access:
        for api in ("v2", "v3"):
            try:
                entry = await (await access.store(api)).config()
            except BadAnswer:
                continue
            except (NetstoreError, Failure, OSError) as error:
                fault = error  # raised within, it would come out of a nursery in a group
                break
            if entry is not None and name in types_in(entry.value or ""):
                found.append(api)
    if fault is not None:
        raise fault
    return found


def types_in(text: str | bytes) -> set[str]:
    """The Type that a network config names, in lower case; none if it is no config."""
    try:
        document = msgspec.json.decode(text)
        sections = [value for name, value in document.items() if name.lower() == "backend"]
        return {str(v).lower() for each in sections for n, v in each.items() if n.lower() == "type"}
    except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError, RecursionError):
        return set()


def _wheel(source: str, as_name: str | None, signature: str | None) -> tuple[bytes, Wheel, str, str]:
    """The bytes of a wheel, what the store is told of it, its backend, and its version."""
    from netstore.network.wheel import BadWheel, read_wheel  # noqa: PLC0415 - one command of many needs it

    data = content_of(source, MAX_WHEEL_BYTES, "give a wheel")
    try:
        found = read_wheel(data)
    except BadWheel as error:
        raise refused(f"{source}: {error}") from None
    names = sorted(found.backends)
    if as_name is not None and as_name not in names:
        raise refused(f"{source}: has no backend {as_name}; it has {', '.join(names) or 'none'}")
    if as_name is None and len(names) != 1:
        raise refused(f"{source}: has {len(names)} backends ({', '.join(names)}); name one with --name")
    signed = _signature(signature) if signature else ""
    wheel = Wheel(Path(source).name, hashlib.sha256(data).hexdigest(), len(data), signed)
    return data, wheel, as_name or names[0], found.version


def _exactly(source: str, version: str) -> str:
    """The range of a wheel's version alone; `Failure` for one that no range can name."""
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)*", version) is None:
        raise refused(
            f"{source}: its version {version} is none that a range can name, which has release numbers only;"
            " give those that nodes may run with --version, such as '>=1,<2'"
        )
    return f"=={version}"


def _signature(source: str) -> str:
    """A signature as the store keeps it: in base64. The file has its 64 bytes, or their base64."""
    import base64  # noqa: PLC0415 - one option of many needs it
    import binascii  # noqa: PLC0415 - same

    data = content_of(source, MAX_SIGNATURE_BYTES, "give a file of a signature as --signature")
    if len(data) != SIGNATURE_BYTES:
        try:
            data = base64.b64decode(data.strip(), validate=True)
        except binascii.Error:
            data = b""
    if len(data) != SIGNATURE_BYTES:
        raise refused(f"{source}: is no Ed25519 signature; give its 64 bytes, or their base64")
    return base64.b64encode(data).decode()


def _schema(source: str) -> dict[str, Any]:
    text = content_of(source, MAX_SCHEMA_BYTES, "give a JSON Schema as --schema")
    try:
        if is_deep(text):
            raise refused(f"{source}: nested deeper than {MAX_DEPTH} levels; give a JSON Schema of fewer")
        schema = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f"{source}: not JSON ({parse_problem(error)})") from None
    if not isinstance(schema, dict):
        raise refused(f"{source}: not a JSON object; a schema is one")
    return schema


def _pair(word: str) -> tuple[str, Any]:
    """A setting: its value is JSON where that can be read, else text; `TAKEN_AWAY` if there is none."""
    name, equals, text = word.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{word!r} is not OPTION=VALUE", param_hint="--setting")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{word!r} is not UTF-8", param_hint="--setting") from None
    if is_deep(text.encode()):
        raise click.BadParameter(f"{name} is nested deeper than {MAX_DEPTH} levels", param_hint="--setting")
    if not text:
        return name, TAKEN_AWAY
    try:
        return name, msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return name, text


def _fields(
    document: Mapping[str, Any], above: str = "", levels: int = SHOWN_LEVELS
) -> Iterator[tuple[str, str]]:
    """Each value of a document with its path, one a row; objects below these levels as JSON."""
    for name, value in document.items():
        path = above + name
        if isinstance(value, dict) and value and levels > 1:
            yield from _fields(value, f"{path}.", levels - 1)
        elif path == "since" and type(value) is int:
            yield path, _time(value)
        else:
            yield path, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _time(seconds: int) -> str:
    """An instant in UTC, from seconds since 1970; the number itself if it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
