"""The members of a cluster as its operator sees them: listed, added, moved, promoted, removed, made to lead.

A netstored is asked under `/netstore/` (`api.operate`), a real etcd through the JSON gateway to its gRPC
services, which every etcd since 3.4 has on the client port whether its v2 API is on or not. Which of the two
answers is found out by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from netstore.client.v2 import BadAnswer, ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.client.v2 import Reply, V2Client

_GATEWAY_NOT_FOUND: Final = 5
"""gRPC's code NOT_FOUND."""

_GATEWAY_UNAVAILABLE: Final = (4, 14)
"""gRPC's codes DEADLINE_EXCEEDED and UNAVAILABLE."""


class MemberRecord(msgspec.Struct, frozen=True):
    """One member. `role` is leader, voter or learner; `promote` tells that a learner will vote by itself.

    `active` and `match_index` are known by the leader only; None is: not told.
    """

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    role: str
    promote: bool = False
    active: bool | None = None
    match_index: int | None = None

    @property
    def started(self) -> bool:
        """It has told its name, as every member does when it starts."""
        return bool(self.name)


class MemberStatus(msgspec.Struct, frozen=True):
    """How one member stands in Raft. `name` is empty where it is not told."""

    id: str
    name: str
    version: str
    role: str
    leader: str
    term: int
    commit_index: int
    applied_index: int
    problems: tuple[str, ...] = ()


class Refused(ClientError):  # noqa: N818 - named for what was found
    """The cluster does not make the change. `status` is 404 for no such member, else another HTTP status."""

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
    """The cluster behind the endpoints of a `V2Client`. Ids are lower-case hexadecimal texts.

    What the cluster refuses is `Refused`; what else may happen is as with `V2Client`.
    """

    def __init__(self, client: V2Client) -> None:
        self._client = client
        self._known: _Dialect | None = None

    async def members(self) -> tuple[MemberRecord, ...]:
        """All members, in the order of their ids."""
        return await (await self._dialect()).members()

    async def add(self, peer_urls: Sequence[str], *, learner: bool = False) -> MemberRecord:
        """Add a member that will be reached there."""
        return await (await self._dialect()).add(peer_urls, learner=learner)

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        """A member is reached there from now on."""
        await (await self._dialect()).update(id_, peer_urls)

    async def promote(self, id_: str) -> None:
        """Give a learner its vote."""
        await (await self._dialect()).promote(id_)

    async def remove(self, id_: str) -> None:
        """Remove a member for ever."""
        await (await self._dialect()).remove(id_)

    async def status(self) -> MemberStatus:
        """How the member at the endpoint that answers stands."""
        return await (await self._dialect()).status()

    async def transfer(self, to: str) -> None:
        """Let another voter lead; the endpoint must be the leader's."""
        await (await self._dialect()).transfer(to)

    async def _dialect(self) -> _Dialect:
        if self._known is None:
            reply = await self._client.call("GET", "/netstore/status", write=False)
            own = reply.status != 404
            self._known = _Netstore(self._client) if own else _EtcdGateway(self._client)
        return self._known


class _Netstore:
    """The calls of `api.operate`."""

    def __init__(self, client: V2Client) -> None:
        self._client = client

    async def members(self) -> tuple[MemberRecord, ...]:
        document = await self._ask("GET", "/netstore/members", write=False)
        return tuple(_own_record(each) for each in document["members"])

    async def add(self, peer_urls: Sequence[str], *, learner: bool) -> MemberRecord:
        wish = {"peerURLs": list(peer_urls), "learner": learner}
        return _own_record(await self._ask("POST", "/netstore/members", wish))

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        await self._ask("PUT", f"/netstore/members/{id_}", {"peerURLs": list(peer_urls)})

    async def promote(self, id_: str) -> None:
        await self._ask("POST", f"/netstore/members/{id_}/promote", {})

    async def remove(self, id_: str) -> None:
        await self._ask("DELETE", f"/netstore/members/{id_}")

    async def status(self) -> MemberStatus:
        told = await self._ask("GET", "/netstore/status", write=False)
        return MemberStatus(
            told["id"],
            told["name"],
            told["version"],
            told["role"],
            told["leader"],
            told["term"],
            told["commitIndex"],
            told["appliedIndex"],
        )

    async def transfer(self, to: str) -> None:
        await self._ask("POST", "/netstore/leader", {"to": to})

    async def _ask(self, method: str, path: str, wish: object = None, *, write: bool = True) -> Any:
        reply = await self._client.call(method, path, wish, write=write)
        document = _document(reply, write=write)
        if reply.status >= 300:
            unknown = write and reply.status >= 500
            raise Refused(reply.status, _message(reply, document), outcome_known=not unknown)
        return document


class _EtcdGateway:
    """etcd's gRPC services as JSON over HTTP. Numbers of 64 bits are texts there, and zeros are left out."""

    def __init__(self, client: V2Client) -> None:
        self._client = client

    async def members(self) -> tuple[MemberRecord, ...]:
        told = await self._ask("/v3/cluster/member/list", {}, write=False)
        leader = (await self.status()).leader
        records = (_etcd_record(each, leader) for each in told.get("members", ()))
        return tuple(sorted(records, key=lambda record: int(record.id, 16)))

    async def add(self, peer_urls: Sequence[str], *, learner: bool) -> MemberRecord:
        wish = {"peerURLs": list(peer_urls), "isLearner": learner}
        return _etcd_record((await self._ask("/v3/cluster/member/add", wish))["member"], "")

    async def update(self, id_: str, peer_urls: Sequence[str]) -> None:
        await self._ask("/v3/cluster/member/update", {"ID": _decimal(id_), "peerURLs": list(peer_urls)})

    async def promote(self, id_: str) -> None:
        await self._ask("/v3/cluster/member/promote", {"ID": _decimal(id_)})

    async def remove(self, id_: str) -> None:
        await self._ask("/v3/cluster/member/remove", {"ID": _decimal(id_)})

    async def status(self) -> MemberStatus:
        told = await self._ask("/v3/maintenance/status", {}, write=False)
        own, leader = _hexadecimal(told["header"].get("member_id")), _hexadecimal(told.get("leader"))
        role = "learner" if told.get("isLearner") else "leader" if own == leader else "follower"
        index = int(told.get("raftIndex", 0))
        return MemberStatus(
            own,
            "",
            told.get("version", ""),
            role,
            leader,
            int(told.get("raftTerm", 0)),
            index,
            int(told.get("raftAppliedIndex", index)),
            tuple(told.get("errors", ())),
        )

    async def transfer(self, to: str) -> None:
        await self._ask("/v3/maintenance/transfer-leadership", {"targetID": _decimal(to)})

    async def _ask(self, path: str, wish: object, *, write: bool = True) -> Any:
        reply = await self._client.call("POST", path, wish, write=write)
        document = _document(reply, write=write)
        if reply.status >= 300:
            code = document.get("code") if isinstance(document, dict) else None
            status = 404 if code == _GATEWAY_NOT_FOUND else 409
            unknown = write and (code is None or code in _GATEWAY_UNAVAILABLE)
            raise Refused(status, _message(reply, document), outcome_known=not unknown)
        return document


def _document(reply: Reply, *, write: bool) -> Any:
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = reply.body[:200].decode("utf-8", "replace").strip()
        raise BadAnswer(
            reply.endpoint,
            f"answered {reply.status}: {text}",
            status=reply.status,
            outcome_known=not write or 400 <= reply.status < 500,
        ) from None


def _message(reply: Reply, document: Any) -> str:
    told = document if isinstance(document, dict) else {}
    return str(told.get("message") or told.get("error") or f"{reply.endpoint} answered {reply.status}")


def _own_record(told: dict[str, Any]) -> MemberRecord:
    return MemberRecord(
        told["id"],
        told["name"],
        tuple(told["peerURLs"]),
        tuple(told["clientURLs"]),
        told["role"],
        told["promote"],
        told.get("active"),
        told.get("matchIndex"),
    )


def _etcd_record(told: dict[str, Any], leader: str) -> MemberRecord:
    id_ = _hexadecimal(told.get("ID"))
    role = "learner" if told.get("isLearner") else "leader" if id_ == leader else "voter"
    urls = tuple(told.get("peerURLs", ())), tuple(told.get("clientURLs", ()))
    return MemberRecord(id_, told.get("name", ""), *urls, role)


def _decimal(id_: str) -> str:
    return str(int(id_, 16))


def _hexadecimal(number: object) -> str:
    value = int(str(number or 0))
    return f"{value:x}" if value else ""
