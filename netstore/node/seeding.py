"""A data folder for a member of a new cluster whose state comes from elsewhere: an import, a backup. Blocks.

The state is written in commits of bounded size, verified by reading all of it, and marked in the log as a
snapshot of the members that begin the cluster; the identity comes last. Until then no member starts on the
folder (`disk.datadir.DataDir.make`), so that it is complete or none. Each founder of a cluster of several
members is given the same records and the same `Founders`, but for `own`.
"""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from netstore.disk.datadir import STATE_FILE, DataDir, MemberIdentity, keep_token
from netstore.disk.engine import COMMIT_BYTES, COMMIT_CHANGES, MAP_BYTES, MAP_LIMIT_BYTES
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.shared import SharedTables
from netstore.disk.verification import verify
from netstore.disk.wal import Wal
from netstore.errors import NetstoreError
from netstore.node import bootstrap
from netstore.outputfile import sync_folder
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.state import tables
from netstore.state.members import MemberInfo, member_key
from netstore.types import ClusterId, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from netstore.types import Index

Record: TypeAlias = tables.Record
_Changes: TypeAlias = dict[tuple[str, bytes], bytes]

_OF_MEMBERS: Final = frozenset({tables.MEMBERS, tables.REMOVED})
"""Tables that are about the old cluster; those of the new one are written here."""

TOLD_EACH: Final = 10_000
"""Progress is told after so many records."""


EARLIEST: Final = 1_767_225_600
"""2026-01-01, in seconds of Unix: a clock that says less was never set."""

LATEST: Final = 2**32 - 1
"""In 2106: later terms would be refused by members with small ones (`raft.election.MAX_TERMS_AHEAD`)."""


class Founders(NamedTuple):
    """The members that begin a new cluster, and which of them the folder is for."""

    own: NodeId
    members: Mapping[NodeId, tuple[str, ...]]
    """Peer URLs by id."""
    name: str
    """Of the own member."""
    join_token: str
    term: Term = bootstrap.FIRST_TERM
    """The term that the own member begins with; there was no leader in it."""

    @property
    def cluster(self) -> ClusterId:
        """The id of the new cluster."""
        return bootstrap.cluster_id(self.members)


def founders(initial: Mapping[str, Sequence[str]], name: str, token: str, origin: str) -> Founders:
    """The founders with these peer URLs by name; the own one is called `name`. All of them are given the same
    `token` and `origin`. The ids depend on both, so that a member of the cluster from which the data comes
    cannot be taken for one of the new cluster; `token` is also what members join by. The id of a founder that
    begins alone has a random part besides, because nobody else has to compute it: a member left over from an
    earlier start from the same data is not one of this cluster.

    Founders of several members, who may be given the same once more, begin with a term that is the time, in
    seconds: no entry after the given state has the index and the term of one of an earlier cluster with these
    ids, so that neither is taken for the other, and where clocks are right a member left of the earlier one
    does not lead.

    NetstoreError if no founder has this name, or the clock cannot be right.
    """
    if len(initial) == 1:
        origin = f"{origin} {secrets.token_hex(16)}"
    ids = {each: bootstrap.member_id(urls, f"{token} {origin}") for each, urls in initial.items()}
    if name not in ids:
        raise NetstoreError(f"--initial-cluster: names {', '.join(ids) or 'nobody'}, and not {name}: add it")
    term = bootstrap.FIRST_TERM if len(initial) == 1 else _term_of_now()
    return Founders(ids[name], {ids[each]: tuple(urls) for each, urls in initial.items()}, name, token, term)


def _term_of_now() -> Term:
    now = int(time.time())
    if not EARLIEST <= now <= LATEST:
        raise NetstoreError(
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}: set it first, because members"
            " that begin with the same data tell this beginning from an earlier one by the time"
        )
    return Term(now)


def _ignore(_: int) -> None:
    """Nobody waits for progress."""


def seed(
    path: Path,
    own: Founders,
    applied: Index,
    records: Iterable[Record],
    progress: Callable[[int], object] = _ignore,
    *,
    wal: Path | None = None,
) -> int:
    """Write a data folder, with its log in the folder `wal` if that is not to be inside; how many records it
    has. Memory: one commit.

    `records` are those of a state that has applied the entry `applied`, at least 1: those of `tables.STATE`
    and `tables.V3_STATE` among them, those of members are left out. `progress` is called with how many were
    written so far. The folders are new or empty.

    NetstoreError, with the fix, when it cannot be written. Whatever is raised, also by `records`, the folders
    are empty then.
    """
    folder = DataDir.make(path, wal)
    try:
        count = _write_state(folder.state_dir / STATE_FILE, own, applied, records, progress)
        _write_log(folder, own, applied)
        sync_folder(folder.state_dir)  # the name of the state
        keep_token(folder.path, own.join_token)
        folder.adopt(MemberIdentity(own.cluster, own.own, own.name))
    except BaseException:
        if folder.found is None:
            folder.discard()
        raise
    folder.close()
    return count


def _write_state(
    path: Path,
    own: Founders,
    applied: Index,
    records: Iterable[Record],
    progress: Callable[[int], object],
) -> int:
    shared = SharedTables(path, tables.TABLES, MAP_BYTES, MAP_LIMIT_BYTES)
    count = 0
    try:
        changes: _Changes = {
            (tables.MEMBERS, member_key(id_)): tables.encode(MemberInfo(id_, "", (), urls))
            for id_, urls in own.members.items()
        }
        size = 0
        for table, key, value in records:
            if table in _OF_MEMBERS:
                continue
            changes[table, key] = value
            count += 1
            size += len(key) + len(value)
            if len(changes) >= COMMIT_CHANGES or size >= COMMIT_BYTES:
                _commit(shared, path, applied, changes)
                changes, size = {}, 0
            if count % TOLD_EACH == 0:
                progress(count)
        _commit(shared, path, applied, changes)
        stored = sum(each.records for each in shared.tables.summary.sums.values())
    finally:
        shared.close()
    if stored != count + len(own.members):
        raise NetstoreError(
            f"{path}: {stored} records were stored, of {count + len(own.members)}: some have the same key:"
            " the source is not consistent, take another copy of it"
        )
    progress(count)
    verify(path)
    return count


def _commit(shared: SharedTables, path: Path, applied: Index, changes: _Changes) -> None:
    failure = shared.commit(applied, b"", changes)
    if failure is not None:
        raise _not_written(path, failure)


def _not_written(path: Path, failure: OSError) -> NetstoreError:
    reason = failure.strerror or failure
    return NetstoreError(f"{path}: cannot be written: {reason}; free disk space, or choose another folder")


def _write_log(folder: DataDir, own: Founders, applied: Index) -> None:
    """Write a log that begins after the state, with all founders as voters, on stable storage."""
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    outcomes: list[OSError | None] = []
    conf = ConfState(voters=tuple(sorted(own.members)))
    with ExitStack() as parts:
        device = PosixDevice(folder.wal_dir, calls.put)
        parts.callback(device.close)
        log, _ = Wal.open(device, Identity(own.cluster, own.own))
        parts.callback(log.close)
        log.mark(SnapshotMeta(applied, bootstrap.FIRST_TERM, conf), outcomes.append)
        log.append(HardState(own.term, NodeId(0), applied), [], outcomes.append)
        while len(outcomes) < 2:
            calls.get()()
    for failure in filter(None, outcomes):
        raise _not_written(folder.wal_dir, failure)
