"""After a run: everything clients were told, before the judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.check import linear, pairs, revisions, watches
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
    pairs.judge(world.pairs.calls, world.ledger.pair_changes)
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
