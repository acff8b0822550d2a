"""What the log and the state lack on disk for now: space, or memory and file descriptors to write with.

While something is lacking, the member refuses what makes the log or the state larger, and takes what only
removes, because that is how space comes back. Once the log itself cannot be written, nothing is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from netstore import errors
from netstore.seams import NO_MEANS, NO_ROOM
from netstore.state.commands import RemoveMember
from netstore.state.v2.commands import CompareAndDelete, Delete, ExpireNodes
from netstore.state.v3.commands import (
    Compact,
    DeleteRange,
    LeaseExpire,
    LeaseRenew,
    LeaseRevoke,
    Range,
    SetAlarm,
    Txn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.errors import Fault
    from netstore.seams import Log

T = TypeVar("T")

_REMOVALS: Final = (
    Delete,
    CompareAndDelete,
    ExpireNodes,
    DeleteRange,
    Compact,
    LeaseRevoke,
    LeaseExpire,
    RemoveMember,
    LeaseRenew,
    SetAlarm,
)
"""Commands after which the state is not larger than before; also transactions of these and of reads."""


class NextSegment(Protocol):
    """Reserves the file that the log continues in when the present one is full (`disk.posix.PosixDevice`)."""

    @property
    def low(self) -> OSError | None:
        """Why no such file can be made; None while it can."""

    def retry(self) -> None:
        """Try again to make one, if that failed. Does not block."""


class DiskSpace:
    """The shortages of one member. The log writer and the host set them; whoever proposes reads them."""

    def __init__(self, log: Log) -> None:
        self.log_error: OSError | None = None
        """Why the log cannot be written; None while it can."""
        self.state_error: OSError | None = None
        """Why the last commit of the state failed; None once one has succeeded."""
        self.next_segment: NextSegment | None = None
        """Reports that the log is low on space; without it, that is never reported."""
        self._was_low = False
        self._log = log

    @property
    def is_short(self) -> bool:
        """Something is lacking: only what removes may be proposed, or nothing."""
        return self.log_error is not None or self.state_error is not None or self._is_low()

    @property
    def lacks_means(self) -> bool:
        """Memory or file descriptors are lacking, to the log or the state, and there is space on the disk."""
        failures = [each for each in (self.log_error, self.state_error) if each is not None]
        return bool(failures) and not self._is_low() and all(each.errno in NO_MEANS for each in failures)

    def refusal(self) -> Fault:
        """What a request is refused with that cannot be done while `is_short`."""
        return errors.too_many() if self.lacks_means else errors.no_space()

    def problems(self) -> dict[str, str]:
        """What is lacking, in words for people, each with what to do about it."""
        low = None if self.next_segment is None else self.next_segment.low
        found = (
            ("log cannot be written", self.log_error),
            ("log has no room to grow", low),
            ("state cannot be written", self.state_error),
        )
        return {
            f"{what}: {_in_words(failure)}": remedy(failure) for what, failure in found if failure is not None
        }

    def _is_low(self) -> bool:
        """The log has no file to continue in: what is left of the present one is kept for removals."""
        low = None if self.next_segment is None else self.next_segment.low
        if (low is not None) is not self._was_low:
            self._was_low = low is not None
            if low is not None:
                self._log.error("log_low_on_room", error=str(low), fix="free disk space")
            else:
                self._log.info("log_has_room")
        return low is not None


def remedy(failure: OSError) -> str:
    """What an operator can do about a failed write."""
    if failure.errno in NO_ROOM:
        return "free disk space"
    return "allow this process more memory and open files"


def split(requests: Sequence[T], is_possible: Callable[[T], bool]) -> tuple[list[T], list[T]]:
    """The requests that can be done while space is short, and those to be refused."""
    able: list[T] = []
    refused: list[T] = []
    for each in requests:
        (able if is_possible(each) else refused).append(each)
    return able, refused


def only_removes(command: object) -> bool:
    """Whether the state is not larger after this command than before."""
    if isinstance(command, Txn):
        return all(
            isinstance(each, Range) or only_removes(each) for each in (*command.success, *command.failure)
        )
    return isinstance(command, _REMOVALS)


def _in_words(failure: OSError) -> str:
    """For clients; the log line names the file as well."""
    return "no space left on device" if failure.errno in NO_ROOM else str(failure)
