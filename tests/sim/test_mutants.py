"""Every known bug is found: by the seed that is known to find it, or by one of the first 200."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, SEEDS, Mutant, seek, verdict, verdict_without


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_known_bug_is_found(mutant: Mutant) -> None:
    seed, text = mutant.hint, verdict(mutant, mutant.hint)
    if not text:
        found = seek(mutant)
        assert found is not None, f"not found by any of the seeds below {SEEDS}"
        seed, text = found
    assert "TypeError" not in text, "the patch does not fit what it patches"
    assert "AttributeError" not in text, "same"
    without = verdict_without(mutant, seed)
    assert not without, f"seed {seed} also fails without the bug: {without}"


def test_bugs_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
