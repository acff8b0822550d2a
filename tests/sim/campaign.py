"""Many runs: what came of each, what they reached together, and a record that a campaign can be resumed from.

A run that breaks nothing proves something only if it went through what can break. So what was reached is
counted, and a campaign in which one of `REACHED` stayed at zero fails like one with a broken promise.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REACHED: Final = (
    # Raft
    "elections",
    "transfers",
    "reads_by_read_index",
    "copies_sent",
    "copies_cut",
    "copies_received",
    "replacements_finished",
    "compactions",
    "ticks_paced",
    # membership
    "membership_changes",
    "membership_learn",
    "membership_promote",
    "membership_vote",
    "membership_remove",
    "membership_replace",
    "membership_demote",
    "membership_exchange",
    "membership_leader_remove",
    "membership_repair",
    "members_joined",
    "joined_to_vote",
    "joined_to_learn",
    "joins_settled",
    "applications_refused",
    "applications_forgotten",
    "replacements_refused",
    "replacements_of_the_silent",
    "member_requests_done",
    "member_requests_refused",
    # machines
    "crashes",
    "crashes_between_effects",
    "crashes_in_a_write",
    "outages",
    "orderly_stops",
    "restarts",
    "pauses",
    "clock_jumps",
    # disks
    "tails_cut",
    "rot",
    "misdirected",
    "damage_refused",
    "damage_harmless",
    "full_disks",
    "short_disks",
    "slow_disks",
    "failed_syncs",
    "members_ended_by_their_disk",
    # the network
    "messages_lost",
    "messages_repeated",
    "partitions",
    "clogged",
    # clients
    "operations_answered",
    "operations_refused",
    "operations_unknown",
    "turns_amid_a_command",
    "lone_syncs",
    "lone_syncs_among_voters",
    "commits_told_late",
    "lies_refused",
    "members_upgraded",
    "later_commands_refused",
    "later_commands_done",
    "extreme_commands",
    "extreme_reads",
    "extremes_taken",
    "extremes_refused",
    "ttl_expired",
    "bursts",
    "pair_calls_answered",
    "pair_compactions",
    "pair_watch_events",
    "pair_progress",
    "pair_watches_resumed",
    "pair_watches_compacted",
    "leases_granted",
    "leases_renewed",
    "leases_revoked",
    "leases_expired",
    "leases_extended",
    "watch_events",
    "watches_cleared",
    "watches_ended",
    # judges
    "changes_judged",
    "calls_searched",
    "watches_judged",
    "pair_calls_judged",
    "pair_watches_judged",
    "recovered",
)
"""What each campaign must have gone through at least once."""

BLOCK: Final = 100
"""Seeds between two looks at the record."""

WORKER_BYTES: Final = 500 * 1024 * 1024
"""Memory of one process. A run that needs more fails like any other: nothing in a member may grow so far."""

SPOKEN_SECONDS: Final = 20.0


@dataclass(slots=True)
class Run:
    """What came of one seed."""

    seed: int
    reach: Counter[str]
    seconds: float
    failure: str = ""
    """Empty when no promise was broken."""


def run(seed: int) -> Run:
    """Run one seed. Whatever goes wrong in it is a failure of the seed."""
    began = time.process_time()
    world = World(seed)
    failure = ""
    try:
        world.run()
    except Exception as error:  # noqa: BLE001 - told with its place, and the next seed goes on
        place = traceback.extract_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    return Run(seed, world.reach, time.process_time() - began, failure)


def bound_memory() -> None:
    """For a process that runs seeds and nothing else."""
    resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))


def run_all(seeds: Iterable[int], jobs: int) -> Iterator[Run]:
    """Run seeds in processes of their own, as many at a time as there are jobs; in any order."""
    with get_context("spawn").Pool(jobs, bound_memory) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=4)


@cache
def code_digest() -> str:
    """What the runs execute: a digest of the package's sources and the simulator's."""
    root = Path(__file__).resolve().parents[2]
    digest = sha256()
    for path in sorted((*root.glob("netstore/**/*.py"), *root.glob("tests/sim/**/*.py"))):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(slots=True)
class Campaign:
    """Seeds from `base` on, and what came of those that were run."""

    base: int
    seeds: int
    done: int = 0
    seconds: float = 0.0
    """Processor time of all runs."""
    slowest: tuple[float, int] = (0.0, 0)
    peak_bytes: int = 0
    """Most memory a process of this campaign had."""
    reach: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    @classmethod
    def resume(cls, base: int, seeds: int, record: Path) -> Campaign:
        """Go on where the record left, if it is one of this campaign and of the code as it is now."""
        campaign = cls(base, seeds)
        if record.exists():
            kept = json.loads(record.read_text())
            if kept["base"] == base and kept.get("code") == code_digest():
                campaign.done = min(kept["done"], seeds)
                campaign.seconds = kept["seconds"]
                campaign.slowest = tuple(kept["slowest"])
                campaign.peak_bytes = kept["peak_bytes"]
                campaign.reach.update(kept["reach"])
                campaign.failures = {int(seed): why for seed, why in kept["failures"].items()}
        return campaign

    def save(self, record: Path) -> None:
        """Write the record, whole or not at all."""
        record.parent.mkdir(parents=True, exist_ok=True)
        part = record.with_suffix(".part")
        kept = {
            "base": self.base,
            "code": code_digest(),
            "done": self.done,
            "seconds": round(self.seconds, 3),
            "slowest": self.slowest,
            "peak_bytes": self.peak_bytes,
            "reach": dict(sorted(self.reach.items())),
            "failures": self.failures,
        }
        part.write_text(json.dumps(kept, indent=1))
        part.rename(record)

    def go(self, jobs: int, record: Path) -> None:
        """Run what is left, block by block."""
        began = spoke = time.monotonic()
        resumed = self.done
        with get_context("spawn").Pool(jobs, bound_memory) as pool:
            while self.done < self.seeds:
                first = self.base + self.done
                count = min(BLOCK, self.seeds - self.done)
                for result in pool.imap_unordered(_run_measured, range(first, first + count), chunksize=4):
                    self._take(*result)
                self.done += count
                self.save(record)
                now = time.monotonic()
                if now - spoke > SPOKEN_SECONDS or self.done == self.seeds:
                    spoke = now
                    left = (now - began) / (self.done - resumed) * (self.seeds - self.done)
                    _say(f"{self.done} of {self.seeds} runs, {len(self.failures)} failed, {left:.0f} s to go")

    def unreached(self) -> list[str]:
        """What no run went through."""
        return [name for name in REACHED if not self.reach[name]]

    def _take(self, result: Run, peak_bytes: int) -> None:
        self.reach.update(result.reach)
        self.seconds += result.seconds
        self.slowest = max(self.slowest, (round(result.seconds, 3), result.seed))
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        if result.failure:
            self.failures[result.seed] = result.failure
            _say(f"seed {result.seed} failed: {result.failure}")


def _run_measured(seed: int) -> tuple[Run, int]:
    return run(seed), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a campaign tells how far it is
