"""Runs of the simulated cluster."""

from __future__ import annotations

import pytest

from tests.sim.world import World


@pytest.mark.parametrize("seed", range(20))
def test_a_run_breaks_no_promise(seed: int) -> None:
    World(seed).run()
