"""The v3 store: keys, leases and alarms, with a method for each command of the v3 API, which first checks
whether an alarm blocks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from netstore import errors
from netstore.errors import Fault, Reason, refusal
from netstore.state import tables
from netstore.state.applying import COMMAND_UNITS, NODE_UNITS, UNIT_BYTES
from netstore.state.v3 import txn
from netstore.state.v3.alarm import Alarms, alarm_key
from netstore.state.v3.commands import (
    AlarmChanged,
    Compact,
    DeleteRange,
    Done,
    LeaseCheckpoint,
    LeaseExpire,
    LeaseGrant,
    LeaseGranted,
    LeaseRenew,
    LeaseRevoke,
    Put,
    PutDone,
    Range,
    SetAlarm,
    Txn,
    TxnDone,
    V3Command,
    V3Outcome,
)
from netstore.state.v3.lease import Lease, Leases, StoredLeases, lease_key, load_leases
from netstore.state.v3.mvcc import NEVER, Mvcc
from netstore.types import LeaseId, NodeId, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from netstore.limits import Budget
    from netstore.seams import Engine
    from netstore.state.applying import Applying
    from netstore.state.checksum import RunningChecksum
    from netstore.state.v3.savedkeys import SavedKeys

Outcome: TypeAlias = V3Outcome

Work: TypeAlias = "Generator[int, None, Outcome]"
"""A command that is carried out in pieces (`txn`); after each it yields the units of work done."""

MOST_AWAIT_SWEEP: Final = 1_000
"""How many requests may wait for the end of compactions, which an open read can delay."""


class V3Scalars(msgspec.Struct, array_like=True, frozen=True):
    """The revisions of the v3 keys (`Mvcc.revision`, `compacted`, `swept`), and the checksum of everything
    that was applied (`checksum.RunningChecksum`), for both stores.
    """

    revision: Revision
    compacted: Revision
    swept: Revision
    checksum: int


NEW_V3: Final = V3Scalars(Revision(1), NEVER, NEVER, 0)
"""The scalars of an empty store."""


class V3Store:
    """The keys, the leases and the alarms, with a method for each command (`handlers`)."""

    def __init__(
        self, engine: Engine, checksum: RunningChecksum, applying: Applying, reads: Budget | None = None
    ) -> None:
        """`reads` is what reads of the keys in steps may hold."""
        self._engine = engine
        self._checksum = checksum
        self._applying = applying
        self.leases = Leases()
        self.mvcc = Mvcc(engine, self.leases.move, reads)
        self.mvcc.checksum = checksum
        self.alarms = Alarms()
        self.loaded = 0
        """Leases read since `load_steps` began."""
        self.txns = 0
        """Transactions carried out since the start, also those that only read."""
        self._scalars = NEW_V3
        self._alarms_touched: set[tuple[NodeId, int]] = set()
        self._await_sweep: list[tuple[Revision, Callable[[Fault | None], None]]] = []

    def handlers(self) -> dict[type, Callable[..., Outcome | Work]]:
        """The method for each command."""
        return {
            Put: self.put,
            DeleteRange: self.delete_range,
            Range: self.range,
            Txn: self.txn,
            Compact: self.compact,
            LeaseGrant: self.lease_grant,
            LeaseRevoke: self.lease_revoke,
            LeaseRenew: self.lease_renew,
            LeaseExpire: self.lease_expire,
            LeaseCheckpoint: self.lease_checkpoint,
            SetAlarm: self.set_alarm,
        }

    # --- loading, saving, compaction

    def load_steps(self, *, whole: bool, saved: SavedKeys | None = None) -> Iterator[None]:
        """Replace the state by what the engine holds, in bounded steps. `saved` is an index that was saved
        for this state.
        """
        leases = StoredLeases()
        for records in load_leases(self._engine, whole=whole):
            leases.add(records)
            self.loaded += len(records)
            yield
        yield from self._load_keys(leases, whole=whole, saved=saved)

    def _load_keys(self, leases: StoredLeases, *, whole: bool, saved: SavedKeys | None) -> Iterator[None]:
        engine = self._engine
        scalars = NEW_V3
        for stored in tables.load_all(engine, tables.V3_STATE, V3Scalars):
            scalars = stored
        self._scalars = scalars
        self._checksum.value = scalars.checksum
        yield from self.leases.restore(leases)
        yield from self.mvcc.load_steps(
            scalars.revision, scalars.compacted, scalars.swept, whole=whole, saved=saved
        )
        self.alarms.restore(tables.load_all(engine, tables.ALARMS, tuple[NodeId, int]))
        self._alarms_touched = set()

    def save(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        """Add the records that changed since the last call."""
        mvcc = self.mvcc
        changes.update(mvcc.take_records())
        mvcc.origins.save(changes)
        for lease, record in self.leases.take_changes().items():
            changes[tables.LEASES, lease_key(lease)] = None if record is None else tables.encode(record)
        for alarm in self._alarms_touched:
            stored = tables.encode(alarm) if self.alarms.raised(alarm) else None
            changes[tables.ALARMS, alarm_key(*alarm)] = stored
        self._alarms_touched.clear()
        scalars = V3Scalars(mvcc.revision, mvcc.compacted, mvcc.swept, self._checksum.value)
        if scalars != self._scalars:
            changes[tables.V3_STATE, tables.STATE_KEY] = tables.encode(scalars)
            self._scalars = scalars

    def when_swept(self, revision: Revision, done: Callable[[Fault | None], None]) -> None:
        """Call `done(None)` when the erasing after a compaction to `revision` is finished (v3 API, Compact,
        physical): from a later `tell_swept`, or now. It gets a Fault now if `MOST_AWAIT_SWEEP` wait.
        """
        if self._is_swept(revision):
            done(None)
        elif len(self._await_sweep) >= MOST_AWAIT_SWEEP:
            done(errors.too_many())
        else:
            self._await_sweep.append((revision, done))

    def tell_swept(self) -> None:
        """Call those of `when_swept` whose revision was reached by sweeping or loading."""
        if not self._await_sweep:
            return
        waiting, self._await_sweep = self._await_sweep, []
        for revision, done in waiting:
            if self._is_swept(revision):
                done(None)
            else:
                self._await_sweep.append((revision, done))

    def _is_swept(self, revision: Revision) -> bool:
        return self.mvcc.swept >= min(revision, self.mvcc.compacted)

    # --- commands

    def put(self, command: Put) -> Outcome:
        """Carry out a Put."""
        alarms = self.alarms
        if alarms.nospace or alarms.corrupt:
            fault = alarms.refuse(command)
            if fault is not None:
                return fault
        mvcc = self.mvcc
        if not (command.lease or command.prev_kv or command.ignore_value or command.ignore_lease):
            mvcc.put(command.key, command.value, 0)
            return PutDone(mvcc.finish())
        if command.ignore_value:
            self._applying.worked += mvcc.size_of(command.key) // UNIT_BYTES
        return txn.put(mvcc, self.leases, command)

    def delete_range(self, command: DeleteRange) -> Outcome | Work:
        """Carry out a DeleteRange, in pieces unless it names a single key."""
        fault = self._shut(command)
        if fault is not None:
            return fault
        if not command.range_end:
            return txn.delete_one(self.mvcc, command)
        return txn.delete_range_steps(self.mvcc, command)

    def range(self, command: Range) -> Outcome:
        """Carry out a Range: the outcome is a bound to read at (`txn.range_later`)."""
        return self._shut(command) or txn.range_later(self.mvcc, command)

    def txn(self, command: Txn) -> Outcome | Work:
        """Carry out a Txn, in pieces unless it is short."""
        self.txns += 1
        done = self._shut(command) or txn.execute_short(self.mvcc, self.leases, command)
        if done is None:
            return txn.execute_steps(self.mvcc, self.leases, command)
        if type(done) is TxnDone:
            self._applying.worked += txn.WRITE_UNITS * len(done.responses)
        return done

    def read_txn(self, command: Txn) -> TxnDone | Fault:
        """Answer a transaction that only reads (`txn.is_read`), not through the log. Adds to
        `Mvcc.read_units`.
        """
        if not txn.is_read(command):
            raise ValueError("a transaction that may write goes through the log")
        self.txns += 1
        fault = self._shut(command) or self.mvcc.check_revision(0)
        if fault is not None:
            return fault
        self.mvcc.read_units += txn.read_units(self.mvcc, command)
        return txn.execute(self.mvcc, self.leases, command)

    def compact(self, command: Compact) -> Outcome:
        """Carry out a Compact."""
        fault = self._shut(command) or self.mvcc.compact(command.revision)
        return Done(self.mvcc.revision) if fault is None else fault

    def lease_grant(self, command: LeaseGrant) -> Outcome:
        """Carry out a LeaseGrant."""
        lease = self._shut(command) or self.leases.grant(command.id, command.ttl, self._applying.index)
        return lease if isinstance(lease, Fault) else LeaseGranted(self.mvcc.revision, lease.id, lease.ttl)

    def lease_renew(self, command: LeaseRenew) -> Outcome:
        """Carry out a LeaseRenew."""
        lease = self._shut(command) or self.leases.renew(command.id, self._applying.index)
        return lease if isinstance(lease, Fault) else LeaseGranted(self.mvcc.revision, lease.id, lease.ttl)

    def lease_revoke(self, command: LeaseRevoke) -> Outcome | Work:
        """Carry out a LeaseRevoke in pieces."""
        fault = self._shut(command)
        if fault is not None:
            return fault
        lease = self.leases.get(command.id)
        if lease is None:
            return refusal(Reason.LEASE_NOT_FOUND)
        self.leases.revoked += 1
        return self._end_leases([lease])

    def lease_expire(self, command: LeaseExpire) -> Outcome | Work:
        """Carry out a LeaseExpire in pieces."""
        fault = self._shut(command)
        if fault is not None:
            return fault
        overdue = (self.leases.at(id_, since) for id_, since in command.leases)
        return self._end_leases(self.leases.counted(overdue))

    def _end_leases(self, leases: Iterable[Lease]) -> Work:
        ended: dict[LeaseId, Lease] = {}
        for lease in leases:
            if lease.id not in ended:
                ended[lease.id] = lease
                yield COMMAND_UNITS
                yield from txn.end_lease_steps(self.mvcc, lease.all_keys())
        for lease in ended.values():
            self.leases.remove(lease)
        return Done(self.mvcc.finish())

    def lease_checkpoint(self, command: LeaseCheckpoint) -> Outcome:
        """Carry out a LeaseCheckpoint."""
        fault = self._shut(command)
        if fault is not None:
            return fault
        self._applying.worked += NODE_UNITS * len(command.leases)
        for id_, since, remaining in command.leases:
            lease = self.leases.at(id_, since)
            if lease is not None:
                self.leases.checkpoint(lease, remaining)
        return Done(self.mvcc.revision)

    def set_alarm(self, command: SetAlarm) -> Outcome:
        """Carry out a SetAlarm."""
        changed = self.alarms.set(command)
        self._alarms_touched.update(changed)
        return AlarmChanged(self.mvcc.revision, changed)

    def _shut(self, command: V3Command) -> Fault | None:
        alarms = self.alarms
        return alarms.refuse(command) if alarms.nospace or alarms.corrupt else None
