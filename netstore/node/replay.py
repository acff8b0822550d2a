"""Replay of archived entries on a state, through the state machine alone. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from netstore.disk.archivefile import payload_of
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from netstore.raft.entry import Entry
    from netstore.state.machine import Machine
    from netstore.types import KeyChange


class Replayed(NamedTuple):
    """An entry that was applied, and what it changed of the v3 keys."""

    entry: Entry
    changes: Sequence[KeyChange]


def _ignore() -> None:
    """The engine needs no pause."""


def replay(
    machine: Machine,
    entries: Iterable[Entry],
    *,
    to_index: int | None = None,
    to_revision: int | None = None,
    pause: Callable[[], object] = _ignore,
) -> Iterator[Replayed]:
    """Apply entries in order; those that the state has are passed over. Stops after the entry `to_index`, or
    with the first one after which the v3 keys have the revision `to_revision`, which is entry 1 at least:
    without an entry there is no state. `pause` is called after each
    save; what is left to save at the end is for the caller.

    NetstoreError if an entry is missing between two others; CannotApply, with the state as it was, for one
    that this release cannot apply.
    """
    for entry in entries:
        if entry.index <= machine.applied:
            continue
        if to_index is not None and machine.applied >= to_index:
            return
        if to_revision is not None and machine.applied and machine.mvcc.revision >= to_revision:
            return
        if entry.index != machine.applied + 1:
            raise NetstoreError(
                f"entry {machine.applied + 1} is missing, the next one is {entry.index}: use another archive"
            )
        machine.enter(entry.index, payload_of(entry))
        machine.v2.take_events()
        changes = machine.take_changes()
        if machine.is_save_due:
            machine.save()
            pause()
        if machine.sweeping:
            machine.sweep()
            pause()
        yield Replayed(entry, changes)
