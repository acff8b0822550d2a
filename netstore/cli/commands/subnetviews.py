"""`netstorectl subnet map` and `history`: who has what and what is free, and who held what before."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands import completion
from netstore.cli.commands.failures import Exit, Failure, in_words
from netstore.cli.commands.invocation import Settings, columns, say
from netstore.cli.commands.leases import both, require_leases
from netstore.cli.commands.netmap import FREE, drawing, mapped, picture, summary
from netstore.cli.commands.options import NAME, Command, pass_settings
from netstore.cli.commands.past import HEADINGS, concerns, spans
from netstore.cli.commands.subnet import record_name, surveyed
from netstore.cli.output import Form, Table, document, emit, plain, table
from netstore.network.addresses import parse_ip, show_ip
from netstore.network.ipv6 import parse_ip6, show_ip6
from netstore.outputfile import open_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.cli.commands.netmap import Map
    from netstore.client.subnetstore import History, Past, SubnetStore

MAX_ROWS: Final = 100
"""Rows of the list below a drawn map."""

MAX_CHANGES: Final = 50_000
"""Changes of the past that are kept; of more, the last."""

MAP_HEADINGS: Final = ("FROM", "SUBNETS", "STATE", "PUBLIC IP", "BACKEND", "TTL", "PROBLEM")


@click.command("map", cls=Command)
@click.option("--svg", metavar="FILE", type=NAME, help="Write a picture; - is standard output.")
@pass_settings
def map_(settings: Settings, *, svg: str | None) -> None:
    """Show which subnets of the network are free, held and reserved, and by whom.

    A table has one sign for each subnet, or for several of a large network, and the list below it if that is
    short; plain lines and JSON have the list, with free subnets in a row as one entry. Exit status 1 if a
    record is no lease.
    """
    records, network, _ = surveyed(settings)
    if network is None:
        raise Failure(
            Exit.NOT_FOUND, f"{settings.key('config')}: no config that daemons can use; see network check"
        )
    found = mapped(network, records)
    _put(settings, found, svg)
    require_leases(records)


def _put(settings: Settings, found: Map, svg: str | None) -> None:
    if svg == "-":
        emit(picture(found))
        return
    if svg is not None:
        path = Path(svg)
        with in_words(path), open_output(path, private=False) as drawn:
            drawn.file.write(picture(found).encode())
    rows = _rows(found)
    if settings.form is Form.JSON:
        emit(document(_content(found)))
    elif settings.form is Form.PLAIN:
        emit(plain(rows))
    else:
        width = columns()
        emit(drawing(found, width or 80))
        if len(rows) <= MAX_ROWS:
            emit("\n" + table(Table(MAP_HEADINGS, rows), columns=width))
        else:
            emit(f"\n{len(rows)} rows are not shown; -o plain lists them\n")


def _rows(found: Map) -> list[tuple[str | int | None, ...]]:
    rows: list[tuple[str | int | None, ...]] = []
    for stretch in found.stretches:
        record = stretch.record
        if record is None:
            rows.append((str(found.subnet(stretch.place)), stretch.count, FREE, None, None, None, None))
            continue
        backend = record.lease.backend_type or None if record.lease is not None else None
        problems = "; ".join(record.problems) or None
        rows.append(
            (
                both(record.subnet, record.subnet6),
                stretch.count,
                stretch.state,
                both(record.public_ip, record.public_ip6),
                backend,
                record.ttl,
                problems,
            )
        )
    for record in found.elsewhere:
        problems = "; ".join(record.problems) or None
        subnets, addresses = (
            both(record.subnet, record.subnet6),
            both(record.public_ip, record.public_ip6),
        )
        rows.append((subnets, 0, "elsewhere", addresses, None, record.ttl, problems))
    return rows


def _address(text: str) -> str | None:
    """An address of either family as it is shown; None for anything else."""
    with contextlib.suppress(ValueError):
        return show_ip(parse_ip(text))
    with contextlib.suppress(ValueError):
        return show_ip6(parse_ip6(text))
    return None


def _content(found: Map) -> dict[str, object]:
    network = found.network
    return {
        "network": str(network.network),
        "subnetLen": network.subnet_len,
        "summary": summary(found),
        "subnets": found.last - found.first + 1,
        "free": found.count(FREE),
        "stretches": [
            {
                "from": str(found.subnet(stretch.place)),
                "to": str(found.subnet(stretch.place + stretch.count - 1)),
                "subnets": stretch.count,
                "state": stretch.state,
                "record": None if stretch.record is None else stretch.record.content(),
            }
            for stretch in found.stretches
        ],
        "elsewhere": [record.content() for record in found.elsewhere],
    }


@click.command("history", cls=Command)
@click.argument("subject", metavar="SUBNET|NODE", shell_complete=completion.subnets)
@pass_settings
def history(settings: Settings, subject: str) -> None:
    """Show who held a subnet, or which subnets a node held, as far back as the store remembers.

    NODE is an address that the node publishes, of either family. v2 remembers the last thousand events of the
    whole store, and when a lease was written or expired; v3 all changes since it was compacted, without their
    times.
    """
    address = _address(subject)
    name = None if address is not None else record_name(subject)

    def wanted(change: Past) -> bool:
        return concerns(change, name=name, address=address)

    async def reading(store: SubnetStore) -> tuple[str, History]:
        return store.api, await store.history(wanted, MAX_CHANGES)

    api, past = settings.ask_network(reading)
    found = [
        span
        for span in spans(past)
        if (
            address in (span.public_ip, span.public_ip6)
            if name is None
            else name in (span.name, *span.name.split("&"))
        )
    ]
    until = f"to {past.last}" if past.last >= past.first else "on: none"
    reach = f"the store remembers the changes from index {past.first} {until}"
    if past.proven < past.last:
        reach += f", and has not proven that it told all of them from {past.proven + 1} on"
    if not found:
        raise Failure(Exit.NOT_FOUND, f"{subject}: nothing is known of it; {reach}")
    rows: Sequence[tuple[str | int | None, ...]] = [span.row() for span in found]
    settings.show(
        {
            "api": api,
            "firstIndex": past.first,
            "lastIndex": past.last,
            "provenIndex": past.proven,
            "spans": [span.content() for span in found],
        },
        Table(HEADINGS, rows),
    )
    if settings.form is Form.TABLE or past.proven < past.last:
        say(f"{reach}; what was before is not known")
