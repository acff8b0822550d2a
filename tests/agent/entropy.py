"""Deterministic entropy for tests."""

from __future__ import annotations


class LowestEntropy:
    """Always the lowest number (`seams.Entropy`)."""

    def below(self, bound: int) -> int:
        assert bound > 0
        return 0
