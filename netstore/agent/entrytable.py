"""The neighbour and forwarding entries of the backend's devices: the wanted ones, the kernel's, and which of
them have to be compared.

Invariants:

- `present` has every entry of the devices in `devices` as of the last notification processed. Entries of
  other devices are never looked at.
- An entry the kernel rejected is tried again only when it is declared with another value, or at `retry`.

What may concern all entries is a generator, as in `routetable`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from netstore.agent.entryplan import Entry, SetEntry, plan_entries
from netstore.agent.routetable import SLICE

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from netstore.agent.entryplan import DeleteEntry, EntryStep, Key
    from netstore.agent.kernel import EntryChange

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
        self.dirty: set[Key] = set()
        """Keys to compare."""
        self._unresolved: set[Named] = set()
        """What is new or changed among the wanted entries, or whose device is."""
        self._numbers: dict[str, int] = {}

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be looked up or compared."""
        return not self.dirty and not self._unresolved

    @property
    def problems(self) -> dict[Named, str]:
        """For each wanted entry that is not in place, the reason."""
        found = {named: f"there is no usable device {named[0]} of the backend's" for named in self.unbound}
        for entry, code in self.rejected.items():
            found[self.devices.get(entry.ifindex, ""), entry.key] = _rejection(entry, code)
        return found

    def declare(self, changes: Mapping[Named, bytes | None]) -> None:
        """Change the wanted entries; None for those that are wanted no more."""
        for named, value in changes.items():
            if value is not None:
                self.named[named] = value
            else:
                self.named.pop(named, None)
            self._unresolved.add(named)

    def clear(self) -> None:
        """No entry is wanted."""
        self.declare(dict.fromkeys(self.named))

    def rebind(self, numbers: Mapping[str, int]) -> bool:
        """The devices changed. `numbers` are those of the backend's devices that exist, by name. True if
        there are others than before; then the entries of all have to be loaded.
        """
        if self._numbers == numbers:
            return False
        has_new = not set(numbers.values()) <= self.devices.keys()
        self._numbers = dict(numbers)
        self.wanted.clear()
        self.rejected.clear()
        self.unbound.clear()
        self.devices = {number: name for name, number in numbers.items()}
        self.present = {key: one for key, one in self.present.items() if one.ifindex in self.devices}
        self._unresolved.update(self.named)
        self.dirty = set(self.present)
        return has_new

    def bind(self) -> Generator[None]:
        """Look up the devices of the entries that were declared."""
        taken = 0
        while self._unresolved:
            each = self._unresolved.pop()
            self.unbound.discard(each)
            value = self.named.get(each)
            ifindex = self._numbers.get(each[0])
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
            self.dirty.add(key)
            taken += 1
            if taken % SLICE == 0:
                yield

    def retry(self) -> None:
        """The kernel may accept now what it rejected."""
        self.dirty.update((entry.ifindex, entry.key) for entry in self.rejected)
        self.rejected.clear()

    def load(self, entries: Sequence[Entry]) -> Generator[None]:
        """Take over the kernel's entries of all `devices`."""
        present: dict[Key, Entry] = {}
        for start in range(0, len(entries), SLICE):
            present.update(((one.ifindex, one.key), one) for one in entries[start : start + SLICE])
            yield
        self.present = present
        self.dirty.update(self.wanted)
        self.dirty.update(present)

    def steps(self) -> Generator[None, None, tuple[list[SetEntry], list[DeleteEntry]]]:
        """The additions and deletions for the dirty keys, which have to be looked at again after them.

        A frame is sent to the MAC that a neighbour entry tells, so forwarding entries are made before
        neighbours, and deleted after them.
        """
        additions: list[SetEntry] = []
        deletions: list[DeleteEntry] = []
        keys = list(self.dirty)
        for start in range(0, len(keys), SLICE):
            if start:
                yield
            planned = plan_entries(self.wanted, self.present, keys[start : start + SLICE])
            additions += planned.additions
            deletions += planned.deletions
        if self.rejected:
            additions = [step for step in additions if step.entry not in self.rejected]
        additions.sort(key=lambda step: not step.entry.is_forwarding)
        deletions.sort(key=lambda step: step.entry.is_forwarding)
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
        self.dirty.add(key)
        if not change.deleted:
            self.present[key] = entry
        elif entry.value in (b"", self.present.get(key, entry).value):
            self.present.pop(key, None)


def _rejection(entry: Entry, code: int) -> str:
    what = "forwarding entry" if entry.is_forwarding else "neighbour entry"
    if code in (errno.EPERM, errno.EACCES):
        return f"no permission to write its {what}; the agent needs CAP_NET_ADMIN"
    return f"the kernel rejected its {what}: {os.strerror(code)}"
