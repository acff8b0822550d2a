"""What Raft keeps on disk: entries, the hard state, configurations, snapshot descriptions, and their byte
form.

Every byte form is little-endian and complete: decoding takes exactly the bytes that encoding gave, and
anything else is `CorruptData`, never another exception. Sizes are checked against the bytes present before
anything is allocated.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import chain, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.codec import layout
from netstore.errors import CorruptData
from netstore.raft.change import Change
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_DATA_BYTES: Final = 64 * 1024 * 1024
"""Largest payload of one entry. It only bounds damaged lengths; requests of users are limited far below
it."""

ENTRY_OVERHEAD_BYTES: Final = 16
"""Counted for each entry in addition to its payload, so that bounds in bytes also bound the number of
entries."""

MAX_CONF_MEMBERS: Final = 4096
"""Most members in one list of a configuration; the limits of the cluster are far lower."""

MAX_STORED: Final = 2**63 - 1
"""Largest term and index of a log on disk. Numbers from other members are at most half as large
(`messages.MAX_NUMBER`), so anything above is damage."""

data_of: Final = attrgetter("data")
"""The payload of an entry. Over many of them `map` with it takes half the time of a comprehension."""

_term_of: Final = attrgetter("term")
_kind_of: Final = attrgetter("kind")

_BATCH = layout("QI")
_ROW = layout("QBI")
_HARD_STATE = layout("QQQ")
_CONF = layout("HHHHB")
_META = layout("QQ")


class EntryKind(IntEnum):
    """What the payload of an entry is."""

    NORMAL = 0
    """A command for the state machine; empty in the entry with which a new leader begins its term."""

    CHANGE = 1
    """A membership change (`change.Change`)."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the replicated log (Ongaro's dissertation, section 3.5)."""

    index: Index
    term: Term
    kind: EntryKind
    data: bytes


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What a member must keep across a crash beside its log: term, vote (0 for none) and a commit index.

    Term and vote must be on disk before a message that depends on them is sent (section 3.8). With the commit
    index a restarted member knows which membership changes are committed; DESIGN.md says why that matters.
    """

    term: Term = Term(0)
    vote: NodeId = NodeId(0)
    commit: Index = Index(0)

    def encode(self) -> bytes:
        """24 bytes."""
        return _HARD_STATE.pack(self.term, self.vote, self.commit)

    @classmethod
    def decode(cls, data: bytes) -> HardState:
        """The inverse of `encode`; CorruptData for anything else."""
        if len(data) != _HARD_STATE.size:
            raise CorruptData(f"hard state has {len(data)} bytes, not {_HARD_STATE.size}")
        term, vote, commit = _HARD_STATE.unpack(data)
        if term > MAX_STORED or commit > MAX_STORED:
            raise CorruptData(f"hard state has term {term}, commit index {commit}: no group reaches these")
        return cls(Term(term), NodeId(vote), Index(commit))


class ConfState(msgspec.Struct, frozen=True, gc=False):
    """A configuration: voters and learners. All four lists are sorted.

    While `voters_outgoing` is not empty the configuration is joint (section 4.3): decisions need a majority
    of `voters` and one of `voters_outgoing`. `learners_next` are outgoing voters that become learners
    when it is left.
    """

    voters: tuple[NodeId, ...] = ()
    voters_outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()

    @property
    def joint(self) -> bool:
        """Whether two majorities are needed."""
        return bool(self.voters_outgoing)

    def members(self) -> tuple[NodeId, ...]:
        """All members, the leader itself included; sorted."""
        return tuple(sorted({*self.voters, *self.voters_outgoing, *self.learners}))

    def votes(self, node: NodeId) -> bool:
        """Whether `node` counts in any majority."""
        return node in self.voters or node in self.voters_outgoing

    def encode(self) -> bytes:
        """9 bytes and 8 for each member. The ninth byte is 1 for a joint configuration: the leader leaves it
        by itself."""
        lists = (self.voters, self.voters_outgoing, self.learners, self.learners_next)
        names = [node for part in lists for node in part]
        head = _CONF.pack(*map(len, lists), self.joint)
        return head + layout(f"{len(names)}Q").pack(*names)

    @classmethod
    def decode(cls, data: bytes) -> ConfState:
        """The inverse of `encode`; CorruptData for anything else, unsorted or contradictory lists
        included."""
        if len(data) < _CONF.size:
            raise CorruptData(f"configuration is cut short at {len(data)} bytes")
        *sizes, flag = _CONF.unpack_from(data)
        if max(sizes) > MAX_CONF_MEMBERS:
            raise CorruptData(f"configuration lists {max(sizes)} members, more than {MAX_CONF_MEMBERS}")
        total = sum(sizes)
        if len(data) != _CONF.size + 8 * total or flag != (sizes[1] > 0):
            raise CorruptData(f"configuration of {total} names has {len(data)} bytes and flag {flag}")
        names = layout(f"{total}Q").unpack_from(data, _CONF.size)
        parts: list[tuple[NodeId, ...]] = []
        start = 0
        for size in sizes:
            part = names[start : start + size]
            if any(a >= b for a, b in pairwise(part)) or (part and part[0] == 0):
                raise CorruptData("configuration names a member twice, out of order, or as 0")
            parts.append(tuple(map(NodeId, part)))
            start += size
        conf = cls(parts[0], parts[1], parts[2], parts[3])
        flaw = conf.flaw()
        if flaw:
            raise CorruptData(f"configuration contradicts itself: {flaw}")
        return conf

    def flaw(self) -> str:
        """What is contradictory in these lists, or an empty text."""
        voting = {*self.voters, *self.voters_outgoing}
        if not self.voters and (voting or self.learners):
            return "no voters"
        if voting & {*self.learners}:
            return "a voter is also a learner"
        if not {*self.learners_next} <= {*self.voters_outgoing} - {*self.voters}:
            return "a learner-to-be is not an outgoing voter"
        return ""


class SnapshotMeta(msgspec.Struct, frozen=True, gc=False):
    """The description of a snapshot: it replaces the log up to `index`, whose entry has `term`, and has the
    configuration there (section 5.1)."""

    index: Index = Index(0)
    term: Term = Term(0)
    conf: ConfState = ConfState()

    def encode(self) -> bytes:
        """16 bytes and the configuration."""
        return _META.pack(self.index, self.term) + self.conf.encode()

    @classmethod
    def decode(cls, data: bytes) -> SnapshotMeta:
        """The inverse of `encode`; CorruptData for anything else."""
        if len(data) < _META.size:
            raise CorruptData(f"snapshot description is cut short at {len(data)} bytes")
        index, term = _META.unpack_from(data)
        if (index == 0) != (term == 0):
            raise CorruptData(f"snapshot description has index {index} with term {term}")
        if index > MAX_STORED or term > MAX_STORED:
            raise CorruptData(
                f"snapshot description has index {index} and term {term}, which no group reaches"
            )
        return cls(Index(index), Term(term), ConfState.decode(data[_META.size :]))


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """A batch of consecutive entries: first index, count, then term, kind, length and payload of each.

    12 bytes, 13 bytes for each entry, and the payloads; an empty batch has index 0. About 0.15 us an entry.
    """
    if len(entries) == 1:  # a write that comes alone: half the time
        (entry,) = entries
        row = _ROW.pack(entry.term, entry.kind, len(entry.data))
        return _BATCH.pack(entry.index, 1) + row + entry.data
    return b"".join(entry_parts(entries))


def entry_parts(entries: Sequence[Entry]) -> list[bytes]:
    """The parts of `encode_entries`, not joined: payloads are large, and are not copied here."""
    if not entries:
        return [_BATCH.pack(0, 0)]
    payloads = list(map(data_of, entries))
    rows = map(_ROW.pack, map(_term_of, entries), map(_kind_of, entries), map(len, payloads))
    return [
        _BATCH.pack(entries[0].index, len(entries)),
        *chain.from_iterable(zip(rows, payloads, strict=True)),
    ]


def decode_entries(
    data: bytes, most: int | None = None, start: int = 0, end: int | None = None
) -> list[Entry]:
    """The inverse of `encode_entries`, from `start` to `end` of the bytes, of which only the payloads are
    copied; CorruptData for anything else, including falling terms and malformed membership changes, and for
    more than `most` entries. About 0.3 us an entry.
    """
    end = len(data) if end is None else end
    indexes = _read_batch(data, most, start, end)
    entries, at = _read_entries(data, start, start + _BATCH.size, end, indexes)
    _check_end(at, end)
    return entries


def entry_pieces(
    data: bytes, most: int, start: int, end: int, *, piece: int, piece_bytes: int
) -> Iterator[list[Entry]]:
    """What `decode_entries` gives, in pieces that are decoded one by one: of up to `piece` entries, or until
    they have `piece_bytes`. An empty batch gives one empty piece.
    """
    indexes = _read_batch(data, most, start, end)
    at, before = start + _BATCH.size, 0
    while True:
        entries, at = _read_entries(
            data, start, at, end, indexes[:piece], before=before, most_bytes=piece_bytes
        )
        indexes = indexes[len(entries) :]
        if not indexes:
            _check_end(at, end)
        yield entries
        if not indexes:
            return
        before = entries[-1].term


def _read_batch(data: bytes, most: int | None, start: int, end: int) -> range:
    """The indexes of the entries of a batch."""
    size = end - start
    if size < _BATCH.size:
        raise CorruptData(f"entry batch is cut short at {size} bytes")
    index, count = _BATCH.unpack_from(data, start)
    if count * _ROW.size > size - _BATCH.size or (most is not None and count > most):
        raise CorruptData(f"entry batch of {size} bytes cannot hold {count} entries")
    if (index == 0) != (count == 0) or index + count > MAX_STORED:
        raise CorruptData(f"entry batch of {count} entries starts at index {index}")
    return range(index, index + count)


def _read_entries(
    data: bytes, start: int, at: int, end: int, indexes: range, *, before: int = 0, most_bytes: int = 1 << 62
) -> tuple[list[Entry], int]:
    """Decode the entries with these indexes, from `at` on, until they have `most_bytes`; also returns the
    offset after them. The batch begins at `start`; `before` is the term of the entry before.
    """
    entries: list[Entry] = []
    add = entries.append
    unpack = _ROW.unpack_from
    stop = at + most_bytes
    for index in indexes:
        if at + _ROW.size > end:
            raise CorruptData(f"entry {index} is cut short in its head at offset {at - start}")
        term, kind, length = unpack(data, at)
        at += _ROW.size
        if kind > 1 or term < before or term == 0:
            raise CorruptData(f"entry {index} has kind {kind} and term {term} after term {before}")
        if length > MAX_DATA_BYTES or length > end - at:
            raise CorruptData(f"entry {index} claims {length} bytes at offset {at - start} of {end - start}")
        payload = data[at : at + length]
        if kind:
            Change.decode(payload)
        add(Entry(index, term, _KINDS[kind], payload))  # type: ignore[arg-type] # checked above
        at += length
        before = term
        if at >= stop:
            break
    if before > MAX_STORED:
        raise CorruptData(f"entry batch ends in term {before}: no group reaches it")
    return entries, at


def _check_end(at: int, end: int) -> None:
    if at != end:
        raise CorruptData(f"entry batch has {end - at} bytes after its last entry")


_KINDS: Final = (EntryKind.NORMAL, EntryKind.CHANGE)
