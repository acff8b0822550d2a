"""The Maintenance service: status, alarms, hashes, snapshots, moving the leader, and downgrades."""

from __future__ import annotations

import re
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from netstore import errors
from netstore.api.v3 import messages, operations
from netstore.api.v3.interceptor import Single
from netstore.api.v3.status import end, refuse
from netstore.api.v3.version import VERSION
from netstore.errors import Fault, Reason
from netstore.node.member import all_problems
from netstore.proto import rpc_pb2 as pb
from netstore.state.commands import encode
from netstore.state.v3.commands import CORRUPT, NOSPACE, AlarmChanged, SetAlarm
from netstore.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.api.gate import Gate
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import Headers
    from netstore.net.grpc.protocols import Call, Handler, Receiver, StreamHandler
    from netstore.node.member import Membership, Replica
    from netstore.node.quota import Quota
    from netstore.state.machine import Outcome
    from netstore.state.v3.hashes import Hash

PIECE_BYTES: Final = 32 * 1024
"""Most bytes of a snapshot in one message, as with etcd."""

MOST_UNSENT: Final = 256 * 1024
"""Unsent bytes of a snapshot up to which more is read from it: 8 pieces are digested and sent in one go."""

MOST_ALARMS: Final = 1_000
"""Alarms beyond which a client may raise no more: all are listed in one answer, and those of removed members
stay until they are cleared.
"""


_KINDS: Final = (NOSPACE, CORRUPT)

_RELEASE: Final = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.[0-9]{1,9})?")


class Sizes(Protocol):
    """Returns the size of the state on disk, in bytes: of the whole file, and of the part that is in use."""

    def __call__(self) -> tuple[int, int]: ...


class Copy(Protocol):
    """A finished copy of the state as one file (`node.backup`)."""

    @property
    def size(self) -> int:
        """Bytes that `read` gives in all: a multiple of 512."""

    def read(self, most: int) -> bytes:
        """The next bytes; empty at the end."""

    def close(self) -> None:
        """Close the file. May be called again."""


class BackupSource(Protocol):
    """Makes copies of the state (`node.backup.Backups`)."""

    def make(self, done: Callable[[Copy | Fault], None]) -> None:
        """Make one that contains everything acknowledged so far. The receiver has to close it."""


class MaintenanceService:
    """`etcdserverpb.Maintenance`."""

    def __init__(
        self,
        member: Replica,
        headers: Headers,
        quota: Quota,
        *,
        sizes: Sizes,
        backups: BackupSource,
        members: Membership,
    ) -> None:
        self._member = member
        self._headers = headers
        self._quota = quota
        self._sizes = sizes
        self._backups = backups
        self._members = members

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler of the unary methods."""
        unary = interceptor.unary
        return {
            operations.STATUS: unary(pb.StatusRequest, self._status, operations.status, learner=True),
            operations.ALARM: unary(pb.AlarmRequest, self._alarm, operations.alarm),
            operations.DEFRAGMENT: unary(pb.DefragmentRequest, self._defragment, operations.defragment),
            operations.HASH: unary(pb.HashRequest, self._hash, operations.hash_),
            operations.HASH_KV: unary(pb.HashKVRequest, self._hash_kv, operations.hash_kv),
            operations.MOVE_LEADER: unary(pb.MoveLeaderRequest, self._move_leader, operations.move_leader),
            operations.DOWNGRADE: unary(pb.DowngradeRequest, self._downgrade, operations.downgrade),
        }

    def streams(self, interceptor: Interceptor) -> dict[bytes, StreamHandler]:
        """Path -> handler of the stream."""
        return {operations.SNAPSHOT: interceptor.stream(self._snapshot, learner=True)}

    @property
    def _revision(self) -> int:
        return self._member.machine.mvcc.revision

    def _status(self, call: Call, _: pb.StatusRequest) -> None:
        member, machine = self._member, self._member.machine
        own = machine.members.get(member.id)
        size, in_use = self._sizes()
        problems = [] if member.leader else [Reason.NO_LEADER.text]
        problems += [
            f"memberID:{id_} alarm:{pb.AlarmType.Name(kind)} " for id_, kind in machine.alarms.active
        ]
        problems += all_problems(member)
        answer = pb.StatusResponse(
            version=VERSION,
            dbSize=size,
            leader=member.leader,
            raftIndex=member.commit_index,
            raftTerm=member.term,
            raftAppliedIndex=machine.applied,
            errors=problems,
            dbSizeInUse=in_use,
            isLearner=own is not None and own.learner,
            dbSizeQuota=max(0, self._quota.limit),
        )
        call.reply(messages.write(self._headers(self._revision), answer))

    # --- alarms

    def _alarm(self, call: Call, request: pb.AlarmRequest) -> None:
        """List alarms, from this member's state, without the quorum that etcd needs; raise one, of a member
        and of a kind that exist; or clear one, also of a member that was removed.
        """
        action, kind, machine = request.action, request.alarm, self._member.machine
        if action == pb.AlarmRequest.GET:
            listed = (each for each in machine.alarms.active if kind in (0, each[1]))
            self._alarms(call, self._revision, listed)
            return
        if action not in (pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE):
            end(call, Reason.UNKNOWN_ACTION)
            return
        raises = action == pb.AlarmRequest.ACTIVATE
        if raises and request.memberID not in machine.members:
            end(call, Reason.ID_NOT_FOUND)
            return
        if kind not in _KINDS:
            if raises:
                end(call, Reason.UNKNOWN_ALARM)
            else:
                self._alarms(call, self._revision, ())
            return
        if raises and len(machine.alarms.active) >= MOST_ALARMS:
            refuse(call, errors.too_many())
            return
        command = SetAlarm(request.memberID, kind, active=raises)
        self._member.propose(
            encode(command), partial(self._alarm_set, call, command), call.principal.encode()
        )

    def _alarm_set(self, call: Call, command: SetAlarm, outcome: Outcome | Fault) -> None:
        """The answer has the alarm that is raised, even if it was raised before, or the alarms that were
        cleared.
        """
        if isinstance(outcome, AlarmChanged):
            raised = [(NodeId(command.member), command.kind)] if command.active else outcome.alarms
            self._alarms(call, outcome.revision, raised)
        elif isinstance(outcome, Fault):
            refuse(call, outcome)

    def _alarms(self, call: Call, revision: int, alarms: Iterable[tuple[NodeId, int]]) -> None:
        shown = [pb.AlarmMember(memberID=id_, alarm=_alarm_type(kind)) for id_, kind in alarms]
        call.reply(messages.write(self._headers(revision), pb.AlarmResponse(alarms=shown)))

    # --- storage

    def _defragment(self, call: Call, _: pb.DefragmentRequest) -> None:
        """Nothing to do: writes use free pages again, and a start gives them back (`disk.compacting`)."""
        call.reply(b"")

    def _hash(self, call: Call, _: pb.HashRequest) -> None:
        self._member.machine.mvcc.hash_kv(0, partial(self._hashed, call))

    def _hashed(self, call: Call, hashed: Hash | Fault) -> None:
        if isinstance(hashed, Fault):
            refuse(call, hashed)
        else:
            answer = pb.HashResponse(hash=hashed.checksum)
            call.reply(messages.write(self._headers(self._revision), answer))

    def _hash_kv(self, call: Call, request: pb.HashKVRequest) -> None:
        self._member.machine.mvcc.hash_kv(request.revision, partial(self._hashed_kv, call))

    def _hashed_kv(self, call: Call, hashed: Hash | Fault) -> None:
        if isinstance(hashed, Fault):
            refuse(call, hashed)
            return
        answer = pb.HashKVResponse(
            hash=hashed.checksum, compact_revision=hashed.compacted, hash_revision=hashed.revision
        )
        call.reply(messages.write(self._headers(self._revision), answer))

    def _snapshot(self, call: Call, gate: Gate) -> Receiver:
        return Single(
            call,
            gate,
            kind=pb.SnapshotRequest,
            method=self._send_copy,
            operation=operations.snapshot,
        )

    def _send_copy(self, call: Call, _: pb.SnapshotRequest) -> Callable[[], None]:
        sender = _SnapshotSender(call)
        self._backups.make(sender.start)
        return sender.stop

    # --- leader

    def _move_leader(self, call: Call, request: pb.MoveLeaderRequest) -> None:
        self._members.transfer(NodeId(request.targetID), partial(self._moved, call))

    def _moved(self, call: Call, fault: Fault | None) -> None:
        if fault is not None:
            refuse(call, fault)
        else:
            call.reply(b"")

    # --- version

    def _downgrade(self, call: Call, request: pb.DowngradeRequest) -> None:
        """Which version the cluster could be downgraded to is answered as etcd does; that it is done is
        refused: members of etcd cannot open the data of these members. So there is never anything to cancel.
        """
        action = request.action
        if action == pb.DowngradeRequest.CANCEL:
            self._member.read(partial(self._downgraded, call, Reason.NO_DOWNGRADE_JOB), call.principal)
        elif action not in (pb.DowngradeRequest.VALIDATE, pb.DowngradeRequest.ENABLE):
            end(call, Reason.UNKNOWN_METHOD)
        elif (target := _RELEASE.fullmatch(request.version)) is None:
            end(call, Reason.BAD_DOWNGRADE_FORMAT)
        else:
            cluster = _RELEASE.fullmatch(self._member.machine.roster.cluster_version)
            if cluster is None:
                end(call, Reason.NO_CLUSTER_VERSION)
                return
            refused = None if action == pb.DowngradeRequest.VALIDATE else Reason.NO_DOWNGRADE
            if (int(target[1]), int(target[2]) + 1) != (int(cluster[1]), int(cluster[2])):
                refused = Reason.BAD_DOWNGRADE_TARGET
            self._member.read(partial(self._downgraded, call, refused), call.principal)

    def _downgraded(self, call: Call, refused: Reason | None, fault: Fault | None) -> None:
        if fault is not None:
            refuse(call, fault)
        elif refused is not None:
            end(call, refused)
        else:
            answer = pb.DowngradeResponse(version=self._member.machine.roster.cluster_version)
            call.reply(messages.write(self._headers(self._revision), answer))


def _alarm_type(kind: int) -> pb.AlarmType:
    return pb.CORRUPT if kind == CORRUPT else pb.NOSPACE


class _SnapshotSender:
    """Sends a copy to one client, as fast as it reads. The last piece is the digest of all others."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._copy: Copy | None = None
        self._left = 0
        self._digest = sha256()

    def start(self, copy: Copy | Fault) -> None:
        if isinstance(copy, Fault):
            refuse(self._call, copy)
        elif not self._call.open:
            copy.close()
        else:
            self._copy = copy
            self._left = copy.size
            self._go_on()

    def stop(self) -> None:
        """The client disconnected, or was sent all of it."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _go_on(self) -> None:
        call, copy = self._call, self._copy
        while copy is not None and call.backlog < MOST_UNSENT:
            piece = copy.read(PIECE_BYTES)
            if not piece:
                self.stop()
                self._send(self._digest.digest())
                call.finish()
                return
            self._left -= len(piece)
            self._digest.update(piece)
            self._send(piece)
        if copy is not None:
            call.on_drained(self._go_on)

    def _send(self, piece: bytes) -> None:
        answer = pb.SnapshotResponse(remaining_bytes=self._left, blob=piece, version=VERSION)
        self._call.send(answer.SerializeToString())
