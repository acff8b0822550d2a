"""`netstorectl network`: the network config document, checked before any daemon reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from netstore.cli.commands.failures import Exit, Failure, content_of, refused
from netstore.cli.commands.invocation import (
    MAX_INPUT_BYTES,
    Settings,
    index_of,
    say,
    standard_input,
    text_of,
    warn,
)
from netstore.cli.commands.leases import survey
from netstore.cli.commands.options import NAME, Group, pass_settings
from netstore.cli.commands.plugin import admitted_if_any, ask_plugins, types_in
from netstore.cli.output import Form, Table, emit_value
from netstore.errors import NetstoreError, parse_problem
from netstore.network.addresses import show_ip
from netstore.network.backends import BUILT_IN, FOREIGN
from netstore.network.check import check_network
from netstore.network.config import Network, NetworkConfigError, parse_network
from netstore.network.depth import is_deep
from netstore.network.ipv6 import show_ip6
from netstore.network.migration import FOLDER, PLAN, parse_plan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netstore.client.subnetstore import Differs, Entry, Missing, SubnetStore, Written
    from netstore.network.lease import SubnetLease
    from netstore.network.migration import Plan
    from netstore.network.plugins import Plugin

NAMED_ORPHANS: Final = 3
"""How many leases outside the network a refusal names; the rest is counted."""

FOR_FLANNELD: Final = "--force writes it for flanneld all the same"

source_argument = click.argument("source", metavar="[FILE|-|JSON]", required=False, type=NAME)


@click.group(cls=Group)
def network() -> None:
    """The pod network all nodes share."""


@network.command(name="set")
@click.option(
    "--force", is_flag=True, help="Write it whatever becomes of the leases, and to an etcd any JSON."
)
@source_argument
@pass_settings
def set_(settings: Settings, source: str | None, *, force: bool) -> None:
    """Check a config, write it and show what changed. Without a source it is read from standard input.

    Refused are a config that no daemon can use, one that netstore-agent cannot run with the plugins that are
    admitted, one that leaves nodes' leases outside, and any while a migration is under way. --force writes
    all but the first to any store, the first only to an etcd: a netstored checks every config itself.
    """
    text = document_given(source)
    value = text_of(text, "config")
    admitted = admitted_for(settings, text)
    warnings, problem = judged(text, admitted)
    if problem is not None:
        if not force:
            raise refused(problem)
        _must_be_json(text)
    wanted = checked(text)[0]
    unusable = unusable_by_agents(text, admitted)
    if unusable is not None and problem is None and not force:
        raise refused(f"{unusable}; {FOR_FLANNELD}")
    key = settings.key("config")

    async def reading(store: SubnetStore) -> tuple[Entry | None, Sequence[Entry]]:
        return await store.config(), (await store.entries()).entries

    before, entries = settings.ask_network(reading)
    if before is not None and before.value is None:
        raise refused(f"{key}: is a directory; the config is a file")
    present = None if before is None else before.value
    told = warnings
    present_network = None if present is None else checked(present.encode())[0]
    plan = None if present == value else plan_under_way(settings)
    if plan is not None:
        migration = f"the migration {plan.id} is under way ({plan.phase})"
        if not force:
            raise refused(
                f"{key}: {migration}: go on with it (network migrate), or end it (network migrate abort);"
                " --force writes the config all the same"
            )
        told = (*told, f"{migration}, and cannot go on to another config; network migrate abort ends it")
    lost = orphans(entries, present_network, wanted)
    if lost and not force:
        raise refused(f"{key}: {_orphaned(lost)}; release those leases first, or give --force")
    if lost:
        told = (*told, _orphaned(lost))
    if wanted is not None:
        if entries and present_network is not None and present_network.backend_type != wanted.backend_type:
            told = (*told, "Backend.Type: running daemons keep the old backend until each is started again")
        if entries and present_network is not None and present_network.ipv6 != wanted.ipv6:
            told = (
                *told,
                "IPv6Network: running daemons keep the old IPv6 subnets until each is started again",
            )

    async def writing(store: SubnetStore) -> Written | Missing | Differs:
        return await store.write_config(value, 0 if before is None else before.modified)

    action, index = "unchanged", 0 if before is None else before.modified
    if present != value:
        try:
            written = index_of(settings.ask_network(writing))
        except Failure as failure:
            if problem is None or failure.status is not Exit.REFUSED:
                raise
            raise refused(
                f"{failure.text}; --force does not help: this store checks every config itself"
            ) from None
        if written is None:
            raise refused(f"{key}: somebody else has changed it meanwhile; look at it and try again")
        action, index = ("created" if before is None else "changed"), written
    if problem is not None:
        told = (*told, f"written although {problem}")
    for remark in told:
        warn(remark)
    changes = differences(present, value)
    if settings.form is Form.TABLE and not changes:
        say(f"{key}: {action}, and means the same as before")
        return
    settings.show(
        {
            "key": key,
            "action": action,
            "modifiedIndex": index,
            "changes": [{"field": field, "before": old, "after": new} for field, old, new in changes],
            "warnings": list(told),
        },
        Table(("FIELD", "BEFORE", "AFTER"), [(field, *_pair(old, new)) for field, old, new in changes]),
    )


@network.command()
@click.option("--raw", is_flag=True, help="The document as it is stored, to edit and to set again.")
@pass_settings
def get(settings: Settings, *, raw: bool) -> None:
    """Print the config and what daemons make of it."""
    key = settings.key("config")
    text, index = _present(settings, key)
    if raw:
        emit_value(text)
        return
    _report(settings, text.encode(), {"key": key, "modifiedIndex": index})


@network.command()
@source_argument
@pass_settings
def check(settings: Settings, source: str | None) -> None:
    """Check a config and change nothing; without a source the one in the store.

    The rules are those of `network set`, but that no leases are looked at. With a source no store is asked,
    unless for the plugins that it admits, if Backend.Type names no built-in backend. Exit status 0: `network
    set` writes it without --force, if no lease stands in the way.
    """
    if source is None:
        key = settings.key("config")
        text, index = _present(settings, key)
        _report(settings, text.encode(), {"key": key, "modifiedIndex": index}, for_agents=True)
    else:
        _report(settings, document_given(source), {}, for_agents=True)


def checked(text: bytes) -> tuple[Network | None, str | None]:
    """The network that a document describes; `Failure` with problem and fix if it is invalid."""
    try:
        return parse_network(text), None
    except NetworkConfigError as error:
        return None, str(error)


def judged(text: bytes, admitted: Mapping[str, Plugin]) -> tuple[tuple[str, ...], str | None]:
    """What the store makes of a document (`network.check`) with these admitted plugins: the warnings, and why
    it must not be written, with the fix.
    """
    try:
        return check_network(text, admitted), None
    except NetworkConfigError as error:
        return (), str(error)


def unusable_by_agents(text: bytes, admitted: Collection[str]) -> str | None:
    """Why netstore-agent cannot run a network that some version of flannel can, with the fix; None if it
    can.
    """
    network, problem = checked(text)
    if network is None:
        return problem
    if network.backend_type in FOREIGN and network.backend_type not in admitted:
        known = ", ".join(sorted({*BUILT_IN, *admitted}))
        named = f"Backend.Type: {network.backend_type}"
        if not types_in(text):
            named = f"Backend: not given, which means {network.backend_type}; that"
        return (
            f"{named} is a backend of flanneld that no admitted plugin has; choose one of {known}, or admit a"
            " plugin of this name with netstorectl plugin admit"
        )
    return None


def admitted_for(settings: Settings, text: bytes, *, must_answer: bool = True) -> Mapping[str, Plugin]:
    """The admitted plugins by name, if a document needs them: the store is asked only if it names a backend
    that is not built in. Unless it `must_answer`, none are known where it does not, which is warned of.
    """
    if types_in(text) <= BUILT_IN.keys():
        return {}
    try:
        stored = ask_plugins(settings, admitted_if_any)
    except Failure as failure:
        if must_answer:
            raise
        warn(f"the store was not asked for the plugins that it admits: {failure.text}")
        return {}
    return {each.plugin.name: each.plugin for each in stored}


def plan_under_way(settings: Settings) -> Plan | None:
    """The plan of a migration that is not over; None also for one that cannot be read: agents follow none."""

    async def reading(store: SubnetStore) -> Sequence[Entry]:
        return (await store.entries()).entries

    for entry in settings.ask_network(reading, FOLDER):
        if entry.name == PLAN:
            try:
                plan = parse_plan(entry.value)
            except NetstoreError:
                return None
            return None if plan.phase.is_over else plan
    return None


def effective(network: Network) -> list[tuple[str, str | int]]:
    """The settings that daemons take from a document, defaults included."""
    ipv6 = network.ipv6
    return [
        ("Network", str(network.network)),
        ("SubnetLen", network.subnet_len),
        ("SubnetMin", show_ip(network.subnet_min)),
        ("SubnetMax", show_ip(network.subnet_max)),
        *(
            ()
            if ipv6 is None
            else (
                ("IPv6Network", str(ipv6.network)),
                ("IPv6SubnetLen", ipv6.subnet_len),
                ("IPv6SubnetMin", show_ip6(ipv6.subnet_min)),
                ("IPv6SubnetMax", show_ip6(ipv6.subnet_max)),
            )
        ),
        ("Backend.Type", network.backend_type),
    ]


def orphans(entries: Sequence[Entry], present: Network | None, wanted: Network | None) -> list[SubnetLease]:
    """The leases that fit the stored document, if that is valid, and do not fit the new one. None: it cannot
    be used by netstore-agent. None fits such a document; if both are such, nothing is known.

    Their nodes would keep subnets of the old network, and get others at their next start.
    """
    if wanted is None and present is None:
        return []
    leases = [record.lease for record in survey(entries, None, "") if record.lease is not None]
    return [
        lease
        for lease in leases
        if (wanted is None or not wanted.fits(lease.subnet))
        and (present is None or present.fits(lease.subnet))
    ]


def differences(before: str | None, after: str) -> list[tuple[str, Any, Any]]:
    """The differences of two documents as (field, old value, new value); None: absent.

    Names are compared in any case, as daemons read them.
    """
    old, new = _fields(before), _fields(after)
    changes = []
    for folded in [*new, *(name for name in old if name not in new)]:
        name = (new.get(folded) or old[folded])[0]
        was, becomes = old.get(folded, (name, None))[1], new.get(folded, (name, None))[1]
        if _exact(was) != _exact(becomes):
            changes.append((name, was, becomes))
    return changes


def _fields(text: str | None) -> dict[str, tuple[str, Any]]:
    """Every leaf of a document: folded path -> path as written, value."""
    if text is None:
        return {}
    if is_deep(text.encode()):
        return {"document": ("document", text)}
    try:
        document = msgspec.json.decode(text)
    except ValueError:
        return {"document": ("document", text)}
    leaves: dict[str, tuple[str, Any]] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict) and (value or not path):
            for name, inner in value.items():
                walk(f"{path}.{name}" if path else name, inner)
        else:
            leaves[path.lower()] = (path or "document", value)

    walk("", document)
    return leaves


def _exact(value: Any) -> str:
    """A form of a value for comparison: 1, 1.0, true and "1" differ, and the order of names is ignored."""
    return json.dumps(value, sort_keys=True)


def _pair(before: Any, after: Any) -> tuple[str | None, str | None]:
    """Two values for display, in quotes only if they would look the same without."""
    plain = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in (before, after)
    ]
    if plain[0] == plain[1]:
        plain = [json.dumps(before), json.dumps(after)]
    return plain[0], plain[1]


def document_given(source: str | None) -> bytes:
    """The document given as FILE, `-` or JSON, stripped of white space."""
    if source is None or source == "-":
        content = standard_input("config")
    elif source.lstrip().startswith(("{", "[")):
        content = source.encode(errors="surrogateescape")
    else:
        content = content_of(source, MAX_INPUT_BYTES, "give a file, - or the JSON itself")
    return content.strip()


def _must_be_json(text: bytes) -> None:
    if not text:
        raise refused("config: the document is empty; --force does not help here")
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise refused(f"config: not JSON ({parse_problem(error)}); --force does not help here") from None


def _present(settings: Settings, key: str) -> tuple[str, int]:
    """The config in the store, and the index of its last change."""

    async def reading(store: SubnetStore) -> Entry | None:
        return await store.config()

    entry = settings.ask_network(reading)
    if entry is None:
        raise Failure(
            Exit.NOT_FOUND, f"{key}: not found; write one with network set, or name another --prefix"
        )
    if entry.value is None:
        raise refused(f"{key}: is a directory; the config is a file")
    return entry.value, entry.modified


def _orphaned(lost: Sequence[SubnetLease]) -> str:
    named = ", ".join(f"{lease.subnet} of {show_ip(lease.public_ip)}" for lease in lost[:NAMED_ORPHANS])
    more = f" and {len(lost) - NAMED_ORPHANS} more" if len(lost) > NAMED_ORPHANS else ""
    return f"leaves {len(lost)} lease{'' if len(lost) == 1 else 's'} outside ({named}{more})"


def _report(settings: Settings, text: bytes, where: dict[str, object], *, for_agents: bool = False) -> None:
    """Print the settings that daemons take from a document; `Failure` if it must not be written, or with
    `for_agents` if netstore-agent cannot run it.
    """
    network = checked(text)[0]
    admitted = admitted_for(settings, text, must_answer="key" in where)
    told, problem = judged(text, admitted)
    if problem is None and for_agents:
        unusable = unusable_by_agents(text, admitted)
        problem = None if unusable is None else f"{unusable}; network set {FOR_FLANNELD}"
    for remark in told:
        warn(remark)
    try:
        config = None if is_deep(text) else msgspec.json.decode(text)
    except ValueError:
        config = None
    rows = [] if network is None else effective(network)
    settings.show(
        {
            **where,
            "config": config,
            "effective": dict(rows) or None,
            "problems": [] if problem is None else [problem],
            "warnings": list(told),
        },
        Table(("FIELD", "VALUE"), rows),
    )
    if problem is not None:
        raise refused(problem)
