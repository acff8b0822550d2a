"""The admin endpoints, below `/netstore/` on the client port, for what etcd's v2 API does not have:

* `GET /netstore/status`: the Raft status of this member, its problems, the feature level of the cluster, work
  that held the loop beyond `loop_budget_ms`, the use of `memory_budget`, the progress of verifying the stored
  state, scheduled backups and, on the leader, the members that are catching up and whether writes are paced;
* `GET /netstore/members`: the members with their roles and, on the leader, the progress of each;
* `POST /netstore/members` with `{"peerURLs": [...], "learner": true}`: add a member, a voter by default;
* `PUT /netstore/members/ID` with `{"peerURLs": [...]}`: change its peer URLs;
* `DELETE /netstore/members/ID`: remove it permanently;
* `POST /netstore/members/ID/promote`: make a learner a voter;
* `POST /netstore/leader` with `{"to": "ID"}`: transfer leadership to another voter; only the leader can;
* `/netstore/plugins`: the admitted plugins (`api.plugins`);
* `/netstore/revisions`: when and by whom v3 keys were written (`api.revisions`);
* `GET /netstore/backup`: a full backup (`api.backup`).

Answers are JSON. A refusal has a `message`, with etcd's text if etcd has one, and status 404 for an unknown
member, 410 for a removed one, 409 if the present membership does not allow the change, 503 if the outcome is
not known.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from netstore import __version__
from netstore.api.gate import Access, Api, Kind, Operation
from netstore.api.health import raised_alarms
from netstore.api.http.body import BadBody, json_body
from netstore.api.http.percent import decode
from netstore.api.http.responses import JSON, json_line, method_allowed, not_found
from netstore.api.revisions import RevisionsApi
from netstore.api.v2.members import member_id_of, peer_urls_of
from netstore.errors import Fault, Reason
from netstore.node.member import all_problems
from netstore.raft.status import Role

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.api.backup import BackupApi
    from netstore.api.plugins import PluginsApi
    from netstore.disk.archivefile import Listing
    from netstore.limits import Shares
    from netstore.meter import Meter
    from netstore.net.exchange import Exchange, Request
    from netstore.node.backupschedule import BackupState
    from netstore.node.member import Member, Membership
    from netstore.node.pacing import Behind
    from netstore.raft.status import Status
    from netstore.state.members import MemberInfo
    from netstore.types import Index, NodeId

PREFIX: Final = b"/netstore"

_ALARM_FIXES: Final = {
    "NOSPACE": "delete and compact keys, or raise quota_backend_bytes; then disarm it (etcdctl alarm disarm)",
    "CORRUPT": "replace the member that is wrong, then disarm it (etcdctl alarm disarm)",
}

_STATUS_OF: Final = {Reason.ID_NOT_FOUND: 404, Reason.ID_REMOVED: 410}


class ScrubProgress(Protocol):
    """The part of `disk.scrub.Scrubber` that is used here."""

    rounds: int
    """Completed verifications of the whole state."""
    verified_bytes: int
    """Bytes verified in the present round, or in the last one."""


def operation(request: Request) -> Operation:
    """What a request below `/netstore` is going to do, for the gate. Members and leader are accessed as in
    the other APIs. O(length of the path).
    """
    match _names(request):
        case ["members", *_]:
            kind = Kind.MEMBER
        case ["leader" | "backup"]:
            kind = Kind.MAINTENANCE
        case ["plugins", *_]:
            kind = Kind.PLUGIN
        case _:
            kind = Kind.ADMIN
    may_write = request.method not in (b"GET", b"HEAD")
    return Operation(Api.ADMIN, b"%b %b" % (request.method, request.path), (Access(kind),), may_write)


def _names(request: Request) -> list[str]:
    """The names of the path below the prefix."""
    return decode(request.path).removeprefix(PREFIX + b"/").decode("utf-8", "replace").split("/")


class Archive(Protocol):
    """The part of `node.archive.Archiver` that is used here."""

    folder: Path
    archived: Index
    """The last archived entry."""
    wall: int
    """Its time, in nanoseconds since 1970; 0 if none was archived since the start."""
    keep_seconds: float
    """How far back it leads at least; 0 if nothing is removed."""
    removed: int
    """Files that were removed since the start because they were too old."""

    @property
    def oldest(self) -> int:
        """The oldest instant that it leads to, in nanoseconds since 1970; 0 if that is not known."""

    @property
    def listing(self) -> Listing:
        """The files of the archive."""

    @property
    def waiting(self) -> int:
        """How many applied entries are not archived."""

    @property
    def stopped(self) -> bool:
        """Whether nothing is archived."""

    def lag_seconds(self) -> float:
        """For how long, at least, an applied entry has waited to be archived."""

    def fixes(self) -> dict[str, str]:
        """What an operator has to know, each with what to do about it."""


class AdminApi:
    """Handles requests below `/netstore` for one member."""

    def __init__(
        self,
        member: Member,
        cluster: Membership,
        meter: Meter | None = None,
        scrubber: ScrubProgress | None = None,
        shares: Shares | None = None,
        *,
        plugins: PluginsApi | None = None,
        archive: Archive | None = None,
        backup: BackupApi | None = None,
        scheduled: BackupState | None = None,
    ) -> None:
        self._member = member
        self._cluster = cluster
        self._meter = meter
        self._scrubber = scrubber
        self._shares = shares
        self._plugins = plugins
        self._archive = archive
        self._revisions = RevisionsApi(member.machine)
        self._backup = backup
        self._scheduled = scheduled

    def handle(self, exchange: Exchange) -> None:
        """Answer now, or once the requested change is made or refused."""
        try:
            match _names(exchange.request):
                case ["status"]:
                    self._status(exchange)
                case ["members"]:
                    self._members(exchange)
                case ["members", name]:
                    self._member_named(exchange, name)
                case ["members", name, "promote"]:
                    self._promote(exchange, name)
                case ["leader"]:
                    self._transfer(exchange)
                case ["revisions"]:
                    self._revisions.handle(exchange)
                case ["plugins", *names] if self._plugins is not None:
                    self._plugins.handle(exchange, names)
                case ["backup"] if self._backup is not None:
                    self._backup.handle(exchange)
                case _:
                    not_found(exchange)
        except BadBody as bad:
            _respond_message(exchange, bad.status, str(bad))

    def _status(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        member, status = self._member, self._member.status()
        conf = status.conf
        fixes = self._fixes() | self._archive_fixes() | self._backup_fixes()
        _respond(
            exchange,
            200,
            {
                "id": f"{status.id:x}",
                "name": member.name,
                "clusterId": f"{member.cluster_id:x}",
                "version": __version__,
                "clusterVersion": member.machine.roster.cluster_version,
                "featureLevel": member.machine.roster.level,
                "role": _role(status),
                "leader": f"{status.leader:x}" if status.leader else "",
                "term": status.term,
                "lastIndex": status.last,
                "commitIndex": status.commit,
                "appliedIndex": status.applied,
                "voters": [f"{voter:x}" for voter in conf.voters],
                "learners": [f"{learner:x}" for learner in conf.learners],
                "changing": conf.joint,
                "problems": list(fixes),
                "fixes": fixes,
                "backedUp": member.backed_up,
                "pacedBytesPerSecond": member.paced_to,
                "behind": [_behind_json(each) for each in member.behind()],
                **self._loop(),
                **self._memory(),
                **self._scrub(),
                **self._archived(),
                **self._backups(),
            },
        )

    def _fixes(self) -> dict[str, str]:
        """What is wrong with the member itself, in words, each with what to do about it."""
        member = self._member
        fixes = {f"alarm {name}": _ALARM_FIXES[name] for name in raised_alarms(member)}
        return fixes | all_problems(member)

    def _loop(self) -> dict[str, object]:
        meter = self._meter
        if meter is None:
            return {}
        return {
            "loop": {
                "budgetMs": round(meter.budget * 1000, 3),
                "overBudget": meter.held,
                "longestMs": round(meter.longest * 1000, 1),
                "longestWork": meter.what,
            }
        }

    def _memory(self) -> dict[str, object]:
        shares = self._shares
        if shares is None:
            return {}
        return {
            "memory": {
                "budgetBytes": shares.whole.limit,
                "usedBytes": shares.whole.used,
                "sharesUsedBytes": {name: share.used for name, share in shares.parts.items()},
            }
        }

    def _scrub(self) -> dict[str, object]:
        scrubber = self._scrubber
        if scrubber is None:
            return {}
        return {"scrub": {"rounds": scrubber.rounds, "verifiedBytes": scrubber.verified_bytes}}

    def _archived(self) -> dict[str, object]:
        archive = self._archive
        if archive is None:
            return {}
        found = archive.listing
        return {
            "archive": {
                "folder": str(archive.folder),
                "lastIndex": archive.archived,
                "lastUnixNanos": archive.wall,
                "oldestUnixNanos": archive.oldest,
                "keepSeconds": archive.keep_seconds,
                "removedFiles": archive.removed,
                "waitingEntries": archive.waiting,
                "files": len(found.parts),
                "states": len(found.bases),
                "newestState": max((base.applied for base in found.bases), default=0),
                "gaps": len(found.gaps),
                "lagSeconds": round(archive.lag_seconds()),
                "stopped": archive.stopped,
                "problems": list(archive.fixes()),
            }
        }

    def _backups(self) -> dict[str, object]:
        state = self._scheduled
        if state is None:
            return {}
        return {
            "backup": {
                "everySeconds": state.every,
                "running": state.running,
                "succeeded": state.succeeded,
                "failed": state.failed,
                "lastSuccess": round(state.last_success),
                "lastFile": state.last_file,
                "lastBytes": state.last_bytes,
                "lastRevision": state.last_revision,
                "lastIndex": state.last_index,
                "lastSeconds": round(state.last_seconds, 1),
                "verified": state.verified,
                "hookFailed": state.hook_failed,
                "warnings": list(self._backup_fixes()),
            }
        }

    def _archive_fixes(self) -> dict[str, str]:
        return {} if self._archive is None else self._archive.fixes()

    def _backup_fixes(self) -> dict[str, str]:
        now = self._member.clock.wall() / 10**9
        return {} if self._scheduled is None else self._scheduled.fixes(now)

    def _members(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET,POST"):
            return
        if exchange.request.method == b"POST":
            document = json_body(exchange)
            learner = document.get("learner", False)
            if not isinstance(learner, bool):
                raise BadBody(400, "learner: must be true or false")
            self._cluster.add(
                peer_urls_of(document),
                learner=learner,
                done=partial(self._changed, exchange, 201),
                principal=exchange.principal.encode(),
            )
            return
        known, status = self._member.machine.members, self._member.status()
        peers = {peer.id: peer for peer in status.peers}
        behind = {each.id: each for each in self._member.behind()}
        listed = []
        for id_ in sorted(known):
            shown = _member_json(known[id_], status.leader)
            if id_ in peers:
                shown |= {"active": peers[id_].active, "matchIndex": peers[id_].match}
            if id_ in behind:
                shown["behind"] = _behind_json(behind[id_])
            listed.append(shown)
        _respond(exchange, 200, {"members": listed})

    def _member_named(self, exchange: Exchange, name: str) -> None:
        if not method_allowed(exchange, b"PUT,DELETE"):
            return
        done, principal = partial(self._changed, exchange, 200), exchange.principal.encode()
        if exchange.request.method == b"PUT":
            self._cluster.update(_member_id(name), peer_urls_of(json_body(exchange)), done, principal)
        else:
            self._cluster.remove(_member_id(name), done, principal)

    def _promote(self, exchange: Exchange, name: str) -> None:
        if method_allowed(exchange, b"POST"):
            json_body(exchange)
            done = partial(self._changed, exchange, 200)
            self._cluster.promote(_member_id(name), done, exchange.principal.encode())

    def _transfer(self, exchange: Exchange) -> None:
        if method_allowed(exchange, b"POST"):
            name = json_body(exchange).get("to")
            if not isinstance(name, str):
                raise BadBody(400, "to: the id of the member that is to lead, in hexadecimal")
            self._cluster.transfer(_member_id(name), partial(self._transferred, exchange))

    def _changed(self, exchange: Exchange, status: int, outcome: MemberInfo | Fault) -> None:
        if isinstance(outcome, Fault):
            _refuse(exchange, outcome)
        else:
            _respond(exchange, status, _member_json(outcome, self._member.leader))

    def _transferred(self, exchange: Exchange, fault: Fault | None) -> None:
        if fault is not None:
            _refuse(exchange, fault)
        else:
            _respond(exchange, 200, {"leader": f"{self._member.leader:x}"})


def _role(status: Status) -> str:
    if status.role is Role.FOLLOWER and not status.conf.votes(status.id):
        return "learner"
    return status.role.value


def _member_json(member: MemberInfo, leader: NodeId) -> dict[str, object]:
    role = "learner" if member.learner else "leader" if member.id == leader else "voter"
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peerURLs": list(member.peer_urls),
        "clientURLs": list(member.client_urls),
        "role": role,
        "promote": member.promote,
    }


def _behind_json(behind: Behind) -> dict[str, object]:
    """A member that is catching up. The size of its snapshot is 0 while it is not known."""
    shown: dict[str, object] = {"id": f"{behind.id:x}", "state": "catching up"}
    if behind.gets_snapshot:
        shown |= {"state": "copying", "sentBytes": behind.sent, "totalBytes": behind.size}
    return shown | {"entriesBehind": behind.entries, "waitedFor": behind.counts}


def _member_id(text: str) -> NodeId:
    id_ = member_id_of(text)
    if id_ is None:
        raise BadBody(404, f"No such member: {text}")
    return id_


def _refuse(exchange: Exchange, fault: Fault) -> None:
    status = 409 if fault.reason is None else _STATUS_OF.get(fault.reason, 409)
    _respond_message(exchange, status if fault.outcome_known else 503, fault.cause.decode("utf-8", "replace"))


def _respond_message(exchange: Exchange, status: int, message: str) -> None:
    _respond(exchange, status, {"message": message})


def _respond(exchange: Exchange, status: int, document: object) -> None:
    exchange.respond(status, JSON, json_line(document))
