"""Which log a full backup is of: a digest of its last entries, which an archive of the log has too.

A cluster id and an index do not tell: a store that was begun anew with the same settings has the same ones,
and so have the parts of a cluster of which one was forced to go on alone. An entry has the time of its
proposal in nanoseconds, so that no two logs have the same one; and where two logs of one cluster have an
entry of one term at an index, they have the same ones before it (Raft, section 5.3: log matching).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from netstore.codec import layout
from netstore.disk.archivefile import wall_of
from netstore.disk.backupfile import LogPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry

MOST_ENTRIES: Final = 64
"""So many entries are looked at for one that has a time. Those without are few: a leader's first ones."""

DATA_BYTES: Final = 4096
"""So much of the data of an entry is part of the digest, so that it takes no more than a millisecond."""

_ENTRY: Final = layout("QQBQ")
"""Index, term, kind, bytes of data."""


def last_part(entries: Sequence[Entry]) -> LogPart | None:
    """That of the last of these consecutive entries: from the newest one that has a time on, or all of them
    if none has. None without entries.
    """
    for at in reversed(range(len(entries))):
        if wall_of(entries[at]) or at == 0:
            return part_of(entries[at:])
    return None


def part_of(entries: Sequence[Entry]) -> LogPart:
    """That of all of these consecutive entries, at least one."""
    digest = blake2b(digest_size=16)
    for entry in entries:
        digest.update(_ENTRY.pack(entry.index, entry.term, entry.kind, len(entry.data)))
        digest.update(entry.data[:DATA_BYTES])
    return LogPart(first=entries[0].index, last=entries[-1].index, digest=digest.hexdigest())
