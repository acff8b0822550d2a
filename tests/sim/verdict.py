"""After a run: everything clients were told, before the judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.timekeeper import EXPIRE_SECONDS
from netstore.state.countdown import RETRY_SECONDS
from netstore.state.v3.commands import Compact
from tests.check import linear, pairs, revisions, v3leases, v3watches, watches
from tests.check.history import Fate
from tests.check.registers import register_histories
from tests.sim.workload import REGISTERS

if TYPE_CHECKING:
    from tests.sim.world import World


def judge(world: World) -> None:
    """Wrong when a history breaks a promise."""
    load = world.workload
    if not world.ledger.events:
        world.ledger.replay()
    events = world.ledger.events
    revisions.judge(load.operations, events)
    changes = world.ledger.pair_changes
    pairs.judge(world.pairs.calls, [change for change in changes if b"k" <= change.key < b"l"])
    _judge_pair_watches(world)
    _judge_leases(world)
    world.reach["pair_calls_judged"] += len(world.pairs.calls)
    for key, history in register_histories(load.operations, REGISTERS):
        linear.judge(key, history)
        world.reach["calls_searched"] += len(history)
    here: dict[int, tuple[int, int]] = {
        member.id: (member.life, member.machine.tree.index) for member in world.running()
    }
    watches.judge(load.watches, events, here)
    world.reach["changes_judged"] += len(events)
    world.reach["watches_judged"] += len(load.watches)
    for operation in load.operations:
        world.reach[f"operations_{operation.fate.value}"] += 1
    world.reach["operations_unknown"] += sum(each.fate is Fate.OPEN for each in load.operations)
    world.reach["watch_events"] += sum(len(watch.given) for watch in load.watches)


def _judge_pair_watches(world: World) -> None:
    watched = world.pair_watches.watches
    ledger = world.ledger
    compactions = {step.command.revision for step in ledger.steps if isinstance(step.command, Compact)}
    here: dict[int, tuple[int, int]] = {
        member.id: (member.life, member.machine.mvcc.revision)
        for member in world.running()
        if not member.busy
    }
    told = v3watches.judge(watched, ledger.pair_changes, compactions, here)
    world.reach["pair_watch_events"] += told
    world.reach["pair_watches_judged"] += len(watched)


def _judge_leases(world: World) -> None:
    plan = world.plan
    rates = [member.clock.rate for member in world.members.values()]
    # The looks at the clock that begin and end the count, an end proposed in vain, the way through the log.
    late = 2 * EXPIRE_SECONDS + RETRY_SECONDS + plan.election_ticks * plan.tick + 1.0 + 20 * plan.disk_latency
    bounds = v3leases.Bounds(min(rates), max(rates), late, world.calm_since)
    ends = v3leases.judge(world.lease_load.calls, world.ledger.steps, bounds)
    for how, count in ends.items():
        world.reach[f"leases_{how}"] += count
