"""What an operator sees and does about a log that a member cannot apply, while the member does not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from netstore.disk.datadir import STATE_FILE, DataDir
from netstore.disk.frame import Identity
from netstore.disk.posix import NOTES, read_notes
from netstore.disk.skips import MOST, keep_skips, read_skips, read_stop
from netstore.disk.statefile import StateFile
from netstore.disk.wal import Wal
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.display import describe_entry, payload_hash
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from netstore.disk.datadir import MemberIdentity
    from netstore.raft.entry import Entry


class _Files:
    """A `seams.Device` that only reads: an unfinished write at the end of the log stays where it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(
        self,
        name: str,
        offset: int,
        data: bytes,
        done: Callable[[OSError | None], None],
        note: bytes = b"",
        *,
        held: bool = False,
    ) -> None:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def notes(self) -> list[bytes]:
        path = self._folder / NOTES
        return read_notes(path.read_bytes()) if path.exists() else []

    def truncate(self, name: str, size: int) -> None:
        """Left to the member's next start."""

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Skip:
    """An entry that is to be passed over."""

    index: Index
    hash: str
    line: str


class Inspection:
    """The locked folder of a member that does not run, and what its log says. A context manager. Blocks."""

    def __init__(self, path: Path, wal_dir: Path | None) -> None:
        """NetstoreError when there is none, or it is in use; CorruptData when the log cannot be read."""
        if not (path / "identity").exists():
            raise NetstoreError(f"data_dir: {path} is no data folder of a member: name one with --data-dir")
        self._folder = DataDir.lock(path, wal_dir)
        try:
            identity = self._folder.identity
            self.identity: MemberIdentity = identity
            files = _Files(self._folder.wal_dir)
            _, self.replay = Wal.open(files, Identity(identity.cluster_id, identity.member_id))
            self._skips = read_skips(path)
            self._stop = read_stop(path)
            self.applied = self._applied()
            self._compare()
        except BaseException:
            self._folder.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()

    def lines(self, first: int, last: int) -> Iterator[str]:
        """A head, then a line for each entry in this range."""
        entries = self.replay.entries
        hard_state = self.replay.hard_state
        span = f"entries {entries[0].index} to {entries[-1].index}" if entries else "no entries"
        yield (
            f"# member {self.identity.member_id:x} of cluster {self.identity.cluster_id:x}: {span},"
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
        """The entry that an operator wants passed over. NetstoreError when that cannot be."""
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
        """Note, on stable storage, that an entry is passed over from the next start on."""
        if len(self._skips) >= MOST:
            raise NetstoreError(f"{MOST} entries are skipped already: restore this member from a backup")
        self._skips[entry.index] = entry.hash
        keep_skips(self._folder.path, self._skips)

    def _compare(self) -> None:
        """CorruptData when the log cannot be the one that the state comes from."""
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
