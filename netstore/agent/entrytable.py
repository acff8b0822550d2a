"""The neighbour and forwarding entries of the backend's devices: the wanted ones, the kernel's, and which of
them have to be compared.

Invariants:

- `present` has every entry of the devices in `devices` as of the last notification processed. Entries of
  other devices are never looked at.
- An entry the kernel rejected is tried again only when it is declared with another value, or at `retry`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from netstore.agent.entryplan import Entry, SetEntry, plan_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from netstore.agent.entryplan import DeleteEntry, EntryStep, Key
    from netstore.agent.kernel import EntryChange
    from netstore.agent.wanted import Forwarding, Neighbour

    Named = tuple[str, bytes]

_OUT_OF_DATE: Final = frozenset({errno.EEXIST, errno.ENODEV})
"""Errors that mean that the kernel's state is not what is known of it."""


class EntryTable:
    """The entries of the backend's devices. A name stands for a device that may not exist yet."""

    def __init__(self) -> None:
        self.named: dict[Named, bytes] = {}
        """The wanted entries: device name and key, value."""
        self.wanted: dict[Key, Entry] = {}
        """Those of them whose device exists."""
        self.unbound: set[Named] = set()
        """The others."""
        self.devices: dict[int, str] = {}
        """The backend's devices that exist, by number."""
        self.present: dict[Key, Entry] = {}
        self.rejected: dict[Entry, int] = {}
        """Wanted entries the kernel rejected, with the errno."""
        self.dirty: set[Key] | None = None
        """Keys to compare; None for all."""
        self._unresolved: set[Named] = set()
        """What is new or changed among the wanted entries."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be looked up or compared."""
        return self.dirty == set() and not self._unresolved

    @property
    def problems(self) -> dict[Named, str]:
        """For each wanted entry that is not in place, the reason."""
        found = {named: f"there is no usable device {named[0]} of the backend's" for named in self.unbound}
        for entry, code in self.rejected.items():
            found[self.devices.get(entry.ifindex, ""), entry.key] = _rejection(entry, code)
        return found

    def declare(self, neighbours: Iterable[Neighbour], forwarding: Iterable[Forwarding]) -> None:
        """Replace the wanted entries."""
        before, self.named = self.named, {(each[0], each[1]): each[2] for each in neighbours}
        self.named.update(((each[0], each[1]), each[2]) for each in forwarding)
        self._unresolved.update(named for named, value in self.named.items() if before.get(named) != value)
        self._unresolved.update(named for named in before if named not in self.named)

    def rebind(self, numbers: Mapping[str, int]) -> None:
        """The devices changed: look up those of all wanted entries. `numbers` are those of the backend's
        devices that exist, by name.
        """
        self.wanted.clear()
        self.rejected.clear()
        self.unbound.clear()
        self.devices = {number: name for name, number in numbers.items()}
        self.present = {key: one for key, one in self.present.items() if one.ifindex in self.devices}
        self._unresolved = set(self.named)
        self.dirty = None

    def bind(self) -> None:
        """Look up the devices of the entries that were declared."""
        numbers = {name: number for number, name in self.devices.items()}
        named, self._unresolved = self._unresolved, set()
        for each in named:
            self.unbound.discard(each)
            value = self.named.get(each)
            ifindex = numbers.get(each[0])
            if ifindex is None:
                if value is not None:
                    self.unbound.add(each)
                continue
            key = (ifindex, each[1])
            before = self.wanted.pop(key, None)
            if before is not None:
                self.rejected.pop(before, None)
            if value is not None:
                self.wanted[key] = Entry(ifindex, each[1], value)
            self.mark((key,))

    def mark(self, keys: Iterable[Key]) -> None:
        """These keys have to be compared."""
        if self.dirty is not None:
            self.dirty.update(keys)

    def retry(self) -> None:
        """The kernel may accept now what it rejected."""
        self.mark((entry.ifindex, entry.key) for entry in self.rejected)
        self.rejected.clear()

    def load(self, entries: Iterable[Entry]) -> None:
        """Take over the kernel's entries of all `devices`."""
        self.present = {(entry.ifindex, entry.key): entry for entry in entries}
        self.dirty = None

    def steps(self) -> tuple[list[SetEntry], list[DeleteEntry]]:
        """The additions and deletions for the dirty keys, which have to be looked at again after them."""
        additions, deletions = plan_entries(self.wanted, self.present, self.dirty)
        if self.rejected:
            additions = [step for step in additions if step.entry not in self.rejected]
        self.dirty = {(step.entry.ifindex, step.entry.key) for step in additions}
        self.dirty.update((step.entry.ifindex, step.entry.key) for step in deletions)
        return additions, deletions

    def failed(self, step: EntryStep, code: int) -> bool:
        """A step failed with this errno. True if the kernel's state has to be read again."""
        if isinstance(step, SetEntry):
            if code in _OUT_OF_DATE:
                return True
            self.rejected[step.entry] = code
        else:
            self.present.pop((step.entry.ifindex, step.entry.key), None)
        return False

    def apply(self, change: EntryChange) -> None:
        """The kernel's tables changed."""
        entry = change.entry
        if entry.ifindex not in self.devices:
            return
        key = (entry.ifindex, entry.key)
        self.mark((key,))
        if not change.deleted:
            self.present[key] = entry
        elif entry.value in (b"", self.present.get(key, entry).value):
            self.present.pop(key, None)


def _rejection(entry: Entry, code: int) -> str:
    what = "forwarding entry" if entry.is_forwarding else "neighbour entry"
    if code in (errno.EPERM, errno.EACCES):
        return f"no permission to write its {what}; the agent needs CAP_NET_ADMIN"
    return f"the kernel rejected its {what}: {os.strerror(code)}"
