"""What a folder is that was given where another kind of folder, or a file, is wanted; and its command."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from netstore.cli.commands.failures import refused
from netstore.inputfile import open_regular

if TYPE_CHECKING:
    from pathlib import Path

NAME_BACKUP: Final = "name a file that netstorectl snapshot save wrote"


def is_of_etcd(path: Path) -> bool:
    """Whether a folder is the data folder of an etcd, or one that etcdctl backup made."""
    return (path / "member" / "snap").is_dir()


def advice(path: Path, wanted: str) -> str | None:
    """In words, what a folder is instead of `wanted`, and the command for it; None if nothing is known of it.
    Blocks. OSError if it cannot be read.
    """
    from netstore.disk.archivefile import is_archive  # noqa: PLC0415 - few commands need them
    from netstore.disk.datadir import is_data_folder  # noqa: PLC0415 - same

    named = shlex.quote(str(path))
    if is_archive(path):
        return (
            f"is an archive of the log, not {wanted}: restore from it with netstorectl snapshot restore"
            f" --archive {named} and the point, such as --to-time"
        )
    if is_data_folder(path):
        return (
            f"is the data folder of a netstored, not {wanted}: start netstored --data-dir {named}, or copy"
            " the folder while it is stopped, and start the copy in its place; for a new cluster with this"
            " data use netstorectl snapshot save while it runs, and snapshot restore"
        )
    if is_of_etcd(path):
        return (
            f"is the data folder of an etcd, not {wanted}: use netstorectl import {named} --data-dir FOLDER"
        )
    newest = _newest_backup(path)
    return None if newest is None else f"is a folder with backups; name one of its files, such as {newest}"


def require_archive(folder: Path) -> None:
    """`Failure` if a folder is no archive of the log, with the command for what it is. Blocks."""
    from netstore.disk.archivefile import is_archive  # noqa: PLC0415 - few commands need it

    try:
        if is_archive(folder):
            return
        told = advice(folder, "an archive") or (
            "has no file of an archive: name the archive_folder of a member; if it is on another disk,"
            " mount that first"
        )
    except OSError as error:
        told = f"{error.strerror}: name the folder of an archive"
    raise refused(f"{folder}: {told}")


def _newest_backup(folder: Path) -> Path | None:
    """The last by name of the backups in a folder, full or of v3 keys."""
    from netstore.disk.backupfile import MAGIC, is_backup  # noqa: PLC0415 - few commands need them
    from netstore.etcdfile.boltreader import is_database  # noqa: PLC0415 - same

    newest: Path | None = None
    for file in sorted(folder.iterdir()):
        # A file that cannot be read, or is none, is not the one to name.
        with suppress(OSError), open_regular(file) as opened:
            if is_backup(opened.read(len(MAGIC))) or is_database(opened):
                newest = file
    return newest
