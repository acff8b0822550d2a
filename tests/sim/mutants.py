"""Known bugs, put back one at a time into the real classes: a simulator that misses them proves nothing.

They come from the literature (a vote before its sync, an entry of an old term committed by counting), from
the histories of other stores (the applied index saved apart from the data: etcd 3.5; a failed sync taken for
a success: PostgreSQL before 2018), and from this one: what simulation found here once is found again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import pytest
from msgspec import structs

from netstore.disk import diagnose as diagnosis
from netstore.disk import frame
from netstore.disk.diagnose import CutTail, Position, segment_name
from netstore.disk.frame import Flaw, Frame, Place
from netstore.disk.wal import Wal
from netstore.node.driver import Driver, LogBatch
from netstore.node.host import Host
from netstore.node.lessor import Lessor
from netstore.node.logwriter import DiskFailed, LogWriter, SnapshotMark
from netstore.node.member import OWN
from netstore.node.membership import MembershipChanges
from netstore.node.proposals import Proposals
from netstore.peer.join import JoinService
from netstore.raft import (
    commit,
    confchange,
    core,
    election,
    quorum,
    readindex,
    replication,
    sending,
    snapshotting,
)
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.log import Log
from netstore.raft.messages import Append, AppendAccepted, Forward, Heartbeat, VoteAnswer, VoteRequest
from netstore.raft.status import Role
from netstore.seams import SyncFailed
from netstore.state import members
from netstore.state.commands import encode
from netstore.state.countdown import Countdown
from netstore.state.machine import APPLY_UNITS, Machine
from netstore.state.members import Roster, to_vote
from netstore.state.v2.commands import ExpireNodes
from netstore.state.v2.history import History
from netstore.state.v2.nodes import parent_of
from netstore.state.v2.tree import Tree
from netstore.state.v3 import txn
from netstore.state.v3.commands import Deleted
from netstore.state.v3.lease import Leases
from netstore.state.v3.mvcc import Mvcc
from netstore.state.v3.store import V3Store
from netstore.types import NodeId
from netstore.watch.hub import Hub
from netstore.watch.streams import Watch
from netstore.watch.watches import Watches
from tests.sim import plan as plans
from tests.sim.disk import QUICK, SimDevice
from tests.sim.world import World
from tests.support.contents import nodes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from netstore.disk.diagnose import Segment
    from netstore.errors import Fault
    from netstore.peer.wire import JoinRequest, MemberList
    from netstore.raft.entry import Entry, HardState
    from netstore.raft.messages import Message
    from netstore.raft.ready import Ready
    from netstore.state.v3.commands import DeleteRange, Range
    from netstore.state.v3.lease import Lease
    from netstore.types import Event, Index, NodeView
    from netstore.watch.hub import Watcher
    from tests.sim.plan import Plan

    Put = Callable[[pytest.MonkeyPatch], None]

SEEDS: Final = 200
"""Within so many seeds, from 0 on, each must be found."""


@dataclass(slots=True, frozen=True)
class Mutant:
    """A bug, and the kind of run that brings it out."""

    name: str
    put: Put
    profile: Callable[[Plan], None]
    hint: int = 0
    """A seed known to find it, tried first."""


# --- kinds of runs


def _anything(plan: Plan) -> None:
    """As the seed drew it."""


def _steady(plan: Plan, *faults: str, size: int = 3, rate: float = 0.6) -> None:
    """A busy cluster of this size with these faults, often, and no others."""
    plan.size = size
    plan.duration = 6.0
    plan.tick, plan.election_ticks = 0.05, 4
    plan.faults = dict.fromkeys(faults, rate)
    plan.outage = False
    plan.burst = 0
    plan.clients, plan.think, plan.patience, plan.pair_clients = 4, 0.03, 2.0, 0
    plan.piecewise = False
    plan.pair_watchers = plan.lease_clients = plan.joiners = plan.hostile = 0
    plan.pair_ranges = plan.lies = 0.0
    plan.upgrades = False
    plan.sticky = 0.5
    plan.skew = plan.drift = plan.no_battery = 0.0
    plan.snapshot_count, plan.catch_up_entries, plan.log_bytes = 10_000, 5_000, 0
    plan.max_append_bytes, plan.max_inflight = 1024 * 1024, 64
    plan.disk_latency = 0.001


def _crashes(plan: Plan) -> None:
    """Power that goes while a slow disk writes."""
    _steady(plan, "crash", "plug", "fuse", "isolate", "transfer")
    plan.disk_latency = 0.02


def _lone(plan: Plan) -> None:
    """Lone writes over quick disks, and power that goes meanwhile."""
    _steady(plan, "crash", "plug", "power", rate=1.5)
    plan.disk_latency, plan.clients, plan.think, plan.outage = QUICK / 2, 2, 0.005, True


def _power(plan: Plan) -> None:
    """Several machines at a time."""
    _steady(plan, "power", "plug", "fuse")
    plan.disk_latency = 0.02
    plan.outage = True


def _partings(plan: Plan) -> None:
    """A network that parts, five members."""
    _steady(plan, "partition", "isolate", "clog", "pause", size=5, rate=0.8)


def _lossy(plan: Plan) -> None:
    """A network without order that repeats and loses."""
    _steady(plan, "isolate", "clog", "transfer")
    plan.loss, plan.repeat, plan.in_order = 0.05, 0.3, False
    plan.max_inflight = 8


def _changes(plan: Plan) -> None:
    """Members come and go."""
    _steady(plan, "membership", "isolate", "crash", rate=1.0)
    plan.catch_up_entries, plan.snapshot_count, plan.chores = 2, 5, 0.1


def _copies(plan: Plan) -> None:
    """Logs so short that whoever was away needs a copy."""
    _steady(plan, "isolate", "crash", "slow", "full", "pause", rate=0.8)
    plan.catch_up_entries, plan.snapshot_count, plan.chores = 0, 1, 0.1
    plan.watchers, plan.copy_cut = 4, 0.0
    plan.segment_bytes = 1024


def _pairs(plan: Plan) -> None:
    """Two members of which one goes."""
    _changes(plan)
    plan.size = 2
    plan.duration = 8.0
    plan.faults = {"membership": 4.0, "partition": 1.5, "isolate": 1.5}


def _pair_copies(plan: Plan) -> None:
    """The same, with v3 clients."""
    _copies(plan)
    plan.pair_clients = 3


def _pairs_only(plan: Plan) -> None:
    """A calm cluster with v3 clients."""
    _steady(plan, "transfer")
    plan.pair_clients = 4


def _pieces(plan: Plan) -> None:
    """All keys are deleted again and again, a turn for each key, while machines crash."""
    _steady(plan, "crash", "plug", "transfer")
    plan.clients, plan.pair_clients, plan.pair_ranges, plan.piecewise = 1, 6, 0.3, True
    plan.think, plan.turn_delay, plan.commit_interval = 0.01, 0.05, 0.001
    plan.faults["crash"] = plan.faults["fuse"] = 2.0


def _pieces_of_tree(plan: Plan) -> None:
    """Directories are filled, listed and removed again and again, a turn for each node, while machines
    crash.
    """
    _pieces(plan)
    plan.clients, plan.pair_clients, plan.mix = 12, 0, {"tree": 8, "prune": 3, "list": 3}


def _lied_to(plan: Plan) -> None:
    """A calm cluster in which terms are spoken of that cannot be."""
    _steady(plan, "transfer")
    plan.lies = 0.01


def _upgraded(plan: Plan) -> None:
    """Members become a later release one by one."""
    _steady(plan, "transfer", "isolate")
    plans.upgrade(plan)


def _full(plan: Plan) -> None:
    """Disks that are full for a while."""
    _steady(plan, "full", "crash", rate=1.0)


def _short(plan: Plan) -> None:
    """The same with short files, marks all the time, and power that goes."""
    _steady(plan, "power", "plug", "crash", rate=0.6)
    plan.faults["full"] = 5.0
    plan.segment_bytes, plan.snapshot_count, plan.catch_up_entries, plan.chores = 1024, 1, 2, 0.1


def _short_and_slow(plan: Plan) -> None:
    """The same where marks and batches wait for the disk together."""
    _short(plan)
    plan.faults["full"] = 10.0
    plan.chores, plan.catch_up_entries, plan.disk_latency = 0.01, 0, 0.03
    plan.clients, plan.think = 12, 0.02


def _broken(plan: Plan) -> None:
    """Disks that fail to sync."""
    _steady(plan, "sync", "crash", rate=1.0)


def _rotten(plan: Plan) -> None:
    """Disks whose bits flip."""
    _steady(plan, "rot", "misdirect", rate=1.0)
    plan.segment_bytes = 1024 * 1024


def _torn(plan: Plan) -> None:
    """Large writes cut short."""
    _steady(plan, "plug", "crash", rate=1.0)
    plan.disk_latency, plan.value_bytes = 0.01, 2_500


def _watched(plan: Plan) -> None:
    """Many watchers that come back often."""
    _steady(plan, "crash", "restart")
    plan.watchers = 6
    plan.mix = {"set": 4, "get": 1, "tree": 2, "delete": 1}


def _bursts(plan: Plan) -> None:
    """More changes at once than the window holds."""
    _watched(plan)
    plan.faults, plan.burst = {"transfer": 0.2}, 1_050


def _leases(plan: Plan) -> None:
    """Nodes that expire while leaders change."""
    _steady(plan, "transfer", "isolate")
    plan.mix = {"set": 1, "lease": 6, "refresh": 2, "get": 1}


def _wall_jumps(plan: Plan) -> None:
    """Nodes with a TTL while wall clocks jump."""
    _leases(plan)
    plan.faults["jump"] = 2.0


def _pair_leases(plan: Plan) -> None:
    """Many v3 leases, renewed at the last moment over slow disks."""
    _steady(plan, "transfer", "isolate")
    plan.clients, plan.lease_clients = 1, 12
    plan.disk_latency = 0.05


def _pair_watched(plan: Plan) -> None:
    """Many v3 watches that begin in the past."""
    _pairs_only(plan)
    plan.pair_watchers = 4


def _pair_watched_copies(plan: Plan) -> None:
    """The same while states are replaced by copies."""
    _pair_copies(plan)
    plan.pair_watchers = 6


def _joining(plan: Plan) -> None:
    """Nine programs that join one member at the same instant."""
    _steady(plan, "isolate", "crash", "transfer", size=1, rate=0.3)
    plan.duration = 4.0
    plan.joiners, plan.wish, plan.join_spread, plan.join_operations = 9, 3, 0.0, 0


def _thieves(plan: Plan) -> None:
    """Programs that ask for the places of others."""
    _joining(plan)
    plan.size, plan.joiners, plan.join_spread, plan.join_operations = 3, 2, 1.0, 20


def _hostile(plan: Plan) -> None:
    """Clients that send what no honest one does."""
    _steady(plan, "crash", "transfer", rate=0.3)
    plan.hostile, plan.think = 6, 0.015


def _no_battery(plan: Plan) -> None:
    """Machines that forget the time."""
    _steady(plan, "crash", "power", "isolate", rate=1.0)
    plan.no_battery = 1.0
    plan.disk_latency = 0.02


def _reads(plan: Plan) -> None:
    """Reads at a read index, on both sides of a network that parts."""
    _partings(plan)
    plan.mix = {"set": 2, "get": 8}
    plan.keys = 1


def _new_leaders(plan: Plan) -> None:
    """Reads at leaders that have just been elected, over slow disks."""
    _steady(plan, "crash", "transfer", rate=1.5)
    plan.mix = {"set": 3, "get": 8}
    plan.keys, plan.think, plan.disk_latency = 1, 0.005, 0.05


# --- how a bug is put


def _set(owner: object, name: str, wrong: object) -> Put:
    return lambda patch: patch.setattr(owner, name, wrong)


def _answer(kind: type, wrong: Callable[[Raft, Any], None]) -> Put:
    def put(patch: pytest.MonkeyPatch) -> None:
        for handlers in core.HANDLERS.values():
            patch.setitem(handlers, kind, wrong)

    return put


# --- the bugs: what must wait for the disk


def _vote_before_sync(raft: Raft, message: VoteRequest) -> None:
    granted = election._can_vote_for(raft, message.sender) and election._is_up_to_date(raft, message)
    if granted:
        raft.vote = message.sender
    raft.messages.append(VoteAnswer(raft.id, message.sender, raft.term, granted))


def _accepted_before_sync(raft: Raft) -> None:
    if raft.accepted is not None:
        raft.messages.append(AppendAccepted(raft.id, raft.leader, raft.term, raft.accepted))
        raft.accepted = None


def _nothing_waits(raft: Raft, take: Callable[[Raft], Ready] = Raft.take_ready) -> Ready:
    ready = take(raft)
    ready.messages, ready.after_sync = [*ready.messages, *ready.after_sync], []
    return ready


def _reported_at_once(writer: LogWriter, record: LogBatch | SnapshotMark, *, held: bool = False) -> bool:
    writer.handed_over += 1
    if isinstance(record, LogBatch):
        writer._wal.append(record.hard_state, record.entries, _nobody, held=held)
        writer._synced(None)
    else:
        writer._wal.mark(record.meta, writer._synced)
    return True


def _lone_sync_counts_at_once(writer: LogWriter, record: LogBatch) -> None:
    writer.records.append(record)
    writer._wal.append(record.hard_state, record.entries, _nobody)
    writer.handed_over += 1
    writer._synced(None)


def _failed_sync_is_success(
    writer: LogWriter,
    failure: OSError | None,
    synced: Callable[[LogWriter, OSError | None], None] = LogWriter._synced,
) -> None:
    synced(writer, None if isinstance(failure, SyncFailed) else failure)


def _forgets_what_found_no_room(host: Host) -> None:
    writer = host._writer
    if host.space.log_error is not None and not writer.handed_over:
        host.space.log_error = None
        for record in list(writer.records):
            if isinstance(record, LogBatch):
                writer.records.popleft()
                host._driver.synced()
        host._wake()


# --- the log


def _commits_old_terms(raft: Raft) -> None:
    index = quorum.reached(raft.conf, raft.match_at)
    if raft.log.commit_to(index):
        raft.send_due = True
        commit._settle(raft)


def _matches_anything(log: Log, index: int, term: int) -> bool:
    return log.compacted <= index <= log.last


def _always_cuts(log: Log, entries: Sequence[Entry]) -> Index | None:
    if not entries:
        return None
    if entries[0].index <= log.last:
        log._truncate(entries[0].index)
    log.append(entries)
    return entries[0].index


def _vouches_for_all(driver: Driver, synced: Callable[[Driver], None] = Driver.synced) -> None:
    newest = next((batch.last for batch in reversed(driver._in_flight) if batch.last is not None), None)
    synced(driver)
    if newest is not None:
        driver.raft.persisted(*newest)


def _commits_whatever_is_there(raft: Raft, message: Append) -> None:
    replication.handle_append(raft, message)
    raft.log.commit_to(min(message.commit, raft.log.last))


def _hands_out_uncommitted(log: Log) -> list[Entry]:
    entries = log.between(log.applying + 1, log.persisted) if log.persisted > log.applying else []
    if entries:
        log.commit = max(log.commit, log.persisted)
        log.applying = log.persisted
    return entries


def _tells_all_of_the_commit(raft: Raft) -> None:
    for peer in raft.progress:
        raft.send(Heartbeat(raft.id, peer, raft.term, raft.log.commit, raft.reads.round))


def _applies_under_a_copy(raft: Raft, take: Callable[[Raft], Ready] = Raft.take_ready) -> Ready:
    installing, raft.installing = raft.installing, None
    ready = take(raft)
    raft.installing = installing
    return ready


def _takes_forwards_of_old_terms(
    raft: Raft, message: Message, admit: Callable[[Raft, Message], bool] = election.admit
) -> bool:
    return admit(raft, message) or isinstance(message, Forward)


def _proposes_twice(raft: Raft, message: Forward) -> None:
    for _ in range(2):
        replication.propose(raft, message.payloads)


# --- elections


def _no_pre_vote(raft: Raft, *, forced: bool = False) -> None:
    if raft.role is not Role.LEADER and election.may_campaign(raft):
        election._start_election(raft, forced=forced)


def _leads_alone(raft: Raft) -> None:
    raft.heartbeat_elapsed += 1
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        sending.send_heartbeats(raft)


def _leader_ignores_later_terms(
    raft: Raft, message: Message, admit: Callable[[Raft, Message], bool] = election._admit_later
) -> bool:
    return False if raft.role is Role.LEADER else admit(raft, message)


# --- configurations


def _incoming_majority_only(conf: ConfState, value_of: Callable[[int], int]) -> int:
    return quorum._reached_by(conf.voters, value_of)


def _incoming_votes_only(conf: ConfState, votes: Mapping[Any, bool]) -> quorum.Verdict:
    return quorum._tally_of(conf.voters, votes)


def _learners_count(conf: ConfState, value_of: Callable[[int], int]) -> int:
    return quorum._reached_by((*conf.voters, *conf.learners), value_of)


def _meta_without_learners(raft: Raft, index: Index) -> SnapshotMeta:
    conf = confchange.conf_at(raft, index)
    return SnapshotMeta(index, raft.log.term(index), ConfState(voters=conf.voters))


# --- reads


def _reads_without_round(raft: Raft) -> None:
    rounds = raft.reads.rounds
    while rounds:
        done = rounds.popleft()
        raft.reads.count -= len(done.reads)
        raft.reads_done.extend((token, done.index) for peer, token in done.reads if not peer)


def _reads_before_own_commit(raft: Raft) -> bool:
    return bool(raft.reads.waiting) and raft.role is Role.LEADER


# --- the disk


def _loads_no_pairs(store: V3Store, leases: object, *, whole: bool, saved: object) -> Iterator[None]:
    """What a copy holds of the v3 keys is left where it is."""
    return iter(())


def _cut_tail(segment: Segment, seed: int, cut_at: int, flaw_at: int, flaw: Flaw) -> CutTail:
    return CutTail(segment.name, cut_at, len(segment.data) - cut_at, "taken for a torn write")


def _always_cuts_tail(patch: pytest.MonkeyPatch) -> None:
    """Neither the records behind it nor the notes of what was synced speak against it."""
    patch.setattr(diagnosis, "_judge", _cut_tail)
    patch.setattr(Position, "decode", lambda _note, _identity: None)


def _believes_payloads(data: bytes, seed: int, place: Place) -> Frame | Flaw:
    found = frame.read_frame(data, seed, place)
    if found is Flaw.TORN:
        at = frame._aligned(place.at)
        head = data[at : at + frame.HEAD_BYTES]
        if len(head) == frame.HEAD_BYTES and head[-1]:
            check, _, length, synced, mask, kind, _ = frame._HEAD.unpack(head)
            start = at + frame.HEAD_BYTES
            payload = data[start : start + length].ljust(length, b"\0").translate(frame._mask_table(mask))
            after = Place(start + length, check)
            return Frame(place.at, kind & ~frame._MORE, bool(kind & frame._MORE), payload, synced, after)
    return found


def _drops_all_but_one(wal: Wal, index: Index) -> None:
    while wal._closed:
        wal._device.remove(segment_name(wal._closed.popleft().segment))


def _mark_overtakes(
    writer: LogWriter,
    record: LogBatch | SnapshotMark,
    write: Callable[[LogWriter, LogBatch | SnapshotMark], None] = LogWriter.write,
) -> None:
    if isinstance(record, LogBatch) or not record.replaces:
        write(writer, record)
        return

    def marked(failure: OSError | None) -> None:
        if failure is not None:
            writer._fail(DiskFailed(str(failure)))
        else:
            record.synced()

    writer._wal.mark(record.meta, marked)


def _mark_beside(
    writer: LogWriter,
    record: LogBatch | SnapshotMark,
    write: Callable[[LogWriter, LogBatch | SnapshotMark], None] = LogWriter.write,
) -> None:
    if isinstance(record, LogBatch) or record.replaces:
        write(writer, record)
        return

    def marked(failure: OSError | None) -> None:
        if failure is None:
            writer._wal.drop_before(record.meta.index)

    writer._wal.mark(record.meta, marked)


def _unguarded(put: Put) -> Put:
    """The same with a log that takes whatever it is given, whenever."""
    append, lay = Wal.append, Wal._write

    def appended(
        wal: Wal, hard_state: HardState | None, entries: Sequence[Entry], done: Any, *, held: bool
    ) -> None:
        wal._state = wal._state._replace(start=0, last=None)
        append(wal, hard_state, entries, done, held=held)

    def laid(wal: Wal, *record: Any, held: bool = False) -> None:
        wal._failing = 0
        lay(wal, *record, held=held)

    def both(patch: pytest.MonkeyPatch) -> None:
        put(patch)
        patch.setattr(Wal, "append", appended)
        patch.setattr(Wal, "_write", laid)

    return both


# --- the state


_late: WeakKeyDictionary[Machine, dict[tuple[str, bytes], bytes | None]] = WeakKeyDictionary()


class _Catcher:
    """Takes what `save` would write."""

    def __init__(self) -> None:
        self.changes: dict[tuple[str, bytes], bytes | None] = {}

    def write(self, applied: Index, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        self.changes = changes


def _index_apart(machine: Machine, save: Callable[[Machine], None] = Machine.save) -> None:
    engine, catcher = machine._engine, _Catcher()
    machine._engine = catcher  # type: ignore[assignment] # for one call
    save(machine)
    machine._engine = engine
    engine.write(machine.applied, _late.get(machine, {}))
    _late[machine] = catcher.changes


def _loads_no_members(machine: Machine, load: Callable[[Machine], None] = Machine.load) -> None:
    load(machine)
    machine.roster.by_id = {}


def _swaps_whatever_is_there(
    tree: Tree, path: bytes, prev_value: bytes, prev_index: int, find: Any = Tree._expected
) -> Any:
    return find(tree, path, b"", 0)


def _window_skips_one(
    history: History, path: bytes, recursive: bool, since: int, scan: Any = History.scan
) -> Any:
    return scan(history, path, recursive, since + 1 if since <= history.last else since)


def _window_forgets(
    history: History, path: bytes, recursive: bool, since: int, scan: Any = History.scan
) -> Any:
    return scan(history, path, recursive, max(since, history.first))


def _watch_from_before(hub: Hub, *asked: Any, watch: Any = Hub.watch) -> Watcher:
    path, recursive, stream, _, deliver = asked
    return watch(hub, path, recursive, stream, 0, deliver)  # type: ignore[no-any-return] # the real one


def _published_twice(hub: Hub, *events: Event, publish: Callable[..., None] = Hub.publish) -> None:
    publish(hub, *events)
    publish(hub, *events)


def _no_interrupt(hub: Hub) -> None:
    """A copy that took the state's place is no reason to tell anyone."""


def _progress_before_events(watch: Watch, now: int) -> bool:
    return True


def _no_replacement(watches: Watches) -> None:
    """The watches stand where they stood."""


def _digest_begins_anew(machine: Machine, load: Callable[[Machine], None] = Machine.load) -> None:
    load(machine)
    machine.checksum.value = 0


def _limit_overflows(store: V3Store, command: Range, range_: Any = V3Store.range) -> Any:
    if command.limit >= sys.maxsize:
        raise ValueError("one more than that is no place in a list")
    return range_(store, command)


def _ends_each_piece(mvcc: Mvcc, command: DeleteRange) -> Iterator[int]:
    """What is deleted is there for all to see after each piece."""
    steps = mvcc.delete_steps(command.key, command.range_end)
    while True:
        try:
            worked = next(steps)
        except StopIteration as end:
            return Deleted(mvcc.finish(), end.value, [])  # type: ignore[return-value] # a generator's own
        mvcc.finish()
        yield worked


def _reads_what_is_half_done(mvcc: Mvcc, query: Range, bound: int = 0, range_: Any = Mvcc.range) -> Any:
    return range_(mvcc, query, bound or mvcc.bound)


def _in_sight_until_cleared(patch: pytest.MonkeyPatch) -> None:
    """A directory leaves its parent when all that it held is gone, not before."""
    remove, clear = Tree._remove, Tree.clear

    def removed(tree: Tree, action: str, old: NodeView) -> Event:
        event = remove(tree, action, old)
        if tree.clearing:
            tree._cleared = b""
            tree._nodes[old.key] = old
            tree._children[parent_of(old.key)][old.key] = None
        return event

    def cleared(tree: Tree, most: int | None = None) -> list[bytes]:
        top = tree._emptied[0]
        gone = clear(tree, most)
        if not tree.clearing:
            del tree._nodes[top], tree._children[parent_of(top)][top]
        return gone

    patch.setattr(Tree, "_remove", removed)
    patch.setattr(Tree, "clear", cleared)


def _commits_pieces(machine: Machine) -> None:
    """What a piece has changed is durable before the rest."""
    changes = machine.mvcc.take_records()
    machine.v2.save(changes, nodes_only=True)
    machine._engine.write(machine.applied, changes)
    machine._engine.sync(_nobody)


def _digests_pieces(machine: Machine, units: int = APPLY_UNITS, go_on: Any = Machine.go_on) -> Any:
    machine.checksum.add(b"a piece")
    return go_on(machine, units)


# --- releases


def _some_know(roster: Roster) -> int:
    return max((member.level for member in roster.by_id.values()), default=0)


# --- members


def _decides_where_asked(
    cluster: MembershipChanges, urls: tuple[str, ...], *, voters: int, replaces: NodeId, done: Any
) -> None:
    learner = to_vote(cluster._host.machine.members.values()) >= voters
    cluster.add(urls, learner=learner, done=done, principal=OWN)


def _told_at_once(service: JoinService, request: JoinRequest, answer: Callable[[MemberList], None]) -> None:
    service._decide(request, answer)


def _same_identity(service: JoinService, request: JoinRequest, answer: Callable[[MemberList], None]) -> None:
    again = structs.replace(request, replaces=NodeId(0))
    added = service._added_before(again)
    if added is None:
        service._add(request, answer)
    else:
        answer(service._member_list(added))


# --- time and answers


def _expires_early(lessor: Lessor, look: Callable[[Lessor], None] = Lessor.look) -> None:
    host = lessor._nodes._member
    timed = host.machine.tree.timed
    kept = [(path, each.since) for path in timed.timed_keys() if (each := timed.get(path)) is not None]
    if host.leader == host.id and kept:
        host.propose(encode(ExpireNodes((min(kept),))), _nobody, OWN)
    look(lessor)


def _never_expires(lessor: Lessor) -> None:
    lessor._leases.look()


def _revives(countdown: Countdown[bytes], now: float, grace: float) -> None:
    """What is overdue under a new leader has all of its time again on that member alone."""
    for count in countdown._counts.values():
        count.end, count.leads = now + 3600.0, countdown._leads + 1
    countdown._leads += 1


def _expires_by_wall_time(lessor: Lessor, look: Callable[[Lessor], None] = Lessor.look) -> None:
    host = lessor._nodes._member
    tree = host.machine.tree
    due = [
        (node.key, each.since)
        for node in nodes_of(tree)
        if 0 < node.expires <= host.clock.wall() and (each := tree.timed.get(node.key)) is not None
    ]
    if host.leader == host.id and due:
        host.propose(encode(ExpireNodes(tuple(due[:100]))), _nobody, OWN)
    look(lessor)


def _expires_what_got_another_ttl(tree: Tree, path: bytes, since: int, expire: Any = Tree.expire) -> Any:
    timed = tree.timed.get(path)
    return None if timed is None else expire(tree, path, timed.since)


def _expires_what_was_renewed(leases: Leases, id_: int, since: int) -> Lease | None:
    return leases.get(id_)


def _same_ids(proposals: Proposals, origin: int, limit: float, make: Any = Proposals.__init__) -> None:
    make(proposals, 0, limit)


def _wait_is_refusal(
    proposals: Proposals, fault: Callable[[], Fault], most: int, *, expire: Any = Proposals.expire
) -> int:
    def known() -> Fault:
        told = fault()
        return type(told)(told.code, told.cause, told.index)

    return int(expire(proposals, known, most))


def _nobody(_: object) -> None:
    """Not listened to."""


MUTANTS: Final = tuple(
    Mutant(name, put, profile, hint)
    for name, put, profile, hint in (
        ("a vote leaves before its sync", _answer(VoteRequest, _vote_before_sync), _crashes, 0),
        (
            "an accepted append is told before its sync",
            _set(replication, "answer_appends", _accepted_before_sync),
            _crashes,
            0,
        ),
        ("no message waits for the disk", _set(Raft, "take_ready", _nothing_waits), _crashes, 0),
        (
            "writes are reported before their sync",
            _set(LogWriter, "_hand_over", _reported_at_once),
            _crashes,
            0,
        ),
        (
            "a lone sync counts before it is made",
            _set(LogWriter, "write_now", _lone_sync_counts_at_once),
            _lone,
            0,
        ),
        (
            "a failed sync counts as a success",
            _set(LogWriter, "_synced", _failed_sync_is_success),
            _broken,
            0,
        ),
        (
            "what found no room is forgotten",
            _set(Host, "retry_writes", _forgets_what_found_no_room),
            _full,
            0,
        ),
        ("the cut of a failed write is not synced", _set(SimDevice, "_sync_cut", _nobody), _short, 0),
        (
            "an entry of an old term is committed by counting",
            _set(commit, "advance", _commits_old_terms),
            _crashes,
            0,
        ),
        ("the check of log matching is skipped", _set(Log, "matches", _matches_anything), _partings, 74),
        ("a late append cuts what is there", _set(Log, "merge", _always_cuts), _lossy, 2),
        (
            "a sync vouches for what was written after it",
            _set(Driver, "synced", _vouches_for_all),
            _crashes,
            0,
        ),
        (
            "entries are applied before they commit",
            _set(Log, "take_committed", _hands_out_uncommitted),
            _crashes,
            0,
        ),
        (
            "a commit rides past what the follower has",
            lambda patch: patch.setitem(core.HANDLERS[Role.FOLLOWER], Append, _commits_whatever_is_there),
            _partings,
            14,
        ),
        (
            "a heartbeat commits what does not match",
            _set(sending, "send_heartbeats", _tells_all_of_the_commit),
            _partings,
            1,
        ),
        (
            "a proposal forwarded in an earlier term is taken",
            _set(election, "admit", _takes_forwards_of_old_terms),
            _partings,
            39,
        ),
        ("a forwarded proposal is appended twice", _answer(Forward, _proposes_twice), _anything, 45),
        ("two votes in a term", _set(election, "_can_vote_for", lambda _raft, _sender: True), _partings, 2),
        (
            "an incomplete log may lead",
            _set(election, "_is_up_to_date", lambda _raft, _message: True),
            _partings,
            1,
        ),
        ("half is a majority", _set(quorum, "majority", lambda size: max(1, size // 2)), _partings, 0),
        ("nobody is asked before a campaign", _set(election, "campaign", _no_pre_vote), _partings, 0),
        (
            "a vote is promised in spite of a leader",
            _set(election, "in_lease", lambda _raft: False),
            _partings,
            0,
        ),
        ("a leader alone leads on", _set(election, "tick_leader", _leads_alone), _partings, 3),
        (
            "a leader does not give way to a later term",
            _set(election, "_admit_later", _leader_ignores_later_terms),
            _partings,
            0,
        ),
        (
            "a change asks the incoming majority only",
            _set(quorum, "reached", _incoming_majority_only),
            _changes,
            3,
        ),
        (
            "an election asks the incoming voters only",
            _set(quorum, "tally", _incoming_votes_only),
            _changes,
            42,
        ),
        ("learners count for commits", _set(quorum, "reached", _learners_count), _changes, 3),
        (
            "a copy's configuration leaves out learners",
            _set(snapshotting, "meta_at", _meta_without_learners),
            _changes,
            0,
        ),
        (
            "one being removed does not campaign",
            _set(confchange, "may_be_needed", lambda raft: raft.conf.votes(raft.id)),
            _pairs,
            44,
        ),
        (
            "a read is served without a round",
            _set(readindex, "_complete_rounds", _reads_without_round),
            _reads,
            98,
        ),
        (
            "a read is served before a commit of the own term",
            _set(readindex, "can_start_round", _reads_before_own_commit),
            _new_leaders,
            3,
        ),
        ("an acknowledged tail is cut at the start", _always_cuts_tail, _rotten, 0),
        ("a torn record is accepted", _set(diagnosis, "read_frame", _believes_payloads), _torn, 3),
        (
            "segments are dropped before a mark covers them",
            _set(Wal, "drop_before", _drops_all_but_one),
            _copies,
            4,
        ),
        (
            "the mark of a copy overtakes what waits",
            _unguarded(_set(LogWriter, "write", _mark_overtakes)),
            _copies,
            246,
        ),
        (
            "what follows a mark that failed does not wait for it",
            _unguarded(_set(LogWriter, "write", _mark_beside)),
            _short_and_slow,
            4,
        ),
        ("entries are applied under a copy", _set(Raft, "take_ready", _applies_under_a_copy), _copies, 5),
        ("the applied index is saved apart from the data", _set(Machine, "save", _index_apart), _crashes, 0),
        ("a loaded state has no members", _set(Machine, "load", _loads_no_members), _changes, 0),
        ("a copy's v3 keys are not loaded", _set(V3Store, "_load_keys", _loads_no_pairs), _pair_copies, 0),
        ("a transaction does not compare", _set(txn, "_judge", lambda *_: True), _pairs_only, 0),
        ("a swap does not compare", _set(Tree, "_expected", _swaps_whatever_is_there), _anything, 0),
        ("a watch taken up misses an event", _set(History, "scan", _window_skips_one), _watched, 0),
        (
            "a watch from before the window is not told so",
            _set(History, "scan", _window_forgets),
            _bursts,
            0,
        ),
        ("a watch begins before its index", _set(Hub, "watch", _watch_from_before), _watched, 2),
        ("a watch is told twice", _set(Hub, "publish", _published_twice), _watched, 0),
        ("watches go on over a copy", _set(Hub, "interrupt", _no_interrupt), _copies, 0),
        ("nodes expire early", _set(Lessor, "look", _expires_early), _leases, 0),
        ("nodes never expire", _set(Lessor, "look", _never_expires), _leases, 14),
        ("nodes are kept for ever by an election", _set(Countdown, "lead", _revives), _leases, 42),
        ("nodes expire by wall time", _set(Lessor, "look", _expires_by_wall_time), _wall_jumps, 0),
        (
            "a refreshed node expires",
            _set(Tree, "expire", _expires_what_got_another_ttl),
            _leases,
            89,
        ),
        (
            "a lease expires in spite of a renewal",
            _set(Leases, "at", _expires_what_was_renewed),
            _pair_leases,
            4,
        ),
        (
            "progress is told before the events",
            _set(Watch, "is_current", _progress_before_events),
            _pair_watched,
            0,
        ),
        (
            "v3 watches are not told of a copy",
            _set(Watches, "replaced", _no_replacement),
            _pair_watched_copies,
            0,
        ),
        ("request ids repeat in the next life", _set(Proposals, "__init__", _same_ids), _no_battery, 0),
        (
            "whether one joins to vote is decided where it asks",
            _set(MembershipChanges, "join", _decides_where_asked),
            _joining,
            0,
        ),
        (
            "a member is replaced though it answers",
            _set(MembershipChanges, "_objection_to_replacing", lambda *_: None),
            _thieves,
            0,
        ),
        (
            "a damaged member gets its identity again",
            _set(JoinService, "_decide", _same_identity),
            _thieves,
            6,
        ),
        (
            "a joiner is told who it is from an old list",
            _set(JoinService, "handle", _told_at_once),
            _thieves,
            27,
        ),
        (
            "a range is deleted key by key",
            _set(txn, "delete_range_steps", _ends_each_piece),
            _pieces,
            1,
        ),
        (
            "a read sees what a command has half done",
            _set(Mvcc, "range", _reads_what_is_half_done),
            _pieces,
            1,
        ),
        (
            "a directory is in sight until it is cleared away",
            _in_sight_until_cleared,
            _pieces_of_tree,
            4,
        ),
        (
            "a crash keeps what is half cleared away",
            _set(Machine, "_prepare", _commits_pieces),
            _pieces_of_tree,
            4,
        ),
        ("a digest tells pieces apart", _set(Machine, "go_on", _digests_pieces), _pieces, 1),
        (
            "a term that cannot be is taken over",
            _set(election, "MAX_TERMS_AHEAD", 1 << 61),
            _lied_to,
            0,
        ),
        (
            "the level rises when one member knows it",
            _set(Roster, "common_level", property(_some_know)),
            _upgraded,
            1,
        ),
        (
            "a command beyond the level is proposed",
            _set(Machine, "level_of", lambda _machine, _command: 1),
            _upgraded,
            1,
        ),
        (
            "everybody who joins is to vote",
            _set(members, "to_vote", lambda _members: 0),
            _joining,
            0,
        ),
        ("a digest begins anew at a start", _set(Machine, "load", _digest_begins_anew), _crashes, 0),
        (
            "a limit is counted up without an end",
            _set(V3Store, "range", _limit_overflows),
            _hostile,
            4,
        ),
        (
            "what may still happen is called refused",
            _set(Proposals, "expire", _wait_is_refusal),
            _partings,
            9,
        ),
    )
)


def verdict(mutant: Mutant, seed: int) -> str:
    """What is wrong with the run of this seed with the bug put; empty when nothing is found."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.put(patch)
        return verdict_without(mutant, seed)


def verdict_without(mutant: Mutant, seed: int) -> str:
    """The same for the same run of the code as it is, which must hold."""
    plan = plans.draw(Random(seed))  # noqa: S311 - repeatable
    mutant.profile(plan)
    try:
        World(seed, plan).run()
    except (AssertionError, InvariantBroken) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def seek(mutant: Mutant, seeds: int = SEEDS) -> tuple[int, str] | None:
    """The first seed that finds the bug and what it says, None if none of so many does."""
    for seed in range(seeds):
        found = verdict(mutant, seed)
        if found:
            return seed, found
    return None


def seek_all(jobs: int) -> Iterator[tuple[str, tuple[int, str] | None]]:
    """Each bug and the first seed that finds it, from seed 0 on, whatever the hints say."""
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_seek_at, range(len(MUTANTS)))


def _seek_at(place: int) -> tuple[str, tuple[int, str] | None]:
    mutant = MUTANTS[place]
    return mutant.name, seek(mutant)
