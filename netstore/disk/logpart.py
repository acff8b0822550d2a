"""Which log a full backup is of: a digest of its last entries, which an archive of the log has too.

A cluster id and an index do not tell: a store that was begun anew with the same settings has the same ones,
and so have the parts of a cluster of which one was forced to go on alone. An entry has the time of its
proposal in nanoseconds, so that no two logs have the same one; and where two logs of one cluster have an
entry of one term at an index, they have the same ones before it (Raft, section 5.3: log matching).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.codec import layout
from netstore.disk.archivefile import wall_of
from netstore.disk.backupfile import LogPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.raft.entry import Entry

MOST_ENTRIES: Final = 64
"""So many entries are looked at for one that has a time. Those without are few: a leader's first ones."""

DATA_BYTES: Final = 4096
"""So much of the data of an entry is part of the digest, so that it takes no more than a millisecond."""

_ENTRY: Final = layout("QQBQ")
"""Index, term, kind, bytes of data."""


class Piece(NamedTuple):
    """What the digest has of one entry."""

    at: int
    """Its index."""
    is_timed: bool
    """Whether the entry has a time."""
    data: bytes
    """DATA_BYTES of its data at most, after what else is known of it."""


def piece_of(entry: Entry) -> Piece:
    """That of an entry."""
    head = _ENTRY.pack(entry.index, entry.term, entry.kind, len(entry.data))
    return Piece(entry.index, wall_of(entry) != 0, head + entry.data[:DATA_BYTES])


def last_part(entries: Sequence[Entry]) -> LogPart | None:
    """That of the last of these consecutive entries: from the newest one that has a time on, or all of them
    if none has. None without entries.
    """
    return last_of(piece_of(entry) for entry in reversed(entries))


def last_of(newest_first: Iterable[Piece]) -> LogPart | None:
    """As `last_part`, of the pieces of the entries from the last one back; no more are taken than needed."""
    found: list[Piece] = []
    for piece in newest_first:
        found.append(piece)
        if piece.is_timed:
            break
    return joined(found[::-1]) if found else None


def joined(pieces: Sequence[Piece]) -> LogPart:
    """That of all entries of which these are the pieces, at least one."""
    digest = blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece.data)
    return LogPart(first=pieces[0].at, last=pieces[-1].at, digest=digest.hexdigest())
