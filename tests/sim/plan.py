"""What one seed does: every run draws its own cluster, its own cruelty and its own workload (swarm testing;
Groce and others, ISSTA 2012: runs that lack some faults reach states that runs with all of them never do).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

FAULTS = (
    "partition",
    "clog",
    "crash",
    "power",
    "fuse",
    "plug",
    "pause",
    "jump",
    "rot",
    "misdirect",
    "sync",
    "full",
    "slow",
    "transfer",
    "membership",
    "restart",
    "isolate",
)
"""What may happen while a run is under way; each run has some of them."""

MORE_OFTEN = {"membership": 3}
"""What is often not possible at the moment it is drawn."""


@dataclass(slots=True)
class Plan:
    """One run's choices. Times in seconds, rates per second."""

    size: int = 3
    duration: float = 8.0
    tick: float = 0.1
    election_ticks: int = 10
    snapshot_count: int = 10_000
    catch_up_entries: int = 5_000
    log_bytes: int = 0
    """What a log in memory may weigh; 0 for the program's own bound, which no run comes near."""
    segment_bytes: int = 16 * 1024
    commit_interval: float = 0.1
    time_limit: float = 7.0
    max_append_bytes: int = 1024 * 1024
    max_inflight: int = 256

    delay: float = 0.001
    loss: float = 0.0
    repeat: float = 0.0
    in_order: bool = True
    byte_form: bool = False
    copy_cut: float = 0.0
    """Chance that a state copy on its way is cut."""

    chores: float = 1.0
    """How much rarer or more often than in the daemon the log is looked at for entries to forget."""
    disk_latency: float = 0.001
    turn_delay: float = 0.0
    """How long a member may take to come to its turn: what arrives meanwhile is one batch."""
    linger: float = 0.001
    """How soon after a turn a leader tells of commits that nobody waits for."""
    skew: float = 0.0
    drift: float = 0.0
    no_battery: float = 0.0
    """Chance that a machine forgets the time when it is switched off."""

    faults: dict[str, float] = field(default_factory=dict)
    """Rate of each."""
    outage: bool = False
    """Once, everything stops at the same instant."""

    clients: int = 3
    keys: int = 4
    value_bytes: int = 0
    """Values are made at least this long."""
    think: float = 0.05
    patience: float = 3.0
    sticky: float = 0.9
    """Chance that a client stays with its member."""
    pair_clients: int = 0
    """Clients of the v3 keys."""
    pair_watchers: int = 0
    """Streams of v3 watches."""
    lease_clients: int = 0
    """Clients of v3 leases."""
    watchers: int = 2
    burst: int = 0
    """Writes made at once, in the middle of the run."""
    joiners: int = 0
    """Programs that join; then nobody else adds members, and no disk is damaged."""
    wish: int = 3
    """How many are to vote, as members are told when they start."""
    join_spread: float = 0.0
    """Seconds within which all of them ask."""
    join_operations: int = 0
    """How often an operator promotes, moves or loses a member meanwhile, or a thief asks for its place."""

    piecewise: bool = False
    """Commands that may be done in pieces are, with a turn between any two."""
    hostile: int = 0
    """Clients that send values at the edges of what a command admits."""
    pair_ranges: float = 0.0
    """Chance that a client of the v3 keys deletes all of them at once."""
    lies: float = 0.0
    """Chance that a message comes twice, first in a term that nobody can have come to."""
    upgrades: bool = False
    """Members are restarted one by one as a later release, whose command clients ask for all along."""

    mix: dict[str, int] = field(default_factory=dict)
    """Weight of each kind of operation."""


def draw(random: Random) -> Plan:
    """The plan of a run. Sizes are such that it costs a fraction of a second."""
    choose, chance = random.choice, random.random
    plan = Plan()
    plan.size = choose((1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7))
    plan.duration = choose((2.0, 3.0, 4.0, 6.0)) if plan.size <= 5 else 3.0
    if chance() < 0.015:
        plan.duration = choose((30.0, 45.0))
    plan.election_ticks = choose((3, 5, 10, 10))
    plan.tick = choose((0.05, 0.1, 0.1))
    if chance() < 0.6:
        plan.catch_up_entries = choose((0, 2, 10, 40))
        plan.snapshot_count = choose((1, 5, 20, 60))
    plan.chores = choose((0.1, 0.3, 1.0))
    plan.segment_bytes = choose((1024, 4096, 16 * 1024, 1024 * 1024))
    plan.commit_interval = choose((0.01, 0.1, 0.1, 0.5, 2.0))
    plan.time_limit = choose((1.0, 3.0, 7.0))
    plan.max_append_bytes = choose((100, 2_000, 1024 * 1024))
    plan.max_inflight = choose((1, 4, 256))

    plan.delay = choose((0.0005, 0.001, 0.005, 0.02))
    plan.loss = choose((0.0, 0.0, 0.01, 0.05, 0.3))
    plan.repeat = choose((0.0, 0.0, 0.02, 0.3))
    plan.in_order = chance() < 0.5
    if plan.loss or not plan.in_order:
        # A long stream out of order is rejected message by message, and each rejection starts it anew. The
        # real stream between members keeps order.
        plan.max_inflight = min(plan.max_inflight, 8)
    plan.byte_form = chance() < 0.1
    plan.copy_cut = choose((0.0, 0.2, 0.6))
    plan.disk_latency = choose((0.0002, 0.001, 0.001, 0.005, 0.02))
    plan.turn_delay = choose((0.0, 0.0, 0.0, 0.002))
    if chance() < 0.4:
        plan.skew = choose((0.5, 10.0, 3600.0))
        plan.drift = choose((0.0, 0.01, 0.1))
    plan.no_battery = choose((0.0, 0.0, 0.5))

    wanted = random.sample(FAULTS, random.randrange(4, 9))
    if chance() < 0.05:
        wanted = []
    for name in FAULTS:
        if name in wanted:
            plan.faults[name] = choose((0.1, 0.3, 0.6)) * MORE_OFTEN.get(name, 1)
    plan.outage = chance() < 0.2

    plan.clients = random.randrange(2, 7)
    plan.keys = random.randrange(1, 6)
    plan.think = choose((0.005, 0.03, 0.1))
    if plan.size >= 5:
        plan.think = max(plan.think, 0.03)
    plan.patience = choose((0.5, 2.0, 5.0))
    plan.sticky = choose((0.0, 0.8, 0.98))
    plan.watchers = random.randrange(4)
    plan.value_bytes = choose((0, 0, 0, 600, 2_500))
    if chance() < 0.04:
        plan.burst = 1_050
        plan.max_append_bytes = max(plan.max_append_bytes, 2_000)
    for name, weight in (
        ("set", 4),
        ("create", 2),
        ("update", 1),
        ("swap", 3),
        ("swap_at", 1),
        ("delete", 2),
        ("delete_if", 1),
        ("in_order", 1),
        ("lease", 2),
        ("refresh", 1),
        ("tree", 1),
        ("prune", 1),
        ("get", 4),
        ("quorum_get", 2),
        ("local_get", 2),
        ("list", 1),
    ):
        plan.mix[name] = weight if chance() < 0.75 else 0
    plan.mix["set"] = max(plan.mix["set"], 1)
    plan.pair_clients = choose((0, 0, 1, 2))
    plan.pair_watchers = choose((0, 1, 3)) if plan.pair_clients else 0
    plan.lease_clients = choose((0, 0, 1, 3))
    plan.piecewise = chance() < 0.3
    if chance() < 0.08:
        join(plan, random)
    elif chance() < 0.08:
        attack(plan, random)
    plan.pair_ranges = choose((0.0, 0.0, 0.1))
    plan.lies = choose((0.0, 0.0, 0.0, 0.003))
    if not plan.joiners and not plan.hostile and chance() < 0.1:
        upgrade(plan)
    if plan.value_bytes and chance() < 0.5:
        plan.log_bytes = choose((100_000, 400_000))
    plan.linger = choose((0.0, 0.001, 0.005, 0.05))
    return plan


def upgrade(plan: Plan) -> None:
    """Make it a run in which members are upgraded; who they are does not change meanwhile."""
    plan.upgrades = True
    for name in ("membership", "rot", "misdirect"):
        plan.faults.pop(name, None)


def join(plan: Plan, random: Random) -> None:
    """Make it a run in which programs join."""
    choose = random.choice
    plan.size = choose((1, 1, 2, 3))
    plan.joiners = choose((2, 5, 9))
    # They go on asking when the faults stop: what they ask must fit through the network, or nothing commits.
    plan.max_append_bytes = max(plan.max_append_bytes, 2_000)
    plan.wish = choose((1, 3, 3, 3, 5))
    plan.join_spread = choose((0.0, 0.01, 1.0))
    plan.join_operations = choose((0, 0, 6))
    plan.duration = min(max(plan.duration, 3.0), 6.0)
    plan.hostile, plan.burst, plan.value_bytes = 0, 0, 0
    plan.think = max(plan.think, 0.03)
    plan.faults = {
        name: rate for name, rate in plan.faults.items() if name not in {"membership", "rot", "misdirect"}
    }


def attack(plan: Plan, random: Random) -> None:
    """Make it a run in which clients send what no honest one does."""
    plan.hostile = random.choice((1, 2, 4))
    plan.joiners, plan.burst, plan.lease_clients = 0, 0, 0
    plan.think = max(plan.think, 0.03)
    plan.max_append_bytes = 1024 * 1024
