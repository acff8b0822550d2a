"""The outside world as small protocols: clocks, timers, random numbers, the log, disks. Their implementations
are chosen by `server`, `node.storage`, the agent's service and tests.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.errors import StateDamaged
    from netstore.types import Index, Nanos


class Clock(Protocol):
    """A monotonic clock and a wall clock."""

    def monotonic(self) -> float:
        """Seconds from an unknown start; never decreases."""

    def wall(self) -> Nanos:
        """Wall time; may jump either way."""


class Alarm(Protocol):
    """A scheduled callback."""

    def cancel(self) -> None:
        """Do not call it. May be called again, and after the callback ran."""


class After(Protocol):
    """Schedules a callback, once, after so many seconds (`node.timekeeper.Deadlines.after`)."""

    def __call__(self, seconds: float, call: Callable[[], None], /) -> Alarm: ...


class Entropy(Protocol):
    """Where random numbers come from, so that a simulation can choose them."""

    def below(self, bound: int) -> int:
        """A number in range(bound), evenly spread."""


class SyncFailed(OSError):  # noqa: N818 - named for what happened
    """A sync failed, so it is not known what is on stable storage: the device refuses everything until the
    program is restarted.
    """


NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
"""Failures of a write or commit for want of space on the disk."""

NO_MEANS: Final = (errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Failures for want of memory or file descriptors, which may pass."""

PASSING: Final = (*NO_ROOM, *NO_MEANS)
"""Failures after which a retry may succeed."""


class Log(Protocol):
    """A structured logger, as `structlog` makes them: an event in one word, and fields by name."""

    def debug(self, event: str, **fields: Any) -> object:
        """Write a line that only helps in debugging."""

    def info(self, event: str, **fields: Any) -> object:
        """Write a line about something that happened as it should."""

    def warning(self, event: str, **fields: Any) -> object:
        """Write a line about something wrong, in spite of which the program continues."""

    def error(self, event: str, **fields: Any) -> object:
        """Write a line about something that ends part of the program, or all of it."""


class Device(Protocol):
    """A folder of append-only files with an explicit, asynchronous sync. All names are plain file names in
    that folder.

    Calls take effect in the order they are made. `write` returns at once; its `done` is called exactly once,
    on the caller's side (the loop), after the bytes are on stable storage, or with the OSError that stopped
    it. After a failed sync the device refuses everything, with `SyncFailed`: a retry would prove nothing
    (ATC'20, "Can applications recover from fsync failures?").

    Nothing is written to a file before all earlier writes to other files are on stable storage. A write that
    fails without a failed sync (disk full) leaves its file as it was, on stable storage too, when `done` is
    called. Writes that were queued behind it fail too, in order; then the same place may be written again.
    """

    def names(self) -> list[str]:
        """Files in the folder, sorted."""

    def read(self, name: str) -> bytes:
        """The whole file, as stable storage has it. For start-up only: blocks."""

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
        """Put `data` at `offset` (creating and pre-allocating the file when it is new) and sync it.

        `held`: this may wait for `release`, which the caller makes before it returns to its loop.

        `note`, of at most 64 bytes, is written beside the files before `done` is called, and not synced: it
        survives the process, and mostly a power failure. Only the last note counts.
        """

    def release(self) -> None:
        """Begin with the write that was `held`. Where nothing else is under way and syncs have been fast it
        is done and synced within this call, and `done` is called too: that saves two changes of thread, and
        holds the loop as long as the sync takes.
        """

    @property
    def quick_syncs(self) -> int:
        """How many writes in a row, up to the last one, did not stall, since the pause after one that did."""

    def notes(self) -> list[bytes]:
        """The notes that can be read, in no order: the last one, unless the power failed, and an older one.
        Bytes that are no note may be among them. For start-up only.
        """

    def truncate(self, name: str, size: int) -> None:
        """Cut the file to `size` bytes and sync. For start-up only: blocks."""

    def remove(self, name: str) -> None:
        """Remove the file and sync the folder; ordered after earlier writes."""

    def close(self) -> None:
        """Finish what was accepted, then stop. Blocks."""


SHORT_KEY_BYTES: Final = 511
"""An engine keeps keys up to this length in order."""


class Engine(Protocol):
    """Ordered tables of bytes with one applied index, changed in transactions.

    The loop writes. A write is visible to its reads at once and durable later. What is durable is always a
    prefix of all writes: data and applied index change in one transaction.
    """

    def applied(self) -> Index:
        """The index of the last `write` that can be read."""

    def durable(self) -> Index:
        """The index of the last `write` known to be on stable storage."""

    def excess_bytes(self) -> int:
        """Bytes by which the writes that are not durable exceed their bound. While it is not 0 the caller
        should begin no further write.
        """

    def failing(self) -> bool:
        """The last commit failed, whether it is retried or not."""

    eased: Callable[[], object]
    """Called on the loop after a commit made while the engine had `excess_bytes`: they are fewer now."""

    pull: Callable[[], object]
    """Called on the loop after `changed`, before a commit, a `sync` and a `close`: makes the `write`, or none
    if that is not possible yet. If it raises, so does what has called it.
    """

    def changed(self) -> None:
        """There is something to `pull`. It is committed no later than if it had been written now."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key, as of the last write. This and the other reads raise StateDamaged for a record
        that is not what was written: the member must end.
        """

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The result of `get` for each of these keys, all as of one moment."""

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (None: to the end), in key order, as of the last write."""

    def some(
        self, table: str, start: bytes, most: int, size: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Read a table in steps, between writes: up to `most` pairs from `start` on, with about `size` bytes
        of values, and the `start` of the next step, None at the end. A step costs in proportion to what it
        returns, however much is not durable. It may return no pairs and the same `start`, when the engine has
        work to do first.

        Keys of up to `SHORT_KEY_BYTES` come in order. Longer ones come after them, in an order of the
        engine's own; for those, `start` must be one that was returned.
        """

    def count(self, table: str) -> int | None:
        """How many records a table has by the last commit; None while there are later changes. Lets a reader
        in steps check that it has seen all.
        """

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """The exception to raise when a record that must be there is missing."""

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """Take changes ((table, key) -> value, None deletes) that belong to log entries up to `applied`."""

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """Give part of the changes of the next `write`, so that a large write comes in pieces. They can be
        read at once, and become durable together with it. A crash or `close` before that `write` loses all of
        them; `close` may then also lose earlier writes that were not durable, as a crash does (the log has
        them). They are held in memory until then, however many they are, and do not count for `excess_bytes`.
        """

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        """Call `done` on the loop once everything written so far, or waiting to be pulled, is durable, or
        with the error. If this raises, `done` is not called.
        """

    def install(self, snapshot: object, done: Callable[[OSError | None], None]) -> None:
        """Replace everything by a copy of another engine's state, which is durable already. Nothing may be
        read or written until `done` is called on the loop; then `applied` and `durable` are the copy's.
        """

    def close(self) -> None:
        """Make all writes durable, and what is to be pulled, except as `prepare` says; then close. Blocks.
        While an `install` is not reported, or after a `write` that raised, nothing more is made durable.
        """
