"""The file system of a member's log: its kind, its space, and how long it takes to sync."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.cli.checks.finding import absent, ok, unknown, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.cli.checks.finding import Finding

MEMORY: Final = ("tmpfs", "ramfs")
NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs", "lustre")

SYNCS: Final = 20
SYNC_BYTES: Final = 4096
SYNC_SECONDS: Final = 3.0
"""No further sync is begun after that."""

SLOW: Final = 0.010
"""Seconds: etcd's documentation wants 99 of 100 syncs of its log below it."""

VERY_SLOW: Final = 0.100
"""Seconds: as long as a heartbeat; members may lose their leader."""

LEAST_BYTES: Final = 1 << 30
LEAST_PART: Final = 0.05
LITTLE_PART: Final = 0.15


def check_disk(folder: Path, *, is_named: bool, root: Path = Path("/")) -> Iterator[Finding]:
    """The disk of a member whose log is in `folder`. If nobody named it, it may be missing: no member is here
    then. `root` is where /proc is.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        if is_named:
            yield wrong("log", f"{folder} does not exist", "name the data folder of this machine's member")
        else:
            yield absent("log", f"no member's data in {folder}")
        return
    except OSError as error:
        yield unknown("log", f"{folder}: {error.strerror}", "run it as root, or as the store's user")
        return
    yield _file_system(folder, root)
    yield _space(folder)
    yield _sync(folder)


def mount_of(folder: Path, mounts: str) -> tuple[str, str] | None:
    """Mount point and kind of the file system of an absolute path, from the text of /proc/self/mountinfo
    (proc(5)); None if it is not there.
    """
    best: tuple[str, str] | None = None
    for line in mounts.splitlines():
        head, dash, tail = line.partition(" - ")
        words = head.split()
        if not dash or len(words) < 5 or not tail:
            continue
        point = words[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = folder == Path(point) or Path(point) in folder.parents
        if inside and (best is None or len(point) >= len(best[0])):
            best = point, tail.split()[0]
    return best


def _file_system(folder: Path, root: Path) -> Finding:
    subject = "file system"
    try:
        with (root / "proc/self/mountinfo").open(encoding="utf-8", errors="replace") as file:
            found = mount_of(folder.resolve(), file.read(1 << 20))
    except OSError as error:
        return unknown(subject, f"/proc/self/mountinfo: {error.strerror}", "run it where /proc is mounted")
    if found is None:
        return unknown(subject, f"{folder} is below no mount that is listed", "see findmnt")
    point, kind = found
    told = f"{kind} at {point}"
    if kind in MEMORY:
        return warning(subject, f"{told} is lost with the machine", "keep the data on a disk")
    if kind in NETWORK or kind.startswith("fuse"):
        return warning(
            subject, f"{told} syncs over a network, or through a program", "keep the data on a local disk"
        )
    if point == "/":
        return warning(
            subject, f"{told} is shared with the system: what fills it stops the store", "use one of its own"
        )
    return ok(subject, told)


def _space(folder: Path) -> Finding:
    subject = "space"
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return unknown(subject, f"{folder}: {error.strerror}", "run it as root, or as the store's user")
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    told = f"{free / (1 << 30):.1f} GiB of {size / (1 << 30):.1f} GiB are free"
    if free < min(LEAST_BYTES, size * LEAST_PART):
        return wrong(subject, told, "make room: a store without space refuses writes")
    if free < size * LITTLE_PART:
        return warning(subject, told, "make room before it is needed")
    return ok(subject, told)


def _sync(folder: Path) -> Finding:
    subject = "sync"
    try:
        times = sync_times(folder)
    except OSError as error:
        return unknown(
            subject, f"no file can be written in {folder}: {error.strerror}", "run it as the store's user"
        )
    median, worst = times[len(times) // 2], times[-1]
    told = f"{len(times)} writes of 4 KiB took {median * 1e3:.1f} ms each to sync, {worst * 1e3:.1f} at most"
    if median > VERY_SLOW:
        return wrong(subject, told, "use a faster disk: members lose their leader")
    if median > SLOW:
        return warning(subject, told, "use a faster disk, or leave it to the store alone")
    return ok(subject, told)


def sync_times(folder: Path) -> list[float]:
    """Seconds that writes to a temporary file of this folder took to sync, in ascending order; one at least.
    OSError if there can be none.
    """
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        while not times or (len(times) < SYNCS and time.monotonic() - began < SYNC_SECONDS):
            file.write(bytes(SYNC_BYTES))
            file.flush()
            before = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - before)
    return sorted(times)
