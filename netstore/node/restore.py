"""Restoring a backup: the records of a new cluster's state, from those of the old one. `node.seeding` writes
them to the data folder of each member.

Every member of the new cluster restores the same backup with the same list of members, so all have the same
state, and a log that begins after it.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.disk.backupfile import MAGIC, BackupReader, is_backup
from netstore.errors import CorruptData
from netstore.inputfile import open_input, open_regular
from netstore.node.etcdimport import Report
from netstore.node.etcdsource import source_in
from netstore.node.fullbackup import check_level
from netstore.node.seeding import founders, seed
from netstore.state import tables
from netstore.state.v2.records import pack_event, window_key
from netstore.state.v3.store import V3Scalars
from netstore.types import EtcdIndex, Event, Index, NodeView, Revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from netstore.node.seeding import Founders, Record
    from netstore.types import ClusterId, NodeId

BUMPED: Final = b"/restored"
"""Path of the event at which the window of a tree begins whose index was bumped; it is shown to nobody."""

SAVE_FIRST: Final = "name a snapshot that is made of it while it serves (etcdctl snapshot save)"


class Wish(NamedTuple):
    """What is to be made of a backup."""

    name: str
    """Of the member."""
    members: Mapping[str, tuple[str, ...]]
    """Peer URLs of all members by name."""
    token: str
    """`initial_cluster_token`."""
    join_token: str
    """What members that join later prove that they know (`node.jointoken`)."""
    bump: int = 0
    mark_compacted: bool = False
    """See `changed`."""
    skip_digest: bool = False
    """Of a snapshot in etcd's format: the digest at its end is not verified."""
    without_auth: bool = False
    """Of a snapshot of an etcd that asks for passwords: it is restored, without them."""
    wal: Path | None = None
    """The folder for the log, if it is not to be in the data folder."""


class Restored(NamedTuple):
    """What was made."""

    cluster: ClusterId
    member: NodeId
    revision: int
    v2_index: int
    records: int
    left_out: tuple[str, ...] = ()
    """In words, what of a snapshot in etcd's format is not there or is otherwise."""


def restore(file: Path, folder: Path, wish: Wish) -> Restored:
    """Write the data folder of one member from a backup, full or in etcd's format. Blocks.

    Nothing is written before all of the file was read once and verified. NetstoreError, with the fix, if the
    file or the folder cannot be used, as the database of an etcd that runs; CorruptData, with the offset, if
    the file is damaged.
    """
    with ExitStack() as parts:
        opened = parts.enter_context(open_input(file, "name a file that netstorectl snapshot save wrote"))
        if is_backup(opened.read(len(MAGIC))):
            return _restore_full(opened, file, folder, wish)
        return _restore_v3(opened, file, folder, wish)


def _restore_full(opened: BinaryIO, file: Path, folder: Path, wish: Wish) -> Restored:
    for _ in _reader(opened, file).records():
        pass
    reader = _reader(opened, file)
    header = reader.header
    seen = _Seen()
    records = seen.passing(
        changed(_known(reader.records(), file), wish.bump, mark_compacted=wish.mark_compacted)
    )
    own = _founders(wish, header.id)
    count = seed(folder, own, Index(header.index), records, wal=wish.wal)
    return Restored(own.cluster, own.own, seen.revision, seen.v2_index, count)


def _reader(opened: BinaryIO, file: Path) -> BackupReader:
    """A reader at the beginning of the file."""
    opened.seek(0)
    reader = BackupReader(opened, str(file))
    check_level(reader.header, str(file))
    if reader.header.index < 1:
        raise CorruptData(f"{file}: is of a state without an entry of the log, which no member has made")
    return reader


def _restore_v3(opened: BinaryIO, file: Path, folder: Path, wish: Wish) -> Restored:
    source = source_in(opened, file, skip_digest=wish.skip_digest, instead=SAVE_FIRST)
    source.check_open(without_auth=wish.without_auth)
    report = Report()
    for _ in source.records(report):
        pass
    left_out = source.left_out(report)
    if source.has_corrupt_alarm:
        left_out.append("the store it is of had the alarm CORRUPT: its members had different data")
    seen = _Seen()
    records = seen.passing(changed(source.records(Report()), wish.bump, mark_compacted=wish.mark_compacted))
    own = _founders(wish, _digest(file))
    count = seed(folder, own, source.applied, records, wal=wish.wal)
    return Restored(own.cluster, own.own, seen.revision, seen.v2_index, count, tuple(left_out))


def _founders(wish: Wish, origin: str) -> Founders:
    """The ids depend on the backup and on how it is changed, so that members whose states differ do not take
    each other for members of one cluster. Of several members each computes the same at every restore
    (`node.seeding.founders`).
    """
    origin = f"{origin} {wish.bump} {wish.mark_compacted}"
    return founders(wish.members, wish.name, wish.token, origin)._replace(join_token=wish.join_token)


def _digest(file: Path) -> str:
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _known(records: Iterable[Record], file: Path) -> Iterator[Record]:
    """The same records. CorruptData for one of a table that this release does not know."""
    for record in records:
        if record[0] not in tables.TABLES:
            raise CorruptData(f"{file}: has a table {record[0][:64]!r}, not known here: upgrade netstore")
        yield record


class _Seen:
    """Notes what a restored state says of itself."""

    def __init__(self) -> None:
        self.revision = 1
        self.v2_index = 0

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records."""
        for table, key, value in records:
            if table == tables.STATE:
                self.v2_index = msgspec.msgpack.decode(value, type=tables.Scalars).index
            elif table == tables.V3_STATE:
                self.revision = msgspec.msgpack.decode(value, type=V3Scalars).revision
            yield table, key, value


def changed(records: Iterable[Record], bump: int = 0, *, mark_compacted: bool = False) -> Iterator[Record]:
    """The records of the new cluster's state.

    Alarms, which are of members of the old cluster, are left out. `bump` is added to the revision and to the
    index of the v2 tree, whose event window is empty then: a watch of what is not in the backup is told to
    read anew. With `mark_compacted` reads and watches of all revisions before the new one are refused, as
    after a compaction.
    """
    for table, key, value in records:
        if table == tables.STATE and bump:
            scalars = msgspec.msgpack.decode(value, type=tables.Scalars)
            if scalars.index:
                index = EtcdIndex(scalars.index + bump)
                event = Event("set", index, NodeView(BUMPED, index, index), internal=True)
                yield tables.WINDOW, window_key(index), pack_event(event)
                yield table, key, tables.encode(msgspec.structs.replace(scalars, index=index))
                continue
        elif table == tables.V3_STATE:
            yield table, key, _v3_scalars(value, bump, mark_compacted=mark_compacted)
            continue
        elif table == tables.ALARMS or (table == tables.WINDOW and bump):
            continue
        yield table, key, value


def _v3_scalars(value: bytes, bump: int, *, mark_compacted: bool) -> bytes:
    scalars = msgspec.msgpack.decode(value, type=V3Scalars)
    revision = Revision(scalars.revision + bump)
    compacted = revision if mark_compacted else scalars.compacted
    return tables.encode(msgspec.structs.replace(scalars, revision=revision, compacted=compacted))
