"""Faults a client can be told, one value per kind.

A fault is a value, not only an exception: the state machine returns it, the API renders it. Each knows its v2
error code, its message and HTTP status (v2 API, error table) and whether the outcome is known: *refused*
means the request did not happen; *unknown* means it may still happen later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MESSAGES: Final[dict[int, tuple[str, int]]] = {
    100: ("Key not found", 404),
    101: ("Compare failed", 412),
    102: ("Not a file", 403),
    104: ("Not a directory", 400),
    105: ("Key already exists", 412),
    107: ("Root is read only", 400),
    108: ("Directory not empty", 403),
    110: ("The request requires user authentication", 401),
    201: ("PrevValue is Required in POST form", 400),
    202: ("The given TTL in POST form is not a number", 400),
    203: ("The given index in POST form is not a number", 400),
    209: ("Invalid field", 400),
    210: ("Invalid POST form", 400),
    211: ("Value provided on refresh", 400),
    212: ("A TTL must be provided on refresh", 400),
    300: ("Raft Internal Error", 500),
    401: ("The event in requested index is outdated and cleared", 400),
}
"""v2 error code -> (message, HTTP status)."""

UNKNOWN_CODE: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15
UNAUTHENTICATED: Final = 16
"""The gRPC status codes in use."""

EMPTY_KEY: Final = b"etcdserver: key is not provided"
KEY_NOT_FOUND: Final = b"etcdserver: key not found"
VALUE_PROVIDED: Final = b"etcdserver: value is provided"
LEASE_PROVIDED: Final = b"etcdserver: lease is provided"
TOO_MANY_OPS: Final = b"etcdserver: too many operations in txn request"
DUPLICATE_KEY: Final = b"etcdserver: duplicate key given in txn request"
INVALID_SORT: Final = b"etcdserver: invalid sort option"
COMPACTED: Final = b"etcdserver: mvcc: required revision has been compacted"
FUTURE_REVISION: Final = b"etcdserver: mvcc: required revision is a future revision"
QUOTA: Final = b"etcdserver: mvcc: database space exceeded"
LEASE_NOT_FOUND: Final = b"etcdserver: requested lease not found"
LEASE_EXISTS: Final = b"etcdserver: lease already exists"
LEASE_TTL_TOO_LARGE: Final = b"etcdserver: too large lease TTL"
CORRUPT: Final = b"etcdserver: corrupt cluster"
NO_LEADER: Final = b"etcdserver: no leader"
"""What the v3 API says, to the letter: clients tell faults apart by the text alone (v3 API, error table)."""


@dataclass(slots=True, frozen=True)
class Fault(Exception):  # noqa: N818 - a fault is a value first, an exception second
    """One refusal or failure, as a client is told it.

    `code` is the v2 error code, `cause` the detail, `index` the etcd index of the store when it was found (0
    when the request never reached the store). `outcome_known` is False only where the request may still take
    effect.
    """

    code: int
    cause: bytes = b""
    index: int = 0
    outcome_known: bool = True

    @property
    def message(self) -> str:
        return MESSAGES[self.code][0]

    @property
    def grpc_code(self) -> int:
        """The gRPC status code that goes with `cause`, which is the status message."""
        return GRPC_CODES.get(self.cause, UNKNOWN_CODE)

    @property
    def http_status(self) -> int:
        return MESSAGES[self.code][1]

    def __str__(self) -> str:
        cause = self.cause.decode("utf-8", "replace")
        return f"{self.code}: {self.message} ({cause}) [{self.index}]"


TIMED_OUT: Final = "etcdserver: request timed out"
TIMED_OUT_LEADER: Final = "etcdserver: request timed out, possibly due to previous leader failure"
STOPPED: Final = "etcdserver: server stopped"
CANCELLED: Final = "etcdserver: request cancelled"
NO_SPACE: Final = "etcdserver: no space left on device"
TOO_MANY: Final = "etcdserver: too many requests"
FAILED: Final = "etcdserver: the answer could not be made"

GRPC_CODES: Final[dict[bytes, int]] = {
    EMPTY_KEY: INVALID_ARGUMENT,
    KEY_NOT_FOUND: INVALID_ARGUMENT,
    VALUE_PROVIDED: INVALID_ARGUMENT,
    LEASE_PROVIDED: INVALID_ARGUMENT,
    TOO_MANY_OPS: INVALID_ARGUMENT,
    DUPLICATE_KEY: INVALID_ARGUMENT,
    INVALID_SORT: INVALID_ARGUMENT,
    COMPACTED: OUT_OF_RANGE,
    FUTURE_REVISION: OUT_OF_RANGE,
    QUOTA: RESOURCE_EXHAUSTED,
    LEASE_NOT_FOUND: NOT_FOUND,
    LEASE_EXISTS: FAILED_PRECONDITION,
    LEASE_TTL_TOO_LARGE: OUT_OF_RANGE,
    CORRUPT: DATA_LOSS,
    NO_LEADER: UNAVAILABLE,
    TIMED_OUT.encode(): UNAVAILABLE,
    TIMED_OUT_LEADER.encode(): UNAVAILABLE,
    STOPPED.encode(): UNAVAILABLE,
    FAILED.encode(): INTERNAL,
    TOO_MANY.encode(): RESOURCE_EXHAUSTED,
    NO_SPACE.encode(): RESOURCE_EXHAUSTED,
}
"""Text of the v3 API -> gRPC status code."""


def timed_out(text: str = TIMED_OUT) -> Fault:
    """The request waited its whole time without an answer from the cluster; it may still take effect."""
    return Fault(300, text.encode(), outcome_known=False)


def stopped() -> Fault:
    """The member stopped while the request waited; it may still take effect."""
    return Fault(300, STOPPED.encode(), outcome_known=False)


def no_space() -> Fault:
    """The log cannot be written for want of disk space; the request was not proposed."""
    return Fault(300, NO_SPACE.encode())


def failed() -> Fault:
    """This member failed to make the answer, and its log has the reason, or has too many large ones to make.
    The request may have taken effect.
    """
    return Fault(300, FAILED.encode(), outcome_known=False)


def no_space_unknown() -> Fault:
    """The log found no room for the request, and will write it once there is: it may still take effect."""
    return Fault(300, NO_SPACE.encode(), outcome_known=False)


def too_many() -> Fault:
    """The bound on waiting proposals is reached; the request was not proposed."""
    return Fault(300, TOO_MANY.encode())


def beyond_level(asked: int, level: int) -> Fault:
    """The request belongs to a feature level that the cluster has not reached; it was not proposed."""
    return Fault(
        300,
        b"etcdserver: feature level %d is not in force: the cluster is at %d until every member is upgraded"
        % (asked, level),
    )


def refusal(text: bytes) -> Fault:
    """What the v3 API refuses with this text; nothing was changed."""
    return Fault(300, text)


class NetstoreError(Exception):
    """A fault for the operator: the text is one line that names what is wrong and what to do about it."""


class NoRestart(NetstoreError):  # noqa: N818 - named for what it tells the service manager
    """A restarted program would fail in the same way; it ends with an exit code that says so."""


class Shed(Exception):  # noqa: N818 - named for what happened
    """Work under way was given up for want of what `limit`, a setting, bounds, or where that is empty, of
    what none does. The words say of what.
    """

    limit = ""
    fix = ""


class MustStop(Exception):  # noqa: N818 - named for what follows
    """Marks what a member must not survive, whoever's request it was met in: what it holds proves nothing any
    more. A subclass of it passes every guard (`netstore.guard`); anything else that is raised on behalf of a
    client or peer is theirs alone.
    """


class CorruptData(NetstoreError):  # noqa: N818 - named for what was found
    """Stored bytes are not what was written. The text names the file and the offset; nothing was changed."""


class UnknownCommand(CorruptData):
    """A command that a later version may know: its number, or a field beyond those known here."""


class CannotApply(NoRestart, MustStop):
    """This member cannot carry out an entry of its log, whenever it is started. The text names the index and
    what the operator can do; nothing of the entry was done. `entry` is its index and the hash of its payload,
    once it is known.
    """

    entry: tuple[int, str] | None = None


class StateDamaged(CorruptData, MustStop):
    """The member's own state on disk is not what was written. It must not be served: the member ends with
    this, and its next start replaces it, if others of its cluster can be reached, or refuses (`server`).
    """
