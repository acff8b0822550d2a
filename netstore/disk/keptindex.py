"""A file beside the state with what a clean stop saved of the memory, so that the next start need not read
all records (`state.v3.savedkeys`).

The file names the state it belongs to by the whole summary of its last commit (`summary`): applied index,
place in the log, and number and sum of the records of every table. It is used only if that is the summary of
the state as it is now, and if every part of the file has its checksum; else it is ignored, and the state is
read as a whole. It is written after the state was closed, under another name, synced, and renamed.

    title and version, length and CRC-32C of the head
    head: summary; the bytes that the caller calls head; length and CRC-32C of each column
    columns
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from google_crc32c import extend

from netstore.codec import (
    Malformed,
    crc32c,
    prefixed,
    read_prefixed,
    read_u32,
    read_u64,
    read_varint,
    u32,
    u64,
    varint,
)
from netstore.inputfile import open_regular
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from pathlib import Path

    from netstore.disk.summary import Summary

KEPT_FILE: Final = "keys.saved"
"""The file, in the folder of the state."""

_TITLE: Final = b"netstore saved keys 1\n"
_HEAD_BYTES: Final = 1 << 20
"""A longer head is damaged."""


def write(folder: Path, summary: Summary, head: bytes, columns: Sequence[bytes]) -> None:
    """Write the file for a state that was closed with this summary, on stable storage. Blocks. OSError when
    that fails; there is no file then, or the one before.
    """
    checks = b"".join(u64(len(each)) + u32(extend(0, each)) for each in columns)
    whole = prefixed(summary.encode()) + prefixed(head) + varint(len(columns)) + checks
    aside = folder / f"{KEPT_FILE}.new"
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for part in (_TITLE + u32(len(whole)) + u32(crc32c(whole)) + whole, *columns):
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fsync(file)
        aside.rename(folder / KEPT_FILE)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    sync_folder(folder)


def is_kept(folder: Path, summary: Summary) -> bool:
    """Whether there is a file for this summary; its columns are not read, so they may be damaged. Blocks."""
    try:
        with open_regular(folder / KEPT_FILE, buffering=0) as file:
            return _read_head(file, summary) is not None
    except (OSError, Malformed):
        return False


def read(folder: Path, summary: Summary) -> tuple[bytes, list[bytes]] | None:
    """Head and columns, if they were written for a state with this summary; None if there are none, or those
    of another state. Malformed if the file is damaged; OSError. Blocks.
    """
    try:
        file = open_regular(folder / KEPT_FILE, buffering=0)
    except FileNotFoundError:
        return None
    with file:
        found = _read_head(file, summary)
        if found is None:
            return None
        head, checks = found
        columns = []
        if sum(length for length, _ in checks) != os.fstat(file.fileno()).st_size - file.tell():
            raise Malformed("it is cut short, or too long")
        for number, (length, check) in enumerate(checks):
            columns.append(_read(file, length))
            if extend(0, columns[-1]) != check:
                raise Malformed(f"part {number} is not what was written")
    return head, columns


def _read_head(file: FileIO, summary: Summary) -> tuple[bytes, list[tuple[int, int]]] | None:
    """The caller's head, and length and checksum of each column; None if they are of another state."""
    title, lengths = _read(file, len(_TITLE)), _read(file, 8)
    length, at = read_u32(lengths, 0)
    check, _ = read_u32(lengths, at)
    if title != _TITLE or length > _HEAD_BYTES:
        raise Malformed("it does not begin as it should")
    whole = _read(file, length)
    if crc32c(whole) != check:
        raise Malformed("its head is not what was written")
    owner, at = read_prefixed(whole, 0)
    if owner != summary.encode():
        return None
    head, at = read_prefixed(whole, at)
    count, at = read_varint(whole, at)
    checks = []
    for _ in range(count):
        length, at = read_u64(whole, at)
        check, at = read_u32(whole, at)
        checks.append((length, check))
    return head, checks


def _read(file: FileIO, length: int) -> bytes:
    data = file.read(length)
    while len(data) < length:  # one call reads 2 GiB at most
        more = file.read(length - len(data))
        if not more:
            raise Malformed("it is cut short")
        data += more
    return data
