"""How often something may be done: a burst, and a rate for long."""

from __future__ import annotations


class TokenBucket:
    """So many in one go, and `rate` more for every second that passes (a token bucket). Monotonic seconds."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, most: int, now: float, rate: float) -> None:
        self._most = most
        self._left = float(most)
        self._at = now
        self._rate = rate

    def spend(self, now: float, count: int = 1) -> bool:
        """Whether that many were left. They are taken in any case: what was done was done."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate) - count
        self._at = now
        return self._left >= 0

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
