"""The way back: a data folder for an etcd of one member, or a snapshot file, from a netstore's state. Blocks.

Keys, history, revisions and leases go into the database, as in a snapshot of the API (`node.backup.buckets`);
the v2 tree with its indexes, TTLs and event window goes into a v2 snapshot at which the log begins.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.disk.datadir import STATE_FILE, DataDir, explain_errors
from netstore.disk.frame import Identity
from netstore.disk.readonly import ReadOnlyDevice
from netstore.disk.statefile import StateFile
from netstore.disk.wal import Wal
from netstore.errors import NetstoreError
from netstore.etcdfile import boltwriter, raftlogwriter
from netstore.node.backup import buckets
from netstore.node.etcdimport import MOST_TOLD
from netstore.outputfile import open_output, sync_folder
from netstore.state import tables
from netstore.state.v2.history import CAPACITY
from netstore.state.v2.records import unpack_event, unpack_node
from netstore.state.v2.statistics import REPLICATED
from netstore.types import EtcdIndex

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from netstore.node.seeding import Founders
    from netstore.types import Event, NodeView

FIRST_INDEX: Final = 1
"""Index and term of the v2 snapshot. The database is as of this index, too."""

_FOREVER: Final = "0001-01-01T00:00:00Z"
_OF_CLUSTER: Final = frozenset({b"alarm", b"cluster", b"members", b"members_removed"})
_READ_BYTES: Final = 1024 * 1024


def open_state(folder: Path, parts: ExitStack, wal: Path | None = None) -> StateFile:
    """The state of a member that is stopped, opened to be read, and locked until `parts` are closed. `wal` is
    where its log is, if not inside. Nothing in these folders is changed.

    NetstoreError, with the fix, if the member runs, the folder is none, or its log has entries that the state
    does not have; CorruptData if it is damaged.
    """
    if not (folder / "state" / STATE_FILE).exists():
        raise NetstoreError(f"{folder}: not the data folder of a netstore: name the one of its --data-dir")
    if not (wal or folder / "wal").is_dir():
        raise NetstoreError(
            f"{wal or folder / 'wal'}: is not there: name with --source-wal-dir the folder that netstored"
            " was given as --wal-dir"
        )
    locked = DataDir.read(folder, wal)
    parts.callback(locked.close)
    own = locked.identity
    state = parts.enter_context(StateFile(locked.state_dir / STATE_FILE))
    with explain_errors(locked.wal_dir):
        _, replay = Wal.open(ReadOnlyDevice(locked.wal_dir), Identity(own.cluster_id, own.member_id))
    if replay.last > state.applied:
        raise NetstoreError(
            f"{folder}: this member was not stopped properly: its log ends with entry {replay.last}, and its"
            f" state with {state.applied}: start it once, stop it with SIGTERM, and repeat this"
        )
    return state


def write_snapshot(state: StateFile, target: Path) -> int:
    """Write the v3 keys to a file as `etcdctl snapshot save` does, on stable storage; its size in bytes. It
    appears complete or not at all. NetstoreError, with the fix, when it cannot be written.
    """
    with explain_errors(target), open_output(target) as (file, _):
        size = boltwriter.write(file, buckets(state))
        file.seek(0)
        digest = sha256()
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
        file.write(digest.digest())
    return size + digest.digest_size


@dataclass(slots=True)
class Exported:
    """What a data folder has got."""

    nodes: int = 0
    """Of the v2 tree."""
    changed: list[str] = field(default_factory=list)
    """Paths of v2 nodes whose path or value is not UTF-8, at most `MOST_TOLD`: an etcd cannot keep that, and
    what is none was replaced.
    """
    changed_count: int = 0


def write_folder(state: StateFile, target: Path, own: Founders) -> Exported:
    """Write the data folder of an etcd whose only member is `own.own`. It appears complete or not at all.
    `target` is a new or empty folder.

    NetstoreError, with the fix, when it cannot be written. Memory: the v2 tree, as in an etcd.
    """
    with explain_errors(target):
        if target.exists() and any(target.iterdir()):
            raise NetstoreError(f"{target}: is not empty; nothing was changed: choose a new or empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(".part", f".{target.name[:200]}.", target.parent)
        part = target.with_name(name.rpartition("/")[2])
        snap, wal = part / "member" / "snap", part / "member" / "wal"
        try:
            for folder in (part / "member", snap, wal):
                folder.mkdir(mode=0o700)
            exported = _fill(state, snap, wal, own)
            for folder in (snap, wal, part / "member", part):
                sync_folder(folder)
            _put_in_place(part, target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return exported


def _put_in_place(part: Path, target: Path) -> None:
    try:
        part.rename(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise NetstoreError(f"{target}: a file system is mounted there: choose a folder in it") from None
    sync_folder(target.parent)


def _fill(state: StateFile, snap: Path, wal: Path, own: Founders) -> Exported:
    urls = own.members[own.own]
    with _new(snap / "db") as file:
        # Members and their alarms are the old cluster's; etcd writes its own when it starts.
        content = {name: iter(()) if name in _OF_CLUSTER else pairs for name, pairs in buckets(state).items()}
        boltwriter.write(file, content)
    exported, store = _v2_store(state, own.own, own.name, urls)
    try:
        data = json.dumps(store, separators=(",", ":")).encode()
    except RecursionError:
        raise NetstoreError(
            "the v2 tree is nested too deep to be exported; remove its deepest folders"
        ) from None
    with _new(snap / raftlogwriter.snapshot_file(FIRST_INDEX, FIRST_INDEX)) as file:
        file.write(raftlogwriter.snapshot(data, (own.own,), FIRST_INDEX, FIRST_INDEX))
    with _new(wal / raftlogwriter.LOG_FILE) as file:
        raftlogwriter.write_log(file, own.own, own.cluster, FIRST_INDEX, FIRST_INDEX)
    return exported


class _new:  # noqa: N801 - used as a function
    """A new file of mode 0600, synced when it is closed without an exception."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def _v2_store(
    state: StateFile, member: int, name: str, urls: tuple[str, ...]
) -> tuple[Exported, dict[str, Any]]:
    """What is in the v2 store, and all of it as etcd has it in its snapshots."""
    scalars = tables.Scalars(EtcdIndex(0), (0,) * len(REPLICATED), "")
    for _, stored in state.every(tables.STATE):
        scalars = msgspec.msgpack.decode(stored, type=tables.Scalars)
    attributes = {
        "attributes": json.dumps({"name": name, "clientURLs": []}),
        "raftAttributes": json.dumps({"peerURLs": list(urls)}),
    }
    home = f"/0/members/{member:x}"
    own = _folder(home, {each: _file(f"{home}/{each}", text) for each, text in attributes.items()})
    members = _folder("/0/members", {f"{member:x}": own})
    users = _folder("/1", {})
    exported = Exported()
    folders: dict[str, dict[str, Any]] = {"/1": users}
    waiting: dict[str, dict[str, Any]] = {}
    for path, stored in sorted(state.every(tables.NODES)):
        node, _ = unpack_node(path, stored)
        shown = _stored(node)
        exported.nodes += 1
        if not (_is_text(node.key) and _is_text(node.value or b"")):
            exported.changed_count += 1
            if len(exported.changed) < MOST_TOLD:
                exported.changed.append(shown["Path"].removeprefix("/1"))
        if shown["Path"] in waiting:
            raise NetstoreError(
                f"the v2 key {shown['Path'].removeprefix('/1')!r}: there are two that differ only in bytes"
                " that are not UTF-8, which an etcd cannot keep apart: remove or rename one"
            )
        folders[shown["Path"]] = shown
        waiting[shown["Path"]] = shown
    for full, shown in waiting.items():
        parent, _, last = full.rpartition("/")
        folders[parent]["Children"][last] = shown
    events = sorted((unpack_event(key, stored) for key, stored in state.every(tables.WINDOW)), key=_index)
    queue: list[dict[str, Any] | None] = [_shown_event(event) for event in events]
    size = len(queue)
    queue += [None] * (CAPACITY - size)
    history = {
        "Queue": {
            "Events": queue,
            "Size": size,
            "Front": 0,
            "Back": size % CAPACITY,
            "Capacity": CAPACITY,
        },
        "StartIndex": events[0].index if events else 0,
        "LastIndex": scalars.index,
    }
    return exported, {
        "Root": _folder("/", {"0": _folder("/0", {"members": members}), "1": users}),
        "WatcherHub": {"EventHistory": history},
        "CurrentIndex": scalars.index,
        "Stats": dict(zip(map(_camel, REPLICATED), scalars.counts, strict=True)),
        "CurrentVersion": 2,
    }


def _index(event: Event) -> int:
    return event.index


def _folder(path: str, children: dict[str, Any]) -> dict[str, Any]:
    return _file(path, "") | {"Children": children}


def _file(path: str, value: str) -> dict[str, Any]:
    return {
        "Path": path,
        "CreatedIndex": 0,
        "ModifiedIndex": 0,
        "ExpireTime": _FOREVER,
        "Value": value,
        "Children": None,
    }


def _stored(node: NodeView) -> dict[str, Any]:
    return {
        "Path": "/1" + node.key.decode(errors="replace"),
        "CreatedIndex": node.created,
        "ModifiedIndex": node.modified,
        "ExpireTime": _instant(node.expires) if node.expires else _FOREVER,
        "Value": (node.value or b"").decode(errors="replace"),
        "Children": {} if node.dir else None,
    }


def _shown_event(event: Event) -> dict[str, Any]:
    home = "/0" if event.internal else "/1"
    shown: dict[str, Any] = {"action": event.action, "node": _shown(event.node, home)}
    if event.prev is not None:
        shown["prevNode"] = _shown(event.prev, home)
    return shown | {"refresh": True} if event.refresh else shown


def _shown(node: NodeView, home: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "key": home + node.key.decode(errors="replace"),
        "modifiedIndex": node.modified,
        "createdIndex": node.created,
    }
    if node.dir:
        shown["dir"] = True
    elif node.value is not None:
        shown["value"] = node.value.decode(errors="replace")
    if node.expires:
        shown["expiration"] = _instant(node.expires)
    return shown


def _is_text(data: bytes) -> bool:
    return data.decode(errors="replace").encode() == data


def _instant(nanos: int) -> str:
    seconds, rest = divmod(nanos, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
