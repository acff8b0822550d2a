"""The v3 state told slowly: a list of everything that was ever written, and every answer worked out from it.

Written from the API's description, not from the code under test; pairs are built by protobuf itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import google_crc32c

from netstore.errors import Fault, Reason, refusal
from netstore.proto.kv_pb2 import KeyValue
from netstore.state.v3.commands import (
    AlarmChanged,
    Compact,
    Compare,
    Deleted,
    DeleteRange,
    Done,
    Found,
    Later,
    LeaseCheckpoint,
    LeaseExpire,
    LeaseGrant,
    LeaseGranted,
    LeaseRenew,
    LeaseRevoke,
    Operation,
    Put,
    PutDone,
    Range,
    SetAlarm,
    Txn,
    TxnDone,
    V3Command,
    V3Outcome,
)
from netstore.types import LeaseId, NodeId, Revision

Keys: TypeAlias = dict[bytes, KeyValue]


Told: TypeAlias = tuple[int, bytes, bytes, bytes | None]
"""Revision, key, pair and pair before of a change."""


@dataclass(frozen=True)
class Written:
    """One change: the pair as it was afterwards, None for a deletion."""

    revision: int
    key: bytes
    pair: KeyValue | None


def contains(key: bytes, range_end: bytes, each: bytes) -> bool:
    if not range_end:
        return each == key
    return each >= key and (range_end == b"\0" or each < range_end)


@dataclass
class Twin:
    """Everything that was ever written, and the few numbers beside it."""

    revision: int = 1
    compacted: int = -1
    index: int = 0
    written: list[Written] = field(default_factory=list)
    leases: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """TTL, index of the last renewal, what a checkpoint left."""
    alarms: set[tuple[int, int]] = field(default_factory=set)

    def keys_at(self, revision: int) -> Keys:
        keys: Keys = {}
        for change in self.written:
            if change.revision <= revision:
                if change.pair is None:
                    del keys[change.key]
                else:
                    keys[change.key] = change.pair
        return dict(sorted(keys.items()))

    @property
    def now(self) -> Keys:
        """With what the command under way has written so far."""
        return self.keys_at(self.revision + 1)

    @property
    def current(self) -> Revision:
        return Revision(max(self.revision, max((change.revision for change in self.written), default=1)))

    def holding(self, lease: int) -> list[bytes]:
        return [key for key, pair in self.now.items() if pair.lease == lease]

    # --- commands

    def apply(self, command: V3Command) -> V3Outcome:
        self.index += 1
        outcome = self._apply(command)
        self.revision = self.current
        return outcome

    def _apply(self, command: V3Command) -> V3Outcome:
        fault = self.shut(command)
        if fault is not None:
            return fault
        match command:
            case Put():
                if command.lease and command.lease not in self.leases:
                    return refusal(Reason.LEASE_NOT_FOUND)
                if (command.ignore_value or command.ignore_lease) and command.key not in self.now:
                    return refusal(Reason.KEY_NOT_FOUND)
                return self.put(command)
            case DeleteRange():
                return self.delete_range(command)
            case Range():
                return self.check_revision(command.revision) or self.range(command)
            case Txn():
                return self.txn(command)
            case Compact():
                if command.revision <= self.compacted:
                    return refusal(Reason.COMPACTED)
                if command.revision > self.revision:
                    return refusal(Reason.FUTURE_REVISION)
                self.compacted = command.revision
                return self.done()
            case LeaseGrant():
                if command.id == 0:
                    return refusal(Reason.LEASE_NOT_FOUND)
                if command.id in self.leases:
                    return refusal(Reason.LEASE_EXISTS)
                if command.ttl > 9_000_000_000:
                    return refusal(Reason.LEASE_TTL_TOO_LARGE)
                self.leases[command.id] = (command.ttl, self.index, 0)
                return LeaseGranted(Revision(self.revision), LeaseId(command.id), command.ttl)
            case LeaseRevoke():
                if command.id not in self.leases:
                    return refusal(Reason.LEASE_NOT_FOUND)
                self.end_lease(command.id)
                return self.done()
            case LeaseRenew():
                if command.id not in self.leases:
                    return refusal(Reason.LEASE_NOT_FOUND)
                ttl = self.leases[command.id][0]
                self.leases[command.id] = (ttl, self.index, 0)
                return LeaseGranted(Revision(self.revision), LeaseId(command.id), ttl)
            case LeaseExpire():
                for lease, since in command.leases:
                    if self.leases.get(lease, (0, -1, 0))[1] == since:
                        self.end_lease(lease)
                        self.revision = self.current
                return self.done()
            case LeaseCheckpoint():
                for lease, since, remaining in command.leases:
                    if self.leases.get(lease, (0, -1, 0))[1] == since:
                        ttl = self.leases[lease][0]
                        self.leases[lease] = (ttl, since, min(ttl, remaining))
                return self.done()
            case SetAlarm():
                alarm = (NodeId(command.member), command.kind)
                changed = (alarm in self.alarms) != command.active
                self.alarms ^= {alarm} if changed else set()
                return AlarmChanged(self.current, [alarm] if changed else [])

    def done(self) -> Done:
        return Done(self.current)

    def shut(self, command: V3Command) -> Fault | None:
        kinds = {kind for _, kind in self.alarms}
        if 2 in kinds and not isinstance(command, SetAlarm):
            return refusal(Reason.CORRUPT)
        return refusal(Reason.QUOTA) if 1 in kinds and grows(command) else None

    def put(self, command: Put) -> PutDone:
        old = self.now.get(command.key)
        value = (old.value if old else b"") if command.ignore_value else command.value
        lease = (old.lease if old else 0) if command.ignore_lease else command.lease
        revision = self.revision + 1
        pair = KeyValue(
            key=command.key,
            create_revision=old.create_revision if old else revision,
            mod_revision=revision,
            version=old.version + 1 if old else 1,
            value=value,
            lease=lease,
        )
        self.written.append(Written(revision, command.key, pair))
        prev = old.SerializeToString() if old and command.prev_kv else None
        return PutDone(Revision(revision), prev)

    def delete_range(self, command: DeleteRange) -> Deleted:
        gone = {key: p for key, p in self.now.items() if contains(command.key, command.range_end, key)}
        self.written += [Written(self.revision + 1, key, None) for key in gone]
        pairs = [pair.SerializeToString() for pair in gone.values()] if command.prev_kv else []
        return Deleted(self.current, len(gone), pairs)

    def end_lease(self, lease: int) -> None:
        if self.leases.pop(lease, None):
            self.written += [Written(self.revision + 1, key, None) for key in self.holding(lease)]

    # --- reads

    def check_revision(self, revision: int) -> Fault | None:
        if revision > self.revision:
            return refusal(Reason.FUTURE_REVISION)
        return refusal(Reason.COMPACTED) if 0 < revision < self.compacted else None

    def range(self, query: Range) -> Found:
        keys = self.keys_at(query.revision) if query.revision > 0 else self.now
        inside = [pair for key, pair in keys.items() if contains(query.key, query.range_end, key)]
        count = len(inside)
        if query.count_only:
            return Found(self.current, [], count)
        bounds = (
            ("mod_revision", query.min_mod_revision, query.max_mod_revision),
            ("create_revision", query.min_create_revision, query.max_create_revision),
        )
        for name, least, most in bounds:
            inside = [p for p in inside if not least or getattr(p, name) >= least]
            inside = [p for p in inside if not most or getattr(p, name) <= most]
        target = ("key", "version", "create_revision", "mod_revision", "value")[query.sort_target]
        filtered = any(bound for _, least, most in bounds for bound in (least, most))
        if query.limit > 0 and not query.sort_order and target != "key" and not filtered:
            inside = inside[: query.limit + 1]
        if query.sort_order or target != "key":
            inside = sorted(inside, key=lambda p: getattr(p, target), reverse=query.sort_order == 2)
        more = 0 < query.limit < len(inside)
        chosen = inside[: query.limit] if query.limit > 0 else inside
        kvs = []
        for pair in chosen:
            shown = KeyValue()
            shown.CopyFrom(pair)
            if query.keys_only:
                shown.value = b""
            kvs.append(shown.SerializeToString())
        return Found(self.current, kvs, count, more)

    # --- transactions

    def txn(self, txn: Txn) -> TxnDone | Fault:
        before = self.now
        fault = next((f for put in (True, False) for f in self.faults(txn, before, put)), None)
        if fault is not None:
            return fault
        succeeded, responses = self.run(txn, before)
        return TxnDone(self.current, succeeded, responses)

    def holds(self, txn: Txn, before: Keys) -> bool:
        return all(judge(compare, before) for compare in txn.compares)

    def branch(self, txn: Txn, before: Keys) -> tuple[Operation, ...]:
        return txn.success if self.holds(txn, before) else txn.failure

    def faults(self, txn: Txn, before: Keys, puts: bool) -> list[Fault]:
        found: list[Fault | None] = []
        for operation in self.branch(txn, before):
            if isinstance(operation, Txn):
                found += self.faults(operation, before, puts)
            if isinstance(operation, Put) and puts:
                if (operation.ignore_value or operation.ignore_lease) and operation.key not in before:
                    found.append(refusal(Reason.KEY_NOT_FOUND))
                elif operation.lease and operation.lease not in self.leases:
                    found.append(refusal(Reason.LEASE_NOT_FOUND))
            if isinstance(operation, Range) and not puts:
                found.append(self.check_revision(operation.revision))
        return [fault for fault in found if fault is not None]

    def run(self, txn: Txn, before: Keys) -> tuple[bool, list[PutDone | Deleted | Found | Later | TxnDone]]:
        responses: list[PutDone | Deleted | Found | Later | TxnDone] = []
        for operation in self.branch(txn, before):
            match operation:
                case Put():
                    responses.append(self.put(operation))
                case DeleteRange():
                    responses.append(self.delete_range(operation))
                case Range():
                    responses.append(self.range(operation))
                case Txn():
                    responses.append(TxnDone(Revision(0), *self.run(operation, before)))
        return self.holds(txn, before), responses

    # --- history

    def history(
        self, start: int, key: bytes, range_end: bytes
    ) -> list[tuple[int, bytes, bytes, bytes | None]]:
        found: list[Told] = []
        current: Keys = {}
        for change in self.written:
            old = current.get(change.key)
            readable = old is not None and change.revision > self.compacted
            if change.revision >= start and contains(key, range_end, change.key):
                pair = change.pair or KeyValue(key=change.key, mod_revision=change.revision)
                found.append(
                    (
                        change.revision,
                        change.key,
                        pair.SerializeToString(),
                        old.SerializeToString() if old is not None and readable else None,
                    )
                )
            if change.pair is None:
                del current[change.key]
            else:
                current[change.key] = change.pair
        return found

    def hash_kv(self, revision: int) -> int:
        checksum = google_crc32c.extend(0, b"key")
        last = revision if revision > 0 else self.revision
        number = 0
        for place, change in enumerate(self.written):
            same = place > 0 and self.written[place - 1].revision == change.revision
            number = number + 1 if same else 0
            if change.revision > last:
                continue
            later = self.written[place + 1 :]
            replaced = any(c.key == change.key and c.revision <= last for c in later)
            if change.revision <= self.compacted and (change.pair is None or replaced):
                continue
            name = change.revision.to_bytes(8, "big") + b"_" + number.to_bytes(8, "big")
            name += b"t" if change.pair is None else b""
            pair = change.pair or KeyValue(key=change.key)
            checksum = google_crc32c.extend(checksum, name)
            checksum = google_crc32c.extend(checksum, pair.SerializeToString())
        return int(checksum)


def judge(compare: Compare, before: Keys) -> bool:
    inside = [pair for key, pair in before.items() if contains(compare.key, compare.range_end, key)]
    if compare.target == 3:
        return bool(inside) and all(judge_one(compare.result, p.value, compare.value) for p in inside)
    name = {0: "version", 1: "create_revision", 2: "mod_revision", 4: "lease"}[compare.target]
    numbers = [getattr(pair, name) for pair in inside] or [0]
    return all(judge_one(compare.result, number, compare.number) for number in numbers)


def judge_one(result: int, left: int | bytes, right: int | bytes) -> bool:
    order = (left > right) - (left < right)  # type: ignore[operator]  # both numbers or both bytes
    return {0: order == 0, 1: order > 0, 2: order < 0, 3: order != 0}[result]


def grows(command: V3Command) -> bool:
    if isinstance(command, Txn):
        return any(grows(operation) for operation in (*command.success, *command.failure))
    return isinstance(command, Put | LeaseGrant)
