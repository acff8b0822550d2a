"""Files of state copies: how they are named, which can be trusted, what is left of them after a crash.

They lie beside the state they are copies of, so that a copy takes its place by a rename:

    state.lmdb
    0000000000002a17-<sha256>.image   complete, on stable storage; the name tells what its bytes must be
    incoming.part                     being received
    outgoing-<member>.part            being sent

A copy from the leader replaces state and log in three durable steps (`node.snapshotinstall`): it is complete
here under its final name; the log is marked with it; the engine takes its place. `settle` finishes or undoes
what a crash left between them.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import sync_folder
from netstore.errors import CorruptData
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from netstore.types import NodeId

INCOMING: Final = "incoming.part"

_IMAGE: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})\.image")
_LEFTOVER: Final = re.compile(r"incoming\.part|outgoing-[0-9a-f]{1,16}\.part")
_READ_BYTES: Final = 1024 * 1024


def _to_nobody(_: int) -> None:
    pass


def outgoing(folder: Path, peer: NodeId) -> Path:
    """Where a copy for this member is made."""
    return folder / f"outgoing-{peer:x}.part"


def image_name(index: Index, digest: bytes) -> str:
    """The name of a complete copy that has applied `index`."""
    return f"{index:016x}-{digest.hex()}.image"


def complete(part: Path, index: Index, digest: bytes) -> Path:
    """Give a received copy, synced already, its final name. Blocks; on stable storage when it returns."""
    image = part.with_name(image_name(index, digest))
    part.rename(image)
    sync_folder(image.parent)
    return image


def forget_up_to(folder: Path, index: Index) -> None:
    """Remove complete copies of a state this member is past. Blocks."""
    for image, at in _images(folder):
        if at <= index:
            image.unlink(missing_ok=True)


def settle(  # noqa: PLR0917 - what is on the disk, and who is told
    folder: Path,
    state: Path,
    applied: Index,
    mark: Index,
    last: Index,
    moved: Callable[[int], object] = _to_nobody,
) -> Index | None:
    """At the start, before the state is opened: finish the replacing that the log's mark speaks of, and
    remove everything else that is left. `applied` is what the state has (`apart.examined`). The index of a
    copy that was put in place now, or None. Blocks; `moved` gets how many bytes of a copy were read so far.

    CorruptData when the log begins (`mark`) after what the state has applied, because a copy is not there or
    is not what it was, or when it ends (`last`) before.
    """
    placed = None
    for image, index in _images(folder):
        if applied < mark == index and _is_whole(image, moved):
            image.rename(state)
            sync_folder(folder)
            applied = placed = index
        else:
            image.unlink()
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
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
    return placed


def _images(folder: Path) -> list[tuple[Path, Index]]:
    found = []
    for path in sorted(folder.iterdir()):
        match = _IMAGE.fullmatch(path.name)
        if match:
            found.append((path, Index(int(match[1], 16))))
    return found


def _is_whole(image: Path, moved: Callable[[int], object]) -> bool:
    match = _IMAGE.fullmatch(image.name)
    digest = sha256()
    size = 0
    with image.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            size += len(piece)
            moved(size)
    return match is not None and digest.hexdigest() == match[2]
