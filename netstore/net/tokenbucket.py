"""Rate limits."""

from __future__ import annotations


class TokenBucket:
    """A token bucket: a burst of `most`, and `rate` more for each second that passes. Times are monotonic
    seconds.
    """

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, most: int, now: float, rate: float) -> None:
        self._most = most
        self._left = float(most)
        self._at = now
        self._rate = rate

    def spend(self, now: float, count: int = 1) -> bool:
        """Take `count` tokens, also if fewer are left, because the work is done already. Whether there
        were enough.
        """
        self._left = min(self._most, self._left + (now - self._at) * self._rate) - count
        self._at = now
        return self._left >= 0

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
