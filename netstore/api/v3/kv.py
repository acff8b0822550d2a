"""The KV service: reads and writes of keys, transactions, compaction.

A write is proposed, and answered once it is committed and applied. A read waits until this member has applied
everything that was acknowledged before the read (ReadIndex), unless it is `serializable`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.api.networks import CONFIG
from netstore.api.v3 import messages, operations, transactions
from netstore.api.v3.status import end, refuse
from netstore.errors import Fault, Reason
from netstore.proto import rpc_pb2 as pb
from netstore.state.commands import encode
from netstore.state.v3 import txn
from netstore.state.v3.commands import Compact, Deleted, Done, Found, PutDone, Txn, TxnDone
from netstore.types import Revision

if TYPE_CHECKING:
    from netstore.api.networks import NetworkWrites
    from netstore.api.v3.answers import Answers
    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import Headers
    from netstore.net.grpc.protocols import Call, Handler
    from netstore.node.member import Replica
    from netstore.node.quota import Quota
    from netstore.state.machine import Outcome
    from netstore.state.v3.commands import Operation, Put, Range

ENVELOPE_BYTES: Final = 32
"""About what etcd adds to a request before it checks the size, so that an operation that just fits there fits
here.
"""


_WRITTEN: Final = (TxnDone, PutDone, Deleted)


class KvService:
    """`etcdserverpb.KV`."""

    def __init__(
        self,
        member: Replica,
        headers: Headers,
        quota: Quota,
        answers: Answers,
        *,
        max_request_bytes: int,
        max_txn_ops: int,
        networks: NetworkWrites | None = None,
    ) -> None:
        """`max_request_bytes` bounds the size of one write, `max_txn_ops` each list of a transaction.
        `networks` checks what is written to some keys.
        """
        self._networks = networks
        self._network_keys = frozenset[bytes]() if networks is None else networks.keys
        self._member = member
        self._headers = headers
        self._quota = quota
        self._answers = answers
        self._most_bytes = max_request_bytes - ENVELOPE_BYTES
        self._max_txn_ops = max_txn_ops

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler."""
        unary = interceptor.unary
        return {
            operations.RANGE: interceptor.unary_of(
                messages.parse_range,
                self._range,
                lambda request: operations.range_(request[0]),
                learner=True,
            ),
            operations.PUT: interceptor.unary_of(messages.parse_put, self._put, operations.put),
            operations.DELETE_RANGE: unary(pb.DeleteRangeRequest, self._delete, operations.delete_range),
            operations.TXN: interceptor.unary_of(
                self._parse_txn, self._txn, lambda request: operations.txn(request[0])
            ),
            operations.COMPACT: unary(pb.CompactionRequest, self._compact, operations.compact),
        }

    # --- writes

    def _put(self, call: Call, command: Put) -> None:
        if len(command.key) + len(command.value) > self._most_bytes:
            end(call, Reason.REQUEST_TOO_LARGE)
        elif command.key in self._network_keys and not command.ignore_value:
            self._propose_checked(call, command, [(command.key, command.value)])
        else:
            self._propose(call, command, txn.check(command))

    def _delete(self, call: Call, request: pb.DeleteRangeRequest) -> None:
        if self._fits(call, request):
            command = messages.read_delete(request)
            self._propose(call, command, txn.check(command))

    def _parse_txn(self, message: bytes) -> tuple[Txn, bytes]:
        return transactions.parse_txn(message, self._max_txn_ops), message

    def _txn(self, call: Call, request: tuple[Txn, bytes]) -> None:
        command, message = request
        if not txn.is_read(command):
            if len(message) > self._most_bytes:
                end(call, Reason.REQUEST_TOO_LARGE)
            elif CONFIG in message and (writes := self._network_writes(command)):
                self._propose_checked(call, command, writes)
            else:
                self._propose(call, command)
        elif _is_serializable(message):
            self._read_txn(call, command, None)
        else:
            self._member.read(partial(self._read_txn, call, command), call.principal)

    def _network_writes(self, command: Txn) -> list[tuple[bytes, bytes]]:
        """The values that any branch of a transaction may write to a network's config. O(operations)."""
        keys = self._network_keys
        return [
            (each.key, each.value)
            for each in txn.puts_of(command)
            if each.key in keys and not each.ignore_value
        ]

    def _propose_checked(self, call: Call, command: Put | Txn, writes: list[tuple[bytes, bytes]]) -> None:
        """Propose what writes these configs of networks, if they are some."""

        def checked(fault: Fault | None) -> None:
            self._propose(call, command, fault or (None if isinstance(command, Txn) else txn.check(command)))

        assert self._networks is not None  # noqa: S101 - it named the keys; for the type checker
        self._networks.check(writes, checked)

    def _fits(self, call: Call, request: pb.DeleteRangeRequest) -> bool:
        if request.ByteSize() <= self._most_bytes:
            return True
        end(call, Reason.REQUEST_TOO_LARGE)
        return False

    def _propose(self, call: Call, command: Operation, fault: Fault | None = None) -> None:
        fault = fault or self._quota.refuse(command)
        if fault is not None:
            refuse(call, fault)
        else:
            self._member.propose(encode(command), partial(self._written, call), call.principal.encode())

    def _written(self, call: Call, outcome: Outcome | Fault) -> None:
        if type(outcome) is PutDone and outcome.prev_kv is None:
            call.reply(self._headers(outcome.revision))
        elif isinstance(outcome, _WRITTEN):
            self._answers.send(call, outcome)
        else:
            _refuse_outcome(call, outcome)

    # --- reads

    def _range(self, call: Call, request: tuple[Range, bool]) -> None:
        query, is_serializable = request
        if not query.key:
            end(call, Reason.EMPTY_KEY)
        elif is_serializable:
            self._found(call, query, None)
        elif self._is_learner:
            end(call, Reason.NOT_FOR_LEARNERS)
        else:
            self._member.read(partial(self._found, call, query), call.principal)

    @property
    def _is_learner(self) -> bool:
        member = self._member
        if member.leader == member.id:
            return False
        own = member.machine.members.get(member.id)
        return own is not None and own.learner

    def _found(self, call: Call, query: Range, fault: Fault | None) -> None:
        mvcc = self._member.machine.mvcc
        found = fault or mvcc.read_small(query)
        if type(found) is Found:
            self._answers.send_range(call, query, found)
        elif isinstance(found, Fault):
            refuse(call, found)
        else:
            self._answers.send(call, txn.later(mvcc, query))

    def _read_txn(self, call: Call, command: Txn, fault: Fault | None) -> None:
        machine = self._member.machine
        if fault is None and machine.must_be_logged(command):
            self._member.propose(encode(command), partial(self._written, call), call.principal.encode())
            return
        outcome = fault or machine.v3.read_txn(command)
        if isinstance(outcome, Fault):
            refuse(call, outcome)
        else:
            self._answers.send(call, outcome)

    # --- compaction

    def _compact(self, call: Call, request: pb.CompactionRequest) -> None:
        revision = request.revision
        self._member.propose(
            encode(Compact(revision)),
            partial(self._compacted, call, revision, request.physical),
            call.principal.encode(),
        )

    def _compacted(self, call: Call, revision: int, physical: bool, outcome: Outcome | Fault) -> None:
        if not isinstance(outcome, Done):
            _refuse_outcome(call, outcome)
        elif physical:
            self._member.machine.v3.when_swept(Revision(revision), partial(self._swept, call, outcome))
        else:
            call.reply(self._headers(outcome.revision))

    def _swept(self, call: Call, outcome: Done, fault: Fault | None) -> None:
        if fault is None:
            call.reply(self._headers(outcome.revision))
        else:
            refuse(call, fault)


def _is_serializable(message: bytes) -> bool:
    """Whether all reads of a transaction that only reads are."""
    request = pb.TxnRequest.FromString(message)
    ops = (*request.success, *request.failure)
    return bool(ops) and all(op.request_range.serializable for op in ops)


def _refuse_outcome(call: Call, outcome: Outcome | Fault) -> None:
    if not isinstance(outcome, Fault):
        raise TypeError(f"{type(outcome).__name__} is not what this command gives")
    refuse(call, outcome)
