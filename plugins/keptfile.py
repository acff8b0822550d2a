"""Small private files that a backend keeps in its folder, such as a key. They are replaced atomically, and
are read only if no other user can have written or read them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from netstore.agent.backend import Refused
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, limit: int) -> bytes | None:
    """The content, None if there is no such file. Refused if it is not a regular file of this user that is
    closed to all others, or has more than `limit` bytes.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}; repair or remove it") from None
    try:
        state = os.fstat(file)
        wrong = _wrong(state, limit)
        if wrong is not None:
            raise Refused(f"{path} {wrong}")
        return os.read(file, limit)
    finally:
        os.close(file)


def _wrong(state: os.stat_result, limit: int) -> str | None:
    if not stat.S_ISREG(state.st_mode):
        return "is not a regular file; remove it"
    if state.st_uid != os.geteuid():
        return f"belongs to user {state.st_uid}, not {os.geteuid()}; remove it, or change its owner"
    if state.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(state.st_mode):04o}, so others may know it; remove it, or chmod 600"
    if state.st_size > limit:
        return f"has {state.st_size} bytes, more than {limit}; remove it"
    return None


def write(path: Path, content: bytes) -> None:
    """Replace the file, mode 0600, and wait until it is on the disk. Refused if that fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(content)
            while left:  # a write may take a part, as on a disk that is almost full
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written: {error.strerror}; make its folder writable") from None


def remove(path: Path) -> None:
    """Remove the file if there is one. Refused if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f"{path} cannot be removed: {error.strerror}") from None
