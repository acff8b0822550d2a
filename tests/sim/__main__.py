"""Campaigns and single seeds from the command line:

python -m tests.sim --seeds 20000              a campaign from seed 0 on; the same command resumes it,
python -m tests.sim --seed 4711 --trace        one seed, with every line of its trace
python -m tests.sim --mutants                  each known bug put back, sought from seed 0 on
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from tests.sim import mutants
from tests.sim.campaign import Campaign, run
from tests.sim.world import World

RECORDS: Final = Path("build/sim")
ENOUGH: Final = 500
"""Seeds of a campaign that reaches everything."""


def main() -> int:
    """Exit code 1 when a promise was broken, something was not reached, or a known bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulated clusters.")
    parser.add_argument("--seeds", type=int, default=ENOUGH, help="how many seeds a campaign runs")
    parser.add_argument("--base", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happened")
    parser.add_argument("--mutants", action="store_true", help="prove that known bugs are found")
    asked = parser.parse_args()
    if asked.mutants:
        return _seek_mutants(asked.jobs)
    if asked.seed is not None:
        return _run_one(asked.seed, trace=asked.trace)
    return _run_campaign(asked.base, asked.seeds, asked.jobs)


def _run_campaign(base: int, seeds: int, jobs: int) -> int:
    record = RECORDS / f"from-{base}.json"
    campaign = Campaign.resume(base, seeds, record)
    campaign.go(jobs, record)
    for name, count in sorted(campaign.reach.items()):
        _say(f"{count:>12,} {name}")
    slowest, seed = campaign.slowest
    rate = campaign.done / max(campaign.seconds, 1e-9)
    _say(f"{campaign.done:,} runs from seed {base}, {rate:.1f} a second and core")
    _say(f"the slowest took {slowest:.1f} s (seed {seed}), a process at most {campaign.peak_bytes >> 20} MiB")
    for seed, why in sorted(campaign.failures.items()):
        _say(f"failed: seed {seed}: {why}\n  repeat it: python -m tests.sim --seed {seed} --trace")
    unreached = campaign.unreached()
    if unreached:
        _say(_never_reached(unreached, seeds))
    return 1 if campaign.failures or unreached else 0


def _never_reached(names: list[str], seeds: int) -> str:
    """What counts as a failure, and what to do about it."""
    listed = f"never reached: {', '.join(names)} (see tests/sim/campaign.py)"
    if seeds < ENOUGH:
        return f"{listed}\ntoo few runs to reach all; use SEEDS={ENOUGH} or more: only then is this a fault"
    return f"{listed}\nplans or code have changed, so that the simulator proves nothing about these any more"


def _run_one(seed: int, *, trace: bool) -> int:
    if not trace:
        failure = run(seed).failure
        _say(failure or "no promise was broken")
        return 1 if failure else 0
    world = World(seed, trace=True)
    assert world.trace is not None
    _say(str(world.plan))
    try:
        world.run()
    finally:
        for line in world.trace:
            _say(line)
    return 0


def _seek_mutants(jobs: int) -> int:
    missed = 0
    for name, found in mutants.seek_all(jobs):
        if found is None:
            missed += 1
            _say(f"{name}: NOT FOUND by {mutants.SEEDS} seeds")
        else:
            seed, why = found
            _say(f"{name}: found by seed {seed}: {why.partition(':')[2][:90].strip()}")
    return 1 if missed else 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    sys.exit(main())
