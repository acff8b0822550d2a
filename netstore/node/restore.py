"""Restoring a backup: writes the data folder of one member of a new cluster.

Every member of the new cluster restores the same backup with the same list of members. Ids follow from the
backup, the members' peer URLs and the cluster token, so all compute the same cluster id, which is not that of
any cluster before, and the same state; the log of each begins after it. Nobody gets this state from another
member, and nobody of the old cluster is listened to.

The identity is written last. A folder where this was interrupted has a state and no identity: netstored
refuses it, and so does another restore.
"""

from __future__ import annotations

import queue
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.disk.datadir import STATE_FILE, DataDir, MemberIdentity, explain_errors, keep_token
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.tables import Tables
from netstore.disk.wal import Wal
from netstore.errors import CorruptData, NetstoreError
from netstore.node import bootstrap
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.state import tables
from netstore.state.members import MemberInfo, member_key
from netstore.state.v2.records import pack_event, window_key
from netstore.state.v3.store import V3Scalars
from netstore.types import EtcdIndex, Event, Index, NodeId, NodeView, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    Record = tuple[str, bytes, bytes]

BATCH_RECORDS: Final = 10_000
BATCH_BYTES: Final = 16 * 1024 * 1024
"""Records and bytes in one commit of the state that is written."""

MAP_FACTOR: Final = 4
"""Bytes of address space for each byte of the backup."""

MAP_BYTES: Final = 1 << 30

_DROPPED: Final = (tables.MEMBERS, tables.REMOVED, tables.ALARMS)
"""Tables about the members of the old cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who the new cluster is, and what is changed in the state."""

    name: str
    """Of this member."""
    members: Mapping[str, tuple[str, ...]]
    """Name -> peer URLs of all members, this one among them."""
    token: str
    """`initial_cluster_token`."""
    known_token: str
    """Its default, which everybody knows."""
    source: str
    """What identifies the backup, the same for every copy of it: ids follow from it."""
    bump: int = 0
    """Added to the revision, and to the index of the v2 tree."""
    mark_compacted: bool = False
    """Reads and watches of revisions before the new one are refused, as after a compaction."""

    @property
    def ids(self) -> dict[str, NodeId]:
        """Name -> id of each member."""
        salt = f"{self.token}\n{self.source}"
        return {name: bootstrap.member_id(urls, salt) for name, urls in self.members.items()}


def restore(
    plan: Plan,
    folder: Path,
    wal_folder: Path | None,
    index: Index,
    size: int,
    records: Iterable[Record],
) -> MemberIdentity:
    """Write the data folder of the member `plan.name` from the records of a state that had applied `index`;
    its identity. Blocks. `size` is that of the backup in bytes, about.

    NetstoreError if the folder is not empty, or cannot be written. What `records` raises is passed on.
    """
    for each in (folder, wal_folder):
        _check_empty(each)
    ids = plan.ids
    identity = MemberIdentity(bootstrap.cluster_id(ids.values()), ids[plan.name], plan.name)
    with ExitStack() as parts, explain_errors(folder):
        data = DataDir.lock(folder, wal_folder)
        parts.callback(data.close)
        _write_state(data.state_dir / STATE_FILE, index, size, changed(plan, records))
        _write_log(data.wal_dir, identity, index, tuple(sorted(ids.values())))
        token = _join_token(plan)
        if token is not None:
            keep_token(data.path, token)
        data.adopt(identity)
    return identity


def _check_empty(folder: Path | None) -> None:
    if folder is None or not folder.exists():
        return
    with explain_errors(folder):
        found = sorted(each.name for each in folder.iterdir() if each.name != "lost+found")
    if found:
        raise NetstoreError(
            f"{folder}: is not empty ({found[0]!r} is in it), and a backup is restored into an empty folder"
            " only; nothing was changed: name another one"
        )


def _join_token(plan: Plan) -> str | None:
    """As `node.jointoken`: a token that several members share is the one they were given."""
    if len(plan.members) > 1 or plan.token != plan.known_token:
        return plan.token
    return secrets.token_hex(32)


def changed(plan: Plan, records: Iterable[Record]) -> Iterator[Record]:
    """The records of the new cluster's state."""
    window: tuple[bytes, bytes] | None = None
    for table, key, value in records:
        if table in _DROPPED:
            continue
        if table == tables.STATE and plan.bump:
            scalars = msgspec.msgpack.decode(value, type=tables.Scalars)
            if scalars.index:
                index = EtcdIndex(scalars.index + plan.bump)
                window = window_key(index), pack_event(_bump_event(index))
                value = tables.encode(msgspec.structs.replace(scalars, index=index))  # noqa: PLW2901
        elif table == tables.WINDOW and plan.bump:
            continue  # the events before the gap: a watch that asks for one of them is told to read anew
        elif table == tables.V3_STATE:
            value = _v3_scalars(plan, value)  # noqa: PLW2901
        yield table, key, value
    if window is not None:
        yield tables.WINDOW, *window
    ids = plan.ids
    for name, urls in sorted(plan.members.items()):
        member = MemberInfo(ids[name], "", (), urls)
        yield tables.MEMBERS, member_key(member.id), tables.encode(member)


def _bump_event(index: EtcdIndex) -> Event:
    """An event that is shown to nobody, so that the window ends at the index of the tree."""
    return Event("set", index, NodeView(b"/restored", index, index), internal=True)


def _v3_scalars(plan: Plan, value: bytes) -> bytes:
    scalars = msgspec.msgpack.decode(value, type=V3Scalars)
    revision = Revision(scalars.revision + plan.bump)
    compacted = revision if plan.mark_compacted else scalars.compacted
    return tables.encode(msgspec.structs.replace(scalars, revision=revision, compacted=compacted))


def _write_state(path: Path, index: Index, size: int, records: Iterable[Record]) -> None:
    state = Tables.open(path, tables.TABLES, MAP_BYTES + MAP_FACTOR * size)
    try:
        batch = _Batch()
        for table, key, value in records:
            if table not in tables.TABLES:
                raise CorruptData(
                    f"the backup has a table {table[:64]!r}, which this version does not know: upgrade netstore"
                )
            batch.add(table, key, value)
            if batch.is_full:
                state.write(index, b"", batch)
                batch = _Batch()
        state.write(index, b"", batch)
    finally:
        state.close()


class _Batch:
    """Records of one commit. A `disk.tables.Changes`."""

    def __init__(self) -> None:
        self._changes: list[tuple[tuple[str, bytes], bytes | None]] = []
        self._bytes = 0

    def add(self, table: str, key: bytes, value: bytes) -> None:
        self._changes.append(((table, key), value))
        self._bytes += len(key) + len(value)

    @property
    def is_full(self) -> bool:
        return len(self._changes) >= BATCH_RECORDS or self._bytes >= BATCH_BYTES

    def items(self) -> Iterable[tuple[tuple[str, bytes], bytes | None]]:
        """All of them, in order."""
        return self._changes


def _write_log(folder: Path, identity: MemberIdentity, index: Index, voters: tuple[NodeId, ...]) -> None:
    """A log that begins after `index`, in the first term."""
    calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    outcomes: list[OSError | None] = []
    device = PosixDevice(folder, calls.put)
    wal, _ = Wal.open(device, Identity(identity.cluster_id, identity.member_id))
    try:
        meta = SnapshotMeta(index, bootstrap.FIRST_TERM, ConfState(voters=voters))
        wal.mark(meta, outcomes.append, replaces=True)
        wal.append(HardState(bootstrap.FIRST_TERM, NodeId(0), index), [], outcomes.append)
        while len(outcomes) < 2:
            calls.get()()
    finally:
        wal.close()
    for failure in outcomes:
        if failure is not None:
            raise failure
