"""A Device in memory that distinguishes what was written from what was synced. The test decides when calls
complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from netstore.disk.frame import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Waiting(NamedTuple):
    """A write that is under way; `done` is None for a removal."""

    name: str
    offset: int
    data: bytes
    done: Callable[[OSError | None], None] | None
    note: bytes = b""


class Platter:
    """`disk` is what a power loss leaves. `size` is how many zeros a new file has."""

    def __init__(self, disk: dict[str, bytes] | None = None, size: int = 0) -> None:
        self.disk = dict(disk or {})
        self.size = size
        self.note = b""
        """The last note. After a power loss it may be an older one, which is true as well."""
        self.waiting: list[Waiting] = []
        self.closed = False

    def names(self) -> list[str]:
        return sorted(self.disk)

    def read(self, name: str) -> bytes:
        return self.disk[name]

    def notes(self) -> list[bytes]:
        return [self.note]

    def write(
        self,
        name: str,
        offset: int,
        data: bytes,
        done: Callable[[OSError | None], None],
        note: bytes = b"",
        *,
        held: bool = False,
    ) -> None:
        assert not self.closed
        self.waiting.append(Waiting(name, offset, data, done, note))

    quick_syncs = 0

    def release(self) -> None:
        """Nothing: a held write is under way like all others."""

    def truncate(self, name: str, size: int) -> None:
        self.disk[name] = self.disk[name][:size].ljust(self.size, b"\0")

    def remove(self, name: str) -> None:
        self.waiting.append(Waiting(name, 0, b"", None))

    def close(self) -> None:
        self.turn()
        self.closed = True

    def turn(self, count: int | None = None) -> None:
        """Let the oldest `count` waiting calls succeed (None: all)."""
        ready = self.waiting[:count]
        del self.waiting[: len(ready)]
        for job in ready:
            self._apply(self.disk, job)
            if job.done is not None:
                self.note = job.note or self.note
                job.done(None)

    def fail(self, error: OSError) -> None:
        """Let the oldest write under way fail and, as the contract says, all others with it."""
        failed, self.waiting = self.waiting, []
        for job in failed:
            if job.done is not None:
                job.done(error)
            else:
                self._apply(self.disk, job)

    def crashed(self, complete: int = 0, kept: Iterable[bool] = ()) -> Platter:
        """What a power loss leaves: `complete` waiting calls took effect; of the sectors that the next group
        writes, those kept.

        The group is the run of waiting writes to one file; later files are never touched before it is synced.
        """
        disk = dict(self.disk)
        for job in self.waiting[:complete]:
            self._apply(disk, job)
        rest = self.waiting[complete:]
        if rest and rest[0].done is not None:
            name = rest[0].name
            after = dict(disk)
            for job in rest:
                if job.name != name or job.done is None:
                    break
                self._apply(after, job)
            old, new = disk.get(name, b""), after[name]
            old = old.ljust(len(new), b"\0")
            first = rest[0].offset // SECTOR
            chosen = iter(kept)
            image = bytearray(old)
            for sector in range(first, -(-len(new) // SECTOR)):
                part = slice(sector * SECTOR, (sector + 1) * SECTOR)
                if old[part] != new[part] and next(chosen, False):
                    image[part] = new[part]
            disk[name] = bytes(image)
        after_all = Platter(disk, self.size)
        after_all.note = self.note
        return after_all

    def _apply(self, disk: dict[str, bytes], job: Waiting) -> None:
        if job.done is None:
            disk.pop(job.name, None)
            return
        old = disk.get(job.name, bytes(self.size)).ljust(job.offset, b"\0")
        disk[job.name] = old[: job.offset] + job.data + old[job.offset + len(job.data) :]
