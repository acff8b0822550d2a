"""The steps that turn the neighbour tables of the backend's devices into the wanted ones. Pure.

A neighbour entry tells the MAC of an address, a forwarding entry the address behind a MAC. Every permanent
entry of a device of the backend's belongs to the agent; those that the kernel learned are left to it. The
kernel replaces the value of an entry in one step, so a changed entry is never missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAC_BYTES: Final = 6

Key = tuple[int, bytes]
"""The number of the device, and the packed address of a neighbour or the MAC of a forwarding entry."""


class Entry(NamedTuple):
    """An entry of the device `ifindex`. A neighbour: `key` is its packed address, `value` its MAC. A
    forwarding entry: `key` is the MAC, `value` the packed address that frames to it are sent to.
    """

    ifindex: int
    key: bytes
    value: bytes
    permanent: bool = True

    @property
    def is_forwarding(self) -> bool:
        """Whether it is a forwarding entry."""
        return len(self.key) == MAC_BYTES


class SetEntry(NamedTuple):
    """Make the entry, permanent, in the place of the one with its key if there is one."""

    entry: Entry


class DeleteEntry(NamedTuple):
    """Delete the entry with this key."""

    entry: Entry


EntryStep = SetEntry | DeleteEntry


class EntryPlan(NamedTuple):
    """The entries to make and to delete."""

    additions: list[SetEntry]
    deletions: list[DeleteEntry]


def plan_entries(
    wanted: Mapping[Key, Entry], present: Mapping[Key, Entry], keys: Collection[Key]
) -> EntryPlan:
    """The steps from `present` to `wanted` for the given keys."""
    additions = [SetEntry(wanted[key]) for key in keys if key in wanted and present.get(key) != wanted[key]]
    deletions = [
        DeleteEntry(present[key])
        for key in keys
        if key not in wanted and key in present and present[key].permanent
    ]
    return EntryPlan(additions, deletions)
