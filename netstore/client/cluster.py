"""Operating a cluster: listing, adding, moving, promoting and removing members, moving the leadership.

A netstored is asked under `/netstore/` (`api.admin`), a real etcd through the JSON gateway to its gRPC
services, which every etcd since 3.4 has on the client port, with or without the v2 API. The first call finds
out which of the two it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from netstore.client.faults import BadAnswer, ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.client.transport import Reply, Transport

_T = TypeVar("_T")

_BAD_REQUEST: Final = 400

_NAMED: Final = b"CommonName of client"
"""In the answer of an etcd with users, whose gateway to gRPC would lose who a certificate is of."""

_NOT_ENABLED: Final = "authentication is not enabled"

_GATEWAY_NOT_FOUND: Final = 5
"""gRPC's code NOT_FOUND."""

_GATEWAY_UNAVAILABLE: Final = (4, 14)
"""gRPC's codes DEADLINE_EXCEEDED and UNAVAILABLE."""


class BehindStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A member that is catching up: `copying` a snapshot, or `catching up` with the log."""

    id: str
    state: str
    entries_behind: int
    waited_for: bool
    """Writes are slowed down if it could not catch up otherwise."""
    sent_bytes: int | None = None
    total_bytes: int | None = None
    """0 while the snapshot is being made."""

    @property
    def words(self) -> str:
        """A short description."""
        if self.sent_bytes is None or self.total_bytes is None:
            return f"{self.state}, {self.entries_behind} entries"
        if not self.total_bytes:
            return self.state
        return f"{self.state} {100 * self.sent_bytes // self.total_bytes}%"

    @property
    def content(self) -> dict[str, object]:
        """The document as the member sends it."""
        content: dict[str, object] = msgspec.to_builtins(self)
        return content


class MemberRecord(msgspec.Struct, frozen=True):
    """One member. `role` is leader, voter or learner; a learner with `promote` becomes a voter when it has
    caught up.

    Only the leader knows `active` and `match_index`; None if the answer does not have it.
    """

    id: str
    name: str
    peer_urls: tuple[str, ...] = msgspec.field(name="peerURLs")
    client_urls: tuple[str, ...] = msgspec.field(name="clientURLs")
    role: str
    promote: bool = False
    active: bool | None = None
    match_index: int | None = msgspec.field(default=None, name="matchIndex")
    behind: BehindStatus | None = None

    @property
    def started(self) -> bool:
        """It has published its name, as every member does when it starts."""
        return bool(self.name)


class LoopStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How long work blocked a member's loop since it started: pieces over the budget, and the longest."""

    over_budget: int
    longest_ms: float
    longest_work: str


class MemoryStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A member's memory budget for buffers, and how much of it is used."""

    budget_bytes: int
    used_bytes: int


class BackupStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The scheduled backups of one member (`node.backupschedule.BackupState`). Times in seconds of wall time,
    0 for none.
    """

    every_seconds: float
    running: bool
    succeeded: int
    failed: int
    last_success: int
    last_file: str
    last_bytes: int
    last_revision: int
    last_index: int
    last_seconds: float
    verified: str
    hook_failed: int
    warnings: tuple[str, ...]

    @property
    def content(self) -> dict[str, object]:
        """The document as the member sends it."""
        content: dict[str, object] = msgspec.to_builtins(self)
        return content


class ArchiveStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The archive of one member's log (`node.archive.Archiver`). Times in nanoseconds since 1970, 0 for none
    that is known.
    """

    folder: str
    last_index: int
    last_unix_nanos: int
    waiting_entries: int
    files: int
    states: int
    newest_state: int
    gaps: int
    # Not told by earlier releases.
    oldest_unix_nanos: int | None = None
    keep_seconds: float | None = None
    removed_files: int | None = None
    lag_seconds: int | None = None
    stopped: bool | None = None
    problems: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, object]:
        """The document as the member sends it; null for what it does not tell."""
        content: dict[str, object] = msgspec.to_builtins(self)
        return content


class MemberStatus(msgspec.Struct, frozen=True):
    """The status of one member. `name` is empty if the answer has none; etcd's has none of the fields that
    may be None.
    """

    id: str
    name: str
    version: str
    role: str
    leader: str
    term: int
    commit_index: int = msgspec.field(name="commitIndex")
    applied_index: int = msgspec.field(name="appliedIndex")
    problems: tuple[str, ...] = ()
    fixes: dict[str, str] = {}
    """What to do about problems; of those of archive and backups earlier releases tell nothing."""
    feature_level: int | None = msgspec.field(default=None, name="featureLevel")
    loop: LoopStatus | None = None
    memory: MemoryStatus | None = None
    backed_up: bool | None = msgspec.field(default=None, name="backedUp")
    paced_to: int | None = msgspec.field(default=None, name="pacedBytesPerSecond")
    """Limit on the bytes that it proposes in a second; 0 if there is none."""
    behind: tuple[BehindStatus, ...] | None = None
    backup: BackupStatus | None = None
    """None without scheduled backups."""
    archive: ArchiveStatus | None = None
    """None if it does not archive its log."""


class _Listed(msgspec.Struct, frozen=True):
    members: tuple[MemberRecord, ...]


class _Refusal(msgspec.Struct, frozen=True):
    """netstored sends `message`; etcd's gateway a gRPC code, and the text in `message`, `error` or both."""

    message: str = ""
    error: str = ""
    code: int | None = None


class _EtcdMember(msgspec.Struct, frozen=True):
    id: int = msgspec.field(default=0, name="ID")
    name: str = ""
    peer_urls: tuple[str, ...] = msgspec.field(default=(), name="peerURLs")
    client_urls: tuple[str, ...] = msgspec.field(default=(), name="clientURLs")
    is_learner: bool = msgspec.field(default=False, name="isLearner")

    def record(self, leader: str) -> MemberRecord:
        id_ = f"{self.id:x}"
        role = "learner" if self.is_learner else "leader" if id_ == leader else "voter"
        return MemberRecord(id_, self.name, self.peer_urls, self.client_urls, role)


class _EtcdMembers(msgspec.Struct, frozen=True):
    members: tuple[_EtcdMember, ...] = ()


class _EtcdAdded(msgspec.Struct, frozen=True):
    member: _EtcdMember


class _EtcdHeader(msgspec.Struct, frozen=True):
    member_id: int = 0


class _EtcdStatus(msgspec.Struct, frozen=True):
    header: _EtcdHeader
    version: str = ""
    leader: int = 0
    term: int = msgspec.field(default=0, name="raftTerm")
    index: int = msgspec.field(default=0, name="raftIndex")
    applied: int = msgspec.field(default=0, name="raftAppliedIndex")
    is_learner: bool = msgspec.field(default=False, name="isLearner")
    errors: tuple[str, ...] = ()


class _EtcdToken(msgspec.Struct, frozen=True):
    token: str


class _Anything(msgspec.Struct, frozen=True):
    """A JSON object whose content is not used."""


class Refused(ClientError):  # noqa: N818 - named for what was found
    """The cluster refused the change. `status` is 404 if there is no such member, else another one."""

    def __init__(self, status: int, message: str, *, outcome_known: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        return self.message


class _Dialect(Protocol):
    async def members(self) -> tuple[MemberRecord, ...]: ...
    async def add(self, peer_urls: Sequence[str], *, learner: bool) -> MemberRecord: ...
    async def update(self, id_: str, peer_urls: Sequence[str]) -> None: ...
    async def promote(self, id_: str) -> None: ...
    async def remove(self, id_: str) -> None: ...
    async def status(self) -> MemberStatus: ...
    async def transfer(self, to: str) -> None: ...


class ClusterClient:
    """The cluster behind the endpoints of a transport. Ids are lower-case hexadecimal texts.

    Raises `Refused` for what the cluster refuses, else the errors of `client.faults`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: _Dialect | None = None

    async def is_netstore(self) -> bool:
        """Whether it is a netstored; else it is an etcd."""
        return isinstance(await self._dialect(), _Netstore)

    async def members(self) -> tuple[MemberRecord, ...]:
        """All members, sorted by id."""
        return await (await self._dialect()).members()

    async def add(self, peer_urls: Sequence[str], *, learner: bool = False) -> MemberRecord:
        """Add a member with these peer URLs."""
        return await (await self._dialect()).add(peer_urls, learner=learner)

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        """Change the peer URLs of a member."""
        await (await self._dialect()).update(id_, peer_urls)

    async def promote(self, id_: str) -> None:
        """Make a learner a voter."""
        await (await self._dialect()).promote(id_)

    async def remove(self, id_: str) -> None:
        """Remove a member for good."""
        await (await self._dialect()).remove(id_)

    async def status(self) -> MemberStatus:
        """The status of the member at the endpoint that answers."""
        return await (await self._dialect()).status()

    async def transfer(self, to: str) -> None:
        """Move the leadership to another voter; the endpoint must be the leader's."""
        await (await self._dialect()).transfer(to)

    async def _dialect(self) -> _Dialect:
        if self._known is None:
            reply = await self._transport.call("GET", "/netstore/status", write=False)
            own = reply.status != 404
            self._known = _Netstore(self._transport) if own else _EtcdGateway(self._transport)
        return self._known


class _Netstore:
    """The calls of `api.admin`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def members(self) -> tuple[MemberRecord, ...]:
        return (await self._ask(_Listed, "GET", "/netstore/members", write=False)).members

    async def add(self, peer_urls: Sequence[str], *, learner: bool) -> MemberRecord:
        wish = {"peerURLs": list(peer_urls), "learner": learner}
        return await self._ask(MemberRecord, "POST", "/netstore/members", wish)

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        await self._ask(_Anything, "PUT", f"/netstore/members/{id_}", {"peerURLs": list(peer_urls)})

    async def promote(self, id_: str) -> None:
        await self._ask(_Anything, "POST", f"/netstore/members/{id_}/promote", {})

    async def remove(self, id_: str) -> None:
        await self._ask(_Anything, "DELETE", f"/netstore/members/{id_}")

    async def status(self) -> MemberStatus:
        return await self._ask(MemberStatus, "GET", "/netstore/status", write=False)

    async def transfer(self, to: str) -> None:
        await self._ask(_Anything, "POST", "/netstore/leader", {"to": to})

    async def _ask(
        self, kind: type[_T], method: str, path: str, wish: object = None, *, write: bool = True
    ) -> _T:
        reply = await self._transport.call(method, path, wish, write=write)
        if reply.status >= 300:
            told = _read(reply, _Refusal, write=write)
            raise Refused(reply.status, told.message, outcome_known=not write or reply.status < 500)
        return _read(reply, kind, write=write)


class _EtcdGateway:
    """etcd's gRPC services as JSON over HTTP, in which 64-bit numbers are texts and zeros are left out. An
    etcd with users takes a token there, not name and password.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._token: str | None = None
        """None before it was asked for; empty if none is needed."""

    async def members(self) -> tuple[MemberRecord, ...]:
        told = await self._ask(_EtcdMembers, "/v3/cluster/member/list", {}, write=False)
        leader = (await self.status()).leader
        return tuple(each.record(leader) for each in sorted(told.members, key=lambda each: each.id))

    async def add(self, peer_urls: Sequence[str], *, learner: bool) -> MemberRecord:
        wish = {"peerURLs": list(peer_urls), "isLearner": learner}
        return (await self._ask(_EtcdAdded, "/v3/cluster/member/add", wish)).member.record("")

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        wish = {"ID": _decimal(id_), "peerURLs": list(peer_urls)}
        await self._ask(_Anything, "/v3/cluster/member/update", wish)

    async def promote(self, id_: str) -> None:
        await self._ask(_Anything, "/v3/cluster/member/promote", {"ID": _decimal(id_)})

    async def remove(self, id_: str) -> None:
        await self._ask(_Anything, "/v3/cluster/member/remove", {"ID": _decimal(id_)})

    async def status(self) -> MemberStatus:
        told = await self._ask(_EtcdStatus, "/v3/maintenance/status", {}, write=False)
        own = told.header.member_id
        role = "learner" if told.is_learner else "leader" if own == told.leader else "follower"
        leader = f"{told.leader:x}" if told.leader else ""
        indexes = told.index, told.applied or told.index
        return MemberStatus(f"{own:x}", "", told.version, role, leader, told.term, *indexes, told.errors)

    async def transfer(self, to: str) -> None:
        await self._ask(_Anything, "/v3/maintenance/transfer-leadership", {"targetID": _decimal(to)})

    async def _ask(self, kind: type[_T], path: str, wish: object, *, write: bool = True) -> _T:
        if self._token is None:
            self._token = await self._requested_token()
        return await self._answer(kind, path, wish, self._token, write=write)

    async def _requested_token(self) -> str:
        if self._transport.credentials is None:
            return ""
        name, password = self._transport.credentials
        wish = {"name": name, "password": password}
        try:
            given = await self._answer(_EtcdToken, "/v3/auth/authenticate", wish, "", write=False)
        except Refused as refused:
            if _NOT_ENABLED in refused.message:
                return ""
            raise
        if not (given.token.isascii() and given.token.isprintable()):
            raise Refused(_BAD_REQUEST, "the etcd's token for this user cannot be sent in a header field")
        return given.token

    async def _answer(self, kind: type[_T], path: str, wish: object, token: str, *, write: bool) -> _T:
        reply = await self._transport.call("POST", path, wish, write=write, token=token)
        if reply.status == _BAD_REQUEST and _NAMED in reply.body:
            raise Refused(
                reply.status,
                "an etcd with users takes no certificate that has a CommonName for this: give one without,"
                " and a user name and password",
            )
        if reply.status >= 300:
            told = _read(reply, _Refusal, write=write)
            status = 404 if told.code == _GATEWAY_NOT_FOUND else 409
            unknown = write and (told.code is None or told.code in _GATEWAY_UNAVAILABLE)
            raise Refused(status, told.message or told.error, outcome_known=not unknown)
        return _read(reply, kind, write=write)


def _read(reply: Reply, kind: type[_T], *, write: bool) -> _T:
    try:
        return msgspec.json.decode(reply.body, type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = reply.body[:200].decode("utf-8", "replace").strip()
        raise BadAnswer(
            reply.endpoint,
            f"answered {reply.status}: {text}",
            status=reply.status,
            outcome_known=not write or 400 <= reply.status < 500,
        ) from None


def _decimal(id_: str) -> str:
    return str(int(id_, 16))
