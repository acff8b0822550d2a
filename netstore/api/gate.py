"""The one place where authorization is decided.

Every handler of both APIs asks the gate before it reads the state or proposes a command: with the operation,
decoded from the request, and the principal of the connection. While there is no policy everything is
admitted, and no operation is made: a handler looks at `Gate.policy` first, which costs no call.

What an operation is made of is in `api.v2.operations` and `api.v3.operations`, and in the table of routes for
all other paths of the HTTP port (`api.routes`).
"""

from __future__ import annotations

from enum import Enum, unique
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.errors import Fault


@unique
class Api(Enum):
    """The API of an operation. Each of v2 and v3 has its own key space."""

    V2 = "v2"
    V3 = "v3"
    ADMIN = "admin"
    """The paths of the HTTP port of neither API: `/netstore/`, `/health`, `/version`, the log level."""


@unique
class Kind(Enum):
    """What is accessed, and how."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    WATCH = "watch"
    LEASE = "lease"
    MEMBER = "member"
    """The list of members."""
    MAINTENANCE = "maintenance"
    """The store as a whole: status, statistics, alarms, hashes, snapshots, compaction, who leads."""
    PLUGIN = "plugin"
    """The admitted plugins, with their wheels."""
    ADMIN = "admin"
    """The member as a program: its log level, and `/netstore/` without members, leader and plugins."""
    PUBLIC = "public"
    """Health, version and metrics, which are for everybody."""


class Access(NamedTuple):
    """One kind of access. Keys: the interval from `key` to `range_end`, written as in `netstore.intervals`;
    or, where `lease` is set, the keys attached to that lease, which only the state knows. `Kind.LEASE`: that
    lease, or all or a new one where it is 0.
    """

    kind: Kind
    key: bytes = b""
    range_end: bytes = b""
    lease: int = 0


class Operation(NamedTuple):
    """What a request is going to do. It is admitted only if all of its accesses are."""

    api: Api
    name: bytes
    """The path of the gRPC method, or the HTTP method and the path as sent."""
    accesses: tuple[Access, ...]
    may_write: bool = False
    """It may change something: members are listed, or added."""


if TYPE_CHECKING:
    Policy = Callable[[Operation, str], Fault | None]
    """Admits an operation of a principal, or gives the fault that refuses it (`errors.permission_denied`)."""


class Gate:
    """Asked by every handler of a member. All handlers hold the same gate, so that a policy set while the
    member runs is in force from the next request on.
    """

    __slots__ = ("policy",)

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy
        """None: everything is admitted, and handlers need not ask."""

    def check(self, operation: Operation, principal: str) -> Fault | None:
        """The fault that refuses an operation of a principal, or None if it is admitted."""
        return None if self.policy is None else self.policy(operation, principal)
