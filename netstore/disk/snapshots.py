"""Files of state snapshots: their names, which can be trusted, and recovery after a crash.

They are in the folder of the state, so that a snapshot is installed by a rename:

    state.lmdb
    0000000000002a17-<sha256>.image   complete, on stable storage; named by its applied index and its SHA-256
    incoming.part                     being received
    outgoing-<member>.part            being sent

A snapshot from the leader replaces state and log in three durable steps (`node.snapshotinstall`): the file
gets its final name; the log is marked with its index; the engine takes it as its state. `recover_install`
finishes or undoes what a crash left between them.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from netstore.errors import CorruptData
from netstore.inputfile import open_regular
from netstore.outputfile import sync_folder
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.types import NodeId

INCOMING: Final = "incoming.part"

_SNAPSHOT: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})\.image")
_UNFINISHED: Final = re.compile(r"incoming\.part|outgoing-[0-9a-f]{1,16}\.part")
_READ_BYTES: Final = 1024 * 1024


def _ignore(_: int) -> None:
    pass


def outgoing(folder: Path, peer: NodeId) -> Path:
    """The file of a snapshot that is made for this member."""
    return folder / f"outgoing-{peer:x}.part"


def snapshot_name(index: Index, digest: bytes) -> str:
    """The name of a complete snapshot that has applied `index`."""
    return f"{index:016x}-{digest.hex()}.image"


def complete(part: Path, index: Index, digest: bytes) -> Path:
    """Give a received snapshot, which is synced, its final name, on stable storage. Blocks."""
    snapshot = part.with_name(snapshot_name(index, digest))
    part.rename(snapshot)
    sync_folder(snapshot.parent)
    return snapshot


def remove_up_to(folder: Path, index: Index) -> None:
    """Remove complete snapshots that this member does not need, because it has applied `index`. Blocks."""
    for snapshot, applied in _snapshots(folder):
        if applied <= index:
            snapshot.unlink(missing_ok=True)


def recover_install(  # noqa: PLR0917 - what is on the disk, and a callback
    folder: Path,
    state: Path,
    applied: Index,
    mark: Index,
    last: Index,
    progress: Callable[[int], object] = _ignore,
) -> Index | None:
    """At the start, before the state is opened: finish the installation of the snapshot that the log's mark
    names, and remove all other snapshots. `applied` is the state's (`verification.summary_of_state`). The
    index of a snapshot that was installed now, or None. Blocks; `progress` is called with how many bytes of a
    snapshot were read so far.

    CorruptData when the log begins (`mark`) after what the state has applied, because the snapshot is missing
    or its digest does not fit, or when the log ends (`last`) before that.
    """
    installed = None
    for snapshot, index in _snapshots(folder):
        if applied < mark == index and _is_intact(snapshot, progress):
            snapshot.rename(state)
            sync_folder(folder)
            applied = installed = index
        else:
            snapshot.unlink()
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()
    if applied < mark:
        raise CorruptData(
            f"{state}: the state has applied entry {applied}, the log begins after {mark}: restore the state,"
            " or remove the data folder and let the member join anew"
        )
    if applied > last:
        raise CorruptData(
            f"write-ahead log: ends with entry {last}, the state has applied entry {applied}: files of it"
            " are missing; nothing was changed: restore this member from its peers or from a backup"
        )
    return installed


def _snapshots(folder: Path) -> list[tuple[Path, Index]]:
    found = []
    for path in sorted(folder.iterdir()):
        match = _SNAPSHOT.fullmatch(path.name)
        if match:
            found.append((path, Index(int(match[1], 16))))
    return found


def _is_intact(snapshot: Path, progress: Callable[[int], object]) -> bool:
    match = _SNAPSHOT.fullmatch(snapshot.name)
    digest = sha256()
    size = 0
    with open_regular(snapshot) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            size += len(piece)
            progress(size)
    return match is not None and digest.hexdigest() == match[2]
