"""The archive of a member's log: files of committed entries, and states from which they are replayed. Blocks.

    0000000000000001-00000000000003e8.entries    the entries 1 to 1000
    00000000000003e9-00000000000003f1.entries
    0000000000000000.state                       a state that has applied entry 0
    *.part                                       unfinished; of no use
    lock                                         held by the member that writes here

A file is written under another name, synced and renamed, so that one with its name is complete, and after a
crash the next file begins where the last one ends. Small files are merged into larger ones, which makes their
parts needless. What is between two files is a gap: nothing is restored across it.

contrib/doc/format-archive.md describes the files.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.codec import crc32c, layout
from netstore.disk.datadir import sync_folder
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.change import Change
from netstore.raft.entry import Entry, EntryKind
from netstore.state.envelope import HEAD_BYTES, read
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from netstore.types import ClusterId

MAGIC: Final = b"nsarchiv"
FORMAT: Final = 1
"""A later one is refused."""

MERGED_BYTES: Final = 4 << 20
"""Files of at least this size are not merged any more."""

MERGED_FILES: Final = 32
"""So many small files in a row are merged into one."""

_HEAD: Final = layout("8sHHIQQQQQQ")
"""Magic, format, 0, number of entries, cluster, first and last index, earliest and latest time, bytes of the
entries. The CRC-32C of that follows.
"""
_CRC: Final = layout("I")
_ENTRY: Final = layout("IQQQB")
"""Bytes of data, index, term, time, kind. The CRC-32C of that and of the data comes before it."""

_ENTRIES: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.entries")
_STATE: Final = re.compile(r"([0-9a-f]{16})\.state")
_PART: Final = ".part"
_LOCK: Final = "lock"


class FileGone(NetstoreError):  # noqa: N818 - named for what was found
    """A file of the listing is not there any more: the member that writes the archive may have merged it."""


class Archived(NamedTuple):
    """An entry as it is archived. `wall` is the time of its envelope, 0 if it has none."""

    entry: Entry
    wall: int

    @property
    def payload(self) -> bytes:
        """What the state machine is given. CorruptData for a change of the members that is none."""
        return payload_of(self.entry)


class Head(NamedTuple):
    """What the head of a file of entries says."""

    cluster: int
    first: int
    last: int
    earliest: int
    """The smallest time of an entry that has one; 0 if none has."""
    latest: int
    number: int
    size: int


class Part(NamedTuple):
    """A file of entries, by its name."""

    first: int
    last: int
    path: Path


class Base(NamedTuple):
    """A state that has applied the entries up to `applied`, by its name."""

    applied: int
    path: Path


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an archive by their names; those of entries in order, each with some of its own."""

    folder: Path
    parts: list[Part] = field(default_factory=list)
    bases: list[Base] = field(default_factory=list)
    needless: list[Path] = field(default_factory=list)
    """Files whose entries are all in another one."""
    unfinished: list[Path] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last entry of each."""

    @property
    def last(self) -> int:
        """The last entry; 0 if there is none."""
        return self.parts[-1].last if self.parts else 0

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """First and last entry of each stretch without a gap."""
        found: list[tuple[int, int]] = []
        for part in self.parts:
            if found and part.first <= found[-1][1] + 1:
                found[-1] = found[-1][0], part.last
            else:
                found.append((part.first, part.last))
        return found

    def between(self, first: int, last: int) -> list[Part]:
        """The files that have the entries `first` to `last`. NetstoreError if not all of them are there."""
        found = [part for part in self.parts if part.last >= first and part.first <= last]
        wanted = first
        for part in found:
            if part.first > wanted:
                break
            wanted = part.last + 1
        if wanted <= last:
            following = next((part.first for part in found if part.first > wanted), last + 1)
            raise NetstoreError(
                f"the archive has a gap: entries {wanted} to {following - 1} are missing, and nothing is"
                " restored across it; choose a point before it, or one after a later state"
            )
        return found

    @property
    def has_usable_base(self) -> bool:
        """Whether the last stretch of entries, or what will follow it, can be replayed from a state."""
        first = self.stretches[-1][0] if self.parts else 1
        return any(base.applied >= first - 1 for base in self.bases)


def payload_of(entry: Entry) -> bytes:
    """The payload for the state machine; of a change of the members its context."""
    return Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data


def wall_of(entry: Entry) -> int:
    """The time of an entry's envelope; 0 if it has none."""
    try:
        payload = payload_of(entry)
        return read(payload).wall if len(payload) >= HEAD_BYTES else 0
    except CorruptData:
        return 0


def listing(folder: Path) -> Listing:
    """The files of an archive. NetstoreError if the folder cannot be read."""
    found: list[Part] = []
    result = Listing(folder)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise NetstoreError(f"{folder}: {error.strerror}: name the folder of an archive") from None
    for name in names:
        if match := _ENTRIES.fullmatch(name):
            found.append(Part(int(match[1], 16), int(match[2], 16), folder / name))
        elif match := _STATE.fullmatch(name):
            result.bases.append(Base(int(match[1], 16), folder / name))
        elif name.endswith(_PART):
            result.unfinished.append(folder / name)
    found.sort(key=lambda part: (part.first, -part.last))
    for part in found:
        if part.last <= result.last:
            result.needless.append(part.path)
            continue
        if result.parts and part.first > result.last + 1:
            result.gaps.append((result.last + 1, part.first - 1))
        result.parts.append(part)
    return result


# --- reading


def read_head(path: Path, cluster: int | None = None) -> Head:
    """The head of a file of entries. CorruptData if it is damaged; NetstoreError for one of a later format,
    or of another cluster than the one given.
    """
    try:
        with path.open("rb") as file:
            return _head(path, file.read(_HEAD.size + _CRC.size), cluster)
    except OSError as error:
        raise _unreadable(path, error) from None


def read_entries(path: Path, cluster: int | None = None) -> Iterator[Archived]:
    """The entries of a file, in order. See `read_head`; CorruptData names the offset. The file is in memory
    meanwhile.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    at = _HEAD.size + _CRC.size
    head = _head(path, data[:at], cluster)
    if len(data) != at + head.size:
        raise CorruptData(f"{path}: has {len(data)} bytes, not {at + head.size}")
    wanted = head.first
    while at < len(data):
        start = at + _CRC.size
        end = start + _ENTRY.size
        if end > len(data):
            raise CorruptData(f"{path}: damaged at offset {at}: an entry is cut short")
        size, index, term, wall, kind = _ENTRY.unpack_from(data, start)
        (crc,) = _CRC.unpack_from(data, at)
        if end + size > len(data) or crc != crc32c(data[start : end + size]):
            raise CorruptData(f"{path}: damaged at offset {at}: the checksum of an entry is wrong")
        if index != wanted or kind not in (EntryKind.NORMAL, EntryKind.CHANGE):
            raise CorruptData(f"{path}: entry {index} of kind {kind} where {wanted} should be")
        yield Archived(Entry(Index(index), Term(term), EntryKind(kind), data[end : end + size]), wall)
        wanted += 1
        at = end + size
    if wanted != head.last + 1:
        raise CorruptData(f"{path}: ends with entry {wanted - 1}, not {head.last}")


def _unreadable(path: Path, error: OSError) -> NetstoreError:
    kind = FileGone if isinstance(error, FileNotFoundError) else NetstoreError
    return kind(f"{path}: cannot be read: {error.strerror}")


def _head(path: Path, data: bytes, cluster: int | None) -> Head:
    if len(data) < _HEAD.size + _CRC.size or not data.startswith(MAGIC):
        raise CorruptData(f"{path}: is no file of an archive, or is cut short")
    fields = _HEAD.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if fields[1] > FORMAT:
        raise NetstoreError(f"{path}: is of format {fields[1]}, this version reads {FORMAT}: upgrade")
    if crc != crc32c(data[: _HEAD.size]):
        raise CorruptData(f"{path}: the checksum of its head is wrong")
    _, _, _, count, own, first, last, earliest, latest, size = fields
    if cluster is not None and own != cluster:
        raise NetstoreError(
            f"{path}: is of cluster {own:x}, not of {cluster:x}: name a folder that only this cluster uses"
        )
    return Head(own, first, last, earliest, latest, count, size)


# --- writing


def encode(cluster: int, entries: Sequence[Archived]) -> bytes:
    """A file of these consecutive entries."""
    parts = []
    for entry, wall in entries:
        head = _ENTRY.pack(len(entry.data), entry.index, entry.term, wall, entry.kind)
        parts += [_CRC.pack(crc32c(entry.data, crc32c(head))), head, entry.data]
    walls = [wall for _, wall in entries if wall] or [0]
    body = b"".join(parts)
    first, last = entries[0].entry.index, entries[-1].entry.index
    head = _HEAD.pack(MAGIC, FORMAT, 0, len(entries), cluster, first, last, min(walls), max(walls), len(body))
    return head + _CRC.pack(crc32c(head)) + body


class ArchiveWriter:
    """Writes the archive of one member. All methods block and raise OSError if the folder cannot be written:
    nothing is lost then, and the call may be repeated. `add` and `add_base` may be called from two threads.
    """

    def __init__(self, folder: Path, cluster: ClusterId) -> None:
        """For `open`."""
        self._folder = folder
        self._cluster = cluster
        self._lock = -1
        self._looking = threading.Lock()
        self.newest: Entry | None = None
        """The last entry that was there when it was opened."""
        self.listing = Listing(folder)

    @classmethod
    def open(cls, folder: Path, cluster: ClusterId) -> ArchiveWriter:
        """Lock the folder, which is made if it is missing, and remove what a crash left in it. NetstoreError
        if another process uses it, or another cluster did.
        """
        writer = cls(folder, cluster)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NetstoreError(
                    f"{folder}: another member writes its archive there: give each a folder of its own"
                ) from None
            found = listing(folder)
            for part in found.parts[-1:]:
                for each in read_entries(part.path, cluster):
                    writer.newest = each.entry
            _remove([*found.needless, *found.unfinished])
            writer.listing = listing(folder)
        except BaseException:
            os.close(lock)
            raise
        writer._lock = lock
        return writer

    def add(self, entries: Sequence[Entry]) -> int:
        """Archive these consecutive entries, which come after all that were archived; the time of the last
        one that has one, or 0. Merges small files.
        """
        archived = [Archived(entry, wall_of(entry)) for entry in entries]
        self._write(archived)
        self._merge()
        return next((wall for _, wall in reversed(archived) if wall), 0)

    def add_base(self, copy: Callable[[int], object], applied: Callable[[Path], Index]) -> Base:
        """Archive a state: `copy` writes it to a file descriptor, `applied` returns up to which entry a file
        has it.
        """
        part = self._folder / f"state{_PART}"
        part.unlink(missing_ok=True)
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy(file)
            os.fsync(file)
        finally:
            os.close(file)
        index = applied(part)
        path = self._folder / f"{index:016x}.state"
        _rename(part, path)
        self._look()
        return Base(index, path)

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._lock)

    def _write(self, entries: Sequence[Archived]) -> None:
        first, last = entries[0].entry.index, entries[-1].entry.index
        path = self._folder / f"{first:016x}-{last:016x}.entries"
        part = path.with_suffix(_PART)
        _write_synced(part, encode(self._cluster, entries))
        _rename(part, path)
        self._look()

    def _look(self) -> None:
        with self._looking:
            self.listing = listing(self._folder)

    def _merge(self) -> None:
        """Merge the small files at the end, if they are many or have become large together."""
        run: list[Part] = []
        size = 0
        for part in reversed(self.listing.parts):
            bytes_ = part.path.stat().st_size
            if bytes_ >= MERGED_BYTES or (run and part.last + 1 != run[-1].first):
                break
            run.append(part)
            size += bytes_
        if len(run) < 2 or (size < MERGED_BYTES and len(run) < MERGED_FILES):
            return
        entries = [each for part in reversed(run) for each in read_entries(part.path, self._cluster)]
        self._write(entries)
        _remove(self.listing.needless)
        self._look()


def _write_synced(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _rename(part: Path, path: Path) -> None:
    part.rename(path)
    sync_folder(path.parent)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
