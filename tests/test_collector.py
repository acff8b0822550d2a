"""How many objects the garbage collector traverses in one piece, measured in a separate process."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import seconds

LOOKS: Final = """
import gc
from netstore.collector import Collector

class Clock:
    now = 0.0
    def __call__(self):
        return self.now

clock = Clock()
collector = Collector(clock)
collector.begin()
collector.begin()
registered = len(gc.callbacks)
most = [0, 0, 0]
rounds = [0, 0, 0]

def look(phase, info):
    generation = info["generation"]
    if phase == "start":
        rounds[generation] += 1
        looked = sum(len(gc.get_objects(generation=each)) for each in range(generation + 1))
        most[generation] = max(most[generation], looked)
        clock.now += looking

gc.callbacks.append(look)
looking = 0.0
"""

GROWS: Final = """
kept = [[] for _ in range(1_000)]
for step in range(300):
    for number in range(1_000):
        kept[number].append([number])
print(most[2], rounds[2], registered)
"""

RENEWED: Final = """
from collections import deque
kept = deque(([] for _ in range(100_000)))
gc.collect()
gc.freeze()
most[:] = rounds[:] = 0, 0, 0
for step in range(300_000):
    kept.append([])
    kept.popleft()
    if step % 1_000 == 0:
        collector.worked(0.0031)
collector.end()
collector.end()
print(most[0], rounds[0], len(gc.callbacks))
"""

LONG_LOOKS: Final = """
looking = 0.0003
collector.worked(0.0)
kept = []
most[:] = rounds[:] = 0, 0, 0
frozen = gc.get_freeze_count()
for step in range(8):
    kept.extend([] for _ in range(500))
    collector.worked(0.0031)
print(rounds[0], gc.get_freeze_count() - frozen, rounds[1] + rounds[2])
"""


PAUSED: Final = """
from netstore.collector import paused
gc.set_threshold(700, 10, 10)
most[:] = rounds[:] = 0, 0, 0
with paused():
    kept = [[] for _ in range(100_000)]
within, frozen = sum(rounds), gc.get_freeze_count()
gc.collect()
print(within, frozen, most[2], int(gc.isenabled()))
"""


def _run(program: str) -> tuple[int, ...]:
    run = subprocess.run(
        (sys.executable, "-c", LOOKS + program),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds(60),
    )
    return tuple(map(int, run.stdout.split()))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector takes small steps")
def test_old_objects_are_not_traversed_again() -> None:
    most, rounds, registered = _run(GROWS)
    assert most <= 30_000
    assert rounds >= 5, "the oldest generation was collected"
    assert registered == 1


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector takes small steps")
def test_the_youngest_generation_is_collected_by_work_done() -> None:
    """The interpreter counts allocations less deallocations: here it would never collect."""
    most, rounds, registered = _run(RENEWED)
    assert most <= 5_000
    assert rounds >= 299
    assert registered == 1, "only the callback of this test, once the collector has ended"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector takes small steps")
def test_objects_are_frozen_early_if_collecting_takes_long() -> None:
    rounds, frozen, older = _run(LONG_LOOKS)
    assert rounds == 8
    assert frozen >= 4_000
    assert older == 0, "nothing was traversed twice"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector takes small steps")
def test_what_is_made_while_it_is_paused_is_never_traversed() -> None:
    within, frozen, most, is_enabled = _run(PAUSED)
    assert within == 0
    assert frozen >= 100_000
    assert most <= 5_000
    assert is_enabled
