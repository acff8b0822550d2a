"""How much Python's collector of cycles looks through at once, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.support.daemon import ROOT

GROWS: Final = """
import gc
from netstore import collector

collector.bound()
collector.bound()
registered = len(gc.callbacks)
most = rounds = 0

def look(phase, info):
    global most, rounds
    if phase == "start" and info["generation"] == 2:
        rounds += 1
        most = max(most, len(gc.get_objects(generation=2)))

gc.callbacks.append(look)
kept = [[] for _ in range(1_000)]
for step in range(300):
    for number in range(1_000):
        kept[number].append([number])
print(most, rounds, registered)
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector takes small steps")
def test_what_got_old_is_not_looked_through_again() -> None:
    run = subprocess.run(
        (sys.executable, "-c", GROWS), cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    most, rounds, registered = map(int, run.stdout.split())
    assert most <= 30_000
    assert rounds >= 5, "the oldest generation was looked through at all"
    assert registered == 1
