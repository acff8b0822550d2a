"""The outside world as seven small protocols. Only `server.py`, the agent's service and tests name what
stands behind them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.errors import StateDamaged
    from netstore.types import Index, Nanos


class Clock(Protocol):
    """Two clocks: one that never goes back, one that people read."""

    def monotonic(self) -> float:
        """Seconds from an unknown start; never decreases."""

    def wall(self) -> Nanos:
        """Wall time; may jump either way."""


class Entropy(Protocol):
    """Where random numbers come from, so that a simulation can choose them."""

    def below(self, bound: int) -> int:
        """A number in range(bound), evenly spread."""


class SyncFailed(OSError):  # noqa: N818 - named for what happened
    """A sync failed, so nobody knows what is on stable storage: the device takes nothing more, only a restart
    helps.
    """


NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
"""Failures of a write or commit for want of space on the disk."""

NO_MEANS: Final = (errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Those for want of something else, for now: memory or descriptors."""

PASSING: Final = (*NO_ROOM, *NO_MEANS)
"""Failures after which the same may succeed when it is tried again."""


class Log(Protocol):
    """A structured logger, as `structlog` makes them: an event in one word, and fields by name."""

    def debug(self, event: str, **fields: Any) -> object:
        """Write a line that nobody needs in ordinary operation."""

    def info(self, event: str, **fields: Any) -> object:
        """Write a line about something that happened as it should."""

    def warning(self, event: str, **fields: Any) -> object:
        """Write a line about something that is wrong and that the program goes on with."""

    def error(self, event: str, **fields: Any) -> object:
        """Write a line about something that ends part of the program, or all of it."""


class Device(Protocol):
    """A folder of append-only files with an explicit, asynchronous sync. All names are plain file names in
    that folder.

    Calls take effect in the order they are made. `write` returns at once; its `done` is called exactly once,
    on the caller's side (the loop), after the bytes are on stable storage, or with the OSError that stopped
    it. After a failed sync the device refuses everything (a retry would prove nothing: ATC'20, "Can
    applications recover from fsync failures?").

    Nothing is written to a file before all earlier writes to other files are on stable storage. A write that
    failed (disk full) leaves its file as it was before, on stable storage too when `done` is called: what is
    already on its way behind it fails too, in order, and the same place may be written again. After a failed
    sync the error is a `SyncFailed`.
    """

    def names(self) -> list[str]:
        """Files in the folder, sorted."""

    def read(self, name: str) -> bytes:
        """The whole file, as stable storage has it. For start-up only: blocks."""

    def write(
        self, name: str, offset: int, data: bytes, done: Callable[[OSError | None], None], note: bytes = b""
    ) -> None:
        """Put `data` at `offset` (creating and pre-allocating the file when it is new) and sync it.

        `note`, of at most 64 bytes, is kept beside the files before `done` is called, and not synced: it
        outlives the process, and the power as a rule. The last one counts.
        """

    def notes(self) -> list[bytes]:
        """The notes that are left, in no order: the last one, unless the power failed, and an older one. What
        is not a note may be among them. For start-up only.
        """

    def truncate(self, name: str, size: int) -> None:
        """Cut the file to `size` bytes and sync. For start-up only: blocks."""

    def remove(self, name: str) -> None:
        """Remove the file and sync the folder; ordered after earlier writes."""

    def close(self) -> None:
        """Finish what was accepted, then stop. Blocks."""


SHORT_KEY_BYTES: Final = 511
"""Keys up to this length an engine keeps in order, however many there are."""


class Engine(Protocol):
    """Ordered tables of bytes with one applied index, changed together or not at all.

    The loop writes; what it wrote is visible to its own reads at once and durable later, always as a prefix
    of what was written: data and applied index move in one transaction.
    """

    def applied(self) -> Index:
        """The index of the last `write` that can be read."""

    def durable(self) -> Index:
        """The index of the last `write` known to be on stable storage."""

    def behind(self) -> int:
        """Bytes by which what is written and not durable is more than it should be: while it is not 0, write
        no more than must be.
        """

    def failing(self) -> bool:
        """The last commit failed: it is tried again, or never will be."""

    eased: Callable[[], object]
    """Called on the loop when a commit was made while the engine was `behind`: now it is by less, or not."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value under key, with every accepted write seen. What is not what was written raises
        StateDamaged, here and in the other reads: the member must end.
        """

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """What `get` gives for each of these keys, as of one moment."""

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (None: to the end), in key order, with every accepted write seen."""

    def some(
        self, table: str, start: bytes, most: int, size: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """The next pairs from `start` on, at most so many, with values of about so many bytes; and where the
        next ones begin, None when there are none. For who reads a table in steps between writes: a step costs
        what it gives, however much is not durable. One may give nothing, and the next one begins where it
        did: the engine has something to do first.

        Keys of up to `SHORT_KEY_BYTES` come in order. Longer ones come after them, in an order of the
        engine's own, and such a `start` is one that was given.
        """

    def count(self, table: str) -> int | None:
        """How many records a table has, by what the last commit says; None while there are changes after it.
        Who reads the table piece by piece compares.
        """

    def lost(self, table: str, key: bytes) -> StateDamaged:
        """What to raise when a record that was written is not there."""

    def write(self, applied: Index, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """Take changes ((table, key) -> value, None deletes) that belong to log entries up to `applied`."""

    def prepare(self, changes: Mapping[tuple[str, bytes], bytes | None]) -> None:
        """Take changes that are part of the next `write`: they can be read from now on, and become durable
        together with it. So a write that is large is given in pieces, of which a crash or `close` before it
        loses all. With them a `close` may lose earlier writes that were not durable yet, as a crash does: the
        log has these. What is prepared is held in memory until then, however much it is, and is not part of
        `behind`.
        """

    def sync(self, done: Callable[[OSError | None], None]) -> None:
        """Call `done` on the loop once everything written so far is durable, or with the error."""

    def install(self, image: object, done: Callable[[OSError | None], None]) -> None:
        """Replace everything by a copy of another engine's state, made durable elsewhere before. Nothing is
        read or written until `done` is called on the loop; then `applied` and `durable` are the copy's.
        """

    def close(self) -> None:
        """Make everything written durable, but for what `prepare` says, then close. Blocks."""
