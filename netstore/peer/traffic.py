"""What is measured of the communication with other members."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Messages to and from other members since this one started; snapshots are not counted."""

    appends_received: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    appends_sent: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class RoundTrip:
    """Round-trip time to one member in seconds, as measured by pings since this member started, and how often
    dialing it failed.
    """

    successes: int = 0
    failures: int = 0
    current: float = 0.0
    average: float = 0.0
    least: float = 0.0
    most: float = 0.0
    _squares: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._squares / self.successes) if self.successes else 0.0

    def add(self, seconds: float) -> None:
        """Record a measurement (Welford's running sums)."""
        self.successes += 1
        apart = seconds - self.average
        self.current = seconds
        self.average += apart / self.successes
        self._squares += apart * (seconds - self.average)
        self.least = min(self.least, seconds) if self.successes > 1 else seconds
        self.most = max(self.most, seconds)
