"""Deterministic entropy for tests."""

from __future__ import annotations

import random


class SeededEntropy:
    """The same numbers for the same seed (`seams.Entropy`)."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - repeatable

    def below(self, bound: int) -> int:
        return self._chance.randrange(bound)


class LowestEntropy:
    """Always the lowest number (`seams.Entropy`)."""

    def below(self, bound: int) -> int:
        assert bound > 0
        return 0
