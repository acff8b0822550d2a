"""Every known bug is found: by the seed that is known to find it, or by one of the first 200."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, SEEDS, Mutant, seek, verdict, verdict_without

OUTDATED = ("TypeError(", "AttributeError(", "NameError(")
"""What a patch raises that was made for an earlier form of the code."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_known_bug_is_found(mutant: Mutant) -> None:
    seed = mutant.hint
    found = verdict(mutant, seed)
    if not found:
        sought = seek(mutant)
        assert sought is not None, f"not found by any of the seeds below {SEEDS}"
        seed, found = sought
    assert not any(fault in found for fault in OUTDATED), f"the patch no longer fits the code: {found}"
    without = verdict_without(mutant, seed)
    assert not without, f"seed {seed} also fails without the bug: {without}"


def test_bugs_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
