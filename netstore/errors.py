"""Errors that are sent to clients (faults): the numbered ones of the v2 API (`MESSAGES`), and all others
(`Reason`); and exceptions that several packages share.

A fault is a value, not only an exception: the state machine returns it, the API renders it. Each knows its v2
error code, its message and HTTP status (v2 API, error table), its gRPC status, and whether the outcome is
known: *refused* means the request did not happen; *unknown* means it may still happen later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from netstore import codes

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


RAFT_INTERNAL: Final = 300
"""The v2 code of every fault that has no number of its own; its text is the cause."""


INVALID_FIELD: Final = 209
"""The v2 code of a value that cannot be used; the cause says which, and why."""


UNAUTHORIZED: Final = 110
"""The v2 code of `Reason.PERMISSION_DENIED`."""


@unique
class Reason(Enum):
    """Why a request is refused or failed, if that is not one of the numbered faults of the v2 API: the gRPC
    status code; the text, which is `Fault.cause`; etcd's exact text in the v3 API, where that differs, for
    its clients distinguish faults by this text alone (v3 API, error table); and the code of the v2 API.
    """

    def __init__(self, grpc_code: int, text: str, v3_text: str = "", v2_code: int = RAFT_INTERNAL) -> None:
        self.grpc_code = grpc_code
        self.v2_code = v2_code
        self.text = text
        self.cause = text.encode()
        self.v3_text = v3_text or text

    EMPTY_KEY = codes.INVALID_ARGUMENT, "etcdserver: key is not provided"
    KEY_NOT_FOUND = codes.INVALID_ARGUMENT, "etcdserver: key not found"
    VALUE_PROVIDED = codes.INVALID_ARGUMENT, "etcdserver: value is provided"
    LEASE_PROVIDED = codes.INVALID_ARGUMENT, "etcdserver: lease is provided"
    TOO_MANY_OPS = codes.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"
    DUPLICATE_KEY = codes.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"
    INVALID_SORT = codes.INVALID_ARGUMENT, "etcdserver: invalid sort option"
    COMPACTED = codes.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"
    FUTURE_REVISION = codes.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"
    QUOTA = codes.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"
    LEASE_NOT_FOUND = codes.NOT_FOUND, "etcdserver: requested lease not found"
    LEASE_EXISTS = codes.FAILED_PRECONDITION, "etcdserver: lease already exists"
    LEASE_TTL_TOO_LARGE = codes.OUT_OF_RANGE, "etcdserver: too large lease TTL"
    CORRUPT = codes.DATA_LOSS, "etcdserver: corrupt cluster"
    REQUEST_TOO_LARGE = codes.INVALID_ARGUMENT, "etcdserver: request is too large"
    UNKNOWN_ACTION = codes.INVALID_ARGUMENT, "etcdserver: unknown action of an alarm"
    UNKNOWN_ALARM = codes.INVALID_ARGUMENT, "etcdserver: unknown alarm"
    UNKNOWN_METHOD = codes.UNKNOWN, "etcdserver: unknown method"
    BAD_DOWNGRADE_FORMAT = codes.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"
    BAD_DOWNGRADE_TARGET = codes.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"
    NO_CLUSTER_VERSION = codes.UNAVAILABLE, "etcdserver: cluster version not found during downgrade"
    NO_DOWNGRADE_JOB = codes.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"
    NO_DOWNGRADE = (
        codes.FAILED_PRECONDITION,
        "etcdserver: the members keep no data that an etcd could open; restore a snapshot of them to etcd",
    )
    PERMISSION_DENIED = (
        codes.PERMISSION_DENIED,
        "Insufficient credentials",
        "etcdserver: permission denied",
        UNAUTHORIZED,
    )
    NO_USERS = codes.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
    UNKNOWN_SERVICE = codes.NOT_FOUND, "unknown service"

    NO_LEADER = codes.UNAVAILABLE, "etcdserver: no leader"
    NOT_FOR_LEARNERS = codes.UNAVAILABLE, "etcdserver: rpc not supported for learner"
    TIMED_OUT = codes.UNAVAILABLE, "etcdserver: request timed out"
    TIMED_OUT_LEADER = (
        codes.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
    )
    STOPPED = codes.UNAVAILABLE, "etcdserver: server stopped"
    FAILED = codes.INTERNAL, "etcdserver: the answer could not be made"
    TOO_MANY = codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests"
    NO_SPACE = codes.RESOURCE_EXHAUSTED, "etcdserver: no space left on device"
    NOT_TAKEN = codes.UNKNOWN, "etcdserver: the leader cannot take this request"
    SNAPSHOT_BUSY = codes.UNKNOWN, "etcdserver: another snapshot is being made"
    SNAPSHOT_FAILED = (
        codes.UNKNOWN,
        "etcdserver: the snapshot could not be made; the log of the member says why",
    )

    ID_EXISTS = codes.FAILED_PRECONDITION, "membership: ID exists", "etcdserver: member ID already exist"
    ID_REMOVED = codes.NOT_FOUND, "membership: ID removed", "etcdserver: member not found"
    ID_NOT_FOUND = codes.NOT_FOUND, "membership: ID not found", "etcdserver: member not found"
    PEER_URL_EXISTS = (
        codes.FAILED_PRECONDITION,
        "membership: peerURL exists",
        "etcdserver: Peer URLs already exists",
    )
    BAD_MEMBER_URLS = codes.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"
    NOT_LEARNER = (
        codes.FAILED_PRECONDITION,
        "membership: can only promote a learner member",
        "etcdserver: can only promote a learner member",
    )
    TOO_MANY_LEARNERS = (
        codes.FAILED_PRECONDITION,
        "membership: too many learner members in cluster",
        "etcdserver: too many learner members in cluster",
    )
    TOO_MANY_VOTERS = (
        codes.FAILED_PRECONDITION,
        "membership: too many voting members in cluster",
        "etcdserver: too many voting members in cluster",
    )
    LEARNER_NOT_READY = (
        codes.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    )
    NOT_ENOUGH_STARTED = (
        codes.FAILED_PRECONDITION,
        "etcdserver: re-configuration failed due to not enough started members",
    )
    UNHEALTHY = codes.UNAVAILABLE, "etcdserver: unhealthy cluster"
    NOT_LEADER = codes.FAILED_PRECONDITION, "etcdserver: not leader"
    BAD_TRANSFEREE = codes.FAILED_PRECONDITION, "etcdserver: bad leader transferee"
    TRANSFER_TIMED_OUT = codes.UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long"


_REASONS: Final = {reason.text: reason for reason in Reason}
_TOO_MANY: Final = Reason.TOO_MANY


@dataclass(slots=True, frozen=True)
class Fault(Exception):  # noqa: N818 - a fault is a value first, an exception second
    """One refusal or failure, as it is sent to a client.

    `code` is the v2 error code, `cause` the detail, `index` the etcd index of the store when it was found (0
    when the request never reached the store). `outcome_known` is False only where the request may still take
    effect. `reason` is None for the numbered faults of the v2 API, and for texts without a `Reason`.
    """

    code: int
    cause: bytes = b""
    index: int = 0
    outcome_known: bool = True
    reason: Reason | None = None

    @property
    def message(self) -> str:
        return MESSAGES[self.code][0]

    @property
    def grpc_code(self) -> int:
        """The status code of the v3 API."""
        if self.reason is not None:
            return self.reason.grpc_code
        return codes.INVALID_ARGUMENT if self.code == INVALID_FIELD else codes.UNKNOWN

    @property
    def v3_text(self) -> str:
        """The status message of the v3 API."""
        return self.cause.decode("utf-8", "replace") if self.reason is None else self.reason.v3_text

    @property
    def http_status(self) -> int:
        return MESSAGES[self.code][1]

    def __str__(self) -> str:
        cause = self.cause.decode("utf-8", "replace")
        return f"{self.code}: {self.message} ({cause}) [{self.index}]"


def refusal(reason: Reason, index: int = 0) -> Fault:
    """The request is refused; nothing was changed."""
    return Fault(reason.v2_code, reason.cause, index, reason=reason)


def permission_denied() -> Fault:
    """The principal may not do this; nothing was read or changed."""
    return refusal(Reason.PERMISSION_DENIED)


def unknown(reason: Reason) -> Fault:
    """The request may have taken effect, or may still do."""
    return Fault(reason.v2_code, reason.cause, outcome_known=False, reason=reason)


def fault_from_text(text: str, index: int = 0) -> Fault:
    """A refusal whose text comes from another member or from the log; with the `Reason` that has this text,
    if there is one.
    """
    reason = _REASONS.get(text)
    return Fault(RAFT_INTERNAL, text.encode(), index) if reason is None else refusal(reason, index)


def timed_out(reason: Reason = Reason.TIMED_OUT) -> Fault:
    """The request waited its whole time without an answer from the cluster; it may still take effect."""
    return unknown(reason)


def stopped() -> Fault:
    """The member stopped while the request waited; it may still take effect."""
    return unknown(Reason.STOPPED)


def no_space() -> Fault:
    """The log cannot be written for want of disk space; the request was not proposed."""
    return refusal(Reason.NO_SPACE)


def failed() -> Fault:
    """The answer could not be made: an exception, which is logged, or too many large answers at once. The
    request may have taken effect.
    """
    return unknown(Reason.FAILED)


def no_space_unknown() -> Fault:
    """The log has no disk space for the request, and writes it once there is some: it may still take
    effect.
    """
    return unknown(Reason.NO_SPACE)


def too_many() -> Fault:
    """A bound on waiting requests, or on work done at once, is reached; nothing was changed."""
    return Fault(_TOO_MANY.v2_code, _TOO_MANY.cause, 0, True, _TOO_MANY)


def beyond_level(asked: int, level: int) -> Fault:
    """The request belongs to a feature level that the cluster has not reached; it was not proposed."""
    return Fault(
        RAFT_INTERNAL,
        b"etcdserver: feature level %d is not in force: the cluster is at %d until every member is upgraded"
        % (asked, level),
    )


class NetstoreError(Exception):
    """An error for the operator: the text is one line that says what is wrong and what to do about it."""


class NoRestart(NetstoreError):  # noqa: N818 - named for what it tells the service manager
    """A restarted program would fail in the same way; it ends with an exit code that says so."""


class Shed(Exception):  # noqa: N818 - named for what happened
    """Work under way was aborted because a bound was reached. The text names what ran out. `limit` is the
    name of the setting for it, empty if there is none; `fix` is what the operator can do.
    """

    limit = ""
    fix = ""


class MustStop(Exception):  # noqa: N818 - named for what follows
    """Marks exceptions that must end the member, whichever request they are raised in: its own state cannot
    be trusted any more. They pass every `netstore.guard`; any other exception that is raised in work for a
    client or peer ends that party only.
    """


class CorruptData(NetstoreError):  # noqa: N818 - named for what was found
    """Stored bytes are not what was written. The text names file and offset; nothing was changed."""


class UnknownCommand(CorruptData):
    """A command with a number or a field that is not known here; a later version may know it."""


class CannotApply(NoRestart, MustStop):
    """This member cannot apply an entry of its log, and a restart will not help. The text names the index and
    what the operator can do; nothing of the entry was applied. `entry` is its index and the hash of its
    payload, once they are known.
    """

    entry: tuple[int, str] | None = None


class StateDamaged(CorruptData, MustStop):
    """The member's state on disk is damaged and must not be served: the member ends. Its next start replaces
    the state from other members, if they can be reached, or refuses to start (`node.recovery`).
    """


def parse_problem(error: Exception) -> str:
    """What a parser of TOML, YAML or JSON found wrong, in one line. The text of a RecursionError is about the
    parser; of the document it says that it has too many brackets within brackets.
    """
    if isinstance(error, RecursionError):
        return "nested too deep"
    return " ".join(str(error).split())
