"""What an operator sees of a log with an entry that cannot be applied, and how that entry is skipped, while
the member does not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from netstore.disk.datadir import STATE_FILE, DataDir, explain_errors
from netstore.disk.frame import Identity
from netstore.disk.readonly import ReadOnlyDevice
from netstore.disk.skipped import MAX_SKIPPED, read_skipped, read_stopped, write_skipped
from netstore.disk.statefile import StateFile
from netstore.disk.wal import Wal
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.display import describe_entry, payload_hash
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from netstore.disk.datadir import MemberIdentity
    from netstore.raft.entry import Entry


@dataclass(frozen=True, slots=True)
class Skip:
    """An entry that is to be skipped."""

    index: Index
    hash: str
    line: str


class Inspection:
    """The locked folder of a member that does not run, and its log. A context manager. Blocks."""

    def __init__(self, path: Path, wal_dir: Path | None) -> None:
        """NetstoreError if there is none, or it is in use; CorruptData if the log cannot be read."""
        if not (path / "identity").exists():
            raise NetstoreError(f"{path}: is no data folder of a member: name one with --data-dir")
        self._folder = DataDir.lock(path, wal_dir)
        try:
            identity = self._folder.identity
            self.identity: MemberIdentity = identity
            files = ReadOnlyDevice(self._folder.wal_dir)
            with explain_errors(self._folder.wal_dir):
                _, self.replay = Wal.open(files, Identity(identity.cluster_id, identity.member_id))
            self._skips = read_skipped(path)
            self._stop = read_stopped(path)
            self.applied = self._applied()
            self._compare()
        except BaseException:
            self._folder.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()

    @property
    def span(self) -> str:
        """Which entries the log has, in words."""
        entries = self.replay.entries
        return f"entries {entries[0].index} to {entries[-1].index}" if entries else "no entries"

    def has_none(self, first: int, last: int) -> bool:
        """Whether the log has entries, and none of them is in this range."""
        entries = self.replay.entries
        return bool(entries) and not any(first <= entry.index <= last for entry in entries)

    def lines(self, first: int, last: int) -> Iterator[str]:
        """A header, then a line for each entry in this range."""
        entries = self.replay.entries
        hard_state = self.replay.hard_state
        yield (
            f"# member {self.identity.member_id:x} of cluster {self.identity.cluster_id:x}: {self.span},"
            f" committed {hard_state.commit if hard_state else 0}, in the state {self.applied}"
        )
        yield "# index term kind hash time principal command"
        for entry in entries:
            if first <= entry.index <= last:
                payload = _payload(entry)
                kind = "change" if entry.kind is EntryKind.CHANGE else "entry"
                skipped = " [skipped]" if self._skips.get(entry.index) == payload_hash(payload) else ""
                said = f"{payload_hash(payload)} {describe_entry(payload)}{skipped}"
                yield f"{entry.index} {entry.term} {kind} {said}"

    def find(self, index: int) -> Skip:
        """The entry that an operator wants skipped. NetstoreError if it cannot be."""
        if index <= self.applied:
            raise NetstoreError(f"entry {index} is part of the state already (up to {self.applied})")
        for entry in self.replay.entries:
            if entry.index == index:
                payload = _payload(entry)
                found = Skip(entry.index, payload_hash(payload), describe_entry(payload))
                if self._stop.get(entry.index) != found.hash:
                    raise NetstoreError(
                        f"entry {index} has not ended this member, and only what cannot be applied is"
                        " skipped: start the member; where it ends at this entry, skip it then"
                    )
                return found
        raise NetstoreError(f"entry {index} is not in the log: netstored --inspect-log lists what is")

    def skip(self, entry: Skip) -> None:
        """Record, on stable storage, that an entry is skipped from the next start on."""
        if len(self._skips) >= MAX_SKIPPED:
            raise NetstoreError(
                f"{MAX_SKIPPED} entries are skipped already: restore this member from a backup"
            )
        self._skips[entry.index] = entry.hash
        write_skipped(self._folder.path, self._skips)

    def _compare(self) -> None:
        """CorruptData if the state cannot come from this log."""
        last = self.replay.last
        if last < self.applied:
            raise CorruptData(
                f"{self._folder.wal_dir}: the log ends at entry {last}, and the state has applied"
                f" {self.applied}: files of the log are missing; restore this member from its peers, or from"
                " a backup"
            )

    def _applied(self) -> Index:
        path = self._folder.state_dir / STATE_FILE
        if not path.exists():
            return Index(0)
        with StateFile(path) as state:
            return state.applied


def _payload(entry: Entry) -> bytes:
    if entry.kind is not EntryKind.CHANGE:
        return entry.data
    try:
        return Change.decode(entry.data).context
    except CorruptData:
        return entry.data
