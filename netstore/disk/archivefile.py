"""The archive of a member's log: files of committed entries, and states from which they are replayed. Blocks.

    0000000000000001-00000000000003e8.entries    the entries 1 to 1000
    00000000000003e9-00000000000003f1.entries
    0000000000000000.state                       a state that has applied entry 0
    *.part                                       unfinished; of no use
    *.damaged                                    was the last file of entries, and could not be read
    *.state.unproven                             a state of another data folder, further than the entries were
    identity                                     whose log is archived here
    skipped                                      entries that are not applied (`skipped`); not there as a rule
    new                                          nothing is archived here yet, or the one who made it says so
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
import shlex
import threading
from bisect import insort
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.codec import crc32c, layout
from netstore.disk.datadir import (
    MAX_NOTE_BYTES,
    add_checksum_line,
    check_no_store,
    split_checksum_line,
    write_atomically,
)
from netstore.disk.skipped import read_archived_skips, write_skipped
from netstore.errors import CorruptData, NetstoreError
from netstore.inputfile import NotRegular, open_regular, read_regular
from netstore.outputfile import sync_folder
from netstore.raft.change import Change
from netstore.raft.entry import Entry, EntryKind
from netstore.state.envelope import HEAD_BYTES, read
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from netstore.disk.datadir import DataDir
    from netstore.types import ClusterId

MAGIC: Final = b"nsarchiv"
FORMAT: Final = 1
"""A later one is refused."""

MERGED_BYTES: Final = 4 << 20
"""Files of at least this size are not merged any more."""

MERGED_FILES: Final = 32
"""So many small files in a row are merged into one."""

RELISTED_FILES: Final = 1_000
"""After so many new files the folder is listed again, for what others removed from it."""

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
_FORMER_PARTS: Final = frozenset({f"entries{_PART}", f"state{_PART}"})
"""Names of unfinished files of an earlier release."""

_DAMAGED: Final = ".damaged"
_UNPROVEN: Final = ".unproven"
_LOCK: Final = "lock"
_IDENTITY: Final = "identity"
_NEW: Final = "new"
_TITLE: Final = "netstore archive"

ANOTHER_STORE: Final = "has the archive of another store: name an empty folder"
"""What is said of a folder whose archive cannot be gone on with."""

IN_ITS_PLACE: Final = (
    f"; if this member took the place of the one that wrote it, remove the file {_IDENTITY} there and start"
    " it again"
)
"""What can be done about it where the archive says that its store has another number."""


def is_archive(folder: Path) -> bool:
    """Whether a folder has files of an archive, or one was begun in it. Blocks. OSError if it cannot be
    read.
    """
    if any(_ENTRIES.fullmatch(each.name) or _STATE.fullmatch(each.name) for each in folder.iterdir()):
        return True
    try:
        with open_regular(folder / _IDENTITY) as file:
            return file.read(len(_TITLE)) == _TITLE.encode()
    except FileNotFoundError:
        return False


class NoSuchPoint(NetstoreError):  # noqa: N818 - named for what was found
    """The archive does not hold the point that is asked for: it is before its beginning, after its end, or
    where files are missing.
    """


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
    """The files of an archive by their names; those of entries in order, each with some of its own, and the
    states in order. That of an `ArchiveWriter` goes along with what it writes.
    """

    folder: Path
    parts: list[Part] = field(default_factory=list)
    bases: list[Base] = field(default_factory=list)
    needless: list[Path] = field(default_factory=list)
    """Files whose entries are all in another one."""
    unfinished: list[Path] = field(default_factory=list)
    """Those of all who write or wrote here."""
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
        """The files that have the entries `first` to `last`. NoSuchPoint if not all of them are there."""
        found = [part for part in self.parts if part.last >= first and part.first <= last]
        wanted = first
        for part in found:
            if part.first > wanted:
                break
            wanted = part.last + 1
        if wanted <= last and wanted > self.last:
            raise NoSuchPoint(f"the archive ends with entry {self.last}, before {last}; choose one up to it")
        if wanted <= last:
            following = next((part.first for part in found if part.first > wanted), last + 1)
            raise NoSuchPoint(
                f"the archive has a gap: entries {wanted} to {following - 1} are missing, and nothing is"
                " restored across it; choose a point before it, or one after a later state"
            )
        return found

    def having(self, index: int) -> Part | None:
        """The newest file that has an entry; None if none has."""
        return next((part for part in reversed(self.parts) if part.first <= index <= part.last), None)

    @property
    def is_from_start(self) -> bool:
        """Whether it has entry 1. A store that began with data, restored or imported, has none: its log
        begins after the entry that this data counts as.
        """
        return bool(self.parts) and self.parts[0].first == 1

    @property
    def has_usable_base(self) -> bool:
        """Whether the last stretch of entries, or what will follow it, can be replayed from a state."""
        first = self.parts[0].first if self.parts else 1
        if self.gaps:
            first = self.gaps[-1][1] + 1
        return bool(self.bases) and self.bases[-1].applied >= first - 1

    def append(self, part: Part) -> None:
        """A file of entries whose last one comes after all that are here."""
        if self.parts and part.first > self.last + 1:
            self.gaps.append((self.last + 1, part.first - 1))
        self.parts.append(part)

    def without(self, gone: Collection[Path]) -> Listing:
        """It after its oldest files, which are these, were removed."""
        parts = [part for part in self.parts if part.path not in gone]
        bases = [base for base in self.bases if base.path not in gone]
        gaps = [gap for gap in self.gaps if parts and gap[0] > parts[0].first]
        return Listing(self.folder, parts, bases, self.needless, self.unfinished, gaps)


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


def listing(folder: Path, passed_over: Collection[Path] = ()) -> Listing:
    """The files of an archive, but these. NetstoreError if the folder cannot be read."""
    found: list[Part] = []
    result = Listing(folder)
    try:
        names = sorted(path.name for path in folder.iterdir() if path not in passed_over)
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
        result.append(part)
    return result


# --- reading


def read_head(path: Path, cluster: int | None = None) -> Head:
    """The head of a file of entries. CorruptData if it is damaged; NetstoreError for one of a later format,
    or of another cluster than the one given.
    """
    try:
        with open_regular(path) as file:
            return _head(path, file.read(_HEAD.size + _CRC.size), cluster)
    except OSError as error:
        raise _unreadable(path, error) from None


def read_entries(path: Path, cluster: int | None = None) -> Iterator[Archived]:
    """The entries of a file, in order. See `read_head`; CorruptData names the offset. The file is in memory
    meanwhile.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
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
    fix = "; move it away" if isinstance(error, NotRegular) else ""
    return kind(f"{path}: cannot be read: {error.strerror}{fix}")


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
    """Writes the archive of one member. All methods block and raise OSError if the folder cannot be written,
    and NetstoreError if another one lies there: nothing is lost then, and the call may be repeated. `add` may
    be called in one thread while `add_base` or `remove` is called in another.
    """

    def __init__(
        self,
        folder: Path,
        cluster: ClusterId,
        store: str,
        claimed: Callable[[], object],
        skipped: Mapping[Index, str],
    ) -> None:
        """For `open`."""
        self._claimed = claimed
        self._skipped = skipped
        self._folder = folder
        self._cluster = cluster
        self._store = store
        self._is_claimed = False
        """The identity in the folder is that of this store."""
        self._is_noted = False
        """`claimed` was called."""
        self._may_be_new = True
        """The file `new` may be there."""
        self.is_others = False
        """The identity in the folder is that of another store with this cluster id, and nobody found out yet
        that its log is this store's.
        """
        self._lock = -1
        self._place: tuple[int, int] | None = None
        """File system and inode of the folder."""
        self._changing = threading.Lock()
        """Held while the listing is changed."""
        self._rewriting = threading.Lock()
        """Held while files are merged or removed, because a file is not removed while it is merged."""
        self._is_tidy = False
        """Nothing is left to do of `tidy`."""
        self._new_files = 0
        """Since the folder was listed."""
        self._merge_pause = 0
        """So many files are added before merging is tried again."""
        self.newest: Entry | None = None
        """The last entry that was there when it was opened."""
        self.newest_wall = 0
        """The time of the last one that has one, then; 0 if none has."""
        self.listing = Listing(folder)
        self.damaged: dict[Path, str] = {}
        """Files that turned out to be damaged, and what is wrong."""
        self.not_merged = ""
        """Why the last attempt to merge small files failed; empty if it did not."""

    @classmethod
    def open(
        cls,
        folder: Path,
        cluster: ClusterId,
        store: str,
        *,
        is_begun: bool = False,
        claimed: Callable[[], object] = lambda: None,
        skipped: Mapping[Index, str] = {},
    ) -> ArchiveWriter:
        """Lock the folder, which is made if it is missing. A last file that is damaged is left out of the
        listing: its entries are archived anew, or become a gap. NetstoreError if another process uses the
        folder, or another cluster did.

        `store` tells this store from another one with the same cluster id (`datadir.DataDir.instance`). An
        empty folder becomes its archive; whether one with files is, is for the caller to find out, by
        `is_others` and `newest`, before anything is added. No file is changed before that.

        `is_begun`: this store wrote its archive in this folder before. One without a file of entries or a
        state is not mounted now, or was emptied; NetstoreError then, unless it has a file `new`, which stays
        until the first of these files is there. `claimed` is called once this folder has the identity of this
        store. `skipped` are the entries that this member does not apply, index -> hash: the archive has them
        before it has the entries.
        """
        check_no_store(folder)
        writer = cls(folder, cluster, store, claimed, skipped)
        if is_begun:
            _check_not_away(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NetstoreError(
                    f"{folder}: another member writes its archive there: give each a folder of its own"
                ) from None
            writer.listing = listing(folder)
            writer._read_identity()
            writer._find_newest()
            is_empty = not (writer.listing.parts or writer.listing.bases or writer.damaged)
            if is_empty or writer._is_claimed:
                writer._claim()
            writer.newest_wall = _last_wall(writer.listing)
            writer._place = _place(folder)
        except BaseException:
            os.close(lock)
            raise
        writer._lock = lock
        return writer

    def _read_identity(self) -> None:
        owner = _owner(self._folder)
        if owner is None:
            return
        if owner.cluster != f"{self._cluster:x}":
            raise NetstoreError(_of_other_cluster(self._folder, owner, self._cluster))
        self._is_claimed = owner.store == self._store
        self.is_others = not self._is_claimed

    def _claim(self) -> None:
        """Write whose archive this is, and first that it is new if it has no files."""
        is_empty = not (self.listing.parts or self.listing.bases or self.damaged)
        if is_empty and not (self._folder / _NEW).exists():
            write_atomically(self._folder, _NEW, b"")
        if not self._is_claimed:
            lines = (_TITLE, f"cluster {self._cluster:x}", f"store {self._store}")
            text = "".join(f"{line}\n" for line in lines).encode()
            write_atomically(self._folder, _IDENTITY, add_checksum_line(text))
            self._is_claimed, self.is_others = True, False
        if not self._is_noted:
            self._claimed()
            self._is_noted = True

    def _end_new(self) -> None:
        """It has a file: from now on it is gone if it has none."""
        if self._may_be_new:
            _remove([self._folder / _NEW])
            self._may_be_new = False

    def _find_newest(self) -> None:
        while self.listing.parts:
            path = self.listing.parts[-1].path
            try:
                *_, newest = read_entries(path, self._cluster)
            except CorruptData as error:
                self.damaged[path] = str(error)
                self.listing = listing(self._folder, self.damaged)
            else:
                self.newest = newest.entry
                return

    def check_place(self) -> None:
        """NetstoreError if the folder at its path is not the one that was opened: what is written into it
        would be missing in the archive, and nobody locks it.
        """
        own = os.fstat(self._lock)
        if _place(self._folder / _LOCK) == (own.st_dev, own.st_ino):
            return
        if not self._folder.exists():
            raise NetstoreError(
                f"{self._folder}: is gone: mount or move it back; for a new archive"
                f" {_how_to_ask_for_new(self._folder)}, or name another folder, and start the member again"
            )
        if _place(self._folder) != self._place:
            raise NetstoreError(
                f"{self._folder}: another folder lies there than the one that was opened: mount or move that"
                f" one back; for a new archive name another folder, or empty this one, make an empty file"
                f" {_NEW} in it and start the member again"
            )
        found = listing(self._folder)
        if found.parts or found.bases:
            raise NetstoreError(
                f"{self._folder}: its file {_LOCK} was removed or replaced: start the member again"
            )
        raise NetstoreError(
            f"{self._folder}: its files were removed: put them back, or for a new archive"
            f" {_how_to_ask_for_new(self._folder)}; then start the member again"
        )

    def _check_files(self) -> None:
        """NetstoreError if the last file of entries was removed: nobody would be told of the gap. A state is
        made anew.
        """
        if self.listing.parts and not self.listing.parts[-1].path.exists():
            raise NetstoreError(
                f"{self.listing.parts[-1].path}: was removed: put it back, and what else was removed; for a"
                f" new archive empty the folder, make an empty file {_NEW} in it and start the member again"
            )

    def tidy(self) -> None:
        """Remove what a crash left, rename last files that were found damaged and states of others that are
        not known to be of this log, and note what this member does not apply, once it is not in doubt whose
        archive this is. Part of the first `add` or `add_base`.
        """
        with self._changing:
            if self._is_tidy:
                return
            for path in [path for path in self.damaged if path.suffix != _DAMAGED]:
                self._set_aside(path)
            own = {self._unfinished_name("entries"), self._unfinished_name("state"), *_FORMER_PARTS}
            _remove([*self.listing.needless, *(each for each in self.listing.unfinished if each.name in own)])
            for base in self._unproven():
                _rename(base.path, base.path.with_name(base.path.name + _UNPROVEN))
            self._note_skipped()
            self.listing = listing(self._folder)
            self._is_tidy = True

    def _unproven(self) -> list[Base]:
        """States of another data folder that go further than the entries: only by entries it is known that an
        archive is of the log that goes on with it, and the other member may have had another one from there.
        """
        found = self.listing
        return [] if self._is_claimed else [base for base in found.bases if base.applied > found.last]

    def _note_skipped(self) -> None:
        """Add the entries that this member does not apply to those that members before it did not."""
        if not self._skipped:
            return
        noted: dict[Index, str] = {}
        with suppress(CorruptData):  # this member has them all, unless it took the place of another one
            noted = read_archived_skips(self._folder)
        if not self._skipped.items() <= noted.items():
            write_skipped(self._folder, {**noted, **self._skipped})

    def _set_aside(self, path: Path) -> None:
        """Rename a last file that was found damaged, unless it was removed or replaced by a good one."""
        try:
            for _ in read_entries(path, self._cluster):
                pass
        except FileGone:
            del self.damaged[path]
            return
        except NetstoreError as error:  # whatever is wrong with it now, nothing is added before it is aside
            damage = str(error)
        else:
            del self.damaged[path]
            return
        aside = path.with_name(path.name + _DAMAGED)
        _rename(path, aside)
        words = f"{damage}; it was renamed to {aside.name}"
        # Who reads it meanwhile finds each file once, in the order in which they were found.
        self.damaged = {
            (aside if each == path else each): (words if each == path else told)
            for each, told in list(self.damaged.items())
        }

    def add(self, entries: Sequence[Entry]) -> int:
        """Archive these consecutive entries, which come after all that were archived; the time of the last
        one that has one, or 0. Merges small files; where that fails, they stay as they are (`not_merged`).
        """
        archived = [Archived(entry, wall_of(entry)) for entry in entries]
        self.check_place()
        self._check_files()
        self.tidy()
        self._claim()
        part = self._write(archived)
        self._end_new()
        with self._changing:
            if part.last > self.listing.last:
                self.listing.append(part)
            elif part not in self.listing.parts:
                # A good file with these entries took the place of a damaged one.
                self.listing.needless.append(part.path)
        self._new_files += 1
        self._merge_pause = max(0, self._merge_pause - 1)
        if not self._merge_pause:
            try:
                with self._rewriting:
                    self._merge()
                self.not_merged = ""
            except (OSError, NetstoreError, MemoryError) as error:
                self.not_merged = str(error) or "there is not enough memory"
                self._merge_pause = MERGED_FILES
                self._new_files = RELISTED_FILES
        if self._new_files >= RELISTED_FILES:
            with self._changing:
                self.listing = listing(self._folder)
            self._new_files = 0
        return next((wall for _, wall in reversed(archived) if wall), 0)

    def add_base(self, copy: Callable[[int], Index]) -> Base:
        """Archive a state: `copy` writes it to a file descriptor, and returns up to which entry it goes."""
        self.check_place()
        self.tidy()
        part = self._folder / self._unfinished_name("state")
        with _unfinished(part) as file:
            index = copy(file)
            os.fsync(file)
        base = Base(index, self._folder / f"{index:016x}.state")
        _rename(part, base.path)
        self._end_new()
        with self._changing:
            if base not in self.listing.bases:
                insort(self.listing.bases, base)
        return base

    def remove(self, bases: Sequence[Base], parts: Sequence[Part]) -> None:
        """Remove the oldest states, and the oldest files of entries, in order. Each is gone for good before
        the next one is removed, so that a crash leaves no gap.
        """
        gone: set[Path] = set()
        self.check_place()
        with self._rewriting:
            try:
                for path in [*(base.path for base in bases), *(part.path for part in parts)]:
                    path.unlink(missing_ok=True)
                    gone.add(path)
                    sync_folder(self._folder)
                    self.damaged.pop(path, None)
            finally:
                with self._changing:
                    self.listing = self.listing.without(gone)

    def close(self) -> None:
        """Give the folder back. It is given back also if this raises."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _unfinished_name(self, what: str) -> str:
        # Where a file system does not lock, another member's file is not taken for the own one.
        return f"{what}-{self._store}{_PART}"

    def _write(self, entries: Sequence[Archived]) -> Part:
        first, last = entries[0].entry.index, entries[-1].entry.index
        path = self._folder / f"{first:016x}-{last:016x}.entries"
        part = self._folder / self._unfinished_name("entries")
        _write_synced(part, encode(self._cluster, entries))
        _rename(part, path)
        return Part(first, last, path)

    def _merge(self) -> None:
        """Merge the small files at the end, if they are many or have become large together. A damaged one
        stays as it is, and those before it.
        """
        run: list[Part] = []
        size = 0
        for part in reversed(self.listing.parts):
            if part.path in self.damaged or (run and part.last + 1 != run[-1].first):
                break
            bytes_ = part.path.stat().st_size
            if bytes_ >= MERGED_BYTES or size >= MERGED_BYTES:
                break
            run.append(part)
            size += bytes_
        if len(run) < 2 or (size < MERGED_BYTES and len(run) < MERGED_FILES):
            return
        entries: list[Archived] = []
        for part in reversed(run):
            try:
                entries += read_entries(part.path, self._cluster)
            except CorruptData as error:
                self.damaged[part.path] = str(error)
                return
        merged = self._write(entries)
        with self._changing:
            self.listing.parts[-len(run) :] = [merged]
        _remove(part.path for part in run)


def check_own(folder: Path, data: DataDir) -> None:
    """NetstoreError if it is seen without the log of a member that it would not archive in this folder: its
    archive is not there, or another one is. Nothing is written; an archive without an identity is passed.
    """
    check_no_store(folder)
    if data.archive_folder() == str(folder.absolute()):
        _check_not_away(folder)
    owner = _owner(folder)
    if owner is None:
        return
    if data.found is not None and owner.cluster != f"{data.found.cluster_id:x}":
        raise NetstoreError(_of_other_cluster(folder, owner, data.found.cluster_id))
    store = data.known_instance()
    if data.found is None or not store:
        raise NetstoreError(
            f"{folder} has an archive of cluster {owner.cluster}, and {data.path} has archived nothing yet:"
            f" name an empty folder{IN_ITS_PLACE}"
        )
    if owner.store != store:
        raise NetstoreError(f"{folder} {ANOTHER_STORE}{IN_ITS_PLACE}")


class _Owner(NamedTuple):
    """Whose archive a folder has, in hexadecimal."""

    cluster: str
    store: str


def _owner(folder: Path) -> _Owner | None:
    """None if no identity is there, as in archives of earlier releases; CorruptData if it is damaged,
    NetstoreError if it cannot be read, or is not that of an archive.
    """
    path = folder / _IDENTITY
    try:
        data = read_regular(path, MAX_NOTE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    if data and not data.startswith(_TITLE.encode()):
        raise NetstoreError(
            f"{folder}: is no archive: its file {_IDENTITY} is of something else, or damaged from its"
            " beginning; leave it as it is, and name another folder"
        )
    text = split_checksum_line(data)
    title, *lines = (text or b"").decode(errors="replace").splitlines() or [""]
    words = dict(line.partition(" ")[::2] for line in lines)
    if title != _TITLE or not {"cluster", "store"} <= words.keys():
        raise CorruptData(
            f"{path}: damaged: remove it if the archive is of this store, else name a new folder"
        )
    return _Owner(words["cluster"], words["store"])


def _of_other_cluster(folder: Path, owner: _Owner, own: ClusterId) -> str:
    return (
        f"{folder}: is the archive of cluster {owner.cluster}, not of {own:x}: name a folder that only this"
        " cluster uses"
    )


def _check_not_away(folder: Path) -> None:
    """NetstoreError if a folder has nothing archived, and no file that says that this is so."""
    found = listing(folder) if folder.exists() else Listing(folder)
    if found.parts or found.bases or (folder / _NEW).exists():
        return
    if (folder / _IDENTITY).exists():
        # An earlier release made no file `new`, so that these two cases look the same.
        raise NetstoreError(
            f"{folder}: has no file of the archive that this member began there: if there were any, move them"
            f" back; if none was ever written, as where the disk was full, or to begin a new one,"
            f" {_how_to_ask_for_new(folder)}, or name another folder"
        )
    raise NetstoreError(
        f"{folder}: the archive that this member wrote there is gone: mount or move it back; to begin a new"
        f" one {_how_to_ask_for_new(folder)}, or name another folder"
    )


def _how_to_ask_for_new(folder: Path) -> str:
    """What to do so that a new archive is begun where this member has none any more."""
    if folder.exists():
        return f"make an empty file {_NEW} in this folder"
    path = shlex.quote(str(folder))
    return (
        f"make the folder with an empty file {_NEW} in it, as the user that netstored runs as"
        f" (mkdir -p {path}; touch {path}/{_NEW})"
    )


def _place(path: Path) -> tuple[int, int] | None:
    """File system and inode of what lies there; None if nothing does."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _last_wall(found: Listing) -> int:
    """The time of the last entry that has one; 0 if none has. Damaged files are passed over."""
    for part in reversed(found.parts):
        with suppress(CorruptData):
            if read_head(part.path).latest:
                return [wall for _, wall in read_entries(part.path) if wall][-1]
    return 0


@contextmanager
def _unfinished(path: Path) -> Iterator[int]:
    """A new file, by its descriptor. Removed again if it cannot be finished."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield file
    except Exception:
        with suppress(OSError):  # the next one removes it
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _write_synced(path: Path, data: bytes) -> None:
    with _unfinished(path) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)


def _rename(part: Path, path: Path) -> None:
    part.rename(path)
    sync_folder(path.parent)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
