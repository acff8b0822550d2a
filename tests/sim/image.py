"""The whole replicated state of a member in one comparable form."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from netstore.intervals import TO_THE_END
from netstore.state import tables
from netstore.state.digest import digest as state_digest
from netstore.state.v2 import records
from netstore.state.v3.commands import Found, Range
from tests.support.contents import nodes_of

if TYPE_CHECKING:
    from netstore.state.machine import Machine


def image(machine: Machine) -> list[bytes]:
    """Every replicated thing, in a fixed order: nodes, window, members, scalars, v3 keys."""
    nodes = sorted(nodes_of(machine.tree), key=lambda node: node.key)
    return [
        *(node.key + records.pack_node(node) for node in nodes),
        *(records.pack_event(event) for event in machine.history.since(0)),
        *(tables.encode(machine.members[node]) for node in sorted(machine.members)),
        tables.encode((machine.tree.index, machine.statistics.replicated(), machine.roster.cluster_version)),
        _pairs(machine),
    ]


def _pairs(machine: Machine) -> bytes:
    """The v3 keys and their leases, the alarms, and what the members compare among themselves."""
    found = machine.mvcc.range(Range(b"\0", TO_THE_END))
    assert isinstance(found, Found)
    leases = sorted((each.id, each.ttl, each.since, each.remaining) for each in machine.leases)
    alarms = sorted(machine.alarms.active)
    return tables.encode((found.kvs, leases, alarms, sorted(machine.removed), state_digest(machine)))


def digest(machine: Machine) -> str:
    """A short form of `image`."""
    whole = sha256()
    for part in image(machine):
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.hexdigest()
